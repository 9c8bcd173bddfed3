//! Consul: its key-value interface over plain HTTP or TLS, behind deadlines and a breaker.
//!
//! All settings are passed in; variables of Consul's own tools are not read. Sessions, locks and
//! namespaces are not used.

mod http;
mod kv;
mod table;
mod token;

use std::path::PathBuf;
use std::sync::Arc;

use self::http::{Answer, Pool};
use self::token::Token;
use super::fail_fast::{Dialer, FailFast};
use super::net::Endpoint;
use super::tls::TlsSettings;
use super::{Meter, StoreError};
pub use kv::{
    Entry, Operation, Put, TRANSACTION_BYTES_MAX, TRANSACTION_OPERATIONS_MAX, Transaction,
    VALUE_BYTES_MAX,
};
pub use table::ConsulTable;
pub use token::TokenSource;

/// The default port of an agent.
const DEFAULT_PORT: u16 = 8500;

/// Largest length of an error's text.
const ERROR_CHARACTERS_MAX: usize = 200;

/// A Consul agent behind deadlines and a breaker.
pub type ConsulStore = FailFast<ConsulDialer>;

/// Settings of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsulSettings {
    /// Its address, with TLS or without.
    pub endpoint: Endpoint,
    /// The ACL token.
    pub token: TokenSource,
}

/// The error for a text that is not the address of a Consul agent.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not an address of the form [http://|https://]host[:port] or unix://path")]
pub struct ConsulAddressError {
    text: String,
}

impl ConsulSettings {
    /// Settings without a token for `host[:port]`, `http://…`, `https://…` (TLS with the system's
    /// roots) or `unix://path`. The port is 8500 unless named.
    pub fn from_address(text: &str) -> Result<Self, ConsulAddressError> {
        let error = || ConsulAddressError { text: text.to_owned() };
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let tls = match scheme {
            "http" => None,
            "https" => Some(TlsSettings::default()),
            "unix" if !rest.is_empty() => {
                let endpoint = Endpoint::Unix(PathBuf::from(rest));
                return Ok(Self { endpoint, token: TokenSource::None });
            }
            _ => return Err(error()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = host_and_port(authority).ok_or_else(error)?;
        let endpoint = Endpoint::Tcp { host: host.to_owned(), port, tls };
        Ok(Self { endpoint, token: TokenSource::None })
    }

    /// Turns TLS on with these settings, except for a Unix socket.
    #[must_use]
    pub fn with_tls(mut self, settings: TlsSettings) -> Self {
        if let Endpoint::Tcp { tls, .. } = &mut self.endpoint {
            *tls = Some(settings);
        }
        self
    }
}

fn host_and_port(authority: &str) -> Option<(&str, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    if host.is_empty() || !host.bytes().all(is_name) {
        return None;
    }
    let port = match port {
        Some(text) => text.parse().ok().filter(|port| *port != 0)?,
        None => DEFAULT_PORT,
    };
    Some((host, port))
}

/// A few connections to one agent, shared by all clones.
#[derive(Clone)]
pub struct ConsulConnection {
    pool: Arc<Pool>,
}

/// Makes connections to one agent.
#[derive(Debug)]
pub struct ConsulDialer {
    endpoint: Endpoint,
    token: Arc<Token>,
}

impl ConsulDialer {
    /// A dialer for the agent of these settings.
    pub fn new(settings: ConsulSettings) -> Self {
        Self { endpoint: settings.endpoint, token: Arc::new(Token::new(settings.token)) }
    }
}

impl Dialer for ConsulDialer {
    type Conn = ConsulConnection;

    async fn dial(&self, meter: &Meter) -> Result<ConsulConnection, StoreError> {
        let (endpoint, token) = (self.endpoint.clone(), self.token.clone());
        let pool = Pool::connect(endpoint, token, meter.clone()).await?;
        Ok(ConsulConnection { pool: Arc::new(pool) })
    }

    async fn check(&self, conn: ConsulConnection) -> Result<(), StoreError> {
        conn.check_leader().await
    }
}

/// An error answer.
#[derive(Debug, thiserror::Error)]
#[error("consul answered {status}: {text}")]
pub struct ConsulFailure {
    /// The HTTP status.
    pub status: u16,
    /// The beginning of the answer's body.
    pub text: String,
}

impl ConsulFailure {
    /// Server errors and throttling are transient, other statuses require action by the operator.
    fn classify(answer: &Answer) -> StoreError {
        let text = String::from_utf8_lossy(&answer.body);
        let text = text.trim().chars().take(ERROR_CHARACTERS_MAX).collect();
        let status = answer.status;
        let cause = Box::new(Self { status: status.as_u16(), text });
        if status.is_server_error() || status == ::http::StatusCode::TOO_MANY_REQUESTS {
            return StoreError::Unreachable(cause);
        }
        StoreError::Refused(cause)
    }
}

#[cfg(test)]
mod tests {
    use ::http::StatusCode;

    use super::*;

    #[test]
    fn addresses_as_operators_write_them() {
        let check = |text: &str, expected: &str| {
            let shown = match ConsulSettings::from_address(text) {
                Ok(settings) => match &settings.endpoint {
                    Endpoint::Tcp { tls: Some(_), .. } => format!("tls {}", settings.endpoint),
                    Endpoint::Tcp { tls: None, .. } | Endpoint::Unix(_) => {
                        settings.endpoint.to_string()
                    }
                },
                Err(_) => "error".to_owned(),
            };
            assert_eq!(shown, expected, "{text}");
        };
        check("localhost", "localhost:8500");
        check("consul.service.consul:8501", "consul.service.consul:8501");
        check("http://10.0.0.1:80/", "10.0.0.1:80");
        check("https://consul", "tls consul:8500");
        check("[::1]:8500", "[::1]:8500");
        check("[::1]", "[::1]:8500");
        check("unix:///run/consul.sock", "/run/consul.sock");
        for wrong in [
            "", ":8500", "ftp://a", "a:b", "a:0", "a:70000", "a/b", "u@a", "::1", "[a]:1",
            "unix://",
        ] {
            check(wrong, "error");
        }
    }

    #[test]
    fn statuses_are_sorted_by_who_can_cure_them() {
        let check = |status: u16, transient: bool| {
            let status = StatusCode::from_u16(status).unwrap();
            let answer = Answer { status, body: "Permission denied".into() };
            assert_eq!(ConsulFailure::classify(&answer).is_transient(), transient, "{status}");
        };
        check(500, true);
        check(503, true);
        check(429, true);
        check(403, false);
        check(400, false);
        check(301, false);
    }
}
