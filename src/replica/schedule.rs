//! Schedule of the visits to a copy. Pure: the time and a random number are arguments.
//!
//! Invariant: with periodic checks, every outcome leaves a planned visit, after a pause unless
//! something new is to be written.

use std::time::Duration;

use tokio::time::Instant;

use super::authority::SECOND_LOOK;
use crate::backoff::Backoff;

/// Pause before a failed visit is retried. A new connection to the database ends it early.
const RETRY: Backoff = Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(15) };

/// Longest random wait between noticing a loss and repairing it, so that of several relays one
/// does the work.
pub const HERD_WAIT: Duration = Duration::from_millis(300);

/// Number of looks between two full comparisons.
const LOOKS_PER_COMPARISON: u32 = 20;

/// Pauses of one copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between looks for lost content; `None`: neither looks nor periodic comparisons.
    pub check: Option<Duration>,
    /// Between readings while upstream is not live.
    pub reread: Duration,
}

/// Reason to compare the store with the served data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The relay has started.
    Start,
    /// LaunchDarkly sent everything.
    Put,
    /// The connection to the database is a new one.
    Reconnected,
    /// Another server process answers than before.
    ServerChanged,
    /// The marker is missing.
    MarkerMissing,
    /// Another writer has set the marker.
    MarkerChanged,
    /// There are fewer items than there should be.
    ItemsMissing,
    /// Something could not be written or read.
    Failed,
    /// The periodic comparison is due.
    Periodic,
    /// Items that should not be stored are due for their second check.
    SecondLook,
    /// Upstream is not live, and a peer may have written something newer.
    Reread,
}

impl Reason {
    /// The word for `/status` and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Put => "put",
            Self::Reconnected => "reconnected",
            Self::ServerChanged => "serverChanged",
            Self::MarkerMissing => "markerMissing",
            Self::MarkerChanged => "markerChanged",
            Self::ItemsMissing => "itemsMissing",
            Self::Failed => "failedBefore",
            Self::Periodic => "periodic",
            Self::SecondLook => "secondLook",
            Self::Reread => "reread",
        }
    }

    /// True if several relays may have noticed the same at the same moment.
    pub fn is_seen_by_all(self) -> bool {
        match self {
            Self::Reconnected
            | Self::ServerChanged
            | Self::MarkerMissing
            | Self::MarkerChanged
            | Self::ItemsMissing
            | Self::Failed => true,
            Self::Start | Self::Put | Self::Periodic | Self::SecondLook | Self::Reread => false,
        }
    }
}

/// Kind of visit that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Compare everything.
    Compare(Reason),
    /// Write the items that changed.
    Flush,
    /// Look for signs of a loss.
    Look,
    /// Check whether a new connection leads to the same server with the same data.
    Verify,
}

/// The planned visits.
#[derive(Debug)]
pub struct Schedule {
    timing: Timing,
    compare: Option<(Instant, Reason)>,
    verify: Option<Instant>,
    flush: Option<Instant>,
    look: Option<Instant>,
    periodic: Option<Instant>,
    failures: u32,
}

impl Schedule {
    /// Creates a schedule that reads the store at once.
    pub fn new(timing: Timing, now: Instant) -> Self {
        Self {
            timing,
            compare: Some((now, Reason::Start)),
            verify: None,
            flush: None,
            look: None,
            periodic: None,
            failures: 0,
        }
    }

