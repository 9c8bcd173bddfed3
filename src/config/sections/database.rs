//! The shared database: at most one of Redis, Consul and DynamoDB.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::env_vars as var;
use crate::config::problems::Place;
use crate::config::reader::{Names, Reader, SectionReader};
use crate::config::values::{self, LocalTtl};

use super::consul::ConsulConfig;
use super::dynamodb::DynamoDbConfig;
use super::redis::RedisConfig;
use super::{consul, dynamodb, redis};

/// The shared database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// `[Redis]`.
    Redis(RedisConfig),
    /// `[Consul]`.
    Consul(ConsulConfig),
    /// `[DynamoDB]`.
    DynamoDb(DynamoDbConfig),
}

/// Which database is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum DatabaseKind {
    Redis,
    Consul,
    DynamoDb,
}

impl fmt::Display for DatabaseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redis => "Redis",
            Self::Consul => "Consul",
            Self::DynamoDb => "DynamoDB",
        })
    }
}

/// The result of reading all three sections.
pub(super) struct Databases {
    /// The first one that is on and usable.
    pub(super) chosen: Option<Database>,
    /// All that are on, in ld-relay's order.
    pub(super) enabled: Vec<DatabaseKind>,
}

/// Whether a section says that its database is to be used, and what it says of it.
pub(super) enum Switched<T> {
    /// It does not.
    Off,
    /// It does, but there is a problem with it.
    Unusable,
    /// It does.
    On(T),
}

impl<T> Switched<T> {
    /// On, with what could be read of it.
    pub(super) fn on(config: Option<T>) -> Self {
        config.map_or(Self::Unusable, Self::On)
    }
}

/// Reads the three sections.
pub(super) fn read(reader: &mut Reader<'_>) -> Databases {
    let mut databases = Databases { chosen: None, enabled: Vec::new() };
    databases.add(DatabaseKind::Redis, redis::read(reader), Database::Redis);
    databases.add(DatabaseKind::Consul, consul::read(reader), Database::Consul);
    databases.add(DatabaseKind::DynamoDb, dynamodb::read(reader), Database::DynamoDb);
    if databases.enabled.len() > 1 {
        let names: Vec<String> = databases.enabled.iter().map(ToString::to_string).collect();
        let what = format!("several databases are enabled ({})", names.join(", "));
        reader.problem(Place::Configuration, what, Some("one of them"));
    }
    databases
}

impl Databases {
    fn add<T>(&mut self, kind: DatabaseKind, read: Switched<T>, wrap: fn(T) -> Database) {
        let config = match read {
            Switched::Off => return,
            Switched::Unusable => None,
            Switched::On(config) => Some(config),
        };
        self.enabled.push(kind);
        self.chosen = self.chosen.take().or(config.map(wrap));
    }
}

/// TLS towards a database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatabaseTls {
    /// Root certificates that replace those of the system, PEM.
    pub ca_file: Option<PathBuf>,
    /// What the relay shows of itself.
    pub client_certificate: Option<ClientCertificate>,
}

/// A certificate the relay shows, and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate chain, PEM.
    pub certificate_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
}

/// The names of the three files.
pub(super) struct TlsNames {
    pub(super) ca: Names,
    pub(super) certificate: Names,
    /// A second name of the same variable.
    pub(super) certificate_alias: Option<Names>,
    pub(super) key: Names,
}

impl DatabaseTls {
    /// Reads the three files. A certificate without its key, or the reverse, is a problem; all
    /// three are void without TLS.
    pub(super) fn read(
        section: &mut SectionReader<'_, '_>,
        names: &TlsNames,
        uses_tls: bool,
    ) -> Self {
        let ca_file = section.path(names.ca);
        let certificate = section.path(names.certificate);
        let key = section.path(names.key);
        let alias = names.certificate_alias.and_then(|alias| section.path(alias));
        if let Some(other) = names.certificate_alias
            && alias.is_some()
            && section.is_variable(names.certificate)
            && certificate != alias
        {
            let what = format!("differs from {}", section.title(names.certificate));
            section.problem(other, what, None);
        }
        let set: Vec<Names> = [Some(names.certificate), names.certificate_alias, Some(names.key)]
            .into_iter()
            .flatten()
            .filter(|&names| section.is_set(names))
            .collect();
        let client_certificate = match (alias.or(certificate), key) {
            (Some(certificate_file), Some(key_file)) => {
                Some(ClientCertificate { certificate_file, key_file })
            }
            (None, None) => None,
            (Some(_), None) => {
                section.problem(names.key, "is missing, although there is a certificate", None);
                None
            }
            (None, Some(_)) => {
                let what = "is missing, although there is a key";
                section.problem(names.certificate, what, None);
                None
            }
        };
        if !uses_tls {
            for names in set.into_iter().chain(ca_file.is_some().then_some(names.ca)) {
                section.warning(names, "has no effect, because the connection does not use TLS");
            }
            return Self::default();
        }
        Self { ca_file, client_certificate }
    }
}

/// `localTtl`, which has one variable for all databases.
pub(super) fn local_ttl(section: &mut SectionReader<'_, '_>) -> LocalTtl {
    section
        .parsed(Names::both("localTtl", var::CACHE_TTL), values::local_ttl)
        .unwrap_or(LocalTtl::For(Duration::from_secs(30)))
}

/// `healthCheckInterval`; zero turns the periodic check off (design D32).
pub(super) fn health_check_interval(
    section: &mut SectionReader<'_, '_>,
    variable: &'static str,
) -> Option<Duration> {
    section
        .parsed(Names::both("healthCheckInterval", variable), values::duration_or_off)
        .unwrap_or(Some(Duration::from_secs(30)))
}

/// Says of variables that would have described the database that it is not switched on.
pub(super) fn warn_of_idle_variables(
    section: &mut SectionReader<'_, '_>,
    described_by: &[Names],
    switch: &'static str,
) {
    for &names in described_by {
        if section.is_variable(names)
            && let Some(variable) = names.variable
        {
            let place = Place::Variable(variable.to_owned());
            section.warning_at(place, format!("has no effect without {switch}=true"));
        }
    }
}
