//! Maps paths and methods to routes. Pure.
//!
//! Paths and methods are ld-relay v8's, and so is the order: the path decides first (404), then the
//! method (405, without checking credentials), then the credential.

use std::fmt::Write as _;

use hyper::Method;

/// A path that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/`: the status for people.
    Page,
    Status,
    Livez,
    Readyz,
    /// `/all`
    StreamAll,
    /// `/flags`
    StreamFlags,
    LatestAll,
    LatestFlags,
    Flags,
    Flag(String),
    Segment(String),
    /// `/status/…`: the status of one environment.
    StatusOf(OneEnvironment),
    /// A route of FDv2, which is not built. Those of client-side SDKs have their methods.
    Fdv2(Option<&'static str>),
    /// A route of client-side SDKs, or of servers that evaluate like them.
    Client(ClientRoute),
}

/// A route that is answered for a context, or that browsers use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientRoute {
    pub(super) auth: Auth,
    /// The methods of the path, separated by spaces.
    pub(super) methods: &'static str,
    pub(super) wanted: ClientWanted,
}

/// What such a route gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ClientWanted {
    /// The values of all flags for a context.
    Values(ContextPlace),
    /// A stream that tells clients when to ask for values again; for a context, if it has one.
    Pings(Option<ContextPlace>),
    /// The goals of experiments in web pages.
    Goals,
    /// Nothing; it gives events, in this form.
    Events(EventForm),
}

/// The form of a request with events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventForm {
    /// Analytics events in the body.
    Analytics,
    /// A diagnostic event in the body.
    Diagnostic,
    /// Analytics events in the query of an image.
    Image,
}

/// Where a request has its context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ContextPlace {
    /// In the path, in base64url.
    Path(String),
    /// In the body, as JSON.
    Body,
}

/// How a path names one environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OneEnvironment {
    pub(super) name: EnvironmentName,
    /// The payload filter; empty for the unfiltered environment.
    pub(super) filter: String,
}

/// The two ways to name an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EnvironmentName {
    /// Its name in the configuration, or its ID.
    NameOrId(String),
    /// The keys of its project and of itself.
    Keys { project: String, environment: String },
}

/// Place of a route's credential in the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Auth {
    /// SDK key in the header.
    Sdk,
    /// Mobile key in the header.
    Mobile,
    /// Environment ID in the path.
    EnvironmentId(String),
    /// Mobile key or environment ID in the header or the query (FDv2).
    Client,
}

/// Result of routing a path and a method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Routed {
    To(Route),
    /// The path is known, but does not allow the method.
    MethodNotAllowed,
    /// The same for a path of FDv2, with the methods of a path that browsers use.
    Fdv2MethodNotAllowed(Option<&'static str>),
    NotFound,
    /// The path has a percent sign that escapes nothing, which Go refuses before it routes.
    Malformed,
    /// Redirect to the clean form of the path, percent-encoded.
    Moved(String),
}

/// Routes a path (percent-encoded, without query) and a method.
pub(super) fn route(method: &Method, path: &str) -> Routed {
    let Some(decoded) = percent_decoded(path) else { return Routed::Malformed };
    // All names in paths are text.
    let Ok(decoded) = String::from_utf8(decoded) else { return Routed::NotFound };
    if let Some(clean) = cleaned(&decoded) {
        return Routed::Moved(percent_encoded(&clean));
    }
    let mut segments: Vec<&str> = decoded.split('/').skip(1).collect();
    if decoded == "/" {
        segments.clear();
    }
    let Some((methods, route)) = lookup(&segments, method) else { return Routed::NotFound };
    let is = |name: &&str| *name == method.as_str();
    if methods.split(' ').any(|name| is(&name)) {
        Routed::To(route)
    } else if let Route::Fdv2(methods) = route {
        Routed::Fdv2MethodNotAllowed(methods)
    } else {
        Routed::MethodNotAllowed
    }
}

