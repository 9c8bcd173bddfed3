//! The circuit breaker of one database. Pure: the caller passes the time and a random number.
//!
//! It decides which calls may use the database: all while it is closed, and only one probe at a
//! time while it is open. It does not dial, wait or read a clock; [`super::FailFast`] does.
//!
//! Invariant: no state is terminal. An open breaker always has a time at which the next probe is
//! due. That time is set before a probe starts, so a probe that is dropped without a result only
//! delays the next one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// Time between probes at the beginning of an outage (recovery within seconds).
pub const EARLY_PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Length of the beginning of an outage.
pub const EARLY_OUTAGE: Duration = Duration::from_secs(300);

/// Time between probes in a longer outage (without end, to spare the database).
pub const LATE_PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// A failure within this time after a successful probe continues the same outage: a database that
/// answers PING and nothing else must not be probed at the early interval indefinitely.
pub const RELAPSE_WINDOW: Duration = Duration::from_secs(10);

/// The state of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls pass.
    Closed,
    /// Calls are refused; a probe is due later.
    Open,
    /// Calls are refused; a probe is under way.
    HalfOpen,
}

impl BreakerState {
    /// The value in `/status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "halfOpen",
        }
    }
}

/// The newest failure, as `/status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// The error and its causes, without secrets.
    pub text: Arc<str>,
    /// The time at which it was reported.
    pub at: Instant,
}

impl fmt::Display for LastError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The breaker: closed, open or half-open, with the time of the next probe.
#[derive(Clone, Debug)]
pub struct Breaker {
    outage: Option<Outage>,
    /// Begin and end of the previous outage.
    previous: Option<(Instant, Instant)>,
    since: Instant,
    last_error: Option<LastError>,
}

#[derive(Clone, Copy, Debug)]
struct Outage {
    began: Instant,
    next_probe: Instant,
    probing: bool,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(now: Instant) -> Self {
        Self { outage: None, previous: None, since: now, last_error: None }
    }

    /// True if an ordinary call may use the database.
    pub fn admits(&self) -> bool {
        self.outage.is_none()
    }

    /// The state for the operator.
    pub fn state(&self) -> BreakerState {
        match self.outage {
            None => BreakerState::Closed,
            Some(Outage { probing: false, .. }) => BreakerState::Open,
            Some(Outage { probing: true, .. }) => BreakerState::HalfOpen,
        }
    }

    /// True if it is open in an outage that a successful probe seemed to have ended.
    pub fn has_relapsed(&self) -> bool {
        self.outage.is_some_and(|outage| outage.began < self.since)
    }

    /// The time since which the database is available or unavailable; probes do not change it.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// The newest failure, kept after recovery.
    pub fn last_error(&self) -> Option<&LastError> {
        self.last_error.as_ref()
    }

    /// The time at which the next probe is due; `None` while closed.
    pub fn next_probe(&self) -> Option<Instant> {
        self.outage.map(|outage| outage.next_probe)
    }

    /// Records an error that says nothing about availability, for `/status` only.
    pub fn note(&mut self, now: Instant, text: Arc<str>) {
        self.last_error = Some(LastError { text, at: now });
    }

    /// Handles a time-out or transport failure. One is enough to open the breaker.
    /// Returns true if it did; `random` is uniform in `0.0..1.0`.
    pub fn on_failure(&mut self, now: Instant, random: f64, text: Arc<str>) -> bool {
        self.note(now, text);
        if let Some(outage) = &mut self.outage {
            outage.probing = false;
            return false;
        }
        let began = match self.previous {
            Some((began, ended)) if now < ended + RELAPSE_WINDOW => began,
            Some(_) | None => now,
        };
        let next_probe = now + probe_delay(began, now, random);
        self.outage = Some(Outage { began, next_probe, probing: false });
        self.since = now;
        true
    }

