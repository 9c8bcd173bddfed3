//! File and variables together: for each case, the difference between ld-relay's reading in two
//! steps and a merge in one step.

use std::time::Duration;

use super::*;

fn redis_url(config: &Config) -> Option<&str> {
    match &config.database {
        Some(Database::Redis(redis)) => Some(redis.servers.urls()[0].expose()),
        Some(Database::Consul(_) | Database::DynamoDb(_)) | None => None,
    }
}

#[test]
fn an_environment_may_have_its_key_in_a_variable() {
    let config = good("[Environment \"x\"]\nmobileKey = mob-x", &[("LD_ENV_x", "sdk-x")]);
    let environment = &config.environments["x"];
    assert_eq!(environment.sdk_key.value.expose(), "sdk-x");
    assert_eq!(environment.mobile_key.as_ref().unwrap().value.expose(), "mob-x");
}

#[test]
fn variables_of_an_environment_count_although_the_file_makes_it() {
    let config = good("[Environment \"x\"]\nsdkKey = sdk-x", &[("LD_PREFIX_x", "p")]);
    assert_eq!(config.environments["x"].store_prefix, "p");
}

#[test]
fn names_of_environments_are_literal() {
    let config = good(
        "[Environment \"Shop Prod\"]\nsdkKey = sdk-1",
        &[("LD_ENV_Shop_Prod", "sdk-2"), ("LD_ENV_shop_prod", "sdk-4")],
    );
    let names: Vec<&String> = config.environments.keys().collect();
    assert_eq!(names, ["Shop Prod", "Shop_Prod", "shop_prod"]);
    let config = good("[Environment]\nsdkKey = sdk-1", &[]);
    assert!(config.environments.contains_key(""));
}

#[test]
fn the_autoconfig_key_may_be_in_a_variable_and_its_properties_in_the_file() {
    let file = "[AutoConfig]\nenvDatastorePrefix = ld-$CID\n[Redis]\nhost = h";
    let config = good(file, &[("AUTO_CONFIG_KEY", "rel-1")]);
    assert_eq!(config.autoconfig.key.unwrap().value.expose(), "rel-1");
}

#[test]
fn the_address_of_redis_can_be_overridden() {
    let check = |file: &str, pairs: &[(&str, &str)], url: &str| {
        let config = with_environment(file, pairs);
        assert_eq!(redis_url(&config), Some(url), "{file} {pairs:?}");
    };
    let by_host = "[Redis]\nhost = file\nport = 1";
    check(by_host, &[], "redis://file:1");
    check(by_host, &[("REDIS_HOST", "env")], "redis://env:1");
    check(by_host, &[("REDIS_PORT", "2")], "redis://file:2");
    check(by_host, &[("REDIS_HOST", "env"), ("REDIS_PORT", "2")], "redis://env:2");
    check(by_host, &[("REDIS_URL", "redis://env:3/1")], "redis://env:3/1");
    check("[Redis]\nport = 1", &[("REDIS_PORT", "tcp://link:4")], "redis://link:4");
    let link_and_host = [("REDIS_HOST", "env"), ("REDIS_PORT", "tcp://link:4")];
    check(by_host, &link_and_host, "redis://link:4");
    let by_url = "[Redis]\nurl = redis://file:1";
    check(by_url, &[("REDIS_URL", "redis://env:3")], "redis://env:3");
    check(by_url, &[("REDIS_HOST", "env")], "redis://env:6379");
    check(by_url, &[("REDIS_HOST", "env"), ("REDIS_PORT", "2")], "redis://env:2");
    // An empty address would silently mean this machine.
    for name in ["REDIS_URL", "REDIS_HOST", "REDIS_PORT"] {
        check(by_url, &[(name, "")], "redis://file:1");
        check(by_host, &[(name, "")], "redis://file:1");
    }
}

