//! `[Main]`: addresses of LaunchDarkly, the listener, times, logging.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use crate::config::values::{LogFormat, LogLevel, TlsVersion};

use super::kind;
use super::row::{AnyOption, Opt, both, in_file, switch, variable};

options! { "Main",
    /// Address of the streams of LaunchDarkly: environments and flags.
    STREAM_URI: Uri = both("streamUri", &kind::ADDRESS).default("https://stream.launchdarkly.com");
    /// Address for polling LaunchDarkly, which the relay never does; another one than the default
    /// is also that of `clientSideBaseUri`, unless that is set. The old default
    /// `https://app.launchdarkly.com` is treated as the new one.
    BASE_URI: Uri =
        both("baseUri", &kind::ADDRESS).default("https://sdk.launchdarkly.com");
    /// Address of the goals of client-side SDKs.
    CLIENT_SIDE_BASE_URI: Uri = both("clientSideBaseUri", &kind::ADDRESS)
        .unset_means("`https://clientsdk.launchdarkly.com`, or `baseUri` if that is set");
    /// The port to listen on.
    PORT: u16 = both("port", &kind::PORT).default("8030").shared();
    /// The address to listen on; no multicast or broadcast address.
    BIND_ADDRESS: IpAddr = both("bindAddress", &kind::IP_ADDRESS).unset_means("all interfaces");
    /// How long `/readyz` waits for environments that have no data, after the list of
    /// environments is known. It does not delay any answer: data is served as soon as it is
    /// available. With `exitAlways`, the time limit of the whole run.
    INIT_TIMEOUT: Duration = both("initTimeout", &kind::DURATION_FROM_ZERO).default("10s");
    /// Time limit for open streams and requests after the signal to stop.
    GRACEFUL_SHUTDOWN_TIMEOUT: Duration =
        both("gracefulShutdownTimeout", &kind::DURATION).default("30s");
    /// How long the relay still accepts new connections after SIGTERM, while `/readyz` answers
    /// 503, because load balancers need some time to notice. It is part of
    /// `gracefulShutdownTimeout` and never longer. SIGINT has no delay.
    SHUTDOWN_DELAY: Duration = both("shutdownDelay", &kind::DURATION).default("5s");
    /// How often the relay sends a comment on each stream, so that proxies do not close it as
    /// idle; 0 or less: never.
    HEARTBEAT_INTERVAL: Option<Duration> =
        both("heartbeatInterval", &kind::DURATION_OR_OFF).default("3m");
    /// The relay closes a stream after this time, so that clients are distributed over the relays
    /// again. The actual time is up to 10 % shorter, at random; 0 or less: never.
    MAX_CLIENT_CONNECTION_TIME: Option<Duration> =
        both("maxClientConnectionTime", &kind::DURATION_OR_OFF).unset_means("no limit");
    /// Largest body of a `REPORT` request, in which client-side SDKs send a context.
    MAX_CLIENT_REQUEST_BODY_SIZE: u64 =
        both("maxClientRequestBodySize", &kind::SIZE).default("5MiB");
    /// Rate at which a client must read (ld-relay v9).
    CLIENT_WRITE_MIN_BYTES_PER_SECOND: i64 =
        both("clientWriteMinBytesPerSecond", &kind::NUMBER).unset_means("off").not_yet();
    /// Additional time for each write.
    CLIENT_WRITE_SLACK: Option<Duration> =
        both("clientWriteSlack", &kind::DURATION_OR_OFF).default("5s").not_yet();
    /// Time limit of one write.
    CLIENT_WRITE_MAX_TIME: Option<Duration> =
        both("clientWriteMaxTime", &kind::DURATION_OR_OFF).unset_means("none").not_yet();
    /// Longest delay of the pings that tell client-side SDKs to evaluate again; the actual delay
    /// is between half of it and all of it, at random, so that they do not ask all at once. What
    /// changes meanwhile needs no other ping.
    PING_STREAM_JITTER_TIME: Option<Duration> =
        both("pingStreamJitterTime", &kind::DURATION_OR_OFF).unset_means("none");
    /// Show the status as a web page at `/`. It contains no key, and is as public as `/status`.
    STATUS_PAGE: bool = both("statusPage", &kind::SWITCH).default("true");
    /// How long the connection of an environment may be interrupted before `/status` reports it
    /// as disconnected; also, how long unknown credentials get 401 after the autoconfig stream is
    /// lost, before they get 503.
    DISCONNECTED_STATUS_TIME: Duration =
        both("disconnectedStatusTime", &kind::DURATION).default("1m");
    /// How often the relay closes the streams of expired keys. New requests with an expired key
    /// are refused at once.
    EXPIRED_CREDENTIAL_CLEANUP_INTERVAL: Duration =
        both("expiredCredentialCleanupInterval", &kind::INTERVAL).default("1m");
    /// Lowest level that is logged.
    LOG_LEVEL: LogLevel = both("logLevel", &kind::LOG_LEVEL).default("info");
    /// Format of log lines.
    LOG_FORMAT: LogFormat = variable(&kind::LOG_FORMAT).default("text").of_process();
    /// Connect every environment, store the data, and exit: 0 if everything is connected and
    /// stored within `initTimeout`, else 1. No port is opened.
    EXIT_ALWAYS: bool = switch("exitAlways");
    /// Pilotlight never exits because of errors of LaunchDarkly or a database.
    EXIT_ON_ERROR: bool = switch("exitOnError").never();
    /// Pilotlight never exits because of connection errors.
    IGNORE_CONNECTION_ERRORS: bool = switch("ignoreConnectionErrors").never();
    /// Serve HTTPS. Terminate TLS in front of the relay instead.
    TLS_ENABLED: bool = switch("tlsEnabled").refused(
        "HTTPS is not implemented yet; terminate TLS in front of the relay, in an ingress, a load \
         balancer or a reverse proxy",
    );
    /// Certificate chain, PEM; required with `tlsEnabled`.
    TLS_CERT: PathBuf = both("tlsCert", &kind::PATH).not_yet();
    /// Its private key, PEM; required with `tlsEnabled`.
    TLS_KEY: PathBuf = both("tlsKey", &kind::PATH).not_yet();
    /// Lowest version that is accepted.
    TLS_MIN_VERSION: TlsVersion =
        both("tlsMinVersion", &kind::TLS_VERSION).unset_means("default of the library").not_yet();
    /// Report the relay as degraded while big segments are stale.
    BIG_SEGMENTS_STALE_AS_DEGRADED: bool = switch("bigSegmentsStaleAsDegraded").not_yet();
    /// Age from which big segments are stale.
    BIG_SEGMENTS_STALE_THRESHOLD: Duration =
        both("bigSegmentsStaleThreshold", &kind::DURATION).default("5m").not_yet();
    /// More debug output about big segments.
    LD_TRACE_LOG_BIG_SEGMENTS: String = variable(&kind::TEXT).of_process().not_yet();
    /// ld-relay 6 renamed this option to `heartbeatInterval`; the value needs a unit, such as 180s.
    HEARTBEAT_INTERVAL_SECS: String = in_file("heartbeatIntervalSecs", &kind::TEXT).retired();
    /// ld-relay 8 removed this option; delete the line. Pilotlight sends no usage metrics.
    INTERNAL_USAGE_METRICS: String =
        in_file("disableInternalUsageMetrics", &kind::TEXT).retired();
    /// ld-relay 8 removed this variable. Pilotlight sends no usage metrics.
    DISABLE_INTERNAL_USAGE_METRICS: String = variable(&kind::TEXT).never();
}
