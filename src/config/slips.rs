//! Names that look like options of this relay and are none: misspelt variables, and options that
//! ld-relay v5 to v7 had.
//!
//! A warning costs a line in a log, a variable that is silently ignored can cost an outage. Other
//! programs share the environment, so a warning needs a reason: the name is close to one of ours,
//! or begins as only ours do.

use std::collections::BTreeSet;

use super::env_vars as var;
use super::problems::Place;
use super::reader::Reader;
use super::sections::database::DatabaseKind;
use super::sections::environments::{self, FAMILIES};

/// Beginnings of names that belong to this relay or to LaunchDarkly.
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

/// Names of the dynamic linker, which begin like ours.
const OF_THE_LINKER: [&str; 22] = [
    "LD_ASSUME_KERNEL",
    "LD_AUDIT",
    "LD_BIND_NOT",
    "LD_BIND_NOW",
    "LD_CONFIG",
    "LD_DEBUG",
    "LD_DEBUG_OUTPUT",
    "LD_DYNAMIC_WEAK",
    "LD_HWCAP_MASK",
    "LD_LIBRARY_PATH",
    "LD_LIBRARY_PATH_64",
    "LD_ORIGIN_PATH",
    "LD_POINTER_GUARD",
    "LD_PREFER_MAP_32BIT_EXEC",
    "LD_PRELOAD",
    "LD_PROFILE",
    "LD_PROFILE_OUTPUT",
    "LD_RUN_PATH",
    "LD_SHOW_AUXV",
    "LD_TRACE_LOADED_OBJECTS",
    "LD_USE_LOAD_BIAS",
    "LD_VERBOSE",
];

/// Names that other programs read as well. A name close to them is a slip of ours only if it has the
/// same letters, as `PROT` and `PORTT` have: `SORT`, `POST` and `FTP_PROXY` belong to others.
const SHARED: [&str; 11] = [
    var::HOME,
    var::STATE_DIRECTORY,
    var::XDG_STATE_HOME,
    var::HTTP_PROXY,
    var::HTTPS_PROXY,
    var::NO_PROXY,
    var::PORT,
    var::AWS_REGION,
    var::AWS_DEFAULT_REGION,
    var::AWS_CONFIG_FILE,
    var::AWS_SHARED_CREDENTIALS_FILE,
];

/// What operators write before a name of ours that has nothing before it.
const NAMES_OF_THE_RELAY: [&str; 5] =
    ["RELAY_", "LDRELAY_", "LD_RELAY_", "LAUNCHDARKLY_RELAY_", "PILOTLIGHT_"];

/// What operators write after a name of ours whose value has a unit.
const UNITS: [&str; 9] =
    ["_MS", "_MILLIS", "_SEC", "_SECS", "_SECONDS", "_MIN", "_MINS", "_MINUTES", "_HOURS"];

/// Names that operators expect for the address of a database, with those that it has here. Such a
/// variable may be for another program, so it counts only if no other database is enabled.
const ADDRESSES: [(DatabaseKind, &[&str], &str); 3] = [
    (
        DatabaseKind::Redis,
        &["REDIS_ADDR", "REDIS_ADDRESS", "REDIS_ENDPOINT", "REDIS_SERVER"],
        "the address of Redis is set by REDIS_URL, or REDIS_HOST and REDIS_PORT, together with \
         USE_REDIS=true",
    ),
    (
        DatabaseKind::Consul,
        &["CONSUL_ADDR", "CONSUL_ADDRESS", "CONSUL_URL"],
        "the address of Consul is set by CONSUL_HOST, together with USE_CONSUL=true",
    ),
    (
        DatabaseKind::DynamoDb,
        &["DYNAMODB_ADDR", "DYNAMODB_ADDRESS", "DYNAMODB_ENDPOINT"],
        "the address of DynamoDB is set by DYNAMODB_URL, together with USE_DYNAMODB=true",
    ),
];

/// Families that operators expect and that have another name here.
const OTHER_FAMILIES: [(&str, &str); 3] = [
    ("LD_MOBILE_", var::LD_MOBILE_KEY_),
    ("LD_SDK_KEY_", var::LD_ENV_),
    ("LD_CLIENT_ID_", var::LD_CLIENT_SIDE_ID_),
];

