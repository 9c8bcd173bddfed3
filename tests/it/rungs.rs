//! The rules of ARCHITECTURE.md that the compiler does not hold: imports point down the rungs, the
//! pure modules stay pure, files stay small, features are told of.
//!
//! It reads text, not syntax trees: comments and literals are blanked, the rest is searched for
//! paths. What a macro would put together is not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Rung 0 and what stands beside it.
const MODEL: &[&str] = &["model"];
/// What items are parsed into.
const EVALUATION: &[&str] = &["evaluation"];
/// Rungs 0 and 1.
const BASE: &[&str] = &["model", "sse", "sealing", "telemetry", "tasks", "backoff"];
/// Rungs 0 to 2.
const STORES: &[&str] = &["model", "sse", "sealing", "telemetry", "tasks", "backoff", "storage"];

/// What each module may know of, besides itself: the table of ARCHITECTURE.md.
const RUNGS: &[(&str, &[&[&str]])] = &[
    ("evaluation", &[]),
    ("model", &[EVALUATION]),
    ("config", &[MODEL]),
    ("sse", &[MODEL]),
    ("sealing", &[MODEL]),
    ("telemetry", &[MODEL]),
    ("tasks", &[MODEL]),
    ("backoff", &[MODEL]),
    ("storage", &[BASE]),
    ("upstream", &[STORES]),
    ("replica", &[STORES]),
    ("flagstore", &[STORES, &["replica"]]),
    ("streams", &[STORES]),
    ("autoconfig", &[STORES, &["upstream", "replica"]]),
    ("source", &[BASE, &["upstream"]]),
    ("archive", &[BASE, &["autoconfig", "source"]]),
    ("goals", &[BASE, &["upstream"]]),
    ("events", &[BASE, EVALUATION, &["upstream"]]),
    ("overview", &[BASE]),
    ("environments", &[BASE, &["upstream", "source", "flagstore", "streams"]]),
    // Not `storage`: nothing towards SDKs names a database.
    ("server", &[BASE, EVALUATION, &["environments", "events", "streams", "goals", "overview"]]),
    (
        "app",
        &[
            STORES,
            &[
                "config",
                "upstream",
                "source",
                "flagstore",
                "streams",
                "autoconfig",
                "archive",
                "goals",
                "events",
                "environments",
                "server",
            ],
        ],
    ),
    ("cli", &[&["config"]]),
    (
        "commands",
        &[
            BASE,
            &["config", "cli", "app", "environments", "autoconfig", "server", "demo", "overview"],
        ],
    ),
    // Plays LaunchDarkly and SDKs; that it never looks into the relay is what makes it a witness.
    ("demo", &[&["model", "tasks", "backoff"]]),
    // For tests only: it plays with the cores of all modules.
    (
        "simulation",
        &[
            STORES,
            &[
                "autoconfig",
                "replica",
                "flagstore",
                "streams",
                "source",
                "upstream",
                "environments",
            ],
        ],
    ),
    (
        "testing",
        &[
            STORES,
            EVALUATION,
            &[
                "config",
                "flagstore",
                "streams",
                "source",
                "archive",
                "events",
                "autoconfig",
                "server",
                "demo",
            ],
        ],
    ),
    ("main", &[&["run"]]),
];

/// Modules that decide and do not wait: no `async`, no clock, no tasks.
const PURE: &[&str] = &[
    "src/archive/contents.rs",
    "src/archive/look.rs",
    "src/archive/members.rs",
    "src/archive/state.rs",
    "src/evaluation/",
    "src/model/",
    "src/overview/",
    "src/streams/",
    "src/autoconfig/fields.rs",
    "src/autoconfig/state.rs",
    "src/autoconfig/startup_race.rs",
    "src/autoconfig/ordering.rs",
    "src/autoconfig/specs.rs",
    "src/autoconfig/cache/judge.rs",
    "src/autoconfig/cache/local_tier.rs",
    "src/autoconfig/cache/orders.rs",
    "src/autoconfig/cache/plan.rs",
    "src/autoconfig/cache/shared_tier.rs",
    "src/autoconfig/cache/shared_tier/",
    "src/autoconfig/cache/tier.rs",
    "src/autoconfig/cache/visits.rs",
    "src/autoconfig/cache/visits/",
    "src/environments/difference.rs",
    "src/environments/serving.rs",
    "src/environments/serving/",
    "src/environments/stored_data.rs",
    "src/events/gather.rs",
    "src/events/lines.rs",
    "src/events/outcome.rs",
    "src/events/post.rs",
    "src/events/recent.rs",
    "src/events/spool/record.rs",
    "src/events/summaries.rs",
    "src/events/summaries/",
    "src/flagstore/inventory.rs",
    "src/flagstore/marker.rs",
    "src/flagstore/shared/reconcile.rs",
    "src/flagstore/shared/visits.rs",
    "src/flagstore/shared/visits/",
    "src/replica/authority.rs",
    "src/replica/core.rs",
    "src/replica/doubts.rs",
    "src/replica/schedule.rs",
    "src/storage/breaker.rs",
    "src/storage/local/format/",
    "src/upstream/reconnect.rs",
    "src/server/expectations.rs",
    "src/server/routes.rs",
];

