//! Client-side SDKs: values for a context, pings, CORS, secure mode, and what is refused.

use std::sync::Arc;
use std::time::Duration;

use pilotlight::testing::demo::fake_launchdarkly::FakeLaunchDarkly;
use pilotlight::testing::demo::representations::EnvironmentRep;
use pilotlight::testing::model::{Item, ItemKey, ItemKind};
use pilotlight_test_kit::relay::Response;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::fixture::{
    CONTEXT, ENVIRONMENT_ID, MOBILE_KEY, SDK_KEY, Site, autoconfig_settings, check_text,
    large_flag, launchdarkly,
};
use super::raw::{Ending, RawStream, get};

const WEB: &str = r#""web":{"value":true,"variation":0,"version":4}"#;
const APP: &str = r#""app":{"value":null,"variation":null,"version":2}"#;
const SPACED: &str = r#""a b":{"value":null,"variation":null,"version":1}"#;
const USER: &str = r#"{"kind":"user","key":"user-1"}"#;
const PING: &str = "event: ping\ndata:  \n\n";

fn values(members: &[&str]) -> String {
    format!("{{{}}}", members.join(","))
}

/// A request with its credential, as `REPORT /msdk/evalx/user`.
async fn ask(site: &Site, request: &str, body: &str, more: &[(&str, &str)]) -> Response {
    let (method, path) = request.split_once(' ').unwrap();
    let key = if path.starts_with("/m") { MOBILE_KEY } else { SDK_KEY };
    let mut headers = vec![("authorization", key)];
    if method == "REPORT" {
        headers.push(("content-type", "application/json"));
    }
    headers.extend(more);
    site.relay.request(method, path, &headers, body.as_bytes()).await
}

