//! Reports names that are no option: unknown sections and options of the file, which are problems,
//! and misspelt variables, which are warnings.
//!
//! A warning costs a log line; a variable that is silently ignored can cost an outage. Other
//! programs share the environment, so a warning needs a reason: the name is close to one of the
//! relay's, or has a prefix that only the relay uses.

use std::collections::BTreeSet;

use strsim::osa_distance;

use super::ini_file::Header;
use super::problems::Place;
use super::reader::Reader;
use super::sections::database::DatabaseKind;
use super::table::{self, Effect, Row, SECTIONS, Section, datadog, environment, filters};

/// Prefixes of names that belong to this relay or to LaunchDarkly.
const OWN_BEGINNINGS: [&str; 8] = [
    "LD_",
    "AUTO_CONFIG_",
    "LOCAL_STORE_",
    "ENV_DATASTORE_",
    "ENV_ALLOWED_",
    "EVENTS_",
    "LAUNCHDARKLY_",
    "PILOTLIGHT_",
];

/// Variables of the dynamic linker, which also begin with `LD_`.
const OF_THE_LINKER: &str = "\
    LD_ASSUME_KERNEL LD_AUDIT LD_BIND_NOT LD_BIND_NOW LD_CONFIG LD_DEBUG LD_DEBUG_OUTPUT \
    LD_DYNAMIC_WEAK LD_HWCAP_MASK LD_LIBRARY_PATH LD_LIBRARY_PATH_64 LD_ORIGIN_PATH \
    LD_POINTER_GUARD LD_PREFER_MAP_32BIT_EXEC LD_PRELOAD LD_PROFILE LD_PROFILE_OUTPUT LD_RUN_PATH \
    LD_SHOW_AUXV LD_TRACE_LOADED_OBJECTS LD_USE_LOAD_BIAS LD_VERBOSE";

/// Prefixes that operators add to names of the relay that have none.
const NAMES_OF_THE_RELAY: [&str; 5] =
    ["RELAY_", "LDRELAY_", "LD_RELAY_", "LAUNCHDARKLY_RELAY_", "PILOTLIGHT_"];

/// Units that operators append to the name of a variable whose value has a unit.
const UNITS: [&str; 9] =
    ["_MS", "_MILLIS", "_SEC", "_SECS", "_SECONDS", "_MIN", "_MINS", "_MINUTES", "_HOURS"];

/// Reports everything in the file that is not in the table.
pub(super) fn report_unknown(reader: &mut Reader<'_>) {
    let Some(file) = reader.file() else { return };
    let mut found: Vec<(usize, String, &str, String)> = Vec::new();
    let section_of =
        |header: &Header| SECTIONS.iter().find(|it| it.name.eq_ignore_ascii_case(&header.name));
    for header in &file.headers {
        let (what, allowed) = match section_of(header) {
            None => ("unknown section", sorted(SECTIONS.iter().map(|section| section.name))),
            Some(Section { named_by: None, name, .. }) if header.subsection.is_some() => {
                ("this section takes no name", format!("[{name}]"))
            }
            Some(_) => continue,
        };
        found.push((header.line, header.to_string(), what, allowed));
    }
    for assignment in &file.assignments {
        let header = &file.headers[assignment.header];
        let Some(section) = section_of(header) else { continue };
        let rows = section.rows.iter().map(|option| option.row());
        let names: Vec<(&str, Effect)> =
            rows.filter_map(|row| Some((row.option?, row.effect))).collect();
        if !names.iter().any(|(name, _)| name.eq_ignore_ascii_case(&assignment.option)) {
            let current = names.iter().filter(|(_, effect)| *effect != Effect::Retired);
            let allowed = sorted(current.map(|(name, _)| *name));
            let name = format!("{header} {}", assignment.option);
            found.push((assignment.line, name, "unknown option", allowed));
        }
    }
    let path = file.path.clone();
    for (line, name, what, allowed) in found {
        reader.problem(Place::Line { file: path.clone(), line, name }, what, Some(&allowed));
    }
}

