//! `[Environment]`, `[Filters]`, their variables, and the resulting environments.

use std::time::Duration;

use super::*;

#[test]
fn every_option_arrives() {
    let file = "[Environment \"x\"]\nsdkKey = sdk-x\nmobileKey = mob-x\nenvId = id-x\nsecureMode\n\
                prefix = p\ntableName = t\nallowedOrigin = a\nallowedHeader = b\n\
                logLevel = debug\nttl = 5m\nprojKey = proj";
    let pairs = [
        ("LD_ENV_x", "sdk-x"),
        ("LD_MOBILE_KEY_x", "mob-x"),
        ("LD_CLIENT_SIDE_ID_x", "id-x"),
        ("LD_SECURE_MODE_x", "1"),
        ("LD_PREFIX_x", "p"),
        ("LD_TABLE_NAME_x", "t"),
        ("LD_ALLOWED_ORIGIN_x", "a"),
        ("LD_ALLOWED_HEADER_x", "b"),
        ("LD_LOG_LEVEL_x", "debug"),
        ("LD_TTL_x", "5m"),
        ("LD_PROJ_KEY_x", "proj"),
    ];
    let by_file = good(file, &[]).environments;
    assert_eq!(good("", &pairs).environments, by_file);
    let environment = &by_file["x"];
    assert_eq!(environment.sdk_key.value.expose(), "sdk-x");
    assert_eq!(environment.mobile_key.as_ref().unwrap().value.expose(), "mob-x");
    assert_eq!(environment.environment_id.as_ref().unwrap().as_str(), "id-x");
    assert!(environment.secure_mode);
    assert_eq!((environment.store_prefix.as_str(), environment.store_table.as_str()), ("p", "t"));
    assert_eq!(environment.allowed_origins, ["a"]);
    assert_eq!(environment.allowed_headers, ["b"]);
    assert_eq!(environment.log_level, LogLevel::Debug);
    assert_eq!(environment.ttl, Duration::from_secs(300));
    assert_eq!(environment.project_key, "proj");
}

#[test]
fn the_level_of_logging_is_inherited() {
    let config = with_environment("[Main]\nlogLevel = error", &[]);
    assert_eq!(config.environments["e"].log_level, LogLevel::Error);
}

#[test]
fn an_environment_needs_a_key() {
    let missing = "(LD_ENV_x): is missing; each environment needs an SDK key";
    check_problems(
        "[Environment \"x\"]\nmobileKey = m",
        &[],
        &[&format!("[Environment \"x\"] sdkKey {missing}")],
    );
    check_problems("", &[("LD_ENV_x", "")], &[&format!("[Environment \"x\"] sdkKey {missing}")]);
    check_problems(
        "[Environment \"x\"]\nsdkKey = sdk-x",
        &[("LD_ENV_x", "")],
        &[&format!("[Environment \"x\"] sdkKey {missing}")],
    );
}

#[test]
fn a_key_with_a_line_break_is_refused_without_being_shown() {
    check_problems(
        "[Environment \"x\"]\nsdkKey = sdk-ключ",
        &[("LD_ENV_y", "sdk-secret\n"), ("LD_MOBILE_KEY_y", " mob-secret")],
        &[
            "/c.conf:2: [Environment \"x\"] sdkKey: contains a character that is not allowed here",
            "LD_ENV_y: contains a character that is not allowed here: a space at the",
            "LD_MOBILE_KEY_y: contains a character that is not allowed here",
        ],
    );
}

#[test]
fn retired_variables_of_an_environment_are_problems() {
    check_problems(
        "",
        &[("LD_ENV_x", "sdk-x"), ("LD_TTL_MINUTES_x", "5")],
        &["LD_TTL_MINUTES_x: ld-relay 6 removed this variable; use LD_TTL_x with a unit"],
    );
    let x = ("LD_ENV_x", "sdk-x");
    good("", &[x, ("LD_TTL_MINUTES_x", "")]);
    // The name is also the `ttl` of an environment with an odd name.
    let odd = [x, ("LD_ENV_MINUTES_x", "sdk-y"), ("LD_TTL_MINUTES_x", "5m")];
    let config = good("", &odd);
    assert_eq!(config.environments["MINUTES_x"].ttl, Duration::from_secs(300));
    check_problems(
        "",
        &[x, ("EVENTS_SAMPLING_INTERVAL", "1")],
        &["EVENTS_SAMPLING_INTERVAL: ld-relay 6 removed this variable"],
    );
    good("", &[x, ("EVENTS_SAMPLING_INTERVAL", "")]);
}

