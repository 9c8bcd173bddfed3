//! `[Redis]`: Redis and Valkey.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::values::{LocalTtl, PortOrLink, RedisMode};
use crate::model::{Password, RedactedUrl};

use super::kind;
use super::row::{AnyOption, Opt, both, switch, variable};

options! { "Redis",
    /// Enables Redis; alone, it means `redis://localhost:6379`.
    USE_REDIS: bool = variable(&kind::SWITCH);
    /// The server, optionally with user, password and database number; not together with `host`
    /// or `port`.
    REDIS_URL: RedactedUrl = both("url", &kind::REDIS_URL)
        .ignores_empty()
        .mistaken(
            &["REDIS_ADDR", "REDIS_ADDRESS", "REDIS_ENDPOINT", "REDIS_SERVER"],
            "the address of Redis is set by REDIS_URL, or REDIS_HOST and REDIS_PORT, together with \
             USE_REDIS=true",
        );
    /// Host name or IP address of the server.
    REDIS_HOST: String = both("host", &kind::HOST_NAME).unset_means("localhost").ignores_empty();
    /// Port of the server; the variable may also be a container link, `tcp://HOST:PORT`.
    REDIS_PORT: PortOrLink = both("port", &kind::PORT_OR_LINK).unset_means("6379").ignores_empty();
    /// How the servers work together; see below.
    REDIS_MODE: RedisMode = both("mode", &kind::REDIS_MODE).default("standalone");
    /// The sentinels (default port 26379), or some servers of the cluster.
    REDIS_URLS: Vec<String> = both("urls", &kind::REDIS_URLS);
    /// Name of the master that the sentinels monitor.
    REDIS_SENTINEL_MASTER: String = both("sentinelMaster", &kind::TEXT);
    /// Use TLS, as with the scheme `rediss`.
    REDIS_TLS: bool = switch("tls");
    /// User name; takes precedence over one in the URL.
    REDIS_USERNAME: String = both("username", &kind::TEXT);
    /// Password; takes precedence over one in the URL.
    REDIS_PASSWORD: Password = both("password", &kind::PASSWORD).or_file(&REDIS_PASSWORD_FILE);
    /// File that contains it.
    REDIS_PASSWORD_FILE: PathBuf = both("passwordFile", &kind::PATH);
    /// Root certificates, PEM.
    REDIS_CA_FILE: PathBuf =
        both("caFile", &kind::PATH).unset_means("root certificates of the system");
    /// Client certificate of the relay, PEM; requires the key.
    REDIS_CLIENT_CERTIFICATE_FILE: PathBuf =
        both("clientCertificateFile", &kind::PATH).alias("REDIS_CLIENT_CERT_FILE");
    /// Its private key, PEM.
    REDIS_CLIENT_KEY_FILE: PathBuf = both("clientKeyFile", &kind::PATH);
    /// Time limit for connecting, in addition to `readTimeout`.
    REDIS_CONNECT_TIMEOUT: Option<Duration> =
        both("connectTimeout", &kind::DURATION_OR_OFF).unset_means("part of `readTimeout`");
    /// Time limit for an answer. Reading or writing a whole data set may take longer, if at least
    /// 16 KiB are transferred in each 5 s (or in each `readTimeout`, if that is longer).
    REDIS_READ_TIMEOUT: Option<Duration> =
        both("readTimeout", &kind::DURATION_OR_OFF).unset_means("2s");
    /// How often the relay checks the database even if there is no sign of a problem; 0: never.
    REDIS_HEALTH_CHECK_INTERVAL: Option<Duration> =
        both("healthCheckInterval", &kind::DURATION_OR_OFF).default("30s");
    /// How often the relay reads the database while LaunchDarkly is unreachable. 0: every second;
    /// less than 0: as often as `healthCheckInterval`. It has no other effect: requests are
    /// always answered from memory.
    CACHE_TTL: LocalTtl = both("localTtl", &kind::LOCAL_TTL).default("30s");
    /// Every write is atomic.
    REDIS_ATOMIC_UPSERT: bool = switch("atomicUpsert").never();
    /// Authenticate with AWS IAM.
    REDIS_AWS_AUTH: bool = switch("awsAuth").not_yet();
    /// Name of the AWS cache.
    REDIS_AWS_CACHE_NAME: String = both("awsCacheName", &kind::LOWER_CASE).not_yet();
    /// ld-relay 6 removed this variable; use `CACHE_TTL` with a unit, such as 30s.
    REDIS_TTL: String = variable(&kind::TEXT).retired();
}
