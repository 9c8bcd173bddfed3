//! `[Redis]`: Redis and Valkey.

use std::time::Duration;

use crate::config::reader::{Reader, Scope};
use crate::config::secrets::SecretSource;
use crate::config::table::{Row, redis as table};
use crate::config::values::{self, LocalTtl, PortOrLink, RedisMode};
use crate::model::{Password, RedactedUrl};

use super::database::{DatabaseTls, turn_off};

const HOST_DEFAULT: &str = "localhost";
const PORT_DEFAULT: u16 = 6379;

/// `[Redis]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisConfig {
    /// The servers; with TLS, the scheme is `rediss` or `valkeys`.
    pub servers: RedisServers,
    /// User name; if `None`, one in a URL is used.
    pub username: Option<String>,
    /// Password; if `None`, one in a URL is used.
    pub password: Option<SecretSource<Password>>,
    /// TLS settings, if the URL asks for TLS.
    pub tls: DatabaseTls,
    /// Time for which data read from it is served from memory.
    pub local_ttl: LocalTtl,
    /// Interval of checks; `None` means never.
    pub health_check_interval: Option<Duration>,
    /// Longest time to connect; `None` is the default of the client.
    pub connect_timeout: Option<Duration>,
    /// Longest time to wait for an answer; `None` is the default of the client.
    pub read_timeout: Option<Duration>,
}

/// The topology of the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisServers {
    /// One server.
    Standalone(RedactedUrl),
    /// A master that sentinels watch.
    Sentinel {
        /// The name of the master.
        master: String,
        /// The sentinels; never empty.
        sentinels: Vec<RedactedUrl>,
    },
    /// A cluster, of which some servers are known; never empty.
    Cluster(Vec<RedactedUrl>),
}

impl RedisServers {
    /// The URLs of all configured servers.
    pub fn urls(&self) -> &[RedactedUrl] {
        match self {
            Self::Standalone(url) => std::slice::from_ref(url),
            Self::Sentinel { sentinels, .. } => sentinels,
            Self::Cluster(seeds) => seeds,
        }
    }

    /// True if any of them uses TLS.
    pub fn use_tls(&self) -> bool {
        let secure = |url: &RedactedUrl| {
            url.expose().starts_with("rediss://") || url.expose().starts_with("valkeys://")
        };
        self.urls().iter().any(secure)
    }
}

/// Reads the section. Returns true if Redis is on, and the settings if they are valid.
///
/// ld-relay v8: an address in the file switches Redis on; of the variables, only `USE_REDIS` does.
pub(super) fn read(reader: &mut Reader<'_>) -> (bool, Option<RedisConfig>) {
    let mut section = reader.global();
    let is_on = is_on(&mut section);
    let servers = read_servers(&mut section);
    // If the servers are already a problem, there is no warning about certificates without TLS.
    let uses_tls = servers.as_ref().is_none_or(RedisServers::use_tls);
    let files = [
        &table::REDIS_CA_FILE,
        &table::REDIS_CLIENT_CERTIFICATE_FILE,
        &table::REDIS_CLIENT_KEY_FILE,
    ];
    let tls = DatabaseTls::read(&mut section, files, uses_tls);
    let username = section.read(&table::REDIS_USERNAME);
    let password = section.secret(&table::REDIS_PASSWORD);
    let local_ttl = section.value(&table::CACHE_TTL);
    let health_check_interval = section.value(&table::REDIS_HEALTH_CHECK_INTERVAL);
    let connect_timeout = section.read(&table::REDIS_CONNECT_TIMEOUT).flatten();
    let read_timeout = section.read(&table::REDIS_READ_TIMEOUT).flatten();
    let config = servers.map(|servers| RedisConfig {
        servers,
        username,
        password,
        tls,
        local_ttl,
        health_check_interval,
        connect_timeout,
        read_timeout,
    });
    (is_on, config)
}

