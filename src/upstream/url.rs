//! URLs of requests: joined from a base that an operator set, followed through redirects, shown
//! in logs. Pure.
//!
//! User-info in a base URL is dropped: ld-relay's requests carry their own `Authorization`, which
//! takes precedence over it.

use std::fmt;
use std::fmt::Write as _;

use http::Uri;
use http::uri::Scheme;

/// Reason why a text is no URL that can be requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It is not a URL, or has characters that must be percent-encoded.
    #[error("not a valid URL")]
    Syntax,
    /// Neither `http` nor `https`.
    #[error("scheme is neither http nor https")]
    Scheme,
    /// There is no host.
    #[error("host is missing")]
    Host,
}

/// A URL to which the paths of LaunchDarkly's services are appended.
#[derive(Clone, PartialEq, Eq)]
pub struct BaseUrl {
    target: Target,
    /// Without a slash at its end.
    path: String,
}

impl BaseUrl {
    /// Reads a base URL. One slash at the end, a query and user-info are ignored.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let url: Uri = text.trim().parse().map_err(|_| UrlError::Syntax)?;
        let target = Target::of(&url)?;
        let path = url.path();
        Ok(Self { target, path: path.strip_suffix('/').unwrap_or(path).to_owned() })
    }

    /// The URL of a path below this one. `path` begins with a slash; `query` is encoded already
    /// (see [`query_value`]).
    pub fn join(&self, path: &str, query: Option<&str>) -> Result<Uri, UrlError> {
        let mut text = format!("{}{}{path}", self.target.origin(), self.path);
        if let Some(query) = query {
            text.push('?');
            text.push_str(query);
        }
        text.parse().map_err(|_| UrlError::Syntax)
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.target.origin(), self.path)
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BaseUrl({self})")
    }
}

/// Encodes a text as the value of a query parameter.
pub fn query_value(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing into a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Target of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// `https` rather than `http`.
    pub(super) secure: bool,
    /// Name or address in lower case, an IPv6 address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Target {
    pub(super) fn of(url: &Uri) -> Result<Self, UrlError> {
        let scheme = url.scheme().ok_or(UrlError::Syntax)?;
        let secure = if *scheme == Scheme::HTTPS {
            true
        } else if *scheme == Scheme::HTTP {
            false
        } else {
            return Err(UrlError::Scheme);
        };
        let host = url.host().filter(|host| !host.is_empty()).ok_or(UrlError::Host)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { secure, host: bare.to_ascii_lowercase(), port })
    }

    /// Host as a URL writes it: an IPv6 address in brackets.
    fn bracketed_host(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }

    /// Host and port, always with the port.
    pub(super) fn host_and_port(&self) -> String {
        format!("{}:{}", self.bracketed_host(), self.port)
    }

    /// Value of the `Host` header: with the port only if it is not the scheme's own.
    pub(super) fn authority(&self) -> String {
        let usual = if self.secure { 443 } else { 80 };
        if self.port == usual { self.bracketed_host() } else { self.host_and_port() }
    }

    fn origin(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }
}

/// The URL without user-info and query, for logs.
pub(super) fn shown(url: &Uri) -> String {
    Target::of(url)
        .map(|target| format!("{}{}", target.origin(), url.path()))
        .unwrap_or_else(|_| url.path().to_owned())
}

/// Target of a redirect that may be followed: on the same origin, or any place that is reached
/// through TLS. `None`: it is not followed.
pub(super) fn redirected(from: &Uri, location: &str) -> Option<Uri> {
    let origin = Target::of(from).ok()?;
    let location = location.split('#').next().unwrap_or_default().trim();
    let scheme = if origin.secure { "https" } else { "http" };
    let text = if location.contains("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{}{location}", origin.origin())
    } else if location.starts_with('?') {
        format!("{}{}{location}", origin.origin(), from.path())
    } else if location.is_empty() {
        return None;
    } else {
        let path = from.path();
        let directory = path.rfind('/').map_or("/", |at| &path[..=at]);
        format!("{}{directory}{location}", origin.origin())
    };
    let to: Uri = text.parse().ok()?;
    let target = Target::of(&to).ok()?;
    (target.secure || target == origin).then_some(to)
}

/// True if two URLs have scheme, host and port in common.
pub(super) fn same_origin(one: &Uri, other: &Uri) -> bool {
    matches!((Target::of(one), Target::of(other)), (Ok(one), Ok(other)) if one == other)
}

