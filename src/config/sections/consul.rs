//! `[Consul]`.

use std::time::Duration;

use ::http::Uri;

use crate::config::reader::Reader;
use crate::config::secrets::SecretSource;
use crate::config::table::consul as table;
use crate::config::values::LocalTtl;
use crate::model::Password;

use super::database::{DatabaseTls, turn_off};

/// `[Consul]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsulConfig {
    /// Scheme, host and port of the server or agent.
    pub address: Uri,
    /// The access token.
    pub token: Option<SecretSource<Password>>,
    /// TLS settings, if the address has the scheme `https`.
    pub tls: DatabaseTls,
    /// Time for which data read from it is served from memory.
    pub local_ttl: LocalTtl,
    /// Interval of checks; `None` means never.
    pub health_check_interval: Option<Duration>,
}

/// Reads the section. Returns true if Consul is on, and the settings if they are valid.
///
/// ld-relay v8: a host in the file switches Consul on; of the variables, only `USE_CONSUL` does.
/// Unlike in ld-relay, `USE_CONSUL` does not replace the file's host by the default.
pub(super) fn read(reader: &mut Reader<'_>) -> (bool, Option<ConsulConfig>) {
    let mut section = reader.global();
    let asked_for = section.read(&table::USE_CONSUL);
    let is_on = section.is_in_file(&table::CONSUL_HOST) || asked_for == Some(true);
    if !is_on {
        let switch = table::USE_CONSUL.variable.filter(|_| asked_for.is_none());
        turn_off(&mut section, table::ROWS, &[&table::CONSUL_HOST], switch);
    } else if asked_for == Some(false) {
        let what = "has no effect, because the file sets [Consul] host";
        section.warning(&table::USE_CONSUL, what);
    }
    let address = section.read(&table::CONSUL_HOST);
    let uses_tls = address.as_ref().is_some_and(|it| it.uri.scheme_str() == Some("https"));
    let token = section.secret(&table::CONSUL_TOKEN);
    let files = [
        &table::CONSUL_CA_FILE,
        &table::CONSUL_CLIENT_CERTIFICATE_FILE,
        &table::CONSUL_CLIENT_KEY_FILE,
    ];
    let tls = DatabaseTls::read(&mut section, files, uses_tls);
    let local_ttl = section.value(&table::CACHE_TTL);
    let health_check_interval = section.value(&table::CONSUL_HEALTH_CHECK_INTERVAL);
    let config = address.map(|address| ConsulConfig {
        address: address.uri,
        token: token.map(SecretSource::into_password),
        tls,
        local_ttl,
        health_check_interval,
    });
    (is_on, config)
}
