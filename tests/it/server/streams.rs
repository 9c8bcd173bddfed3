//! Event streams: the very bytes.

use std::time::Duration;

use pilotlight::testing::model::{DataSet, ItemKey, ItemKind};
use serde_json::json;
use tokio::time::Instant;

use super::fixture::{APP, ENVIRONMENT_ID, SDK_KEY, SPACED, Site, all, flags, launchdarkly};
use super::raw::{Ending, RawStream, exchange, get};
use pilotlight_test_kit::relay::next_event;

/// Heartbeats would stand between the bytes that are compared.
async fn silent_site() -> Site {
    Site::manual_with(|settings| settings.with("HEARTBEAT_INTERVAL", "0")).await
}

/// A stream whose first put was taken and compared.
async fn open(site: &Site, path: &str, put: &str) -> RawStream {
    let mut stream = RawStream::open(site.relay.address(), &get(path, SDK_KEY)).await;
    assert_eq!(stream.take_until("\n\n").await, put, "{path}");
    stream
}

fn put_all() -> String {
    format!("event: put\ndata: {{\"path\":\"/\",\"data\":{}}}\n\n", all())
}

fn put_flags() -> String {
    format!("event: put\ndata: {}\n\n", flags())
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_begin_with_ld_relays_headers_and_a_put() {
    let site = silent_site().await;
    for (path, put) in [("/all", put_all()), ("/flags", put_flags())] {
        let stream = open(&site, path, &put).await;
        let mut lines = stream.head.lines();
        assert_eq!(lines.next(), Some("HTTP/1.1 200 OK"));
        let mut headers: Vec<_> = lines.filter(|line| !line.starts_with("date: ")).collect();
        headers.sort_unstable();
        assert_eq!(
            headers,
            [
                "access-control-allow-origin: *",
                "cache-control: no-cache, no-store, must-revalidate",
                "connection: keep-alive",
                "content-type: text/event-stream; charset=utf-8",
                "transfer-encoding: chunked",
                "x-accel-buffering: no",
                &format!("x-ld-envid: {ENVIRONMENT_ID}"),
            ]
        );
        assert!(stream.head.contains("\r\ndate: "), "{}", stream.head);
    }
    // The last event ID of another connection changes nothing.
    let request = get("/all", SDK_KEY).replace("host:", "last-event-id: 5\r\nhost:");
    let mut stream = RawStream::open(site.relay.address(), &request).await;
    assert_eq!(stream.take_until("\n\n").await, put_all());
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_arrive_as_patch_and_delete() {
    let site = silent_site().await;
    let upstream = &site.launchdarkly;
    let mut all = open(&site, "/all", &put_all()).await;
    let mut flags = open(&site, "/flags", &put_flags()).await;
    let mut check = async |in_all: &str, in_flags: Option<&str>| {
        assert_eq!(all.take_until("\n\n").await, in_all);
        if let Some(expected) = in_flags {
            assert_eq!(flags.take_until("\n\n").await, expected);
        }
    };
    // Bytes are passed on as they came.
    let beta = r#"{"key":"beta", "version":8,"included":[ ]}"#;
    upstream.upsert_raw(ENVIRONMENT_ID, &ItemKey::new(ItemKind::Segment, "beta"), 8, beta);
    check(
        &format!("event: patch\ndata: {{\"path\":\"/segments/beta\",\"data\":{beta}}}\n\n"),
        None,
    )
    .await;
    upstream.delete_segment(ENVIRONMENT_ID, "beta");
    check("event: delete\ndata: {\"path\":\"/segments/beta\",\"version\":9}\n\n", None).await;
    // On `/flags` these come first: nothing was said there of segments.
    upstream.delete_flag(ENVIRONMENT_ID, "web");
    check(
        "event: delete\ndata: {\"path\":\"/flags/web\",\"version\":5}\n\n",
        Some("event: delete\ndata: {\"path\":\"/web\",\"version\":5}\n\n"),
    )
    .await;
    let odd = r#"{"version":1,"key":"a/b \"c\" é"}"#;
    upstream.upsert_raw(ENVIRONMENT_ID, &ItemKey::new(ItemKind::Flag, "a/b \"c\" é"), 1, odd);
    let path = r#"a/b \"c\" é"#;
    check(
        &format!("event: patch\ndata: {{\"path\":\"/flags/{path}\",\"data\":{odd}}}\n\n"),
        Some(&format!("event: patch\ndata: {{\"path\":\"/{path}\",\"data\":{odd}}}\n\n")),
    )
    .await;
    // What was deleted is in no later put.
    let left = format!("{{\"a b\":{SPACED},\"{path}\":{odd},\"app\":{APP}}}");
    open(
        &site,
        "/all",
        &format!(
            "event: put\ndata: {{\"path\":\"/\",\"data\":{{\"flags\":{left},\"segments\":{{}}}}}}\n\n"
        ),
    )
    .await;
    open(&site, "/flags", &format!("event: put\ndata: {left}\n\n")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_data_set_arrives_as_a_put() {
    let site = silent_site().await;
    let mut all = open(&site, "/all", &put_all()).await;
    let mut flags = open(&site, "/flags", &put_flags()).await;
    site.launchdarkly.replace_data(ENVIRONMENT_ID, DataSet::default());
    let empty = "event: put\ndata: {\"path\":\"/\",\"data\":{\"flags\":{},\"segments\":{}}}\n\n";
    assert_eq!(all.take_until("\n\n").await, empty);
    assert_eq!(flags.take_until("\n\n").await, "event: put\ndata: {}\n\n");
    open(&site, "/all", empty).await;
    open(&site, "/flags", "event: put\ndata: {}\n\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_are_two_bytes() {
    let site = Site::manual_with(|settings| settings.with("HEARTBEAT_INTERVAL", "1s")).await;
    for (path, put) in [("/all", put_all()), ("/flags", put_flags())] {
        let begun = Instant::now();
        let mut stream = RawStream::open(site.relay.address(), &get(path, SDK_KEY)).await;
        let seen = stream.take_until(":\n:\n:\n").await;
        let beats = seen.strip_prefix(&put).unwrap_or_else(|| panic!("{path}: {seen}"));
        assert!(beats.replace(":\n", "").is_empty(), "{path}: {beats:?}");
        // The first may come at once: they are sent to all streams at the same time.
        assert!(begun.elapsed() > Duration::from_millis(1_900), "{path}: {:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_in_order_after_their_time() {
    let site =
        Site::manual_with(|settings| settings.with("MAX_CLIENT_CONNECTION_TIME", "2s")).await;
    for (path, put) in [("/all", put_all()), ("/flags", put_flags())] {
        let begun = Instant::now();
        let mut stream = open(&site, path, &put).await;
        assert_eq!(stream.end().await, Ending::Whole, "{path}");
        assert!(begun.elapsed() >= Duration::from_millis(1_800), "{:?}", begun.elapsed());
        assert_eq!(stream.text(), "", "{path}: no half event");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_deleted_environment_end_in_order_and_are_refused() {
    let site = Site::autoconfig(launchdarkly()).await;
    let mut stream = open(&site, "/all", &put_all()).await;
    site.launchdarkly.delete_environment(ENVIRONMENT_ID);
    assert_eq!(stream.end().await, Ending::Whole);
    assert_eq!(site.get("/all").await.status, 401);
}

/// Clients of the previous version of HTTP get no chunks; the end of the connection is the end.
#[tokio::test(flavor = "multi_thread")]
async fn old_http_is_answered_in_kind() {
    let site =
        Site::manual_with(|settings| settings.with("MAX_CLIENT_CONNECTION_TIME", "1s")).await;
    let request = |path: &str| get(path, SDK_KEY).replace("HTTP/1.1", "HTTP/1.0").into_bytes();
    let answer = exchange(site.relay.address(), &request("/all")).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
    assert!(!head.contains("transfer-encoding"), "{head}");
    assert_eq!(body, put_all());
    let answer = exchange(site.relay.address(), &request("/sdk/flags")).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
    assert_eq!(body, flags());
}

/// A put whose JSON stands on several lines is still one event.
#[tokio::test(flavor = "multi_thread")]
async fn line_breaks_in_an_item_become_lines_of_its_event() {
    let site = silent_site().await;
    let mut all = open(&site, "/all", &put_all()).await;
    let json = "{\"key\":\"web\",\n\"version\":6}";
    site.launchdarkly.upsert_raw(ENVIRONMENT_ID, &ItemKey::new(ItemKind::Flag, "web"), 6, json);
    assert_eq!(
        all.take_until("\n\n").await,
        "event: patch\ndata: {\"path\":\"/flags/web\",\"data\":{\"key\":\"web\",\ndata: \
         \"version\":6}}\n\n"
    );
    let latest = site.get("/sdk/flags/web").await;
    assert_eq!(latest.json(), json!({"key": "web", "version": 6}));
    let (mut stream, put) = site.relay.stream_with_put("/all", SDK_KEY).await;
    assert_eq!(put["data"]["flags"]["web"], json!({"key": "web", "version": 6}));
    assert_eq!(put["data"]["segments"]["beta"]["version"], 7);
    site.launchdarkly.delete_flag(ENVIRONMENT_ID, "web");
    let (name, _) = next_event(&mut stream).await;
    assert_eq!(name, "delete");
    let latest = site.get("/sdk/latest-all").await.json();
    assert_eq!(latest["flags"].as_object().unwrap().len(), 2);
}
