//! `[Main]`: upstream addresses, the listener, times, logging.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ::http::Uri;

use crate::config::env_vars as var;
use crate::config::reader::{Names, Reader};
use crate::config::values::{self, LogFormat, LogLevel, TlsVersion};

pub(in crate::config) const SECTION: &str = "Main";
pub(in crate::config) const TLS_ENABLED: Names = Names::both("tlsEnabled", var::TLS_ENABLED);
const BASE_URI: Names = Names::both("baseUri", var::BASE_URI);

const STREAM: &str = "https://stream.launchdarkly.com";
const BASE: &str = "https://sdk.launchdarkly.com";
const BASE_OLD: &str = "https://app.launchdarkly.com";
const CLIENT_SIDE: &str = "https://clientsdk.launchdarkly.com";

/// `[Main]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MainConfig {
    /// Base of LaunchDarkly's streams.
    pub stream_uri: Uri,
    /// Base of LaunchDarkly's polling endpoints.
    pub base_uri: Uri,
    /// Base of LaunchDarkly's client-side endpoints.
    pub client_side_base_uri: Uri,
    /// Without effect (design D24).
    pub exit_on_error: bool,
    /// Whether to end when every environment was tried once, without serving.
    pub exit_always: bool,
    /// Without effect (design D24).
    pub ignore_connection_errors: bool,
    /// The port to listen on.
    pub port: u16,
    /// The address to listen on; `None` is all of them, IPv4 and IPv6.
    pub bind_address: Option<IpAddr>,
    /// How long readiness waits for environments that have no data (design D22); zero is not at
    /// all.
    pub init_timeout: Duration,
    /// Time to drain after the signal to stop.
    pub graceful_shutdown_timeout: Duration,
    /// Time within it during which new connections are accepted.
    pub shutdown_delay: Duration,
    /// How often a comment is sent on every stream; `None` is never.
    pub heartbeat_interval: Option<Duration>,
    /// After which time a stream is closed; `None` is never.
    pub max_client_connection_time: Option<Duration>,
    /// Cap on the body of a `REPORT` request.
    pub max_client_request_body_bytes: u64,
    /// Random delay of pings; `None` is none.
    pub ping_stream_jitter_time: Option<Duration>,
    /// How long an environment may be interrupted before it counts as disconnected.
    pub disconnected_status_time: Duration,
    /// Serving of HTTPS; `None` is plain HTTP.
    pub tls: Option<TlsConfig>,
    /// How much is logged, unless an environment says otherwise.
    pub log_level: LogLevel,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Whether stale big segments make the relay degraded.
    pub big_segments_stale_as_degraded: bool,
    /// From which age on big segments are stale.
    pub big_segments_stale_threshold: Duration,
    /// How often expired keys are dropped.
    pub expired_credential_cleanup_interval: Duration,
}

/// Serving of HTTPS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// The certificate chain, PEM.
    pub certificate_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
    /// The lowest version that is accepted; `None` leaves it to the library.
    pub min_version: Option<TlsVersion>,
}

