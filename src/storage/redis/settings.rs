//! The address and login of a Redis or Valkey server.

use redis::{ConnectionAddr, IntoConnectionInfo};

use super::errors::RedisFailure;
use crate::model::{Password, RedactedUrl};
use crate::storage::net::Endpoint;
use crate::storage::tls::TlsSettings;

/// Settings of one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisSettings {
    /// Its address, with TLS or without.
    pub endpoint: Endpoint,
    /// The number of the logical database.
    pub database: i64,
    /// The ACL user; `None` means the default user.
    pub username: Option<String>,
    /// The password at the start; [`super::RedisDialer::replace_password`] changes it at run time.
    pub password: Option<Password>,
}

/// The reason why a text is not the URL of a Redis server. Shows no part of the text, which may
/// hold a password.
#[derive(Debug, thiserror::Error)]
pub enum RedisUrlError {
    /// It cannot be parsed; the cause names the error.
    #[error("not the URL of a Redis server")]
    NotRedis(#[source] RedisFailure),
    /// `#insecure` would accept any certificate.
    #[error("certificate checks cannot be disabled by `#insecure`; set the CA in `caFile`")]
    Insecure,
    /// An unknown option after `?` or `#`. The values are left out: one may be a
    /// password.
    #[error("unknown option {0:?} in the URL")]
    UnknownOption(String),
    /// A `#` part other than an option.
    #[error("the URL has a `#` part, which has no meaning")]
    UnknownFragment,
    /// Databases are counted from 0.
    #[error("the number of the database is negative")]
    NegativeDatabase,
    /// The port is 0.
    #[error("port 0 is not a port")]
    NoPort,
    /// Several servers are required but none is named.
    #[error("there is no URL")]
    NoServer,
    /// A Unix socket among several servers, which must be reachable over the network.
    #[error("a Unix socket cannot be one of several servers")]
    Socket,
    /// Only some URLs use TLS, so it is unknown whether other servers of the group use it.
    #[error("some of the URLs use TLS and others do not")]
    MixedTls,
    /// The URLs have different database numbers.
    #[error("the URLs name different databases")]
    MixedDatabases,
}

/// The login for a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// The ACL user; `None` means the default user.
    pub username: Option<String>,
    /// The password at the start; [`super::RedisDialer::replace_password`] changes it at run time.
    pub password: Option<Password>,
    /// The number of the logical database.
    pub database: i64,
}

impl RedisSettings {
    /// Parses `redis`, `rediss`, `valkey`, `valkeys` (host, port 6379, user-info, database number
    /// as path), `unix`, `redis+unix` and `valkey+unix` (path, query `db`, `user`, `pass`).
    pub fn from_url(url: &RedactedUrl) -> Result<Self, RedisUrlError> {
        let parsed = url
            .expose()
            .into_connection_info()
            .map_err(|error| RedisUrlError::NotRedis(RedisFailure::new(&error)))?;
        let endpoint = match parsed.addr() {
            ConnectionAddr::Tcp(_, 0) | ConnectionAddr::TcpTls { port: 0, .. } => {
                return Err(RedisUrlError::NoPort);
            }
            ConnectionAddr::TcpTls { insecure: true, .. } => return Err(RedisUrlError::Insecure),
            ConnectionAddr::Tcp(host, port) => {
                Endpoint::Tcp { host: host.clone(), port: *port, tls: None }
            }
            ConnectionAddr::TcpTls { host, port, .. } => {
                let tls = Some(TlsSettings::default());
                Endpoint::Tcp { host: host.clone(), port: *port, tls }
            }
            ConnectionAddr::Unix(path) => Endpoint::Unix(path.clone()),
            _ => return Err(RedisUrlError::Insecure),
        };
        check_options(url.expose(), matches!(endpoint, Endpoint::Unix(_)))?;
        let login = parsed.redis_settings();
        if login.db() < 0 {
            return Err(RedisUrlError::NegativeDatabase);
        }
        Ok(Self {
            endpoint,
            database: login.db(),
            username: login.username().map(str::to_owned),
            password: login.password().map(Password::new),
        })
    }

    /// Its login.
    pub fn login(&self) -> Login {
        Login {
            username: self.username.clone(),
            password: self.password.clone(),
            database: self.database,
        }
    }

    /// Replaces the login.
    #[must_use]
    pub fn with_login(mut self, login: Login) -> Self {
        let Login { username, password, database } = login;
        (self.username, self.password, self.database) = (username, password, database);
        self
    }

