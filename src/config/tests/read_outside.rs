//! Every option that works, according to the table, is read by some code outside of this module.
//!
//! `READ_BY` names that code for each option. Code that only passes the value on does not count.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::table::{self, Effect};

/// Section, options, and the code that uses them: a file and a text in it.
const READ_BY: &[(&str, &str, &str, &str)] = &[
    ("Main", "streamUri", "src/app/prepared.rs", "main.stream_uri"),
    (
        "Main",
        "port bindAddress",
        "src/app/mod.rs",
        "Listener::bind(config.main.bind_address, config.main.port)",
    ),
    ("Main", "initTimeout", "src/server/readiness.rs", "facts.init_timeout"),
    ("Main", "gracefulShutdownTimeout", "src/app/mod.rs", "self.graceful_shutdown"),
    ("Main", "shutdownDelay", "src/app/mod.rs", "self.shutdown_delay"),
    ("Main", "heartbeatInterval", "src/environments/runner.rs", "heartbeat"),
    (
        "Main",
        "maxClientConnectionTime",
        "src/server/streaming.rs",
        "settings.max_client_connection_time",
    ),
    ("Main", "maxClientRequestBodySize", "src/server/client_side/report.rs", "budget.bytes_max"),
    ("Main", "pingStreamJitterTime", "src/server/streaming.rs", "settings.ping_jitter"),
    ("Main", "disconnectedStatusTime", "src/server/mod.rs", "settings.disconnected_after"),
    (
        "Main",
        "expiredCredentialCleanupInterval",
        "src/environments/supervisor.rs",
        "sweep_interval",
    ),
    ("Main", "baseUri clientSideBaseUri", "src/app/prepared.rs", "main.client_side_base_uri"),
    ("Main", "statusPage", "src/server/handlers.rs", "settings.has_status_page"),
    ("Main", "logLevel", "src/commands.rs", "config.main.log_level"),
    ("Main", "LOG_FORMAT", "src/commands.rs", "config.main.log_format"),
    ("Main", "exitAlways", "src/commands.rs", "config.main.exit_always"),
    ("AutoConfig", "key keyFile", "src/app/keys.rs", "section.key"),
    ("AutoConfig", "cacheKey", "src/app/mod.rs", "section.cache_key"),
    (
        "AutoConfig",
        "cacheEncryptionKey cacheEncryptionKeyFile",
        "src/app/keys.rs",
        "section.cache_encryption_key",
    ),
    (
        "AutoConfig",
        "cachePreviousEncryptionKeys cachePreviousEncryptionKeysFile",
        "src/app/keys.rs",
        "cache_previous_encryption_keys",
    ),
    ("AutoConfig", "cacheFormat", "src/app/database.rs", "match self.format"),
    ("AutoConfig", "cacheAdopt", "src/app/mod.rs", "section.cache_adopt"),
    ("AutoConfig", "cacheMaxAge", "src/autoconfig/cache/visits/telling.rs", "settings.age_max"),
    (
        "AutoConfig",
        "envAllowedOrigin envAllowedHeader",
        "src/server/cors.rs",
        "spec.allowed_headers",
    ),
    ("AutoConfig", "envDatastorePrefix", "src/app/database.rs", "spec.store_prefix"),
    ("AutoConfig", "envDatastoreTableName", "src/app/database.rs", "spec.store_table"),
    (
        "Environment",
        "sdkKey sdkKeyFile mobileKey mobileKeyFile envId",
        "src/environments/credentials.rs",
        "sdk_keys",
    ),
    ("Environment", "secureMode", "src/server/client_side/mod.rs", "spec.secure_mode"),
    ("Environment", "allowedOrigin allowedHeader", "src/server/cors.rs", "spec.allowed_origins"),
    ("Environment", "prefix", "src/app/database.rs", "spec.store_prefix"),
    ("Environment", "tableName", "src/app/database.rs", "spec.store_table"),
    ("Environment", "ttl", "src/server/polling.rs", "spec().ttl"),
    ("Environment", "projKey", "src/app/manual.rs", "manual_environments"),
    ("Filters", "keys", "src/app/manual.rs", "manual_environments"),
    (
        "Redis",
        "USE_REDIS url host port mode urls sentinelMaster tls",
        "src/app/database.rs",
        "config.servers",
    ),
    ("Redis", "username", "src/app/database.rs", "config.username"),
    ("Redis", "password passwordFile", "src/app/database.rs", "config.password"),
    ("Redis", "caFile clientCertificateFile clientKeyFile", "src/app/database.rs", "config.tls"),
    ("Redis", "connectTimeout", "src/app/database.rs", "config.connect_timeout"),
    ("Redis", "readTimeout", "src/app/database.rs", "config.read_timeout"),
    ("Redis", "healthCheckInterval localTtl", "src/app/database.rs", "config.local_ttl"),
    ("DynamoDB", "enabled", "src/app/database.rs", "Database::DynamoDb(config) => Ok("),
    (
        "DynamoDB",
        "AWS_REGION AWS_DEFAULT_REGION",
        "src/storage/dynamodb.rs",
        "EnvironmentVariableRegionProvider::new()",
    ),
    (
        "DynamoDB",
        "AWS_CONFIG_FILE AWS_SHARED_CREDENTIALS_FILE",
        "src/storage/dynamodb.rs",
        "ProfileFileRegionProvider::new()",
    ),
    ("DynamoDB", "tableName", "src/app/database.rs", "config.table"),
    ("DynamoDB", "url", "src/app/database.rs", "config.endpoint"),
    ("DynamoDB", "healthCheckInterval localTtl", "src/app/database.rs", "config.local_ttl"),
    ("Consul", "USE_CONSUL host", "src/app/database.rs", "config.address"),
    ("Consul", "token tokenFile", "src/app/database.rs", "config.token"),
    ("Consul", "caFile clientCertificateFile clientKeyFile", "src/app/database.rs", "config.tls"),
    ("Consul", "healthCheckInterval localTtl", "src/app/database.rs", "config.local_ttl"),
    (
        "LocalStore",
        "dir STATE_DIRECTORY XDG_STATE_HOME HOME",
        "src/app/local.rs",
        "config.candidates()",
    ),
    ("LocalStore", "preferOver", "src/app/mod.rs", "config.local_store.is_preferred_over_shared"),
    ("Proxy", "url", "src/app/prepared.rs", "proxy.url"),
    ("Proxy", "user password passwordFile", "src/app/prepared.rs", "proxy.login"),
    ("Proxy", "caCertFiles", "src/app/prepared.rs", "proxy.ca_cert_files"),
    ("Proxy", "HTTP_PROXY HTTPS_PROXY NO_PROXY", "src/app/prepared.rs", "proxy.from_variables"),
    ("Events", "sendEvents", "src/app/mod.rs", "config.events.send"),
    ("Events", "eventsUri", "src/app/prepared.rs", "config.events.uri"),
    ("Events", "flushInterval", "src/app/events.rs", "config.flush_interval"),
    ("Events", "capacity", "src/events/gather.rs", "settings.capacity"),
    ("Events", "maxInboundPayloadSize", "src/app/limits.rs", "config.events.body_bytes_max"),
    ("Events", "memorySize", "src/app/events.rs", "config.memory_bytes_max"),
    ("Events", "spoolSize spoolMaxAge", "src/app/events.rs", "SpoolLimits {"),
    ("Http", "enableCompression", "src/server/mod.rs", "settings.compresses"),
    ("OfflineMode", "fileDataSource", "src/app/prepared.rs", "offline.file"),
    (
        "OfflineMode",
        "fileDataSourceMonitoringInterval",
        "src/app/offline.rs",
        "config.monitoring_interval",
    ),
    (
        "OfflineMode",
        "envAllowedOrigin envAllowedHeader",
        "src/server/cors.rs",
        "spec.allowed_headers",
    ),
    ("OfflineMode", "envDatastorePrefix", "src/app/database.rs", "spec.store_prefix"),
    ("OfflineMode", "envDatastoreTableName", "src/app/database.rs", "spec.store_table"),
    ("Concurrency", "maxConcurrent", "src/app/limits.rs", "section.max_concurrent"),
    ("Concurrency", "maxQueued", "src/app/limits.rs", "section.max_queued"),
    ("Concurrency", "sendTimeout", "src/app/limits.rs", "section.send_timeout"),
];

#[test]
fn every_option_marked_yes_is_read_outside_of_config() {
    let mut read_by: BTreeMap<(&str, &str), (&str, &str)> = BTreeMap::new();
    for &(section, options, file, text) in READ_BY {
        assert!(!file.starts_with("src/config/"), "{options}");
        for option in options.split(' ') {
            read_by.insert((section, option), (file, text));
        }
    }
    let mut named = BTreeSet::new();
    for row in table::rows().filter(|row| row.effect == Effect::Works) {
        let key = (row.section, row.name());
        let Some(&(file, text)) = read_by.get(&key) else {
            panic!("{key:?} works, says the table, but no code is named here that reads it");
        };
        let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
        let source =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
        let code = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        assert!(code.contains(text), "{key:?}: {text} is not in {file}");
        named.insert(key);
    }
    for key in read_by.keys() {
        assert!(named.contains(key), "{key:?} does not work, says the table");
    }
}
