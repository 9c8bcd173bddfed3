//! Bounds of the server, from the configuration and the process.

use crate::config::{ConcurrencyConfig, ConcurrencyLimit, Config};
use crate::server::{InitialPayloads, ServerSettings};

/// Largest body with events if none is configured. SDKs send some hundred kilobytes at most.
const EVENT_BYTES_MAX: u64 = 32 << 20;

/// Settings of the server.
pub(super) fn server_settings(config: &Config) -> ServerSettings {
    ServerSettings {
        max_client_connection_time: config.main.max_client_connection_time,
        initial_payloads: initial_payloads(&config.concurrency),
        disconnected_after: config.main.disconnected_status_time,
        init_timeout: config.main.init_timeout,
        open_files_max: open_files_max(),
        ping_jitter: config.main.ping_stream_jitter_time,
        context_bytes_max: config.main.max_client_request_body_size,
        event_bytes_max: config.events.body_bytes_max.unwrap_or(EVENT_BYTES_MAX),
        compresses: config.http.enable_compression,
        has_status_page: config.main.status_page,
        is_offline: config.offline.is_some(),
    }
}

/// Files that this process may have open.
fn open_files_max() -> usize {
    // If the limit cannot be read, only the kernel enforces it.
    let limit = rlimit::Resource::NOFILE.get_soft().unwrap_or(u64::MAX);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

fn initial_payloads(section: &ConcurrencyConfig) -> Option<InitialPayloads> {
    let mut bounds = InitialPayloads::default();
    let size = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
    match section.max_concurrent {
        Some(ConcurrencyLimit::Off) => return None,
        Some(ConcurrencyLimit::AtMost(count)) => {
            bounds.concurrent_max = size(count);
            // With an explicit limit, the queue is off unless it is set too (ld-relay v9: 0).
            bounds.queued_max = 0;
        }
        None => {}
    }
    if let Some(count) = section.max_queued {
        bounds.queued_max = size(count);
    }
    if let Some(timeout) = section.send_timeout {
        bounds.send_timeout = Some(timeout);
    }
    Some(bounds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::INITIAL_PAYLOADS_MAX;

    #[test]
    fn initial_payloads_are_limited_unless_that_is_switched_off() {
        let bounds = |limit| {
            let section = ConcurrencyConfig { max_concurrent: limit, ..Default::default() };
            initial_payloads(&section).map(|bounds| (bounds.concurrent_max, bounds.queued_max > 0))
        };
        assert_eq!(bounds(None), Some((INITIAL_PAYLOADS_MAX, true)));
        assert_eq!(bounds(Some(ConcurrencyLimit::AtMost(7))), Some((7, false)));
        assert_eq!(bounds(Some(ConcurrencyLimit::Off)), None);
    }
}
