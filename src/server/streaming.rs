//! Event streams to SDKs: how one begins, what it carries, and everything that ends it.

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
use super::authorized_request::AuthorizedRequest;
use super::body::Body;
use super::drain::Drain;
use super::pace::Pace;
use super::ping_delay::PingDelay;
use super::refusals::Refusal;
use super::responses::unavailable;
use super::turns::{Claim, CredentialKind, Group, Payload, Purpose, Turn, Turns};
use crate::environments::{Access, Environment, Lease};
use crate::streams::{Next, PING, Snapshot, StreamKind, Subscription};

/// Largest part of `maxClientConnectionTime` by which a stream ends earlier, so that streams that
/// began together do not end together.
pub(super) const CONNECTION_TIME_JITTER: f64 = 0.1;

impl Server {
    /// Answers with a stream of an environment's data; `Err` if its credential is refused after a
    /// wait.
    pub(super) async fn stream(
        &self,
        asked: &mut AuthorizedRequest<'_>,
        kind: StreamKind,
    ) -> Result<Response<Body>, Response<Body>> {
        if self.drain.is_active() {
            return Ok(unavailable(Refusal::Leaving));
        }
        let Some(snapshot) = asked.access.environment.hub.snapshot() else {
            return Ok(unavailable(Refusal::NoData));
        };
        // Encoded before the response begins, outside of any lock.
        let needed = Needed::Payload(encoded(&snapshot, kind).len());
        let turn = match self.turn(asked, needed).await? {
            TurnTaken::Busy(busy) => return Ok(busy),
            TurnTaken::NotNeeded => None,
            TurnTaken::Taken(_) if self.drain.is_active() => {
                return Ok(unavailable(Refusal::Leaving));
            }
            TurnTaken::Taken(turn) => match asked.access.environment.hub.snapshot() {
                None => return Ok(unavailable(Refusal::NoData)),
                // The data may have changed during the wait.
                Some(newest) => {
                    encoded(&newest, kind);
                    Some(turn)
                }
            },
        };
        let lifetime = self.settings.max_client_connection_time.map(|time| {
            let time = time.mul_f64(1.0 - CONNECTION_TIME_JITTER * fastrand::f64());
            Instant::now() + time
        });
        let ping_jitter = self.settings.ping_jitter.filter(|_| kind == StreamKind::Pings);
        let Access { environment, lease, .. } = asked.access.clone();
        let events = EventBody {
            subscription: environment.hub.subscribe(kind),
            environment,
            credential: CredentialKind::from(&asked.auth),
            lease,
            pace: asked.pace.clone(),
            drain: self.drain.clone(),
            turns: self.turns.clone(),
            payload: Payload::default(),
            turn,
            claim: None,
            ends: lifetime.map(|at| Box::pin(tokio::time::sleep_until(at))),
            draining: false,
            ping_delay: ping_jitter.map(|longest| Box::new(PingDelay::new(longest))),
        };
        let mut response = Response::new(Body::Events(Box::new(events)));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers
            .insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store, must-revalidate"));
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        Ok(response)
    }

    /// Waits for a turn, then checks the credential again; `Err` if it is no longer valid.
    pub(super) async fn turn(
        &self,
        asked: &mut AuthorizedRequest<'_>,
        needed: Needed,
    ) -> Result<TurnTaken, Response<Body>> {
        let turns = match needed {
            Needed::Payload(bytes) if Turns::are_needed_for(bytes) => self.turns.as_ref(),
            Needed::Payload(_) => None,
            Needed::Evaluation => Some(&self.evaluations),
        };
        let Some(turns) = turns else { return Ok(TurnTaken::NotNeeded) };
        let group = group(&asked.access.environment, (&asked.auth).into(), Purpose::First);
        let Some(turn) = turns.take(group).await else {
            return Ok(TurnTaken::Busy(unavailable(Refusal::Busy)));
        };
        asked.access = self.select_now(asked.request, &asked.auth)?;
        Ok(TurnTaken::Taken(turn))
    }
}

/// What a client waits for a turn to get.
#[derive(Clone, Copy)]
pub(super) enum Needed {
    /// A payload of so many bytes.
    Payload(usize),
    /// The evaluation of many flags.
    Evaluation,
}

