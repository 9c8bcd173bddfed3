//! Each option is read from the file and from its variable, and refuses invalid values.

use std::fmt::Debug;
use std::time::Duration;

use super::*;
use crate::config::sections::proxy::VariableProxies;

/// Checks that an option is read in the same way from the file and from its variable.
#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "a table of literals reads better so")]
fn check<T: Debug + PartialEq>(
    option: (&'static str, &'static str, &str),
    value: &str,
    read: impl Fn(Config) -> T,
    expected: T,
) {
    for (name, loaded) in from_both_sides(option, value) {
        assert_eq!(read(loaded.config), expected, "{name}");
    }
}

/// The same for an option that no code uses yet, by the form that is shown to people.
#[track_caller]
fn check_shown(option: (&'static str, &'static str, &str), value: &str, expected: &str) {
    for (name, loaded) in from_both_sides(option, value) {
        assert_eq!(loaded.shown.get(option.0, option.1), Some(expected), "{name}");
    }
}

/// The configurations with the value in the file, with the option's name in capitals, and in the
/// variable.
#[track_caller]
fn from_both_sides(
    (section, option, variable): (&str, &str, &str),
    value: &str,
) -> Vec<(String, Loaded)> {
    let switch = match section {
        "Datadog" | "Stackdriver" | "Prometheus" | "OpenTelemetry" | "DynamoDB" => "enabled",
        "Redis" if !["url", "host", "port"].contains(&option) => "host = h\ntls",
        "Consul" if option != "host" => "host = https://h",
        _ => "",
    };
    let table = if section == "DynamoDB" && option != "tableName" { "tableName = t" } else { "" };
    let base = format!("[{section}]\n{switch}\n{table}\n");
    let mut found = Vec::new();
    if !option.is_empty() {
        for name in [option.to_owned(), option.to_uppercase()] {
            let loaded = loaded_with_environment(&format!("{base}{name} = \"{value}\""), &[]);
            found.push((format!("[{section}] {name}"), loaded));
        }
    }
    if !variable.is_empty() {
        found.push((variable.to_owned(), loaded_with_environment(&base, &[(variable, value)])));
    }
    found
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn main_section() {
    let address = |text: &str| text.parse::<::http::Uri>().unwrap();
    let main = |option, variable| ("Main", option, variable);
    let url = "http://h:1/base";
    check(main("streamUri", "STREAM_URI"), url, |it| it.main.stream_uri, address(url));
    check(main("baseUri", "BASE_URI"), url, |it| it.main.client_side_base_uri, address(url));
    check(
        main("clientSideBaseUri", "CLIENT_SIDE_BASE_URI"),
        url,
        |it| it.main.client_side_base_uri,
        address(url),
    );
    check_shown(main("exitOnError", "EXIT_ON_ERROR"), "yes", "true");
    check(main("exitAlways", "EXIT_ALWAYS"), "1", |it| it.main.exit_always, true);
    let ignore = main("ignoreConnectionErrors", "IGNORE_CONNECTION_ERRORS");
    check_shown(ignore, "true", "true");
    check(main("port", "PORT"), "9000", |it| it.main.port, 9000);
    let localhost = Some("127.0.0.1".parse().unwrap());
    check(main("bindAddress", "BIND_ADDRESS"), "127.0.0.1", |it| it.main.bind_address, localhost);
    check(main("initTimeout", "INIT_TIMEOUT"), "1s", |it| it.main.init_timeout, seconds(1));
    check(main("initTimeout", "INIT_TIMEOUT"), "-1s", |it| it.main.init_timeout, seconds(0));
    let graceful = main("gracefulShutdownTimeout", "GRACEFUL_SHUTDOWN_TIMEOUT");
    check(graceful, "1s", |it| it.main.graceful_shutdown_timeout, seconds(1));
    let delay = main("shutdownDelay", "SHUTDOWN_DELAY");
    check(delay, "1s", |it| it.main.shutdown_delay, seconds(1));
    check(delay, "0", |it| it.main.shutdown_delay, seconds(0));
    let heartbeat = main("heartbeatInterval", "HEARTBEAT_INTERVAL");
    check(heartbeat, "15s", |it| it.main.heartbeat_interval, Some(seconds(15)));
    check(heartbeat, "0", |it| it.main.heartbeat_interval, None);
    check(heartbeat, "-1s", |it| it.main.heartbeat_interval, None);
    let connection = main("maxClientConnectionTime", "MAX_CLIENT_CONNECTION_TIME");
    check(connection, "1h", |it| it.main.max_client_connection_time, Some(seconds(3600)));
    check(connection, "0s", |it| it.main.max_client_connection_time, None);
    let body = main("maxClientRequestBodySize", "MAX_CLIENT_REQUEST_BODY_SIZE");
    check_shown(body, "1KiB", "1024");
    let jitter = main("pingStreamJitterTime", "PING_STREAM_JITTER_TIME");
    check_shown(jitter, "2s", "2s");
    let disconnected = main("disconnectedStatusTime", "DISCONNECTED_STATUS_TIME");
    check(disconnected, "2s", |it| it.main.disconnected_status_time, seconds(2));
    check(main("logLevel", "LOG_LEVEL"), "WARN", |it| it.main.log_level, LogLevel::Warn);
    check(main("", "LOG_FORMAT"), "Json", |it| it.main.log_format, LogFormat::Json);
    check(main("", "LOG_FORMAT"), "xml", |it| it.main.log_format, LogFormat::Text);
    let degraded = main("bigSegmentsStaleAsDegraded", "BIG_SEGMENTS_STALE_AS_DEGRADED");
    check_shown(degraded, "true", "true");
    let threshold = main("bigSegmentsStaleThreshold", "BIG_SEGMENTS_STALE_THRESHOLD");
    check_shown(threshold, "1m", "1m");
    let cleanup = main("expiredCredentialCleanupInterval", "EXPIRED_CREDENTIAL_CLEANUP_INTERVAL");
    let expected = Duration::from_millis(100);
    check(cleanup, "100ms", |it| it.main.expired_credential_cleanup_interval, expected);
}

#[test]
fn local_store_section() {
    let prefer_over = ("LocalStore", "preferOver", "LOCAL_STORE_PREFER_OVER");
    let read = |it: Config| it.local_store.is_preferred_over_shared;
    check(prefer_over, "sharedstore", read, true);
    check(prefer_over, "off", read, false);
}

#[test]
fn autoconfig_section() {
    let section = |option, variable| ("AutoConfig", option, variable);
    let format = section("cacheFormat", "AUTO_CONFIG_CACHE_FORMAT");
    check(format, "ld-relay", |it| it.autoconfig.cache_format, CacheFormat::LdRelay);
    check(format, "sealed", |it| it.autoconfig.cache_format, CacheFormat::Sealed);
    let adopt = section("cacheAdopt", "AUTO_CONFIG_CACHE_ADOPT");
    check(adopt, "Always", |it| it.autoconfig.cache_adopt, CacheAdopt::Always);
    check(adopt, "never", |it| it.autoconfig.cache_adopt, CacheAdopt::Never);
    let age = section("cacheMaxAge", "AUTO_CONFIG_CACHE_MAX_AGE");
    check(age, "24h", |it| it.autoconfig.cache_max_age, Some(seconds(86_400)));
    check(age, "0", |it| it.autoconfig.cache_max_age, None);
    let secret = |text: &str| Some(crate::model::Password::new(text));
    let key = section("cacheEncryptionKey", "AUTO_CONFIG_CACHE_ENCRYPTION_KEY");
    let read = |it: Config| it.autoconfig.cache_encryption_key.map(|key| key.value);
    check(key, " k1 ", read, secret("k1"));
    check(key, "  ", read, None);
    let previous =
        section("cachePreviousEncryptionKeys", "AUTO_CONFIG_CACHE_PREVIOUS_ENCRYPTION_KEYS");
    let read = |it: Config| it.autoconfig.cache_previous_encryption_keys.map(|key| key.value);
    check(previous, "a, b,", read, Some(vec![secret("a").unwrap(), secret("b").unwrap()]));

    let file = "[AutoConfig]\nkey = rel-1\ncacheKey = \" ns \"\nenvDatastorePrefix = ld-$CID\n\
                envDatastoreTableName = t\nenvAllowedOrigin = a\nenvAllowedHeader = b\n\
                [Redis]\nhost = h";
    let pairs = [
        ("AUTO_CONFIG_KEY", "rel-1"),
        ("AUTO_CONFIG_CACHE_KEY", " ns "),
        ("ENV_DATASTORE_PREFIX", "ld-$CID"),
        ("ENV_DATASTORE_TABLE_NAME", "t"),
        ("ENV_ALLOWED_ORIGIN", "a"),
        ("ENV_ALLOWED_HEADER", "b"),
        ("USE_REDIS", "1"),
    ];
    for config in [good(file, &[]), good("", &pairs)] {
        let autoconfig = config.autoconfig;
        assert_eq!(autoconfig.cache_key.as_deref(), Some("ns"));
        let defaults = &autoconfig.environments;
        assert_eq!(defaults.store_prefix_template(), "ld-$CID");
        assert_eq!(defaults.store_table_template(), "t");
        assert_eq!(defaults.allowed_origins, ["a"]);
        assert_eq!(defaults.allowed_headers, ["b"]);
    }
}

#[test]
fn databases() {
    let consul = |config: Config| match config.database {
        Some(Database::Consul(consul)) => consul,
        other => panic!("{other:?}"),
    };
    let section = |option, variable| ("Consul", option, variable);
    let address = |it| consul(it).address.to_string();
    check(section("host", ""), "c:8501", address, "http://c:8501/".to_owned());
    check(section("host", ""), "https://c", address, "https://c/".to_owned());
    let path = |text: &str| Some(PathBuf::from(text));
    let ca = section("caFile", "CONSUL_CA_FILE");
    check(ca, "ca.pem", |it| consul(it).tls.ca_file, path("ca.pem"));
    let health = section("healthCheckInterval", "CONSUL_HEALTH_CHECK_INTERVAL");
    check(health, "0", |it| consul(it).health_check_interval, None);
    check(section("localTtl", "CACHE_TTL"), "-1s", |it| consul(it).local_ttl, LocalTtl::Never);

    let dynamodb = |config: Config| match config.database {
        Some(Database::DynamoDb(dynamodb)) => dynamodb,
        other => panic!("{other:?}"),
    };
    let section = |option, variable| ("DynamoDB", option, variable);
    let table = section("tableName", "DYNAMODB_TABLE");
    check(table, "flags", |it| dynamodb(it).table, Some("flags".to_owned()));
    let url = Some("http://localhost:8000".parse().unwrap());
    let endpoint = section("url", "DYNAMODB_URL");
    check(endpoint, "http://localhost:8000", |it| dynamodb(it).endpoint, url);
    let health = section("healthCheckInterval", "DYNAMODB_HEALTH_CHECK_INTERVAL");
    check(health, "1m", |it| dynamodb(it).health_check_interval, Some(seconds(60)));
    check(section("localTtl", "CACHE_TTL"), "0", |it| dynamodb(it).local_ttl, LocalTtl::Off);
    let pairs = [("USE_DYNAMODB", "1"), ("DYNAMODB_TABLE", "flags")];
    assert_eq!(dynamodb(with_environment("", &pairs)).table.as_deref(), Some("flags"));
}

#[test]
fn events_and_http() {
    let section = |option, variable| ("Events", option, variable);
    check_shown(section("sendEvents", "USE_EVENTS"), "true", "true");
    check_shown(section("eventsUri", "EVENTS_HOST"), "http://events", "http://events/");
    check_shown(section("flushInterval", "EVENTS_FLUSH_INTERVAL"), "1s", "1s");
    check_shown(section("capacity", "EVENTS_CAPACITY"), "7", "7");
    check_shown(section("metricsCapacity", "EVENTS_METRICS_CAPACITY"), "2000", "2000");
    check_warnings(
        "[Environment \"e\"]\nsdkKey = s\n[Events]\nmetricsCapacity = 7",
        &[],
        &[
            "/c.conf:4: [Events] metricsCapacity: is too small; 1000 is used",
            "configuration: accepted, but not implemented yet",
        ],
    );
    let payload = section("maxInboundPayloadSize", "EVENTS_MAX_INBOUND_PAYLOAD_SIZE");
    check_shown(payload, "1MB", "1048576");
    check_shown(section("inlineUsers", "EVENTS_INLINE_USERS"), "1", "true");

    let section = |option, variable| ("Http", option, variable);
    check_shown(section("enableCompression", "HTTP_ENABLE_COMPRESSION"), "true", "true");
    check_shown(section("idleConnTimeout", "HTTP_IDLE_CONN_TIMEOUT"), "1s", "1s");
    check_shown(section("maxIdleConns", "HTTP_MAX_IDLE_CONNS"), "-3", "-3");
    let per_host = section("maxIdleConnsPerHost", "HTTP_MAX_IDLE_CONNS_PER_HOST");
    check_shown(per_host, "0x10", "16");
    check_shown(section("disableKeepAlives", "HTTP_DISABLE_KEEPALIVE"), "true", "true");
}

#[test]
fn concurrency_is_cut_to_sense() {
    let section = |option, variable| ("Concurrency", option, variable);
    let concurrent = section("maxConcurrent", "INIT_MAX_CONCURRENT");
    for (text, expected) in [
        ("5", ConcurrencyLimit::AtMost(5)),
        ("0", ConcurrencyLimit::Off),
        ("-5", ConcurrencyLimit::Off),
        ("65537", ConcurrencyLimit::AtMost(65_536)),
        ("99999999999", ConcurrencyLimit::AtMost(65_536)),
    ] {
        check(concurrent, text, |it| it.concurrency.max_concurrent, Some(expected));
    }
    let queued = section("maxQueued", "INIT_MAX_QUEUED");
    for (text, expected) in [("5", 5), ("0", 0), ("-1", 0), ("1000001", 1_000_000)] {
        check(queued, text, |it| it.concurrency.max_queued, Some(expected));
    }
    let timeout = section("sendTimeout", "INIT_SEND_TIMEOUT");
    for (text, expected) in [("1m", seconds(60)), ("1s", seconds(5)), ("0", seconds(5))] {
        check(timeout, text, |it| it.concurrency.send_timeout, Some(expected));
    }
    check_warnings(
        "[Environment \"e\"]\nsdkKey = s\n[Concurrency]\nmaxConcurrent = 65537\n\
         maxQueued = 1000001\nsendTimeout = 1s",
        &[],
        &[
            "/c.conf:4: [Concurrency] maxConcurrent: is too large; 65536 is used",
            "/c.conf:5: [Concurrency] maxQueued: is too large; 1000000 is used",
            "/c.conf:6: [Concurrency] sendTimeout: is too small; 5s is used",
        ],
    );
}

#[test]
fn proxy_section() {
    let url = |it: Config| it.proxy.url.map(|url| url.expose().to_owned());
    let given = "http://u:p@proxy:3128";
    check(("Proxy", "url", "PROXY_URL"), given, url, Some(given.to_owned()));
    let pairs = [
        ("PROXY_URL", "http://proxy"),
        ("PROXY_AUTH_USER", "u"),
        ("PROXY_AUTH_PASSWORD", "p"),
        ("HTTPS_PROXY", "http://other"),
    ];
    let file = "[Proxy]\nurl = http://proxy\nuser = u\npassword = p";
    for config in [with_environment(file, &[]), with_environment("", &pairs)] {
        let ProxyLogin::Basic { user, password } = config.proxy.login else { panic!("is basic") };
        assert_eq!((user.as_str(), password.unwrap().value.expose()), ("u", "p"));
        assert_eq!(config.proxy.from_variables, VariableProxies::default());
    }
}

#[test]
fn the_usual_proxy_variables_are_taken_in_both_cases() {
    let pairs = [
        ("HTTP_PROXY", "proxy:1"),
        ("http_proxy", "http://lower"),
        ("https_proxy", "http://u:p@proxy:2"),
        ("no_proxy", "a,b"),
    ];
    let proxies = with_environment("", &pairs).proxy.from_variables;
    assert_eq!(proxies.http.unwrap().expose(), "http://proxy:1");
    assert_eq!(proxies.https.unwrap().expose(), "http://u:p@proxy:2");
    assert_eq!(proxies.no_proxy.as_deref(), Some("a,b"));
    check_warnings(
        "[Environment \"e\"]\nsdkKey = s",
        &[("https_proxy", "ftp://u:secret@h")],
        &["https_proxy: is not an absolute URL with a supported scheme, so it is not used"],
    );
}

#[test]
fn socks_proxies_are_problems_wherever_they_are_asked_for() {
    let said = "is a SOCKS proxy, which is not implemented yet; allowed: an address that begins with \
                http:// or https:// and names a host";
    let environment = "[Environment \"e\"]\nsdkKey = s\n";
    check_problems(
        &format!("{environment}[Proxy]\nurl = socks5://u:secret@h:1080"),
        &[],
        &[&format!("/c.conf:4: [Proxy] url: {said}")],
    );
    check_problems(
        environment,
        &[("HTTP_PROXY", "socks5h://h"), ("https_proxy", "SOCKS5://u:secret@h")],
        &[&format!("HTTP_PROXY: {said}"), &format!("https_proxy: {said}")],
    );
}

#[test]
fn certificates_that_cannot_be_read_are_problems() {
    check_problems(
        "[Environment \"e\"]\nsdkKey = s\n[Proxy]\ncaCertFiles = 1.pem,none.pem",
        &[],
        &["/c.conf:4: [Proxy] caCertFiles: none.pem cannot be read: "],
    );
}

#[test]
fn metrics_sections() {
    let section = |option, variable| ("Datadog", option, variable);
    check_shown(section("statsAddr", "DATADOG_STATS_ADDR"), "h:1", "h:1");
    check_shown(section("traceAddr", "DATADOG_TRACE_ADDR"), "h:2", "h:2");
    check_shown(section("prefix", "DATADOG_PREFIX"), "p", "p");
    let tags = [("DATADOG_TAG_z", "1"), ("DATADOG_TAG_a", "2"), ("USE_DATADOG", "1")];
    let shown = loaded_with_environment("[Datadog]\ntag = q:0", &tags).shown;
    assert_eq!(shown.get("Datadog", "tag"), Some("q:0, a:2, z:1"));
    check_shown(("Stackdriver", "projectID", "STACKDRIVER_PROJECT_ID"), "p", "p");
    check_shown(("Stackdriver", "prefix", "STACKDRIVER_PREFIX"), "p", "p");
    check_shown(("Prometheus", "port", "PROMETHEUS_PORT"), "1", "1");
    check_shown(("Prometheus", "prefix", "PROMETHEUS_PREFIX"), "p", "p");
    let pairs = [("USE_STACKDRIVER", "1"), ("USE_PROMETHEUS", "1"), ("USE_OTLP", "1")];
    let shown = loaded_with_environment("", &pairs).shown;
    assert_eq!(shown.get("Prometheus", "port"), Some("8031"));
    assert_eq!(shown.get("Stackdriver", "prefix"), Some("launchdarkly_relay"));
    assert_eq!(shown.get("OpenTelemetry", "metricsCardinalityLimit"), Some("2000"));
}

#[test]
fn opentelemetry_is_judged_only_where_it_is_on() {
    let section = |option, variable| ("OpenTelemetry", option, variable);
    let protocol = section("protocol", "OTEL_EXPORTER_OTLP_PROTOCOL");
    for word in ["GRPC", "http", "http/protobuf", "HTTP/JSON"] {
        check_shown(protocol, word, word);
    }
    let limit = section("metricsCardinalityLimit", "OTEL_METRICS_CARDINALITY_LIMIT");
    check_shown(limit, "0", "0");
    let status = section("environmentStatusMetrics", "OTEL_ENVIRONMENT_STATUS_METRICS");
    check_shown(status, "true", "true");
    check_shown(section("logsExporter", "OTEL_LOGS_EXPORTER"), " None ", "none");
    check_shown(section("tracesExporter", "OTEL_TRACES_EXPORTER"), "zipkin", "otlp");
    check_shown(section("metricsExporter", "OTEL_METRICS_EXPORTER"), "otlp", "otlp");
    check_warnings(
        "[Environment \"e\"]\nsdkKey = s",
        &[("USE_OTLP", "1"), ("OTEL_TRACES_EXPORTER", "zipkin")],
        &[
            "OTEL_TRACES_EXPORTER: \"zipkin\" is not supported; otlp is used",
            "configuration: accepted, but not implemented yet",
        ],
    );
    // These variables belong to other programs as well.
    let foreign = [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"), ("PROMETHEUS_PORT", "x")];
    check_warnings("[Environment \"e\"]\nsdkKey = s", &foreign, &[]);
    with_environment("[OpenTelemetry]\nprotocol = http/json", &foreign);
    with_environment("[OpenTelemetry]\nprotocol = carrier", &foreign);
    check_problems(
        "[Environment \"e\"]\nsdkKey = s\n[OpenTelemetry]\nmetricsCardinalityLimit = -1",
        &[("USE_OTLP", "1"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier")],
        &[
            "/c.conf:4: [OpenTelemetry] metricsCardinalityLimit: \"-1\" is negative",
            "OTEL_EXPORTER_OTLP_PROTOCOL: \"carrier\" is not a protocol; allowed: grpc, http",
        ],
    );
}

#[test]
fn values_of_the_wrong_kind_are_named_with_their_place() {
    let file = "[Environment \"e\"]\nsdkKey = s\nsecureMode =\nttl = 5\n[Main]\nport\n\
                streamUri = relative\nlogLevel = loud\nexitAlways = maybe\n\
                maxClientRequestBodySize = 0B\nexpiredCredentialCleanupInterval = 99ms\n\
                gracefulShutdownTimeout = -1s\nbindAddress = localhost\ntlsMinVersion = 2\n\
                [Http]\nmaxIdleConns = many\n[Redis]\nlocalTtl = x\n[AutoConfig]\ncacheFormat = x\n\
                [Proxy]\ncaCertFiles";
    check_problems(
        file,
        &[("USE_EVENTS", "on"), ("EVENTS_CAPACITY", "0"), ("EVENTS_HOST", "events.example")],
        &[
            "/c.conf:3: [Environment \"e\"] secureMode: \"\" is not a boolean; allowed: true, yes, on",
            "/c.conf:4: [Environment \"e\"] ttl: \"5\" is not a duration; allowed: a number with",
            "/c.conf:6: [Main] port: has no value; allowed: 1 to 65535",
            "/c.conf:7: [Main] streamUri: is not an absolute URL",
            "/c.conf:8: [Main] logLevel: \"loud\" is not a log level; allowed: debug, info",
            "/c.conf:9: [Main] exitAlways: \"maybe\" is not a boolean",
            "/c.conf:10: [Main] maxClientRequestBodySize: \"0B\" is not above zero",
            "/c.conf:11: [Main] expiredCredentialCleanupInterval: \"99ms\" is too short; allowed: 100ms",
            "/c.conf:12: [Main] gracefulShutdownTimeout: \"-1s\" is negative",
            "/c.conf:13: [Main] bindAddress: \"localhost\" is not an IP address",
            "/c.conf:14: [Main] tlsMinVersion: \"2\" is not a TLS version; allowed: 1.0, 1.1",
            "/c.conf:16: [Http] maxIdleConns: \"many\" is not a whole number",
            "/c.conf:18: [Redis] localTtl: \"x\" is not a duration",
            "/c.conf:20: [AutoConfig] cacheFormat: \"x\" is not a format; allowed: sealed, ld-relay",
            "/c.conf:22: [Proxy] caCertFiles: has no value",
            "EVENTS_CAPACITY: \"0\" is not above zero",
            "EVENTS_HOST: is not an absolute URL",
            "USE_EVENTS: \"on\" is not a boolean; allowed: true, yes, 1, false, no, 0",
        ],
    );
}

#[test]
fn blank_options_are_true_and_words_differ_between_file_and_variables() {
    let loaded = loaded_with_environment("[Main]\nexitAlways ; why\nexitOnError = on", &[]);
    assert!(loaded.config.main.exit_always);
    assert_eq!(loaded.shown.get("Main", "exitOnError"), Some("true"));
    let main = with_environment("[Main]\nexitAlways", &[("EXIT_ALWAYS", "no")]).main;
    assert!(!main.exit_always);
}
