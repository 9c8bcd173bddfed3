//! No content of the file and the variables makes the program panic.

use proptest::prelude::*;

use super::*;
use crate::config::table::{Row, SECTIONS, Section};

/// Texts that are likely to reach every parser of values.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[-+0-9.a-z:/@\\[\\],$CIDµ \"\\\\;#]{0,20}",
        "(redis|rediss|http|https|tcp|unix)://[a-z:@\\[\\]0-9/]{0,12}",
        "[0-9]{1,20}(ns|ms|s|h|KiB|EB|B)?",
        any::<String>(),
    ]
}

proptest! {
    #[test]
    fn no_bytes_in_the_file_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let files = Memory::default().with("/c.conf", bytes);
        let file = Some(ConfigFile { path: "/c.conf".into(), may_be_missing: false });
        let _ = load(&ConfigSource { file, from_env: false }, &variables(&[]), &files);
    }

    #[test]
    fn no_values_panic(
        options in prop::collection::vec((0..200usize, value()), 0..20),
        set in prop::collection::vec((0..200usize, value()), 0..20),
    ) {
        let known: Vec<(&Section, &Row)> = SECTIONS
            .iter()
            .flat_map(|section| section.rows.iter().map(move |option| (section, option.row())))
            .collect();
        let mut file = String::new();
        for (index, value) in &options {
            let (section, row) = known[index % known.len()];
            let name = if section.named_by.is_some() { " \"x\"" } else { "" };
            file += &format!("[{}{name}]\n{} = {value}\n", section.name, row.name());
        }
        let variables: Vec<&str> = known.iter().flat_map(|(_, row)| row.variables()).collect();
        let pairs: Vec<(String, &str)> = set
            .iter()
            .map(|(index, value)| {
                let name = variables[index % variables.len()];
                let suffix = if name.ends_with('_') { "x" } else { "" };
                (format!("{name}{suffix}"), value.as_str())
            })
            .collect();
        let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, it)| (name.as_str(), *it)).collect();
        match load_both(&file, &pairs) {
            Ok(loaded) => {
                loaded.shown.lines();
                loaded.config.manual_environments();
            }
            // One line each, also for values with line breaks in them.
            Err(problems) => {
                let count = problems.lines().count();
                prop_assert!(count > 0);
                prop_assert_eq!(problems.to_string().lines().count(), count);
            }
        }
    }
}

/// Checks the seeds of the fuzz target `config_file`: a file, and variables after a NUL byte.
#[test]
fn the_seeds_of_the_fuzz_target_reach_values_and_problems() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/config_file");
    let mut accepted = 0;
    let mut refused = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let (file, variables) = text.split_once('\0').unwrap_or((&text, ""));
        let pairs: Vec<(&str, &str)> =
            variables.lines().filter_map(|line| line.split_once('=')).collect();
        let files = Memory::default().with("/run/secrets/key", "rel-1");
        match load_with(files, file, &pairs) {
            Ok(_) => accepted += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(accepted >= 2 && refused >= 3, "{accepted} {refused}");
}

/// Time must not grow with the square of the file.
#[test]
fn the_largest_files_are_read() {
    let filled = |line: &str| line.repeat(1024 * 1024 / line.len());
    let origins = filled("allowedOrigin = a\n");
    let config = good(&format!("[Environment \"e\"]\nsdkKey = s\n{origins}"), &[]);
    assert!(config.environments["e"].allowed_origins.len() > 50_000);
    let key = format!("{}b", "a".repeat(1024 * 1024));
    let pairs = [("AUTO_CONFIG_CACHE_ENCRYPTION_KEY", &*key)];
    with_environment("", &pairs);
    let mut file = String::new();
    for number in 0..5_000 {
        file += &format!("[Environment \"{number}\"]\nsdkKey = s{number}\nprefix = p{number}\n");
    }
    assert_eq!(good(&file, &[]).environments.len(), 5_000);
}
