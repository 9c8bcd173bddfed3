//! `[Concurrency]`: how many full payloads are sent at once.

use std::time::Duration;

use super::kind;
use super::row::{AnyOption, Opt, both};

/// ld-relay v9: more than this is cut to it.
pub const MAX_CONCURRENT_MAX: u32 = 65_536;
/// ld-relay v9: more than this is cut to it.
pub const MAX_QUEUED_MAX: u32 = 1_000_000;
/// ld-relay v9: less than this is raised to it.
pub const SEND_TIMEOUT_MIN: Duration = Duration::from_secs(5);

options! { "Concurrency",
    /// Payloads that are sent at the same time, at most 65536; 0 or less: no limit, and the other
    /// two options have no effect.
    INIT_MAX_CONCURRENT: u32 = both("maxConcurrent", &kind::COUNT)
        .unset_means("512")
        .warn(|count| too_large(*count, MAX_CONCURRENT_MAX));
    /// Requests that wait for a slot, at most 1000000. A request waits up to 10 s and then gets
    /// 503. With 0, a request that finds no free slot is refused at once.
    INIT_MAX_QUEUED: u32 = both("maxQueued", &kind::COUNT)
        .unset_means("20000; 0 if `maxConcurrent` is set")
        .warn(|count| too_large(*count, MAX_QUEUED_MAX));
    /// Time limit for one payload, at least 5 s; after it the relay closes the connection. Without
    /// this option a client must read at least 8 KiB/s on average over 30 s, and a slot is given to
    /// the next client after 120 s.
    INIT_SEND_TIMEOUT: Duration = both("sendTimeout", &kind::DURATION_FROM_ZERO)
        .unset_means("no limit")
        .warn(|timeout| {
            let is_small = *timeout < SEND_TIMEOUT_MIN;
            is_small.then(|| format!("is too small; {SEND_TIMEOUT_MIN:?} is used"))
        });
}

fn too_large(count: u32, max: u32) -> Option<String> {
    (count > max).then(|| format!("is too large; {max} is used"))
}