/// Options of the file that ld-relay v5, v6 or v7 had and v8 has not: section, option, and what the
/// operator should do. Checked against the sources of ld-relay 5.0.0 to 8.10.1.
const OLD_OPTIONS: [(&str, &str, &str); 7] = [
    (
        "Main",
        "heartbeatIntervalSecs",
        "ld-relay 6 renamed this option to heartbeatInterval; the value needs a unit, such as 180s",
    ),
    (
        "Main",
        "disableInternalUsageMetrics",
        "ld-relay 8 removed this option; delete the line. Pilotlight sends no usage metrics",
    ),
    (
        "Events",
        "flushIntervalSecs",
        "ld-relay 6 renamed this option to flushInterval; the value needs a unit, such as 5s",
    ),
    (
        "Events",
        "samplingInterval",
        "ld-relay 6 removed this option; delete the line. Events are not sampled",
    ),
    (
        "Environment",
        "ttlMinutes",
        "ld-relay 6 renamed this option to ttl; the value needs a unit, such as 5m",
    ),
    ("Environment", "apiKey", "ld-relay 6 removed this option; use sdkKey"),
    (
        "Environment",
        "insecureSkipVerify",
        "ld-relay 6 removed this option; certificates are always verified. To trust another CA, \
         use [Proxy] caCertFiles",
    ),
];

/// Variables that ld-relay v5, v6 or v7 had and v8 ignores, and what the operator should do. Those
/// that v8 refuses are problems, which the sections report.
const OLD_VARIABLES: [(&str, &str); 2] = [
    // The entry point of the container image, up to 5.4.4.
    ("EVENTS_SEND", "ld-relay 5.5 replaced this variable by USE_EVENTS"),
    (
        "DISABLE_INTERNAL_USAGE_METRICS",
        "ld-relay 8 removed this variable. Pilotlight sends no usage metrics",
    ),
];

/// What to do about an option that earlier versions of ld-relay had.
pub(super) fn old_option(section: &str, option: &str) -> Option<&'static str> {
    let is_meant = |it: &&(&str, &str, &str)| {
        it.0.eq_ignore_ascii_case(section) && it.1.eq_ignore_ascii_case(option)
    };
    OLD_OPTIONS.iter().find(is_meant).map(|it| it.2)
}

/// Warns of variables that look as if they were for this relay and change nothing.
pub(super) fn warn(reader: &mut Reader<'_>, databases: &[DatabaseKind]) {
    let environments: Vec<String> =
        reader.names_of(environments::SECTION, var::LD_ENV_).into_iter().collect();
    for variable in reader.family("") {
        // Container platforms set such values for a service of any name, ours among them.
        let value = reader.process_variable(&variable).unwrap_or_default();
        if variable.ends_with("_PORT") && value.contains("://") {
            continue;
        }
        if let Some(what) = slip(&variable, &environments, databases) {
            reader.warning(Place::Variable(variable), format!("has no effect: {what}"));
        }
    }
}