#[track_caller]
fn check_json(response: &Response, status: u16, body: Option<&str>) {
    assert_eq!(response.status, status, "{}", response.text());
    assert_eq!(response.header("content-type"), Some("application/json"));
    match body {
        Some(body) => assert_eq!(response.text(), body),
        None => assert!(
            serde_json::from_slice::<Value>(&response.body).unwrap()["message"].is_string(),
            "{}",
            response.text()
        ),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_client_gets_the_values_that_it_may_see() {
    let site = Site::manual().await;
    let id = ENVIRONMENT_ID;
    let by_server = values(&[SPACED, APP, WEB]);
    let by_phone = values(&[SPACED, APP]);
    let by_page = values(&[WEB]);
    for name in ["context", "user"] {
        for (request, expected) in [
            (format!("GET /sdk/evalx/{name}s/{CONTEXT}"), &by_server),
            (format!("REPORT /sdk/evalx/{name}"), &by_server),
            (format!("GET /msdk/evalx/{name}s/{CONTEXT}"), &by_phone),
            (format!("REPORT /msdk/evalx/{name}"), &by_phone),
            (format!("GET /sdk/evalx/{id}/{name}s/{CONTEXT}"), &by_page),
            (format!("REPORT /sdk/evalx/{id}/{name}"), &by_page),
            (format!("REPORT /sdk/evalx/{id}/{name}s"), &by_page),
        ] {
            let response = ask(&site, &request, USER, &[]).await;
            check_json(&response, 200, Some(expected));
            assert_eq!(response.header("x-ld-envid"), Some(id), "{request}");
            let is_page = expected == &by_page;
            let origin = response.header("access-control-allow-origin");
            assert_eq!(origin, is_page.then_some("*"), "{request}");
            for header in ["etag", "cache-control"] {
                assert_eq!(response.header(header), None, "{request}");
            }
        }
    }
    let padded = format!("GET /sdk/evalx/users/{CONTEXT}%3D%3D");
    assert_eq!(ask(&site, &padded, "", &[]).await.status, 400, "that is too much padding");
    let old = "eyJrZXkiOiJ1In0=";
    let response = ask(&site, &format!("GET /sdk/evalx/users/{old}"), "", &[]).await;
    check_json(&response, 200, Some(&by_server));
    let empty = "eyJrZXkiOiIifQ==";
    let response = ask(&site, &format!("GET /sdk/evalx/users/{empty}"), "", &[]).await;
    check_json(&response, 400, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn reasons_are_given_to_those_who_ask() {
    let site = Site::manual().await;
    let path = format!("GET /sdk/evalx/{ENVIRONMENT_ID}/contexts/{CONTEXT}");
    for (query, has_reason) in
        [("?withReasons=true", true), ("?withReasons=1", false), ("?withReasons=True", false)]
    {
        let origin = [("origin", "https://a.example")];
        let response = ask(&site, &format!("{path}{query}"), "", &origin).await;
        assert_eq!(response.header("access-control-allow-origin"), Some("https://a.example"));
        let answer: Value = serde_json::from_slice(&response.body).unwrap();
        let expected = if has_reason { json!({"kind": "FALLTHROUGH"}) } else { Value::Null };
        assert_eq!(answer["web"]["reason"], expected, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_context_is_refused_with_a_text() {
    let site = Site::manual_with(|it| it.with("MAX_CLIENT_REQUEST_BODY_SIZE", "100KiB")).await;
    let id = ENVIRONMENT_ID;
    for context in
        ["%21%21", "eyJuYW1lIjoieCJ9", "eyJrZXkiOiIifQ", "W10", "eyJraW5kIjoiIiwia2V5IjoiYSJ9"]
    {
        let path = format!("GET /sdk/evalx/{id}/contexts/{context}");
        let response = ask(&site, &path, "", &[]).await;
        check_json(&response, 400, None);
        assert_eq!(response.header("access-control-allow-origin"), Some("*"), "{context}");
        assert_eq!(response.header("access-control-allow-methods"), Some("GET,OPTIONS"));
    }
    let deep = format!(
        "{{\"key\":\"u\",\"custom\":{{\"a\":{}{}}}}}",
        "[".repeat(9_000),
        "]".repeat(9_000)
    );
    let bodies = [
        "",
        "{",
        "null",
        "[]",
        "{}",
        r#"{"kind":"multi"}"#,
        r#"{"kind":"user"}"#,
        r#"{"kind":"user","key":1}"#,
        r#"{"kind":"a b","key":"u"}"#,
        &deep,
    ];
    for body in bodies {
        let response = ask(&site, &format!("REPORT /sdk/evalx/{id}/context"), body, &[]).await;
        check_json(&response, 400, None);
        assert_eq!(response.header("access-control-allow-origin"), Some("*"), "{body}");
    }
    let gzip = [("content-encoding", "gzip")];
    let response = ask(&site, "REPORT /msdk/evalx/context", "\u{1f}\u{8b}", &gzip).await;
    check_json(&response, 400, None);

    let at_most = format!("{{\"key\":\"u\",\"custom\":{{\"a\":\"{}\"}}}}", "x".repeat(100_000));
    let response = ask(&site, "REPORT /msdk/evalx/context", &at_most, &[]).await;
    assert_eq!(response.status, 200);
    let too_much = "x".repeat(200_000);
    for request in ["REPORT /msdk/evalx/context", "REPORT /sdk/evalx/user", "REPORT /meval"] {
        let response = ask(&site, request, &too_much, &[]).await;
        check_json(&response, 413, None);
    }
    for kind in ["application/json; charset=utf-8", "text/plain", "APPLICATION/JSON", ""] {
        let headers = [("authorization", SDK_KEY), ("content-type", kind)];
        let path = "/sdk/evalx/context";
        let response = site.relay.request("REPORT", path, &headers, USER.as_bytes()).await;
        assert_eq!(response.status, 415, "{kind}");
        check_text(&response, kind);
    }
    let unknown = format!("GET /sdk/evalx/ffffffffffffffffffffffff/contexts/{CONTEXT}");
    let response = ask(&site, &unknown, "", &[]).await;
    assert_eq!(response.status, 404);
    assert_eq!(response.header("access-control-allow-origin"), Some("*"));
}

#[tokio::test(flavor = "multi_thread")]
async fn preflights_tell_what_pages_may_do() {
    let site = Site::manual_with(|it| {
        it.with("LD_ALLOWED_ORIGIN_Prod", "https://x.example,https://y.example")
            .with("LD_ALLOWED_HEADER_Prod", "X-Mine")
    })
    .await;
    let id = ENVIRONMENT_ID;
    for (path, methods) in [
        (format!("/sdk/evalx/{id}/context"), "REPORT,OPTIONS"),
        (format!("/sdk/evalx/{id}/contexts/{CONTEXT}"), "GET,OPTIONS"),
        (format!("/ping/{id}"), "GET,OPTIONS"),
        (format!("/eval/{id}"), "REPORT,OPTIONS"),
        (format!("/eval/{id}/{CONTEXT}"), "GET,OPTIONS"),
    ] {
        for (origin, expected) in
            [("https://y.example", "https://y.example"), ("https://z.example", "https://x.example")]
        {
            let headers = [("origin", origin)];
            let response = site.relay.request("OPTIONS", &path, &headers, b"").await;
            assert_eq!((response.status, response.text()), (200, ""), "{path}");
            assert_eq!(response.header("access-control-allow-origin"), Some(expected));
            assert_eq!(response.header("access-control-allow-methods"), Some(methods));
            assert_eq!(response.header("access-control-max-age"), Some("300"));
            assert_eq!(response.header("access-control-allow-credentials"), Some("false"));
            assert_eq!(response.header("vary"), Some("Origin"));
            let allowed = response.header("access-control-allow-headers").unwrap();
            assert!(allowed.ends_with("X-LaunchDarkly-Tags,X-Mine"), "{allowed}");
        }
    }
    // Also for the streams themselves.
    let request =
        format!("GET /ping/{id} HTTP/1.1\r\nhost: x\r\norigin: https://y.example\r\n\r\n");
    let stream = RawStream::open(site.relay.address(), &request).await;
    assert!(stream.head.contains("access-control-allow-origin: https://y.example\r\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_secure_mode_pages_need_the_hash_of_their_server() {
    let key = "sdk-key-1";
    let launchdarkly = launchdarkly();
    launchdarkly.upsert_environment(EnvironmentRep {
        secure_mode: true,
        ..EnvironmentRep::simple(ENVIRONMENT_ID, key, MOBILE_KEY)
    });
    let site = Site::autoconfig(launchdarkly).await;
    let good = "3861efea5636168f972dda6ac5040605b156c36c876597788f0bf2029f250a70";
    let id = ENVIRONMENT_ID;
    for request in [
        format!("GET /sdk/evalx/{id}/contexts/{CONTEXT}"),
        format!("REPORT /sdk/evalx/{id}/context"),
    ] {
        for query in ["", "?h=", "?h=0000", &format!("?h={}", good.to_uppercase())] {
            let response = ask(&site, &format!("{request}{query}"), USER, &[]).await;
            check_json(&response, 400, None);
            assert_eq!(response.header("access-control-allow-origin"), Some("*"));
        }
        let response = ask(&site, &format!("{request}?h={good}"), USER, &[]).await;
        check_json(&response, 200, Some(&values(&[WEB])));
    }
    let refused = ask(&site, &format!("GET /eval/{id}/{CONTEXT}"), "", &[]).await;
    check_json(&refused, 400, None);
    // Streams that say nothing about a context, phones and servers need none.
    for request in [
        format!("GET /ping/{id} HTTP/1.1\r\nhost: x\r\n\r\n"),
        format!("GET /eval/{id}/{CONTEXT}?h={good} HTTP/1.1\r\nhost: x\r\n\r\n"),
        get(&format!("/meval/{CONTEXT}"), MOBILE_KEY),
    ] {
        let mut stream = RawStream::open(site.relay.address(), &request).await;
        assert_eq!(stream.take_until("\n\n").await, PING, "{request}");
    }
    let response = ask(&site, "REPORT /msdk/evalx/context", USER, &[]).await;
    assert_eq!(response.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_tell_of_any_change() {
    let site = Site::manual_with(|it| it.with("HEARTBEAT_INTERVAL", "0")).await;
    let id = ENVIRONMENT_ID;
    let report = |path: &str, key: &str| {
        let length = USER.len();
        format!(
            "REPORT {path} HTTP/1.1\r\nhost: x\r\nauthorization: {key}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{USER}"
        )
    };
    let mut streams = Vec::new();
    for request in [
        get("/mping", MOBILE_KEY),
        get(&format!("/meval/{CONTEXT}"), MOBILE_KEY),
        // Without a key, which only an evaluation needs.
        get("/meval/eyJrZXkiOiIifQ", MOBILE_KEY),
        report("/meval", MOBILE_KEY),
        format!("GET /ping/{id} HTTP/1.1\r\nhost: x\r\n\r\n"),
        format!("GET /eval/{id}/{CONTEXT} HTTP/1.1\r\nhost: x\r\n\r\n"),
        report(&format!("/eval/{id}"), ""),
    ] {
        let mut stream = RawStream::open(site.relay.address(), &request).await;
        assert!(stream.head.starts_with("HTTP/1.1 200"), "{request}: {}", stream.head);
        assert!(stream.head.contains("content-type: text/event-stream; charset=utf-8\r\n"));
        assert!(stream.head.contains("access-control-allow-origin: *\r\n"), "{}", stream.head);
        assert_eq!(stream.take_until("\n\n").await, PING, "{request}");
        streams.push(stream);
    }
    let changes: [fn(&FakeLaunchDarkly); 4] = [
        |upstream| {
            let beta = json!({"key": "beta", "version": 8});
            upstream.upsert_segment(ENVIRONMENT_ID, beta).unwrap();
        },
        |upstream| {
            upstream.upsert_flag(ENVIRONMENT_ID, json!({"key": "new", "version": 1})).unwrap();
        },
        |upstream| {
            upstream.delete_flag(ENVIRONMENT_ID, "new");
        },
        |upstream| upstream.replace_data(ENVIRONMENT_ID, super::fixture::data()),
    ];
    for change in changes {
        change(&site.launchdarkly);
        for stream in &mut streams {
            assert_eq!(stream.take_until("\n\n").await, PING);
        }
    }
    for context in ["!!", "e30"] {
        let request = format!("GET /meval/{context}");
        check_json(&ask(&site, &request, "", &[]).await, 400, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_changes_is_one_delayed_ping() {
    let site = Site::manual_with(|it| {
        it.with("PING_STREAM_JITTER_TIME", "1s").with("HEARTBEAT_INTERVAL", "50ms")
    })
    .await;
    let mut stream = RawStream::open(site.relay.address(), &get("/mping", MOBILE_KEY)).await;
    assert_eq!(stream.take_until("\n\n").await, PING, "the first one comes at once");
    let begun = Instant::now();
    for version in 10..40 {
        site.launchdarkly
            .upsert_flag(ENVIRONMENT_ID, json!({"key": "busy", "version": version}))
            .unwrap();
    }
    let first = stream.take_until("\n\n").await;
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(450), "{took:?}");
    assert_eq!(first.trim_start_matches(":\n"), PING);
    // Until there are heartbeats only. On a slow machine the changes may take longer than a ping.
    let rest = stream.take_until(&":\n".repeat(30)).await;
    assert!(rest.matches("ping").count() <= 3, "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_pings_end_as_others_do() {
    let site = Site::manual_with(|it| {
        it.with("MAX_CLIENT_CONNECTION_TIME", "2s").with("HEARTBEAT_INTERVAL", "0")
    })
    .await;
    let begun = Instant::now();
    let mut stream = RawStream::open(site.relay.address(), &get("/mping", MOBILE_KEY)).await;
    assert_eq!(stream.take_until("\n\n").await, PING);
    assert_eq!(stream.end().await, Ending::Whole);
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(1_700) && took < Duration::from_secs(10), "{took:?}");
}

/// A browser that is refused a preflight does not send the request, and tells the page of a broken
/// network instead of the refusal.
#[tokio::test(flavor = "multi_thread")]
async fn preflights_succeed_where_requests_are_refused() {
    let site = Site::manual().await;
    let launchdarkly = launchdarkly();
    launchdarkly.refuse();
    let store = tempfile::TempDir::new().unwrap();
    let without_list = autoconfig_settings(&launchdarkly, &store).start().unwrap();
    for (relay, id) in [(&without_list, ENVIRONMENT_ID), (&site.relay, "ffffffffffffffffffffffff")]
    {
        for (path, methods) in [
            (format!("/sdk/evalx/{id}/contexts/{CONTEXT}"), "GET,OPTIONS"),
            (format!("/sdk/evalx/{id}/context"), "REPORT,OPTIONS"),
            (format!("/eval/{id}"), "REPORT,OPTIONS"),
            (format!("/ping/{id}"), "GET,OPTIONS"),
        ] {
            let headers = [("origin", "https://a.example")];
            let response = relay.request("OPTIONS", &path, &headers, b"").await;
            assert_eq!((response.status, response.text()), (200, ""), "{path}");
            let origin = response.header("access-control-allow-origin");
            assert_eq!(origin, Some("https://a.example"), "{path}");
            assert_eq!(response.header("access-control-allow-methods"), Some(methods));
        }
    }
}

/// A relay without a list knows no credential for certain, and clients must come again.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_list_nobody_is_told_that_an_id_is_unknown() {
    let launchdarkly = launchdarkly();
    let store = tempfile::TempDir::new().unwrap();
    launchdarkly.refuse();
    let relay = autoconfig_settings(&launchdarkly, &store).start().unwrap();
    for path in
        [format!("/sdk/evalx/{ENVIRONMENT_ID}/contexts/{CONTEXT}"), "/ping/unknown".to_owned()]
    {
        let response = relay.get(&path, &[]).await;
        assert_eq!(response.status, 503, "{path}");
        let retry = response.header("retry-after").unwrap().parse::<u8>().unwrap();
        assert!((2..=5).contains(&retry), "{retry}");
        assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_flags_are_evaluated_in_turns() {
    let launchdarkly = launchdarkly();
    let mut data = super::fixture::data();
    for number in 0..1_500 {
        let flag = large_flag(&format!("flag-{number:04}"), 1, 20).to_string();
        let key = ItemKey::new(ItemKind::Flag, format!("flag-{number:04}"));
        data.upsert(&key, Arc::new(Item::live(1, flag)));
    }
    launchdarkly.replace_data(ENVIRONMENT_ID, data);
    let site = Site::manual_before(launchdarkly, |it| it).await;
    let path = format!("GET /msdk/evalx/contexts/{CONTEXT}");
    for _ in 0..3 {
        let response = ask(&site, &path, "", &[]).await;
        let answer: Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(answer.as_object().unwrap().len(), 1_502);
    }
}
