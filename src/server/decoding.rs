//! The decoders of a request line, for fuzzing.

use hyper::Method;

use super::routes::{Routed, route};
use super::selection::{form_decoded, query_value};

/// Routes a path and, if it is redirected, the target. Returns both results.
pub fn routed(method: &str, path: &str) -> Option<(String, Option<String>)> {
    let method = Method::from_bytes(method.as_bytes()).ok()?;
    let first = route(&method, path);
    let second = match &first {
        Routed::Moved(to) => Some(format!("{:?}", route(&method, to))),
        Routed::To(_)
        | Routed::MethodNotAllowed
        | Routed::Fdv2MethodNotAllowed(_)
        | Routed::NotFound
        | Routed::Malformed => None,
    };
    Some((format!("{first:?}"), second))
}

/// Reads a parameter of a query, and decodes the whole query as if it were a value.
pub fn query(text: &str, name: &str) -> (String, String) {
    (query_value(Some(text), name), form_decoded(text))
}
