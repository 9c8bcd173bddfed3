//! Delays before a stream connects again. Pure: the time and a random number are arguments.
//!
//! Two profiles: short delays for failures that pass by themselves, long ones for those that stay
//! until an operator changes something, such as a rejected key. A third curve is for malformed
//! data: the connection is fine, but each reconnect brings the same large answer. All of them grow
//! until a connection has been open for a minute; the stream never gives up.

use std::time::Duration;

use tokio::time::Instant;

use super::{FailureClass, RestartReason};
use crate::backoff::Backoff;

/// The delays and what changes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReconnectTimings {
    /// After failures that pass by themselves. ld-relay v8: 1 s to 30 s.
    pub normal: Backoff,
    /// After rejections. ld-relay v8 waits 5 min to 1 h, so that a key that is valid again is
    /// noticed an hour late; 30 s to 5 min cost upstream next to nothing.
    pub slow: Backoff,
    /// After malformed data.
    pub malformed: Backoff,
    /// Time that a connection must have been open, from the head of the response, before the
    /// failures that preceded it are forgotten. ld-relay v8: one minute, from the last event.
    pub healthy_after: Duration,
    /// Shortest delay that the server's `retry:` can ask for.
    pub hint_min: Duration,
    /// Longest delay that it can ask for.
    pub hint_max: Duration,
}

impl Default for ReconnectTimings {
    fn default() -> Self {
        let backoff =
            |base, cap| Backoff { base: Duration::from_secs(base), cap: Duration::from_secs(cap) };
        Self {
            normal: backoff(1, 30),
            slow: backoff(30, 300),
            malformed: backoff(1, 300),
            healthy_after: Duration::from_secs(60),
            hint_min: Duration::from_millis(500),
            hint_max: Duration::from_secs(30),
        }
    }
}

/// The state of one stream.
#[derive(Clone, Debug)]
pub struct ReconnectPolicy {
    timings: ReconnectTimings,
    profile: FailureClass,
    /// Failures and restarts in a row, within the profile.
    failures: u32,
    /// Restarts for malformed data in a row.
    malformed: u32,
    /// Delay that the server asked for.
    hint: Option<Duration>,
    /// Time since which the connection is open, if it is.
    open_since: Option<Instant>,
}

impl ReconnectPolicy {
    /// The policy of a new stream.
    pub fn new(timings: ReconnectTimings) -> Self {
        Self {
            timings,
            profile: FailureClass::Normal,
            failures: 0,
            malformed: 0,
            hint: None,
            open_since: None,
        }
    }

    /// The delays in use.
    pub fn profile(&self) -> FailureClass {
        self.profile
    }

    /// Notes that a connection was opened: the head of a good response has come.
    pub fn opened(&mut self, now: Instant) {
        self.open_since = Some(now);
    }

    /// Takes a `retry:` line of the server. It replaces the first delay of the profile, but never
    /// makes the slow one faster.
    pub fn hinted(&mut self, millis: u64) {
        let asked = Duration::from_millis(millis);
        self.hint = Some(asked.clamp(self.timings.hint_min, self.timings.hint_max));
    }

    /// Notes that an attempt or a connection failed. Returns how long to wait; `random` is uniform
    /// in `0.0..1.0`.
    pub fn failed(&mut self, class: FailureClass, now: Instant, random: f64) -> Duration {
        self.closed(now);
        match (self.profile, class) {
            (FailureClass::Normal, FailureClass::Slow) => {
                self.profile = FailureClass::Slow;
                self.failures = 1;
            }
            (FailureClass::Normal, FailureClass::Normal)
            | (FailureClass::Slow, FailureClass::Normal | FailureClass::Slow) => {
                self.failures = self.failures.saturating_add(1);
            }
        }
        self.delay(random)
    }

    /// Notes that the relay gave the connection up itself. Returns how long to wait, which is never
    /// zero: a server that asks each connection to reconnect must not be hammered.
    pub fn restarted(&mut self, reason: RestartReason, now: Instant, random: f64) -> Duration {
        let delay = self.failed(FailureClass::Normal, now, random);
        match reason {
            RestartReason::Requested => delay,
            RestartReason::Malformed => {
                self.malformed = self.malformed.saturating_add(1);
                delay.max(self.timings.malformed.delay(self.malformed, random))
            }
        }
    }

    fn forget(&mut self) {
        self.profile = FailureClass::Normal;
        self.failures = 0;
        self.malformed = 0;
    }

    fn closed(&mut self, now: Instant) {
        let healthy = self
            .open_since
            .take()
            .is_some_and(|since| now.duration_since(since) >= self.timings.healthy_after);
        if healthy {
            self.forget();
        }
    }

