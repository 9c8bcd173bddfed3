//! `[Events]`: analytics events on their way from SDKs to LaunchDarkly.

use std::time::Duration;

use ::http::Uri;

use crate::config::env_vars as var;
use crate::config::problems::Place;
use crate::config::reader::{Names, Reader};
use crate::config::values;

const SECTION: &str = "Events";

/// ld-relay v8: less than this is raised to it.
const METRICS_CAPACITY_MIN: u64 = 1000;

/// `[Events]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventsConfig {
    /// Whether events are accepted and forwarded.
    pub send_events: bool,
    /// Base of LaunchDarkly's event endpoints.
    pub events_uri: Uri,
    /// How often events are sent.
    pub flush_interval: Duration,
    /// Events kept in one interval; further ones are dropped.
    pub capacity: u64,
    /// Length of the queue of usage metrics.
    pub metrics_capacity: u64,
    /// Cap on one event post; `None` is none.
    pub max_inbound_payload_bytes: Option<u64>,
    /// Whether events carry whole users.
    pub inline_users: bool,
}

/// Reads the section.
pub(super) fn read(reader: &mut Reader<'_>) -> EventsConfig {
    if reader.variable(var::EVENTS_SAMPLING_INTERVAL).is_some_and(|value| !value.is_empty()) {
        let place = Place::Variable(var::EVENTS_SAMPLING_INTERVAL.to_owned());
        reader.problem(place, "ld-relay 6 removed this variable; events are not sampled", None);
    }
    let metrics_capacity = Names::both("metricsCapacity", var::EVENTS_METRICS_CAPACITY);
    let capacity = Names::both("capacity", var::EVENTS_CAPACITY);
    let flush_interval = Names::both("flushInterval", var::EVENTS_FLUSH_INTERVAL);
    let payload = Names::both("maxInboundPayloadSize", var::EVENTS_MAX_INBOUND_PAYLOAD_SIZE);
    let mut section = reader.section(SECTION);
    let asked = section.parsed(metrics_capacity, values::positive).unwrap_or(10_000);
    if asked < METRICS_CAPACITY_MIN {
        section.warning(metrics_capacity, format!("is too small; {METRICS_CAPACITY_MIN} is used"));
    }
    EventsConfig {
        send_events: section.switch(Names::both("sendEvents", var::USE_EVENTS)),
        events_uri: section
            .parsed(Names::both("eventsUri", var::EVENTS_HOST), values::http_url)
            .unwrap_or_else(|| Uri::from_static("https://events.launchdarkly.com")),
        flush_interval: section
            .parsed(flush_interval, values::duration_or_off)
            .flatten()
            .unwrap_or(Duration::from_secs(5)),
        capacity: section.parsed(capacity, values::positive).unwrap_or(1000),
        metrics_capacity: asked.max(METRICS_CAPACITY_MIN),
        max_inbound_payload_bytes: section.parsed(payload, values::byte_size),
        inline_users: section.switch(Names::both("inlineUsers", var::EVENTS_INLINE_USERS)),
    }
}