/// Why a variable changes nothing, where it looks as if it should.
fn slip(variable: &str, environments: &[String], databases: &[DatabaseKind]) -> Option<String> {
    let is_environment = |name: &str| environments.iter().any(|known| known == name);
    if var::ALL.contains(&variable)
        || OF_THE_LINKER.contains(&variable)
        || variable.starts_with(var::LD_ENV_)
        || variable.starts_with(var::LD_FILTER_KEYS_)
        || variable.starts_with(var::DATADOG_TAG_)
    {
        return None;
    }
    let of_families: Vec<&str> =
        FAMILIES.iter().filter_map(|family| variable.strip_prefix(family)).collect();
    if of_families.iter().any(|name| is_environment(name)) {
        return None;
    }
    // `LD_TTL_MINUTES_name` of an environment that exists is a problem of its own.
    if variable.strip_prefix(var::LD_TTL_MINUTES_).is_some_and(is_environment) {
        return None;
    }
    if !of_families.is_empty() {
        return Some("there is no environment with this name".to_owned());
    }
    for (other, family) in OTHER_FAMILIES {
        if let Some(name) = variable.strip_prefix(other).filter(|name| !name.is_empty()) {
            return Some(format!("the name of this variable is {family}{name}"));
        }
    }
    if let Some((_, advice)) = OLD_VARIABLES.iter().find(|(old, _)| *old == variable) {
        return Some((*advice).to_owned());
    }
    if is_link_of_any_service(variable) {
        return None;
    }
    for (database, names, advice) in ADDRESSES {
        let is_wanted = databases.is_empty() || databases.contains(&database);
        if is_wanted && names.contains(&variable) {
            return Some(advice.to_owned());
        }
    }
    let is_single = |name: &str| var::ALL.contains(&name) && !name.ends_with('_');
    let unit = UNITS.iter().find_map(|unit| variable.strip_suffix(unit));
    if let Some(name) = unit.filter(|name| is_single(name) && !SHARED.contains(name)) {
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
    let of_a_database = databases.iter().any(|database| {
        let beginning = match database {
            DatabaseKind::Redis => "REDIS_",
            DatabaseKind::Consul => "CONSUL_",
            DatabaseKind::DynamoDb => "DYNAMODB_",
        };
        variable.starts_with(beginning)
    });
    let is_slip = is_ours || (of_a_database && !is_link(variable));
    is_slip.then(|| "unknown variable".to_owned())
}

/// Whether container platforms make such a name by themselves for a service of any name; that may
/// be `ld-relay`.
fn is_link_of_any_service(variable: &str) -> bool {
    let of_port = variable.split_once("_PORT_").map(|(_, after)| after);
    variable.ends_with("_SERVICE_HOST")
        || variable.contains("_SERVICE_PORT")
        || of_port.is_some_and(|after| after.starts_with(|first: char| first.is_ascii_digit()))
}

/// Whether container platforms make such a name by themselves for a service of that name.
fn is_link(variable: &str) -> bool {
    variable.ends_with("_PORT") || variable.ends_with("_NAME") || variable.contains("_ENV_")
}

/// The name of ours that the variable is probably meant to be.
fn nearest(variable: &str, environments: &[String]) -> Option<String> {
    let single = var::ALL.iter().filter(|name| !name.ends_with('_'));
    let named = FAMILIES
        .iter()
        .flat_map(|family| environments.iter().map(move |name| format!("{family}{name}")));
    single
        .map(|name| (*name).to_owned())
        .chain(named)
        .filter_map(|name| {
            let is_shared = SHARED.contains(&name.as_str());
            // Short names have neighbours that mean something else.
            let most = if name.len() < 8 && !is_shared { 1 } else { 2 };
            let distance = distance(variable, &name);
            let is_near = distance <= most && (!is_shared || letters(variable) == letters(&name));
            is_near.then_some((distance, name))
        })
        .min()
        .map(|(_, name)| name)
}

/// The letters of a name, each once.
fn letters(name: &str) -> BTreeSet<char> {
    name.chars().collect()
}

/// The number of letters to add, leave out, exchange or swap with their neighbours until one text
/// is the other; texts whose lengths differ by more than two are not compared.
pub fn distance(one: &str, other: &str) -> usize {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len().abs_diff(other.len()) > 2 {
        return usize::MAX;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let exchanged = last[j] + usize::from(a != b);
            let mut least = exchanged.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                least = least.min(before[j - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        let check = |one: &str, other: &str, expected| {
            assert_eq!(distance(one, other), expected, "{one} {other}");
            assert_eq!(distance(other, one), expected, "{other} {one}");
        };
        check("PORT", "PORT", 0);
        check("PORT", "PROT", 1);
        check("LOGLEVEL", "LOG_LEVEL", 1);
        check("STREAM_URL", "STREAM_URI", 1);
        check("", "AB", 2);
        check("A", "ABCD", usize::MAX);
    }

    #[test]
    fn slips_are_told_from_what_belongs_to_others() {
        let environments = ["shop".to_owned(), "MINUTES_x".to_owned()];
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

    #[test]
    fn old_options_come_with_advice() {
        let check = |section: &str, option: &str, expected: Option<&str>| {
            let advice = old_option(section, option);
            assert_eq!(advice.is_some(), expected.is_some(), "[{section}] {option}");
            if let (Some(advice), Some(expected)) = (advice, expected) {
                assert!(advice.starts_with(expected), "[{section}] {option}: {advice}");
            }
        };
        let renamed = |new: &str| format!("ld-relay 6 renamed this option to {new}; the value");
        check("Main", "heartbeatIntervalSecs", Some(&renamed("heartbeatInterval")));
        check("main", "HEARTBEATINTERVALSECS", Some(&renamed("heartbeatInterval")));
        check("Events", "flushIntervalSecs", Some(&renamed("flushInterval")));
        check("Environment", "ttlMinutes", Some(&renamed("ttl")));
        check("Environment", "apiKey", Some("ld-relay 6 removed this option; use sdkKey"));
        check("Environment", "ApiKey", Some("ld-relay 6 removed this option; use sdkKey"));
        check("Environment", "insecureSkipVerify", Some("ld-relay 6 removed this option; cert"));
        check("Events", "samplingInterval", Some("ld-relay 6 removed this option; delete"));
        check("Main", "disableInternalUsageMetrics", Some("ld-relay 8 removed this option"));
        // Options of other sections, and options that v8 has as well.
        for (section, option) in [
            ("Main", "apiKey"),
            ("Main", "flushIntervalSecs"),
            ("Events", "heartbeatIntervalSecs"),
            ("Events", "inlineUsers"),
            ("Redis", "localTtl"),
        ] {
            check(section, option, None);
        }
    }

    #[test]
    fn no_old_name_is_a_name_of_today() {
        for (variable, _) in OLD_VARIABLES {
            assert!(!var::ALL.contains(&variable), "{variable}");
        }
    }

    #[test]
    fn old_variables_come_with_advice() {
        let check = |variable: &str, expected: &str| {
            assert_eq!(slip(variable, &[], &[]).as_deref(), Some(expected), "{variable}");
        };
        check("EVENTS_SEND", "ld-relay 5.5 replaced this variable by USE_EVENTS");
        check(
            "DISABLE_INTERNAL_USAGE_METRICS",
            "ld-relay 8 removed this variable. Pilotlight sends no usage metrics",
        );
    }
}
