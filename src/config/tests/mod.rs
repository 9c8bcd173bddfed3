//! The configuration as the operator sees it: texts in, values or messages out.

mod combining;
mod defaults;
mod effects;
mod environments;
mod options;
mod page;
mod read_outside;
mod redis;
mod robust;
mod rules;
mod secrets;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::*;

/// Files by path.
#[derive(Default)]
pub(super) struct Memory(BTreeMap<PathBuf, Vec<u8>>);

impl Memory {
    pub(super) fn with(mut self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.0.insert(path.into(), content.as_ref().to_vec());
        self
    }
}

impl Files for Memory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.get(path).cloned().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

pub(super) fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Loads `/c.conf` and the variables; the given files and some certificates exist.
pub(super) fn load_with(
    files: Memory,
    file: &str,
    pairs: &[(&str, &str)],
) -> Result<Loaded, Problems> {
    let path = PathBuf::from("/c.conf");
    let certificates = ["1.pem", "2.pem", "3.pem"].into_iter();
    let files = certificates.fold(files, |files, path| files.with(path, "a certificate"));
    let files = files.with("/c.conf", file);
    let source =
        ConfigSource { file: Some(ConfigFile { path, may_be_missing: false }), from_env: true };
    load(&source, &variables(pairs), &files)
}

pub(super) fn load_both(file: &str, pairs: &[(&str, &str)]) -> Result<Loaded, Problems> {
    load_with(Memory::default(), file, pairs)
}

/// A configuration without problems.
#[track_caller]
pub(super) fn good(file: &str, pairs: &[(&str, &str)]) -> Config {
    match load_both(file, pairs) {
        Ok(loaded) => loaded.config,
        Err(problems) => panic!("{problems}"),
    }
}

/// The same with an environment added, which every configuration needs.
#[track_caller]
pub(super) fn with_environment(file: &str, pairs: &[(&str, &str)]) -> Config {
    loaded_with_environment(file, pairs).config
}

#[track_caller]
pub(super) fn loaded_with_environment(file: &str, pairs: &[(&str, &str)]) -> Loaded {
    let file = format!("{file}\n[Environment \"e\"]\nsdkKey = sdk-e\nprefix = p\n");
    load_both(&file, pairs).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Checks that the problems are exactly these, each by its beginning, in this order.
#[track_caller]
pub(super) fn check_problems(file: &str, pairs: &[(&str, &str)], expected: &[&str]) {
    check_problems_with(Memory::default(), file, pairs, expected);
}

#[track_caller]
pub(super) fn check_problems_with(
    files: Memory,
    file: &str,
    pairs: &[(&str, &str)],
    expected: &[&str],
) {
    let problems = load_with(files, file, pairs).expect_err("there are problems").to_string();
    let lines: Vec<&str> = problems.lines().collect();
    let fit = lines.len() == expected.len()
        && lines.iter().zip(expected).all(|(line, expected)| line.starts_with(expected));
    assert!(fit, "found:\n{problems}\nexpected:\n{}", expected.join("\n"));
}

/// Checks that the warnings are exactly these, each by its beginning, in this order.
#[track_caller]
pub(super) fn check_warnings(file: &str, pairs: &[(&str, &str)], expected: &[&str]) {
    let loaded = load_both(file, pairs).unwrap_or_else(|problems| panic!("{problems}"));
    let lines: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    let fit = lines.len() == expected.len()
        && lines.iter().zip(expected).all(|(line, expected)| line.starts_with(expected));
    assert!(fit, "found:\n{}\nexpected:\n{}", lines.join("\n"), expected.join("\n"));
}
