//! The configuration file and the environment variables, read once into typed values.
//!
//! No other module reads a variable or parses an option again, and magic values end here: a zero
//! that means *off* becomes `None`. All problems are reported together, each with its place;
//! mistakes with which the relay can start are returned as warnings. The file and the variables are
//! merged first and checked as a whole, so it does not matter which of them sets an option.
//!
//! Invariant: a [`Config`] that was returned is consistent; no text made here holds a secret.

mod cleartext;
mod describe;
mod effects;
mod files;
mod ini_file;
mod manual;
mod problems;
mod reader;
mod rules;
mod secrets;
mod sections;
mod slips;
pub mod table;
mod values;
mod variables;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use crate::model::FilterKey;

pub use describe::Shown;
pub use files::{Disk, Files};
pub use problems::{Place, Problem, Problems, Warning};
pub use secrets::{SecretKind, SecretSource, WeakKey};
pub use sections::autoconfig::AutoConfigSection;
pub use sections::concurrency::{ConcurrencyConfig, ConcurrencyLimit};
pub use sections::consul::ConsulConfig;
pub use sections::database::{Database, DatabaseTls};
pub use sections::dynamodb::DynamoDbConfig;
pub use sections::environments::EnvironmentConfig;
pub use sections::events::EventsConfig;
pub use sections::http::HttpConfig;
pub use sections::local_store::{LocalStoreConfig, LocalStoreDirectory};
pub use sections::main::MainConfig;
pub use sections::offline::OfflineConfig;
pub use sections::proxy::{ProxyConfig, ProxyLogin};
pub use sections::redis::{RedisConfig, RedisServers};
pub use values::{CacheAdopt, CacheFormat, LocalTtl, LogFormat, LogLevel};
pub use variables::{ProcessVariables, Variables};

use reader::Reader;

/// The file that is read without flags (ld-relay v8).
pub const DEFAULT_FILE: &str = "/etc/ld-relay.conf";

/// The sources of the configuration, from the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSource {
    /// The configuration file, if one is to be read.
    pub file: Option<ConfigFile>,
    /// True if variables set options; they take precedence over the file.
    pub from_env: bool,
}

/// The configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    /// Its path.
    pub path: PathBuf,
    /// True if the relay may start without it.
    pub may_be_missing: bool,
}

/// The complete configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[Main]`.
    pub main: MainConfig,
    /// `[AutoConfig]`. Its encryption keys are used even without an autoconfig key.
    pub autoconfig: AutoConfigSection,
    /// `[OfflineMode]`; `None` without an archive.
    pub offline: Option<OfflineConfig>,
    /// `[Environment "name"]` by name.
    pub environments: BTreeMap<String, EnvironmentConfig>,
    /// `[Filters "project"]` by project key; each has an environment.
    pub filters: BTreeMap<String, Vec<FilterKey>>,
    /// The shared database, if there is one.
    pub database: Option<Database>,
    /// `[LocalStore]`.
    pub local_store: LocalStoreConfig,
    /// `[Proxy]`.
    pub proxy: ProxyConfig,
    /// `[Concurrency]`.
    pub concurrency: ConcurrencyConfig,
    /// `[Http]`.
    pub http: HttpConfig,
    /// `[Events]`.
    pub events: EventsConfig,
}

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Warnings for the operator, in the order of the file.
    pub warnings: Vec<Warning>,
    /// The values of the options as text for people.
    pub shown: Shown,
}

/// Reads the configuration, or reports everything that is wrong with it.
pub fn load(
    source: &ConfigSource,
    variables: &dyn Variables,
    files: &dyn Files,
) -> Result<Loaded, Problems> {
    let (file, problems) = read_file(source, files);
    let mut reader = Reader::new(file, variables, source.from_env, files, problems);
    let read = sections::read(&mut reader);
    effects::report(&mut reader);
    rules::check(&mut reader, &read.config, &read.databases);
    cleartext::warn(&mut reader, &read.config);
    slips::warn(&mut reader, &read.databases);
    slips::report_unknown(&mut reader);
    let (shown, warnings) = reader.finish()?;
    Ok(Loaded { config: read.config, warnings, shown })
}

fn read_file(
    source: &ConfigSource,
    files: &dyn Files,
) -> (Option<ini_file::IniFile>, Vec<Problem>) {
    let Some(ConfigFile { path, may_be_missing }) = &source.file else { return (None, Vec::new()) };
    match files.read(path) {
        Ok(bytes) => {
            let (file, problems) = ini_file::parse(path, &bytes);
            (Some(file), problems)
        }
        Err(error) if *may_be_missing && error.kind() == io::ErrorKind::NotFound => {
            (None, Vec::new())
        }
        Err(error) => {
            let what = format!("cannot be read: {error}");
            (None, vec![Problem { place: Place::File(path.clone()), what, allowed: None }])
        }
    }
}

#[cfg(test)]
mod tests;
