//! The topology of several Redis servers, from the configuration.

use super::settings::{Login, RedisSettings, RedisUrlError};
use crate::model::RedactedUrl;
use crate::storage::net::Endpoint;
use crate::storage::tls::TlsSettings;

/// The default port of sentinels.
const SENTINEL_PORT: u16 = 26379;

/// The servers of a [`super::RedisDialer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisTopology {
    /// One server.
    Standalone(RedisSettings),
    /// One master with replicas, and sentinels that know which one it is.
    Sentinel(SentinelSettings),
    /// Several masters that share the keys.
    Cluster(ClusterSettings),
}

impl RedisTopology {
    /// The login for the servers with data.
    pub fn login(&self) -> Login {
        match self {
            Self::Standalone(server) => server.login(),
            Self::Sentinel(settings) => settings.login.clone(),
            Self::Cluster(settings) => settings.login.clone(),
        }
    }
}

impl From<RedisSettings> for RedisTopology {
    fn from(server: RedisSettings) -> Self {
        Self::Standalone(server)
    }
}

impl From<SentinelSettings> for RedisTopology {
    fn from(settings: SentinelSettings) -> Self {
        Self::Sentinel(settings)
    }
}

impl From<ClusterSettings> for RedisTopology {
    fn from(settings: ClusterSettings) -> Self {
        Self::Cluster(settings)
    }
}

/// A master that sentinels watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentinelSettings {
    /// Its name at the sentinels.
    pub master: String,
    /// The sentinels, each with its own login. They have no databases.
    pub sentinels: Vec<RedisSettings>,
    /// The login for the master and its replicas.
    pub login: Login,
    /// TLS settings for the master and its replicas.
    pub tls: Option<TlsSettings>,
}

impl SentinelSettings {
    /// Parses the URLs of sentinels. User and password in them are for the sentinels; the database
    /// number is for the master and its replicas, which use TLS if the sentinels do.
    pub fn from_urls(
        master: impl Into<String>,
        urls: &[RedactedUrl],
    ) -> Result<Self, RedisUrlError> {
        let mut sentinels = urls
            .iter()
            .map(|url| {
                let mut sentinel = RedisSettings::from_url(url)?;
                if let Endpoint::Tcp { port, .. } = &mut sentinel.endpoint
                    && !names_port(url.expose())
                {
                    *port = SENTINEL_PORT;
                }
                Ok(sentinel)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let (tls, database) = what_they_share(&sentinels)?;
        for sentinel in &mut sentinels {
            sentinel.database = 0;
        }
        let login = Login { database, ..Login::default() };
        Ok(Self { master: master.into(), sentinels, login, tls })
    }

    /// Uses these settings for servers with TLS.
    #[must_use]
    pub fn with_tls(mut self, settings: &TlsSettings) -> Self {
        let secured = |it: RedisSettings| {
            if it.endpoint.tls().is_some() { it.with_tls(settings.clone()) } else { it }
        };
        self.sentinels = self.sentinels.into_iter().map(secured).collect();
        self.tls = self.tls.map(|_| settings.clone());
        self
    }
}

/// A cluster of which some servers are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// Servers to ask for all the others.
    pub seeds: Vec<Endpoint>,
    /// The login for all servers.
    pub login: Login,
    /// TLS settings for the servers that the seeds name.
    pub tls: Option<TlsSettings>,
}

impl ClusterSettings {
    /// Parses the URLs of some servers of a cluster. The first user and password in them are used
    /// for all servers.
    pub fn from_urls(urls: &[RedactedUrl]) -> Result<Self, RedisUrlError> {
        let servers =
            urls.iter().map(RedisSettings::from_url).collect::<Result<Vec<_>, RedisUrlError>>()?;
        let (tls, database) = what_they_share(&servers)?;
        let signed = servers.iter().find(|it| it.username.is_some() || it.password.is_some());
        let login = Login { database, ..signed.map(RedisSettings::login).unwrap_or_default() };
        let seeds = servers.into_iter().map(|server| server.endpoint).collect();
        Ok(Self { seeds, login, tls })
    }

