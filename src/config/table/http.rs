//! `[Http]`: compression towards SDKs, and unused connections to LaunchDarkly.

use std::time::Duration;

use super::kind;
use super::row::{AnyOption, Opt, both, switch};

options! { "Http",
    /// Compress the answers to SDKs that accept gzip, from 1 KiB on. Streams are not compressed.
    HTTP_ENABLE_COMPRESSION: bool = switch("enableCompression");
    /// How long an unused connection to LaunchDarkly is kept.
    HTTP_IDLE_CONN_TIMEOUT: Option<Duration> =
        both("idleConnTimeout", &kind::DURATION_OR_OFF).not_yet();
    /// Number of unused connections that are kept.
    HTTP_MAX_IDLE_CONNS: i64 = both("maxIdleConns", &kind::NUMBER).not_yet();
    /// The same for one host.
    HTTP_MAX_IDLE_CONNS_PER_HOST: i64 = both("maxIdleConnsPerHost", &kind::NUMBER_OR_HEX).not_yet();
    /// Use a new connection for each request.
    HTTP_DISABLE_KEEPALIVE: bool = switch("disableKeepAlives").not_yet();
}
