//! docs/configuration.md and the example files agree with the code.

use std::collections::BTreeSet;

use super::*;
use crate::config::table::{self, AnyOption, Default, Effect, SECTIONS, Section};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");

/// Set by `just options`, which writes the tables of the page.
const RENEW: &str = "PILOTLIGHT_RENEW_OPTIONS";

const HEAD: &str = "| Option | Variable | Type | Default | Effect | Meaning |\n\
                    | --- | --- | --- | --- | --- | --- |\n";

fn table_of(section: &Section) -> String {
    let rows = section.rows.iter().map(|option| line(section, *option));
    HEAD.chars().chain(rows.collect::<String>().chars()).collect()
}

fn line(section: &Section, option: &dyn AnyOption) -> String {
    let row = option.row();
    let quoted = |name: &str| format!("`{name}`");
    let suffix = section.named_by.unwrap_or("name").to_uppercase();
    let variables: Vec<String> = row
        .variables()
        .map(|name| {
            quoted(&if name.ends_with('_') { format!("{name}<{suffix}>") } else { name.to_owned() })
        })
        .collect();
    let or_dash = |text: String| if text.is_empty() { "–".to_owned() } else { text };
    let default = match row.default {
        Default::Nothing => String::new(),
        Default::Value(value) => quoted(value),
        Default::Means(text) => text.to_owned(),
    };
    let effect = match row.effect {
        Effect::Works => "yes",
        Effect::NotYet => "not yet",
        Effect::Never => "never",
        Effect::Refused(_) => "error",
        Effect::Retired => "retired",
    };
    let cells = [
        or_dash(row.option.map(quoted).unwrap_or_default()),
        or_dash(variables.join(", ")),
        option.type_name(),
        or_dash(default),
        effect.to_owned(),
        row.text.trim().to_owned(),
    ];
    format!("| {} |\n", cells.join(" | "))
}

/// The page with updated tables of all sections.
fn renewed(page: &str) -> String {
    let mut parts = page.split("\n### ");
    let mut renewed = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        renewed += "\n### ";
        let name = part.strip_prefix("`[").and_then(|rest| rest.split([' ', ']']).next());
        let section = SECTIONS.iter().find(|section| Some(section.name) == name);
        match (section, part.find("| Option |")) {
            (Some(section), Some(begin)) => {
                let end = part[begin..].find("\n\n").map_or(part.len(), |at| begin + at + 1);
                renewed += &part[..begin];
                renewed += &table_of(section);
                renewed += &part[end..];
            }
            _ => renewed += part,
        }
    }
    renewed
}

#[test]
fn the_page_has_the_tables_of_all_sections() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let expected = renewed(&page);
    for section in SECTIONS {
        assert!(expected.contains(&table_of(section)), "[{}] has no table", section.name);
    }
    assert_eq!(expected.matches(HEAD).count(), SECTIONS.len(), "a table for each section");
    if page != expected {
        if ProcessVariables.get(RENEW).is_some() {
            std::fs::write(PAGE, expected).unwrap();
            return;
        }
        let differs = page.lines().zip(expected.lines()).find(|(found, wanted)| found != wanted);
        panic!("docs/configuration.md is out of date; run `just options`. {differs:?}");
    }
}

#[test]
fn names_are_unique_and_defaults_can_be_read() {
    let mut names = BTreeSet::new();
    for option in SECTIONS.iter().flat_map(|section| section.rows) {
        let row = option.row();
        assert!(names.insert((row.section, row.name().to_lowercase())), "{}", row.name());
        assert!(option.has_good_default(), "[{}] {}", row.section, row.name());
        assert!(row.text.trim().ends_with('.'), "[{}] {}", row.section, row.name());
    }
}

/// A name that ends in an underscore is the prefix of a family.
#[test]
fn only_families_end_in_an_underscore() {
    for row in table::rows() {
        let is_named = ["Environment", "Filters"].contains(&row.section);
        let is_family = row.variables().all(|name| name.ends_with('_')) && row.variable.is_some();
        let is_tag = row.variable == table::datadog::DATADOG_TAG_.variable;
        assert_eq!(is_family || row.variable.is_none() && is_named, is_named || is_tag);
    }
}

/// Files that the examples refer to.
struct Pointed;

