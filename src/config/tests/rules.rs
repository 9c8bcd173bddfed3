//! Rules across sections, one by one, and all at once.

use super::*;

const ENVIRONMENT: &str = "[Environment \"e\"]\nsdkKey = s\nprefix = p\n";

#[test]
fn something_must_be_served() {
    check_problems("", &[], &["configuration: there is nothing to serve; set an autoconfig"]);
    check_problems(
        "[Main]\nport = 1",
        &[("AUTO_CONFIG_KEY", "")],
        &["configuration: there is nothing to serve"],
    );
}

#[test]
fn only_one_thing_names_the_environments() {
    check_problems(
        &format!("[AutoConfig]\nkey = k\n{ENVIRONMENT}"),
        &[("LD_FILTER_KEYS_p", "f")],
        &["/c.conf:2: [AutoConfig] key: an autoconfig key is set together with [Environment] \
           sections or LD_ENV_ variables, [Filters] sections or LD_FILTER_KEYS_ variables"],
    );
    check_problems(
        "",
        &[("AUTO_CONFIG_KEY", "k"), ("FILE_DATA_SOURCE", "f.tar.gz")],
        &["AUTO_CONFIG_KEY: an autoconfig key is set together with [OfflineMode]"],
    );
    check_problems(
        ENVIRONMENT,
        &[("FILE_DATA_SOURCE", "f.tar.gz")],
        &["FILE_DATA_SOURCE: is set together with [Environment] sections"],
    );
}

#[test]
fn properties_need_their_mode() {
    let pairs = [
        ("ENV_DATASTORE_PREFIX", "p"),
        ("ENV_DATASTORE_TABLE_NAME", "t"),
        ("ENV_ALLOWED_ORIGIN", "a"),
        ("ENV_ALLOWED_HEADER", "b"),
    ];
    check_problems(
        ENVIRONMENT,
        &pairs,
        &[
            "ENV_ALLOWED_HEADER: is set, but there is no autoconfig key",
            "ENV_ALLOWED_ORIGIN: is set, but there is no autoconfig key",
            "ENV_DATASTORE_PREFIX: is set, but there is no autoconfig key",
            "ENV_DATASTORE_TABLE_NAME: is set, but there is no autoconfig key",
        ],
    );
    // With an archive, they belong to offline mode.
    let loaded = load_both("[OfflineMode]\nfileDataSource = f", &pairs).unwrap();
    let defaults = &loaded.config.autoconfig.environments;
    assert_eq!(defaults.store_prefix_template(), "p");
    assert_eq!(defaults.store_table_template(), "t");
    assert_eq!(defaults.allowed_origins, ["a"]);
    assert_eq!(defaults.allowed_headers, ["b"]);
    let offline = loaded.config.offline.unwrap();
    assert_eq!(offline.file.to_str(), Some("f"));
    assert_eq!(offline.monitoring_interval.as_secs(), 1);
    check_problems(
        &format!(
            "{ENVIRONMENT}[OfflineMode]\nenvDatastorePrefix = p\nenvAllowedOrigin = a\n\
             fileDataSourceMonitoringInterval = 1s"
        ),
        &[],
        &[
            "/c.conf:5: [OfflineMode] envDatastorePrefix: is set, but there is no fileDataSource",
            "/c.conf:6: [OfflineMode] envAllowedOrigin: is set, but there is no fileDataSource",
            "/c.conf:7: [OfflineMode] fileDataSourceMonitoringInterval: is set, but",
        ],
    );
    check_problems(
        "[AutoConfig]\nkey = k\n[OfflineMode]\nfileDataSourceMonitoringInterval = 1s",
        &[],
        &["/c.conf:4: [OfflineMode] fileDataSourceMonitoringInterval: is set, but there is no"],
    );
    check_problems(
        "[OfflineMode]\nfileDataSource = f\nfileDataSourceMonitoringInterval = 99ms",
        &[],
        &["/c.conf:3: [OfflineMode] fileDataSourceMonitoringInterval: \"99ms\" is too short"],
    );
    check_warnings(
        &format!("{ENVIRONMENT}[AutoConfig]\ncacheKey = ns"),
        &[],
        &["/c.conf:5: [AutoConfig] cacheKey: has no effect without an autoconfig key"],
    );
}

#[test]
fn one_database_at_most() {
    let on = [("USE_DYNAMODB", "1"), ("USE_REDIS", "1"), ("USE_CONSUL", "1")];
    let what = "configuration: several databases are enabled";
    check_problems(ENVIRONMENT, &on, &[&format!("{what} (Redis, Consul, DynamoDB)")]);
    check_problems(ENVIRONMENT, &on[..2], &[&format!("{what} (Redis, DynamoDB)")]);
    let file = format!("{ENVIRONMENT}[Redis]\nhost = h\n[Consul]\nhost = h");
    check_problems(&file, &[], &[&format!("{what} (Redis, Consul); allowed: one of them")]);
}