const NOT_PURE: &[&str] =
    &["async", "await", "tokio::spawn", "Instant::now", "SystemTime::now", "time::sleep"];

/// Most lines of a file.
const LINES_MAX: usize = 500;

/// Files that may be longer, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below a folder, by their path from the repository.
fn sources(folder: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(repository().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(entry.path()).unwrap();
                found.insert(path.to_str().unwrap().to_owned(), text);
            }
        }
    }
    found
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap()
}

/// The source with comments and the contents of literals blanked; line ends stay.
fn code(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let skipped = skipped_bytes(rest);
        if skipped > 0 {
            code.extend(rest[..skipped].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[skipped..];
        } else if first.is_alphanumeric() || first == '_' {
            // A word at once, so that the `r` or `b` of one is not taken for a literal's prefix.
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            code.push_str(&rest[..end]);
            rest = &rest[end..];
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    code
}

/// Length of the comment or literal that the text begins with; 0 if it begins with neither.
fn skipped_bytes(text: &str) -> usize {
    let to_end = |end: Option<usize>, len: usize| end.map_or(text.len(), |end| end + len);
    if text.starts_with("//") {
        return to_end(text.find('\n'), 0);
    }
    if text.starts_with("/*") {
        return to_end(text.find("*/"), 2);
    }
    let unprefixed = text.strip_prefix('b').unwrap_or(text);
    if let Some(raw) = unprefixed.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let begin = text.len() - raw.len() + hashes + 1;
            return to_end(text[begin..].find(&close).map(|at| at + begin), close.len());
        }
        return 0;
    }
    let prefix = text.len() - unprefixed.len();
    if unprefixed.starts_with('"') {
        return prefix + quoted_bytes(unprefixed, '"');
    }
    if let Some(after) = unprefixed.strip_prefix('\'') {
        // `'a` without a closing quote is a lifetime.
        let is_character = after.starts_with('\\') || after.chars().nth(1) == Some('\'');
        return if is_character { prefix + quoted_bytes(unprefixed, '\'') } else { 0 };
    }
    0
}

fn quoted_bytes(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Top-level modules that a path in the code begins at.
fn known_of(code: &str, depth: usize) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for root in ["crate::", "pilotlight::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            known.extend(heads(&code[at + root.len()..]));
        }
    }
    // `super::` as often as there are modules above leads to the root.
    let ascent = "super::".repeat(depth);
    for (at, _) in code.match_indices(&ascent) {
        let names = heads(code[at + ascent.len()..].trim_start_matches("super::"));
        // Within an inline module the same path may lead to a sibling item.
        known.extend(names.into_iter().filter(|name| RUNGS.iter().any(|(rung, _)| rung == name)));
    }
    known
}

/// The first words of a path or of a group of paths.
fn heads(path: &str) -> Vec<String> {
    let word = |text: &str| {
        let text = text.trim_start();
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        text[..end].to_owned()
    };
    let Some(group) = path.trim_start().strip_prefix('{') else { return vec![word(path)] };
    let mut heads = Vec::new();
    let mut open = 0;
    let mut begin = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => open += 1,
            ',' | '}' if open == 0 => {
                heads.push(word(&group[begin..at]));
                begin = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => open -= 1,
            _ => {}
        }
    }
    heads.retain(|head| !head.is_empty());
    heads
}

/// Whether the words stand in the code, not as parts of longer ones.
fn has_words(code: &str, words: &str) -> bool {
    let continues = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    code.match_indices(words).any(|(at, _)| {
        !continues(code[..at].chars().next_back())
            && !continues(code[at + words.len()..].chars().next())
    })
}

/// The top-level module of a file, and how many modules deep it lies.
fn module_of(path: &str) -> (&str, usize) {
    let path = path.strip_prefix("src/").unwrap().strip_suffix(".rs").unwrap();
    let path = path.strip_suffix("/mod").unwrap_or(path);
    (path.split('/').next().unwrap(), path.split('/').count())
}

fn may_know(module: &str, other: &str) -> bool {
    let (_, allowed) = RUNGS.iter().find(|(rung, _)| *rung == module).unwrap();
    module == other || allowed.iter().any(|group| group.contains(&other))
}

#[test]
fn imports_point_down_the_rungs() {
    let mut climbing = Vec::new();
    for (path, source) in sources("src") {
        let (module, depth) = module_of(&path);
        if module == "lib" {
            continue;
        }
        assert!(RUNGS.iter().any(|(rung, _)| *rung == module), "{path} stands on no rung");
        for other in known_of(&code(&source), depth) {
            // Not modules: what lib.rs itself defines.
            if other != "VERSION" && !may_know(module, &other) {
                climbing.push(format!("{path} knows of {other}"));
            }
        }
    }
    assert!(climbing.is_empty(), "imports that climb:\n{}", climbing.join("\n"));
}

