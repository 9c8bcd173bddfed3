//! What clients of ld-relay 8 rely on, as a list: one request after the other, each with the answer
//! that ld-relay gives, or the one that docs/differences.md gives instead. Other tests look closer
//! at each; this one is the overview.

use std::time::{Duration, SystemTime};

use pilotlight::testing::demo::fake_launchdarkly::FakeLaunchDarkly;
use pilotlight_test_kit::relay::{RelayProcess, RelaySettings, Response, next_event, stream_end};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::fixture::{
    CONTEXT, ENVIRONMENT_ID as ID, MOBILE_KEY, SDK_KEY, Site, autoconfig_settings, check_empty,
    check_text, launchdarkly,
};
use super::raw::{RawStream, get};

/// Values of flags that browsers see, with the fields that ld-relay sends.
const WEB: &str = r#"{"web":{"value":true,"variation":0,"version":4}}"#;

async fn ask(relay: &RelayProcess, request: &str, headers: &[(&str, &str)]) -> Response {
    let (method, path) = request.split_once(' ').unwrap();
    relay.request(method, path, headers, b"").await
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_credentials() {
    let site = Site::manual().await;
    let relay = &site.relay;
    // 1
    let status = ask(relay, "GET /status", &[]).await;
    assert_eq!((status.status, status.header("content-type")), (200, Some("application/json")));
    let body = status.json();
    assert_eq!(body["status"], "healthy");
    let environment = &body["environments"]["Prod"];
    assert_eq!(environment["sdkKey"], "sdk-********-****-****-****-*******44444");
    assert_eq!(environment["connectionStatus"]["state"], "VALID");
    assert!(!status.text().contains(MOBILE_KEY));
    // 2
    for request in ["HEAD /status", "POST /status"] {
        let refused = ask(relay, request, &[]).await;
        assert_eq!((refused.status, refused.header("allow")), (405, None), "{request}");
        assert!(refused.body.is_empty(), "{request}");
    }
    // 3, 4
    let without = ask(relay, "GET /all", &[]).await;
    assert_eq!(without.status, 401);
    check_empty(&without, "no credential");
    let wrong = ask(relay, "GET /all", &[("authorization", MOBILE_KEY)]).await;
    assert_eq!(wrong.status, 401);
    check_text(&wrong, "a mobile key");
    // 24
    let unfiltered = ask(relay, "GET /all?filter=nope", &[("authorization", SDK_KEY)]).await;
    assert_eq!(unfiltered.status, 404);
    check_text(&unfiltered, "unknown filter");
    let unknown = ask(relay, "GET /all?filter=nope", &[("authorization", "sdk-x")]).await;
    assert_eq!(unknown.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_servers() {
    let site = Site::manual_with(|settings| settings.with("HEARTBEAT_INTERVAL", "1s")).await;
    // 5, 6
    for key in [SDK_KEY.to_owned(), format!("api_key {SDK_KEY}")] {
        let mut stream = RawStream::open(site.relay.address(), &get("/all", &key)).await;
        let head = &stream.head;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        for header in [
            "content-type: text/event-stream; charset=utf-8",
            "cache-control: no-cache, no-store, must-revalidate",
            "access-control-allow-origin: *",
            "x-accel-buffering: no",
        ] {
            assert!(head.to_lowercase().contains(header), "{header} in {head}");
        }
        let put = stream.take_until("\n\n").await;
        assert!(
            put.starts_with("event: put\ndata: {\"path\":\"/\",\"data\":{\"flags\":{"),
            "{put}"
        );
        assert!(put.contains("\"segments\":{\"beta\":") && put.ends_with("\n\n"), "{put}");
        assert!(!put.contains("\nid:"), "{put}");
        // 9
        assert_eq!(stream.take_until(":\n").await, ":\n");
    }
    // 7, 8
    let (mut all, _) = site.relay.stream_with_put("/all", SDK_KEY).await;
    let (mut flags, _) = site.relay.stream_with_put("/flags", SDK_KEY).await;
    let segment = json!({"key": "beta", "version": 8, "included": [], "salt": "s"});
    site.launchdarkly.upsert_segment(ID, segment).unwrap();
    let (name, patch) = next_event(&mut all).await;
    assert_eq!((name.as_str(), &patch["path"]), ("patch", &json!("/segments/beta")));
    let version = site.launchdarkly.delete_flag(ID, "web");
    let deleted = |path: &str| ("delete".to_owned(), json!({"path": path, "version": version}));
    assert_eq!(next_event(&mut all).await, deleted("/flags/web"));
    assert_eq!(next_event(&mut flags).await, deleted("/web"), "the segment said nothing there");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_phones() {
    let site =
        Site::manual_with(|settings| settings.with("MAX_CLIENT_CONNECTION_TIME", "2s")).await;
    // 10, 11
    let mut stream = site.relay.stream("/mping", MOBILE_KEY).await.unwrap();
    assert_eq!(next_event(&mut stream).await.0, "ping");
    let segment = json!({"key": "beta", "version": 8, "included": [], "salt": "s"});
    site.launchdarkly.upsert_segment(ID, segment).unwrap();
    assert_eq!(next_event(&mut stream).await.0, "ping");
    stream_end(&mut stream).await.unwrap();
    let mut raw = RawStream::open(site.relay.address(), &get("/mping", MOBILE_KEY)).await;
    assert_eq!(raw.take_until("\n\n").await, "event: ping\ndata:  \n\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn values_for_contexts() {
    let site = Site::manual().await;
    let relay = &site.relay;
    let page = format!("GET /sdk/evalx/{ID}/contexts/{CONTEXT}");
    // 12, 13
    let values = ask(relay, &page, &[]).await;
    assert_eq!((values.status, values.text()), (200, WEB));
    for (header, expected) in [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-methods", "GET,OPTIONS"),
        ("access-control-expose-headers", "Date"),
        ("access-control-max-age", "300"),
    ] {
        assert_eq!(values.header(header), Some(expected));
    }
    let origin = [("origin", "https://a.example")];
    let reasons = ask(relay, &format!("{page}?withReasons=true"), &origin).await;
    assert_eq!(reasons.json()["web"]["reason"], json!({"kind": "FALLTHROUGH"}));
    assert_eq!(reasons.header("access-control-allow-origin"), Some("https://a.example"));
    // 14
    let phone = format!("GET /msdk/evalx/contexts/{CONTEXT}");
    let values = ask(relay, &phone, &[("authorization", MOBILE_KEY)]).await;
    let app = json!({"value": null, "variation": null, "version": 2});
    assert_eq!((values.status, &values.json()["app"]), (200, &app));
    assert_eq!(
        (values.json()["web"].clone(), values.header("access-control-allow-origin")),
        (Value::Null, None)
    );
    // 15
    let user = br#"{"kind":"user","key":"user-1"}"#;
    let report = async |content_type: &str| {
        let headers = [("authorization", SDK_KEY), ("content-type", content_type)];
        relay.request("REPORT", "/sdk/evalx/context", &headers, user).await
    };
    let refused = report("application/json; charset=utf-8").await;
    assert_eq!(refused.status, 415);
    check_text(&refused, "with a charset");
    let values = report("application/json").await.json();
    assert!(values["web"].is_object() && values["app"].is_object(), "{values}");
    // 16: no base64, no key, an empty key
    for context in ["%21%21", "eyJuYW1lIjoieCJ9", "eyJrZXkiOiIifQ"] {
        let refused = ask(relay, &format!("GET /sdk/evalx/{ID}/contexts/{context}"), &[]).await;
        assert_eq!(refused.status, 400, "{context}");
        assert_eq!(refused.header("content-type"), Some("application/json"));
        assert!(refused.json()["message"].is_string(), "{context}");
        assert_eq!(refused.header("access-control-allow-origin"), Some("*"), "{context}");
    }
    // 19, with the header that ld-relay leaves out
    let unknown = format!("GET /sdk/evalx/ffffffffffffffffffffffff/contexts/{CONTEXT}");
    let refused = ask(relay, &unknown, &[]).await;
    assert_eq!(refused.status, 404);
    check_text(&refused, "unknown ID");
    assert_eq!(refused.header("access-control-allow-origin"), Some("*"));
}

#[tokio::test(flavor = "multi_thread")]
async fn secure_mode_and_origins() {
    let settings = |settings: RelaySettings| {
        settings
            .with("LD_ENV_Prod", "sdk-key-1")
            .with("LD_SECURE_MODE_Prod", "1")
            .with("LD_ALLOWED_ORIGIN_Prod", "https://x.example,https://y.example")
    };
    let launchdarkly = launchdarkly();
    let mut rep = launchdarkly.environment(ID).unwrap();
    rep.sdk_key.value = "sdk-key-1".to_owned();
    launchdarkly.upsert_environment(rep);
    let site = Site::manual_before(launchdarkly, settings).await;
    // 17
    let page = format!("GET /sdk/evalx/{ID}/contexts/{CONTEXT}");
    assert_eq!(ask(&site.relay, &page, &[]).await.status, 400);
    let hash = "3861efea5636168f972dda6ac5040605b156c36c876597788f0bf2029f250a70";
    assert_eq!(ask(&site.relay, &format!("{page}?h={hash}"), &[]).await.status, 200);
    let ping = RawStream::open(site.relay.address(), &get(&format!("/ping/{ID}"), "")).await;
    assert!(ping.head.starts_with("HTTP/1.1 200"), "{}", ping.head);
    // 18
    for (origin, allowed) in
        [("https://y.example", "https://y.example"), ("https://z.example", "https://x.example")]
    {
        let request = format!("OPTIONS /sdk/evalx/{ID}/context");
        let preflight = ask(&site.relay, &request, &[("origin", origin)]).await;
        assert_eq!((preflight.status, preflight.text()), (200, ""));
        assert_eq!(preflight.header("access-control-allow-origin"), Some(allowed));
        assert_eq!(preflight.header("access-control-allow-methods"), Some("REPORT,OPTIONS"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn polling_with_tags() {
    let site = Site::manual_with(|settings| settings.with("LD_TTL_Prod", "5m")).await;
    let relay = &site.relay;
    // 20
    let flag = relay.get_with_key("/sdk/flags/web", SDK_KEY).await;
    let tag = flag.header("etag").unwrap().to_owned();
    assert_eq!((flag.status, tag.as_str()), (200, "W/\"4\""));
    for known in [tag.as_str(), "relay-4"] {
        let headers = [("authorization", SDK_KEY), ("if-none-match", known)];
        let unchanged = relay.get("/sdk/flags/web", &headers).await;
        assert_eq!((unchanged.status, unchanged.body.len()), (304, 0), "{known}");
        assert_eq!(unchanged.header("etag"), None);
        for response in [&flag, &unchanged] {
            assert_eq!(response.header("vary"), Some("Authorization"));
            assert_eq!(response.header("cache-control"), None);
            let expires = response.header("expires").unwrap();
            let expires = httpdate::parse_http_date(expires).unwrap();
            let left = expires.duration_since(SystemTime::now()).unwrap();
            assert!(
                left > Duration::from_secs(240) && left <= Duration::from_secs(301),
                "{left:?}"
            );
        }
    }
    let unknown = relay.get_with_key("/sdk/flags/none", SDK_KEY).await;
    assert_eq!(unknown.status, 404);
    check_empty(&unknown, "unknown flag");
}

/// 25, and what follows once there is a cache.
#[tokio::test(flavor = "multi_thread")]
async fn before_the_list_of_environments_is_known() {
    let launchdarkly: FakeLaunchDarkly = launchdarkly();
    let store = TempDir::new().unwrap();
    let settings = autoconfig_settings(&launchdarkly, &store);
    launchdarkly.refuse();
    let relay = settings.start().unwrap();
    let key = [("authorization", SDK_KEY)];
    let status = relay.status().await;
    assert_eq!((&status["status"], &status["environments"]), (&json!("degraded"), &json!({})));
    assert_eq!(ask(&relay, "GET /all", &key).await.status, 503);
    assert_eq!(ask(&relay, "GET /ping/x", &[]).await.status, 503);
    assert_eq!(ask(&relay, "GET /all", &[]).await.status, 401);
    let refused = &relay.status().await["refusedRequests"];
    assert_eq!(refused["noListOfEnvironments"], 2, "{refused}");
    launchdarkly.start().unwrap();
    relay.wait_until_healthy(1).await;
    relay.wait_until_stored().await;
    relay.kill().await.unwrap();

    launchdarkly.stop().await;
    let relay = settings.start().unwrap();
    let (_, put) = relay.stream_with_put("/all", SDK_KEY).await;
    assert_eq!(put["data"]["flags"]["web"]["version"], 4);
}
