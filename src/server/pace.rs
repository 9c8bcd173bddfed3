//! How fast a client has to be: in sending the head of a request, and in taking a full payload.
//!
//! A [`Pace`] stands between parts of one connection that do not meet otherwise: its socket,
//! hyper's timer, and the requests on it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Sleep, Timer};
use tokio::time::Instant;

/// How long a client may take to send the head of a request: of the first one since it
/// connected, of later ones since their first byte (ld-relay v8: 10 s).
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The same for the first request of who connects while the server is leaving, and would make it
/// wait.
pub(super) const LATE_HEAD_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection may wait for its next request. Longer than load balancers keep
/// connections to what is behind them (AWS: 1 min, Google: 10 min), because they would send
/// requests into connections that are just being closed (ld-relay v8: no limit).
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(11 * 60);

/// What is known of one client's pace, and what is demanded of it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Whether it has sent anything since the wait for a head began.
    heard: AtomicBool,
    /// Until when it must have taken the full payload that is being sent to it.
    send_until: Mutex<Option<Instant>>,
}

impl Pace {
    /// The client has sent something.
    pub(super) fn hear(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// Until when the client must have taken what is being sent.
    pub(super) fn send_until(&self) -> Option<Instant> {
        *self.send_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Demands that what is being sent is taken by that time; `None` demands it no longer.
    pub(super) fn limit_sending(&self, until: Option<Instant>) {
        *self.send_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// hyper's timer for one connection. hyper asks it one thing only: when to give up waiting for
/// the head of a request, from the moment at which the wait begins. To hyper the time between
/// two requests is a part of that wait; here it is not, except for what a client sends ahead
/// while its previous request is being answered.
pub(super) struct HeadTimer {
    pace: Arc<Pace>,
    first: Duration,
    before_first: AtomicBool,
}

impl HeadTimer {
    /// A timer that waits so long for the first head.
    pub(super) fn new(pace: Arc<Pace>, first: Duration) -> Self {
        Self { pace, first, before_first: AtomicBool::new(true) }
    }

    fn wait(&self) -> HeadWait {
        let begun = self.before_first.swap(false, Ordering::Relaxed);
        self.pace.heard.store(false, Ordering::Relaxed);
        let limit = if begun { self.first } else { IDLE_TIMEOUT };
        let ends = Box::pin(tokio::time::sleep(limit));
        HeadWait { pace: self.pace.clone(), ends, begun }
    }
}

impl fmt::Debug for HeadTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeadTimer")
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(self.wait())
    }

    fn sleep_until(&self, _: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(self.wait())
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

/// Ends when the head of a request is overdue. hyper looks at it whenever it has read what there
/// was to read.
struct HeadWait {
    pace: Arc<Pace>,
    ends: Pin<Box<tokio::time::Sleep>>,
    /// Whether the time of the head itself is running.
    begun: bool,
}

impl Future for HeadWait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if !this.begun && this.pace.heard.load(Ordering::Relaxed) {
            this.begun = true;
            this.ends.as_mut().reset(Instant::now() + HEAD_TIMEOUT);
        }
        this.ends.as_mut().poll(cx)
    }
}

impl Sleep for HeadWait {}