#[test]
fn a_container_link_does_not_lead_away_from_an_address() {
    let link = ("REDIS_PORT", "tcp://link:4");
    let unused = "REDIS_PORT: is a container link and is ignored, because an address is configured";
    let environment = "[Environment \"e\"]\nsdkKey = s\nprefix = p\n";
    let check = |file: &str, pairs: &[(&str, &str)], url: &str| {
        assert_eq!(redis_url(&with_environment(file, pairs)), Some(url));
        check_warnings(&format!("{environment}{file}"), pairs, &[unused]);
    };
    check("[Redis]\nurl = redis://file", &[link], "redis://file");
    check("[Redis]\nhost = file\nport = 1", &[link], "redis://file:1");
    check("", &[("USE_REDIS", "1"), ("REDIS_URL", "redis://env"), link], "redis://env");
}

#[test]
fn a_port_alone_does_not_change_a_url() {
    check_problems(
        "[Environment \"e\"]\nsdkKey = s\n[Redis]\nurl = redis://h",
        &[("REDIS_PORT", "2")],
        &["REDIS_PORT: cannot change the url in the file"],
    );
}

#[test]
fn variables_of_a_database_in_the_file_count() {
    let config = with_environment("[Consul]\nhost = c:8500", &[("CONSUL_TOKEN", "t")]);
    let Some(Database::Consul(consul)) = config.database else { panic!("Consul is on") };
    assert_eq!(consul.token.unwrap().value.expose(), "t");
    let config = with_environment("[Redis]\nhost = h", &[("REDIS_PASSWORD", "p")]);
    let Some(Database::Redis(redis)) = config.database else { panic!("Redis is on") };
    assert_eq!(redis.password.unwrap().value.expose(), "p");
}

#[test]
fn switching_consul_on_keeps_its_host() {
    let host = |file: &str, pairs: &[(&str, &str)]| match with_environment(file, pairs).database {
        Some(Database::Consul(consul)) => consul.address.to_string(),
        other => panic!("{other:?}"),
    };
    let on = ("USE_CONSUL", "1");
    assert_eq!(host("[Consul]\nhost = c:1", &[on]), "http://c:1/");
    assert_eq!(host("[Consul]\nhost = c:1", &[on, ("CONSUL_HOST", "d:2")]), "http://d:2/");
    assert_eq!(host("[Consul]\nhost = c:1", &[("CONSUL_HOST", "d:2")]), "http://d:2/");
    assert_eq!(host("[Consul]\nhost = c:1", &[("CONSUL_HOST", "")]), "http://c:1/");
    assert_eq!(host("", &[on]), "http://localhost:8500/");
}

#[test]
fn variables_switch_a_database_on_by_its_switch_only() {
    let pairs = [
        ("REDIS_URL", "not looked at"),
        ("REDIS_PORT", "neither"),
        ("REDIS_CONNECT_TIMEOUT", "neither"),
        ("CONSUL_HOST", "c"),
        ("DYNAMODB_TABLE", "t"),
        ("CACHE_TTL", "neither"),
        ("REDIS_TTL", "neither"),
    ];
    assert_eq!(with_environment("", &pairs).database, None);
    let file = "[Environment \"e\"]\nsdkKey = s";
    check_warnings(
        file,
        &pairs,
        &[
            "CONSUL_HOST: has no effect without USE_CONSUL=true",
            "DYNAMODB_TABLE: has no effect without USE_DYNAMODB=true",
            "REDIS_URL: has no effect without USE_REDIS=true",
        ],
    );
    let off = [("USE_REDIS", "no"), ("USE_CONSUL", "0"), ("USE_DYNAMODB", "false")];
    check_warnings(file, &[&pairs[..], &off].concat(), &[]);
    assert_eq!(
        redis_url(&with_environment("", &[("USE_REDIS", "1")])),
        Some("redis://localhost:6379")
    );
}

