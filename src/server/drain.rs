//! Graceful shutdown: streams end spread over the grace period, so that the clients of one relay do
//! not reconnect to the others all at once. New connections are accepted for a while longer,
//! because load balancers take some time to notice that this relay shuts down.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Share of the grace period within which streams end. The rest is for their last bytes.
const SPREAD_SHARE: f64 = 0.8;

/// State of the shutdown of this process.
#[derive(Debug)]
pub struct Drain {
    plan: OnceLock<Plan>,
    started: watch::Sender<bool>,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    begin: Instant,
    spread: Duration,
    /// New clients are accepted until then.
    open_until: Instant,
}

impl Default for Drain {
    fn default() -> Self {
        Self { plan: OnceLock::new(), started: watch::Sender::new(false) }
    }
}

impl Drain {
    /// Begins the shutdown: all streams end within the grace period, and new clients are accepted
    /// during the delay. The caller must wake the streams, so that they notice.
    pub fn begin(&self, now: Instant, grace: Duration, delay: Duration) {
        let spread = grace.mul_f64(SPREAD_SHARE);
        // A second call changes nothing: the first plan stands.
        let _ = self.plan.set(Plan { begin: now, spread, open_until: now + delay.min(grace) });
        self.started.send_replace(true);
    }

    /// Time until which new connections are accepted; `None` before the shutdown.
    pub fn open_until(&self) -> Option<Instant> {
        self.plan.get().map(|plan| plan.open_until)
    }

    /// True once the shutdown has begun.
    pub fn is_active(&self) -> bool {
        self.plan.get().is_some()
    }

    /// Time at which one stream ends, with `random` uniform in `0.0..1.0`; `None` before the
    /// shutdown.
    pub(super) fn end_of_stream(&self, random: f64) -> Option<Instant> {
        self.plan.get().map(|plan| plan.begin + plan.spread.mul_f64(random.clamp(0.0, 1.0)))
    }

    /// Waits until new clients are no longer accepted.
    pub async fn closed(&self) {
        // The sender lives in self, so the wait cannot fail.
        let _ = self.started.subscribe().wait_for(|started| *started).await;
        if let Some(until) = self.open_until() {
            tokio::time::sleep_until(until).await;
        }
    }
}
