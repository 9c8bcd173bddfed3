//! `docs/configuration.md` and the example files say what the code does.

use std::collections::BTreeSet;

use super::super::unbuilt::{NOT_BUILT, NotBuilt, WITHOUT_EFFECT};
use super::super::{env_vars, sections};
use super::*;

const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md"));

/// A row of one of the page's tables.
#[derive(Debug)]
pub(super) struct Row {
    /// The section named by the heading above, or the heading.
    pub(super) section: String,
    pub(super) option: Option<String>,
    pub(super) variables: Vec<String>,
    pub(super) effect: String,
}

/// The texts in backquotes.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

pub(super) fn rows() -> Vec<Row> {
    let mut section = String::new();
    let mut rows = Vec::new();
    for line in PAGE.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            let name = heading.trim_start_matches("`[").split([' ', ']']).next();
            section = name.unwrap_or_default().to_owned();
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, option, variable, _, _, effect, ..] = cells[..] else { continue };
        if effect == "Effect" || effect.starts_with('-') {
            continue;
        }
        let variables = quoted(variable);
        let strip = |name: String| name.split('<').next().unwrap_or_default().to_owned();
        rows.push(Row {
            section: section.clone(),
            option: quoted(option).into_iter().next(),
            variables: variables.into_iter().map(strip).collect(),
            effect: effect.to_owned(),
        });
    }
    rows
}

#[test]
fn the_page_names_every_variable_and_no_other() {
    let on_page: BTreeSet<String> = rows().into_iter().flat_map(|row| row.variables).collect();
    let in_code: BTreeSet<String> = env_vars::ALL.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(on_page, in_code);
    assert_eq!(in_code.len(), env_vars::ALL.len(), "each name once");
}

#[test]
fn the_page_names_every_option_and_no_other() {
    let none = BTreeMap::<String, String>::new();
    let files = Memory::default();
    let mut reader = Reader::new(None, &none, true, &files, Vec::new());
    sections::read(&mut reader);
    let in_code: BTreeSet<(String, String)> = reader
        .known()
        .iter()
        .flat_map(|(section, options)| {
            options.iter().map(|option| ((*section).to_owned(), (*option).to_owned()))
        })
        .collect();
    let on_page: BTreeSet<(String, String)> =
        rows().into_iter().filter_map(|row| Some((row.section, row.option?))).collect();
    assert_eq!(on_page, in_code);
}

#[test]
fn the_page_says_what_has_no_effect() {
    for row in rows() {
        let option = row.option.as_deref().unwrap_or_default();
        let is_not_built = NOT_BUILT.iter().any(|not_built| match not_built {
            NotBuilt::Single(section, name) => row.section == *section && option == *name,
            NotBuilt::Section(section) => row.section == *section && !option.is_empty(),
            NotBuilt::Variable(name) => row.variables == [*name],
        });
        let is_void = WITHOUT_EFFECT.iter().any(|it| row.section == it.0 && option == it.1);
        let expected = match (is_not_built, is_void) {
            (true, false) => &["not yet"][..],
            (false, true) => &["never"],
            (false, false) => &["yes", "error", "retired"],
            (true, true) => &[],
        };
        assert!(expected.contains(&row.effect.as_str()), "{row:?}, expected one of {expected:?}");
    }
}

#[test]
fn the_list_of_what_is_not_built_names_options_that_exist() {
    let on_page: Vec<Row> = rows();
    for row in NOT_BUILT {
        let (section, option) = match row {
            NotBuilt::Single(section, option) => (*section, *option),
            NotBuilt::Section(section) => (*section, ""),
            NotBuilt::Variable(_) => continue,
        };
        let fits = |it: &Row| {
            it.section == section && (option.is_empty() || it.option.as_deref() == Some(option))
        };
        assert!(on_page.iter().any(fits), "[{section}] {option}");
    }
}

/// Files that the examples point to.
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
            // What is not implemented yet stands in examples too; anything else would be bad advice.
            assert_eq!(warning.place, Place::Configuration, "{}: {warning}", path.display());
        }
        assert_eq!(describe(&loaded.config)[0], "[Main]");
    }
    assert!(count >= 4, "the examples were found");
}

#[test]
fn the_description_shows_every_kind_of_configuration() {
    let check = |file: &str, expected: &[&str]| {
        let page = describe(&with_environment(file, &[]));
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