#[test]
fn a_switch_that_is_off_does_not_undo_the_file() {
    let config = with_environment("[Redis]\nhost = h", &[("USE_REDIS", "false")]);
    assert_eq!(redis_url(&config), Some("redis://h:6379"));
    let file = "[Environment \"e\"]\nsdkKey = s\nprefix = p\n";
    check_warnings(
        &format!("{file}[Redis]\nhost = h"),
        &[("USE_REDIS", "false")],
        &["USE_REDIS: has no effect, because the file configures Redis"],
    );
    check_warnings(
        &format!("{file}[Consul]\nhost = h:1"),
        &[("USE_CONSUL", "false")],
        &["USE_CONSUL: has no effect, because the file sets [Consul] host"],
    );
    // DynamoDB's switch is one option with two names.
    let config = with_environment("[DynamoDB]\nenabled", &[("USE_DYNAMODB", "false")]);
    assert_eq!(config.database, None);
}

#[test]
fn the_client_side_base_follows_a_base_from_either_place() {
    let client_side = |file: &str, pairs: &[(&str, &str)]| {
        with_environment(file, pairs).main.client_side_base_uri.to_string()
    };
    let public = "https://clientsdk.launchdarkly.com/";
    assert_eq!(client_side("", &[]), public);
    assert_eq!(client_side("", &[("BASE_URI", "http://own")]), "http://own/");
    assert_eq!(client_side("[Main]\nport = 1", &[("BASE_URI", "http://own")]), "http://own/");
    assert_eq!(client_side("[Main]\nbaseUri = http://own", &[]), "http://own/");
    assert_eq!(client_side("[Main]\nbaseUri = https://app.launchdarkly.com", &[]), public);
    assert_eq!(client_side("[Main]\nbaseUri = https://sdk.launchdarkly.com", &[]), public);
    let both = [("BASE_URI", "http://own"), ("CLIENT_SIDE_BASE_URI", "http://other")];
    assert_eq!(client_side("", &both), "http://other/");
}

#[test]
fn lists_are_joined() {
    let file = "[Environment \"e\"]\nsdkKey = s\nallowedOrigin = a,b\nallowedOrigin = c\n\
                [Proxy]\ncaCertFiles = 1.pem";
    let pairs = [("LD_ALLOWED_ORIGIN_e", "d,e"), ("PROXY_CA_CERTS", "2.pem,3.pem")];
    let config = good(file, &pairs);
    assert_eq!(config.environments["e"].allowed_origins, ["a", "b", "c", "d", "e"]);
    let files: Vec<PathBuf> = ["1.pem", "2.pem", "3.pem"].map(PathBuf::from).to_vec();
    assert_eq!(config.proxy.ca_cert_files, files);
    let config = good(file, &[("LD_ALLOWED_ORIGIN_e", "")]);
    assert_eq!(config.environments["e"].allowed_origins, ["a", "b", "c"]);
}

#[test]
fn a_variable_counts_before_the_file_and_an_empty_one_unsets() {
    let file = "[Main]\ninitTimeout = 1s\nport = 1\nlogLevel = warn\nexitAlways = true\n\
                tlsCert = c\n";
    let main = with_environment(file, &[("INIT_TIMEOUT", "2s"), ("PORT", "2")]).main;
    assert_eq!((main.init_timeout, main.port), (Duration::from_secs(2), 2));
    let empty = ["INIT_TIMEOUT", "PORT", "LOG_LEVEL", "EXIT_ALWAYS"].map(|name| (name, ""));
    let main = with_environment(file, &empty).main;
    assert_eq!((main.init_timeout, main.port), (Duration::from_secs(10), 8030));
    assert_eq!(main.log_level, LogLevel::Info);
    assert!(main.exit_always, "an empty boolean changes nothing");
    let file = "[AutoConfig]\nkey = rel-1\n";
    let config = with_environment(file, &[("AUTO_CONFIG_KEY", "")]);
    assert_eq!(config.autoconfig.key, None);
}