    /// Turns TLS on (ld-relay v8: `tls` turns `redis` into `rediss`) with these settings, except
    /// for a Unix socket.
    #[must_use]
    pub fn with_tls(mut self, settings: TlsSettings) -> Self {
        if let Endpoint::Tcp { tls, .. } = &mut self.endpoint {
            *tls = Some(settings);
        }
        self
    }
}

/// Refuses options of the URL that the parser does not know. It would ignore them, for instance
/// `db` of a TCP URL, and the relay would use another database than the operator intended.
fn check_options(url: &str, is_socket: bool) -> Result<(), RedisUrlError> {
    let (url, fragment) = url.split_once('#').unwrap_or((url, ""));
    if !fragment.is_empty() {
        return Err(RedisUrlError::UnknownFragment);
    }
    let known: &[&str] =
        if is_socket { &["db", "user", "pass", "protocol"] } else { &["protocol"] };
    let query = url.split_once('?').map_or("", |(_, query)| query);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let name = pair.split('=').next().unwrap_or_default();
        if !known.contains(&name) {
            return Err(RedisUrlError::UnknownOption(name.to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expected: &str) {
        let shown = match RedisSettings::from_url(&RedactedUrl::new(url)) {
            Ok(settings) => {
                let tls = match &settings.endpoint {
                    Endpoint::Tcp { tls: Some(_), .. } => " tls",
                    Endpoint::Tcp { tls: None, .. } | Endpoint::Unix(_) => "",
                };
                let password = settings.password.as_ref().map(|it| it.expose().to_owned());
                format!(
                    "{}{tls} db={} user={:?} password={password:?}",
                    settings.endpoint, settings.database, settings.username
                )
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(shown, expected, "{url}");
    }

    #[test]
    fn urls_of_every_scheme() {
        check("redis://cache", "cache:6379 db=0 user=None password=None");
        check("valkey://cache:7000/2", "cache:7000 db=2 user=None password=None");
        check("rediss://[::1]:1", "[::1]:1 tls db=0 user=None password=None");
        check("valkeys://c", "c:6379 tls db=0 user=None password=None");
        check("redis://:p%40ss@c", r#"c:6379 db=0 user=None password=Some("p@ss")"#);
        check("redis://u:p@c/", r#"c:6379 db=0 user=Some("u") password=Some("p")"#);
        check(
            "unix:///run/r.sock?db=3&user=u&pass=p",
            r#"/run/r.sock db=3 user=Some("u") password=Some("p")"#,
        );
    }

    #[test]
    fn what_is_no_url_is_refused_without_showing_it() {
        check("http://cache", "not the URL of a Redis server");
        check("redis://cache/first", "not the URL of a Redis server");
        check("", "not the URL of a Redis server");
        check("redis://c:0", "port 0 is not a port");
        check(
            "rediss://c#insecure",
            "certificate checks cannot be disabled by `#insecure`; set the CA in `caFile`",
        );
        check("redis://c/-1", "the number of the database is negative");
        check("redis://c?db=1", "unknown option \"db\" in the URL");
        check("redis://c/1?protocol=resp3&timeout=5", "unknown option \"timeout\" in the URL");
        check("unix:///run/r.sock?path=x", "unknown option \"path\" in the URL");
        check("redis://c#insecure", "the URL has a `#` part, which has no meaning");
        check("redis://c/1?protocol=resp3#", "c:6379 db=1 user=None password=None");
        let error = RedisSettings::from_url(&RedactedUrl::new("redis://:s3cret@")).unwrap_err();
        assert!(!format!("{error:?}").contains("s3cret"));
    }

    #[test]
    fn debug_shows_no_password() {
        let settings = RedisSettings::from_url(&RedactedUrl::new("redis://:s3cret@c")).unwrap();
        assert!(!format!("{settings:?}").contains("s3cret"));
    }

    #[test]
    fn tls_is_turned_on_where_there_is_a_network() {
        let check = |url: &str, expected: bool| {
            let settings = RedisSettings::from_url(&RedactedUrl::new(url)).unwrap();
            let endpoint = settings.with_tls(TlsSettings::default()).endpoint;
            assert_eq!(matches!(endpoint, Endpoint::Tcp { tls: Some(_), .. }), expected);
        };
        check("redis://c", true);
        check("unix:///run/r.sock", false);
    }
}