    /// Starts a probe if one is due. The next one is scheduled now, before the outcome is known.
    pub fn begin_probe(&mut self, now: Instant, random: f64) -> bool {
        match &mut self.outage {
            Some(outage) if now >= outage.next_probe => {
                outage.next_probe = now + probe_delay(outage.began, now, random);
                outage.probing = true;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Handles an answer to the probe: the database is available. Returns true if this closed the
    /// breaker.
    pub fn on_probe_success(&mut self, now: Instant) -> bool {
        let Some(outage) = self.outage.take() else { return false };
        self.previous = Some((outage.began, now));
        self.since = now;
        true
    }
}

/// A delay of 0.5 to 1.5 times the interval, so that the relays of a fleet do not probe at the same
/// time.
fn probe_delay(began: Instant, now: Instant, random: f64) -> Duration {
    let young = now.saturating_duration_since(began) < EARLY_OUTAGE;
    let interval = if young { EARLY_PROBE_INTERVAL } else { LATE_PROBE_INTERVAL };
    interval.mul_f64(0.5 + random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script against one breaker and compares its answers. Steps: `12.5:fail`, `12.5:ok`
    /// (probe succeeded), `12.5:probe` (try to begin one), `12.5:?` (state). `random` is 0.5, so
    /// delays are exactly the intervals.
    #[track_caller]
    fn check(script: &str, expected: &str) {
        let origin = Instant::now();
        let mut breaker = Breaker::new(origin);
        let mut answers = Vec::new();
        for step in script.split_whitespace() {
            let (seconds, what) = step.split_once(':').unwrap();
            let now = origin + Duration::from_secs_f64(seconds.parse().unwrap());
            answers.push(match what {
                "fail" => yes_no(breaker.on_failure(now, 0.5, "lost".into()), "opened", "-"),
                "ok" => yes_no(breaker.on_probe_success(now), "closed", "-"),
                "probe" => yes_no(breaker.begin_probe(now, 0.5), "probes", "-"),
                "?" => describe(&breaker, origin),
                other => panic!("unknown step {other}"),
            });
        }
        assert_eq!(answers.join(" "), expected);
    }

    fn yes_no(answer: bool, yes: &str, no: &str) -> String {
        if answer { yes.to_owned() } else { no.to_owned() }
    }

    fn describe(breaker: &Breaker, origin: Instant) -> String {
        let seconds = |at: Instant| at.duration_since(origin).as_secs_f64();
        let relapsed = if breaker.has_relapsed() { "/relapsed" } else { "" };
        let next = breaker.next_probe().map_or("none".to_owned(), |at| seconds(at).to_string());
        let admits = if breaker.admits() { "admits" } else { "refuses" };
        let since = seconds(breaker.since());
        format!("{:?}@{since}/{admits}/next={next}{relapsed}", breaker.state())
    }

    #[test]
    fn one_failure_opens_and_a_probe_closes() {
        check("0:? 3:fail 3:?", "Closed@0/admits/next=none opened Open@3/refuses/next=4");
        check(
            "3:fail 4:probe 4:? 4.1:ok 4.1:?",
            "opened probes HalfOpen@3/refuses/next=5 closed Closed@4.1/admits/next=none",
        );
    }

    #[test]
    fn probes_only_when_due_and_only_while_open() {
        check("0:probe 3:fail 3.9:probe 4:probe 4:probe", "- opened - probes -");
        check("0:ok 0:?", "- Closed@0/admits/next=none");
    }

    #[test]
    fn a_failed_probe_keeps_it_open_with_the_next_one_scheduled() {
        check("3:fail 4:probe 4.2:fail 4.2:?", "opened probes - Open@3/refuses/next=5");
    }

    #[test]
    fn a_dropped_probe_cannot_wedge_it() {
        check("3:fail 4:probe 4.9:probe 5:probe 5.1:ok", "opened probes - probes closed");
    }

    #[test]
    fn late_failures_of_calls_in_flight_do_not_postpone_the_probe() {
        check("3:fail 3.5:fail 3.9:fail 3.9:?", "opened - - Open@3/refuses/next=4");
    }

    #[test]
    fn an_outage_of_five_minutes_is_probed_every_five_seconds() {
        check("0:fail 299:probe 299:?", "opened probes HalfOpen@0/refuses/next=300");
        check("0:fail 300:probe 300:?", "opened probes HalfOpen@0/refuses/next=305");
        check("0:fail 90000:probe 90000:?", "opened probes HalfOpen@0/refuses/next=90005");
    }

    #[test]
    fn a_relapse_continues_the_outage_and_a_later_failure_does_not() {
        check(
            "0:fail 400:probe 401:ok 402:fail 402:?",
            "opened probes closed opened Open@402/refuses/next=407/relapsed",
        );
        check(
            "0:fail 400:probe 401:ok 411:fail 411:?",
            "opened probes closed opened Open@411/refuses/next=412",
        );
    }

    #[test]
    fn delays_are_spread_by_half_of_the_interval() {
        let now = Instant::now();
        let check = |random, ms| {
            assert_eq!(probe_delay(now, now, random), Duration::from_millis(ms), "{random}");
        };
        check(0.0, 500);
        check(0.5, 1_000);
        check(1.0, 1_500);
        check(7.0, 1_500);
        let old = now + EARLY_OUTAGE;
        assert_eq!(probe_delay(now, old, 1.0), Duration::from_millis(7_500));
    }

    #[test]
    fn the_last_error_is_kept_after_recovery() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        assert_eq!(breaker.last_error(), None);
        breaker.on_failure(now, 0.5, "connection refused".into());
        breaker.on_probe_success(now);
        assert_eq!(breaker.last_error().unwrap().to_string(), "connection refused");
        breaker.note(now, "wrong password".into());
        assert!(breaker.admits());
        assert_eq!(breaker.last_error().unwrap().to_string(), "wrong password");
    }
}
