//! Answers requests: credentials, routes, headers.
//!
//! The statuses are LaunchDarkly's: 401 for an unknown SDK, mobile or autoconfig key, 404 for an
//! unknown environment ID or filter, 202 for events.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::time::Instant;

use super::faults::{Answer, FixedAnswer, Verdict};
use super::request_log::RequestRecord;
use super::shared::{Shared, StreamKind};
use super::stream_body::StreamBody;
use super::world::Audience;
use super::{AUTOCONFIG_PATH, DataScope, FLAGS_PATH, wire};
use crate::model::{ItemKey, ItemKind};

/// Largest accepted body of events; LaunchDarkly's own limit is of this order.
const EVENT_BODY_BYTES_MAX: usize = 10 * 1024 * 1024;

/// Names the answering environment to SDKs.
const ENVIRONMENT_HEADER: &str = "x-ld-envid";

type FakeBody = Either<Full<Bytes>, StreamBody>;
type FakeResponse = Response<FakeBody>;

/// Error that resets the connection instead of an answer.
#[derive(Debug)]
pub(super) struct ResetOnCommand;

impl fmt::Display for ResetOnCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("connection reset on command")
    }
}

impl std::error::Error for ResetOnCommand {}

/// One request with its connection, key and verdict.
struct Asked {
    shared: Arc<Shared>,
    connection: u64,
    key: String,
    verdict: Verdict,
    path: String,
    query: String,
    headers: HeaderMap,
}

/// Answers one request, or applies the active faults to it.
pub(super) async fn respond(
    shared: Arc<Shared>,
    connection: u64,
    request: Request<Incoming>,
) -> Result<FakeResponse, ResetOnCommand> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let query = head.uri.query().unwrap_or_default().to_owned();
    let key = presented_key(&path, &head.headers);
    let record = RequestRecord {
        method: head.method.clone(),
        path: path.clone(),
        query: query.clone(),
        headers: head.headers.clone(),
        at: Instant::now(),
    };
    let (verdict, shape) = shared.with(|inner| {
        (inner.admit(connection, record, &key), inner.shape_of(connection).unwrap_or_default())
    });
    shape.thawed().await;
    match &verdict.answer {
        Answer::Reset => {
            shape.reset_at_end();
            return Err(ResetOnCommand);
        }
        Answer::Hang => return std::future::pending().await,
        Answer::Fixed(answer) => return Ok(fixed(answer)),
        Answer::Right | Answer::BlackHole(_) => {}
    }
    let asked = Asked { shared, connection, key, verdict, path, query, headers: head.headers };
    Ok(match head.method {
        Method::GET => asked.get(),
        Method::POST => asked.post(body).await,
        _ => status(StatusCode::METHOD_NOT_ALLOWED),
    })
}

impl Asked {
    fn get(&self) -> FakeResponse {
        let segments: Vec<&str> = self.path.split('/').skip(1).collect();
        match segments.as_slice() {
            _ if self.path == AUTOCONFIG_PATH => self.autoconfig_stream(),
            _ if self.path == FLAGS_PATH => self.flag_stream(),
            ["sdk", "latest-all"] => self.poll(None),
            ["sdk", "flags"] => self.poll(Some(ItemKind::Flag)),
            ["sdk", "flags", key] => self.item(ItemKind::Flag, key),
            ["sdk", "segments", key] => self.item(ItemKind::Segment, key),
            ["sdk", "goals", id] => match self.environment_exists(id) {
                true => json(Bytes::from_static(b"[]")),
                false => status(StatusCode::NOT_FOUND),
            },
            _ => status(StatusCode::NOT_FOUND),
        }
    }