fn sorted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<BTreeSet<&str>>().into_iter().collect::<Vec<&str>>().join(", ")
}

/// Warns of variables that seem to be for this relay but have no effect.
pub(super) fn warn(reader: &mut Reader<'_>, databases: &[DatabaseKind]) {
    let environments = reader.names_of(&environment::LD_ENV_);
    for variable in reader.family("") {
        // Container platforms set such values for a service of any name, also for that of the
        // relay.
        let value = reader.process_variable(&variable).unwrap_or_default();
        if variable.ends_with("_PORT") && value.contains("://") {
            continue;
        }
        if let Some(what) = slip(&variable, &environments, databases) {
            reader.warning(Place::Variable(variable), format!("has no effect: {what}"));
        }
    }
}

/// The prefixes of variables that configure an environment without defining it.
fn families() -> impl Iterator<Item = &'static str> {
    let rows = environment::ROWS.iter().map(|option| option.row());
    rows.filter(|row| row.name() != environment::LD_ENV_.name()).filter_map(|row| row.variable)
}

/// Rows whose variable is a single one and not a family, in the names that operators use today.
fn single() -> impl Iterator<Item = (&'static str, &'static Row)> {
    let current = table::rows().filter(|row| {
        row.effect != Effect::Retired && (row.option.is_some() || row.effect != Effect::Never)
    });
    current
        .flat_map(|row| row.variables().map(move |name| (name, row)))
        .filter(|(name, _)| !name.ends_with('_'))
}

/// True for a variable that the relay reads, or whose meaning another check reports.
fn is_known(variable: &str) -> bool {
    let makers = [
        environment::LD_ENV_.variable,
        filters::LD_FILTER_KEYS_.variable,
        datadog::DATADOG_TAG_.variable,
    ];
    table::rows().any(|row| row.variables().any(|name| name == variable))
        || OF_THE_LINKER.split(' ').any(|name| name == variable)
        || makers.into_iter().flatten().any(|family| variable.starts_with(family))
}

/// The reason why a variable that seems to be for this relay has no effect.
fn slip(
    variable: &str,
    environments: &BTreeSet<String>,
    databases: &[DatabaseKind],
) -> Option<String> {
    if is_known(variable) {
        return None;
    }
    let names: Vec<&str> = families().filter_map(|family| variable.strip_prefix(family)).collect();
    if names.iter().any(|name| environments.contains(*name)) {
        return None;
    }
    if !names.is_empty() {
        return Some("there is no environment with this name".to_owned());
    }
    if let Some(name) = renamed_family(variable) {
        return Some(format!("the name of this variable is {name}"));
    }
    if is_link_of_any_service(variable) {
        return None;
    }
    let advice = table::rows().find(|row| {
        let is_wanted =
            databases.is_empty() || databases.iter().any(|it| it.to_string() == row.section);
        is_wanted && row.mistaken.0.contains(&variable)
    });
    if let Some(row) = advice {
        return Some(row.mistaken.1.to_owned());
    }
    let is_single = |wanted: &str| single().any(|(name, _)| name == wanted);
    let unit = UNITS.iter().find_map(|unit| variable.strip_suffix(unit));
    let of_unit = single().find(|(name, row)| Some(*name) == unit && !row.is_shared);
    if let Some((name, _)) = of_unit {
        return Some(format!(
            "the name of this variable is {name}, and the unit is part of the value, such as 30s"
        ));
    }
    let beginning = NAMES_OF_THE_RELAY.iter().find_map(|it| variable.strip_prefix(it));
    let near = beginning.filter(|name| is_single(name)).map(str::to_owned);
    if let Some(near) = near.or_else(|| nearest(variable, environments)) {
        return Some(format!("unknown variable; did you mean {near}?"));
    }
    let is_ours = OWN_BEGINNINGS.iter().any(|beginning| variable.starts_with(beginning));
    let of_a_database = databases
        .iter()
        .any(|database| variable.starts_with(&format!("{}_", database.to_string().to_uppercase())));
    let is_slip = is_ours || (of_a_database && !is_link(variable));
    is_slip.then(|| "unknown variable".to_owned())
}

