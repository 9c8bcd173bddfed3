//! Points in time in clauses and contexts: milliseconds since 1970, or text as in RFC 3339.

use serde_json::Number;

/// Nanoseconds since the beginning of 1970, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timestamp(i128);

impl Timestamp {
    /// Milliseconds since the beginning of 1970; a fraction is cut off.
    #[expect(clippy::cast_possible_truncation, reason = "saturates, and cuts the fraction off")]
    pub fn from_millis(millis: f64) -> Self {
        Self(i128::from(millis as i64) * 1_000_000)
    }

    /// A JSON number as milliseconds.
    pub fn from_number(number: &Number) -> Option<Self> {
        number.as_f64().map(Self::from_millis)
    }

    /// Text such as `2024-02-29T12:00:00.5+01:00`. The Go SDK's rules: hours may have one digit, a
    /// day may be past the end of its month, what follows a `Z` is not looked at.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = text;
        let year = field(&mut rest, &['-'], 4..=4)?.0;
        let month = in_range(field(&mut rest, &['-'], 2..=2)?.0, 1..=12)?;
        let day = in_range(field(&mut rest, &['t', 'T'], 2..=2)?.0, 1..=31)?;
        let hour = in_range(field(&mut rest, &[':'], 1..=2)?.0, 0..=23)?;
        let minute = in_range(field(&mut rest, &[':'], 2..=2)?.0, 0..=59)?;
        let (second, mut end) = field(&mut rest, &['.', 'Z', 'z', '+', '-'], 2..=2)?;
        let second = in_range(second, 0..=60)?;
        let mut nanos = 0;
        if end == '.' {
            let digits = rest.find(['Z', 'z', '+', '-'])?;
            (nanos, end) = field(&mut rest, &['Z', 'z', '+', '-'], 1..=9)?;
            nanos *= 10_i64.pow(9 - u32::try_from(digits).ok()?);
        }
        let offset_minutes = match end {
            '+' | '-' => {
                let hours = field(&mut rest, &[':'], 2..=2)?.0;
                let minutes = in_range(number(rest, 2..=2)?, 0..=59)?;
                let sign = if end == '+' { -1 } else { 1 };
                sign * (hours * 60 + minutes)
            }
            _ => 0,
        };
        let minutes = (days(year, month, day) * 24 + hour) * 60 + minute + offset_minutes;
        Some(Self(i128::from(minutes * 60 + second) * 1_000_000_000 + i128::from(nanos)))
    }
}

/// The digits before the first of the ends, which is taken from the text as well.
fn field(
    rest: &mut &str,
    ends: &[char],
    length: std::ops::RangeInclusive<usize>,
) -> Option<(i64, char)> {
    let position = rest.find(ends)?;
    let (digits, behind) = rest.split_at(position);
    let end = behind.chars().next()?;
    *rest = behind.get(end.len_utf8()..)?;
    Some((number(digits, length)?, end))
}

/// The number that these digits are.
fn number(digits: &str, length: std::ops::RangeInclusive<usize>) -> Option<i64> {
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && length.contains(&digits.len())).then(|| digits.parse().ok())?
}

fn in_range(number: i64, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
    range.contains(&number).then_some(number)
}

/// Days from the beginning of 1970 to a date of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March here, so that the day that a leap year adds is the last one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days_of_months = (153 * month + 2) / 5;
    // 719,468 days lie between the first of March of the year 0 and 1970.
    year * 365 + leap_days + days_of_months + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(text: &str) -> Option<i128> {
        Timestamp::parse(text).map(|time| time.0)
    }

    #[test]
    fn times() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01t00:00:00z", 0),
            ("1969-12-31T23:59:59Z", -1),
            ("2000-02-29T00:00:00Z", 951_782_400),
            ("2024-03-01T12:34:56Z", 1_709_296_496),
            ("2024-03-01T1:34:56Z", 1_709_256_896),
            ("2024-03-01T12:34:56+01:30", 1_709_291_096),
            ("2024-03-01T12:34:56-01:30", 1_709_301_896),
            ("2023-02-31T00:00:00Z", 1_677_801_600),
            ("2016-12-31T23:59:60Z", 1_483_228_800),
            ("2024-03-01T12:34:56Zulu", 1_709_296_496),
            ("0000-01-01T00:00:00Z", -62_167_219_200),
        ] {
            assert_eq!(nanos(text), Some(seconds * 1_000_000_000), "{text}");
        }
        assert_eq!(nanos("1970-01-01T00:00:00.5Z"), Some(500_000_000));
        assert_eq!(nanos("1970-01-01T00:00:00.000000001Z"), Some(1));
        assert_eq!(
            Timestamp::from_millis(1_709_296_496_000.9),
            Timestamp::parse("2024-03-01T12:34:56Z").unwrap()
        );
        assert!(Timestamp::from_millis(f64::MAX) > Timestamp::from_millis(0.0));
    }

    #[test]
    fn what_is_no_time() {
        for text in [
            "",
            "2024",
            "2024-03-01",
            "2024-03-01T12:34Z",
            "2024-03-01T12:34:56",
            "2024-03-01T12:34:56.Z",
            "2024-03-01T12:34:56.1234567890Z",
            "2024-03-01T12:34:56.5",
            "24-03-01T12:34:56Z",
            "2024-13-01T12:34:56Z",
            "2024-00-01T12:34:56Z",
            "2024-03-32T12:34:56Z",
            "2024-03-01T24:34:56Z",
            "2024-03-01T12:60:56Z",
            "2024-03-01T12:34:61Z",
            "2024-03-01T12:34:5Z",
            "2024-03-01T12:34:56+1:00",
            "2024-03-01T12:34:56+01",
            "2024-03-01T12:34:56+01:60",
            "2024-03-01 12:34:56Z",
            "2024-03-01T12:34:-6Z",
            "+024-03-01T12:34:56Z",
            "２０２４-03-01T12:34:56Z",
        ] {
            assert_eq!(nanos(text), None, "{text}");
        }
    }
}
