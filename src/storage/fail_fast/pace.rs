//! Decides if a call continues. Pure: the caller passes the time and the bytes that bulk calls have
//! transferred.
//!
//! The time of a large data set depends on its size and on the connection, and neither is known
//! beforehand. So a bulk call has no deadline as a whole: it continues as long as it transfers
//! [`BYTES_MIN`] in each budget. A call that transfers less in total must end within one budget.
//!
//! All connections may share one network queue on the way to the database, where the bytes for bulk
//! calls delay all other answers. Then small calls are late, and so is the first byte of another
//! bulk call. That is no failure as long as bulk calls receive bytes: [`Patience`] prolongs a small
//! call, [`Pace::excuse`] a bulk call, both up to [`LATE_LIMIT`].

use tokio::time::{Duration, Instant};

use super::{Budgets, CHECK_BUDGET, LATE_LIMIT};

/// Bytes that must be transferred within each budget (with 5 s: 3 KB/s). Far below any connection
/// on which a relay is useful, and enough that a database which sends a byte now and then does not
/// block a bulk call's place.
pub(super) const BYTES_MIN: u64 = 16 * 1024;

/// Pause between two observations; short compared with every budget.
const OBSERVED_EVERY: Duration = Duration::from_millis(250);

/// The result of an observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The call may continue.
    Enough,
    /// No byte was transferred for the budget of a small call.
    Silent,
    /// Too little was transferred within the budget: the call must be given up.
    TooLittle,
}

/// The progress of one bulk call.
#[derive(Debug)]
pub(super) struct Pace {
    budgets: Budgets,
    /// The current budget: its begin, and the bytes transferred before it.
    began: Instant,
    bytes_before: u64,
    /// The newest progress: the time of its observation, and the bytes transferred by then.
    moved_at: Instant,
    bytes: u64,
    /// The last time at which enough was transferred, and the bytes that all bulk calls had
    /// received by then.
    enough_at: Instant,
    arrived_before: u64,
}

impl Pace {
    /// `bytes`: the count of the call's meter. `arrived`: the bytes that all bulk calls have
    /// received.
    pub(super) fn new(budgets: Budgets, now: Instant, bytes: u64, arrived: u64) -> Self {
        Self {
            budgets,
            began: now,
            bytes_before: bytes,
            moved_at: now,
            bytes,
            enough_at: now,
            arrived_before: arrived,
        }
    }

    /// The next moment to observe.
    pub(super) fn next(&self, now: Instant) -> Instant {
        (now + OBSERVED_EVERY).min(self.began + self.budgets.bulk)
    }

    /// Records the bytes transferred so far.
    pub(super) fn observe(&mut self, now: Instant, bytes: u64, arrived: u64) -> Progress {
        if bytes > self.bytes {
            (self.moved_at, self.bytes) = (now, bytes);
        }
        if bytes.saturating_sub(self.bytes_before) >= BYTES_MIN {
            (self.began, self.bytes_before) = (now, bytes);
            (self.enough_at, self.arrived_before) = (now, arrived);
        }
        if now >= self.began + self.budgets.bulk {
            return Progress::TooLittle;
        }
        if now >= self.moved_at + self.budgets.call { Progress::Silent } else { Progress::Enough }
    }

    /// Gives a call that has transferred too little another budget, if the whole connection is
    /// slow: a small call was answered late, and the other bulk calls have received enough
    /// meanwhile. Returns true if it does.
    pub(super) fn excuse(&mut self, now: Instant, answered_after: Duration, arrived: u64) -> bool {
        let own = self.bytes.saturating_sub(self.bytes_before);
        let others = arrived.saturating_sub(self.arrived_before).saturating_sub(own);
        let is_excused = answered_after > CHECK_BUDGET
            && others >= BYTES_MIN
            && now + self.budgets.bulk <= self.enough_at + LATE_LIMIT;
        if is_excused {
            (self.began, self.arrived_before) = (now, arrived);
            self.bytes_before = self.bytes;
        }
        is_excused
    }
}

/// The decision about a small call that has no answer yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// It waits longer: bulk calls receive bytes, and the answer may be delayed behind them.
    Longer,
    /// Bulk calls receive bytes, but it has reached the limit. Only this call has failed.
    Late,
    /// No bytes arrive, or too few.
    Lost,
}

/// The time limit of a small call.
#[derive(Debug)]
pub(super) struct Patience {
    budget: Duration,
    limit: Instant,
    /// The end of the current budget, and the bytes that bulk calls had received at its beginning.
    deadline: Instant,
    arrived_before: u64,
    is_prolonged: bool,
}

impl Patience {
    /// `arrived`: the bytes that all bulk calls have received so far.
    pub(super) fn new(budget: Duration, now: Instant, arrived: u64) -> Self {
        Self {
            budget,
            limit: now + LATE_LIMIT,
            deadline: now + budget,
            arrived_before: arrived,
            is_prolonged: false,
        }
    }

