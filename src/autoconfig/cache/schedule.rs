//! When a keeper looks at its tier again: pure, given the time and a random number.
//!
//! Invariant: whatever happened last, some moment lies ahead at which the keeper acts, and it lies
//! ahead by a pause, so that neither a failure nor a doubt makes the keeper spin.

use std::time::Duration;

use tokio::time::Instant;

use super::shared_tier::CONFIRMATION_AGE;
use crate::backoff::Backoff;

/// Pause before a failed read or write is tried again. A database that returns ends it early.
pub(super) const RETRY: Backoff =
    Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(15) };

/// Pause before the second look at records that are not what LaunchDarkly told us (as in design
/// D28).
pub(super) const SECOND_LOOK: Duration = Duration::from_secs(5);

/// How much later than a peer this relay may hear of the same change. A sign of life of the stream
/// that comes sooner after the first look may have been sent before the change was, so it does
/// not show that LaunchDarkly has nothing to tell.
pub(super) const STREAM_LAG: Duration = Duration::from_secs(2);

/// Why the keeper wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Something waits to be written.
    Write,
    /// It is time to look for losses, and to confirm the age of the set.
    Check,
    /// Records that are not ours are due for a second look.
    SecondLook,
}

/// What lies ahead.
#[derive(Debug)]
pub(super) struct Schedule {
    check_every: Duration,
    write_at: Option<Instant>,
    check_at: Instant,
    look_at: Option<Instant>,
    failures: u32,
}

impl Schedule {
    /// Something waits to be written. Without an interval the tier is still visited as often as
    /// the age of its set must be confirmed: `cacheMaxAge` is judged by it.
    pub(super) fn new(check_interval: Option<Duration>, now: Instant) -> Self {
        Self {
            check_every: check_interval.unwrap_or(CONFIRMATION_AGE),
            write_at: Some(now),
            check_at: now,
            look_at: None,
            failures: 0,
        }
    }

    /// Whether something waits to be written.
    pub(super) fn is_dirty(&self) -> bool {
        self.write_at.is_some()
    }

    /// What comes next, and when.
    pub(super) fn next(&self) -> (Instant, Due) {
        let write = self.write_at.map(|at| (at, Due::Write));
        let look = self.look_at.map(|at| (at, Due::SecondLook));
        let check = (self.check_at, Due::Check);
        // Of two that are due, the first of this list: it does the other's work too.
        [write, look]
            .into_iter()
            .flatten()
            .fold(check, |first, other| if other.0 <= first.0 { other } else { first })
    }

    /// Something new is to be written, or a failed write may work again: at once.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.write_at = Some(now);
        self.failures = 0;
    }

    /// The tier was visited and holds what it should. `doubts`: some records wait for a second
    /// look.
    pub(super) fn succeeded(&mut self, now: Instant, random: f64, doubts: bool) {
        (self.write_at, self.failures) = (None, 0);
        self.look_at = doubts.then(|| now + SECOND_LOOK);
        self.check_at = now + jittered(self.check_every, random);
    }

    /// The tier could not be visited: what it lacks is not known.
    pub(super) fn failed(&mut self, now: Instant, random: f64) {
        self.failures = self.failures.saturating_add(1);
        self.write_at = Some(now + RETRY.delay(self.failures, random));
        self.check_at = now + jittered(self.check_every, random);
    }

    /// It was not the time to act: the next chance.
    pub(super) fn skipped(&mut self, now: Instant, random: f64, due: Due) {
        match due {
            Due::SecondLook => self.look_at = Some(now + SECOND_LOOK),
            Due::Write | Due::Check => self.check_at = now + jittered(self.check_every, random),
        }
    }
}

/// Three quarters of a pause to all of it, so that relays do not look all at once.
pub(super) fn jittered(pause: Duration, random: f64) -> Duration {
    pause.mul_f64(1.0 - 0.25 * random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays `second:what` against a schedule with a check every 30 s, and shows what comes next.
    #[track_caller]
    fn check(script: &str, expected: &str) {
        let origin = Instant::now();
        let at = |seconds: &str| origin + Duration::from_secs_f64(seconds.parse().unwrap());
        let mut schedule = Schedule::new(Some(Duration::from_secs(30)), origin);
        for step in script.split_whitespace() {
            let (seconds, what) = step.split_once(':').unwrap();
            let now = at(seconds);
            match what {
                "ok" => schedule.succeeded(now, 0.0, false),
                "doubts" => schedule.succeeded(now, 0.0, true),
                "fail" => schedule.failed(now, 0.0),
                "new" => schedule.hurry(now),
                "skip" => {
                    let (due_at, due) = schedule.next();
                    assert!(due_at <= now, "{due:?} is not due at {seconds}");
                    schedule.skipped(now, 0.0, due);
                }
                other => panic!("unknown step {other}"),
            }
        }
        let (next, due) = schedule.next();
        let shown = format!("{due:?} at {}", (next - origin).as_secs_f64());
        assert_eq!(shown, expected, "{script}");
    }

    #[test]
    fn what_is_wanted_is_written_at_once_and_looked_at_later() {
        check("", "Write at 0");
        check("0:ok", "Check at 30");
        check("0:ok 7:new", "Write at 7");
        check("0:ok 7:new 8:ok", "Check at 38");
    }

    #[test]
    fn failures_are_repeated_ever_later_until_something_happens() {
        let delay = |failures: u32| RETRY.delay(failures, 0.0).as_secs_f64();
        check("0:fail", &format!("Write at {}", delay(1)));
        check("0:fail 1:fail 2:fail", &format!("Write at {}", 2.0 + delay(3)));
        check("0:fail 1:fail 2:new", "Write at 2");
        check("0:fail 1:fail 2:new 2:fail", &format!("Write at {}", 2.0 + delay(1)));
        check("0:ok 30:fail", &format!("Write at {}", 30.0 + delay(1)));
    }

    #[test]
    fn doubts_are_looked_at_after_a_pause_and_again_after_another() {
        check("0:doubts", "SecondLook at 5");
        check("0:doubts 5:skip", "SecondLook at 10");
        check("0:doubts 5:skip 10:skip 15:ok", "Check at 45");
        check("0:doubts 3:new", "Write at 3");
    }

    #[test]
    fn nothing_makes_it_spin() {
        check("0:ok 30:skip", "Check at 60");
        check("0:doubts 5:skip 10:skip 15:skip 20:skip 25:skip 30:skip", "Check at 30");
        check(
            "0:doubts 5:skip 10:skip 15:skip 20:skip 25:skip 30:skip 30:skip",
            "SecondLook at 35",
        );
    }

    #[test]
    fn without_an_interval_the_age_is_confirmed_all_the_same() {
        let now = Instant::now();
        let mut schedule = Schedule::new(None, now);
        schedule.succeeded(now, 0.0, false);
        assert_eq!(schedule.next(), (now + CONFIRMATION_AGE, Due::Check));
    }
}
