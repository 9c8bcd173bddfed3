//! Event streams towards SDKs: when one begins, what it carries, and everything that ends it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::Response;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue,
};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

use super::body::Body;
use super::drain::Drain;
use super::responses::unavailable;
use super::selection::NO_DATA;
use super::{INITIAL_PAYLOAD_WAIT, Server};
use crate::environments::{Access, Lease};
use crate::streams::{Next, Snapshot, StreamKind, Subscription};

/// Size of the pieces in which a large event is handed to a connection, so that the turn for
/// full payloads ends when the client has taken nearly all of it.
const PIECE_BYTES: usize = 64 * 1024;

const BUSY: &str = "Too many clients are being initialized at this moment";
const LEAVING: &str = "The relay is shutting down";

/// How much earlier than `maxClientConnectionTime` a stream may end, so that streams that began
/// together do not end together.
const CONNECTION_TIME_JITTER: f64 = 0.1;

impl Server {
    /// A stream of an environment's data.
    pub(super) async fn stream(&self, access: Access, kind: StreamKind) -> Response<Body> {
        if self.drain.is_active() {
            return unavailable(LEAVING);
        }
        let Some(snapshot) = access.environment.hub.snapshot() else {
            return unavailable(NO_DATA);
        };
        let turn = match self.turn().await {
            Ok(turn) => turn,
            Err(busy) => return busy,
        };
        let lifetime = self.settings.max_client_connection_time.map(|time| {
            let time = time.mul_f64(1.0 - CONNECTION_TIME_JITTER * fastrand::f64());
            Instant::now() + time
        });
        // Encoded before the response begins, outside of any lock.
        encoded(&snapshot, kind);
        let events = EventBody {
            subscription: access.environment.hub.subscribe(kind),
            lease: access.lease,
            drain: self.drain.clone(),
            rest: Bytes::new(),
            turn,
            ends: lifetime.map(|at| Box::pin(tokio::time::sleep_until(at))),
            draining: false,
        };
        let mut response = Response::new(Body::Events(Box::new(events)));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers
            .insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }

    /// Waits for a turn to receive a full payload.
    pub(super) async fn turn(&self) -> Result<Option<Turn>, Response<Body>> {
        let Some(turns) = &self.turns else { return Ok(None) };
        let deadline = Instant::now() + turns.send_timeout;
        if let Ok(permit) = turns.slots.clone().try_acquire_owned() {
            return Ok(Some(Turn { _permit: permit, deadline, ends: None }));
        }
        let Ok(_place) = turns.queue.try_acquire() else { return Err(unavailable(BUSY)) };
        let permit = turns.slots.clone().acquire_owned();
        match tokio::time::timeout(INITIAL_PAYLOAD_WAIT, permit).await {
            Ok(Ok(permit)) => {
                let deadline = Instant::now() + turns.send_timeout;
                Ok(Some(Turn { _permit: permit, deadline, ends: None }))
            }
            Ok(Err(_)) | Err(_) => Err(unavailable(BUSY)),
        }
    }
}

/// The right to receive a full payload at this moment, given back when it was handed over.
#[derive(Debug)]
pub(super) struct Turn {
    _permit: OwnedSemaphorePermit,
    deadline: Instant,
    /// Armed once the client makes us wait.
    ends: Option<Pin<Box<Sleep>>>,
}

impl Turn {
    /// Ready when the turn has been held for too long.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        self.ends
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)))
            .as_mut()
            .poll(cx)
    }
}

fn encoded(snapshot: &Snapshot, kind: StreamKind) -> Bytes {
    match kind {
        StreamKind::All => snapshot.put_all().clone(),
        StreamKind::Flags => snapshot.put_flags().clone(),
    }
}

/// The body of a stream. Kept small: there is one per connected client.
#[derive(Debug)]
pub(super) struct EventBody {
    subscription: Subscription,
    lease: Arc<Lease>,
    drain: Arc<Drain>,
    /// What is left of the event that is being handed over.
    rest: Bytes,
    /// Held until the first put was handed over.
    turn: Option<Turn>,
    /// When the stream ends by itself.
    ends: Option<Pin<Box<Sleep>>>,
    /// Whether `ends` already follows the plan for leaving.
    draining: bool,
}

impl EventBody {
    /// The next piece; `None` when the stream is over.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.lease.is_revoked() {
            return Poll::Ready(None);
        }
        if !self.rest.is_empty() {
            return Poll::Ready(self.piece(cx));
        }
        if self.is_over(cx) {
            return Poll::Ready(None);
        }
        match self.subscription.poll_next(cx) {
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Next::Event(event))) => Poll::Ready(Some(event)),
            Poll::Ready(Some(Next::Put(snapshot))) => {
                self.rest = encoded(&snapshot, self.subscription.kind());
                Poll::Ready(self.piece(cx))
            }
            // Only from here on does waking the hub wake this stream: what ended it between the
            // first look and now would not be noticed.
            Poll::Pending if self.is_over(cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Whether something else than the hub has ended the stream.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.follow_drain();
        self.lease.is_revoked()
            || self.ends.as_mut().is_some_and(|ends| ends.as_mut().poll(cx).is_ready())
    }

    fn piece(&mut self, cx: &mut Context<'_>) -> Option<Bytes> {
        if let Some(turn) = &mut self.turn
            && turn.poll_overdue(cx).is_ready()
        {
            tracing::debug!("client did not take its data in time; its stream is ended");
            return None;
        }
        let piece = self.rest.split_to(PIECE_BYTES.min(self.rest.len()));
        if self.rest.is_empty() {
            self.rest = Bytes::new();
            self.turn = None;
        }
        Some(piece)
    }

    /// Once the process is leaving, the stream ends at a moment of its own.
    fn follow_drain(&mut self) {
        if self.draining {
            return;
        }
        if let Some(end) = self.drain.end_of_stream(fastrand::f64()) {
            self.draining = true;
            let sooner = self.ends.as_ref().is_none_or(|ends| end < ends.deadline());
            if sooner {
                self.ends = Some(Box::pin(tokio::time::sleep_until(end)));
            }
        }
    }
}

#[cfg(test)]
#[path = "streaming_tests.rs"]
mod tests;