    /// The next moment to observe.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// True if bulk calls have received bytes in this budget or the one before.
    pub(super) fn is_busy(&self, arrived: u64) -> bool {
        self.is_prolonged || self.has_enough(arrived)
    }

    /// Decides at the deadline.
    pub(super) fn observe(&mut self, now: Instant, arrived: u64) -> Wait {
        if !self.has_enough(arrived) {
            return Wait::Lost;
        }
        if now + self.budget > self.limit {
            return Wait::Late;
        }
        (self.deadline, self.arrived_before, self.is_prolonged) =
            (now + self.budget, arrived, true);
        Wait::Longer
    }

    fn has_enough(&self, arrived: u64) -> bool {
        arrived.saturating_sub(self.arrived_before) >= BYTES_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks observations (`seconds:kibibytes`) under budgets of 2 s and 5 s; the results are `+`,
    /// `silent` or `give-up`.
    #[track_caller]
    fn check(observations: &str, expected: &str) {
        let origin = Instant::now();
        let mut pace = Pace::new(Budgets::default(), origin, 7, 0);
        let shown = observations.split_whitespace().map(|observation| {
            let (seconds, kibibytes) = observation.split_once(':').unwrap();
            let now = origin + Duration::from_secs_f64(seconds.parse().unwrap());
            match pace.observe(now, 7 + kibibytes.parse::<u64>().unwrap() * 1024, 0) {
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
        let pace = Pace::new(Budgets::default(), now, 0, 0);
        let check = |after_ms, next_ms| {
            let next = pace.next(now + Duration::from_millis(after_ms));
            assert_eq!(next, now + Duration::from_millis(next_ms));
        };
        check(0, 250);
        check(4_900, 5_000);
    }

    /// A bulk call that transfers nothing. Each step is `seconds:ms:kibibytes`: at this second it
    /// has used up its budget, a small call was answered after this time, and the other bulk calls
    /// have received this much in total.
    #[track_caller]
    fn check_excuse(steps: &str, expected: &str) {
        let origin = Instant::now();
        let mut pace = Pace::new(Budgets::default(), origin, 0, 0);
        let shown = steps.split_whitespace().map(|step| {
            let numbers: Vec<u64> = step.split(':').map(|it| it.parse().unwrap()).collect();
            let now = origin + Duration::from_secs(numbers[0]);
            let arrived = numbers[2] * 1024;
            assert_eq!(pace.observe(now, 0, arrived), Progress::TooLittle, "{step}");
            let is_excused = pace.excuse(now, Duration::from_millis(numbers[1]), arrived);
            if is_excused { "on" } else { "give-up" }
        });
        assert_eq!(shown.collect::<Vec<_>>().join(" "), expected, "{steps}");
    }

    #[test]
    fn a_bulk_call_is_excused_while_the_whole_line_is_slow() {
        check_excuse("8:3300:1000 15:3300:3000 22:3300:5000", "on on on");
        // Small calls are answered: only this call is too slow.
        check_excuse("5:100:1000", "give-up");
        check_excuse("5:500:1000", "give-up");
        // The others receive nothing either.
        check_excuse("8:3300:15", "give-up");
        check_excuse("8:3300:1000 14:3300:1015", "on give-up");
        // Not without a limit.
        check_excuse("25:3300:1000", "on");
        check_excuse("26:3300:1000", "give-up");
    }

    /// A small call with a budget of 2 s. `arrived` lists the total kibibytes that bulk calls have
    /// received at its deadlines.
    #[track_caller]
    fn check_patience(arrived: &[u64], expected_end: (u64, Wait)) {
        let origin = Instant::now();
        let mut patience = Patience::new(Duration::from_secs(2), origin, 7);
        let mut end = (0, Wait::Longer);
        for kibibytes in arrived {
            let now = patience.deadline();
            end = ((now - origin).as_secs(), patience.observe(now, 7 + kibibytes * 1024));
            if end.1 != Wait::Longer {
                break;
            }
        }
        assert_eq!(end, expected_end, "{arrived:?}");
    }

    #[test]
    fn a_small_call_waits_while_bulk_calls_receive_bytes() {
        check_patience(&[0], (2, Wait::Lost));
        check_patience(&[15], (2, Wait::Lost));
        check_patience(&[16], (2, Wait::Longer));
        check_patience(&[600, 1200, 1800], (6, Wait::Longer));
        check_patience(&[600, 1200, 1200], (6, Wait::Lost));
        let steady: Vec<u64> = (1..100).map(|step| step * 16).collect();
        check_patience(&steady, (30, Wait::Late));
    }

    #[test]
    fn a_budget_that_does_not_fit_into_the_limit_twice_is_not_prolonged() {
        let origin = Instant::now();
        let mut patience = Patience::new(Duration::from_secs(20), origin, 0);
        assert_eq!(patience.observe(patience.deadline(), 1 << 30), Wait::Late);
    }
}