/// Result of the wait for a turn.
pub(super) enum TurnTaken {
    /// The payload is small, or the number of turns is not limited.
    NotNeeded,
    /// The turn.
    Taken(Turn),
    /// The answer to a client that is to retry.
    Busy(Response<Body>),
}

fn group(environment: &Environment, credential: CredentialKind, purpose: Purpose) -> Group {
    Group { environment: environment.reference.environment.clone(), credential, purpose }
}

fn encoded(snapshot: &Snapshot, kind: StreamKind) -> Bytes {
    match kind {
        StreamKind::All => snapshot.put_all().clone(),
        StreamKind::Flags => snapshot.put_flags().clone(),
        StreamKind::Pings => PING,
    }
}

/// The body of a stream. Kept small: there is one per connected client.
#[derive(Debug)]
pub(super) struct EventBody {
    subscription: Subscription,
    environment: Arc<Environment>,
    credential: CredentialKind,
    lease: Arc<Lease>,
    pace: Arc<Pace>,
    drain: Arc<Drain>,
    turns: Option<Arc<Turns>>,
    /// The rest of the payload that is being sent.
    payload: Payload,
    /// The turn for the next data set.
    turn: Option<Turn>,
    /// The claim to that turn, while it waits.
    claim: Option<Box<Claim>>,
    /// Timer that ends the stream.
    ends: Option<Pin<Box<Sleep>>>,
    /// True once `ends` follows the plan of the shutdown.
    draining: bool,
    /// Of a stream of pings, if they are delayed.
    ping_delay: Option<Box<PingDelay>>,
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
            if let Some(claim) = &mut self.claim
                && let Poll::Ready(turn) = Pin::new(claim).poll(cx)
            {
                self.claim = None;
                self.turn = Some(turn);
                self.begin_payload();
                continue;
            }
            if self.ping_delay.as_mut().is_some_and(|delay| delay.is_over(cx)) {
                return Poll::Ready(Some(PING));
            }
            match self.subscription.poll_next(cx) {
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(next)) if self.is_delayed(&next) => {}
                Poll::Ready(Some(Next::Event(event))) if Turns::are_needed_for(event.len()) => {
                    self.begin_event(event);
                }
                Poll::Ready(Some(Next::Event(event))) => return Poll::Ready(Some(event)),
                Poll::Ready(Some(Next::Whole)) => self.claim_turn(),
                // Code that ends streams sets a flag first and wakes them then. A flag that was set
                // since the checks above must not be missed: its wake may have come before this
                // task was registered.
                Poll::Pending if self.is_told_to_end() => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// True if a ping for this comes later.
    fn is_delayed(&mut self, next: &Next) -> bool {
        let is_delayed = self.ping_delay.as_mut().is_some_and(|delay| delay.takes(next));
        if is_delayed && matches!(next, Next::Whole) {
            self.subscription.whole();
        }
        is_delayed
    }

    /// Claims a turn to send the whole data set again, or begins at once if none is needed.
    fn claim_turn(&mut self) {
        let is_small = self.subscription.current().is_none_or(|snapshot| {
            !Turns::are_needed_for(encoded(&snapshot, self.subscription.kind()).len())
        });
        let claim = match &self.turns {
            Some(turns) if !is_small && self.turn.is_none() => {
                turns.claim_renewal(group(&self.environment, self.credential, Purpose::Renewal))
            }
            Some(_) | None => None,
        };
        match claim {
            Some(claim) => self.claim = Some(Box::new(claim)),
            None => self.begin_payload(),
        }
    }

    fn begin_payload(&mut self) {
        if let Some(snapshot) = self.subscription.whole() {
            let put = encoded(&snapshot, self.subscription.kind());
            let versions = self.subscription.hub().versions();
            self.payload =
                Payload::new(put, &snapshot.data, self.turn.take(), &self.pace, versions);
        }
    }

    /// Begins to send a change. A large one is paced like a whole data set, but needs no turn.
    fn begin_event(&mut self, event: Bytes) {
        self.payload = match self.subscription.current() {
            Some(current) => {
                let versions = self.subscription.hub().versions();
                Payload::new(event, &current.data, None, &self.pace, versions)
            }
            None => Payload::small(event),
        };
    }

    fn is_told_to_end(&self) -> bool {
        self.lease.is_revoked() || (self.drain.is_active() && !self.draining)
    }

    /// Once the shutdown has begun, sets the random time at which this stream ends.
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
