//! Demands on one client: how much it may send before it has shown a valid credential, and how
//! fast it has to take a payload.
//!
//! A [`Pace`] is shared by parts of one connection that have no other link: its socket, hyper's
//! timer, and the requests on it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::streams::SlowReader;

/// Bytes a second that a client must take of a payload, on average over [`PACE_SLACK`]. Slow
/// mobile networks are faster; an SDK behind less would need minutes for an ordinary data set.
pub(super) const PACE_MIN: f64 = 8.0 * 1024.0;

/// Longest time that a client may lag behind the minimum pace.
pub(super) const PACE_SLACK: Duration = Duration::from_secs(30);

/// Largest head of a request before the first valid credential.
pub(super) const UNKNOWN_HEAD_BYTES_MAX: usize = 32 * 1024;

/// Value of `head_bytes` while no head is awaited.
const NO_HEAD: usize = usize::MAX;

/// Deadlines of one payload that follow from the minimum pace. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Demand {
    more_by: Instant,
    /// Deadline for the whole payload, whatever the pace.
    whole_by: Option<Instant>,
}

impl Demand {
    fn new(now: Instant, time_max: Option<Duration>) -> Self {
        Self { more_by: now + PACE_SLACK, whole_by: time_max.map(|time| now + time) }
    }

    /// Extends the deadline for bytes that were taken, but not beyond the slack: what the kernel
    /// took at once must not allow minutes of silence.
    fn took(&mut self, bytes: usize, now: Instant) {
        let earned = Duration::from_secs_f64(bytes as f64 / PACE_MIN);
        self.more_by = (self.more_by + earned).min(now + PACE_SLACK);
    }

    fn until(&self) -> Instant {
        self.whole_by.map_or(self.more_by, |whole| whole.min(self.more_by))
    }
}

/// State of one connection that its parts share.
#[derive(Debug)]
pub(super) struct Pace {
    /// True once the client has sent something since the wait for a head began.
    heard: AtomicBool,
    /// True once the client has shown a valid credential.
    trusted: AtomicBool,
    /// Bytes of the head that is awaited.
    head_bytes: AtomicUsize,
    sending: Mutex<Sending>,
}

/// Reason to end a connection before its client has taken everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// The payload that the client takes is too old to be kept for it.
    TooFarBehind,
    /// The limit of connections is reached.
    GivesWay,
}

impl Cut {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::TooFarBehind => "the client still takes an old version of the data",
            Self::GivesWay => "the limit of connections is reached, and another client came",
        }
    }
}

#[derive(Debug, Default)]
struct Sending {
    demand: Option<Demand>,
    /// Number of the newest demand.
    demands: u64,
    /// Reason to end the connection at once.
    cut: Option<Cut>,
    /// The task that waits for the client.
    waiting: Option<Waker>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            heard: AtomicBool::default(),
            trusted: AtomicBool::default(),
            head_bytes: AtomicUsize::new(NO_HEAD),
            sending: Mutex::default(),
        }
    }
}

impl Pace {
    /// Begins the wait for the head of a request.
    pub(super) fn await_head(&self) {
        self.heard.store(false, Ordering::Relaxed);
        self.head_bytes.store(0, Ordering::Relaxed);
    }

    /// Ends the wait: the head of a request has come.
    pub(super) fn head_came(&self) {
        self.head_bytes.store(NO_HEAD, Ordering::Relaxed);
    }

    /// Notes that the client has sent bytes.
    pub(super) fn hear(&self, bytes: usize) {
        self.heard.store(true, Ordering::Relaxed);
        let seen = self.head_bytes.load(Ordering::Relaxed);
        if seen != NO_HEAD {
            self.head_bytes.store(seen.saturating_add(bytes).min(NO_HEAD - 1), Ordering::Relaxed);
        }
    }

    /// True once the client has sent something since the wait for a head began.
    pub(super) fn has_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    /// Bytes that the client may still send of a head; `None` without a limit here.
    pub(super) fn head_room(&self) -> Option<usize> {
        let seen = self.head_bytes.load(Ordering::Relaxed);
        let is_limited = seen != NO_HEAD && !self.is_trusted();
        is_limited.then(|| UNKNOWN_HEAD_BYTES_MAX.saturating_sub(seen))
    }

    /// Notes that the client has shown a valid credential.
    pub(super) fn trust(&self) {
        self.trusted.store(true, Ordering::Relaxed);
    }

    /// True once the client has shown a valid credential.
    pub(super) fn is_trusted(&self) -> bool {
        self.trusted.load(Ordering::Relaxed)
    }

