//! `[Redis]`: Redis and Valkey.

use std::net::Ipv6Addr;
use std::time::Duration;

use crate::config::env_vars as var;
use crate::config::problems::Place;
use crate::config::reader::{Names, Reader, SectionReader};
use crate::config::secrets::SecretSource;
use crate::config::values::{self, Invalid, LocalTtl, quoted};
use crate::model::{Password, RedactedUrl};

use super::database::{
    DatabaseTls, Switched, TlsNames, health_check_interval, local_ttl, warn_of_idle_variables,
};

const SECTION: &str = "Redis";
const URL: Names = Names::both("url", var::REDIS_URL);
const HOST: Names = Names::both("host", var::REDIS_HOST);
const PORT: Names = Names::both("port", var::REDIS_PORT);
const URLS: Names = Names::both("urls", var::REDIS_URLS);
const MODE: Names = Names::both("mode", var::REDIS_MODE);
const MASTER: Names = Names::both("sentinelMaster", var::REDIS_SENTINEL_MASTER);
const TLS: Names = Names::both("tls", var::REDIS_TLS);

const HOST_DEFAULT: &str = "localhost";
const PORT_DEFAULT: u16 = 6379;

/// `[Redis]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisConfig {
    /// The servers, with `rediss` or `valkeys` as scheme where TLS is asked for.
    pub servers: RedisServers,
    /// User name; one in a URL counts if this is `None`.
    pub username: Option<String>,
    /// Password; one in a URL counts if this is `None`.
    pub password: Option<SecretSource<Password>>,
    /// TLS, where the URL asks for it.
    pub tls: DatabaseTls,
    /// How long data read from it is served from memory.
    pub local_ttl: LocalTtl,
    /// How often it is checked; `None` is never.
    pub health_check_interval: Option<Duration>,
    /// Longest time to connect; `None` leaves it to whoever connects.
    pub connect_timeout: Option<Duration>,
    /// Longest time to wait for an answer; `None` leaves it to whoever asks.
    pub read_timeout: Option<Duration>,
    /// Whether upserts are scripts.
    pub atomic_upsert: bool,
    /// Whether AWS signs the password.
    pub aws_auth: bool,
    /// Name of the AWS cache, in lower case.
    pub aws_cache_name: Option<String>,
}

/// How the servers belong together.
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
    /// All servers that are named.
    pub fn urls(&self) -> &[RedactedUrl] {
        match self {
            Self::Standalone(url) => std::slice::from_ref(url),
            Self::Sentinel { sentinels, .. } => sentinels,
            Self::Cluster(seeds) => seeds,
        }
    }

    /// Whether any of them is spoken to through TLS.
    pub fn use_tls(&self) -> bool {
        let secure = |url: &RedactedUrl| {
            url.expose().starts_with("rediss://") || url.expose().starts_with("valkeys://")
        };
        self.urls().iter().any(secure)
    }
}

/// Reads the section.
///
/// ld-relay v8: an address in the file switches Redis on; among the variables only `USE_REDIS`
/// does.
pub(super) fn read(reader: &mut Reader<'_>) -> Switched<RedisConfig> {
    let mut section = reader.section(SECTION);
    let is_on = is_on(&mut section);
    let servers = read_servers(&mut section);
    // Where the servers are a problem already, nothing is said about certificates without TLS.
    let uses_tls = servers.as_ref().is_none_or(RedisServers::use_tls);
    let names = TlsNames {
        ca: Names::both("caFile", var::REDIS_CA_FILE),
        certificate: Names::both("clientCertificateFile", var::REDIS_CLIENT_CERTIFICATE_FILE),
        certificate_alias: Some(Names::variable(var::REDIS_CLIENT_CERT_FILE)),
        key: Names::both("clientKeyFile", var::REDIS_CLIENT_KEY_FILE),
    };
    let tls = DatabaseTls::read(&mut section, &names, uses_tls);
    let password = section.secret(
        Names::both("password", var::REDIS_PASSWORD),
        Names::both("passwordFile", var::REDIS_PASSWORD_FILE),
    );
    let mut timeout = |option, variable| {
        section.parsed(Names::both(option, variable), values::duration_or_off).flatten()
    };
    let connect_timeout = timeout("connectTimeout", var::REDIS_CONNECT_TIMEOUT);
    let read_timeout = timeout("readTimeout", var::REDIS_READ_TIMEOUT);
    let username = section.text(Names::both("username", var::REDIS_USERNAME));
    let local_ttl = local_ttl(&mut section);
    let health_check_interval =
        health_check_interval(&mut section, var::REDIS_HEALTH_CHECK_INTERVAL);
    let atomic_upsert = section.switch(Names::both("atomicUpsert", var::REDIS_ATOMIC_UPSERT));
    let aws_auth = section.switch(Names::both("awsAuth", var::REDIS_AWS_AUTH));
    let aws_cache_name = section.text(Names::both("awsCacheName", var::REDIS_AWS_CACHE_NAME));
    let config = servers.map(|servers| RedisConfig {
        servers,
        username,
        password,
        tls,
        local_ttl,
        health_check_interval,
        connect_timeout,
        read_timeout,
        atomic_upsert,
        aws_auth,
        aws_cache_name: aws_cache_name.map(|name| name.to_lowercase()),
    });
    if !is_on {
        return Switched::Off;
    }
    if reader.variable(var::REDIS_TTL).is_some_and(|value| !value.is_empty()) {
        let place = Place::Variable(var::REDIS_TTL.to_owned());
        let what = "ld-relay 6 removed this variable; use CACHE_TTL with a unit, such as 30s";
        reader.problem(place, what, None);
    }
    Switched::on(config)
}