#[test]
fn the_later_of_two_scalars_in_the_file_counts_and_both_are_judged() {
    let config = with_environment("[Main]\nport = 1\n[main]\nPORT = 2", &[]);
    assert_eq!(config.main.port, 2);
    let config = with_environment("[Main]\nport = 1\nport =", &[]);
    assert_eq!(config.main.port, 8030);
    check_problems(
        "[Environment \"e\"]\nsdkKey = s\n[Main]\nport = x\nport = 2",
        &[("PORT", "y")],
        &["/c.conf:4: [Main] port: \"x\" is not a port", "PORT: \"y\" is not a port"],
    );
}

#[test]
fn variables_count_only_if_they_are_asked_for() {
    let files = Memory::default().with("/c.conf", "[Environment \"e\"]\nsdkKey = s");
    let file = Some(ConfigFile { path: "/c.conf".into(), may_be_missing: false });
    let pairs = variables(&[
        ("PORT", "nonsense"),
        ("LD_ENV_x", "sdk-x"),
        ("AUTO_CONFIG_KEY", "rel-1"),
        ("LOG_FORMAT", "JSON"),
        ("HTTPS_PROXY", "https://u:p@proxy:1"),
    ]);
    let source = ConfigSource { file, from_env: false };
    let loaded = load(&source, &pairs, &files).unwrap();
    assert!(loaded.warnings.is_empty());
    assert_eq!(loaded.config.main.port, 8030);
    assert_eq!(loaded.config.environments.len(), 1);
    assert_eq!(loaded.config.autoconfig.key, None);
    assert_eq!(loaded.config.main.log_format, LogFormat::Json, "read in any case");
    let proxies = loaded.config.proxy.from_variables;
    assert_eq!(proxies.https.unwrap().expose(), "https://u:p@proxy:1", "read in any case");
}

#[test]
fn without_a_file_the_variables_are_enough() {
    let source = ConfigSource { file: None, from_env: true };
    let pairs = variables(&[("LD_ENV_x", "sdk-x"), ("PORT", "1")]);
    let config = load(&source, &pairs, &Memory::default()).unwrap().config;
    assert_eq!(config.main.port, 1);
}

#[test]
fn a_missing_file_is_a_problem_unless_it_may_be_missing() {
    let file = |may_be_missing| Some(ConfigFile { path: "/no.conf".into(), may_be_missing });
    let pairs = variables(&[("LD_ENV_x", "sdk-x")]);
    let from = |may_be_missing, from_env| {
        let source = ConfigSource { file: file(may_be_missing), from_env };
        load(&source, &pairs, &Memory::default()).map(|_| ()).map_err(|it| it.to_string())
    };
    assert_eq!(from(true, true), Ok(()));
    assert!(from(false, true).unwrap_err().starts_with("/no.conf: cannot be read: "));
    assert!(from(true, false).unwrap_err().starts_with("configuration: there is nothing to serve"));
    assert_eq!(from(false, false).unwrap_err().lines().count(), 1, "and nothing else is missing");
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_text_is_named() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    struct Odd;
    impl Variables for Odd {
        fn get(&self, name: &str) -> Option<OsString> {
            (name == "PORT").then(|| OsString::from_vec(vec![0xff]))
        }
        fn names(&self) -> Vec<String> {
            vec!["PORT".to_owned()]
        }
    }
    let files = Memory::default().with("/c.conf", "[Environment \"e\"]\nsdkKey = s");
    let file = Some(ConfigFile { path: "/c.conf".into(), may_be_missing: false });
    let problems = load(&ConfigSource { file, from_env: true }, &Odd, &files).unwrap_err();
    assert_eq!(problems.to_string(), "PORT: is not UTF-8 text");
}

#[test]
fn docker_links_set_host_and_port() {
    let pairs = [("USE_REDIS", "true"), ("REDIS_PORT", "tcp://172.17.0.2:6380")];
    assert_eq!(redis_url(&with_environment("", &pairs)), Some("redis://172.17.0.2:6380"));
}
