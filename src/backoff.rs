//! Retry delays; pure: the caller passes the random number.

use std::time::Duration;

/// Doubling delays between two bounds, each shortened by up to half at random.
///
/// ld-relay v8: base 1 s, factor 2, cap 30 s, minus a uniform part of up to half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first delay before jitter.
    pub base: Duration,
    /// The largest delay before jitter.
    pub cap: Duration,
}

impl Backoff {
    /// The delay after `failures` failures in a row (the first is 1).
    ///
    /// `random` is uniform in `0.0..1.0`; the result lies in `[d/2, d]`.
    pub fn delay(&self, failures: u32, random: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let full = self.base.saturating_mul(1 << doublings).min(self.cap);
        full.mul_f64(1.0 - 0.5 * random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap_and_never_overflows() {
        let backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(30) };
        let check = |failures, random, ms| {
            assert_eq!(backoff.delay(failures, random), Duration::from_millis(ms));
        };
        check(0, 0.0, 1_000);
        check(1, 0.0, 1_000);
        check(2, 0.0, 2_000);
        check(5, 0.0, 16_000);
        check(6, 0.0, 30_000);
        check(6, 1.0, 15_000);
        check(u32::MAX, 0.5, 22_500);
    }
}
