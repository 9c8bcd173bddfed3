//! `[Redis]`: address, mode, TLS.

use super::*;
use crate::config::sections::database::ClientCertificate;

fn redis(file: &str, pairs: &[(&str, &str)]) -> RedisConfig {
    match with_environment(&format!("[Redis]\n{file}"), pairs).database {
        Some(Database::Redis(redis)) => redis,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn check_redis_problems(file: &str, pairs: &[(&str, &str)], expected: &[&str]) {
    let file = format!("[Redis]\n{file}\n[Environment \"e\"]\nsdkKey = s\nprefix = p\n");
    check_problems(&file, pairs, expected);
}

#[test]
fn one_server() {
    let check = |file: &str, url: &str| {
        let servers = redis(file, &[]).servers;
        assert_eq!(
            servers,
            RedisServers::Standalone(crate::model::RedactedUrl::new(url)),
            "{file}"
        );
    };
    check("host = h", "redis://h:6379");
    check("port = 1", "redis://localhost:1");
    check("host = ::1", "redis://[::1]:6379");
    check("url = redis://u:p@h:1/2", "redis://u:p@h:1/2");
    check("url = redis://h\ntls", "rediss://h");
    check("host = h\ntls = yes", "rediss://h:6379");
    check("url = valkey://h\nmode = standalone", "valkey://h");
}

#[test]
fn every_option_arrives() {
    let file = "url = rediss://h\nusername = u\npassword = \"p#w\"\nlocalTtl = 0\n\
                caFile = ca\nclientCertificateFile = cert\nclientKeyFile = key\natomicUpsert\n\
                connectTimeout = 1s\nreadTimeout = 2s\nawsAuth\nawsCacheName = My-Cache\n\
                healthCheckInterval = 0";
    let pairs = [
        ("USE_REDIS", "1"),
        ("REDIS_URL", "rediss://h"),
        ("REDIS_USERNAME", "u"),
        ("REDIS_PASSWORD", "p#w"),
        ("CACHE_TTL", "0"),
        ("REDIS_CA_FILE", "ca"),
        ("REDIS_CLIENT_CERT_FILE", "cert"),
        ("REDIS_CLIENT_KEY_FILE", "key"),
        ("REDIS_ATOMIC_UPSERT", "1"),
        ("REDIS_CONNECT_TIMEOUT", "1s"),
        ("REDIS_READ_TIMEOUT", "2s"),
        ("REDIS_AWS_AUTH", "1"),
        ("REDIS_AWS_CACHE_NAME", "My-Cache"),
        ("REDIS_HEALTH_CHECK_INTERVAL", "0"),
    ];
    let expected = redis(file, &[]);
    assert_eq!(redis("", &pairs), expected);
    assert_eq!(expected.username.as_deref(), Some("u"));
    assert_eq!(expected.password.unwrap().value.expose(), "p#w");
    assert_eq!(expected.local_ttl, LocalTtl::Off);
    let certificate = ClientCertificate { certificate_file: "cert".into(), key_file: "key".into() };
    let tls = DatabaseTls { ca_file: Some("ca".into()), client_certificate: Some(certificate) };
    assert_eq!(expected.tls, tls);
    let by_file = loaded_with_environment(&format!("[Redis]\n{file}"), &[]).shown;
    for shown in [by_file, loaded_with_environment("", &pairs).shown] {
        assert_eq!(shown.get("Redis", "atomicUpsert"), Some("true"));
        assert_eq!(shown.get("Redis", "awsAuth"), Some("true"));
        assert_eq!(shown.get("Redis", "awsCacheName"), Some("my-cache"));
    }
    assert_eq!(expected.connect_timeout, Some(std::time::Duration::from_secs(1)));
    assert_eq!(expected.read_timeout, Some(std::time::Duration::from_secs(2)));
    assert_eq!(expected.health_check_interval, None);
}

#[test]
fn a_url_excludes_host_and_port_in_the_same_place() {
    let both = "is set together with host or port; set only one of them";
    check_redis_problems(
        "url = redis://h\nhost = h",
        &[],
        &[&format!("/c.conf:2: [Redis] url: {both}")],
    );
    check_redis_problems(
        "url = redis://h\nport = 1",
        &[],
        &[&format!("/c.conf:2: [Redis] url: {both}")],
    );
    let pairs = [("USE_REDIS", "1"), ("REDIS_URL", "redis://h"), ("REDIS_HOST", "h")];
    check_redis_problems("", &pairs, &[&format!("REDIS_URL: {both}")]);
}

#[test]
fn addresses_that_are_none_are_named_without_their_text() {
    check_redis_problems(
        "url = redis://:secret@\npassword = p",
        &[],
        &["/c.conf:2: [Redis] url: is a URL without a valid host and port; allowed: an address"],
    );
    check_redis_problems(
        "host = h:1",
        &[],
        &["/c.conf:2: [Redis] host: is not the name or address"],
    );
    let pairs = [("USE_REDIS", "1"), ("REDIS_PORT", "tcp://x")];
    check_redis_problems("", &pairs, &["REDIS_PORT: \"tcp://x\" is not a port"]);
}

#[test]
fn sentinels_and_clusters() {
    let urls = |servers: &RedisServers| -> Vec<String> {
        servers.urls().iter().map(|url| url.expose().to_owned()).collect()
    };
    let file = "mode = Sentinel\nsentinelMaster = m\nurls = redis://a:1, redis://b:2\ntls";
    let servers = redis(file, &[]).servers;
    assert!(matches!(&servers, RedisServers::Sentinel { master, .. } if master == "m"));
    assert_eq!(urls(&servers), ["rediss://a:1", "rediss://b:2"]);
    assert!(servers.use_tls());
    let pairs = [
        ("USE_REDIS", "1"),
        ("REDIS_MODE", "sentinel"),
        ("REDIS_SENTINEL_MASTER", "m"),
        ("REDIS_URLS", "rediss://a:1,rediss://b:2"),
    ];
    assert_eq!(redis("", &pairs).servers, servers);
    for file in ["mode = cluster\nurls = redis://a,redis://b", "mode = cluster\nurl = redis://a"] {
        let servers = redis(file, &[]).servers;
        assert!(matches!(servers, RedisServers::Cluster(_)));
        assert_eq!(urls(&servers)[0], "redis://a");
        assert!(!servers.use_tls());
    }
}

#[test]
fn each_mode_has_its_own_addresses() {
    check_redis_problems("mode = ring", &[], &["/c.conf:2: [Redis] mode: \"ring\" is not a mode"]);
    check_redis_problems(
        "urls = redis://a\nsentinelMaster = m",
        &[],
        &[
            "/c.conf:2: [Redis] urls: is set, but the mode is standalone; allowed: mode =",
            "/c.conf:3: [Redis] sentinelMaster: is set, but the mode is standalone",
        ],
    );
    check_redis_problems(
        "mode = sentinel\nurl = redis://h",
        &[],
        &[
            "/c.conf:3: [Redis] url: is set, but the mode is sentinel; allowed: urls",
            "[Redis] sentinelMaster (REDIS_SENTINEL_MASTER): is missing, although",
            "[Redis] urls (REDIS_URLS): is missing, although the mode is sentinel",
        ],
    );
    check_redis_problems(
        "mode = cluster\nurls = redis://a\nhost = h",
        &[],
        &["/c.conf:3: [Redis] urls: is set together with url, host or port"],
    );
    check_redis_problems("mode = cluster", &[], &["[Redis] urls (REDIS_URLS): is missing"]);
    check_redis_problems(
        "mode = cluster\nurls = redis://a,b:1",
        &[],
        &["/c.conf:3: [Redis] urls: item 2 of the list is not an absolute URL"],
    );
}

#[test]
fn a_client_certificate_needs_its_key() {
    let tls = "url = rediss://h\n";
    check_redis_problems(
        &format!("{tls}clientCertificateFile = c"),
        &[],
        &["[Redis] clientKeyFile (REDIS_CLIENT_KEY_FILE): is missing, although there is a cert"],
    );
    check_redis_problems(
        &format!("{tls}clientKeyFile = k"),
        &[],
        &["[Redis] clientCertificateFile (REDIS_CLIENT_CERTIFICATE_FILE): is missing, although"],
    );
}

#[test]
fn the_certificates_variable_has_two_names() {
    let file = "url = rediss://h\nclientKeyFile = k";
    let of = |pairs: &[(&str, &str)]| {
        let certificate = redis(file, pairs).tls.client_certificate.unwrap();
        certificate.certificate_file.display().to_string()
    };
    let (new, old) = ("REDIS_CLIENT_CERTIFICATE_FILE", "REDIS_CLIENT_CERT_FILE");
    assert_eq!(of(&[(new, "a")]), "a");
    assert_eq!(of(&[(old, "a")]), "a");
    assert_eq!(of(&[(new, "a"), (old, "a")]), "a");
    check_redis_problems(
        file,
        &[(new, "a"), (old, "b")],
        &["REDIS_CLIENT_CERT_FILE: differs from [Redis] clientCertificateFile"],
    );
}

#[test]
fn certificates_without_tls_are_idle() {
    let file = "[Environment \"e\"]\nsdkKey = s\nprefix = p\n[Redis]\nhost = h\ncaFile = c\n\
                clientCertificateFile = a\nclientKeyFile = k";
    check_warnings(
        file,
        &[],
        &[
            "/c.conf:6: [Redis] caFile: has no effect, because the connection does not use TLS",
            "/c.conf:7: [Redis] clientCertificateFile: has no effect",
            "/c.conf:8: [Redis] clientKeyFile: has no effect",
        ],
    );
    assert_eq!(redis("host = h\ncaFile = c", &[]).tls, DatabaseTls::default());
}

#[test]
fn a_retired_variable_is_a_problem_where_redis_is_on() {
    check_redis_problems(
        "host = h",
        &[("REDIS_TTL", "30000")],
        &["REDIS_TTL: ld-relay 6 removed this variable; use CACHE_TTL"],
    );
    redis("host = h", &[("REDIS_TTL", "")]);
    with_environment("", &[("REDIS_TTL", "30000")]);
}

#[test]
fn an_unusable_address_leaves_the_other_options_known() {
    check_redis_problems(
        "url = x\nusername = u\nlocalTtl = 1s\nhealthCheckInterval = 1s\nawsAuth\natomicUpsert",
        &[],
        &["/c.conf:2: [Redis] url: is not an absolute URL"],
    );
}

#[test]
fn a_container_link_is_named_where_it_displaces_the_host() {
    let file = "[Environment \"e\"]\nsdkKey = s\nprefix = p\n";
    let link = ("REDIS_PORT", "tcp://10.0.0.1:6380");
    let pairs = [("USE_REDIS", "1"), ("REDIS_HOST", "cache"), link];
    let used = "REDIS_PORT: is a container link and takes precedence over REDIS_HOST";
    check_warnings(file, &pairs, &[used]);
    let url = |servers: RedisServers| servers.urls()[0].expose().to_owned();
    assert_eq!(url(redis("", &pairs).servers), "redis://10.0.0.1:6380");
    // It also replaces the file's address, which REDIS_HOST replaces.
    assert_eq!(url(redis("url = redis://h", &pairs).servers), "redis://10.0.0.1:6380");
    let number = [("USE_REDIS", "1"), ("REDIS_HOST", "cache"), ("REDIS_PORT", "6380")];
    check_warnings(file, &number, &[]);
    let ignored = "REDIS_PORT: is a container link and is ignored, because an address is";
    check_warnings(&format!("{file}[Redis]\nhost = h"), &[link], &[ignored]);
    check_warnings(file, &[("USE_REDIS", "1"), ("REDIS_URL", "redis://h"), link], &[ignored]);
}

#[test]
fn tls_of_a_socket_is_warned_of() {
    let check = |file: &str, pairs: &[(&str, &str)], expected: &[&str]| {
        let file = format!("{file}\n[Environment \"e\"]\nsdkKey = s\nprefix = p\n");
        check_warnings(&file, pairs, expected);
    };
    let what = "has no effect, because a Unix socket does not use TLS";
    let by_variable = [("USE_REDIS", "1"), ("REDIS_TLS", "1"), ("REDIS_URL", "unix:///r.sock")];
    check("", &by_variable, &[&format!("REDIS_TLS: {what}")]);
    let by_file = "[Redis]\nurl = redis+unix:///r.sock\ntls";
    check(by_file, &[], &[&format!("/c.conf:3: [Redis] tls: {what}")]);
    check("[Redis]\nurl = unix:///r.sock", &[], &[]);
    check("[Redis]\nhost = h\ntls", &[], &[]);
}
