//! The name of every variable Pilotlight looks at, and the one way to read variables.
//!
//! `docs/configuration.md` lists each of them; a test holds the two together. A name that ends in
//! an underscore begins a family: `LD_ENV_` stands for `LD_ENV_<NAME>`.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// Where variables are read from: the process, or a map in tests.
pub trait Variables {
    /// The value of a variable; `None` if it is not set.
    fn get(&self, name: &str) -> Option<OsString>;

    /// The names of all variables that are set, in any order. Names that are not Unicode are left
    /// out: none of ours is.
    fn names(&self) -> Vec<String>;
}

/// The variables of this process.
#[derive(Clone, Copy, Debug)]
pub struct ProcessVariables;

impl Variables for ProcessVariables {
    fn get(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect()
    }
}

impl Variables for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<OsString> {
        BTreeMap::get(self, name).map(OsString::from)
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

macro_rules! variables {
    ($($(#[$doc:meta])* $name:ident)*) => {
        $($(#[$doc])* pub const $name: &str = stringify!($name);)*

        /// All of them.
        pub const ALL: &[&str] = &[$($name),*];
    };
}

variables! {
    /// `[Main] streamUri`: base of LaunchDarkly's streams.
    STREAM_URI
    /// `[Main] baseUri`: base of LaunchDarkly's polling endpoints.
    BASE_URI
    /// `[Main] clientSideBaseUri`: base of LaunchDarkly's client-side endpoints.
    CLIENT_SIDE_BASE_URI
    /// `[Main] exitOnError`.
    EXIT_ON_ERROR
    /// `[Main] exitAlways`: one-shot mode.
    EXIT_ALWAYS
    /// `[Main] ignoreConnectionErrors`.
    IGNORE_CONNECTION_ERRORS
    /// `[Main] port`: the port to listen on.
    PORT
    /// `[Main] bindAddress`: the address to listen on.
    BIND_ADDRESS
    /// `[Main] initTimeout`: how long readiness waits for slow environments.
    INIT_TIMEOUT
    /// `[Main] gracefulShutdownTimeout`: time to drain when told to stop.
    GRACEFUL_SHUTDOWN_TIMEOUT
    /// `[Main] shutdownDelay`: time during which connections are accepted when told to stop.
    SHUTDOWN_DELAY
    /// `[Main] heartbeatInterval`: how often a comment is sent on every stream.
    HEARTBEAT_INTERVAL
    /// `[Main] maxClientConnectionTime`: after which time a stream is closed.
    MAX_CLIENT_CONNECTION_TIME
    /// `[Main] maxClientRequestBodySize`: cap on the body of a `REPORT` request.
    MAX_CLIENT_REQUEST_BODY_SIZE
    /// `[Main] clientWriteMinBytesPerSecond` (ld-relay v9): pace that a client must keep.
    CLIENT_WRITE_MIN_BYTES_PER_SECOND
    /// `[Main] clientWriteSlack` (ld-relay v9): time that every write may take beside that pace.
    CLIENT_WRITE_SLACK
    /// `[Main] clientWriteMaxTime` (ld-relay v9): longest time of one write.
    CLIENT_WRITE_MAX_TIME
    /// `[Main] pingStreamJitterTime`: random delay of pings.
    PING_STREAM_JITTER_TIME
    /// `[Main] disconnectedStatusTime`: when an interrupted environment counts as disconnected.
    DISCONNECTED_STATUS_TIME
    /// `[Main] tlsEnabled`: serve HTTPS.
    TLS_ENABLED
    /// `[Main] tlsCert`: the certificate chain.
    TLS_CERT
    /// `[Main] tlsKey`: the private key.
    TLS_KEY
    /// `[Main] tlsMinVersion`: the lowest TLS version that is accepted.
    TLS_MIN_VERSION
    /// `[Main] logLevel`: how much is logged.
    LOG_LEVEL
    /// How log lines look; read from the process in any case, there is no file option.
    LOG_FORMAT
    /// `[Main] bigSegmentsStaleAsDegraded`.
    BIG_SEGMENTS_STALE_AS_DEGRADED
    /// `[Main] bigSegmentsStaleThreshold`.
    BIG_SEGMENTS_STALE_THRESHOLD
    /// `[Main] expiredCredentialCleanupInterval`: how often expired keys are dropped.
    EXPIRED_CREDENTIAL_CLEANUP_INTERVAL
    /// Extra debug output about big segments; read from the process in any case.
    LD_TRACE_LOG_BIG_SEGMENTS

    /// `[AutoConfig] key`: the key that opens the autoconfig stream.
    AUTO_CONFIG_KEY
    /// `[AutoConfig] keyFile`: the file that holds it.
    AUTO_CONFIG_KEY_FILE
    /// `[AutoConfig] cacheKey`: namespace of the shared cache, which it switches on.
    AUTO_CONFIG_CACHE_KEY
    /// `[AutoConfig] cacheEncryptionKey`: seals what is cached.
    AUTO_CONFIG_CACHE_ENCRYPTION_KEY
    /// `[AutoConfig] cacheEncryptionKeyFile`: the file that holds it.
    AUTO_CONFIG_CACHE_ENCRYPTION_KEY_FILE
    /// `[AutoConfig] cachePreviousEncryptionKeys`: keys that only decrypt.
    AUTO_CONFIG_CACHE_PREVIOUS_ENCRYPTION_KEYS
    /// `[AutoConfig] cachePreviousEncryptionKeysFile`: the file that holds them.
    AUTO_CONFIG_CACHE_PREVIOUS_ENCRYPTION_KEYS_FILE
    /// `[AutoConfig] cacheFormat`: how shared records are written.
    AUTO_CONFIG_CACHE_FORMAT
    /// `[AutoConfig] cacheAdopt`: whether ld-relay's records may stand in for sealed ones.
    AUTO_CONFIG_CACHE_ADOPT
    /// `[AutoConfig] cacheMaxAge`: older cached environments are refused.
    AUTO_CONFIG_CACHE_MAX_AGE
    /// `envDatastorePrefix` of `[AutoConfig]` or `[OfflineMode]`.
    ENV_DATASTORE_PREFIX
    /// `envDatastoreTableName` of `[AutoConfig]` or `[OfflineMode]`.
    ENV_DATASTORE_TABLE_NAME
    /// `envAllowedOrigin` of `[AutoConfig]` or `[OfflineMode]`.
    ENV_ALLOWED_ORIGIN
    /// `envAllowedHeader` of `[AutoConfig]` or `[OfflineMode]`.
    ENV_ALLOWED_HEADER
    /// `[OfflineMode] fileDataSource`: the archive to serve from.
    FILE_DATA_SOURCE
    /// `[OfflineMode] fileDataSourceMonitoringInterval`: how often the archive is looked at.
    FILE_DATA_SOURCE_MONITORING_INTERVAL

    /// `[Environment] sdkKey`; the family that makes environments.
    LD_ENV_
    /// `[Environment] mobileKey`.
    LD_MOBILE_KEY_
    /// `[Environment] envId`.
    LD_CLIENT_SIDE_ID_
    /// `[Environment] secureMode`.
    LD_SECURE_MODE_
    /// `[Environment] prefix`.
    LD_PREFIX_
    /// `[Environment] tableName`.
    LD_TABLE_NAME_
    /// `[Environment] allowedOrigin`.
    LD_ALLOWED_ORIGIN_
    /// `[Environment] allowedHeader`.
    LD_ALLOWED_HEADER_
    /// `[Environment] logLevel`.
    LD_LOG_LEVEL_
    /// `[Environment] ttl`.
    LD_TTL_
    /// Retired in favour of `LD_TTL_`: setting it is an error.
    LD_TTL_MINUTES_
    /// `[Environment] projKey`.
    LD_PROJ_KEY_
    /// `[Filters] keys`; the family that makes filters.
    LD_FILTER_KEYS_

    /// `[Events] sendEvents`.
    USE_EVENTS
    /// `[Events] eventsUri`; a URL, although the name says host.
    EVENTS_HOST
    /// `[Events] flushInterval`.
    EVENTS_FLUSH_INTERVAL
    /// `[Events] capacity`.
    EVENTS_CAPACITY
    /// `[Events] metricsCapacity`.
    EVENTS_METRICS_CAPACITY
    /// `[Events] maxInboundPayloadSize`.
    EVENTS_MAX_INBOUND_PAYLOAD_SIZE
    /// `[Events] inlineUsers`.
    EVENTS_INLINE_USERS
    /// Retired: setting it is an error.
    EVENTS_SAMPLING_INTERVAL

    /// `[Concurrency] maxConcurrent`: full payloads under way at once.
    INIT_MAX_CONCURRENT
    /// `[Concurrency] maxQueued`: requests that wait for a slot.
    INIT_MAX_QUEUED
    /// `[Concurrency] sendTimeout`: how long one payload may hold a slot.
    INIT_SEND_TIMEOUT

    /// Switches Redis on.
    USE_REDIS
    /// `[Redis] host`.
    REDIS_HOST
    /// `[Redis] port`; also takes `tcp://HOST:PORT`, which container links set.
    REDIS_PORT
    /// `[Redis] url`.
    REDIS_URL
    /// `[Redis] urls`: the sentinels, or seeds of the cluster.
    REDIS_URLS
    /// `[Redis] mode`.
    REDIS_MODE
    /// `[Redis] sentinelMaster`: the name of the master the sentinels watch.
    REDIS_SENTINEL_MASTER
    /// `[Redis] tls`.
    REDIS_TLS
    /// `[Redis] username`.
    REDIS_USERNAME
    /// `[Redis] password`.
    REDIS_PASSWORD
    /// `[Redis] passwordFile`: the file that holds it.
    REDIS_PASSWORD_FILE
    /// `[Redis] caFile`: replaces the system's root certificates.
    REDIS_CA_FILE
    /// `[Redis] clientCertificateFile`, by the name ld-relay v9 gives it.
    REDIS_CLIENT_CERT_FILE
    /// `[Redis] clientCertificateFile`.
    REDIS_CLIENT_CERTIFICATE_FILE
    /// `[Redis] clientKeyFile`.
    REDIS_CLIENT_KEY_FILE
    /// `[Redis] atomicUpsert`.
    REDIS_ATOMIC_UPSERT
    /// `[Redis] connectTimeout`.
    REDIS_CONNECT_TIMEOUT
    /// `[Redis] readTimeout`.
    REDIS_READ_TIMEOUT
    /// `[Redis] awsAuth`.
    REDIS_AWS_AUTH
    /// `[Redis] awsCacheName`.
    REDIS_AWS_CACHE_NAME
    /// `[Redis] healthCheckInterval`.
    REDIS_HEALTH_CHECK_INTERVAL
    /// Retired in favour of `CACHE_TTL`: setting it with Redis on is an error.
    REDIS_TTL
    /// `localTtl` of whichever database is on.
    CACHE_TTL
    /// `[DynamoDB] enabled`.
    USE_DYNAMODB
    /// `[DynamoDB] tableName`.
    DYNAMODB_TABLE
    /// `[DynamoDB] url`.
    DYNAMODB_URL
    /// `[DynamoDB] healthCheckInterval`.
    DYNAMODB_HEALTH_CHECK_INTERVAL
    /// Region of DynamoDB. Read from the process, as are the next three: AWS's library reads them.
    AWS_REGION
    /// Region of DynamoDB where there is no `AWS_REGION`.
    AWS_DEFAULT_REGION
    /// AWS's file of profiles instead of `~/.aws/config`.
    AWS_CONFIG_FILE
    /// AWS's file of credentials instead of `~/.aws/credentials`.
    AWS_SHARED_CREDENTIALS_FILE
    /// Switches Consul on.
    USE_CONSUL
    /// `[Consul] host`.
    CONSUL_HOST
    /// `[Consul] token`.
    CONSUL_TOKEN
    /// `[Consul] tokenFile`: the file that holds it.
    CONSUL_TOKEN_FILE
    /// `[Consul] caFile`: replaces the system's root certificates.
    CONSUL_CA_FILE
    /// `[Consul] clientCertificateFile`.
    CONSUL_CLIENT_CERTIFICATE_FILE
    /// `[Consul] clientKeyFile`.
    CONSUL_CLIENT_KEY_FILE
    /// `[Consul] healthCheckInterval`.
    CONSUL_HEALTH_CHECK_INTERVAL

    /// `[LocalStore] dir`: directory of the embedded store.
    LOCAL_STORE_DIR
    /// `[LocalStore] preferOver`: whether a whole local set excludes the shared store.
    LOCAL_STORE_PREFER_OVER
    /// First default of the embedded store's directory; systemd sets it. Read from the process.
    STATE_DIRECTORY
    /// Third default of the embedded store's directory. Read from the process.
    XDG_STATE_HOME
    /// Last default of the embedded store's directory. Read from the process.
    HOME

    /// `[Proxy] url`.
    PROXY_URL
    /// `[Proxy] ntlmAuth`.
    PROXY_AUTH_NTLM
    /// `[Proxy] user`.
    PROXY_AUTH_USER
    /// `[Proxy] password`.
    PROXY_AUTH_PASSWORD
    /// `[Proxy] passwordFile`: the file that holds it.
    PROXY_AUTH_PASSWORD_FILE
    /// `[Proxy] domain`.
    PROXY_AUTH_DOMAIN
    /// `[Proxy] caCertFiles`: added to the system's root certificates.
    PROXY_CA_CERTS
    /// Proxy for plain HTTP without `[Proxy] url`; lower case too. Read from the process.
    HTTP_PROXY
    /// Proxy for HTTPS without `[Proxy] url`; lower case too. Read from the process.
    HTTPS_PROXY
    /// Hosts that need none of these two proxies; lower case too. Read from the process.
    NO_PROXY

    /// `[Http] enableCompression`.
    HTTP_ENABLE_COMPRESSION
    /// `[Http] idleConnTimeout`.
    HTTP_IDLE_CONN_TIMEOUT
    /// `[Http] maxIdleConns`.
    HTTP_MAX_IDLE_CONNS
    /// `[Http] maxIdleConnsPerHost`.
    HTTP_MAX_IDLE_CONNS_PER_HOST
    /// `[Http] disableKeepAlives`.
    HTTP_DISABLE_KEEPALIVE

    /// `[Datadog] enabled`.
    USE_DATADOG
    /// `[Datadog] statsAddr`.
    DATADOG_STATS_ADDR
    /// `[Datadog] traceAddr`.
    DATADOG_TRACE_ADDR
    /// `[Datadog] tag`: the family that makes tags.
    DATADOG_TAG_
    /// `[Datadog] prefix`.
    DATADOG_PREFIX
    /// `[Stackdriver] enabled`.
    USE_STACKDRIVER
    /// `[Stackdriver] projectID`.
    STACKDRIVER_PROJECT_ID
    /// `[Stackdriver] prefix`.
    STACKDRIVER_PREFIX
    /// `[Prometheus] enabled`.
    USE_PROMETHEUS
    /// `[Prometheus] port`.
    PROMETHEUS_PORT
    /// `[Prometheus] prefix`.
    PROMETHEUS_PREFIX
    /// `[OpenTelemetry] enabled`.
    USE_OTLP
    /// `[OpenTelemetry] protocol`.
    OTEL_EXPORTER_OTLP_PROTOCOL
    /// `[OpenTelemetry] metricsCardinalityLimit`.
    OTEL_METRICS_CARDINALITY_LIMIT
    /// `[OpenTelemetry] environmentStatusMetrics`.
    OTEL_ENVIRONMENT_STATUS_METRICS
    /// `[OpenTelemetry] logsExporter`.
    OTEL_LOGS_EXPORTER
    /// `[OpenTelemetry] tracesExporter`.
    OTEL_TRACES_EXPORTER
    /// `[OpenTelemetry] metricsExporter`.
    OTEL_METRICS_EXPORTER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_has_variables() {
        let names = ProcessVariables.names();
        let known = names.iter().find(|name| ProcessVariables.get(name).is_some());
        assert!(known.is_some(), "cargo sets some");
        assert_eq!(ProcessVariables.get("PILOTLIGHT_NOBODY_SETS_THIS"), None);
    }

    #[test]
    fn only_families_end_in_an_underscore() {
        let families: Vec<&&str> = ALL.iter().filter(|name| name.ends_with('_')).collect();
        assert!(families.iter().all(|name| name.starts_with("LD_") || **name == DATADOG_TAG_));
    }
}