fn is_on(section: &mut Scope<'_, '_>) -> bool {
    let asked_for = section.read(&table::USE_REDIS);
    let addresses: [&Row; 4] =
        [&table::REDIS_URL, &table::REDIS_HOST, &table::REDIS_URLS, &table::REDIS_SENTINEL_MASTER];
    let in_file = section.is_in_file(&table::REDIS_PORT)
        || addresses.iter().any(|row| section.is_in_file(row));
    if !in_file && asked_for != Some(true) {
        // REDIS_PORT is not among them: container platforms set it as a link.
        let switch = table::USE_REDIS.variable.filter(|_| asked_for.is_none());
        turn_off(section, table::ROWS, &addresses, switch);
    } else if asked_for == Some(false) {
        let what = "has no effect, because the file configures Redis";
        section.warning(&table::USE_REDIS, what);
    }
    in_file || asked_for == Some(true)
}

fn read_servers(section: &mut Scope<'_, '_>) -> Option<RedisServers> {
    let before = section.problem_count();
    let mode = section.read(&table::REDIS_MODE)?;
    let master = section.read(&table::REDIS_SENTINEL_MASTER);
    let urls = read_urls(section);
    let address = read_address(section);
    let with_tls = section.value(&table::REDIS_TLS);
    check_fit(section, mode);
    if section.problem_count() > before {
        return None;
    }
    if with_tls && address.iter().chain(&urls).any(is_socket) {
        section.warning(&table::REDIS_TLS, "has no effect, because a Unix socket does not use TLS");
    }
    let secured = |url: RedactedUrl| if with_tls { secured(url) } else { url };
    let single = address.map(secured);
    let urls: Vec<RedactedUrl> = urls.into_iter().map(secured).collect();
    let default = || RedactedUrl::new(format!("redis://{HOST_DEFAULT}:{PORT_DEFAULT}"));
    let servers = match mode {
        RedisMode::Standalone => {
            RedisServers::Standalone(single.unwrap_or_else(|| secured(default())))
        }
        RedisMode::Sentinel => RedisServers::Sentinel { master: master?, sentinels: urls },
        RedisMode::Cluster => {
            RedisServers::Cluster(if urls.is_empty() { single.into_iter().collect() } else { urls })
        }
    };
    show(section, &servers);
    Some(servers)
}

/// Shows the servers that result from all options.
fn show(section: &mut Scope<'_, '_>, servers: &RedisServers) {
    for row in [
        &*table::REDIS_URL,
        &table::REDIS_HOST,
        &table::REDIS_PORT,
        &table::REDIS_URLS,
        &table::REDIS_TLS,
    ] {
        section.show(row, None);
    }
    let urls: Vec<String> = servers.urls().iter().map(RedactedUrl::redacted).collect();
    let row: &Row = match servers {
        RedisServers::Standalone(_) => &table::REDIS_URL,
        RedisServers::Sentinel { .. } | RedisServers::Cluster(_) => &table::REDIS_URLS,
    };
    section.show(row, Some(urls.join(", ")));
}

/// Checks the options that each mode needs and those that it excludes.
fn check_fit(section: &mut Scope<'_, '_>, mode: RedisMode) {
    let [url, host, port, urls, master]: [&Row; 5] = [
        &table::REDIS_URL,
        &table::REDIS_HOST,
        &table::REDIS_PORT,
        &table::REDIS_URLS,
        &table::REDIS_SENTINEL_MASTER,
    ];
    match mode {
        RedisMode::Standalone => {
            for row in [urls, master] {
                let what = "is set, but the mode is standalone";
                section.forbid(row, what, Some("mode = sentinel or cluster"));
            }
        }
        RedisMode::Sentinel => {
            // REDIS_PORT is allowed: it may be a link that the platform set.
            for row in [url, host] {
                section.forbid(row, "is set, but the mode is sentinel", Some("urls"));
            }
            section.require(master, "is missing, although the mode is sentinel");
            section.require(urls, "is missing, although the mode is sentinel");
        }
        RedisMode::Cluster if [url, host, port].iter().any(|row| section.is_set(row)) => {
            let what = "is set together with url, host or port";
            section.forbid(urls, what, Some("one of them"));
        }
        RedisMode::Cluster => section.require(urls, "is missing, although the mode is cluster"),
    }
}

fn read_urls(section: &mut Scope<'_, '_>) -> Vec<RedactedUrl> {
    let mut urls = Vec::new();
    let items = section.read(&table::REDIS_URLS).unwrap_or_default();
    for (index, item) in items.iter().enumerate() {
        match values::redis_url(item.trim()) {
            Ok(url) => urls.push(url),
            Err(invalid) => {
                let what = format!("item {} of the list {}", index + 1, invalid.what);
                section.problem(&table::REDIS_URLS, what, invalid.allowed.as_deref());
            }
        }
    }
    urls
}