#[test]
fn variables_for_an_environment_that_does_not_exist_are_warned_of() {
    check_warnings(
        "[Environment \"x\"]\nsdkKey = sdk-x",
        &[
            ("LD_PREFIX_x", "p"),
            ("LD_PREFIX_y", "p"),
            ("LD_MOBILE_KEY_X", "m"),
            ("LD_TTL_MINUTES_y", "5"),
            ("LD_SOMETHING_ELSE", "1"),
            // Kubernetes sets these for services called `ld-relay` and `relay`.
            ("LD_RELAY_PORT", "tcp://10.0.0.1:8030"),
            ("LD_RELAY_SERVICE_HOST", "10.0.0.1"),
            ("RELAY_PORT", "tcp://10.0.0.1:8030"),
            ("LDRELAY_PORT", "8030"),
            ("AUTO_CONFIG_CACHE_KEYS", "k"),
            ("LOCAL_STORE_DIRECTORY", "d"),
            ("UNRELATED", "1"),
        ],
        &[
            "AUTO_CONFIG_CACHE_KEYS: has no effect: unknown variable",
            "LDRELAY_PORT: has no effect: unknown variable; did you mean PORT?",
            "LD_MOBILE_KEY_X: has no effect: there is no environment with this name",
            "LD_PREFIX_y: has no effect: there is no environment with this name",
            "LD_SOMETHING_ELSE: has no effect: unknown variable",
            "LD_TTL_MINUTES_y: has no effect: there is no environment with this name",
            "LOCAL_STORE_DIRECTORY: has no effect: unknown variable",
        ],
    );
}

#[test]
fn items_with_blanks_are_literal_and_warned_of() {
    let file = "[Environment \"x\"]\nsdkKey = sdk-x\nallowedOrigin = a, b\n";
    assert_eq!(good(file, &[]).environments["x"].allowed_origins, ["a", " b"]);
    let expected = "/c.conf:3: [Environment \"x\"] allowedOrigin: an item of the list is empty or";
    check_warnings(file, &[], &[expected]);
}

#[test]
fn two_environments_with_one_key_are_warned_of() {
    check_warnings(
        "",
        &[("LD_ENV_a", "sdk-secret"), ("LD_ENV_b", "sdk-secret")],
        &["LD_ENV_b: is the same key as that of the environment \"a\""],
    );
}

const PROJECT: &str = "[Environment \"x\"]\nsdkKey = sdk-x\nprojKey = proj\nprefix = p\n";

#[test]
fn filters_come_from_both_sides() {
    let config = good(&format!("{PROJECT}[Filters \"proj\"]\nkeys = a, b"), &[]);
    let keys: Vec<&str> = config.filters["proj"].iter().map(FilterKey::as_str).collect();
    assert_eq!(keys, ["a", "b"]);
    let by_variable = good(PROJECT, &[("LD_FILTER_KEYS_proj", "a,b")]);
    assert_eq!(by_variable.filters, config.filters);
}

#[test]
fn filters_need_projects_and_projects_environments() {
    check_problems(
        &format!("{PROJECT}[Environment \"y\"]\nsdkKey = sdk-y\n[Filters \"proj\"]\nkeys = a"),
        &[("LD_FILTER_KEYS_other", "a")],
        &[
            "LD_FILTER_KEYS_other: there is no environment with this projKey",
            "[Environment \"y\"] projKey (LD_PROJ_KEY_y): is missing; every environment needs it",
        ],
    );
    check_problems(
        &format!("{PROJECT}[Filters \"proj\"]\n"),
        &[],
        &["[Filters \"proj\"] keys (LD_FILTER_KEYS_proj): the list of filters is empty"],
    );
    check_problems(
        &format!("{PROJECT}[Filters \"proj\"]\nkeys = a, ,b"),
        &[],
        &["/c.conf:6: [Filters \"proj\"] keys: an item of the list of filters is empty"],
    );
}

