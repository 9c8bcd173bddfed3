//! Values of options that are not set.

use std::time::Duration;

use super::*;

#[test]
fn main_has_ld_relays_defaults() {
    let main = with_environment("", &[]).main;
    let seconds = Duration::from_secs;
    let expected = MainConfig {
        max_client_request_body_size: 5 << 20,
        ping_stream_jitter_time: None,
        status_page: true,
        stream_uri: "https://stream.launchdarkly.com".parse().unwrap(),
        client_side_base_uri: "https://clientsdk.launchdarkly.com".parse().unwrap(),
        exit_always: false,
        port: 8030,
        bind_address: None,
        init_timeout: seconds(10),
        graceful_shutdown_timeout: seconds(30),
        shutdown_delay: seconds(5),
        heartbeat_interval: Some(seconds(180)),
        max_client_connection_time: None,
        disconnected_status_time: seconds(60),
        log_level: LogLevel::Info,
        log_format: LogFormat::Text,
        expired_credential_cleanup_interval: seconds(60),
    };
    assert_eq!(main, expected);
}

#[test]
fn everything_else_is_off_or_left_open() {
    let config = with_environment("", &[]);
    assert_eq!(config.autoconfig, AutoConfigSection::default());
    assert_eq!(config.database, None);
    assert_eq!(config.proxy, ProxyConfig::default());
    assert_eq!(config.concurrency, ConcurrencyConfig::default());
    assert!(config.offline.is_none() && !config.http.enable_compression);
    assert!(config.filters.is_empty());
    let environment = &config.environments["e"];
    assert_eq!(environment.ttl, Duration::ZERO);
    assert_eq!(environment.log_level, LogLevel::Info);
    assert!(!environment.secure_mode);
}

#[test]
fn options_that_are_not_built_have_defaults() {
    let shown = loaded_with_environment("", &[]).shown;
    let check = |section, option, expected| {
        assert_eq!(shown.get(section, option), expected, "[{section}] {option}");
    };
    check("Main", "exitOnError", Some("false"));
    check("Main", "ignoreConnectionErrors", Some("false"));
    check("Main", "maxClientRequestBodySize", Some("5242880"));
    check("Main", "pingStreamJitterTime", Some("none"));
    check("Main", "tlsEnabled", Some("false"));
    check("Main", "bigSegmentsStaleAsDegraded", Some("false"));
    check("Main", "bigSegmentsStaleThreshold", Some("5m"));
    check("OfflineMode", "fileDataSource", None);
    check("Http", "enableCompression", Some("false"));
    for option in ["idleConnTimeout", "maxIdleConns", "maxIdleConnsPerHost"] {
        check("Http", option, None);
    }
    check("Http", "disableKeepAlives", Some("false"));
    check("Events", "sendEvents", Some("false"));
    check("Events", "eventsUri", Some("https://events.launchdarkly.com/"));
    check("Events", "flushInterval", Some("5s"));
    check("Events", "capacity", Some("1000"));
    check("Events", "metricsCapacity", Some("10000"));
    check("Events", "maxInboundPayloadSize", Some("32 MiB"));
    check("Events", "memorySize", Some("67108864"));
    check("Events", "spoolSize", Some("1073741824"));
    check("Events", "spoolMaxAge", Some("24h"));
    for section in ["Datadog", "Stackdriver", "Prometheus", "OpenTelemetry"] {
        check(section, "enabled", None);
    }
}

#[test]
fn databases_have_defaults() {
    let half_a_minute = Some(Duration::from_secs(30));
    let Some(Database::Redis(redis)) = with_environment("", &[("USE_REDIS", "1")]).database else {
        panic!("Redis is on")
    };
    assert_eq!(redis.local_ttl, LocalTtl::For(Duration::from_secs(30)));
    assert_eq!(redis.health_check_interval, half_a_minute);
    assert_eq!((redis.connect_timeout, redis.read_timeout), (None, None));
    let file = "[DynamoDB]\nenabled\ntableName = t";
    let Some(Database::DynamoDb(dynamodb)) = with_environment(file, &[]).database else {
        panic!("DynamoDB is on")
    };
    assert_eq!(dynamodb.endpoint, None);
    assert_eq!(dynamodb.health_check_interval, half_a_minute);
}

#[test]
fn the_local_store_looks_in_four_places() {
    let check = |pairs: &[(&str, &str)], expected: &[&str]| {
        let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
        let config = with_environment("", pairs);
        assert_eq!(
            config.local_store.directory,
            LocalStoreDirectory::FirstUsable(expected),
            "{pairs:?}"
        );
    };
    let system = "/var/lib/pilotlight";
    check(&[], &[system]);
    check(&[("HOME", "/h")], &[system, "/h/.local/state/pilotlight"]);
    check(&[("HOME", "/h"), ("XDG_STATE_HOME", "/s")], &[system, "/s/pilotlight"]);
    check(&[("XDG_STATE_HOME", "s"), ("HOME", "/h")], &[system, "/h/.local/state/pilotlight"]);
    check(&[("XDG_STATE_HOME", "s"), ("HOME", "h")], &[system]);
    check(&[("STATE_DIRECTORY", "/v/pilotlight")], &["/v/pilotlight", system]);
    check(&[("STATE_DIRECTORY", "/v/a:/v/b")], &["/v/a", system]);
    check(&[("STATE_DIRECTORY", "v")], &[system]);
}

#[test]
fn the_local_store_can_be_placed_or_turned_off() {
    let local_store =
        |file: &str, pairs: &[(&str, &str)]| with_environment(file, pairs).local_store.directory;
    let file = "[LocalStore]\ndir = /data";
    assert_eq!(local_store(file, &[]), LocalStoreDirectory::Explicit("/data".into()));
    assert_eq!(local_store(file, &[("LOCAL_STORE_DIR", "Off")]), LocalStoreDirectory::Off);
    assert_eq!(local_store("[LocalStore]\ndir = off", &[]), LocalStoreDirectory::Off);
    let unset = local_store(file, &[("LOCAL_STORE_DIR", "")]);
    assert!(matches!(unset, LocalStoreDirectory::FirstUsable(_)));
}