/// True if a credential for `from` may follow a redirect to `to`: within one origin, and from the
/// usual port of `http` to the usual one of `https` on the same host. Another port may belong to
/// another service.
pub(super) fn keeps_credential(from: &Uri, to: &Uri) -> bool {
    let (Ok(from), Ok(to)) = (Target::of(from), Target::of(to)) else { return false };
    let is_upgrade = !from.secure && from.port == 80 && to.secure && to.port == 443;
    from == to || (is_upgrade && from.host == to.host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_as_ld_relay_does() {
        let check = |base: &str, path: &str, query: Option<&str>, expected: &str| {
            let url = BaseUrl::parse(base).and_then(|base| base.join(path, query));
            assert_eq!(url.map(|url| url.to_string()).as_deref(), Ok(expected), "{base}");
        };
        check("https://h.example", "/all", None, "https://h.example/all");
        check("https://h.example/", "/all", None, "https://h.example/all");
        check(" https://h.example/\n", "/all", None, "https://h.example/all");
        check("https://h.example/a/b/", "/all", None, "https://h.example/a/b/all");
        check("https://h.example/a//", "/all", None, "https://h.example/a//all");
        check("http://h:8080/a?x=1#y", "/all", Some("filter=z"), "http://h:8080/a/all?filter=z");
        check("http://user:secret@h/", "/all", None, "http://h/all");
        check("HTTP://H:80", "/all", None, "http://h/all");
        check("http://[::1]:9", "/all", None, "http://[::1]:9/all");
    }

    #[test]
    fn what_cannot_be_requested_is_refused() {
        let check =
            |base: &str, expected| assert_eq!(BaseUrl::parse(base), Err(expected), "{base}");
        check("", UrlError::Syntax);
        check("h.example", UrlError::Syntax);
        check("/all", UrlError::Syntax);
        check("https://", UrlError::Syntax);
        check("https://h example", UrlError::Syntax);
        check("https://:80", UrlError::Host);
        check("ftp://h.example", UrlError::Scheme);
        let base = BaseUrl::parse("https://h.example").unwrap();
        assert_eq!(base.join("/a b", None), Err(UrlError::Syntax));
    }

    #[test]
    fn query_values_are_encoded() {
        let check = |text: &str, expected: &str| assert_eq!(query_value(text), expected);
        check("a-b.c_d~9", "a-b.c_d~9");
        check("a b&c=d/é+%", "a%20b%26c%3Dd%2F%C3%A9%2B%25");
    }

    #[test]
    fn logs_show_neither_user_info_nor_query() {
        let url: Uri = "https://user:secret@h.example/all?filter=x".parse().unwrap();
        assert_eq!(shown(&url), "https://h.example/all");
        assert_eq!(shown(&"/all?filter=x".parse().unwrap()), "/all");
        let base = BaseUrl::parse("https://user:secret@h.example/").unwrap();
        assert_eq!(format!("{base:?} {base}"), "BaseUrl(https://h.example) https://h.example");
    }

    #[test]
    fn credentials_stay_with_their_service() {
        let check = |from: &str, to: &str, expected: bool| {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            assert_eq!(keeps_credential(&from, &to), expected, "{from} -> {to}");
        };
        check("https://h/a", "https://H:443/b", true);
        check("http://h:81/a", "http://h:81/b", true);
        check("http://h/a", "https://h/b", true);
        check("https://h/a", "https://h:8443/b", false);
        check("http://h:81/a", "https://h/b", false);
        check("http://h/a", "https://h:8443/b", false);
        check("https://h/a", "https://other/b", false);
        check("http://h/a", "https://other/b", false);
    }

    #[test]
    fn redirects_stay_at_home_or_lead_to_tls() {
        let check = |from: &str, location: &str, expected: Option<&str>| {
            let to = redirected(&from.parse().unwrap(), location).map(|url| url.to_string());
            assert_eq!(to.as_deref(), expected, "{from} -> {location}");
        };
        check("http://h/a/b?c", "/d?e#f", Some("http://h/d?e"));
        check("http://h/a/b?c", "d", Some("http://h/a/d"));
        check("http://h/a/b?c", "?d", Some("http://h/a/b?d"));
        check("http://h/a", "http://h:80/b", Some("http://h:80/b"));
        check("http://h/a", "https://h/b", Some("https://h/b"));
        check("http://h/a", "https://other/b", Some("https://other/b"));
        check("https://h/a", "//other/b", Some("https://other/b"));
        check("http://h/a", "//other/b", None);
        check("http://h/a", "http://other/b", None);
        check("http://h/a", "http://h:81/b", None);
        check("https://h/a", "http://h/b", None);
        check("https://h/a", "ftp://h/b", None);
        check("https://h/a", "", None);
        check("https://h/a", "#x", None);
        check("https://h/a", "/a b", None);
    }
}