#[test]
fn each_environment_becomes_a_specification_with_and_without_filter() {
    let file = "[Environment \"x\"]\nsdkKey = sdk-x\nmobileKey = mob-x\nenvId = id\nprojKey = proj\n\
                prefix = p\nsecureMode\nttl = 1m\nallowedOrigin = o\n\
                [Environment \"y\"]\nsdkKey = sdk-y\nprojKey = proj\n\
                [Filters \"proj\"]\nkeys = f";
    let specs = good(file, &[]).manual_environments();
    let names: Vec<String> = specs.iter().map(|spec| spec.reference.to_string()).collect();
    assert_eq!(names, ["x", "x/f", "y", "y/f"]);
    let prefixes: Vec<&str> = specs.iter().map(|spec| spec.store_prefix.as_str()).collect();
    assert_eq!(prefixes, ["p", "p/f", "", ""]);
    let filtered = &specs[1];
    assert_eq!(filtered.credentials.anchor.expose(), "sdk-x");
    assert_eq!(filtered.credentials.sdk_keys[0].value, filtered.credentials.anchor);
    assert_eq!(filtered.credentials.primary_mobile.as_ref().unwrap().expose(), "mob-x");
    assert_eq!(filtered.credentials.mobile_keys.len(), 1);
    assert_eq!(filtered.credentials.environment_id.as_ref().unwrap().as_str(), "id");
    assert!(filtered.secure_mode);
    assert_eq!(filtered.ttl, Duration::from_secs(60));
    assert_eq!(filtered.environment_name, "x");
    assert_eq!(*filtered.allowed_origins, ["o".to_owned()]);
    assert_eq!(specs[2].credentials.primary_mobile, None);
}

#[test]
fn a_variable_without_a_name_makes_no_environment() {
    let problem = "LD_ENV_: the name of the environment is missing after LD_ENV_";
    check_problems("", &[("LD_ENV_", "sdk-1")], &[problem]);
    check_problems("", &[("LD_ENV_", "sdk-1"), ("LD_ENV_x", "sdk-2")], &[problem]);
}

#[test]
fn misspelt_variables_are_named_with_what_is_meant() {
    let pairs = [
        ("LD_ENV_x", "sdk-x"),
        ("LD_MOBILE_x", "mob-x"),
        ("STREAM_URL", "https://relay.example"),
        ("LAUNCHDARKLY_SDK_KEY", "sdk-x"),
        ("LD_LIBRARY_PATH", "/lib"),
        ("REDIS_DB", "1"),
    ];
    let expected = [
        "LAUNCHDARKLY_SDK_KEY: has no effect: unknown variable",
        "LD_MOBILE_x: has no effect: the name of this variable is LD_MOBILE_KEY_x",
        "STREAM_URL: has no effect: unknown variable; did you mean STREAM_URI?",
    ];
    check_warnings("", &pairs, &expected);
}

#[test]
fn options_of_old_ld_relays_are_named_as_today() {
    check_problems(
        "[Main]\nheartbeatIntervalSecs = 180\ndisableInternalUsageMetrics = true\n[Events]\nflushIntervalSecs = 5\n\
         [Environment \"e\"]\napiKey = sdk-1\nttlMinutes = 5\nsdkKey = sdk-1\n",
        &[],
        &[
            "/c.conf:2: [Main] heartbeatIntervalSecs: ld-relay 6 renamed this option to \
             heartbeatInterval; the value needs a unit, such as 180s",
            "/c.conf:3: [Main] disableInternalUsageMetrics: ld-relay 8 removed this option",
            "/c.conf:5: [Events] flushIntervalSecs: ld-relay 6 renamed this option to \
             flushInterval; the value needs a unit",
            "/c.conf:7: [Environment \"e\"] apiKey: ld-relay 6 removed this option; use sdkKey",
            "/c.conf:8: [Environment \"e\"] ttlMinutes: ld-relay 6 renamed this option to ttl; \
             the value needs a unit",
        ],
    );
}

