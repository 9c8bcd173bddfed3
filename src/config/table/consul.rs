//! `[Consul]`.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::secrets::HeaderToken;
use crate::config::values::{ConsulAddress, LocalTtl};

use super::kind;
use super::row::{AnyOption, Opt, both, variable};

options! { "Consul",
    /// Enables Consul; alone, it means `localhost:8500`.
    USE_CONSUL: bool = variable(&kind::SWITCH);
    /// Server or agent; with `https://` in front, TLS is used. Without a port it is port 80, as
    /// in ld-relay; with `http://` or `https://` in front, it is the default port of that scheme.
    CONSUL_HOST: ConsulAddress = both("host", &kind::CONSUL_ADDRESS)
        .default("localhost:8500")
        .ignores_empty()
        .warn(|address| {
            let what = "has no port, so port 80 is used, as in ld-relay; Consul itself listens on \
                        8500";
            (!address.has_port).then(|| what.to_owned())
        })
        .mistaken(
            &["CONSUL_ADDR", "CONSUL_ADDRESS", "CONSUL_URL"],
            "the address of Consul is set by CONSUL_HOST, together with USE_CONSUL=true",
        );
    /// Access token; visible ASCII characters and spaces only.
    CONSUL_TOKEN: HeaderToken = both("token", &kind::HEADER_TOKEN).or_file(&CONSUL_TOKEN_FILE);
    /// File that contains it.
    CONSUL_TOKEN_FILE: PathBuf = both("tokenFile", &kind::PATH);
    /// Root certificates, PEM.
    CONSUL_CA_FILE: PathBuf =
        both("caFile", &kind::PATH).unset_means("root certificates of the system");
    /// Client certificate of the relay, PEM; requires the key.
    CONSUL_CLIENT_CERTIFICATE_FILE: PathBuf = both("clientCertificateFile", &kind::PATH);
    /// Its private key, PEM.
    CONSUL_CLIENT_KEY_FILE: PathBuf = both("clientKeyFile", &kind::PATH);
    /// As for Redis.
    CONSUL_HEALTH_CHECK_INTERVAL: Option<Duration> =
        both("healthCheckInterval", &kind::DURATION_OR_OFF).default("30s");
    /// As for Redis.
    CACHE_TTL: LocalTtl = both("localTtl", &kind::LOCAL_TTL).default("30s");
}
