use proptest::prelude::*;

use super::*;

const SECOND: i64 = 1_000_000_000;

#[test]
fn durations_follow_gos_grammar() {
    let check = |text: &str, nanos: i64| assert_eq!(signed_duration(text), Ok(nanos), "{text}");
    check("0", 0);
    check("+0", 0);
    check("-0", 0);
    check("0s", 0);
    check("10s", 10 * SECOND);
    check("3m", 180 * SECOND);
    check("1h", 3600 * SECOND);
    check("1m30s", 90 * SECOND);
    check("1h0m0.5s", 3600 * SECOND + SECOND / 2);
    check("1.5h", 5400 * SECOND);
    check(".5s", SECOND / 2);
    check("5.s", 5 * SECOND);
    check("100ms", SECOND / 10);
    check("2us", 2_000);
    check("2µs", 2_000);
    check("2μs", 2_000);
    check("7ns", 7);
    check("-1s", -SECOND);
    check("+1s", SECOND);
    check("0.3333333333333333333333h", 1_199_999_999_999);
    check("9223372036854775807ns", i64::MAX);
}

#[test]
fn what_go_refuses_is_no_duration() {
    for text in [
        "30",
        "s",
        "1",
        "-",
        "+",
        ".",
        ".s",
        "1x",
        "1 s",
        " 1s",
        "1s ",
        "1s2",
        "1d",
        "1S",
        "--1s",
        "1.2.3s",
        "0x1s",
        "1_000s",
        "9223372036854775808ns",
        "3000000h",
        "١s",
        "1e3s",
        "soon",
    ] {
        let invalid = signed_duration(text).expect_err(text);
        assert_eq!(invalid.what, format!("{text:?} is not a duration"));
    }
}

#[test]
fn signs_of_durations_mean_what_the_option_says() {
    let seconds = Duration::from_secs;
    assert_eq!(duration("2s"), Ok(seconds(2)));
    assert_eq!(duration("0"), Ok(Duration::ZERO));
    assert_eq!(duration("-2s").unwrap_err().what, "\"-2s\" is negative");
    assert_eq!(duration_or_off("2s"), Ok(Some(seconds(2))));
    assert_eq!(duration_or_off("0"), Ok(None));
    assert_eq!(duration_or_off("-2s"), Ok(None));
    assert_eq!(duration_from_zero("-2s"), Ok(Duration::ZERO));
    assert_eq!(local_ttl("2s"), Ok(LocalTtl::For(seconds(2))));
    assert_eq!(local_ttl("0s"), Ok(LocalTtl::Off));
    assert_eq!(local_ttl("-1ns"), Ok(LocalTtl::Never));
    for (ttl, expected) in [("90s", "1m30s"), ("0", "1s, the shortest possible time")] {
        assert_eq!(local_ttl(ttl).unwrap().to_string(), expected);
    }
    assert_eq!(interval_of_100ms("100ms"), Ok(Duration::from_millis(100)));
    for text in ["99ms", "0", "-1s"] {
        assert_eq!(
            interval_of_100ms(text).unwrap_err().allowed.as_deref(),
            Some("100ms or more"),
            "{text}"
        );
    }
}

#[test]
fn sizes_are_binary_in_both_spellings() {
    let check = |text: &str, bytes: u64| assert_eq!(byte_size(text), Ok(bytes), "{text}");
    check("1B", 1);
    check("5MiB", 5 << 20);
    check("5MB", 5 << 20);
    check("1KB", 1024);
    check("1GiB512MiB", 1536 << 20);
    check("1.5KiB", 1536);
    check("+1KiB", 1024);
    check("1TiB", 1 << 40);
    check("1PB", 1 << 50);
    check("1EiB", 1 << 60);
    for text in ["5", "5kB", "5mib", "1MiB1MB", "MiB", "5 MiB", "9EiB", "lots"] {
        assert!(byte_size(text).unwrap_err().what.ends_with("is not a size in bytes"), "{text}");
    }
    for text in ["0", "0B", "-1KiB"] {
        assert!(byte_size(text).unwrap_err().what.ends_with("is not above zero"), "{text}");
    }
}

