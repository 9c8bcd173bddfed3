//! URLs as values of options.

use std::fmt;
use std::net::Ipv6Addr;

use http::Uri;

use super::{Invalid, port, quoted};
use crate::model::RedactedUrl;

pub(super) const HTTP_URLS: &str =
    "an address that begins with http:// or https:// and names a host";

/// An absolute HTTP URL without user name and password.
///
/// ld-relay v8 accepts any text with a scheme; an invalid HTTP URL fails there when it is dialled.
pub(in crate::config) fn http_url(text: &str) -> Result<Uri, Invalid> {
    let (scheme, rest) = absolute(text, &["http", "https"], HTTP_URLS)?;
    if authority(rest).contains('@') {
        return Err(Invalid::new(
            "is a URL with a user name or password, which is not allowed here",
            HTTP_URLS,
        ));
    }
    format!("{scheme}://{rest}").parse().map_err(|_| Invalid::new("is not a URL", HTTP_URLS))
}

const REDIS_URLS: &str = "an address that begins with redis://, rediss://, valkey:// or \
                          valkeys:// and names a host, or unix:///path";

/// The URL of a Redis or Valkey server.
pub(in crate::config) fn redis_url(text: &str) -> Result<RedactedUrl, Invalid> {
    let sockets = ["unix", "redis+unix", "valkey+unix"];
    if let Some((scheme, path)) = text.split_once("://")
        && sockets.iter().any(|socket| scheme.eq_ignore_ascii_case(socket))
    {
        // The redacted form of a URL hides passwords in user-info only.
        if path.contains("pass=") {
            return Err(Invalid::new(
                "contains a password; set it as password instead",
                REDIS_URLS,
            ));
        }
        return if path.starts_with('/') && !path.contains(char::is_whitespace) {
            Ok(RedactedUrl::new(format!("{}://{path}", scheme.to_ascii_lowercase())))
        } else {
            Err(Invalid::new("is not the URL of a socket", REDIS_URLS))
        };
    }
    with_user_info(text, &["redis", "rediss", "valkey", "valkeys"], REDIS_URLS)
}

/// The URL of an outbound proxy.
pub(in crate::config) fn proxy_url(text: &str) -> Result<RedactedUrl, Invalid> {
    if is_socks(text) {
        return Err(Invalid::new("is a SOCKS proxy, which is not implemented yet", HTTP_URLS));
    }
    with_user_info(text, &["http", "https"], HTTP_URLS)
}

/// True if the text is the URL of a SOCKS proxy. ld-relay supports those, through Go's library.
pub(in crate::config) fn is_socks(text: &str) -> bool {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    scheme.is_some_and(|scheme| scheme.starts_with("socks"))
}

/// An absolute URL that may hold user name and password.
fn with_user_info(
    text: &str,
    schemes: &[&'static str],
    allowed: &'static str,
) -> Result<RedactedUrl, Invalid> {
    let (scheme, rest) = absolute(text, schemes, allowed)?;
    // A slash in a password ends the authority early: the rest would be taken for the path and
    // shown.
    if rest[authority(rest).len()..].contains('@') {
        let what = "has a user name or password that contains /, ? or #; write %2F, %3F or %23";
        return Err(Invalid::new(what, allowed));
    }
    Ok(RedactedUrl::new(format!("{scheme}://{rest}")))
}

/// Splits `scheme://rest`, with the scheme in lower case, and checks host and port of the rest.
/// The text is not repeated in an error: it may hold a password.
fn absolute<'a>(
    text: &'a str,
    schemes: &[&'static str],
    allowed: &'static str,
) -> Result<(&'static str, &'a str), Invalid> {
    let not_absolute = || Invalid::new("is not an absolute URL with a supported scheme", allowed);
    let (scheme, rest) = text.split_once("://").ok_or_else(not_absolute)?;
    let scheme =
        schemes.iter().find(|known| scheme.eq_ignore_ascii_case(known)).ok_or_else(not_absolute)?;
    if rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Invalid::new("is a URL that contains a space or a control character", allowed));
    }
    let authority = authority(rest);
    let host_and_port = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if !is_host_and_port(host_and_port) {
        return Err(Invalid::new("is a URL without a valid host and port", allowed));
    }
    Ok((scheme, rest))
}

/// The part between the scheme and the path.
fn authority(rest: &str) -> &str {
    &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())]
}

/// True if the text is `host`, `host:port`, `[v6]` or `[v6]:port`.
fn is_host_and_port(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, rest)) => match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None => return false,
            },
            None => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let host_is_good = !host.is_empty() && !host.contains(['/', '?', '#', '@', '\\']);
    host_is_good && port.is_none_or(port_is_good)
}

fn port_is_good(digits: &str) -> bool {
    digits.bytes().all(|byte| byte.is_ascii_digit()) && port(digits).is_ok()
}

/// The name or address of a host, without a port. IPv6 addresses get brackets.
pub(in crate::config) fn host_name(text: &str) -> Result<String, Invalid> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok(format!("[{text}]"));
    }
    let has_port = text.rsplit_once(']').map_or(text, |(_, rest)| rest).contains(':');
    if has_port || text.contains(char::is_whitespace) || !is_host_and_port(text) {
        let what = "is not the name or address of a host";
        return Err(Invalid::new(what, "a host without scheme and port"));
    }
    Ok(text.to_owned())
}

/// A port, or a link that container platforms set: `tcp://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortOrLink {
    /// The host of a link.
    pub host: Option<String>,
    /// The port.
    pub port: u16,
}

impl fmt::Display for PortOrLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) => write!(f, "tcp://{host}:{}", self.port),
            None => write!(f, "{}", self.port),
        }
    }
}

/// A port or a link.
pub(in crate::config) fn port_or_link(text: &str) -> Result<PortOrLink, Invalid> {
    let Some(link) = text.strip_prefix("tcp://") else {
        return Ok(PortOrLink { host: None, port: port(text)? });
    };
    let not_link = || {
        let allowed = "a number from 1 to 65535, or tcp://HOST:PORT";
        Invalid::new(format!("{} is not a port", quoted(text)), allowed)
    };
    let (host, digits) = link.rsplit_once(':').ok_or_else(not_link)?;
    let host = host_name(host).map_err(|_| not_link())?;
    Ok(PortOrLink { host: Some(host), port: port(digits).map_err(|_| not_link())? })
}

/// The address of a Consul server or agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsulAddress {
    /// Scheme, host and port.
    pub uri: Uri,
    /// True if the text has a port, or a scheme, which implies its default port.
    pub has_port: bool,
}

/// `host`, `host:port`, or the same after `http://` or `https://`.
pub(in crate::config) fn consul_address(text: &str) -> Result<ConsulAddress, Invalid> {
    let (bare, has_scheme) = match text.split_once("://") {
        Some((_, rest)) => (rest.trim_end_matches('/'), true),
        None => (text, false),
    };
    let not_address = || {
        let allowed = "host, host:port, or one of them after http:// or https://";
        Invalid::new("is not the address of a Consul server", allowed)
    };
    if bare.contains(['/', '?', '#']) || !is_host_and_port(bare) {
        return Err(not_address());
    }
    let url = if has_scheme { text.to_owned() } else { format!("http://{bare}") };
    let uri = http_url(&url).map_err(|_| not_address())?;
    let has_port = has_scheme || uri.port().is_some();
    Ok(ConsulAddress { uri, has_port })
}
