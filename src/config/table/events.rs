//! `[Events]`: analytics events on their way from SDKs to LaunchDarkly.

use std::time::Duration;

use http::Uri;

use super::kind;
use super::row::{AnyOption, Opt, both, in_file, switch, variable};

/// ld-relay v8: less than this is raised to it.
const METRICS_CAPACITY_MIN: u64 = 1000;

options! { "Events",
    /// Accept events from SDKs and forward them.
    USE_EVENTS: bool = switch("sendEvents").not_yet();
    /// Address to which they are sent.
    EVENTS_HOST: Uri =
        both("eventsUri", &kind::ADDRESS).default("https://events.launchdarkly.com").not_yet();
    /// How often they are sent.
    EVENTS_FLUSH_INTERVAL: Option<Duration> =
        both("flushInterval", &kind::DURATION_OR_OFF).default("5s").not_yet();
    /// Largest number of events kept between two transmissions.
    EVENTS_CAPACITY: u64 = both("capacity", &kind::POSITIVE).default("1000").not_yet();
    /// Length of the queue of usage metrics; at least 1000.
    EVENTS_METRICS_CAPACITY: u64 = both("metricsCapacity", &kind::POSITIVE)
        .default("10000")
        .warn(|capacity| {
            let is_small = *capacity < METRICS_CAPACITY_MIN;
            is_small.then(|| format!("is too small; {METRICS_CAPACITY_MIN} is used"))
        })
        .not_yet();
    /// Largest body of one event request.
    EVENTS_MAX_INBOUND_PAYLOAD_SIZE: u64 =
        both("maxInboundPayloadSize", &kind::SIZE).unset_means("no limit").not_yet();
    /// Include full user data in events.
    EVENTS_INLINE_USERS: bool = switch("inlineUsers").not_yet();
    /// ld-relay 6 removed this variable; events are not sampled.
    EVENTS_SAMPLING_INTERVAL: String = variable(&kind::TEXT).retired();
    /// ld-relay 6 removed this option; delete the line. Events are not sampled.
    SAMPLING_INTERVAL: String = in_file("samplingInterval", &kind::TEXT).retired();
    /// ld-relay 6 renamed this option to `flushInterval`; the value needs a unit, such as 5s.
    FLUSH_INTERVAL_SECS: String = in_file("flushIntervalSecs", &kind::TEXT).retired();
    /// ld-relay 5.5 replaced this variable by `USE_EVENTS`.
    EVENTS_SEND: String = variable(&kind::TEXT).never();
}