fn is_on(section: &mut SectionReader<'_, '_>) -> bool {
    let asked_for = section.boolean(Names::variable(var::USE_REDIS));
    let in_file = [URL, HOST, PORT, URLS, MASTER].iter().any(|&names| section.is_in_file(names));
    if !in_file && asked_for != Some(true) {
        if asked_for.is_none() {
            // REDIS_PORT is left out: container links set it without anybody asking.
            warn_of_idle_variables(section, &[URL, HOST, URLS, MASTER], var::USE_REDIS);
        }
        section.ignore_variables();
    } else if asked_for == Some(false) {
        let what = "has no effect, because the file configures Redis";
        section.warning(Names::variable(var::USE_REDIS), what);
    }
    in_file || asked_for == Some(true)
}

/// What the options say of one address, before it is known whether it is one.
struct Address {
    url: Option<RedactedUrl>,
    /// A host, a port, or both.
    host_url: Option<RedactedUrl>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Standalone,
    Sentinel,
    Cluster,
}

fn read_servers(section: &mut SectionReader<'_, '_>) -> Option<RedisServers> {
    let before = section.problem_count();
    let mode = section.parsed(MODE, mode).unwrap_or_default();
    let master = section.text(MASTER);
    let urls = read_urls(section);
    let address = read_address(section);
    let with_tls = section.switch(TLS);
    check_fit(section, mode);
    if section.problem_count() > before {
        return None;
    }
    if with_tls
        && [&address.url, &address.host_url].into_iter().flatten().chain(&urls).any(is_socket)
    {
        section.warning(TLS, "has no effect, because a Unix socket does not use TLS");
    }
    let secured = |url: RedactedUrl| if with_tls { secured(url) } else { url };
    let single = address.url.or(address.host_url).map(secured);
    let urls: Vec<RedactedUrl> = urls.into_iter().map(secured).collect();
    let default = || RedactedUrl::new(format!("redis://{HOST_DEFAULT}:{PORT_DEFAULT}"));
    Some(match mode {
        Mode::Standalone => RedisServers::Standalone(single.unwrap_or_else(|| secured(default()))),
        Mode::Sentinel => RedisServers::Sentinel { master: master?, sentinels: urls },
        Mode::Cluster => {
            RedisServers::Cluster(if urls.is_empty() { single.into_iter().collect() } else { urls })
        }
    })
}

/// Which options each mode needs and which it excludes.
fn check_fit(section: &mut SectionReader<'_, '_>, mode: Mode) {
    let has_single = section.is_set(URL) || section.is_set(HOST) || section.is_set(PORT);
    let missing = match mode {
        Mode::Standalone => {
            for names in [URLS, MASTER] {
                if section.is_set(names) {
                    let what = "is set, but the mode is standalone";
                    section.problem(names, what, Some("mode = sentinel or cluster"));
                }
            }
            return;
        }
        Mode::Sentinel => {
            for names in [URL, HOST] {
                if section.is_set(names) {
                    section.problem(names, "is set, but the mode is sentinel", Some("urls"));
                }
            }
            if !section.is_set(MASTER) {
                section.problem(MASTER, "is missing, although the mode is sentinel", None);
            }
            "is missing, although the mode is sentinel"
        }
        Mode::Cluster if has_single => {
            if section.is_set(URLS) {
                let what = "is set together with url, host or port";
                section.problem(URLS, what, Some("one of them"));
            }
            return;
        }
        Mode::Cluster => "is missing, although the mode is cluster",
    };
    if !section.is_set(URLS) {
        section.problem(URLS, missing, None);
    }
}

fn read_urls(section: &mut SectionReader<'_, '_>) -> Vec<RedactedUrl> {
    let mut urls = Vec::new();
    for (index, item) in section.list(URLS).iter().enumerate() {
        match values::redis_url(item.trim()) {
            Ok(url) => urls.push(url),
            Err(invalid) => {
                let what = format!("item {} of the list {}", index + 1, invalid.what);
                section.problem(URLS, what, invalid.allowed);
            }
        }
    }
    urls
}