#[test]
fn the_cache_needs_a_place() {
    let auto = "[AutoConfig]\nkey = k\ncacheKey = ns\nenvDatastorePrefix = $CID\n";
    check_problems(
        auto,
        &[],
        &["/c.conf:3: [AutoConfig] cacheKey: is set, but there is no shared database"],
    );
    good(&format!("{auto}[Redis]\nhost = h"), &[]);
    good(&format!("{auto}[Consul]\nhost = h"), &[]);
    good(&format!("{auto}[DynamoDB]\nenabled\ntableName = t"), &[]);
    check_problems(
        &format!("{auto}envDatastoreTableName = $CID\n[DynamoDB]\nenabled"),
        &[],
        &["[DynamoDB] tableName (DYNAMODB_TABLE): is missing; the autoconfig cache needs"],
    );
    good(&auto.replace("ns", "\"  \""), &[]);
}

#[test]
fn dynamodb_needs_a_table_for_each_environment() {
    let dynamodb = "[DynamoDB]\nenabled\n";
    check_problems(
        &format!("{dynamodb}{ENVIRONMENT}"),
        &[("LD_ENV_x", "s2"), ("LD_TABLE_NAME_x", "t")],
        &["[Environment \"e\"] tableName (LD_TABLE_NAME_e): is missing, and there is no global"],
    );
    good(&format!("{dynamodb}{ENVIRONMENT}tableName = t"), &[]);
    good(&format!("{dynamodb}tableName = t\n{ENVIRONMENT}"), &[]);
    let auto = "[AutoConfig]\nkey = k\nenvDatastorePrefix = $CID\n";
    check_problems(
        &format!("{dynamodb}{auto}"),
        &[],
        &["[DynamoDB] tableName (DYNAMODB_TABLE): is missing, and there is no envDatastore"],
    );
    good(&format!("{dynamodb}{auto}envDatastoreTableName = t"), &[]);
}

#[test]
fn environments_of_autoconfig_are_kept_apart_by_the_placeholder() {
    let auto = "[AutoConfig]\nkey = k\n";
    let must = "must contain $CID, so that the environments do not overwrite each other in";
    let unset = "[AutoConfig] envDatastorePrefix (ENV_DATASTORE_PREFIX)";
    for (database, name) in [("[Redis]\nhost = h", "Redis"), ("[Consul]\nhost = h", "Consul")] {
        check_problems(&format!("{auto}{database}"), &[], &[&format!("{unset}: {must} {name}")]);
        check_problems(
            &format!("{auto}envDatastorePrefix = x\nenvDatastoreTableName = $CID\n{database}"),
            &[],
            &[&format!("/c.conf:3: [AutoConfig] envDatastorePrefix: {must} {name}")],
        );
        good(&format!("{auto}envDatastorePrefix = x-$CID\n{database}"), &[]);
    }
    let dynamodb = "[DynamoDB]\nenabled\ntableName = t";
    check_problems(&format!("{auto}{dynamodb}"), &[], &[&format!("{unset}: {must} DynamoDB")]);
    good(&format!("{auto}envDatastoreTableName = t-$CID\n{dynamodb}"), &[]);
    good(auto, &[]);
}

#[test]
fn two_environments_at_one_place_are_warned_of() {
    let environment = |name: &str, prefix: &str| {
        format!("[Environment \"{name}\"]\nsdkKey = {name}\nprefix = {prefix}\n")
    };
    let same = environment("a", "p") + &environment("b", "p");
    let warns = |text: &str, pairs: &[(&str, &str)]| {
        let loaded = load_both(text, pairs).unwrap();
        let same_place = "[Environment \"b\"] prefix: is the same place in";
        loaded.warnings.iter().any(|warning| warning.to_string().contains(same_place))
    };
    assert!(warns(&format!("[Redis]\nhost = h\n{same}"), &[]));
    let other = environment("a", "p") + &environment("b", "q");
    assert!(!warns(&format!("[Redis]\nhost = h\n{other}"), &[]));
    let dynamodb = "[DynamoDB]\nenabled\ntableName = t\n";
    assert!(!warns(&format!("{dynamodb}{same}"), &[("LD_TABLE_NAME_b", "tb")]));
    assert!(warns(&format!("{dynamodb}{same}"), &[]));
}