#[test]
fn old_options_belong_to_their_section_and_have_any_case() {
    check_problems(
        "[main]\nHEARTBEATINTERVALSECS = 180\napiKey = secret\nflushIntervalSecs = 5\n\
         [Events]\nsamplingInterval = 1\nheartbeatIntervalSecs = 5\n\
         [Environment \"e\"]\nsdkKey = s\nInsecureSkipVerify\nttlMinutes =\n",
        &[],
        &[
            "/c.conf:2: [Main] heartbeatIntervalSecs: ld-relay 6 renamed this option",
            "/c.conf:3: [main] apiKey: unknown option; allowed: baseUri, bigSegmentsStaleAsDegraded",
            "/c.conf:4: [main] flushIntervalSecs: unknown option",
            "/c.conf:6: [Events] samplingInterval: ld-relay 6 removed this option; delete the line",
            "/c.conf:7: [Events] heartbeatIntervalSecs: unknown option",
            "/c.conf:10: [Environment \"e\"] insecureSkipVerify: ld-relay 6 removed this option; \
             certificates are always verified. To trust another CA, use [Proxy] caCertFiles",
            "/c.conf:11: [Environment \"e\"] ttlMinutes: ld-relay 6 renamed this option to ttl",
        ],
    );
    // The message about a mistake does not suggest removed names.
    let problems = load_both("[Events]\nx = 1", &[]).unwrap_err().to_string();
    assert!(problems.contains("flushInterval,") && !problems.contains("Secs"), "{problems}");
}

#[test]
fn old_variables_come_with_advice() {
    check_warnings(
        "[Environment \"e\"]\nsdkKey = s\n",
        &[("EVENTS_SEND", "1"), ("DISABLE_INTERNAL_USAGE_METRICS", "1"), ("EVENTS_SEN", "1")],
        &[
            "DISABLE_INTERNAL_USAGE_METRICS: has no effect: ld-relay 8 removed this variable. \
             Pilotlight sends no usage metrics",
            "EVENTS_SEN: has no effect: unknown variable",
            "EVENTS_SEND: has no effect: ld-relay 5.5 replaced this variable by USE_EVENTS",
        ],
    );
}

#[test]
fn secrets_in_clear_beyond_this_machine_are_warned_of() {
    let environment = "[Environment \"e\"]\nsdkKey = s\nprefix = p\n";
    let check = |file: &str, pairs: &[(&str, &str)], expected: &[&str]| {
        check_warnings(&format!("{environment}{file}"), pairs, expected);
    };
    check(
        "[Main]\nstreamUri = http://relay.example\n[Redis]\nurl = redis://cache\npassword = p",
        &[],
        &[
            "/c.conf:5: [Main] streamUri: SDK keys and flags cross the network unencrypted",
            "/c.conf:7: [Redis] url: the password crosses the network unencrypted",
        ],
    );
    let sentinels = [
        ("USE_REDIS", "1"),
        ("REDIS_MODE", "sentinel"),
        ("REDIS_SENTINEL_MASTER", "m"),
        ("REDIS_URLS", "redis://:p@a,redis://:p@b"),
    ];
    check("", &sentinels, &["REDIS_URLS: the password crosses the network unencrypted"]);
    let host = [("USE_REDIS", "1"), ("REDIS_HOST", "cache"), ("REDIS_PASSWORD", "p")];
    check("", &host, &["REDIS_HOST: the password crosses the network unencrypted"]);
    check("[Consul]\nhost = consul:8500\ntoken = t", &[], &["/c.conf:5: [Consul] host: the token"]);
    check("", &[("PROXY_URL", "http://u:p@proxy:3128")], &["PROXY_URL: the proxy's password"]);
    let by_variable = [("https_proxy", "http://u:p@proxy:3128")];
    check("", &by_variable, &["https_proxy: the proxy's password crosses the network"]);
    let by_variable = [("HTTPS_PROXY", "http://u:p@proxy:3128"), ("HTTP_PROXY", "http://u:p@h")];
    check("", &by_variable, &["HTTPS_PROXY: the proxy's password crosses the network"]);
    check("", &[("HTTPS_PROXY", "https://u:p@proxy:3128")], &[]);
    check("[Proxy]\nurl = http://proxy:3128", &by_variable, &[]);
    for silent in [
        "[Main]\nstreamUri = http://127.0.0.1:9\n[Redis]\nurl = redis://:p@localhost",
        "[Main]\nstreamUri = https://relay.example\n[Redis]\nurl = rediss://:p@cache",
        "[Redis]\nurl = redis://cache",
        "[Consul]\nhost = https://consul:8501\ntoken = t",
        "[Proxy]\nurl = http://proxy:3128",
    ] {
        check(silent, &[], &[]);
    }
}
