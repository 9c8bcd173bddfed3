//! From a request to its response.

use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use http_body_util::BodyExt;
use hyper::body::Body as HttpBody;
use hyper::header::{EXPECT, HeaderValue, LOCATION};
use hyper::{Request, Response, StatusCode};

use super::Server;
use super::body::Body;
use super::pace::Pace;
use super::polling::Poll;
use super::responses::{empty, json, not_found, text, unavailable};
use super::routes::{Auth, Route, Routed, route};
use crate::environments::Access;
use crate::model::{ItemKey, ItemKind};
use crate::streams::StreamKind;

const MALFORMED: &str = "400 Bad Request";
const OVER_LIMIT: &str = "Too many connections are open at this moment";
const NOT_BUILT: &str = "This version of the relay does not serve this route yet";

/// Most bytes of a request's body that are read although nobody wants them (Go: 256 KiB). A
/// client that is still sending when the connection closes would not see its answer.
const DISCARDED_BYTES_MAX: usize = 256 * 1024;

/// How long such a body may take.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

impl Server {
    /// Answers one request. Never fails: what goes wrong is a response.
    pub(super) async fn handle<B>(&self, request: Request<B>, pace: &Arc<Pace>) -> Response<Body>
    where
        B: HttpBody + Unpin,
    {
        let (head, body) = request.into_parts();
        let request = Request::from_parts(head, ());
        // Before the answer is made, so that it is not of before the wait. A client that asks
        // before it sends a body sees the answer in time, and will not send it.
        if !body.is_end_stream() && !request.headers().contains_key(EXPECT) {
            discard(body).await;
        }
        self.respond(&request, pace).await
    }

    /// Answers a request on a connection beyond the limit: probes as always, everything else with
    /// the advice to come again.
    pub(super) fn handle_over_limit<B>(&self, request: &Request<B>) -> Response<Body> {
        match route(request.method(), request.uri().path()) {
            Routed::To(Route::Livez) => text(StatusCode::OK, "ok"),
            Routed::To(Route::Readyz) => self.readyz(),
            Routed::To(Route::Status) => json(StatusCode::OK, self.status()),
            Routed::To(_)
            | Routed::MethodNotAllowed
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
            Routed::NotFound => return not_found(),
            Routed::Malformed => return text(StatusCode::BAD_REQUEST, MALFORMED),
            Routed::Moved(path) => return moved(&path, request.uri().query()),
        };
        let (auth, wanted) = match route {
            Route::Livez => return text(StatusCode::OK, "ok"),
            Route::Readyz => return self.readyz(),
            Route::Status => return json(StatusCode::OK, self.status()),
            Route::NotBuilt(auth) => (auth, None),
            Route::StreamAll => (Auth::Sdk, Some(Wanted::Stream(StreamKind::All))),
            Route::StreamFlags => (Auth::Sdk, Some(Wanted::Stream(StreamKind::Flags))),
            Route::LatestAll => (Auth::Sdk, Some(Wanted::Poll(Poll::LatestAll))),
            Route::LatestFlags | Route::Flags => (Auth::Sdk, Some(Wanted::Poll(Poll::LatestFlags))),
            Route::Flag(key) => (Auth::Sdk, Some(item(ItemKind::Flag, key))),
            Route::Segment(key) => (Auth::Sdk, Some(item(ItemKind::Segment, key))),
        };
        let mut asked = match self.select(request, &auth).await {
            Ok(access) => Asked { request, auth, access, pace },
            Err(refused) => return refused,
        };
        pace.trust();
        let answered = match wanted {
            None => Ok(unavailable(NOT_BUILT)),
            Some(Wanted::Stream(kind)) => self.stream(&mut asked, kind).await,
            Some(Wanted::Poll(poll)) => self.poll(&mut asked, &poll).await,
        };
        let mut response = match answered {
            Ok(response) => response,
            Err(refused) => return refused,
        };
        // ld-relay v9; several SDKs read it.
        if let Some(id) = &asked.access.environment.spec().credentials.environment_id
            && let Ok(value) = HeaderValue::try_from(id.as_str())
        {
            response.headers_mut().insert("x-ld-envid", value);
        }
        response
    }
}

/// A request whose credential is valid.
pub(super) struct Asked<'a> {
    pub(super) request: &'a Request<()>,
    pub(super) auth: Auth,
    /// What the credential opened when it was last looked at.
    pub(super) access: Access,
    pub(super) pace: &'a Arc<Pace>,
}

/// Reads what nobody wants, within bounds.
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
