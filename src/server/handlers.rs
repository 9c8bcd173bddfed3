//! Turns requests into responses.

use std::sync::Arc;

use hyper::body::Body as HttpBody;
use hyper::header::{HeaderValue, LOCATION};
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::Instant;

use super::Server;
use super::authorized_request::AuthorizedRequest;
use super::body::{Body, discard};
use super::cors::{self, Allowed};
use super::not_built::Feature;
use super::pace::Pace;
use super::polling::Poll;
use super::refusals::Refusal;
use super::responses::{empty, not_found, text, unavailable};
use super::routes::{Auth, Route, Routed, route};
use crate::model::{EnvironmentId, ItemKey, ItemKind};
use crate::streams::StreamKind;

const MALFORMED: &str = "400 Bad Request";

/// Header that tells SDKs with FDv2 to use FDv1.
const FALLBACK: &str = "X-LD-FD-Fallback";

impl Server {
    /// Answers one request. Never fails: an error is a response too.
    pub(super) async fn handle<B>(&self, request: Request<B>, pace: &Arc<Pace>) -> Response<Body>
    where
        B: HttpBody + Unpin,
    {
        let (head, mut body) = request.into_parts();
        let request = Request::from_parts(head, ());
        let routed = route(request.method(), request.uri().path());
        if !matches!(routed, Routed::To(Route::Client(_))) {
            // The body is read first, so that the answer is current after the wait.
            discard(&request, &mut body).await;
        }
        self.respond(&request, &mut body, routed, pace).await
    }

    /// Answers a request on a connection beyond the limit: probes as usual, everything else with
    /// 503 and `Retry-After`.
    pub(super) async fn handle_over_limit<B>(
        &self,
        request: Request<B>,
        pace: &Arc<Pace>,
    ) -> Response<Body> {
        let (head, body) = request.into_parts();
        // The body is not awaited.
        drop(body);
        match route(&head.method, head.uri.path()) {
            Routed::To(Route::Livez) => text(StatusCode::OK, "ok"),
            Routed::To(Route::Readyz) => self.readyz(),
            Routed::To(Route::Status) => self.status_page.answer(head.uri.query(), pace).await,
            Routed::To(_)
            | Routed::MethodNotAllowed
            | Routed::Fdv2MethodNotAllowed(_)
            | Routed::NotFound
            | Routed::Malformed
            | Routed::Moved(_) => unavailable(Refusal::OverLimit),
        }
    }

    async fn respond<B>(
        &self,
        request: &Request<()>,
        body: &mut B,
        routed: Routed,
        pace: &Arc<Pace>,
    ) -> Response<Body>
    where
        B: HttpBody + Unpin,
    {
        let route = match routed {
            Routed::To(route) => route,
            Routed::MethodNotAllowed => return empty(StatusCode::METHOD_NOT_ALLOWED),
            Routed::Fdv2MethodNotAllowed(methods) => {
                let response = empty(StatusCode::METHOD_NOT_ALLOWED);
                return with_fallback(response, request, methods, Allowed::default());
            }
            Routed::NotFound => return not_found(),
            Routed::Malformed => return text(StatusCode::BAD_REQUEST, MALFORMED),
            Routed::Moved(path) => return moved(&path, request.uri().query()),
        };
        let (auth, wanted) = match route {
            Route::Client(route) => return self.client_side(request, body, route, pace).await,
            Route::Fdv2(methods) => return self.fdv2(request, methods).await,
            Route::Page => {
                return match self.settings.has_status_page {
                    true => self.status_page.page(pace).await,
                    false => not_found(),
                };
            }
            Route::StatusOf(one) => {
                return self.status_page.answer_of_one(&one, request.uri().query());
            }
            Route::Livez => return text(StatusCode::OK, "ok"),
            Route::Readyz => return self.readyz(),
            Route::Status => {
                return self.status_page.answer(request.uri().query(), pace).await;
            }
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

    /// Answers a route of FDv2. Every SDK with FDv2 obeys the header, whatever the status is.
    /// `methods` are those of a route that browsers use.
    async fn fdv2(&self, request: &Request<()>, methods: Option<&str>) -> Response<Body> {
        if request.method() == Method::OPTIONS {
            return with_fallback(empty(StatusCode::OK), request, methods, Allowed::default());
        }
        let auth = if methods.is_some() { Auth::Client } else { Auth::Sdk };
        let (response, spec) = match self.select(request, &auth).await {
            Ok(access) => {
                if self.not_built.is_due("", Feature::Fdv2, Instant::now()) {
                    tracing::info!(
                        "an SDK asks for FDv2, which this version does not have; it is told to use \
                         FDv1"
                    );
                }
                let spec = access.environment.spec();
                (text(StatusCode::NOT_FOUND, Feature::Fdv2.answer()), Some(spec))
            }
            Err(refused) => (refused, None),
        };
        let allowed = spec.as_deref().map_or(Allowed::default(), Allowed::of);
        with_fallback(response, request, methods, allowed)
    }
}

/// Tells SDKs to use FDv1; `methods` are those of a route that browsers use.
fn with_fallback(
    mut response: Response<Body>,
    request: &Request<()>,
    methods: Option<&str>,
    allowed: Allowed<'_>,
) -> Response<Body> {
    if let Some(methods) = methods {
        cors::add(response.headers_mut(), request.headers(), methods, allowed, &[FALLBACK]);
    }
    response.headers_mut().insert("x-ld-fd-fallback", HeaderValue::from_static("true"));
    response
}

/// Adds the header with the environment's ID (ld-relay v9), which several SDKs read.
pub(super) fn name_environment(response: &mut Response<Body>, id: Option<EnvironmentId>) {
    if let Some(id) = id
        && let Ok(value) = HeaderValue::try_from(id.as_str())
    {
        response.headers_mut().insert("x-ld-envid", value);
    }
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
