//! Warnings about secrets that cross a network unencrypted.

use std::net::IpAddr;

use http::Uri;

use super::problems::Place;
use super::reader::Reader;
use super::table::{Row, consul as consul_table, main, proxy as proxy_table, redis as redis_table};
use super::{Config, Database, ProxyLogin};

/// Warns of every connection to another machine over which the relay would send a key, password or
/// token without TLS.
pub(super) fn warn(reader: &mut Reader<'_>, config: &Config) {
    let stream_uri = config.main.stream_uri.to_string();
    let keys = "SDK keys and flags cross the network unencrypted; use https";
    warn_at(reader, &main::STREAM_URI, &stream_uri, keys);
    let proxy = &config.proxy;
    if let Some(url) = &proxy.url
        && (has_password(url.expose()) || matches!(proxy.login, ProxyLogin::Basic { .. }))
    {
        let what = "the proxy's password crosses the network unencrypted; use https";
        warn_at(reader, &proxy_table::PROXY_URL, url.expose(), what);
    }
    // Without `[Proxy] url`, the variable for the scheme of LaunchDarkly's address is used.
    let (row, from_variable): (&Row, _) = match config.main.stream_uri.scheme_str() {
        Some("http") => (&proxy_table::HTTP_PROXY, &proxy.from_variables.http),
        Some(_) | None => (&proxy_table::HTTPS_PROXY, &proxy.from_variables.https),
    };
    if let Some(url) = from_variable
        && let Some(name) = row.variable
        && has_password(url.expose())
        && leaves_in_clear(url.expose())
    {
        let is_upper = reader.process_variable(name).is_some();
        let name = if is_upper { name.to_owned() } else { name.to_ascii_lowercase() };
        let what = "the proxy's password crosses the network unencrypted; use https";
        reader.warning(Place::Variable(name), what);
    }
    match &config.database {
        Some(Database::Redis(redis)) => {
            let what = "the password crosses the network unencrypted; use rediss, or tls = true";
            for url in redis.servers.urls() {
                if redis.password.is_some() || has_password(url.expose()) {
                    let addresses: [&Row; 4] = [
                        &redis_table::REDIS_URL,
                        &redis_table::REDIS_URLS,
                        &redis_table::REDIS_HOST,
                        &redis_table::REDIS_PORT,
                    ];
                    let section = reader.global();
                    let set = addresses.into_iter().find(|row| section.is_set(row));
                    warn_at(reader, set.unwrap_or(&redis_table::REDIS_URL), url.expose(), what);
                }
            }
        }
        Some(Database::Consul(consul)) if consul.token.is_some() => {
            let what = "the token crosses the network unencrypted; use https";
            warn_at(reader, &consul_table::CONSUL_HOST, &consul.address.to_string(), what);
        }
        Some(Database::Consul(_) | Database::DynamoDb(_)) | None => {}
    }
}

fn warn_at(reader: &mut Reader<'_>, row: &Row, url: &str, what: &str) {
    if leaves_in_clear(url) {
        reader.global().warning(row, what);
    }
}

/// True if a connection to this URL leaves this machine without TLS.
fn leaves_in_clear(url: &str) -> bool {
    let is_clear = ["http://", "redis://", "valkey://"].iter().any(|it| url.starts_with(it));
    is_clear && !host(url).is_some_and(|host| is_local(&host))
}

fn host(url: &str) -> Option<String> {
    let uri: Uri = url.split('#').next().unwrap_or_default().parse().ok()?;
    let host = uri.host()?;
    Some(host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase())
}

fn is_local(host: &str) -> bool {
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let user_info = authority.rsplit_once('@').map(|(user_info, _)| user_info);
    user_info.and_then(|it| it.split_once(':')).is_some_and(|(_, password)| !password.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_leaves_the_machine_without_tls_is_in_clear() {
        let check = |url: &str, expected| assert_eq!(leaves_in_clear(url), expected, "{url}");
        check("http://relay.example", true);
        check("redis://:p@10.0.0.1:6379/1", true);
        check("valkey://cache", true);
        check("https://relay.example", false);
        check("rediss://cache", false);
        check("valkeys://cache", false);
        check("unix:///run/redis.sock", false);
        for local in ["localhost:1", "LOCALHOST", "a.localhost", "127.1.2.3", "[::1]:9"] {
            check(&format!("http://{local}"), false);
        }
        check("http://localhost.example", true);
    }

    #[test]
    fn passwords_in_urls() {
        let check = |url: &str, expected| assert_eq!(has_password(url), expected, "{url}");
        check("redis://c", false);
        check("redis://user@c", false);
        check("redis://user:@c", false);
        check("redis://:p@c", true);
        check("http://u:p@c:1/x", true);
        check("http://c/a:b@d", false);
    }
}