/// The methods and the route of a path.
fn lookup(segments: &[&str], method: &Method) -> Option<(&'static str, Route)> {
    if segments.iter().any(|segment| segment.is_empty()) {
        return None;
    }
    Some(match segments {
        [] => ("GET", Route::Page),
        ["status"] => ("GET", Route::Status),
        ["status", name @ ..] => ("GET", status_of(name)?),
        ["livez"] => ("GET HEAD", Route::Livez),
        ["readyz"] => ("GET HEAD", Route::Readyz),
        ["all"] => ("GET", Route::StreamAll),
        ["flags"] => ("GET", Route::StreamFlags),
        ["sdk", "latest-all"] => ("GET", Route::LatestAll),
        ["sdk", "latest-flags"] => ("GET", Route::LatestFlags),
        ["sdk", "flags"] => ("GET", Route::Flags),
        ["sdk", "flags", key] => ("GET", Route::Flag((*key).to_owned())),
        ["sdk", "segments", key] => ("GET", Route::Segment((*key).to_owned())),
        // ld-relay v9.
        ["sdk", "stream" | "poll"] => ("GET", Route::Fdv2(None)),
        ["sdk", "stream" | "poll", "eval", _] => fdv2_of_clients("GET OPTIONS"),
        ["sdk", "stream" | "poll", "eval"] => fdv2_of_clients("POST OPTIONS"),
        _ => return client_route(segments, method),
    })
}

/// The route of `/status/…`, by what follows it.
fn status_of(segments: &[&str]) -> Option<Route> {
    let (name, filter) = match segments {
        [name @ .., "filters", filter] if !name.is_empty() => (name, *filter),
        name => (name, ""),
    };
    let name = match name {
        [name] => EnvironmentName::NameOrId((*name).to_owned()),
        [project, environment] => EnvironmentName::Keys {
            project: (*project).to_owned(),
            environment: (*environment).to_owned(),
        },
        _ => return None,
    };
    Some(Route::StatusOf(OneEnvironment { name, filter: filter.to_owned() }))
}

fn fdv2_of_clients(methods: &'static str) -> (&'static str, Route) {
    (methods, Route::Fdv2(Some(methods)))
}

/// Routes that are answered for a context, or that browsers use.
fn client_route(segments: &[&str], method: &Method) -> Option<(&'static str, Route)> {
    use ClientWanted::{Events, Goals, Pings, Values};
    use ContextPlace::Body;
    let by_id = |id: &str| Auth::EnvironmentId(id.to_owned());
    let in_path = |context: &str| ContextPlace::Path(context.to_owned());
    let (methods, auth, wanted) = match segments {
        // Two segments after `evalx` are ambiguous: for GET the key is in the header, for REPORT
        // and OPTIONS the environment is named in the path.
        ["sdk", "evalx", "contexts" | "users", context] if *method == Method::GET => {
            ("GET", Auth::Sdk, Values(in_path(context)))
        }
        ["sdk", "evalx", "context" | "user"] => ("REPORT", Auth::Sdk, Values(Body)),
        ["sdk", "evalx", id, "contexts" | "users", context] => {
            ("GET OPTIONS", by_id(id), Values(in_path(context)))
        }
        ["sdk", "evalx", id, "context" | "user" | "contexts" | "users"] => {
            ("REPORT OPTIONS", by_id(id), Values(Body))
        }
        ["msdk", "evalx", "contexts" | "users", context] => {
            ("GET", Auth::Mobile, Values(in_path(context)))
        }
        ["msdk", "evalx", "context" | "user"] => ("REPORT", Auth::Mobile, Values(Body)),
        ["mping"] => ("GET", Auth::Mobile, Pings(None)),
        ["meval", context] => ("GET", Auth::Mobile, Pings(Some(in_path(context)))),
        ["meval"] => ("REPORT", Auth::Mobile, Pings(Some(Body))),
        ["ping", id] => ("GET OPTIONS", by_id(id), Pings(None)),
        ["eval", id, context] => ("GET OPTIONS", by_id(id), Pings(Some(in_path(context)))),
        ["eval", id] => ("REPORT OPTIONS", by_id(id), Pings(Some(Body))),
        ["sdk", "goals", id] => ("GET OPTIONS", by_id(id), Goals),
        ["bulk"] => ("POST", Auth::Sdk, Events(EventForm::Analytics)),
        ["diagnostic"] => ("POST", Auth::Sdk, Events(EventForm::Diagnostic)),
        ["mobile"] | ["mobile", "events"] | ["mobile", "events", "bulk"] => {
            ("POST", Auth::Mobile, Events(EventForm::Analytics))
        }
        ["mobile", "events", "diagnostic"] => ("POST", Auth::Mobile, Events(EventForm::Diagnostic)),
        ["events", "bulk", id] => ("POST OPTIONS", by_id(id), Events(EventForm::Analytics)),
        ["events", "diagnostic", id] => ("POST OPTIONS", by_id(id), Events(EventForm::Diagnostic)),
        ["a", image] => {
            ("GET OPTIONS", by_id(image.strip_suffix(".gif")?), Events(EventForm::Image))
        }
        _ => return None,
    };
    Some((methods, Route::Client(ClientRoute { auth, methods, wanted })))
}