impl Files for Pointed {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let is_pointed = ["/run/secrets", "/etc/pilotlight"].iter().any(|at| path.starts_with(at));
        if is_pointed { Ok(b"a-secret-of-some-length".to_vec()) } else { Disk.read(path) }
    }
}

#[test]
fn every_example_is_a_good_configuration() {
    let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/examples"));
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "conf") {
            continue;
        }
        count += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        let head: Vec<&str> = text.lines().take_while(|line| line.starts_with(';')).collect();
        assert!(head.join(" ").contains("must exist: without them"), "{}", path.display());
        let file = Some(ConfigFile { path: path.clone(), may_be_missing: false });
        let source = ConfigSource { file, from_env: false };
        let loaded = load(&source, &variables(&[("AWS_REGION", "eu-west-1")]), &Pointed)
            .unwrap_or_else(|problems| panic!("{problems}"));
        for warning in &loaded.warnings {
            // Options that are not implemented yet are in examples too; any other warning would be
            // bad advice.
            assert_eq!(warning.place, Place::Configuration, "{}: {warning}", path.display());
        }
        assert_eq!(loaded.shown.lines()[0], "[Main]");
    }
    assert!(count >= 4, "the examples were found");
}

#[test]
fn the_description_shows_every_kind_of_configuration() {
    let check = |file: &str, expected: &[&str]| {
        let page = loaded_with_environment(file, &[]).shown.lines();
        for line in expected {
            assert!(page.iter().any(|found| found.trim() == *line), "{line} in {page:#?}");
        }
    };
    check(
        "[Main]\nheartbeatInterval = 0\nlogLevel = debug\nbindAddress = ::1",
        &[
            "heartbeatInterval: off",
            "logLevel: debug",
            "bindAddress: ::1",
            "port: 8030",
            "key: not set; the environments are listed below",
            "[Environment \"e\"]",
            "sdkKey: set",
            "initTimeout: 10s",
            "disconnectedStatusTime: 1m",
            "maxConcurrent: 512",
            "maxQueued: 20000",
            "dir: the first writable one of /var/lib/pilotlight",
            "url: none",
        ],
    );
    let page = loaded_with_environment("", &[("USE_DATADOG", "1"), ("REDIS_HOST", "h")]).shown;
    let titles: Vec<String> =
        page.lines().into_iter().filter(|line| line.starts_with('[')).collect();
    let environment = "[Environment \"e\"]";
    let expected = ["[Main]", "[AutoConfig]", environment, "[LocalStore]", "[Proxy]"];
    assert_eq!(
        titles,
        [&expected[..], &["[Concurrency]", "[Events]", "[Http]"]].concat(),
        "databases that are off"
    );
    check(
        "[LocalStore]\ndir = off\n[Concurrency]\nmaxConcurrent = 0",
        &["dir: off", "maxConcurrent: off"],
    );
    check(
        "[LocalStore]\ndir = /d\n[Concurrency]\nmaxConcurrent = 7",
        &["dir: /d", "maxConcurrent: 7", "maxQueued: 0", "sendTimeout: no limit"],
    );
    check(
        "[Redis]\nmode = sentinel\nsentinelMaster = m\nurls = rediss://a,rediss://b\n\
         caFile = ca\nclientCertificateFile = c\nclientKeyFile = k",
        &[
            "mode: sentinel",
            "sentinelMaster: m",
            "urls: rediss://a, rediss://b",
            "caFile: ca",
            "clientCertificateFile: c",
            "clientKeyFile: k",
        ],
    );
    check(
        "[Redis]\nmode = cluster\nurls = redis://a\nlocalTtl = 2m",
        &["mode: cluster", "urls: redis://a", "readTimeout: 2s", "localTtl: 2m"],
    );
    check("[Consul]\nhost = c:1\ntoken = t", &["[Consul]", "host: http://c:1/", "token: set"]);
    check("[DynamoDB]\nenabled\ntableName = t", &["tableName: t", "url: the endpoint of AWS"]);
    check(
        "[Proxy]\nurl = http://p\nuser = u\npassword = x\ncaCertFiles = 1.pem,2.pem",
        &["url: http://p", "user: u", "password: set", "caCertFiles: 1.pem, 2.pem"],
    );
}
