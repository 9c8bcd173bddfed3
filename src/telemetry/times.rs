//! Times and durations in the form in which people read them.

use std::fmt;
use std::time::{Duration, SystemTime};

/// A duration, rounded: `0.7 s`, `25 s`, `3 min`, `2.5 h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounded(pub Duration);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        let (value, unit) = match seconds {
            _ if seconds < 0.0995 => (seconds * 1e3, "ms"),
            _ if seconds < 119.5 => (seconds, "s"),
            _ if seconds < 7170.0 => (seconds / 60.0, "min"),
            _ => (seconds / 3600.0, "h"),
        };
        let tenths = (value * 10.0).round() / 10.0;
        if tenths >= 10.0 || tenths.fract() == 0.0 {
            write!(f, "{tenths:.0} {unit}")
        } else {
            write!(f, "{tenths:.1} {unit}")
        }
    }
}

/// A moment in RFC 3339, in UTC, to the second; `unknown` where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At(pub Option<SystemTime>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let Some(since) = since else { return f.write_str("unknown") };
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = date(days);
        let (hour, minute) = (second / 3600, second / 60 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z", second % 60)
    }
}

/// Year, month and day in the Gregorian calendar, of so many days after 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    const ERA_DAYS: u64 = 146_097;
    // Years that begin in March: the day that is added in some of them is their last one.
    let days = days + 719_468;
    let (era, day_of_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_rounded() {
        let check = |millis: u64, expected: &str| {
            assert_eq!(Rounded(Duration::from_millis(millis)).to_string(), expected);
        };
        check(0, "0 ms");
        check(7, "7 ms");
        check(99, "99 ms");
        check(100, "0.1 s");
        check(747, "0.7 s");
        check(1_000, "1 s");
        check(25_300, "25 s");
        check(119_000, "119 s");
        check(180_000, "3 min");
        check(300_000, "5 min");
        check(9_000_000, "2.5 h");
        assert_eq!(Rounded(Duration::MAX).to_string().split(' ').next_back(), Some("h"));
    }

    #[test]
    fn moments_are_rfc_3339() {
        let check = |seconds: u64, expected: &str| {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(At(Some(at)).to_string(), expected);
        };
        check(0, "1970-01-01T00:00:00Z");
        check(951_782_399, "2000-02-28T23:59:59Z");
        check(951_782_400, "2000-02-29T00:00:00Z");
        check(951_868_800, "2000-03-01T00:00:00Z");
        check(1_735_689_599, "2024-12-31T23:59:59Z");
        check(4_107_542_400, "2100-03-01T00:00:00Z");
        assert_eq!(At(None).to_string(), "unknown");
        assert_eq!(
            At(Some(SystemTime::UNIX_EPOCH - Duration::from_secs(1))).to_string(),
            "unknown"
        );
    }
}