/// The correct name of a variable if operators use another prefix for its family.
fn renamed_family(variable: &str) -> Option<String> {
    let rows = environment::ROWS.iter().map(|option| option.row());
    rows.filter_map(|row| Some((row.variable?, row.mistaken.0)))
        .flat_map(|(family, others)| others.iter().map(move |other| (family, other)))
        .find_map(|(family, other)| {
            let name = variable.strip_prefix(*other).filter(|name| !name.is_empty())?;
            Some(format!("{family}{name}"))
        })
}

/// True for a name that container platforms generate for a service of any name, such as `ld-relay`.
fn is_link_of_any_service(variable: &str) -> bool {
    let of_port = variable.split_once("_PORT_").map(|(_, after)| after);
    variable.ends_with("_SERVICE_HOST")
        || variable.contains("_SERVICE_PORT")
        || of_port.is_some_and(|after| after.starts_with(|first: char| first.is_ascii_digit()))
}

/// True for a name that container platforms generate for a service with the name of a database.
fn is_link(variable: &str) -> bool {
    variable.ends_with("_PORT") || variable.ends_with("_NAME") || variable.contains("_ENV_")
}

/// The relay's variable that is probably meant. A name close to one that other programs read as
/// well is a mistake only if it has the same letters, as `PROT` and `PORTT` have: `SORT`, `POST`
/// and `FTP_PROXY` belong to other programs.
fn nearest(variable: &str, environments: &BTreeSet<String>) -> Option<String> {
    let of_environments = families()
        .flat_map(|family| environments.iter().map(move |name| (format!("{family}{name}"), false)));
    single()
        .map(|(name, row)| (name.to_owned(), row.is_shared))
        .chain(of_environments)
        .filter_map(|(name, is_shared)| {
            // Short names are close to others that mean something else.
            let most = if name.len() < 8 && !is_shared { 1 } else { 2 };
            let distance = osa_distance(variable, &name);
            let is_near = distance <= most && (!is_shared || letters(variable) == letters(&name));
            is_near.then_some((distance, name))
        })
        .min()
        .map(|(_, name)| name)
}

