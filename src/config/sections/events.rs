//! `[Events]`: analytics events on their way from SDKs to LaunchDarkly.

use std::time::Duration;

use ::http::Uri;

use crate::config::reader::Reader;
use crate::config::table::events as table;

/// `[Events]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventsConfig {
    /// True if events of SDKs are accepted and forwarded.
    pub send: bool,
    /// Base of LaunchDarkly's endpoints for events.
    pub uri: Uri,
    /// Longest time for which events are gathered; `None`: the default.
    pub flush_interval: Option<Duration>,
    /// Number of events at which they are sent at once.
    pub capacity: u64,
    /// Largest body of a request, in bytes; `None`: the relay's own limit.
    pub body_bytes_max: Option<u64>,
    /// Bytes of events that wait in memory, compressed.
    pub memory_bytes_max: u64,
    /// Bytes of events that wait on disk, compressed.
    pub spool_bytes_max: u64,
    /// Age at which events on disk are dropped.
    pub spool_age_max: Duration,
}

/// Reads the section.
pub(super) fn read(reader: &mut Reader<'_>) -> EventsConfig {
    let mut section = reader.global();
    EventsConfig {
        send: section.value(&table::USE_EVENTS),
        uri: section.value(&table::EVENTS_HOST),
        flush_interval: section.value(&table::EVENTS_FLUSH_INTERVAL),
        capacity: section.value(&table::EVENTS_CAPACITY),
        body_bytes_max: section.read(&table::EVENTS_MAX_INBOUND_PAYLOAD_SIZE),
        memory_bytes_max: section.value(&table::EVENTS_MEMORY_SIZE),
        spool_bytes_max: section.value(&table::EVENTS_SPOOL_SIZE),
        spool_age_max: section.value(&table::EVENTS_SPOOL_MAX_AGE),
    }
}
