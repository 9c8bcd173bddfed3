//! Leaving in order: streams end spread over the grace period, so that the clients of one relay
//! do not reconnect to the others all at once. New connections are accepted for a while longer,
//! because load balancers take some time to learn that this relay is going.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Share of the grace period within which streams end. The rest is for their last bytes.
const SPREAD_SHARE: f64 = 0.8;

/// Whether, and how, this process is leaving.
#[derive(Debug)]
pub struct Drain {
    plan: OnceLock<Plan>,
    started: watch::Sender<bool>,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    begin: Instant,
    spread: Duration,
    /// Until then clients may still come.
    open_until: Instant,
}

impl Default for Drain {
    fn default() -> Self {
        Self { plan: OnceLock::new(), started: watch::Sender::new(false) }
    }
}

impl Drain {
    /// Begins to leave; all streams are to end within the grace period, and clients may come
    /// during the delay. Streams must be woken to notice.
    pub fn begin(&self, now: Instant, grace: Duration, delay: Duration) {
        let spread = grace.mul_f64(SPREAD_SHARE);
        // A second call changes nothing: the first plan stands.
        let _ = self.plan.set(Plan { begin: now, spread, open_until: now + delay.min(grace) });
        self.started.send_replace(true);
    }

    /// Until when new connections are accepted; `None` while staying.
    pub fn open_until(&self) -> Option<Instant> {
        self.plan.get().map(|plan| plan.open_until)
    }

    /// Whether this process is leaving.
    pub fn is_active(&self) -> bool {
        self.plan.get().is_some()
    }

    /// When one stream is to end, `random` being uniform in `0.0..1.0`; `None` while staying.
    pub(super) fn end_of_stream(&self, random: f64) -> Option<Instant> {
        self.plan.get().map(|plan| plan.begin + plan.spread.mul_f64(random.clamp(0.0, 1.0)))
    }

    /// Waits until no client may come any more.
    pub async fn closed(&self) {
        // The sender lives in self, so the wait cannot fail.
        let _ = self.started.subscribe().wait_for(|started| *started).await;
        if let Some(until) = self.open_until() {
            tokio::time::sleep_until(until).await;
        }
    }
}