/// The set of letters of a name.
fn letters(name: &str) -> BTreeSet<char> {
    name.chars().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_told_from_what_belongs_to_others() {
        let environments = ["shop", "MINUTES_x"].map(str::to_owned).into();
        let check = |variable: &str, databases: &[DatabaseKind], expected: Option<&str>| {
            let found = slip(variable, &environments, databases);
            assert_eq!(found.as_deref(), expected, "{variable}");
        };
        let unknown = Some("unknown variable");
        let none = Some("there is no environment with this name");
        for known in ["PORT", "LD_PREFIX_shop", "LD_TTL_MINUTES_x", "LD_ENV_new", "DATADOG_TAG_a"] {
            check(known, &[], None);
        }
        for of_others in [
            "LD_LIBRARY_PATH",
            "LD_PRELOAD",
            "PATH",
            "HOST",
            "SORT",
            "FTP_PROXY",
            "ALL_PROXY",
            "HTTP_HOST",
            "REDIS_DB",
            "REDIS_SERVICE_HOST",
            "CONSUL_HTTP_ADDR",
            "OTEL_SERVICE_NAME",
            "AWS_REGION",
            "TLS_CA",
            "HOSTNAME",
            "LOGNAME",
            "TERM",
            "PS1",
            "PWD",
            "OLDPWD",
            "SHLVL",
            "SHELL",
            "POST",
            "PORTS",
            "SPORT",
            "APP_PORT",
            "SERVER_PORT",
            "HTTP_PORT",
            "NODE_PORT",
            "TLS_CERT_FILE",
            "KUBERNETES_PORT",
            "KUBERNETES_PORT_443_TCP_PROTO",
            "KUBERNETES_SERVICE_HOST",
            "KUBERNETES_SERVICE_PORT_HTTPS",
            "RELAY_SERVICE_HOST",
            "RELAY_PORT_8030_TCP",
            "LD_RELAY_SERVICE_HOST",
            "LD_RELAY_SERVICE_PORT",
            "LD_RELAY_PORT_8030_TCP_ADDR",
            "PILOTLIGHT_SERVICE_PORT_HTTP",
            "AWS_PROFILE",
            "AWS_REGION_NAME",
            "PORT_SECS",
        ] {
            check(of_others, &[], None);
        }
        check("LD_PREFIX_cart", &[], none);
        check("LD_TTL_MINUTES_shop", &[], None);
        check("LD_TTL_MINUTES_cart", &[], none);
        check("LD_MOBILE_shop", &[], Some("the name of this variable is LD_MOBILE_KEY_shop"));
        check("LD_MOBILE_KEY_cart", &[], none);
        check("LD_SDK_KEY_shop", &[], Some("the name of this variable is LD_ENV_shop"));
        let near = |name: &str| format!("unknown variable; did you mean {name}?");
        for (variable, name) in [
            ("STREAM_URL", "STREAM_URI"),
            ("LOGLEVEL", "LOG_LEVEL"),
            ("AUTOCONFIG_KEY", "AUTO_CONFIG_KEY"),
            ("AUTO_CONFIG_CACHEKEY", "AUTO_CONFIG_CACHE_KEY"),
            ("USE_REDS", "USE_REDIS"),
            ("REDIS_URI", "REDIS_URL"),
            ("LD_PREFX_shop", "LD_PREFIX_shop"),
            ("INIT_TIMEOT", "INIT_TIMEOUT"),
            ("USE_EVENT", "USE_EVENTS"),
            ("DYNAMODB_TABEL", "DYNAMODB_TABLE"),
            ("PROT", "PORT"),
            ("PROTT", "PORT"),
            ("PORTT", "PORT"),
            ("POTR", "PORT"),
            ("HTTP_PORXY", "HTTP_PROXY"),
            ("AWS_REGOIN", "AWS_REGION"),
            ("RELAY_PORT", "PORT"),
            ("RELAY_LOG_LEVEL", "LOG_LEVEL"),
            ("LD_RELAY_PORT", "PORT"),
            ("PILOTLIGHT_REDIS_URL", "REDIS_URL"),
        ] {
            check(variable, &[], Some(&near(name)));
        }
        for ours in ["LD_RELAY_X", "AUTO_CONFIG_MAGIC", "LAUNCHDARKLY_SDK_KEY", "EVENTS_URI_X"] {
            check(ours, &[], unknown);
        }
        let in_value = |name: &str| {
            format!(
                "the name of this variable is {name}, and the unit is part of the value, such as 30s"
            )
        };
        for name in ["HEARTBEAT_INTERVAL", "INIT_TIMEOUT"] {
            check(&format!("{name}_SECS"), &[], Some(&in_value(name)));
        }
        let redis = [DatabaseKind::Redis];
        let of_redis = "the address of Redis is set by REDIS_URL, or REDIS_HOST and REDIS_PORT, \
                        together with USE_REDIS=true";
        check("REDIS_ADDR", &[], Some(of_redis));
        check("REDIS_ADDR", &redis, Some(of_redis));
        check("REDIS_ADDR", &[DatabaseKind::Consul], None);
        check("REDIS_DB", &redis, unknown);
        check("CONSUL_HTTP_ADDR", &redis, None);
        for link in [
            "REDIS_SERVICE_HOST",
            "REDIS_SERVICE_PORT_TLS",
            "REDIS_PORT_6379_TCP",
            "REDIS_PORT_6379_TCP_ADDR",
            "REDIS_MASTER_PORT",
            "REDIS_NAME",
            "REDIS_ENV_VERSION",
        ] {
            check(link, &redis, None);
        }
    }
}
