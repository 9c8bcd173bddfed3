//! Turns requests into responses.

use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use http_body_util::BodyExt;
use hyper::body::Body as HttpBody;
use hyper::header::{EXPECT, HeaderValue, LOCATION};
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::Instant;

use super::Server;
use super::authorized_request::AuthorizedRequest;
use super::body::Body;
use super::cors::{self, Allowed};
use super::not_built::Feature;
use super::pace::Pace;
use super::polling::Poll;
use super::responses::{empty, not_found, text, unavailable};
use super::routes::{Auth, Route, Routed, route};
use super::selection::form_decoded;
use crate::model::{EnvironmentId, ItemKey, ItemKind};
use crate::streams::StreamKind;

const MALFORMED: &str = "400 Bad Request";
const OVER_LIMIT: &str = "Too many connections are open at this moment";
const NO_EXPECT: &str =
    "The relay does not check expectations (`expect`) yet; ask /status without it";
const NO_STATUS_OF_ONE: &str =
    "The relay does not tell the status of one environment yet; GET /status tells that of all";

/// Header that tells SDKs with FDv2 to use FDv1.
const FALLBACK: &str = "X-LD-FD-Fallback";

/// Most bytes of an unused request body that are read and dropped (Go: 256 KiB). A client that is
/// still sending when the connection closes would not see its answer.
const DISCARDED_BYTES_MAX: usize = 256 * 1024;

/// Time limit for reading such a body.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

impl Server {
    /// Answers one request. Never fails: an error is a response too.
    pub(super) async fn handle<B>(&self, request: Request<B>, pace: &Arc<Pace>) -> Response<Body>
    where
        B: HttpBody + Unpin,
    {
        let (head, body) = request.into_parts();
        let request = Request::from_parts(head, ());
        // The body is read first, so that the answer is current after the wait. A client that sent
        // `Expect` gets the answer at once and does not send its body.
        if !body.is_end_stream() && !request.headers().contains_key(EXPECT) {
            discard(body).await;
        }
        self.respond(&request, pace).await
    }

    /// Answers a request on a connection beyond the limit: probes as usual, everything else with
    /// 503 and `Retry-After`.
    pub(super) async fn handle_over_limit<B>(
        &self,
        request: Request<B>,
        pace: &Arc<Pace>,
    ) -> Response<Body> {
        let routed = route(request.method(), request.uri().path());
        // The body is not awaited.
        drop(request);
        match routed {
            Routed::To(Route::Livez) => text(StatusCode::OK, "ok"),
            Routed::To(Route::Readyz) => self.readyz(),
            Routed::To(Route::Status) => self.status_page.answer(pace).await,
            Routed::To(_)
            | Routed::MethodNotAllowed
            | Routed::Fdv2MethodNotAllowed(_)
            | Routed::NotFound
            | Routed::Malformed
            | Routed::Moved(_) => unavailable(OVER_LIMIT),
        }
    }

    async fn respond(&self, request: &Request<()>, pace: &Arc<Pace>) -> Response<Body> {
        let routed = route(request.method(), request.uri().path());
        let route = match routed {
            Routed::To(route) => route,
            Routed::MethodNotAllowed => return empty(StatusCode::METHOD_NOT_ALLOWED),
            Routed::Fdv2MethodNotAllowed(methods) => {
                let response = empty(StatusCode::METHOD_NOT_ALLOWED);
                return with_fallback(response, request, methods);
            }
            Routed::NotFound => return not_found(),
            Routed::Malformed => return text(StatusCode::BAD_REQUEST, MALFORMED),
            Routed::Moved(path) => return moved(&path, request.uri().query()),
        };
        let (auth, wanted) = match route {
            Route::NotBuilt { auth, feature, methods } => {
                return self.not_built(request, &auth, feature, methods).await;
            }
            Route::Fdv2(methods) => return self.fdv2(request, methods),
            Route::StatusOfOne => return text(StatusCode::NOT_FOUND, NO_STATUS_OF_ONE),
            Route::Status if has_query(request, "expect") => {
                return text(StatusCode::BAD_REQUEST, NO_EXPECT);
            }
            Route::Livez => return text(StatusCode::OK, "ok"),
            Route::Readyz => return self.readyz(),
            Route::Status => return self.status_page.answer(pace).await,
            Route::StreamAll => (Auth::Sdk, Wanted::Stream(StreamKind::All)),
            Route::StreamFlags => (Auth::Sdk, Wanted::Stream(StreamKind::Flags)),
            Route::LatestAll => (Auth::Sdk, Wanted::Poll(Poll::LatestAll)),
            Route::LatestFlags | Route::Flags => (Auth::Sdk, Wanted::Poll(Poll::LatestFlags)),
            Route::Flag(key) => (Auth::Sdk, item(ItemKind::Flag, key)),
            Route::Segment(key) => (Auth::Sdk, item(ItemKind::Segment, key)),
        };
        let mut asked = match self.select(request, &auth).await {
            Ok(access) => AuthorizedRequest { request, auth, access, pace },
            Err(refused) => return refused,
        };
        pace.trust();
        let answered = match wanted {
            Wanted::Stream(kind) => self.stream(&mut asked, kind).await,
            Wanted::Poll(poll) => self.poll(&mut asked, &poll).await,
        };
        let mut response = match answered {
            Ok(response) => response,
            Err(refused) => return refused,
        };
        let id = asked.access.environment.spec().credentials.environment_id.clone();
        name_environment(&mut response, id);
        response
    }