#[test]
fn booleans_have_fewer_words_in_variables() {
    for (text, expected) in [
        ("true", true),
        ("TRUE", true),
        ("Yes", true),
        ("1", true),
        ("false", false),
        ("No", false),
        ("0", false),
    ] {
        assert_eq!(boolean_in_file(text), Ok(expected), "{text}");
        assert_eq!(boolean_in_variable(text), Ok(expected), "{text}");
    }
    assert_eq!(boolean_in_file("On"), Ok(true));
    assert_eq!(boolean_in_file("off"), Ok(false));
    for text in ["on", "off", "t", "y", "2", " true", "maybe"] {
        assert!(boolean_in_variable(text).unwrap_err().what.ends_with("is not a boolean"));
    }
    assert!(boolean_in_file("t").is_err());
}

#[test]
fn whole_numbers() {
    assert_eq!(integer("-5"), Ok(-5));
    assert_eq!(integer("+5"), Ok(5));
    assert!(integer("5.0").is_err());
    assert!(integer("0x10").is_err());
    assert_eq!(integer_or_hex("0x10"), Ok(16));
    assert_eq!(integer_or_hex("10"), Ok(10));
    assert!(integer_or_hex("0x-1").is_err());
    assert!(integer_or_hex("0xg").is_err());
    assert_eq!(positive("1"), Ok(1));
    for text in ["0", "-1", "x", "99999999999999999999"] {
        assert!(positive(text).is_err(), "{text}");
    }
    assert_eq!(port("65535"), Ok(65535));
    for text in ["0", "65536", "70000", "-1", "http", "80 "] {
        assert_eq!(
            port(text).unwrap_err().allowed.as_deref(),
            Some("a number from 1 to 65535"),
            "{text}"
        );
    }
}

#[test]
fn words() {
    assert_eq!(word("WARN"), Ok(LogLevel::Warn));
    assert_eq!(word("none"), Ok(LogLevel::None));
    assert!(word::<LogLevel>("warning").is_err());
    assert_eq!(as_word(word::<TlsVersion>("1.2").unwrap()), "1.2");
    assert!(word::<TlsVersion>("1.4").is_err());
    assert!(word::<TlsVersion>("TLS1.2").is_err());
    assert_eq!(ip_address("[::1]"), Ok("::1".parse().unwrap()));
    assert_eq!(ip_address("127.0.0.1"), Ok("127.0.0.1".parse().unwrap()));
    assert!(ip_address("localhost").is_err());
    for text in ["127.0.0.1", "0.0.0.0", "::", "::1", "192.0.2.7", "[fe80::1]"] {
        assert_eq!(bind_address(text), ip_address(text), "{text}");
    }
    for text in ["224.0.0.1", "239.1.2.3", "255.255.255.255", "ff02::1", "::ffff:224.0.0.1", "x"] {
        assert!(bind_address(text).is_err(), "{text}");
    }
    assert_eq!(trimmed_text("  "), None);
    assert_eq!(trimmed_text(" a "), Some("a".to_owned()));
}

#[test]
fn http_urls_name_a_host() {
    let check = |text: &str, expected: &str| {
        assert_eq!(http_url(text).map(|url| url.to_string()), Ok(expected.to_owned()));
    };
    check("https://stream.launchdarkly.com", "https://stream.launchdarkly.com/");
    check("HTTP://localhost:8030/base/path", "http://localhost:8030/base/path");
    check("http://[::1]:80", "http://[::1]:80/");
    for text in [
        "localhost:8030",
        "stream.launchdarkly.com",
        "ftp://x",
        "http://",
        "http:///path",
        "http://:80",
        "http://h:x",
        "http://h:",
        "http://h:99999",
        "http://h:+80",
        "http://a b",
        "http://user:secret@h",
        "http://[::1",
        "http://[::1]x",
        "://h",
    ] {
        let invalid = http_url(text).expect_err(text);
        assert!(!invalid.what.contains("secret"));
        assert_eq!(invalid.allowed.as_deref(), Some(urls::HTTP_URLS));
    }
}

