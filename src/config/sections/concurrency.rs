//! `[Concurrency]`: limits of the full payloads that are sent at once.

use std::time::Duration;

use crate::config::reader::Reader;
use crate::config::table::concurrency as table;

/// `[Concurrency]`. `None` means the default of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConcurrencyConfig {
    /// Full payloads that are sent at once.
    pub max_concurrent: Option<ConcurrencyLimit>,
    /// Requests that wait for a slot; with 0, a request that finds none is refused at once.
    pub max_queued: Option<u32>,
    /// Longest time one payload may hold its slot.
    pub send_timeout: Option<Duration>,
}

/// A limit that the operator chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConcurrencyLimit {
    /// No limit.
    Off,
    /// This many; above zero.
    AtMost(u32),
}

/// Reads the section.
pub(super) fn read(reader: &mut Reader<'_>) -> ConcurrencyConfig {
    let mut section = reader.global();
    let count = section.read(&table::INIT_MAX_CONCURRENT);
    let max_concurrent = count.map(|count| match count.min(table::MAX_CONCURRENT_MAX) {
        0 => ConcurrencyLimit::Off,
        count => ConcurrencyLimit::AtMost(count),
    });
    let max_queued =
        section.read(&table::INIT_MAX_QUEUED).map(|count| count.min(table::MAX_QUEUED_MAX));
    let send_timeout = section.read(&table::INIT_SEND_TIMEOUT);
    let shown_queued = max_queued.unwrap_or(if count.is_some() { 0 } else { 20_000 });
    section.show(&table::INIT_MAX_QUEUED, Some(shown_queued.to_string()));
    if max_concurrent == Some(ConcurrencyLimit::Off) {
        section.show(&table::INIT_MAX_CONCURRENT, Some("off".to_owned()));
        // The other two options have no effect.
        section.show(&table::INIT_MAX_QUEUED, None);
        section.show(&table::INIT_SEND_TIMEOUT, None);
    }
    let send_timeout = send_timeout.map(|timeout| timeout.max(table::SEND_TIMEOUT_MIN));
    ConcurrencyConfig { max_concurrent, max_queued, send_timeout }
}