    async fn post(self, body: Incoming) -> FakeResponse {
        let segments: Vec<&str> = self.path.split('/').skip(1).collect();
        let refused = match segments.as_slice() {
            ["bulk" | "diagnostic"] => self.refused(Audience::Server),
            ["mobile"] | ["mobile", "events", "diagnostic"] => self.refused(Audience::Mobile),
            ["events", "bulk" | "diagnostic", id] => {
                (!self.environment_exists(id)).then_some(StatusCode::NOT_FOUND)
            }
            _ => Some(StatusCode::NOT_FOUND),
        };
        if let Some(refused) = refused {
            return status(refused);
        }
        match Limited::new(body, EVENT_BODY_BYTES_MAX).collect().await {
            Ok(body) => {
                let Self { shared, path, headers, .. } = self;
                shared.with(|inner| inner.log.deliver(path, headers, body.to_bytes()));
                status(StatusCode::ACCEPTED)
            }
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                status(StatusCode::PAYLOAD_TOO_LARGE)
            }
            Err(_broken_off) => status(StatusCode::BAD_REQUEST),
        }
    }

    fn autoconfig_stream(&self) -> FakeResponse {
        let opened = self.shared.with(|inner| {
            inner.world.accepts_autoconfig_key(&self.key).then(|| {
                let kind = StreamKind::Autoconfig;
                inner.open_stream(self.connection, kind, &self.key, &self.verdict)
            })
        });
        match opened {
            Some(opened) => self.stream(StreamBody::new(self.shared.clone(), opened)),
            None => status(StatusCode::UNAUTHORIZED),
        }
    }

    fn flag_stream(&self) -> FakeResponse {
        let scope = match self.scope() {
            Ok(scope) => scope,
            Err(refused) => return status(refused),
        };
        let environment = scope.environment.clone();
        let opened = self.shared.with(|inner| {
            let kind = StreamKind::Flags(scope);
            inner.open_stream(self.connection, kind, &self.key, &self.verdict)
        });
        let mut response = self.stream(StreamBody::new(self.shared.clone(), opened));
        insert(response.headers_mut(), ENVIRONMENT_HEADER, &environment);
        response
    }

    fn stream(&self, body: StreamBody) -> FakeResponse {
        let content_type = self.verdict.content_type.as_deref();
        let mut response = Response::new(Either::Right(body));
        let headers = response.headers_mut();
        insert(headers, "content-type", content_type.unwrap_or("text/event-stream; charset=utf-8"));
        insert(headers, "cache-control", "no-cache, no-store, must-revalidate");
        insert(headers, "connection", "keep-alive");
        response
    }

    /// Answers a poll: `None` for all data, else the map of one collection.
    fn poll(&self, kind: Option<ItemKind>) -> FakeResponse {
        self.with_data(|data| {
            Some(match kind {
                None => wire::all_json(data),
                Some(kind) => wire::collection_json(data, kind),
            })
        })
    }

    fn item(&self, kind: ItemKind, key: &str) -> FakeResponse {
        let key = ItemKey::new(kind, percent_decoded(key));
        self.with_data(|data| data.item(&key)?.json.clone())
    }

    /// Answers with JSON made from the requested data; 304 if the client has it.
    fn with_data(
        &self,
        body: impl FnOnce(&crate::model::DataSet) -> Option<Bytes>,
    ) -> FakeResponse {
        let scope = match self.scope() {
            Ok(scope) => scope,
            Err(refused) => return status(refused),
        };
        let (body, etag) = self.shared.with(|inner| {
            let (data, etag) = inner.world.data(&scope);
            (body(data), etag)
        });
        let Some(body) = body else { return status(StatusCode::NOT_FOUND) };
        let known = self.headers.get(header::IF_NONE_MATCH).and_then(|held| held.to_str().ok());
        let known = known.map(|held| held.trim_start_matches("W/"));
        let mut response = match known == Some(etag.as_str()) {
            true => status(StatusCode::NOT_MODIFIED),
            false => json(body),
        };
        insert(response.headers_mut(), "etag", &etag);
        insert(response.headers_mut(), ENVIRONMENT_HEADER, &scope.environment);
        if let Some(content_type) = &self.verdict.content_type {
            insert(response.headers_mut(), "content-type", content_type);
        }
        response
    }

    /// The data that key and `?filter=` select.
    fn scope(&self) -> Result<DataScope, StatusCode> {
        let filter = self.query.split('&').find_map(|pair| pair.strip_prefix("filter="));
        let filter = filter.map(percent_decoded).unwrap_or_default();
        self.shared.with(|inner| {
            let now = now_milliseconds();
            let environment = inner.world.environment_of(&self.key, Audience::Server, now);
            let environment = environment.ok_or(StatusCode::UNAUTHORIZED)?.to_owned();
            let scope = DataScope { environment, filter };
            if inner.world.serves(&scope) { Ok(scope) } else { Err(StatusCode::NOT_FOUND) }
        })
    }

    fn refused(&self, audience: Audience) -> Option<StatusCode> {
        let now = now_milliseconds();
        let known = self
            .shared
            .with(|inner| inner.world.environment_of(&self.key, audience, now).is_some());
        (!known).then_some(StatusCode::UNAUTHORIZED)
    }

    fn environment_exists(&self, id: &str) -> bool {
        self.shared.with(|inner| inner.world.environment(id).is_some())
    }
}

/// The key in `Authorization` (LaunchDarkly also accepts the form `api_key <key>`), else the
/// environment ID at the end of a client-side path.
fn presented_key(path: &str, headers: &HeaderMap) -> String {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        return value.strip_prefix("api_key ").map(str::to_owned).unwrap_or(value);
    }
    match path.split('/').collect::<Vec<_>>().as_slice() {
        ["", "events", _, id] | ["", "sdk", "goals", id] => (*id).to_owned(),
        _ => String::new(),
    }
}

fn now_milliseconds() -> u64 {
    // Only for the expiry of keys; a clock before 1970 means 1970.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}

fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = (byte == b'%').then(|| after.get(..2)).flatten();
        let decoded =
            hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        out.push(decoded.unwrap_or(byte));
        rest = if decoded.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn fixed(answer: &FixedAnswer) -> FakeResponse {
    let mut response = Response::new(Either::Left(Full::new(answer.body.clone())));
    *response.status_mut() =
        StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in &answer.headers {
        if let Ok(name) = header::HeaderName::try_from(name) {
            insert(response.headers_mut(), name, value);
        }
    }
    response
}

fn status(status: StatusCode) -> FakeResponse {
    let mut response = Response::new(Either::Left(Full::default()));
    *response.status_mut() = status;
    response
}

fn json(body: Bytes) -> FakeResponse {
    let mut response = Response::new(Either::Left(Full::new(body)));
    insert(response.headers_mut(), "content-type", "application/json");
    response
}

/// Sets a header; a value that is not allowed in one is left out.
fn insert(headers: &mut HeaderMap, name: impl header::IntoHeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_signs_are_decoded_where_they_mean_something() {
        let check = |text, expected| assert_eq!(percent_decoded(text), expected, "{text}");
        check("a%20b", "a b");
        check("%D1%8F", "я");
        check("100%", "100%");
        check("%zz%4", "%zz%4");
    }

    #[test]
    fn keys_are_found_in_the_header_or_in_the_path() {
        let check = |path, header: Option<&'static str>, expected| {
            let mut headers = HeaderMap::new();
            if let Some(value) = header {
                headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            assert_eq!(presented_key(path, &headers), expected, "{path} {header:?}");
        };
        check("/all", Some("sdk-a"), "sdk-a");
        check("/all", Some("api_key sdk-a"), "sdk-a");
        check("/events/bulk/e1", None, "e1");
        check("/sdk/goals/e1", None, "e1");
        check("/all", None, "");
    }
}
