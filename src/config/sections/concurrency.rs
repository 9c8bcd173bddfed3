//! `[Concurrency]`: how many full payloads are under way at once.

use std::time::Duration;

use crate::config::env_vars as var;
use crate::config::reader::{Names, Reader};
use crate::config::values;

const SECTION: &str = "Concurrency";

/// ld-relay v9: more than this is cut to it.
const MAX_CONCURRENT_MAX: u32 = 65_536;
/// ld-relay v9: more than this is cut to it.
const MAX_QUEUED_MAX: u32 = 1_000_000;
/// ld-relay v9: less than this is raised to it.
const SEND_TIMEOUT_MIN: Duration = Duration::from_secs(5);

/// `[Concurrency]`. `None` leaves the choice to whoever enforces the limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConcurrencyConfig {
    /// Full payloads under way at once.
    pub max_concurrent: Option<ConcurrencyLimit>,
    /// Requests that wait for a slot; 0 refuses at once what finds none.
    pub max_queued: Option<u32>,
    /// Longest time one payload may hold its slot.
    pub send_timeout: Option<Duration>,
}

/// A limit somebody chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConcurrencyLimit {
    /// Explicitly none.
    Off,
    /// That many; above zero.
    AtMost(u32),
}

/// Reads the section.
pub(super) fn read(reader: &mut Reader<'_>) -> ConcurrencyConfig {
    let concurrent = Names::both("maxConcurrent", var::INIT_MAX_CONCURRENT);
    let queued = Names::both("maxQueued", var::INIT_MAX_QUEUED);
    let timeout = Names::both("sendTimeout", var::INIT_SEND_TIMEOUT);
    let mut section = reader.section(SECTION);
    let mut count = |names, max: u32| {
        let asked = section.parsed(names, values::integer)?;
        let count = u32::try_from(asked.max(0)).unwrap_or(u32::MAX);
        if count > max {
            section.warning(names, format!("is too large; {max} is used"));
        }
        Some(count.min(max))
    };
    let max_concurrent = count(concurrent, MAX_CONCURRENT_MAX).map(|count| match count {
        0 => ConcurrencyLimit::Off,
        count => ConcurrencyLimit::AtMost(count),
    });
    let max_queued = count(queued, MAX_QUEUED_MAX);
    let send_timeout = section.parsed(timeout, values::duration_from_zero);
    if send_timeout.is_some_and(|timeout| timeout < SEND_TIMEOUT_MIN) {
        section.warning(timeout, format!("is too small; {SEND_TIMEOUT_MIN:?} is used"));
    }
    ConcurrencyConfig {
        max_concurrent,
        max_queued,
        send_timeout: send_timeout.map(|timeout| timeout.max(SEND_TIMEOUT_MIN)),
    }
}