    /// The next visit and its time; `None` if none is planned.
    pub fn next(&self) -> Option<(Instant, Due)> {
        let compare = self.compare.map(|(at, why)| (at, Due::Compare(why)));
        let periodic = self.periodic.map(|at| (at, Due::Compare(Reason::Periodic)));
        let verify = self.verify.map(|at| (at, Due::Verify));
        let flush = self.flush.map(|at| (at, Due::Flush));
        let look = self.look.map(|at| (at, Due::Look));
        // Of two that are due at the same time, the first of this list: it does more.
        [compare, verify, flush, periodic, look].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// Plans a comparison for that time; an earlier one stays. A check for a loss that it replaces
    /// stays too, in case that it has nothing to do. A store that may have lost its data is compared
    /// before single items are written, also those that were waiting before.
    pub fn compare(&mut self, at: Instant, reason: Reason) {
        match self.compare {
            Some((planned, _)) if at >= planned => {}
            Some((planned, why)) => {
                if why.is_seen_by_all() && !reason.is_seen_by_all() {
                    self.verify.get_or_insert(planned);
                }
                self.compare = Some((at, reason));
            }
            None => self.compare = Some((at, reason)),
        }
        if reason.is_seen_by_all()
            && let Some((at, _)) = self.compare
        {
            self.flush = self.flush.map(|planned| planned.max(at));
        }
    }

    /// Notes that upstream is not live: nothing is written, and what peers write is read. A planned
    /// check for a loss stays: a store that lost everything may still be filled.
    pub fn not_live(&mut self, now: Instant, random: f64) {
        self.flush = None;
        if !self.compare.is_some_and(|(_, reason)| reason.is_seen_by_all()) {
            let at = now + jittered(self.timing.reread, random);
            self.compare = Some((at, Reason::Reread));
        }
    }

    /// Postpones the second check of doubtful items, which would not settle anything yet.
    pub fn look_later(&mut self, now: Instant) {
        self.compare = Some((now + SECOND_LOOK, Reason::SecondLook));
    }

    /// Plans to write waiting items; the pause of an earlier failure stays. A store that may have
    /// lost its data is compared before single items are written.
    pub fn flush(&mut self, now: Instant) {
        let compared = self.compare.filter(|(_, reason)| reason.is_seen_by_all());
        let compared = compared.map(|(at, _)| at).max(self.verify);
        self.flush.get_or_insert(compared.map_or(now, |at| at.max(now)));
    }

    /// Notes that a comparison succeeded, and plans the next ones.
    pub fn compared(&mut self, now: Instant, random: f64, live: bool, doubts: bool) {
        (self.compare, self.verify, self.failures) = (None, None, 0);
        self.checked(now, random);
        if doubts {
            self.compare(now + SECOND_LOOK, Reason::SecondLook);
        } else if !live {
            self.compare(now + jittered(self.timing.reread, random), Reason::Reread);
        }
    }

    /// Notes that a visit had nothing to do, and plans the next ones. Visits that are planned for
    /// other reasons stay.
    pub fn unasked(&mut self, now: Instant, random: f64, due: Due, live: bool) {
        match due {
            Due::Compare(Reason::Periodic) | Due::Look => {}
            Due::Compare(_) => self.compare = None,
            Due::Verify => self.verify = None,
            Due::Flush => self.flush = None,
        }
        self.checked(now, random);
        if !live {
            self.compare(now + jittered(self.timing.reread, random), Reason::Reread);
        }
    }

    fn checked(&mut self, now: Instant, random: f64) {
        self.periodic =
            self.timing.check.map(|pause| now + jittered(pause * LOOKS_PER_COMPARISON, random));
        self.looked(now, random);
    }

    /// True if the store may lack something and is still to be compared for that.
    pub fn is_in_doubt(&self) -> bool {
        self.verify.is_some() || self.compare.is_some_and(|(_, reason)| reason.is_seen_by_all())
    }

    /// Notes that the waiting items are written.
    pub fn flushed(&mut self) {
        (self.flush, self.failures) = (None, 0);
    }

    /// Plans a retry of items that other writers changed at each attempt; nothing else waits for
    /// them.
    pub fn contended(&mut self, now: Instant, random: f64) {
        self.flush = Some(now + RETRY.delay(1, random));
    }

    /// Notes that the new connection leads to the same data, or that a comparison follows.
    pub fn verified(&mut self) {
        self.verify = None;
    }

    /// Plans a retry because the database refuses writes; reading it meanwhile would show nothing
    /// new.
    pub fn refused(&mut self, now: Instant, random: f64) {
        self.failures = self.failures.saturating_add(1);
        self.flush = Some(now + RETRY.delay(self.failures, random));
        self.compare = None;
    }

    /// Plans the next look.
    pub fn looked(&mut self, now: Instant, random: f64) {
        self.look = self.timing.check.map(|pause| now + jittered(pause, random));
    }

    /// Plans the retry of a failed visit.
    pub fn failed(&mut self, now: Instant, random: f64, due: Due) {
        self.failures = self.failures.saturating_add(1);
        let again = now + RETRY.delay(self.failures, random);
        match due {
            // A store that refuses items may lack others by the time it takes them again.
            Due::Flush => {
                self.flush = Some(again);
                self.compare(again, Reason::Failed);
            }
            // After a failed look it is not known what the store holds.
            Due::Compare(_) | Due::Look | Due::Verify => {
                self.verify = None;
                self.compare = Some((again, Reason::Failed));
                self.looked(now, random);
                self.periodic = self.periodic.map(|at| at.max(again));
            }
        }
    }

    /// Plans visits for a new connection: what failed is retried soon, though not by all relays at
    /// once. If nothing has failed, it is enough to check whether the server is the same.
    pub fn reconnected(&mut self, now: Instant, random: f64) {
        let soon = now + HERD_WAIT.mul_f64(random.clamp(0.0, 1.0));
        // A reading that is due may have nothing to do.
        let is_due = self.compare.is_some_and(|(at, why)| at <= now && why != Reason::Reread);
        if self.failures == 0 && !is_due {
            self.verify = Some(soon);
            self.flush = self.flush.map(|at| at.max(soon));
            return;
        }
        self.failures = 0;
        let (at, reason) = match self.compare {
            Some((at, reason)) if at <= now => (at, reason),
            Some(_) | None => (soon, Reason::Reconnected),
        };
        self.compare = Some((at, reason));
        self.flush = self.flush.map(|_| at);
    }
}

/// A pause shortened by up to a quarter, at random, so that relays do not all look at once.
fn jittered(pause: Duration, random: f64) -> Duration {
    pause.mul_f64(1.0 - 0.25 * random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays `second:what` against a schedule with a check every 30 s and readings every 15 s, and
    /// shows what comes next.
    #[track_caller]
    fn check(script: &str, expected: &str) {
        let origin = Instant::now();
        let timing =
            Timing { check: Some(Duration::from_secs(30)), reread: Duration::from_secs(15) };
        let mut schedule = Schedule::new(timing, origin);
        for step in script.split_whitespace() {
            let (seconds, what) = step.split_once(':').unwrap();
            let now = origin + Duration::from_secs_f64(seconds.parse().unwrap());
            match what {
                "live" => schedule.compared(now, 0.0, true, false),
                "doubts" => schedule.compared(now, 0.0, true, true),
                "away" => schedule.compared(now, 0.0, false, false),
                "nothing" => {
                    let (_, due) = schedule.next().unwrap();
                    schedule.unasked(now, 0.0, due, false);
                }
                "put" => schedule.compare(now, Reason::Put),
                "lost" => schedule.compare(now + HERD_WAIT, Reason::ItemsMissing),
                "dirty" => schedule.flush(now),
                "flushed" => schedule.flushed(),
                "looked" => schedule.looked(now, 0.0),
                "fail" => {
                    let (_, due) = schedule.next().unwrap();
                    schedule.failed(now, 0.0, due);
                }
                "verified" => schedule.verified(),
                "refused" => schedule.refused(now, 0.0),
                "gone" => schedule.not_live(now, 0.0),
                "back" => schedule.reconnected(now, 1.0),
                other => panic!("unknown step {other}"),
            }
        }
        let (at, due) = schedule.next().unwrap();
        assert_eq!(format!("{due:?} at {}", (at - origin).as_secs_f64()), expected, "{script}");
    }

    #[test]
    fn a_store_is_read_at_once_and_looked_at_later() {
        check("", "Compare(Start) at 0");
        check("0:live", "Look at 30");
        check("0:live 30:looked", "Look at 60");
        check("0:live 580:looked", "Compare(Periodic) at 600");
        check("0:away", "Compare(Reread) at 15");
        check("0:doubts", "Compare(SecondLook) at 5");
    }

    #[test]
    fn what_is_new_is_written_at_once() {
        check("0:live 7:put", "Compare(Put) at 7");
        check("0:live 7:dirty", "Flush at 7");
        check("0:live 7:dirty 7:flushed", "Look at 30");
        check("0:away 7:put", "Compare(Put) at 7");
    }

    #[test]
    fn a_store_that_may_have_lost_its_data_is_compared_before_items_are_written() {
        check("0:live 7:lost 7:dirty", "Compare(ItemsMissing) at 7.3");
        check("0:live 7:dirty 7:lost", "Compare(ItemsMissing) at 7.3");
        check("0:live 7:dirty 7:lost 7.3:live", "Flush at 7.3");
        check("0:doubts 1:dirty 4.9:lost", "Compare(SecondLook) at 5");
    }

    #[test]
    fn failures_have_ever_longer_pauses_until_the_database_is_back() {
        let delay = |failures: u32| RETRY.delay(failures, 0.0).as_secs_f64();
        check("0:fail", &format!("Compare(Failed) at {}", delay(1)));
        check("0:fail 1:fail 2:fail", &format!("Compare(Failed) at {}", 2.0 + delay(3)));
        check("0:live 7:dirty 7:fail", &format!("Compare(Failed) at {}", 7.0 + delay(1)));
        check("0:live 7:dirty 7:fail 7:dirty", &format!("Compare(Failed) at {}", 7.0 + delay(1)));
        check("0:live 30:fail", &format!("Compare(Failed) at {}", 30.0 + delay(1)));
        check("0:fail 1:fail 1.5:back", "Compare(Reconnected) at 1.8");
        check("0:live 9:back", "Verify at 9.3");
        check("0:away 9:back", "Verify at 9.3");
        check("0:live 7:dirty 7:fail 7.1:back", "Compare(Reconnected) at 7.4");
        check("0:live 7.1:back 7.2:dirty", "Verify at 7.4");
        check("0:live 7.1:back 7.2:dirty 7.4:verified", "Flush at 7.4");
        check("0:live 7.1:back 7.2:dirty 7.4:away", "Flush at 7.4");
    }

    #[test]
    fn a_store_that_takes_no_writes_is_not_read_again_and_again() {
        let delay = |failures: u32| RETRY.delay(failures, 0.0).as_secs_f64();
        check("0:live 7:dirty 7:refused", &format!("Flush at {}", 7.0 + delay(1)));
        check("0:live 7:dirty 7:refused 7:dirty", &format!("Flush at {}", 7.0 + delay(1)));
        check("0:live 7:put 7:refused 9:refused", &format!("Flush at {}", 9.0 + delay(2)));
    }

    #[test]
    fn without_launchdarkly_nothing_is_written_and_a_check_for_a_loss_stays() {
        check("0:live 7:dirty 7:gone", "Compare(Reread) at 22");
        check("0:live 7:put 7:gone", "Compare(Reread) at 22");
        check("0:doubts 4:gone", "Compare(Reread) at 19");
        check("0:fail 0:back 0:dirty 0:gone", "Compare(Reconnected) at 0.3");
        check("0:live 1:back 1:gone", "Verify at 1.3");
    }

    #[test]
    fn a_visit_that_had_nothing_to_do_settles_nothing() {
        check("0:away 15:nothing", "Compare(Reread) at 30");
        check("0:away 14.9:back 15:nothing", "Verify at 15.2");
        check("0:fail 0.1:back 0.2:put 0.2:nothing", "Verify at 0.4");
        check("0:away 15:back 15:nothing", "Verify at 15.3");
        check("0:away 14.9:back 15:nothing 15.2:nothing", "Compare(Reread) at 30");
    }

    #[test]
    fn without_a_check_only_what_is_told_leads_to_a_visit() {
        let now = Instant::now();
        let timing = Timing { check: None, reread: Duration::from_secs(15) };
        let mut schedule = Schedule::new(timing, now);
        schedule.compared(now, 0.0, true, false);
        assert_eq!(schedule.next(), None);
        schedule.compared(now, 0.0, false, false);
        assert_eq!(schedule.next(), Some((now + timing.reread, Due::Compare(Reason::Reread))));
    }
}
