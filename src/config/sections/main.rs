//! `[Main]`: upstream addresses, the listener, times, logging.

use std::net::IpAddr;
use std::time::Duration;

use ::http::Uri;

use crate::config::reader::{Reader, Scope};
use crate::config::table::main as table;
use crate::config::values::{LogFormat, LogLevel};

const BASE: &str = "https://sdk.launchdarkly.com";
const BASE_OLD: &str = "https://app.launchdarkly.com";
const CLIENT_SIDE: &str = "https://clientsdk.launchdarkly.com";

/// `[Main]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MainConfig {
    /// Base of LaunchDarkly's streams.
    pub stream_uri: Uri,
    /// Base of LaunchDarkly's client-side endpoints.
    pub client_side_base_uri: Uri,
    /// True if the relay connects every environment once and then exits, without serving.
    pub exit_always: bool,
    /// The port to listen on.
    pub port: u16,
    /// The address to listen on; `None` is all of them, IPv4 and IPv6.
    pub bind_address: Option<IpAddr>,
    /// Time for which readiness waits for environments without data; zero means not at
    /// all.
    pub init_timeout: Duration,
    /// Time to drain after the signal to stop.
    pub graceful_shutdown_timeout: Duration,
    /// The first part of that time, in which new connections are accepted.
    pub shutdown_delay: Duration,
    /// Interval of comments on every stream; `None` means never.
    pub heartbeat_interval: Option<Duration>,
    /// Time after which a stream is closed; `None` means never.
    pub max_client_connection_time: Option<Duration>,
    /// Largest body with a context, in bytes.
    pub max_client_request_body_size: u64,
    /// Longest delay of pings to client-side SDKs; `None`: at once.
    pub ping_stream_jitter_time: Option<Duration>,
    /// True if there is a page for people at `/`.
    pub status_page: bool,
    /// Time for which an environment may be interrupted before it is reported as disconnected.
    pub disconnected_status_time: Duration,
    /// The log level, unless an environment has its own.
    pub log_level: LogLevel,
    /// Format of log lines.
    pub log_format: LogFormat,
    /// Interval at which expired keys are dropped.
    pub expired_credential_cleanup_interval: Duration,
}

/// Reads the section.
pub(in crate::config) fn read(reader: &mut Reader<'_>) -> MainConfig {
    let mut main = reader.global();
    check_tls(&mut main);
    let base_uri = main.value(&table::BASE_URI);
    // ld-relay v8: the old default of `baseUri` means the new one, and a custom `baseUri` is the
    // default of `clientSideBaseUri`.
    let own_base = Some(&base_uri)
        .filter(|uri| ![BASE, BASE_OLD].contains(&uri.to_string().trim_end_matches('/')));
    let client_side = main.read(&table::CLIENT_SIDE_BASE_URI).or_else(|| own_base.cloned());
    MainConfig {
        stream_uri: main.value(&table::STREAM_URI),
        client_side_base_uri: client_side.unwrap_or_else(|| Uri::from_static(CLIENT_SIDE)),
        exit_always: main.value(&table::EXIT_ALWAYS),
        port: main.value(&table::PORT),
        bind_address: main.read(&table::BIND_ADDRESS),
        init_timeout: main.value(&table::INIT_TIMEOUT),
        graceful_shutdown_timeout: main.value(&table::GRACEFUL_SHUTDOWN_TIMEOUT),
        shutdown_delay: main.value(&table::SHUTDOWN_DELAY),
        heartbeat_interval: main.value(&table::HEARTBEAT_INTERVAL),
        max_client_connection_time: main.read(&table::MAX_CLIENT_CONNECTION_TIME).flatten(),
        max_client_request_body_size: main.value(&table::MAX_CLIENT_REQUEST_BODY_SIZE),
        ping_stream_jitter_time: main.read(&table::PING_STREAM_JITTER_TIME).flatten(),
        status_page: main.value(&table::STATUS_PAGE),
        disconnected_status_time: main.value(&table::DISCONNECTED_STATUS_TIME),
        log_level: main.value(&table::LOG_LEVEL),
        log_format: main.value(&table::LOG_FORMAT),
        expired_credential_cleanup_interval: main
            .value(&table::EXPIRED_CREDENTIAL_CLEANUP_INTERVAL),
    }
}

fn check_tls(main: &mut Scope<'_, '_>) {
    if !main.value(&table::TLS_ENABLED) {
        return;
    }
    for file in [&table::TLS_CERT, &table::TLS_KEY] {
        main.read(file);
        main.require(file, "is missing, although tlsEnabled is true");
    }
}