#[test]
fn redis_urls_keep_their_password_to_themselves() {
    let check = |text: &str, expected: &str| {
        assert_eq!(redis_url(text).map(|url| url.expose().to_owned()), Ok(expected.to_owned()));
    };
    check("redis://localhost:6379", "redis://localhost:6379");
    check("Rediss://u:p@h/2", "rediss://u:p@h/2");
    check("valkey://:p@ss@h:1", "valkey://:p@ss@h:1");
    check("unix:///run/redis.sock", "unix:///run/redis.sock");
    for text in [
        "localhost:6379",
        "http://h",
        "redis://",
        "redis://:secret@",
        "redis://u:secret@h:x",
        "redis://u:1/sec@h",
        "redis://u:1?sec@h",
        "unix:///s?pass=sec",
        "redis://u:sec ret@h",
        "unix://run",
        "unix:///a b",
    ] {
        let invalid = redis_url(text).expect_err(text);
        assert!(!invalid.what.contains("sec"), "{}", invalid.what);
    }
}

#[test]
fn proxy_urls_name_their_kind() {
    assert_eq!(proxy_url("http://u:p@proxy:3128").unwrap().redacted(), "http://u:xxxxx@proxy:3128");
    for socks in ["socks5://proxy", "SOCKS5h://user:secret@proxy:1080", "socks4://proxy"] {
        let invalid = proxy_url(socks).unwrap_err();
        assert_eq!(invalid.what, "is a SOCKS proxy, which is not implemented yet", "{socks}");
    }
    assert!(proxy_url("proxy:3128").is_err());
    assert!(proxy_url("ftp://proxy").is_err());
    assert!(proxy_url("http://u:1#p@proxy").is_err());
}

#[test]
fn hosts() {
    let check = |text: &str, expected: Option<&str>| {
        assert_eq!(host_name(text).ok().as_deref(), expected, "{text}");
    };
    check("cache", Some("cache"));
    check("::1", Some("[::1]"));
    check("[::1]", Some("[::1]"));
    check("cache:6379", None);
    check("[::1]:6379", None);
    check("redis://cache", None);
    check("user@cache", None);
    check("a b", None);
}

#[test]
fn ports_and_links() {
    let of = |text| port_or_link(text).map(|it| (it.host, it.port));
    assert_eq!(of("6380"), Ok((None, 6380)));
    assert_eq!(of("tcp://10.0.0.1:6379"), Ok((Some("10.0.0.1".to_owned()), 6379)));
    for text in ["tcp://10.0.0.1", "tcp://:1", "tcp://h:x", "udp://h:1", "0", "x"] {
        assert!(port_or_link(text).is_err(), "{text}");
    }
}

#[test]
fn long_values_are_cut_in_messages() {
    let long = "é".repeat(100);
    assert_eq!(quoted(&long), format!("{:?}…", "é".repeat(60)));
    assert_eq!(quoted("a\nb\""), r#""a\nb\"""#);
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = (signed_duration(&text), byte_size(&text), http_url(&text), redis_url(&text));
        let _ = (proxy_url(&text), ip_address(&text), integer_or_hex(&text), quoted(&text));
    }

    #[test]
    fn no_likely_text_panics(text in "[-+]?([0-9]{0,25}\\.?[0-9]{0,25}(ns|us|h|B|EiB|µ)?){0,4}") {
        let _ = (signed_duration(&text), byte_size(&text));
    }

    #[test]
    fn a_sum_of_parts_is_their_sum(hours in 0i64..1000, minutes in 0i64..1000, ms in 0i64..100_000) {
        let nanos = (hours * 3600 + minutes * 60) * SECOND + ms * 1_000_000;
        prop_assert_eq!(signed_duration(&format!("{hours}h{minutes}m{ms}ms")), Ok(nanos));
    }
}
