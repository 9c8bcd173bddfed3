//! `[Consul]`.

use std::time::Duration;

use ::http::Uri;

use crate::config::env_vars as var;
use crate::config::reader::{Names, Reader};
use crate::config::secrets::SecretSource;
use crate::config::values::{self, Invalid, LocalTtl};
use crate::model::Password;

use super::database::{
    DatabaseTls, Switched, TlsNames, health_check_interval, local_ttl, warn_of_idle_variables,
};

pub(in crate::config) const SECTION: &str = "Consul";
const HOST: Names = Names::both("host", var::CONSUL_HOST);

/// `[Consul]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsulConfig {
    /// Scheme, host and port of the server or agent.
    pub address: Uri,
    /// The access token.
    pub token: Option<SecretSource<Password>>,
    /// TLS, where the address says `https`.
    pub tls: DatabaseTls,
    /// How long data read from it is served from memory.
    pub local_ttl: LocalTtl,
    /// How often it is checked; `None` is never.
    pub health_check_interval: Option<Duration>,
}

/// Reads the section.
///
/// ld-relay v8: a host in the file switches Consul on; among the variables only `USE_CONSUL` does.
/// Unlike there, `USE_CONSUL` does not put the default in the place of the file's host.
pub(super) fn read(reader: &mut Reader<'_>) -> Switched<ConsulConfig> {
    let mut section = reader.section(SECTION);
    let asked_for = section.boolean(Names::variable(var::USE_CONSUL));
    let in_file = section.is_in_file(HOST);
    let is_on = in_file || asked_for == Some(true);
    if !is_on {
        if asked_for.is_none() {
            warn_of_idle_variables(&mut section, &[HOST], var::USE_CONSUL);
        }
        section.ignore_variables();
    } else if asked_for == Some(false) {
        let what = "has no effect, because the file sets [Consul] host";
        section.warning(Names::variable(var::USE_CONSUL), what);
    }
    let host = if section.is_variable(HOST) { HOST } else { Names::option("host") };
    let address = section.parsed(host, address);
    let has_port = address.as_ref().is_none_or(|(_, has_port)| *has_port);
    if !has_port {
        let what = "has no port, so port 80 is used, as in ld-relay; Consul itself listens on 8500";
        section.warning(host, what);
    }
    let uses_tls = address.as_ref().is_some_and(|(uri, _)| uri.scheme_str() == Some("https"));
    let token = section.header_token(
        Names::both("token", var::CONSUL_TOKEN),
        Names::both("tokenFile", var::CONSUL_TOKEN_FILE),
    );
    let names = TlsNames {
        ca: Names::both("caFile", var::CONSUL_CA_FILE),
        certificate: Names::both("clientCertificateFile", var::CONSUL_CLIENT_CERTIFICATE_FILE),
        certificate_alias: None,
        key: Names::both("clientKeyFile", var::CONSUL_CLIENT_KEY_FILE),
    };
    let tls = DatabaseTls::read(&mut section, &names, uses_tls);
    let local_ttl = local_ttl(&mut section);
    let health_check_interval =
        health_check_interval(&mut section, var::CONSUL_HEALTH_CHECK_INTERVAL);
    if !is_on {
        return Switched::Off;
    }
    let address = match address {
        Some((address, _)) => address,
        None if section.is_set(host) => return Switched::Unusable,
        None => Uri::from_static("http://localhost:8500"),
    };
    Switched::On(ConsulConfig { address, token, tls, local_ttl, health_check_interval })
}

/// `host`, `host:port`, or the same behind `http://` or `https://`; and whether the port is clear.
fn address(text: &str) -> Result<(Uri, bool), Invalid> {
    let (bare, has_scheme) = match text.split_once("://") {
        Some((_, rest)) => (rest.trim_end_matches('/'), true),
        None => (text, false),
    };
    let not_address = |_| Invalid {
        what: "is not the address of a Consul server".to_owned(),
        allowed: Some("host, host:port, or one of them after http:// or https://"),
    };
    if bare.contains(['/', '?', '#']) || !values::is_host_and_port(bare) {
        return Err(not_address(()));
    }
    let url = if has_scheme { text.to_owned() } else { format!("http://{bare}") };
    let uri = values::http_url(&url).map_err(|_| not_address(()))?;
    let has_port = has_scheme || uri.port().is_some();
    Ok((uri, has_port))
}