#[test]
fn the_table_refuses_what_climbs() {
    let check = |module, other, expected| {
        assert_eq!(may_know(module, other), expected, "{module} knows of {other}");
    };
    check("storage", "model", true);
    check("storage", "flagstore", false);
    check("autoconfig", "upstream", true);
    check("autoconfig", "environments", false);
    check("server", "storage", false);
    check("environments", "config", false);
    check("demo", "app", false);
}

#[test]
fn the_map_names_every_module() {
    let architecture = read("ARCHITECTURE.md");
    for (module, _) in RUNGS {
        let name = format!("`{module}`");
        let is_there = repository().join(format!("src/{module}.rs")).is_file()
            || repository().join(format!("src/{module}/mod.rs")).is_file();
        assert!(is_there, "{module} stands on a rung and does not exist");
        assert!(architecture.contains(&name), "ARCHITECTURE.md does not name {module}");
    }
}

#[test]
fn pure_modules_do_not_wait_and_read_no_clock() {
    let sources = sources("src");
    let architecture = read("ARCHITECTURE.md");
    let mut impure = Vec::new();
    for pure in PURE {
        let name = pure.trim_end_matches('/').rsplit('/').next().unwrap();
        assert!(architecture.contains(&format!("`{name}`")), "ARCHITECTURE.md: {name} is pure");
        let files: Vec<_> = sources.iter().filter(|(path, _)| path.starts_with(pure)).collect();
        assert!(!files.is_empty(), "{pure} does not exist");
        for (path, source) in files.into_iter().filter(|(path, _)| !path.ends_with("_tests.rs")) {
            let code = code(source);
            // Tests may do what they like; they stand last in a file.
            let code = code.split("#[cfg(test)]\nmod tests").next().unwrap();
            let found = NOT_PURE.iter().filter(|sign| has_words(code, sign));
            impure.extend(found.map(|sign| format!("{path} has {sign}")));
        }
    }
    assert!(impure.is_empty(), "not pure:\n{}", impure.join("\n"));
}

#[test]
fn only_the_module_of_tasks_spawns() {
    for (path, source) in sources("src") {
        let spawns = code(&source).contains("tokio::spawn(");
        assert!(!spawns || path == "src/tasks.rs", "{path} spawns a task without an owner");
    }
}

#[test]
fn files_stay_short() {
    let mut long = BTreeMap::new();
    for folder in ["src", "tests", "benches", "fuzz/fuzz_targets"] {
        for (path, source) in sources(folder) {
            let lines = source.lines().count();
            if lines > LINES_MAX {
                long.insert(path, lines);
            }
        }
    }
    for (path, reason) in LONG_FILES {
        assert!(!reason.is_empty(), "{path} is long without a reason");
        assert!(long.remove(*path).is_some(), "{path} is not long any more");
    }
    assert!(long.is_empty(), "longer than {LINES_MAX} lines without a reason: {long:?}");
}

#[test]
fn every_cargo_feature_is_told_of_and_tried_alone() {
    let manifest = read("Cargo.toml");
    let section = manifest.split("[features]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let features: Vec<&str> = section
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name)
        .filter(|name| *name != "default")
        .collect();
    assert!(features.len() >= 4, "{features:?}");
    let (readme, run) = (read("README.md"), read("tests/run.sh"));
    let together =
        run.lines().find(|line| line.trim_start().starts_with("for feature in")).unwrap();
    for feature in features {
        assert!(readme.contains(&format!("`{feature}`")), "README.md does not name {feature}");
        let is_tried = together.contains(feature)
            || run.contains(&format!("--no-default-features --features {feature} "));
        assert!(is_tried, "tests/run.sh does not try {feature} alone");
    }
}

#[test]
fn the_reader_of_sources_sees_paths_and_nothing_else() {
    let check = |source: &str, depth: usize, expected: &[&str]| {
        let known: Vec<String> = known_of(&code(source), depth).into_iter().collect();
        assert_eq!(known, expected, "{source}");
    };
    check("use crate::model::Item;", 1, &["model"]);
    check("use crate::{model::{Item, Key}, server, sse::*};", 1, &["model", "server", "sse"]);
    check("fn a() -> crate::sse::Event { crate::tasks::b() }", 1, &["sse", "tasks"]);
    check("pub(crate) use my_crate::model;", 1, &[]);
    check("// use crate::model;\n/* crate::sse */ \"crate::sse\"", 1, &[]);
    check("r#\"a \" crate::sse\"# b\"crate::sse\" '\"' crate::tasks", 1, &["tasks"]);
    check("fn f<'a>(x: &'a str) { '\\'' ; crate::tasks::c() }", 1, &["tasks"]);
    check("use super::server::Server; use super::Other;", 1, &["server"]);
    check("use super::server::Server;", 2, &[]);
    check("use super::super::server;", 2, &["server"]);
    check("pilotlight::run()", 1, &["run"]);
}