/// The address of one server in the file or in the variables.
struct Address {
    url: Option<RedactedUrl>,
    host: Option<String>,
    port: Option<PortOrLink>,
}

/// The one address of a standalone server.
///
/// ld-relay v8: a URL excludes host and port, and the port's variable may be a container link,
/// which takes precedence over `REDIS_HOST`. Unlike in ld-relay, the exclusion applies within the
/// file and within the variables; a variable with the other kind of address replaces the file's.
fn read_address(section: &mut Scope<'_, '_>) -> Option<RedactedUrl> {
    let (file_url, url) = section.by_layer(&table::REDIS_URL);
    let (file_host, host) = section.by_layer(&table::REDIS_HOST);
    let (file_port, port) = section.by_layer(&table::REDIS_PORT);
    let file = Address { url: file_url, host: file_host, port: file_port };
    let mut variables = Address { url, host, port };
    check_links(section, &file, &mut variables);
    for layer in [&file, &variables] {
        if layer.url.is_some() && (layer.host.is_some() || layer.port.is_some()) {
            let what = "is set together with host or port; set only one of them";
            section.problem(&table::REDIS_URL, what, None);
        }
    }
    if variables.url.is_some() {
        return variables.url;
    }
    let is_link = variables.port.as_ref().is_some_and(|port| port.host.is_some());
    if file.url.is_some() && variables.host.is_none() && !is_link {
        if variables.port.is_some() {
            let what =
                "cannot change the url in the file; set REDIS_URL instead, or REDIS_HOST as well";
            section.problem(&table::REDIS_PORT, what, None);
        }
        return file.url;
    }
    let (linked_host, port) = match variables.port.or(file.port) {
        Some(port) => (port.host, Some(port.port)),
        None => (None, None),
    };
    let host = linked_host.or(variables.host).or(file.host);
    (host.is_some() || port.is_some()).then(|| {
        let host = host.as_deref().unwrap_or(HOST_DEFAULT);
        RedactedUrl::new(format!("redis://{host}:{}", port.unwrap_or(PORT_DEFAULT)))
    })
}

/// Checks for a container link in the port's variable. The platform sets it, so it must not replace
/// an address that the operator chose.
fn check_links(section: &mut Scope<'_, '_>, file: &Address, variables: &mut Address) {
    let is_link = |port: &Option<PortOrLink>| port.as_ref().is_some_and(|it| it.host.is_some());
    if is_link(&file.port) {
        let what = "is not a port";
        section.problem(&table::REDIS_PORT, what, Some("a number from 1 to 65535"));
    }
    if !is_link(&variables.port) {
        return;
    }
    let in_file = (file.url.is_some() || file.host.is_some()) && variables.host.is_none();
    if variables.url.is_some() || in_file {
        let what = "is a container link and is ignored, because an address is configured";
        section.warning(&table::REDIS_PORT, what);
        variables.port = None;
    } else if variables.host.is_some() {
        let what = "is a container link and takes precedence over REDIS_HOST, as in ld-relay; unset \
                    REDIS_PORT or set a port number to use REDIS_HOST";
        section.warning(&table::REDIS_PORT, what);
    }
}

fn is_socket(url: &RedactedUrl) -> bool {
    url.expose().split_once("://").is_some_and(|(scheme, _)| scheme.ends_with("unix"))
}

/// The same URL with TLS. ld-relay v8: the option turns `redis` into `rediss`.
fn secured(url: RedactedUrl) -> RedactedUrl {
    let text = url.expose();
    for (plain, secure) in [("redis://", "rediss://"), ("valkey://", "valkeys://")] {
        if let Some(rest) = text.strip_prefix(plain) {
            return RedactedUrl::new(format!("{secure}{rest}"));
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_changes_the_scheme_only() {
        let check = |text: &str, expected: &str| {
            assert_eq!(secured(RedactedUrl::new(text)).expose(), expected);
        };
        check("redis://h:1/2", "rediss://h:1/2");
        check("rediss://h", "rediss://h");
        check("valkey://h", "valkeys://h");
        check("unix:///run/redis.sock", "unix:///run/redis.sock");
    }
}
