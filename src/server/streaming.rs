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
use tokio::time::{Instant, Sleep};

use super::Server;
use super::body::Body;
use super::drain::Drain;
use super::pace::Pace;
use super::responses::unavailable;
use super::selection::NO_DATA;
use super::turns::{Payload, Turn};
use crate::environments::{Access, Lease};
use crate::streams::{Next, Snapshot, StreamKind, Subscription};

const BUSY: &str = "Too many clients are being initialized at this moment";
const LEAVING: &str = "The relay is shutting down";

/// How much earlier than `maxClientConnectionTime` a stream may end, so that streams that began
/// together do not end together.
pub(super) const CONNECTION_TIME_JITTER: f64 = 0.1;

impl Server {
    /// A stream of an environment's data.
    pub(super) async fn stream(
        &self,
        access: Access,
        kind: StreamKind,
        pace: &Arc<Pace>,
    ) -> Response<Body> {
        if self.drain.is_active() {
            return unavailable(LEAVING);
        }
        let Some(snapshot) = access.environment.hub.snapshot() else {
            return unavailable(NO_DATA);
        };
        let turn = match self.turn(pace).await {
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
            payload: Payload::default(),
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

    /// Waits for a turn to receive a full payload; `None` without a limit.
    pub(super) async fn turn(&self, pace: &Arc<Pace>) -> Result<Option<Turn>, Response<Body>> {
        match &self.turns {
            None => Ok(None),
            Some(turns) => turns.take(pace).await.map(Some).ok_or_else(|| unavailable(BUSY)),
        }
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
    /// What is left of the data set that is being handed over.
    payload: Payload,
    /// For the first data set.
    turn: Option<Turn>,
    /// When the stream ends by itself.
    ends: Option<Pin<Box<Sleep>>>,
    /// Whether `ends` already follows the plan for leaving.
    draining: bool,
}

impl EventBody {
    /// The next piece; `None` when the stream is over.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if self.lease.is_revoked() {
                return Poll::Ready(None);
            }
            if let Some(piece) = self.payload.next_piece() {
                return Poll::Ready(Some(piece));
            }
            self.follow_drain();
            if let Some(ends) = &mut self.ends
                && ends.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(None);
            }
            match self.subscription.poll_next(cx) {
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Next::Event(event))) => return Poll::Ready(Some(event)),
                Poll::Ready(Some(Next::Put(snapshot))) => {
                    let put = encoded(&snapshot, self.subscription.kind());
                    self.payload = Payload::new(put, self.turn.take());
                }
                // Whoever ends streams leaves a sign first and wakes them then. A sign that was
                // left since we looked must not be missed: its wake may have come before we were
                // listed to be woken.
                Poll::Pending if self.is_told_to_end() => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn is_told_to_end(&self) -> bool {
        self.lease.is_revoked() || (self.drain.is_active() && !self.draining)
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
