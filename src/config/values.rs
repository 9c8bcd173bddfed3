//! Parses text into typed values, by the rules of ld-relay v8 for each type.
//!
//! Pure functions of one text. The text is never empty, as that means that the option is not set.
//! An error names what is allowed. It does not repeat values that may hold a password (URLs).

mod urls;
mod words;
mod written;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

pub(super) use self::urls::{
    ConsulAddress, PortOrLink, consul_address, host_name, http_url, is_socks, port_or_link,
    proxy_url, redis_url,
};
pub use self::words::{CacheAdopt, CacheFormat, LogFormat, LogLevel};
pub(super) use self::words::{PreferOver, RedisMode, TlsVersion, Word, as_word, word};
pub(super) use self::written::Written;
use super::secrets::InvalidSecret;

/// Longest part of a value that is repeated in a message, in characters.
const QUOTED_CHARACTERS_MAX: usize = 60;

/// The reason why a text is not a value of its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The problem, as a phrase.
    pub(super) what: String,
    /// The allowed values.
    pub(super) allowed: Option<String>,
}

impl Invalid {
    fn new(what: impl Into<String>, allowed: impl Into<String>) -> Self {
        Self { what: what.into(), allowed: Some(allowed.into()) }
    }

    /// An error for an invalid secret; contains no part of its text.
    pub(super) fn secret(error: InvalidSecret) -> Self {
        Self { what: error.to_string(), allowed: None }
    }

    /// `"text" is not …`.
    pub(super) fn is_not(text: &str, a_what: &str, allowed: &str) -> Self {
        Self::new(format!("{} is not {a_what}", quoted(text)), allowed)
    }
}

/// A value that is not a secret, quoted for a one-line message.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARACTERS_MAX) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Pause before a database is read again while LaunchDarkly cannot be reached. In ld-relay: the
/// time for which data read from it is served from memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalTtl {
    /// The interval of health checks: a negative duration.
    Never,
    /// The shortest time: zero.
    Off,
    /// This time.
    For(Duration),
}

impl fmt::Display for LocalTtl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Never => f.write_str("as healthCheckInterval"),
            Self::Off => f.write_str("1s, the shortest possible time"),
            Self::For(duration) => Written(*duration).fmt(f),
        }
    }
}

const DURATIONS: &str = "a number with a unit (ns, us, ms, s, m, h), such as 30s or 1m30s, or 0";