    fn delay(&self, random: f64) -> Duration {
        let backoff = match self.profile {
            FailureClass::Normal => {
                let base = self.hint.unwrap_or(self.timings.normal.base);
                Backoff { base, cap: self.timings.normal.cap.max(base) }
            }
            FailureClass::Slow => {
                let base = self.timings.slow.base.max(self.hint.unwrap_or_default());
                Backoff { base, cap: self.timings.slow.cap.max(base) }
            }
        };
        backoff.delay(self.failures, random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a story of words and checks the delays in milliseconds, without jitter.
    ///
    /// `open` opens a connection; a number is seconds that pass; `retry=` a hint in milliseconds;
    /// `normal`, `slow`, `requested` and `malformed` end a connection or an attempt and give a
    /// delay each.
    #[track_caller]
    fn check(story: &str, delays_ms: &[u64]) {
        let mut policy = ReconnectPolicy::new(ReconnectTimings::default());
        let mut now = Instant::now();
        let mut delays = Vec::new();
        for word in story.split_whitespace() {
            let delay = match word {
                "open" => {
                    policy.opened(now);
                    continue;
                }
                "normal" => policy.failed(FailureClass::Normal, now, 0.0),
                "slow" => policy.failed(FailureClass::Slow, now, 0.0),
                "requested" => policy.restarted(RestartReason::Requested, now, 0.0),
                "malformed" => policy.restarted(RestartReason::Malformed, now, 0.0),
                other => {
                    match other.strip_prefix("retry=") {
                        Some(millis) => policy.hinted(millis.parse().unwrap()),
                        None => now += Duration::from_secs(other.parse().unwrap()),
                    }
                    continue;
                }
            };
            delays.push(u64::try_from(delay.as_millis()).unwrap());
            now += delay;
        }
        assert_eq!(delays, delays_ms, "{story}");
    }

    #[test]
    fn failures_wait_longer_and_longer_up_to_half_a_minute() {
        check(
            "normal normal normal normal normal normal normal",
            &[1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000],
        );
    }

    #[test]
    fn a_connection_counts_as_healthy_after_a_minute() {
        check("normal normal open 59 normal", &[1_000, 2_000, 4_000]);
        check("normal normal open 60 normal", &[1_000, 2_000, 1_000]);
        check("normal normal open 60 normal normal", &[1_000, 2_000, 1_000, 2_000]);
        check("open 60 normal 60 normal", &[1_000, 2_000]);
        // Server that ends every connection after two seconds.
        check(
            "open 2 normal open 2 normal open 2 normal open 2 normal",
            &[1_000, 2_000, 4_000, 8_000],
        );
    }

    #[test]
    fn a_rejection_is_slow_at_once_and_stays_slow() {
        check(
            "slow slow slow slow slow slow",
            &[30_000, 60_000, 120_000, 240_000, 300_000, 300_000],
        );
        check("normal normal normal slow slow", &[1_000, 2_000, 4_000, 30_000, 60_000]);
        check("slow normal normal", &[30_000, 60_000, 120_000]);
        check("open 3600 slow slow", &[30_000, 60_000]);
    }

    #[test]
    fn only_health_leaves_the_slow_profile() {
        check("slow open 59 normal", &[30_000, 60_000]);
        check("slow open 1 slow open 1 slow", &[30_000, 60_000, 120_000]);
        check("slow slow open 60 normal normal", &[30_000, 60_000, 1_000, 2_000]);
        check("slow open 60 slow", &[30_000, 30_000]);
    }

    #[test]
    fn a_hint_replaces_the_first_delay_within_bounds() {
        check("retry=5000 normal normal normal normal", &[5_000, 10_000, 20_000, 30_000]);
        check("retry=0 normal normal", &[500, 1_000]);
        check("retry=3600000 normal normal", &[30_000, 30_000]);
        check("retry=18446744073709551615 normal", &[30_000]);
        check("retry=5000 retry=2000 normal", &[2_000]);
        check("normal normal retry=2000 normal", &[1_000, 2_000, 8_000]);
        check("retry=2000 open 60 normal", &[2_000]);
    }

    #[test]
    fn a_hint_never_makes_the_slow_profile_faster() {
        check("retry=0 slow slow", &[30_000, 60_000]);
        check("retry=3600000 slow slow", &[30_000, 60_000]);
        check("slow open retry=500 1 normal", &[30_000, 60_000]);
    }

    #[test]
    fn requested_restarts_are_not_hammered() {
        check("open 1 requested open 1 requested open 1 requested", &[1_000, 2_000, 4_000]);
        check("open 3600 requested", &[1_000]);
    }

    #[test]
    fn malformed_data_that_comes_again_waits_up_to_five_minutes() {
        check(
            "open malformed open malformed open malformed open malformed open malformed open \
             malformed open malformed open malformed open malformed open malformed open malformed",
            &[
                1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 300_000,
                300_000,
            ],
        );
        check("open malformed open malformed open 60 malformed", &[1_000, 2_000, 1_000]);
        check("open malformed open malformed open normal", &[1_000, 2_000, 4_000]);
        check("slow open malformed open malformed", &[30_000, 60_000, 120_000]);
        check("retry=0 open malformed open malformed", &[1_000, 2_000]);
        check("retry=5000 open malformed", &[5_000]);
    }

    #[test]
    fn jitter_takes_up_to_half() {
        let now = Instant::now();
        let mut policy = ReconnectPolicy::new(ReconnectTimings::default());
        assert_eq!(policy.failed(FailureClass::Normal, now, 0.5), Duration::from_millis(750));
        assert_eq!(policy.failed(FailureClass::Normal, now, 1.0), Duration::from_secs(1));
        assert_eq!(policy.failed(FailureClass::Slow, now, 1.0), Duration::from_secs(15));
        assert_eq!(policy.profile(), FailureClass::Slow);
        let restarted = policy.restarted(RestartReason::Malformed, now, 0.5);
        assert_eq!(restarted, Duration::from_secs(45));
    }
}