/// Reads the section.
pub(in crate::config) fn read(reader: &mut Reader<'_>) -> MainConfig {
    // ld-relay v8: read from the process whether or not variables set options; any other word
    // than `json` means text.
    let log_format = match reader.process_variable(var::LOG_FORMAT) {
        Some(format) if format.eq_ignore_ascii_case("json") => LogFormat::Json,
        Some(_) | None => LogFormat::Text,
    };
    let (stream_uri, base_uri, client_side_base_uri) = read_addresses(reader);
    let tls = read_tls(reader);
    let mut main = reader.section(SECTION);
    let seconds = Duration::from_secs;
    let mut duration_or_off = |option, variable, default| {
        main.parsed(Names::both(option, variable), values::duration_or_off).unwrap_or(default)
    };
    let heartbeat_interval =
        duration_or_off("heartbeatInterval", var::HEARTBEAT_INTERVAL, Some(seconds(180)));
    let max_client_connection_time =
        duration_or_off("maxClientConnectionTime", var::MAX_CLIENT_CONNECTION_TIME, None);
    let ping_stream_jitter_time =
        duration_or_off("pingStreamJitterTime", var::PING_STREAM_JITTER_TIME, None);
    let mut duration = |option, variable, default| {
        main.parsed(Names::both(option, variable), values::duration).unwrap_or(default)
    };
    let graceful_shutdown_timeout =
        duration("gracefulShutdownTimeout", var::GRACEFUL_SHUTDOWN_TIMEOUT, seconds(30));
    let shutdown_delay = duration("shutdownDelay", var::SHUTDOWN_DELAY, seconds(5));
    let disconnected_status_time =
        duration("disconnectedStatusTime", var::DISCONNECTED_STATUS_TIME, seconds(60));
    let big_segments_stale_threshold =
        duration("bigSegmentsStaleThreshold", var::BIG_SEGMENTS_STALE_THRESHOLD, seconds(300));
    // ld-relay v9; not built here, where `[Concurrency]` and fixed limits bound slow clients.
    main.parsed(
        Names::both("clientWriteMinBytesPerSecond", var::CLIENT_WRITE_MIN_BYTES_PER_SECOND),
        values::integer,
    );
    for (option, variable) in [
        ("clientWriteSlack", var::CLIENT_WRITE_SLACK),
        ("clientWriteMaxTime", var::CLIENT_WRITE_MAX_TIME),
    ] {
        main.parsed(Names::both(option, variable), values::duration_or_off);
    }
    let cleanup =
        Names::both("expiredCredentialCleanupInterval", var::EXPIRED_CREDENTIAL_CLEANUP_INTERVAL);
    let body_size = Names::both("maxClientRequestBodySize", var::MAX_CLIENT_REQUEST_BODY_SIZE);
    let init_timeout = Names::both("initTimeout", var::INIT_TIMEOUT);
    let mut switch = |option, variable| main.switch(Names::both(option, variable));
    MainConfig {
        stream_uri,
        base_uri,
        client_side_base_uri,
        exit_on_error: switch("exitOnError", var::EXIT_ON_ERROR),
        exit_always: switch("exitAlways", var::EXIT_ALWAYS),
        ignore_connection_errors: switch("ignoreConnectionErrors", var::IGNORE_CONNECTION_ERRORS),
        big_segments_stale_as_degraded: switch(
            "bigSegmentsStaleAsDegraded",
            var::BIG_SEGMENTS_STALE_AS_DEGRADED,
        ),
        port: main.parsed(Names::both("port", var::PORT), values::port).unwrap_or(8030),
        bind_address: main
            .parsed(Names::both("bindAddress", var::BIND_ADDRESS), values::bind_address),
        init_timeout: main.parsed(init_timeout, values::duration_from_zero).unwrap_or(seconds(10)),
        graceful_shutdown_timeout,
        shutdown_delay,
        heartbeat_interval,
        max_client_connection_time,
        max_client_request_body_bytes: main.parsed(body_size, values::byte_size).unwrap_or(5 << 20),
        ping_stream_jitter_time,
        disconnected_status_time,
        tls,
        log_level: main
            .parsed(Names::both("logLevel", var::LOG_LEVEL), values::log_level)
            .unwrap_or_default(),
        log_format,
        big_segments_stale_threshold,
        expired_credential_cleanup_interval: main
            .parsed(cleanup, values::interval_of_100ms)
            .unwrap_or(seconds(60)),
    }
}

/// The bases of streams, of polls, and of what client-side SDKs ask for.
///
/// ld-relay v8: the old default of `baseUri` means the new one, and a custom `baseUri` is the
/// default of `clientSideBaseUri`.
fn read_addresses(reader: &mut Reader<'_>) -> (Uri, Uri, Uri) {
    let mut main = reader.section(SECTION);
    let stream = main.parsed(Names::both("streamUri", var::STREAM_URI), values::http_url);
    let base = main
        .parsed(BASE_URI, values::http_url)
        .filter(|base| *base != Uri::from_static(BASE_OLD) && *base != Uri::from_static(BASE));
    let client_side = main
        .parsed(Names::both("clientSideBaseUri", var::CLIENT_SIDE_BASE_URI), values::http_url)
        .or_else(|| base.clone());
    (
        stream.unwrap_or_else(|| Uri::from_static(STREAM)),
        base.unwrap_or_else(|| Uri::from_static(BASE)),
        client_side.unwrap_or_else(|| Uri::from_static(CLIENT_SIDE)),
    )
}

fn read_tls(reader: &mut Reader<'_>) -> Option<TlsConfig> {
    let certificate = Names::both("tlsCert", var::TLS_CERT);
    let key = Names::both("tlsKey", var::TLS_KEY);
    let mut main = reader.section(SECTION);
    let is_enabled = main.switch(TLS_ENABLED);
    let certificate_file = main.path(certificate);
    let key_file = main.path(key);
    let min_version =
        main.parsed(Names::both("tlsMinVersion", var::TLS_MIN_VERSION), values::tls_version);
    if !is_enabled {
        return None;
    }
    for names in [certificate, key] {
        if !main.is_set(names) {
            main.problem(names, "is missing, although tlsEnabled is true", None);
        }
    }
    Some(TlsConfig { certificate_file: certificate_file?, key_file: key_file?, min_version })
}