#[test]
fn one_environment_may_use_the_default_prefix() {
    let redis = "[Redis]\nhost = h\n";
    let bare = "[Environment \"a\"]\nsdkKey = a\n";
    let unset = "[Environment \"a\"] prefix (LD_PREFIX_a): is not set, so the default prefix";
    check_warnings(&format!("{redis}{bare}"), &[], &[unset]);
    check_warnings(&format!("{redis}{bare}{ENVIRONMENT}"), &[], &[unset]);
    check_warnings(&format!("{redis}{ENVIRONMENT}"), &[], &[]);
    check_problems(
        &format!("{redis}{bare}{ENVIRONMENT}"),
        &[("LD_ENV_b", "b")],
        &[
            "[Environment \"a\"] prefix (LD_PREFIX_a): 2 environments use the default prefix in Redis",
            "[Environment \"b\"] prefix (LD_PREFIX_b): 2 environments use the default prefix in Redis",
        ],
    );
    let tables = [("LD_ENV_b", "b"), ("LD_TABLE_NAME_b", "tb"), ("LD_TABLE_NAME_a", "ta")];
    good(&format!("[DynamoDB]\nenabled\n{bare}"), &tables);
    check_warnings(
        &format!("{redis}{bare}projKey = p\n[Filters \"p\"]\nkeys = f"),
        &[],
        &[
            "[Environment \"a\"] prefix (LD_PREFIX_a): is not set, although there are filters",
            unset,
        ],
    );
}

#[test]
fn a_token_or_its_file_but_not_both() {
    let files = Memory::default().with("/t", "token");
    check_problems_with(
        files,
        &format!("{ENVIRONMENT}[Consul]\nhost = h:1\ntoken = x\ntokenFile = /t"),
        &[],
        &["/c.conf:7: [Consul] tokenFile: is set together with [Consul] token (CONSUL_TOKEN)"],
    );
}

#[test]
fn a_consul_address_without_port_is_warned_of() {
    check_warnings(
        &format!("{ENVIRONMENT}[Consul]\nhost = h"),
        &[],
        &["/c.conf:5: [Consul] host: has no port, so port 80 is used"],
    );
    for host in ["unix:///x", "http://h/path", "a b", "h:x"] {
        let file = format!("{ENVIRONMENT}[Consul]\nhost = {host}");
        check_problems(&file, &[], &["/c.conf:5: [Consul] host: is not the address of a Consul"]);
    }
}

#[test]
fn ntlm_is_refused_and_logins_need_a_user_and_a_proxy() {
    check_problems(
        ENVIRONMENT,
        &[("PROXY_AUTH_NTLM", "1"), ("PROXY_URL", "http://p"), ("PROXY_AUTH_USER", "u")],
        &["PROXY_AUTH_NTLM: NTLM is not implemented yet"],
    );
    check_warnings(
        ENVIRONMENT,
        &[("PROXY_AUTH_PASSWORD", "p")],
        &["PROXY_AUTH_PASSWORD: has no effect without a user"],
    );
    check_warnings(
        ENVIRONMENT,
        &[("PROXY_AUTH_USER", "u")],
        &["PROXY_AUTH_USER: has no effect without the url of a proxy"],
    );
}

#[test]
fn unknown_names_in_the_file_are_problems() {
    check_problems(
        &format!(
            "{ENVIRONMENT}sdkkye = x\n[Main \"x\"]\nport = 1\n[Main]\ninit-timeout = 1s\nprot = 1\n\
             [Mian]\nport = 1\n[Redis]\ntls = no\nunknown\n[Events]\ndisableInternalUsageMetrics"
        ),
        &[("PROT", "1")],
        &[
            "/c.conf:4: [Environment \"e\"] sdkkye: unknown option; allowed: allowedHeader,",
            "/c.conf:5: [Main \"x\"]: this section takes no name; allowed: [Main]",
            "/c.conf:8: [Main] init-timeout: unknown option",
            "/c.conf:9: [Main] prot: unknown option; allowed: baseUri,",
            "/c.conf:10: [Mian]: unknown section; allowed: AutoConfig,",
            "/c.conf:14: [Redis] unknown: unknown option",
            "/c.conf:16: [Events] disableInternalUsageMetrics: unknown option",
        ],
    );
}

#[test]
fn all_problems_come_at_once() {
    check_problems(
        "[Main]\nport = x\nbroken line\n[Environment \"a\"]\nsdkKey = a\n\
         [AutoConfig]\nkey = k\n[Redis]\nurl = redis://h\nhost = h\n[Consul]\nhost = h",
        &[("INIT_TIMEOUT", "5"), ("USE_EVENTS", "perhaps")],
        &[
            "/c.conf:2: [Main] port",
            "/c.conf:3: [Main] broken: expected =",
            "/c.conf:7: [AutoConfig] key: an autoconfig key is set together",
            "/c.conf:9: [Redis] url: is set together",
            "INIT_TIMEOUT",
            "USE_EVENTS",
            "configuration: several databases",
        ],
    );
}

#[test]
fn a_damaged_file_is_not_blamed_for_what_may_be_in_it() {
    check_problems(
        "[Environment \"x]\nsdkKey = s",
        &[],
        &["/c.conf:1: the closing quotation mark of the name"],
    );
    check_problems(
        "[Environment \"x\"]\nsdkKey = \"s",
        &[],
        &["/c.conf:2: [Environment \"x\"] sdk"],
    );
}
