//! `[Events]`: analytics events on their way from SDKs to LaunchDarkly.

use std::time::Duration;

use http::Uri;

use super::kind;
use super::row::{AnyOption, Opt, both, in_file, switch, variable};

/// ld-relay v8: less than this is raised to it.
const METRICS_CAPACITY_MIN: u64 = 1000;

options! { "Events",
    /// Accept events from SDKs and forward them.
    USE_EVENTS: bool = switch("sendEvents");
    /// Address to which they are sent.
    EVENTS_HOST: Uri =
        both("eventsUri", &kind::ADDRESS).default("https://events.launchdarkly.com");
    /// How often they are sent.
    EVENTS_FLUSH_INTERVAL: Option<Duration> =
        both("flushInterval", &kind::DURATION_OR_OFF).default("5s");
    /// Number of events at which they are sent before the time is up. ld-relay drops what comes
    /// beyond it.
    EVENTS_CAPACITY: u64 = both("capacity", &kind::POSITIVE).default("1000");
    /// Length of the queue of usage metrics; at least 1000.
    EVENTS_METRICS_CAPACITY: u64 = both("metricsCapacity", &kind::POSITIVE)
        .default("10000")
        .warn(|capacity| {
            let is_small = *capacity < METRICS_CAPACITY_MIN;
            is_small.then(|| format!("is too small; {METRICS_CAPACITY_MIN} is used"))
        })
        .not_yet();
    /// Largest body of one event request, after decompression.
    EVENTS_MAX_INBOUND_PAYLOAD_SIZE: u64 =
        both("maxInboundPayloadSize", &kind::SIZE).unset_means("32 MiB");
    /// Bytes of events that wait in memory, compressed.
    EVENTS_MEMORY_SIZE: u64 = both("memorySize", &kind::SIZE).default("64MiB");
    /// Bytes of events that wait on disk, compressed, while LaunchDarkly does not take them. The
    /// oldest are dropped beyond it.
    EVENTS_SPOOL_SIZE: u64 = both("spoolSize", &kind::SIZE).default("1GiB");
    /// Age at which events on disk are dropped.
    EVENTS_SPOOL_MAX_AGE: Duration = both("spoolMaxAge", &kind::DURATION).default("24h");
    /// ld-relay 8 does not use it: events are forwarded as SDKs send them.
    EVENTS_INLINE_USERS: bool = switch("inlineUsers").never();
    /// ld-relay 6 removed this variable; events are not sampled.
    EVENTS_SAMPLING_INTERVAL: String = variable(&kind::TEXT).retired();
    /// ld-relay 6 removed this option; delete the line. Events are not sampled.
    SAMPLING_INTERVAL: String = in_file("samplingInterval", &kind::TEXT).retired();
    /// ld-relay 6 renamed this option to `flushInterval`; the value needs a unit, such as 5s.
    FLUSH_INTERVAL_SECS: String = in_file("flushIntervalSecs", &kind::TEXT).retired();
    /// ld-relay 5.5 replaced this variable by `USE_EVENTS`.
    EVENTS_SEND: String = variable(&kind::TEXT).never();
}
