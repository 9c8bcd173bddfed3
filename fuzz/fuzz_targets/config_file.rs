//! Any bytes as a configuration file, and as variables behind the first NUL byte: reading does not
//! panic, says the same twice, and puts no secret into a message or onto the page of `check-config`.
#![no_main]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use pilotlight::testing::config::{ConfigFile, ConfigSource, Files, load};

const CONFIG: &str = "/c.conf";

/// The only password that a file may hold.
const SECRET: &str = "hunter2hunter2";

/// The configuration file, and the same content for each file of a secret.
struct Given<'a>(&'a [u8]);

impl Files for Given<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match path.to_str() {
            Some(CONFIG) => Ok(self.0.to_vec()),
            Some("/missing") => Err(io::Error::from(io::ErrorKind::NotFound)),
            Some(_) | None => Ok(SECRET.as_bytes().to_vec()),
        }
    }
}

/// One variable a line: `NAME=value`.
fn variables(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let file = parts.next().unwrap_or_default();
    let variables = variables(&String::from_utf8_lossy(parts.next().unwrap_or_default()));
    let path = CONFIG.into();
    let source =
        ConfigSource { file: Some(ConfigFile { path, may_be_missing: false }), from_env: true };
    let said = || match load(&source, &variables, &Given(file)) {
        Ok(loaded) => {
            for environment in loaded.config.manual_environments() {
                assert!(!format!("{environment:?}").contains(SECRET));
            }
            let warnings = loaded.warnings.iter().map(ToString::to_string);
            warnings.chain(loaded.shown.lines()).collect::<Vec<String>>()
        }
        Err(problems) => problems.lines().collect(),
    };
    let first = said();
    assert_eq!(said(), first);
    // A file of a secret is given by its path, so its content is nowhere in what was written.
    if !String::from_utf8_lossy(bytes).contains(SECRET) {
        assert!(first.iter().all(|line| !line.contains(SECRET)), "{first:?}");
    }
});