/// Units of Go's duration grammar in nanoseconds. Micro is written `u`, U+00B5 or U+03BC.
const DURATION_UNITS: &[(&str, u64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// A Go duration in nanoseconds, sign included.
fn signed_duration(text: &str) -> Result<i64, Invalid> {
    sum_of_units(text, DURATION_UNITS).ok_or_else(|| Invalid::is_not(text, "a duration", DURATIONS))
}

/// A duration that is not negative.
pub(super) fn duration(text: &str) -> Result<Duration, Invalid> {
    u64::try_from(signed_duration(text)?)
        .map(Duration::from_nanos)
        .map_err(|_| Invalid::new(format!("{} is negative", quoted(text)), DURATIONS))
}

/// A duration; zero and negative ones mean *off*.
pub(super) fn duration_or_off(text: &str) -> Result<Option<Duration>, Invalid> {
    let nanos = u64::try_from(signed_duration(text)?).unwrap_or(0);
    Ok((nanos > 0).then(|| Duration::from_nanos(nanos)))
}

/// A duration; negative ones mean zero.
pub(super) fn duration_from_zero(text: &str) -> Result<Duration, Invalid> {
    Ok(duration_or_off(text)?.unwrap_or_default())
}

/// An interval of at least 100 ms, as in ld-relay v8.
pub(super) fn interval_of_100ms(text: &str) -> Result<Duration, Invalid> {
    let interval = duration_from_zero(text)?;
    if interval < Duration::from_millis(100) {
        return Err(Invalid::new(format!("{} is too short", quoted(text)), "100ms or more"));
    }
    Ok(interval)
}

/// The lifetime of data in memory.
pub(super) fn local_ttl(text: &str) -> Result<LocalTtl, Invalid> {
    let nanos = signed_duration(text)?;
    Ok(match u64::try_from(nanos) {
        Err(_) => LocalTtl::Never,
        Ok(0) => LocalTtl::Off,
        Ok(nanos) => LocalTtl::For(Duration::from_nanos(nanos)),
    })
}

const SIZES: &str = "a number with a unit (B, KiB, MiB, GiB), greater than zero, such as 5MiB";

const KI: u64 = 1024;
const BINARY_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", KI),
    ("MiB", KI.pow(2)),
    ("GiB", KI.pow(3)),
    ("TiB", KI.pow(4)),
    ("PiB", KI.pow(5)),
    ("EiB", KI.pow(6)),
];

/// The old spelling of the same units; the two are not mixed within one size.
const BINARY_UNITS_OLD: &[(&str, u64)] = &[
    ("B", 1),
    ("KB", KI),
    ("MB", KI.pow(2)),
    ("GB", KI.pow(3)),
    ("TB", KI.pow(4)),
    ("PB", KI.pow(5)),
    ("EB", KI.pow(6)),
];

/// A number of bytes above zero. ld-relay v8: all units are powers of 1024.
pub(super) fn byte_size(text: &str) -> Result<u64, Invalid> {
    let bytes = sum_of_units(text, BINARY_UNITS)
        .or_else(|| sum_of_units(text, BINARY_UNITS_OLD))
        .ok_or_else(|| Invalid::is_not(text, "a size in bytes", SIZES))?;
    u64::try_from(bytes)
        .ok()
        .filter(|&bytes| bytes > 0)
        .ok_or_else(|| Invalid::new(format!("{} is not above zero", quoted(text)), SIZES))
}

/// Number of digits of a fraction that are used; further ones are below a nanosecond of an hour.
const FRACTION_DIGITS_MAX: usize = 18;

/// The sum of numbers with units: the grammar of Go's durations, which ld-relay's sizes share.
///
/// `None` if the text has another form, or if the sum exceeds 63 bits.
fn sum_of_units(text: &str, units: &[(&str, u64)]) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut sum: i128 = 0;
    loop {
        let (whole, behind) = split_digits(rest);
        let (fraction, behind) = match behind.strip_prefix('.') {
            Some(behind) => split_digits(behind),
            None => ("", behind),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let unit_end = behind.find(|c: char| c == '.' || c.is_ascii_digit());
        let (unit, behind) = behind.split_at(unit_end.unwrap_or(behind.len()));
        let scale = i128::from(units.iter().find(|(name, _)| *name == unit)?.1);
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let fraction = &fraction[..fraction.len().min(FRACTION_DIGITS_MAX)];
        let parts: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
        let parts = parts * scale / 10_i128.pow(u32::try_from(fraction.len()).ok()?);
        sum = whole.checked_mul(scale)?.checked_add(parts)?.checked_add(sum)?;
        rest = behind;
        if rest.is_empty() {
            return i64::try_from(if negative { -sum } else { sum }).ok();
        }
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// A boolean in the file.
pub(super) fn boolean_in_file(text: &str) -> Result<bool, Invalid> {
    boolean(text, &["on"], &["off"], "true, yes, on, 1, false, no, off, 0")
}

/// A boolean in a variable. ld-relay v8: `on` and `off` are not allowed there.
pub(super) fn boolean_in_variable(text: &str) -> Result<bool, Invalid> {
    boolean(text, &[], &[], "true, yes, 1, false, no, 0")
}

fn boolean(
    text: &str,
    more_true: &[&str],
    more_false: &[&str],
    allowed: &'static str,
) -> Result<bool, Invalid> {
    let is = |word: &&str| text.eq_ignore_ascii_case(word);
    if ["true", "yes", "1"].iter().chain(more_true).any(is) {
        Ok(true)
    } else if ["false", "no", "0"].iter().chain(more_false).any(is) {
        Ok(false)
    } else {
        Err(Invalid::is_not(text, "a boolean", allowed))
    }
}

/// A whole number in decimal notation.
pub(super) fn integer(text: &str) -> Result<i64, Invalid> {
    text.parse().map_err(|_| Invalid::is_not(text, "a whole number", "a decimal number"))
}

/// A whole number; as in ld-relay v8, this kind allows hexadecimal notation as well.
pub(super) fn integer_or_hex(text: &str) -> Result<i64, Invalid> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) if !digits.starts_with(['+', '-']) => i64::from_str_radix(digits, 16)
            .map_err(|_| Invalid::is_not(text, "a whole number", "a decimal or 0x number")),
        Some(_) | None => integer(text),
    }
}

/// A whole number above zero.
pub(super) fn positive(text: &str) -> Result<u64, Invalid> {
    u64::try_from(integer(text)?)
        .ok()
        .filter(|&number| number > 0)
        .ok_or_else(|| Invalid::new(format!("{} is not above zero", quoted(text)), "1 or more"))
}

/// A whole number; negative ones mean zero.
pub(super) fn count(text: &str) -> Result<u32, Invalid> {
    Ok(u32::try_from(integer(text)?.max(0)).unwrap_or(u32::MAX))
}

/// A limit; zero means none.
pub(super) fn limit(text: &str) -> Result<u64, Invalid> {
    u64::try_from(integer(text)?).map_err(|_| {
        Invalid::new(format!("{} is negative", quoted(text)), "0 for no limit, or a limit")
    })
}

/// A TCP port.
pub(super) fn port(text: &str) -> Result<u16, Invalid> {
    text.parse()
        .ok()
        .filter(|&port| port > 0)
        .ok_or_else(|| Invalid::is_not(text, "a port", "a number from 1 to 65535"))
}

/// An IP address; brackets around it are allowed.
pub(super) fn ip_address(text: &str) -> Result<IpAddr, Invalid> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| {
        Invalid::is_not(text, "an IP address", "an address such as 127.0.0.1, 0.0.0.0 or ::1")
    })
}

/// The address of an interface to listen on; or the one that means all interfaces.
pub(super) fn bind_address(text: &str) -> Result<IpAddr, Invalid> {
    let address = ip_address(text)?;
    let is_of_many = match address.to_canonical() {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    };
    if is_of_many {
        return Err(Invalid::is_not(
            text,
            "the address of an interface, but a multicast or broadcast address",
            "an address such as 127.0.0.1, 0.0.0.0 or ::1",
        ));
    }
    Ok(address)
}

/// Any text, without the blanks around it; `None` if it is blank.
pub(super) fn trimmed_text(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
