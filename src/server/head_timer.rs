//! The timer that ends a connection whose next request does not come.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Sleep, Timer};
use tokio::time::Instant;

use super::pace::Pace;

/// Time for the head of a request, from the start of the connection for the first one and from the
/// first byte for later ones (ld-relay v8: 10 s).
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The same for the first request on a connection that began during the shutdown, which it would
/// delay, or beyond the limit of connections.
pub(super) const SHORT_HEAD_TIMEOUT: Duration = Duration::from_secs(2);

/// Time for which a connection may wait for its next request once it has brought a valid
/// credential. Longer than load balancers keep idle connections (AWS: 1 min, Google: 10 min), which
/// otherwise send requests on connections that are just being closed (ld-relay v8: no limit).
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(11 * 60);

/// The same before the first valid credential. Unknown clients must not hold file descriptors for
/// long; this is still longer than the load balancers of AWS.
pub(super) const UNKNOWN_IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// hyper's timer for one connection. hyper uses it only to limit the wait for the head of a
/// request, and counts the time between two requests as part of that wait. Here that time has a
/// limit of its own, which also covers what a client sends ahead while its previous request is
/// being answered.
pub(super) struct HeadTimer {
    pace: Arc<Pace>,
    first: Duration,
    before_first: AtomicBool,
}

impl HeadTimer {
    /// Creates a timer with this limit for the first head.
    pub(super) fn new(pace: Arc<Pace>, first: Duration) -> Self {
        Self { pace, first, before_first: AtomicBool::new(true) }
    }

    fn wait(&self) -> HeadWait {
        let begun = self.before_first.swap(false, Ordering::Relaxed);
        self.pace.await_head();
        let limit = match begun {
            true => self.first,
            false if self.pace.is_trusted() => IDLE_TIMEOUT,
            false => UNKNOWN_IDLE_TIMEOUT,
        };
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

/// Ends when the head of a request is overdue. hyper polls it whenever it has read all available
/// bytes.
struct HeadWait {
    pace: Arc<Pace>,
    ends: Pin<Box<tokio::time::Sleep>>,
    /// True while the limit of the head itself runs.
    begun: bool,
}

impl Future for HeadWait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if !this.begun && this.pace.has_heard() {
            this.begun = true;
            this.ends.as_mut().reset(Instant::now() + HEAD_TIMEOUT);
        }
        this.ends.as_mut().poll(cx)
    }
}

impl Sleep for HeadWait {}
