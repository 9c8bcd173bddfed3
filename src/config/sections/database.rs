//! The shared database: at most one of Redis, Consul and DynamoDB.

use std::fmt;
use std::path::PathBuf;

use crate::config::problems::Place;
use crate::config::reader::{Reader, Scope};
use crate::config::table::{AnyOption, Opt, Row};

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

/// The kind of a database.
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
    /// Adds a database if it is on; its settings are missing if they are invalid.
    fn add<T>(&mut self, kind: DatabaseKind, read: (bool, Option<T>), wrap: fn(T) -> Database) {
        if let (true, config) = read {
            self.enabled.push(kind);
            self.chosen = self.chosen.take().or(config.map(wrap));
        }
    }
}

/// TLS settings of connections to a database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatabaseTls {
    /// Root certificates that replace those of the system, PEM.
    pub ca_file: Option<PathBuf>,
    /// The relay's client certificate.
    pub client_certificate: Option<ClientCertificate>,
}

/// A client certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate chain, PEM.
    pub certificate_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
}

impl DatabaseTls {
    /// Reads the paths of the three files. A certificate without its key, or the reverse, is a
    /// problem; without TLS, all three are ignored.
    pub(super) fn read(
        section: &mut Scope<'_, '_>,
        [ca, certificate, key]: [&Opt<PathBuf>; 3],
        uses_tls: bool,
    ) -> Self {
        let ca_file = section.read(ca);
        let client_certificate = match (section.read(certificate), section.read(key)) {
            (Some(certificate_file), Some(key_file)) => {
                Some(ClientCertificate { certificate_file, key_file })
            }
            (None, None) => None,
            (Some(_), None) => {
                section.problem(key, "is missing, although there is a certificate", None);
                None
            }
            (None, Some(_)) => {
                section.problem(certificate, "is missing, although there is a key", None);
                None
            }
        };
        if uses_tls {
            return Self { ca_file, client_certificate };
        }
        for file in [ca, certificate, key] {
            if section.is_set(file) {
                section.warning(file, "has no effect, because the connection does not use TLS");
            }
            section.show(file, None);
        }
        Self::default()
    }
}

/// Turns a database off: its variables are ignored. A warning names those that describe it, if its
/// switch (`USE_REDIS`) is not set.
pub(super) fn turn_off(
    section: &mut Scope<'_, '_>,
    rows: &[&dyn AnyOption],
    described_by: &[&Row],
    switch: Option<&str>,
) {
    for row in described_by {
        if section.is_variable(row)
            && let (Some(variable), Some(switch)) = (row.variable, switch)
        {
            let place = Place::Variable(variable.to_owned());
            section.reader.warning(place, format!("has no effect without {switch}=true"));
        }
    }
    section.reader.turn_off(rows.iter().map(|option| option.row()));
}
