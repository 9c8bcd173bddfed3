//! Analytics events: the answers to SDKs, and what LaunchDarkly gets.

use std::io::{Read, Write};
use std::time::Duration;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use pilotlight::testing::demo::fake_launchdarkly::{
    Delivery, FakeLaunchDarkly, Fault, FaultRule, FaultScope, FixedAnswer,
};
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::relay::{RelayProcess, RelaySettings, Response};
use serde_json::{Value, json};

use super::fixture::{ENVIRONMENT_ID, MOBILE_KEY, SDK_KEY, Site};

const SCHEMA: (&str, &str) = ("x-launchdarkly-event-schema", "4");
const KEY: (&str, &str) = ("authorization", SDK_KEY);

fn forwarding(settings: RelaySettings) -> RelaySettings {
    let upstream = settings.variables()["BASE_URI"].clone();
    settings
        .with("USE_EVENTS", "true")
        .with("EVENTS_HOST", upstream)
        .with("EVENTS_FLUSH_INTERVAL", "200ms")
}

async fn site() -> Site {
    Site::manual_with(forwarding).await
}

async fn post(relay: &RelayProcess, headers: &[(&str, &str)], body: &str) -> Response {
    relay.request("POST", "/bulk", headers, body.as_bytes()).await
}

/// The events of a delivery.
fn events(delivery: &Delivery) -> Vec<Value> {
    assert_eq!(delivery.headers["content-encoding"], "gzip");
    let mut text = String::new();
    GzDecoder::new(&*delivery.body).read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// All events that LaunchDarkly has, once it has so many.
async fn delivered(launchdarkly: &FakeLaunchDarkly, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    eventually("LaunchDarkly has the events", async || {
        found = launchdarkly.deliveries().iter().flat_map(events).collect();
        if found.len() >= count { Ok(()) } else { Err(format!("{} of {count}", found.len())) }
    })
    .await;
    // No more come.
    tokio::time::sleep(Duration::from_millis(500)).await;
    launchdarkly.deliveries().iter().flat_map(events).collect()
}

/// Events `0` to `count`, one in each request.
async fn post_numbers(relay: &RelayProcess, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let body = json!([{"kind": "custom", "number": number}]).to_string();
        assert_eq!(post(relay, &[KEY, SCHEMA], &body).await.status, 202);
    }
}

