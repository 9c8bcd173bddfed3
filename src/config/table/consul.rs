//! `[Consul]`.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::secrets::HeaderToken;
use crate::config::values::{ConsulAddress, LocalTtl};

use super::kind;
use super::row::{AnyOption, Opt, both, variable};

options! { "Consul",
    /// Enables Consul; alone, it means `localhost:8500`.
    USE_CONSUL: bool = variable("USE_CONSUL", &kind::SWITCH);
    /// Server or agent; with `https://` in front, TLS is used. Without a port it is port 80, as
    /// in ld-relay; with `http://` or `https://` in front, it is the default port of that scheme.
    HOST: ConsulAddress = both("host", "CONSUL_HOST", &kind::CONSUL_ADDRESS)
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
    TOKEN: HeaderToken = both("token", "CONSUL_TOKEN", &kind::HEADER_TOKEN).or_file(&TOKEN_FILE);
    /// File that contains it.
    TOKEN_FILE: PathBuf = both("tokenFile", "CONSUL_TOKEN_FILE", &kind::PATH);
    /// Root certificates, PEM.
    CA_FILE: PathBuf = both("caFile", "CONSUL_CA_FILE", &kind::PATH)
        .unset_means("root certificates of the system");
    /// Client certificate of the relay, PEM; requires the key.
    CLIENT_CERTIFICATE_FILE: PathBuf =
        both("clientCertificateFile", "CONSUL_CLIENT_CERTIFICATE_FILE", &kind::PATH);
    /// Its private key, PEM.
    CLIENT_KEY_FILE: PathBuf = both("clientKeyFile", "CONSUL_CLIENT_KEY_FILE", &kind::PATH);
    /// As for Redis.
    HEALTH_CHECK_INTERVAL: Option<Duration> =
        both("healthCheckInterval", "CONSUL_HEALTH_CHECK_INTERVAL", &kind::DURATION_OR_OFF)
            .default("30s");
    /// As for Redis.
    LOCAL_TTL: LocalTtl = both("localTtl", "CACHE_TTL", &kind::LOCAL_TTL).default("30s");
}
