//! `[Redis]`: Redis and Valkey.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::values::{LocalTtl, PortOrLink, RedisMode};
use crate::model::{Password, RedactedUrl};

use super::kind;
use super::row::{AnyOption, Opt, both, switch, variable};

options! { "Redis",
    /// Enables Redis; alone, it means `redis://localhost:6379`.
    USE_REDIS: bool = variable("USE_REDIS", &kind::SWITCH);
    /// The server, optionally with user, password and database number; not together with `host`
    /// or `port`.
    URL: RedactedUrl = both("url", "REDIS_URL", &kind::REDIS_URL)
        .ignores_empty()
        .mistaken(
            &["REDIS_ADDR", "REDIS_ADDRESS", "REDIS_ENDPOINT", "REDIS_SERVER"],
            "the address of Redis is set by REDIS_URL, or REDIS_HOST and REDIS_PORT, together with \
             USE_REDIS=true",
        );
    /// Host name or IP address of the server.
    HOST: String = both("host", "REDIS_HOST", &kind::HOST_NAME)
        .unset_means("localhost")
        .ignores_empty();
    /// Port of the server; the variable may also be a container link, `tcp://HOST:PORT`.
    PORT: PortOrLink =
        both("port", "REDIS_PORT", &kind::PORT_OR_LINK).unset_means("6379").ignores_empty();
    /// How the servers work together; see below.
    MODE: RedisMode = both("mode", "REDIS_MODE", &kind::REDIS_MODE).default("standalone");
    /// The sentinels (default port 26379), or some servers of the cluster.
    URLS: Vec<String> = both("urls", "REDIS_URLS", &kind::REDIS_URLS);
    /// Name of the master that the sentinels monitor.
    SENTINEL_MASTER: String = both("sentinelMaster", "REDIS_SENTINEL_MASTER", &kind::TEXT);
    /// Use TLS, as with the scheme `rediss`.
    TLS: bool = switch("tls", "REDIS_TLS");
    /// User name; takes precedence over one in the URL.
    USERNAME: String = both("username", "REDIS_USERNAME", &kind::TEXT);
    /// Password; takes precedence over one in the URL.
    PASSWORD: Password =
        both("password", "REDIS_PASSWORD", &kind::PASSWORD).or_file(&PASSWORD_FILE);
    /// File that contains it.
    PASSWORD_FILE: PathBuf = both("passwordFile", "REDIS_PASSWORD_FILE", &kind::PATH);
    /// Root certificates, PEM.
    CA_FILE: PathBuf =
        both("caFile", "REDIS_CA_FILE", &kind::PATH).unset_means("root certificates of the system");
    /// Client certificate of the relay, PEM; requires the key.
    CLIENT_CERTIFICATE_FILE: PathBuf =
        both("clientCertificateFile", "REDIS_CLIENT_CERTIFICATE_FILE", &kind::PATH)
            .alias("REDIS_CLIENT_CERT_FILE");
    /// Its private key, PEM.
    CLIENT_KEY_FILE: PathBuf = both("clientKeyFile", "REDIS_CLIENT_KEY_FILE", &kind::PATH);
    /// Time limit for connecting, in addition to `readTimeout`.
    CONNECT_TIMEOUT: Option<Duration> =
        both("connectTimeout", "REDIS_CONNECT_TIMEOUT", &kind::DURATION_OR_OFF)
            .unset_means("part of `readTimeout`");
    /// Time limit for an answer. Reading or writing a whole data set may take longer, if at least
    /// 16 KiB are transferred in each 5 s (or in each `readTimeout`, if that is longer).
    READ_TIMEOUT: Option<Duration> =
        both("readTimeout", "REDIS_READ_TIMEOUT", &kind::DURATION_OR_OFF).unset_means("2s");
    /// How often the relay checks the database even if there is no sign of a problem; 0: never.
    HEALTH_CHECK_INTERVAL: Option<Duration> =
        both("healthCheckInterval", "REDIS_HEALTH_CHECK_INTERVAL", &kind::DURATION_OR_OFF)
            .default("30s");
    /// How often the relay reads the database while LaunchDarkly is unreachable. 0: every second;
    /// less than 0: as often as `healthCheckInterval`. It has no other effect: requests are
    /// always answered from memory.
    LOCAL_TTL: LocalTtl = both("localTtl", "CACHE_TTL", &kind::LOCAL_TTL).default("30s");
    /// Every write is atomic.
    ATOMIC_UPSERT: bool = switch("atomicUpsert", "REDIS_ATOMIC_UPSERT").never();
    /// Authenticate with AWS IAM.
    AWS_AUTH: bool = switch("awsAuth", "REDIS_AWS_AUTH").not_yet();
    /// Name of the AWS cache.
    AWS_CACHE_NAME: String =
        both("awsCacheName", "REDIS_AWS_CACHE_NAME", &kind::LOWER_CASE).not_yet();
    /// ld-relay 6 removed this variable; use `CACHE_TTL` with a unit, such as 30s.
    TTL_VARIABLE: String = variable("REDIS_TTL", &kind::TEXT).retired();
}