    /// Uses these settings for servers with TLS.
    #[must_use]
    pub fn with_tls(mut self, settings: &TlsSettings) -> Self {
        for seed in &mut self.seeds {
            if let Endpoint::Tcp { tls: Some(tls), .. } = seed {
                *tls = settings.clone();
            }
        }
        self.tls = self.tls.map(|_| settings.clone());
        self
    }
}

/// TLS and the database number, which must be equal for all servers of a group.
fn what_they_share(servers: &[RedisSettings]) -> Result<(Option<TlsSettings>, i64), RedisUrlError> {
    let first = servers.first().ok_or(RedisUrlError::NoServer)?;
    for server in servers {
        if matches!(server.endpoint, Endpoint::Unix(_)) {
            return Err(RedisUrlError::Socket);
        }
        if server.endpoint.tls().is_some() != first.endpoint.tls().is_some() {
            return Err(RedisUrlError::MixedTls);
        }
        if server.database != first.database {
            return Err(RedisUrlError::MixedDatabases);
        }
    }
    Ok((first.endpoint.tls().cloned(), first.database))
}

/// True if the URL contains a port.
fn names_port(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let after_address = host.rsplit_once(']').map_or(host, |(_, rest)| rest);
    after_address.contains(':')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Password;

    fn urls(urls: &[&str]) -> Vec<RedactedUrl> {
        urls.iter().map(|url| RedactedUrl::new(*url)).collect()
    }

    fn shown(endpoint: &Endpoint) -> String {
        let tls = if endpoint.tls().is_some() { "+tls" } else { "" };
        format!("{endpoint}{tls}")
    }

    fn login(login: &Login) -> String {
        let password = login.password.as_ref().map_or("-", Password::expose);
        format!("{}/{password}/{}", login.username.as_deref().unwrap_or("-"), login.database)
    }

    #[test]
    fn urls_of_sentinels() {
        let check = |list: &[&str], expected: &str| {
            let text = match SentinelSettings::from_urls("m", &urls(list)) {
                Ok(settings) => {
                    let sentinel = |it: &RedisSettings| {
                        format!("{} {}", shown(&it.endpoint), login(&it.login()))
                    };
                    let sentinels: Vec<String> = settings.sentinels.iter().map(sentinel).collect();
                    let tls = if settings.tls.is_some() { " tls" } else { "" };
                    format!("{} | {}{tls}", sentinels.join(", "), login(&settings.login))
                }
                Err(error) => error.to_string(),
            };
            assert_eq!(text, expected, "{list:?}");
        };
        check(&["redis://a", "redis://b:1"], "a:26379 -/-/0, b:1 -/-/0 | -/-/0");
        check(&["redis://u:p@[::1]/2", "redis://b/2"], "[::1]:26379 u/p/0, b:26379 -/-/0 | -/-/2");
        check(&["rediss://a:1"], "a:1+tls -/-/0 | -/-/0 tls");
        check(&["redis://:p:q@a"], "a:26379 -/p:q/0 | -/-/0");
        check(&["redis://a/1", "redis://b/2"], "the URLs name different databases");
        check(&["redis://a", "rediss://b"], "some of the URLs use TLS and others do not");
        check(&["unix:///s"], "a Unix socket cannot be one of several servers");
        check(&[], "there is no URL");
        check(&["http://a"], "not the URL of a Redis server");
    }

    #[test]
    fn urls_of_clusters() {
        let check = |list: &[&str], expected: &str| {
            let text = match ClusterSettings::from_urls(&urls(list)) {
                Ok(settings) => {
                    let seeds: Vec<String> = settings.seeds.iter().map(shown).collect();
                    let tls = if settings.tls.is_some() { " tls" } else { "" };
                    format!("{} | {}{tls}", seeds.join(", "), login(&settings.login))
                }
                Err(error) => error.to_string(),
            };
            assert_eq!(text, expected, "{list:?}");
        };
        check(&["redis://a", "redis://b:1"], "a:6379, b:1 | -/-/0");
        check(&["redis://a/1", "redis://u:p@b/1"], "a:6379, b:6379 | u/p/1");
        check(&["valkeys://a"], "a:6379+tls | -/-/0 tls");
        check(&["redis://a", "valkeys://b"], "some of the URLs use TLS and others do not");
    }

    #[test]
    fn tls_settings_reach_all_servers_that_use_it() {
        let own = TlsSettings { ca_file: Some("/ca".into()), client_certificate: None };
        let used = |endpoint: &Endpoint| endpoint.tls() == Some(&own);
        let with = |scheme: &str| {
            let list = urls(&[&format!("{scheme}://a"), &format!("{scheme}://b")]);
            let sentinel = SentinelSettings::from_urls("m", &list).unwrap().with_tls(&own);
            let cluster = ClusterSettings::from_urls(&list).unwrap().with_tls(&own);
            [
                sentinel.tls.as_ref() == Some(&own),
                sentinel.sentinels.iter().all(|it| used(&it.endpoint)),
                cluster.tls.as_ref() == Some(&own),
                cluster.seeds.iter().all(used),
            ]
        };
        assert_eq!(with("rediss"), [true; 4]);
        assert_eq!(with("redis"), [false; 4]);
    }
}