/// The numbers of events, in order, each once.
fn numbers(events: &[Value]) -> Vec<u64> {
    let mut numbers: Vec<u64> = events.iter().map(|it| it["number"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_as_they_were_sent() {
    let site = site().await;
    let body = r#"[{"kind":"identify", "odd":1.50,"context":{"kind":"user","key":"u"}}]"#;
    let headers = [
        KEY,
        SCHEMA,
        ("x-launchdarkly-payload-id", "payload-1"),
        ("x-launchdarkly-tags", "application-id/a"),
        ("x-launchdarkly-wrapper", "w/1"),
        ("user-agent", "GoClient/7"),
        ("cookie", "private"),
    ];
    let response = post(&site.relay, &headers, body).await;
    assert_eq!((response.status, response.body.len()), (202, 0));
    assert_eq!(response.header("content-length"), Some("0"));
    // The same once more, as an SDK does that has not seen the answer.
    assert_eq!(post(&site.relay, &headers, body).await.status, 202);
    delivered(&site.launchdarkly, 1).await;
    let deliveries = site.launchdarkly.deliveries();
    assert_eq!(deliveries.len(), 1, "{deliveries:?}");
    let Delivery { path, headers, body: packed, copies } = &deliveries[0];
    assert_eq!((path.as_str(), *copies), ("/bulk", 1));
    let mut text = String::new();
    GzDecoder::new(&**packed).read_to_string(&mut text).unwrap();
    assert_eq!(text, body);
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
    for (name, expected) in [
        ("authorization", SDK_KEY),
        ("content-type", "application/json"),
        ("x-launchdarkly-event-schema", "4"),
        ("x-launchdarkly-payload-id", "payload-1"),
        ("x-launchdarkly-tags", "application-id/a"),
        ("x-launchdarkly-user-agent", "GoClient/7"),
        ("x-launchdarkly-wrapper", "w/1"),
    ] {
        assert_eq!(header(name), Some(expected), "{name}");
    }
    let agent = header("user-agent").unwrap();
    assert!(agent.starts_with("Pilotlight/") && agent.contains(" LDRelay/8"), "{agent}");
    assert_eq!(header("cookie"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_has_its_address_and_credential() {
    let site = site().await;
    let relay = &site.relay;
    let mobile = ("authorization", MOBILE_KEY);
    let id = ENVIRONMENT_ID;
    let ask = async |path: &str, headers: &[(&str, &str)]| {
        let body = json!([{"path": path}]).to_string();
        let response = relay.request("POST", path, headers, body.as_bytes()).await;
        assert_eq!((response.status, response.text()), (202, ""), "{path}");
    };
    ask("/bulk", &[KEY, SCHEMA]).await;
    ask("/mobile", &[mobile, SCHEMA]).await;
    ask("/mobile/events", &[mobile, SCHEMA]).await;
    ask("/mobile/events/bulk", &[mobile, SCHEMA]).await;
    ask(&format!("/events/bulk/{id}"), &[SCHEMA]).await;
    let image = format!("/a/{id}.gif?d=W3sicGF0aCI6ImdpZiJ9XQ==");
    let response = relay.get(&image, &[]).await;
    assert_eq!((response.status, response.header("content-type")), (200, Some("image/gif")));
    assert_eq!(response.body.len(), 42);
    for without in ["", "?d=", "?d=%", "?d=%25%25"] {
        assert_eq!(relay.get(&format!("/a/{id}.gif{without}"), &[]).await.status, 200, "{without}");
    }
    delivered(&site.launchdarkly, 6).await;
    let mut seen: Vec<String> = Vec::new();
    for delivery in site.launchdarkly.deliveries() {
        let key = delivery.headers.get("authorization").map_or("", |it| it.to_str().unwrap());
        let schema = delivery.headers["x-launchdarkly-event-schema"].to_str().unwrap();
        for event in events(&delivery) {
            let from = event["path"].as_str().unwrap();
            seen.push(format!("{from} -> {} {schema} {key}", delivery.path));
        }
    }
    seen.sort();
    let mut expected = vec![
        format!("/bulk -> /bulk 4 {SDK_KEY}"),
        format!("/mobile -> /mobile 4 {MOBILE_KEY}"),
        format!("/mobile/events -> /mobile 4 {MOBILE_KEY}"),
        format!("/mobile/events/bulk -> /mobile 4 {MOBILE_KEY}"),
        format!("/events/bulk/{id} -> /events/bulk/{id} 4 "),
        format!("gif -> /events/bulk/{id} 3 "),
    ];
    expected.sort();
    assert_eq!(seen, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn diagnostic_events_go_on_at_once() {
    let site = site().await;
    let id = ENVIRONMENT_ID;
    let by_id = format!("/events/diagnostic/{id}");
    let mobile = ("authorization", MOBILE_KEY);
    let cases: [(&str, &[(&str, &str)]); 3] =
        [("/diagnostic", &[KEY]), ("/mobile/events/diagnostic", &[mobile]), (&by_id, &[])];
    for (path, headers) in cases {
        let response = site.relay.request("POST", path, headers, br#"{"kind":"diagnostic"}"#).await;
        assert_eq!(response.status, 202, "{path}");
    }
    let found = site.launchdarkly.wait_for_deliveries(3, Duration::from_secs(10)).await.unwrap();
    let mut paths: Vec<&str> = found.iter().map(|it| it.path.as_str()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/diagnostic", &by_id, "/mobile/events/diagnostic"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_hold_no_events_are_refused_or_dropped() {
    let site = Site::manual_with(|settings| {
        forwarding(settings).with("EVENTS_MAX_INBOUND_PAYLOAD_SIZE", "1MiB")
    })
    .await;
    let relay = &site.relay;
    let packed = |text: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    };
    let gzip = [KEY, SCHEMA, ("content-encoding", "gzip")];
    let check = async |what: &str, headers: &[(&str, &str)], body: &[u8], expected: u16| {
        let response = relay.request("POST", "/bulk", headers, body).await;
        assert_eq!(response.status, expected, "{what}: {}", response.text());
        if expected == 400 {
            let content_type = response.header("content-type");
            assert_eq!(content_type, Some("text/plain; charset=utf-8"), "{what}");
        }
    };
    check("empty", &[KEY, SCHEMA], b"", 400).await;
    check("too large", &[KEY, SCHEMA], &vec![b' '; (1 << 20) + 1], 400).await;
    check("a bomb", &gzip, &packed(&vec![b' '; 200 << 20]), 400).await;
    check("no gzip", &gzip, b"[{}]", 400).await;
    check("a cut gzip", &gzip, &packed(b"[{\"a\":1}]")[..12], 400).await;
    // These get their answer before they are looked into.
    for body in ["{", "{}", "7", "[1,]", "[]", "\u{0}"] {
        check(body, &[KEY, SCHEMA], body.as_bytes(), 202).await;
    }
    check("packed", &gzip, &packed(br#"[{"number":1}]"#), 202).await;
    let many = format!("[{}]", vec!["{}"; 100_000].join(","));
    check("many", &[KEY, SCHEMA], many.as_bytes(), 202).await;
    let found = delivered(&site.launchdarkly, 100_001).await;
    assert_eq!(found.len(), 100_001);
    assert_eq!(found.iter().filter(|it| it["number"] == 1).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_and_restarts_lose_nothing() {
    let site = site().await;
    site.launchdarkly.inject(FaultRule::new(FaultScope::Events, Fault::status(503)));
    post_numbers(&site.relay, 0..30).await;
    site.relay
        .wait_for_status("the events are on disk", |status| status["events"]["onDisk"] == 30)
        .await;
    // One that is killed, and one that is asked to stop while events are still being gathered.
    let Site { relay, launchdarkly, settings, store: _store } = site;
    relay.kill().await.unwrap();
    let relay = settings.start().unwrap();
    relay.wait_until_ready().await;
    post_numbers(&relay, 30..60).await;
    assert!(relay.stop().await.unwrap().success());
    launchdarkly.clear_faults();
    let relay = settings.start().unwrap();
    let found = delivered(&launchdarkly, 60).await;
    assert_eq!(numbers(&found), (0..60).collect::<Vec<u64>>());
    let status = relay.status().await;
    assert_eq!(status["events"]["lost"], json!({}));
    assert_eq!(
        (&status["events"]["onDisk"], &status["events"]["failing"]),
        (&json!(0), &json!({}))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_too_large_is_split_and_one_that_is_invalid_is_dropped() {
    let site = site().await;
    let once = |status| {
        let answer = FixedAnswer { status, headers: Default::default(), body: Default::default() };
        FaultRule::new(FaultScope::Events, Fault::Answer(answer)).times(1)
    };
    site.launchdarkly.inject(once(413));
    let body = json!([{"number": 0}, {"number": 1}, {"number": 2}]).to_string();
    post(&site.relay, &[KEY, SCHEMA, ("x-launchdarkly-payload-id", "p")], &body).await;
    assert_eq!(numbers(&delivered(&site.launchdarkly, 3).await), [0, 1, 2]);
    assert_eq!(site.launchdarkly.deliveries().len(), 2);
    for _ in 0..2 {
        site.launchdarkly.inject(once(400));
    }
    post_numbers(&site.relay, 3..4).await;
    site.relay
        .wait_for_status("it is counted", |status| status["events"]["lost"]["invalid"] == 1)
        .await;
    post_numbers(&site.relay, 4..5).await;
    assert_eq!(numbers(&delivered(&site.launchdarkly, 4).await), [0, 1, 2, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_old_sdks_are_summarized() {
    let site = site().await;
    let event = |variation: u64| {
        json!({"kind": "feature", "creationDate": 1000, "key": "web", "version": 4,
            "variation": variation, "value": variation == 0, "default": false,
            "user": {"key": "u"}})
    };
    // An old schema, and PHP's.
    let old = ("x-launchdarkly-event-schema", "2");
    let php = [KEY, SCHEMA, ("x-launchdarkly-unsummarized", "true")];
    post(&site.relay, &[KEY, old], &json!([event(0), event(0)]).to_string()).await;
    post(&site.relay, &php, &json!([event(1)]).to_string()).await;
    let found = delivered(&site.launchdarkly, 2).await;
    assert_eq!(
        found,
        [
            json!({"kind": "index", "creationDate": 1000, "context": {"key": "u"}}),
            json!({"kind": "summary", "startDate": 1000, "endDate": 1000, "features": {"web": {
                "default": false, "contextKinds": ["user"], "counters": [
                    {"variation": 0, "version": 4, "value": true, "count": 2},
                    {"variation": 1, "version": 4, "value": false, "count": 1}]}}}),
        ]
    );
    let delivery = site.launchdarkly.deliveries().pop().unwrap();
    assert_eq!(delivery.headers["x-launchdarkly-event-schema"], "4");
    assert!(delivery.headers.contains_key("x-launchdarkly-payload-id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_holds_up_nobody_else_and_nothing_for_good() {
    let site = site().await;
    let refused = FaultRule::new(FaultScope::Path("/bulk".to_owned()), Fault::status(401));
    site.launchdarkly.inject(refused);
    post_numbers(&site.relay, 0..3).await;
    site.relay
        .wait_for_status("it is refused", |status| status["events"]["failing"]["Prod"] == "refused")
        .await;
    let mobile = [("authorization", MOBILE_KEY), SCHEMA];
    let body = json!([{"number": 9}]).to_string();
    site.relay.request("POST", "/mobile", &mobile, body.as_bytes()).await;
    assert_eq!(numbers(&delivered(&site.launchdarkly, 1).await), [9]);
    let log = site.relay.log();
    assert_eq!(log.matches("refuses events").count(), 1, "{log}");
}