    /// Demands the minimum pace until the returned value is dropped. `time_max` is the time for the
    /// whole payload.
    pub(super) fn demand(self: &Arc<Self>, now: Instant, time_max: Option<Duration>) -> Demanded {
        let mut sending = self.sending();
        sending.demand = Some(Demand::new(now, time_max));
        sending.demands += 1;
        Demanded { pace: self.clone(), number: sending.demands }
    }

    /// Notes that the client has taken bytes. Returns true if a payload is under way.
    pub(super) fn took(&self, bytes: usize, now: impl FnOnce() -> Instant) -> bool {
        let mut sending = self.sending();
        if let Some(demand) = &mut sending.demand {
            demand.took(bytes, now());
        }
        sending.demand.is_some()
    }

    /// Time by which the client must take more; `None` if no payload is under way.
    pub(super) fn send_until(&self) -> Option<Instant> {
        self.sending().demand.map(|demand| demand.until())
    }

    /// Ends the connection at once, even while it waits for the client.
    pub(super) fn cut(&self, why: Cut) {
        let waiting = {
            let mut sending = self.sending();
            sending.cut.get_or_insert(why);
            sending.waiting.take()
        };
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    /// Reason to end the connection at once; `None` until it is cut. [`cut`](Self::cut) wakes the
    /// task.
    pub(super) fn why_cut(&self, cx: &Context<'_>) -> Option<Cut> {
        let mut sending = self.sending();
        match &mut sending.waiting {
            Some(waiting) => waiting.clone_from(cx.waker()),
            waiting => *waiting = Some(cx.waker().clone()),
        }
        sending.cut
    }

    #[cfg(test)]
    pub(super) fn was_cut(&self) -> bool {
        self.sending().cut.is_some()
    }

    fn sending(&self) -> MutexGuard<'_, Sending> {
        // No code panics while it holds the lock, so a poisoned lock is safe to use.
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SlowReader for Pace {
    fn end(&self) {
        self.cut(Cut::TooFarBehind);
    }
}

/// A payload under way; the client must keep the minimum pace as long as this lives.
#[derive(Debug)]
pub(super) struct Demanded {
    pace: Arc<Pace>,
    number: u64,
}

impl Drop for Demanded {
    fn drop(&mut self) {
        let mut sending = self.pace.sending();
        if sending.demands == self.number {
            sending.demand = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Second at which a client is cut that takes these bytes at these seconds.
    fn cut_after(takes: impl Iterator<Item = (u64, usize)>, time_max: Option<u64>) -> u64 {
        let begun = Instant::now();
        let mut demand = Demand::new(begun, time_max.map(Duration::from_secs));
        for (at, bytes) in takes {
            let now = begun + Duration::from_secs(at);
            if now >= demand.until() {
                break;
            }
            demand.took(bytes, now);
        }
        (demand.until() - begun).as_secs()
    }

    fn every(seconds: u64, bytes: usize) -> impl Iterator<Item = (u64, usize)> {
        (0..1_000).map(move |round| (round * seconds, bytes))
    }

    #[test]
    fn a_minimum_pace_is_demanded() {
        let begun = [(0, 0)].into_iter();
        assert_eq!(cut_after(begun, None), 30, "nothing is taken");
        let begun = [(0, 4 << 20)].into_iter();
        assert_eq!(cut_after(begun, None), 30, "what the kernel took at once earns nothing");
        assert_eq!(cut_after(every(29, 64 * 1024), None), 38, "a little every half minute");
        assert_eq!(cut_after(every(8, 60 * 1024), None), 360, "just below the pace");
        assert!(cut_after(every(8, 64 * 1024), None) > 7_900, "at the pace");
        assert!(cut_after(every(1, 10_000), None) > 990, "a slow line");
        assert_eq!(cut_after(every(1, 10_000_000), Some(100)), 100, "a bound on the whole");
    }

    #[test]
    fn a_head_is_limited_until_a_credential_was_valid() {
        let pace = Pace::default();
        assert_eq!(pace.head_room(), None, "no head is awaited");
        pace.await_head();
        pace.hear(30_000);
        assert_eq!(pace.head_room(), Some(UNKNOWN_HEAD_BYTES_MAX - 30_000));
        pace.hear(30_000);
        assert_eq!(pace.head_room(), Some(0));
        pace.head_came();
        pace.hear(30_000);
        assert_eq!(pace.head_room(), None, "bodies do not count");
        pace.await_head();
        assert_eq!(pace.head_room(), Some(UNKNOWN_HEAD_BYTES_MAX));
        pace.trust();
        assert_eq!(pace.head_room(), None);
    }
}
