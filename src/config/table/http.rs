//! `[Http]`: compression towards SDKs, and unused connections to LaunchDarkly.

use std::time::Duration;

use super::kind;
use super::row::{AnyOption, Opt, both, switch};

options! { "Http",
    /// Compress the answers to SDKs.
    ENABLE_COMPRESSION: bool = switch("enableCompression", "HTTP_ENABLE_COMPRESSION").not_yet();
    /// How long an unused connection to LaunchDarkly is kept.
    IDLE_CONN_TIMEOUT: Option<Duration> =
        both("idleConnTimeout", "HTTP_IDLE_CONN_TIMEOUT", &kind::DURATION_OR_OFF).not_yet();
    /// Number of unused connections that are kept.
    MAX_IDLE_CONNS: i64 = both("maxIdleConns", "HTTP_MAX_IDLE_CONNS", &kind::NUMBER).not_yet();
    /// The same for one host.
    MAX_IDLE_CONNS_PER_HOST: i64 =
        both("maxIdleConnsPerHost", "HTTP_MAX_IDLE_CONNS_PER_HOST", &kind::NUMBER_OR_HEX).not_yet();
    /// Use a new connection for each request.
    DISABLE_KEEP_ALIVES: bool = switch("disableKeepAlives", "HTTP_DISABLE_KEEPALIVE").not_yet();
}