/// The decoded path or query; `None` if an escape is not valid.
pub(super) fn percent_decoded(path: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    Some(bytes)
}

/// Encodes a path as Go does, so that a client does not take encoded text for a query, a host or a
/// line break.
fn percent_encoded(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// The clean form of a path with empty, `.` or `..` segments; `None` if it is clean already.
fn cleaned(path: &str) -> Option<String> {
    if path == "//" {
        return Some("/".to_owned());
    }
    let inner = path.strip_prefix('/').unwrap_or(path);
    let (inner, slash) = match inner.strip_suffix('/') {
        Some(inner) => (inner, "/"),
        None => (inner, ""),
    };
    let dirty = |segment: &str| matches!(segment, "" | "." | "..");
    if inner.is_empty() || !inner.split('/').any(dirty) {
        return None;
    }
    let mut kept: Vec<&str> = Vec::new();
    for segment in inner.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let slash = if kept.is_empty() { "" } else { slash };
    Some(format!("/{}{slash}", kept.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(request: &str, expected: Routed) {
        let (method, path) = request.split_once(' ').unwrap();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        assert_eq!(route(&method, path), expected, "{request}");
    }

    #[test]
    fn paths_and_methods_are_ld_relays() {
        check("GET /", Routed::To(Route::Page));
        check("POST /", Routed::MethodNotAllowed);
        check("GET /all", Routed::To(Route::StreamAll));
        check("GET /sdk/flags/a%20b", Routed::To(Route::Flag("a b".to_owned())));
        check("GET /sdk/segments/s", Routed::To(Route::Segment("s".to_owned())));
        for request in
            ["HEAD /status", "POST /status", "OPTIONS /all", "GET /bulk", "DELETE /mping"]
        {
            check(request, Routed::MethodNotAllowed);
        }
        for request in [
            "GET /nothing",
            "GET /all/",
            "GET /sdk/flags/a%2Fb",
            "GET /sdk/flags/%ff",
            "GET /a/x.png",
            "GET /sdk/flags/",
        ] {
            check(request, Routed::NotFound);
        }
        for request in ["GET /sdk/flags/%zz", "GET /nothing/%", "POST /all%2"] {
            check(request, Routed::Malformed);
        }
    }

    #[test]
    fn unclean_paths_move() {
        check("GET //all", Routed::Moved("/all".to_owned()));
        check("GET /sdk/../all", Routed::Moved("/all".to_owned()));
        check("GET /sdk//flags/x/", Routed::Moved("/sdk/flags/x/".to_owned()));
        check("GET /../..", Routed::Moved("/".to_owned()));
        check("GET //", Routed::Moved("/".to_owned()));
        check("GET /all/.", Routed::Moved("/all".to_owned()));
        check("GET /all//", Routed::Moved("/all/".to_owned()));
        check("GET /sdk/flags/%2F", Routed::Moved("/sdk/flags/".to_owned()));
        check(
            "GET //%5Chost.example/%0d%0a?",
            Routed::Moved("/%5Chost.example/%0D%0A%3F".to_owned()),
        );
        check("GET /sdk//flags/a%20%C3%A9", Routed::Moved("/sdk/flags/a%20%C3%A9".to_owned()));
    }

    #[test]
    fn routes_of_clients_are_known_by_credential() {
        use ClientWanted::{Events, Goals, Pings, Values};
        use ContextPlace::Body;
        use EventForm::{Analytics, Diagnostic, Image};
        let check = |request: &str, auth, methods, wanted| {
            check(request, Routed::To(Route::Client(ClientRoute { auth, methods, wanted })));
        };
        let id = |id: &str| Auth::EnvironmentId(id.to_owned());
        let path = || ContextPlace::Path("abc".to_owned());
        check("POST /bulk", Auth::Sdk, "POST", Events(Analytics));
        check("POST /diagnostic", Auth::Sdk, "POST", Events(Diagnostic));
        check("POST /mobile", Auth::Mobile, "POST", Events(Analytics));
        check("POST /mobile/events/bulk", Auth::Mobile, "POST", Events(Analytics));
        check("POST /mobile/events/diagnostic", Auth::Mobile, "POST", Events(Diagnostic));
        check("POST /events/bulk/e1", id("e1"), "POST OPTIONS", Events(Analytics));
        check("POST /events/diagnostic/e1", id("e1"), "POST OPTIONS", Events(Diagnostic));
        check("GET /a/e1.gif", id("e1"), "GET OPTIONS", Events(Image));
        check("GET /sdk/goals/e1", id("e1"), "GET OPTIONS", Goals);
        check("GET /sdk/evalx/contexts/abc", Auth::Sdk, "GET", Values(path()));
        check("GET /sdk/evalx/users/abc", Auth::Sdk, "GET", Values(path()));
        check("GET /sdk/evalx/contexts/users/abc", id("contexts"), "GET OPTIONS", Values(path()));
        check("GET /sdk/evalx/e1/contexts/abc", id("e1"), "GET OPTIONS", Values(path()));
        check("REPORT /sdk/evalx/user", Auth::Sdk, "REPORT", Values(Body));
        for name in ["user", "users", "context", "contexts"] {
            for method in ["REPORT", "OPTIONS"] {
                let request = format!("{method} /sdk/evalx/e1/{name}");
                check(&request, id("e1"), "REPORT OPTIONS", Values(Body));
            }
        }
        check("GET /msdk/evalx/users/abc", Auth::Mobile, "GET", Values(path()));
        check("REPORT /msdk/evalx/context", Auth::Mobile, "REPORT", Values(Body));
        check("GET /mping", Auth::Mobile, "GET", Pings(None));
        check("GET /meval/abc", Auth::Mobile, "GET", Pings(Some(path())));
        check("REPORT /meval", Auth::Mobile, "REPORT", Pings(Some(Body)));
        check("GET /ping/e1", id("e1"), "GET OPTIONS", Pings(None));
        check("GET /eval/e1/abc", id("e1"), "GET OPTIONS", Pings(Some(path())));
        check("REPORT /eval/e1", id("e1"), "REPORT OPTIONS", Pings(Some(Body)));
    }

    #[test]
    fn routes_of_ld_relay_9_are_known() {
        for path in ["/sdk/stream", "/sdk/poll"] {
            check(&format!("GET {path}"), Routed::To(Route::Fdv2(None)));
            for method in ["HEAD", "POST"] {
                check(&format!("{method} {path}"), Routed::Fdv2MethodNotAllowed(None));
            }
            let wrong = Routed::Fdv2MethodNotAllowed(Some("POST OPTIONS"));
            check(&format!("REPORT {path}/eval"), wrong);
            let of_clients = |methods| Routed::To(Route::Fdv2(Some(methods)));
            check(&format!("GET {path}/eval/abc"), of_clients("GET OPTIONS"));
            check(&format!("OPTIONS {path}/eval/abc"), of_clients("GET OPTIONS"));
            check(&format!("POST {path}/eval"), of_clients("POST OPTIONS"));
        }
        let by_name = |name: &str| EnvironmentName::NameOrId(name.to_owned());
        let keys = |project: &str, environment: &str| EnvironmentName::Keys {
            project: project.to_owned(),
            environment: environment.to_owned(),
        };
        let by_keys = || keys("p", "e");
        for (path, name, filter) in [
            ("/status/x", by_name("x"), ""),
            ("/status/x%20y/filters/f", by_name("x y"), "f"),
            ("/status/p/e", by_keys(), ""),
            ("/status/p/e/filters/f", by_keys(), "f"),
            ("/status/filters/e", keys("filters", "e"), ""),
        ] {
            let one = OneEnvironment { name, filter: filter.to_owned() };
            check(&format!("GET {path}"), Routed::To(Route::StatusOf(one)));
        }
        check("GET /status/a/b/c", Routed::NotFound);
        check("POST /status/x", Routed::MethodNotAllowed);
    }
}
