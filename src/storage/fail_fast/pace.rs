//! Whether a bulk call goes on: pure, given the time and the bytes that its connection has moved.
//!
//! The time that a large data set takes depends on its size and on the line, and neither is known
//! beforehand. So a bulk call has no deadline as a whole: it goes on as long as it moves
//! [`BYTES_MIN`] in each budget. A call that moves less in all must end within one budget.

use tokio::time::{Duration, Instant};

use super::Budgets;

/// Bytes that must move within each budget (with 5 s: 3 KB/s). Far below any line on which a
/// relay is of use, and enough that a database which sends a byte now and then keeps nobody's
/// place.
pub(super) const BYTES_MIN: u64 = 16 * 1024;

/// Pause between two observations: short against every budget.
const OBSERVED_EVERY: Duration = Duration::from_millis(250);

/// What an observation shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The call may go on.
    Enough,
    /// Not a byte has moved for the budget of a small call.
    Silent,
    /// Too little has moved within the budget: the call is to be given up.
    TooLittle,
}

/// The progress of one bulk call.
#[derive(Debug)]
pub(super) struct Pace {
    budgets: Budgets,
    /// The present budget: when it began, and the bytes moved before it.
    began: Instant,
    bytes_before: u64,
    /// The newest progress: when it was observed, and the bytes moved by then.
    moved_at: Instant,
    bytes: u64,
}

impl Pace {
    pub(super) fn new(budgets: Budgets, now: Instant, bytes: u64) -> Self {
        Self { budgets, began: now, bytes_before: bytes, moved_at: now, bytes }
    }

    /// The next moment to observe.
    pub(super) fn next(&self, now: Instant) -> Instant {
        (now + OBSERVED_EVERY).min(self.began + self.budgets.bulk)
    }

    /// Takes note of the bytes moved so far.
    pub(super) fn observe(&mut self, now: Instant, bytes: u64) -> Progress {
        if bytes > self.bytes {
            (self.moved_at, self.bytes) = (now, bytes);
        }
        if bytes.saturating_sub(self.bytes_before) >= BYTES_MIN {
            (self.began, self.bytes_before) = (now, bytes);
        }
        if now >= self.began + self.budgets.bulk {
            return Progress::TooLittle;
        }
        if now >= self.moved_at + self.budgets.call { Progress::Silent } else { Progress::Enough }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Observations as `seconds:kibibytes` under budgets of 2 s and 5 s; what they show, as `+`,
    /// `silent` or `give-up`.
    #[track_caller]
    fn check(observations: &str, expected: &str) {
        let origin = Instant::now();
        let mut pace = Pace::new(Budgets::default(), origin, 7);
        let shown = observations.split_whitespace().map(|observation| {
            let (seconds, kibibytes) = observation.split_once(':').unwrap();
            let now = origin + Duration::from_secs_f64(seconds.parse().unwrap());
            match pace.observe(now, 7 + kibibytes.parse::<u64>().unwrap() * 1024) {
                Progress::Enough => "+",
                Progress::Silent => "silent",
                Progress::TooLittle => "give-up",
            }
        });
        assert_eq!(shown.collect::<Vec<_>>().join(" "), expected, "{observations}");
    }

    #[test]
    fn a_call_goes_on_while_enough_moves() {
        check("1:100 2:200 3:300 60:5000 64.9:5100", "+ + + + +");
        check("4.9:16 9.7:32 14.5:48", "+ + +");
    }

    #[test]
    fn a_call_that_moves_too_little_is_given_up_after_one_budget() {
        check("1:1 2:2 3:3 4:4 4.9:5 5:5", "+ + + + + give-up");
        check("4:16 8.9:31 9:31", "+ + give-up");
    }

    #[test]
    fn silence_ends_with_a_byte() {
        check("1.9:0 2:0 2.1:0 4.9:0 5:0", "+ silent silent silent give-up");
        check("1:8 2.9:8 3:8 3.5:9 4.9:9", "+ + silent + +");
    }

    #[test]
    fn observations_are_frequent_and_never_later_than_the_end_of_the_budget() {
        let now = Instant::now();
        let pace = Pace::new(Budgets::default(), now, 0);
        let check = |after_ms, next_ms| {
            let next = pace.next(now + Duration::from_millis(after_ms));
            assert_eq!(next, now + Duration::from_millis(next_ms));
        };
        check(0, 250);
        check(4_900, 5_000);
    }
}
