//! Logs of the requests and deliveries of clients.
//!
//! Invariant: a payload that arrives again under the same `X-LaunchDarkly-Payload-ID` is counted
//! on its first delivery and not stored again (as LaunchDarkly's event service does).

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use hyper::{HeaderMap, Method, header};
use tokio::time::Instant;

/// Requests kept; the oldest are dropped first. Enough for a reconnect storm of a large fleet.
const REQUESTS_MAX: usize = 100_000;

/// Event deliveries kept; the oldest are dropped first. Bounds the memory of a demo that runs for
/// days.
const DELIVERIES_MAX: usize = 10_000;

/// The header that identifies deliveries.
const PAYLOAD_ID: &str = "x-launchdarkly-payload-id";

/// One request, answered or not.
#[derive(Clone)]
pub struct RequestRecord {
    /// Method.
    pub method: Method,
    /// Path as sent, without the query.
    pub path: String,
    /// Query as sent, without the question mark; empty if there was none.
    pub query: String,
    /// Headers as sent.
    pub headers: HeaderMap,
    /// The time at which its head had arrived.
    pub at: Instant,
}

impl RequestRecord {
    /// The value of a header, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The whole value of `Authorization`.
    pub fn authorization(&self) -> Option<&str> {
        self.header(header::AUTHORIZATION.as_str())
    }
}

impl fmt::Debug for RequestRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, path, query, .. } = self;
        write!(f, "{method} {path}?{query}")
    }
}

/// One accepted body of events or diagnostics.
#[derive(Clone)]
pub struct Delivery {
    /// Path it was posted to.
    pub path: String,
    /// Headers as sent.
    pub headers: HeaderMap,
    /// Body as sent: still compressed if it came compressed.
    pub body: Bytes,
    /// The number of times it arrived; more than one only with a payload ID.
    pub copies: u32,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, body, copies, .. } = self;
        write!(f, "{path}: {} bytes, {copies} copies", body.len())
    }
}

/// Both logs.
#[derive(Debug, Default)]
pub(super) struct RequestLog {
    requests: VecDeque<RequestRecord>,
    deliveries: VecDeque<Delivery>,
}

impl RequestLog {
    /// Records a request.
    pub(super) fn note(&mut self, request: RequestRecord) {
        push_bounded(&mut self.requests, request, REQUESTS_MAX);
    }

    /// Records a delivery, or counts it if it arrived before.
    pub(super) fn deliver(&mut self, path: String, headers: HeaderMap, body: Bytes) {
        let id = headers.get(PAYLOAD_ID);
        let mut held = self.deliveries.iter_mut();
        if let Some(earlier) = held
            .find(|held| id.is_some() && held.path == path && held.headers.get(PAYLOAD_ID) == id)
        {
            earlier.copies += 1;
            return;
        }
        let delivery = Delivery { path, headers, body, copies: 1 };
        push_bounded(&mut self.deliveries, delivery, DELIVERIES_MAX);
    }

    /// The requests that are kept, oldest first.
    pub(super) fn requests(&self) -> impl Iterator<Item = &RequestRecord> {
        self.requests.iter()
    }

    /// The deliveries that are kept, oldest first.
    pub(super) fn deliveries(&self) -> impl Iterator<Item = &Delivery> {
        self.deliveries.iter()
    }

    /// Clears both logs.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, max: usize) {
    if queue.len() == max {
        queue.pop_front();
    }
    queue.push_back(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let mut queue = VecDeque::new();
        for item in 0..5 {
            push_bounded(&mut queue, item, 3);
        }
        assert_eq!(queue, [2, 3, 4]);
    }

    #[test]
    fn deliveries_are_recognised_by_their_payload_id() {
        let mut log = RequestLog::default();
        let mut deliver = |path: &str, id: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(id) = id {
                headers.insert(PAYLOAD_ID, header::HeaderValue::from_static(id));
            }
            log.deliver(path.to_owned(), headers, Bytes::new());
        };
        deliver("/bulk", Some("a"));
        deliver("/bulk", None);
        deliver("/bulk", Some("a"));
        deliver("/bulk", None);
        deliver("/mobile", Some("a"));
        let copies: Vec<_> =
            log.deliveries().map(|held| (held.path.as_str(), held.copies)).collect();
        assert_eq!(copies, [("/bulk", 2), ("/bulk", 1), ("/bulk", 1), ("/mobile", 1)]);
    }

    #[test]
    fn debug_shows_no_key() {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", header::HeaderValue::from_static("sdk-secret"));
        let path = "/all".to_owned();
        let at = Instant::now();
        let record = RequestRecord { method: Method::GET, path, query: String::new(), headers, at };
        assert_eq!(record.authorization(), Some("sdk-secret"));
        assert_eq!(format!("{record:?}"), "GET /all?");
    }
}
