//! CORS headers, by which browsers decide whether a page may read an answer (ld-relay v8). Pure.

use hyper::HeaderMap;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, HeaderName,
    HeaderValue, ORIGIN, VARY,
};

use crate::model::EnvironmentSpec;

/// Request headers that client-side SDKs send.
const ALLOWED_HEADERS: &str = "Cache-Control,Content-Type,Content-Length,Accept-Encoding,\
    X-LaunchDarkly-User-Agent,X-LaunchDarkly-Payload-ID,X-LaunchDarkly-Wrapper,\
    X-LaunchDarkly-Instance-Id,X-LaunchDarkly-Event-Schema,X-LaunchDarkly-Tags";

/// Origins and headers that the operator allows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Allowed<'a> {
    /// Origins; empty allows every origin.
    pub(super) origins: &'a [String],
    /// Request headers in addition to the usual ones.
    pub(super) headers: &'a [String],
}

impl<'a> Allowed<'a> {
    /// What the operator allows for an environment.
    pub(super) fn of(spec: &'a EnvironmentSpec) -> Self {
        Self { origins: &spec.allowed_origins, headers: &spec.allowed_headers }
    }
}

/// Adds the headers to a response. `methods` are those of the path, separated by spaces; `exposed`
/// are response headers that pages may read in addition to `Date`.
pub(super) fn add(
    response: &mut HeaderMap,
    request: &HeaderMap,
    methods: &str,
    allowed: Allowed<'_>,
    exposed: &[&str],
) {
    let origin = origin(request.get(ORIGIN), allowed.origins);
    let usual = [ALLOWED_HEADERS];
    let headers = usual.into_iter().chain(allowed.headers.iter().map(String::as_str));
    let exposed = ["Date"].into_iter().chain(exposed.iter().copied());
    let values = [
        (ACCESS_CONTROL_ALLOW_ORIGIN, origin),
        (ACCESS_CONTROL_ALLOW_CREDENTIALS, Some(HeaderValue::from_static("false"))),
        (ACCESS_CONTROL_MAX_AGE, Some(HeaderValue::from_static("300"))),
        (ACCESS_CONTROL_ALLOW_HEADERS, joined(headers)),
        (ACCESS_CONTROL_ALLOW_METHODS, joined(methods.split(' '))),
        (ACCESS_CONTROL_EXPOSE_HEADERS, joined(exposed)),
    ];
    let values: [(HeaderName, Option<HeaderValue>); 6] = values;
    for (name, value) in values {
        if let Some(value) = value {
            response.insert(name, value);
        }
    }
    // The answer may depend on other headers as well.
    response.append(VARY, HeaderValue::from_static("Origin"));
}

/// The origin that may read the answer: the request's own if it is allowed, else the first allowed
/// one.
fn origin(asked: Option<&HeaderValue>, allowed: &[String]) -> Option<HeaderValue> {
    let Some(first) = allowed.first() else {
        return Some(asked.cloned().unwrap_or(HeaderValue::from_static("*")));
    };
    let is_allowed =
        |origin: &&HeaderValue| allowed.iter().any(|it| it.as_bytes() == origin.as_bytes());
    match asked.filter(is_allowed) {
        Some(origin) => Some(origin.clone()),
        // An origin that is not valid in a header allows no page.
        None => HeaderValue::from_str(first).ok(),
    }
}

/// Joins items with commas; `None` if an item is not valid in a header.
fn joined<'a>(items: impl Iterator<Item = &'a str>) -> Option<HeaderValue> {
    HeaderValue::from_str(&items.collect::<Vec<_>>().join(",")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_ld_relays() {
        let check = |asked: Option<&'static str>, allowed: &[&str], expected: &str| {
            let allowed: Vec<String> = allowed.iter().map(|it| (*it).to_owned()).collect();
            let asked = asked.map(HeaderValue::from_static);
            let found = origin(asked.as_ref(), &allowed);
            let found = found.as_ref().map_or("", |value| value.to_str().unwrap());
            assert_eq!(found, expected, "{asked:?} {allowed:?}");
        };
        check(None, &[], "*");
        check(Some("https://a"), &[], "https://a");
        check(Some("https://b"), &["https://a", "https://b"], "https://b");
        check(Some("https://c"), &["https://a", "https://b"], "https://a");
        check(None, &["https://a"], "https://a");
        check(Some("https://c"), &["a\nb"], "");
    }

    #[test]
    fn all_headers_are_there() {
        let (mut response, mut request) = (HeaderMap::new(), HeaderMap::new());
        request.insert(ORIGIN, HeaderValue::from_static("https://a"));
        let extra = ["X-Mine".to_owned()];
        let allowed = Allowed { origins: &[], headers: &extra };
        add(&mut response, &request, "GET OPTIONS", allowed, &["X-LD-FD-Fallback"]);
        let value = |name: &str| response[name].to_str().unwrap().to_owned();
        assert_eq!(value("access-control-allow-origin"), "https://a");
        assert_eq!(value("access-control-allow-methods"), "GET,OPTIONS");
        assert_eq!(value("access-control-allow-credentials"), "false");
        assert_eq!(value("access-control-max-age"), "300");
        assert_eq!(value("access-control-expose-headers"), "Date,X-LD-FD-Fallback");
        assert_eq!(value("vary"), "Origin");
        let headers = value("access-control-allow-headers");
        assert!(headers.starts_with("Cache-Control,Content-Type,"), "{headers}");
        assert!(headers.ends_with(",X-LaunchDarkly-Tags,X-Mine"), "{headers}");
        assert!(!headers.contains(' '), "{headers}");
    }
}