/// The one address of a standalone server.
///
/// ld-relay v8: a URL excludes host and port, and the port's variable may be a container link,
/// which counts before `REDIS_HOST`. Unlike there, the exclusion holds within the file and within
/// the variables; a variable with the other kind of address takes the place of the file's. Empty
/// variables change nothing, as they would quietly lead to a server on this machine.
fn read_address(section: &mut SectionReader<'_, '_>) -> Address {
    let filled = |section: &mut SectionReader<'_, '_>, names: Names| {
        if section.is_variable(names) { names } else { Names { variable: None, ..names } }
    };
    let by_file = [URL, HOST, PORT].map(|names| section.is_in_file(names));
    let [url_by_variable, host_by_variable, port_by_variable] =
        [URL, HOST, PORT].map(|names| section.is_variable(names));
    let url = filled(section, URL);
    let url = section.parsed(url, values::redis_url);
    let host = filled(section, HOST);
    let host = section.parsed(host, host_name);
    let port = section.parsed(Names::option("port"), values::port);
    let link = if port_by_variable { section.parsed(PORT_VARIABLE, port_or_link) } else { None };
    let is_link = matches!(link, Some((Some(_), _)));
    let in_file = (by_file[0] || by_file[1]) && !host_by_variable;
    let link = link.filter(|_| !(is_link && (url_by_variable || in_file)));
    if is_link && link.is_none() {
        // Nobody asks for a link: the platform sets it, and it must not lead elsewhere.
        let what = "is a container link and is ignored, because an address is configured";
        section.warning(PORT_VARIABLE, what);
    }
    if host_by_variable && let Some((Some(_), _)) = &link {
        let what = "is a container link and takes precedence over REDIS_HOST, as in ld-relay; unset \
                    REDIS_PORT or set a port number to use REDIS_HOST";
        section.warning(PORT_VARIABLE, what);
    }
    let port_by_variable = port_by_variable && !is_link;
    for [url, host, port] in [by_file, [url_by_variable, host_by_variable, port_by_variable]] {
        if url && (host || port) {
            let what = "is set together with host or port; set only one of them";
            section.problem(URL, what, None);
        }
    }
    if url_by_variable {
        return Address { url, host_url: None };
    }
    if by_file[0] && port_by_variable && !host_by_variable {
        let what =
            "cannot change the url in the file; set REDIS_URL instead, or REDIS_HOST as well";
        section.problem(PORT_VARIABLE, what, None);
    }
    let (linked_host, linked_port) = match link {
        Some((host, port)) => (host, Some(port)),
        None => (None, None),
    };
    let host = linked_host.or(host);
    let port = linked_port.or(port);
    let host_url = (host.is_some() || port.is_some()).then(|| {
        let host = host.as_deref().unwrap_or(HOST_DEFAULT);
        RedactedUrl::new(format!("redis://{host}:{}", port.unwrap_or(PORT_DEFAULT)))
    });
    let url = url.filter(|_| !host_by_variable && !port_by_variable);
    Address { url, host_url }
}

/// The variable of the port by itself, as it has a form of its own.
const PORT_VARIABLE: Names = Names::variable(var::REDIS_PORT);

fn host_name(text: &str) -> Result<String, Invalid> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok(format!("[{text}]"));
    }
    let has_port = text.rsplit_once(']').map_or(text, |(_, rest)| rest).contains(':');
    if has_port || text.contains(char::is_whitespace) || !values::is_host_and_port(text) {
        return Err(Invalid {
            what: "is not the name or address of a host".to_owned(),
            allowed: Some("a host without scheme and port"),
        });
    }
    Ok(text.to_owned())
}

/// A port, or what container links put there: `tcp://HOST:PORT`.
fn port_or_link(text: &str) -> Result<(Option<String>, u16), Invalid> {
    let Some(link) = text.strip_prefix("tcp://") else { return Ok((None, values::port(text)?)) };
    let not_link = || Invalid {
        what: format!("{} is not a port", quoted(text)),
        allowed: Some("a number from 1 to 65535, or tcp://HOST:PORT"),
    };
    let (host, port) = link.rsplit_once(':').ok_or_else(not_link)?;
    let host = host_name(host).map_err(|_| not_link())?;
    Ok((Some(host), values::port(port).map_err(|_| not_link())?))
}

fn mode(text: &str) -> Result<Mode, Invalid> {
    match text.to_ascii_lowercase().as_str() {
        "standalone" => Ok(Mode::Standalone),
        "sentinel" => Ok(Mode::Sentinel),
        "cluster" => Ok(Mode::Cluster),
        _ => Err(Invalid {
            what: format!("{} is not a mode", quoted(text)),
            allowed: Some("standalone, sentinel, cluster"),
        }),
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
    fn hosts() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(host_name(text).ok().as_deref(), expected, "{text}");
        };
        check("cache", Some("cache"));
        check("::1", Some("[::1]"));
        check("[::1]", Some("[::1]"));
        check("cache:6379", None);
        check("[::1]:6379", None);
        check("redis://cache", None);
        check("user@cache", None);
        check("a b", None);
    }

    #[test]
    fn ports_and_links() {
        assert_eq!(port_or_link("6380"), Ok((None, 6380)));
        assert_eq!(port_or_link("tcp://10.0.0.1:6379"), Ok((Some("10.0.0.1".to_owned()), 6379)));
        for text in ["tcp://10.0.0.1", "tcp://:1", "tcp://h:x", "udp://h:1", "0", "x"] {
            assert!(port_or_link(text).is_err(), "{text}");
        }
    }

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