    /// Answers a route of a feature that is not built: 503 to clients that may use the environment.
    async fn not_built(
        &self,
        request: &Request<()>,
        auth: &Auth,
        feature: Feature,
        methods: &str,
    ) -> Response<Body> {
        let selected = self.select(request, auth).await;
        let spec = selected.as_ref().ok().map(|access| access.environment.spec());
        let mut response = match selected {
            Ok(_) if request.method() == Method::OPTIONS => empty(StatusCode::OK),
            Ok(access) => {
                let environment = access.environment.reference.to_string();
                if self.not_built.is_due(&environment, feature, Instant::now()) {
                    tracing::warn!(
                        environment,
                        feature = feature.name(),
                        advice = feature.advice(),
                        "an SDK asks for a feature that this version does not have, and gets 503"
                    );
                }
                text(StatusCode::SERVICE_UNAVAILABLE, feature.answer())
            }
            Err(refused) => refused,
        };
        if let Auth::EnvironmentId(_) = auth {
            let allowed = spec.as_ref().map_or(Allowed::default(), |spec| Allowed {
                origins: &spec.allowed_origins,
                headers: &spec.allowed_headers,
            });
            cors::add(response.headers_mut(), request.headers(), methods, allowed, &[]);
        }
        let id = spec.and_then(|spec| spec.credentials.environment_id.clone());
        name_environment(&mut response, id);
        response
    }

    /// Answers a route of FDv2. Every SDK with FDv2 obeys the header, whatever the status is; the
    /// credential is checked when the SDK comes back with FDv1. `methods` are those of a route that
    /// browsers use.
    fn fdv2(&self, request: &Request<()>, methods: Option<&str>) -> Response<Body> {
        let response = if request.method() == Method::OPTIONS {
            empty(StatusCode::OK)
        } else {
            if self.not_built.is_due("", Feature::Fdv2, Instant::now()) {
                tracing::info!(
                    "an SDK asks for FDv2, which this version does not have; it is told to use FDv1"
                );
            }
            text(StatusCode::NOT_FOUND, Feature::Fdv2.answer())
        };
        with_fallback(response, request, methods)
    }
}

/// Tells SDKs to use FDv1; `methods` are those of a route that browsers use.
fn with_fallback(
    mut response: Response<Body>,
    request: &Request<()>,
    methods: Option<&str>,
) -> Response<Body> {
    if let Some(methods) = methods {
        let allowed = Allowed::default();
        cors::add(response.headers_mut(), request.headers(), methods, allowed, &[FALLBACK]);
    }
    response.headers_mut().insert("x-ld-fd-fallback", HeaderValue::from_static("true"));
    response
}

/// Adds the header with the environment's ID (ld-relay v9), which several SDKs read.
fn name_environment(response: &mut Response<Body>, id: Option<EnvironmentId>) {
    if let Some(id) = id
        && let Ok(value) = HeaderValue::try_from(id.as_str())
    {
        response.headers_mut().insert("x-ld-envid", value);
    }
}

/// True if the query has a parameter of that name.
fn has_query(request: &Request<()>, name: &str) -> bool {
    let query = request.uri().query().unwrap_or_default();
    query.split('&').any(|pair| form_decoded(pair.split('=').next().unwrap_or_default()) == name)
}

/// Reads and drops a body, within bounds.
async fn discard(mut body: impl HttpBody + Unpin) {
    let mut seen = 0;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await
            && seen <= DISCARDED_BYTES_MAX
        {
            seen += frame.data_ref().map_or(0, Buf::remaining);
        }
    };
    // However it ends, the answer is the same.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, reading).await;
}

enum Wanted {
    Stream(StreamKind),
    Poll(Poll),
}

fn item(kind: ItemKind, key: String) -> Wanted {
    Wanted::Poll(Poll::Item(ItemKey::new(kind, key)))
}

fn moved(path: &str, query: Option<&str>) -> Response<Body> {
    let location = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut response = empty(StatusCode::MOVED_PERMANENTLY);
    match HeaderValue::try_from(location) {
        Ok(location) => {
            response.headers_mut().insert(LOCATION, location);
            response
        }
        Err(_) => not_found(),
    }
}
