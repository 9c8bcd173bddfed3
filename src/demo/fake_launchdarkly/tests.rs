use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;

use super::super::composed_data;
use super::super::representations::{ExpiringKeyRep, KeyRep, SdkKeyRep};
use super::super::stream_client::{StreamClient, StreamClientError, StreamItem, StreamTarget};
use super::*;

/// Long enough that reaching it means a failure, not a slow machine.
pub(super) const LONG: Duration = Duration::from_secs(10);

/// A stream without data for this time is silent.
pub(super) const SHORT: Duration = Duration::from_millis(30);

/// A service with environment `e1` (`sdk-a`, `mob-a`) and two flags.
pub(super) fn fake() -> FakeLaunchDarkly {
    let settings = FakeSettings {
        autoconfig_key: "rel-a".to_owned(),
        heartbeat: None,
        ..FakeSettings::default()
    };
    let fake = FakeLaunchDarkly::launch(&settings).unwrap();
    fake.upsert_environment(EnvironmentRep::simple("e1", "sdk-a", "mob-a"));
    for key in ["f1", "f2"] {
        fake.upsert_flag("e1", json!({ "key": key })).unwrap();
    }
    fake
}

pub(super) async fn open(
    fake: &FakeLaunchDarkly,
    path: &str,
    key: &str,
) -> Result<StreamClient, StreamClientError> {
    let target = StreamTarget { opening_max: LONG, ..StreamTarget::new(fake.address(), path, key) };
    StreamClient::connect(&target).await
}

pub(super) async fn next(client: &mut StreamClient) -> Option<String> {
    let event = tokio::time::timeout(LONG, client.next()).await.unwrap().unwrap()?;
    Some(format!("{} {}", event.name, String::from_utf8_lossy(&event.data)))
}

#[track_caller]
fn assert_refused(opened: &Result<StreamClient, StreamClientError>, expected: u16) {
    match opened {
        Err(StreamClientError::Refused { status, .. }) => assert_eq!(*status, expected),
        other => panic!("{other:?} instead of {expected}"),
    }
}

struct Answer {
    status: u16,
    etag: String,
    environment: String,
    body: String,
}

async fn ask(fake: &FakeLaunchDarkly, request: Request<Full<Bytes>>) -> Answer {
    let stream = TcpStream::connect(fake.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let exchange = async move {
        let response = sender.send_request(request).await.unwrap();
        let header = |name| match response.headers().get(name) {
            Some(value) => value.to_str().unwrap().to_owned(),
            None => String::new(),
        };
        let (etag, environment) = (header("etag"), header("x-ld-envid"));
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Answer { status, etag, environment, body: String::from_utf8(body.to_vec()).unwrap() }
    };
    let (answer, _) =
        tokio::time::timeout(LONG, async { tokio::join!(exchange, connection) }).await.unwrap();
    answer
}

async fn get(fake: &FakeLaunchDarkly, path: &str, headers: &[(&str, &str)]) -> Answer {
    let request = headers
        .iter()
        .fold(Request::get(path), |request, (name, value)| request.header(*name, *value));
    ask(fake, request.body(Full::default()).unwrap()).await
}

async fn post(fake: &FakeLaunchDarkly, path: &str, headers: &[(&str, &str)], body: &str) -> u16 {
    let request = headers
        .iter()
        .fold(Request::post(path), |request, (name, value)| request.header(*name, *value));
    ask(fake, request.body(Full::from(body.to_owned())).unwrap()).await.status
}

#[tokio::test]
async fn autoconfig_shows_the_state_and_then_its_changes() {
    let fake = fake();
    let mut client = open(&fake, AUTOCONFIG_PATH, "rel-a").await.unwrap();
    assert_eq!(client.response_header("content-type"), Some("text/event-stream; charset=utf-8"));
    let put = next(&mut client).await.unwrap();
    assert!(
        put.starts_with(r#"put {"path":"/","data":{"environments":{"e1":{"envID":"e1","#),
        "{put}"
    );
    assert!(put.ends_with(r#""version":1}},"filters":{}}}"#), "{put}");
    let mut rep = fake.environment("e1").unwrap();
    rep.secure_mode = true;
    assert_eq!(fake.upsert_environment(rep), 2);
    let patch = next(&mut client).await.unwrap();
    assert!(
        patch.starts_with(r#"patch {"path":"/environments/e1","data":{"envID":"e1","#),
        "{patch}"
    );
    assert!(patch.contains(r#""secureMode":true,"version":2"#), "{patch}");
    let filter = FilterRep { proj_key: "project".to_owned(), key: "small".to_owned(), version: 3 };
    assert_eq!((fake.upsert_filter("f", filter), fake.delete_filter("f")), (3, 4));
    assert_eq!(fake.delete_environment("e1"), 3);
    assert_eq!(fake.send_reconnect(), 1);
    fake.send_autoconfig_put();
    for expected in [
        r#"patch {"path":"/filters/f","data":{"projKey":"project","key":"small","version":3}}"#,
        r#"delete {"path":"/filters/f","version":4}"#,
        r#"delete {"path":"/environments/e1","version":3}"#,
        "reconnect {}",
        r#"put {"path":"/","data":{"environments":{},"filters":{}}}"#,
    ] {
        assert_eq!(next(&mut client).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_flag_stream_shows_the_state_and_then_its_changes() {
    let fake = fake();
    let mut client = open(&fake, FLAGS_PATH, "api_key sdk-a").await.unwrap();
    assert_eq!(client.response_header("x-ld-envid"), Some("e1"));
    assert_eq!(fake.upsert_flag("e1", json!({ "key": "f1", "on": true })), Ok(2));
    assert_eq!(fake.upsert_segment("e1", json!({ "key": "s", "version": 9 })), Ok(9));
    assert_eq!((fake.delete_flag("e1", "f1"), fake.delete_segment("e1", "s")), (3, 10));
    let key = ItemKey::new(ItemKind::Flag, "f2");
    fake.upsert_raw("e1", &key, 1, r#"{ "older": 1.0 }"#);
    fake.send_flags_put("e1");
    fake.replace_data("e1", DataSet::default());
    for expected in [
        r#"put {"path":"/","data":{"flags":{"f1":{"key":"f1","version":1},"f2":{"key":"f2","version":1}},"segments":{}}}"#,
        r#"patch {"path":"/flags/f1","data":{"key":"f1","on":true,"version":2}}"#,
        r#"patch {"path":"/segments/s","data":{"key":"s","version":9}}"#,
        r#"delete {"path":"/flags/f1","version":3}"#,
        r#"delete {"path":"/segments/s","version":10}"#,
        r#"patch {"path":"/flags/f2","data":{ "older": 1.0 }}"#,
        r#"put {"path":"/","data":{"flags":{"f2":{"key":"f2","version":1}},"segments":{}}}"#,
        r#"put {"path":"/","data":{"flags":{},"segments":{}}}"#,
    ] {
        assert_eq!(next(&mut client).await.unwrap(), expected);
    }
    assert!(fake.data("e1").is_empty());
    assert!(fake.upsert_flag("e1", json!([])).is_err());
}

#[tokio::test]
async fn keys_open_what_they_belong_to() {
    let fake = fake();
    let far = u64::MAX;
    fake.upsert_environment(EnvironmentRep {
        sdk_key: SdkKeyRep {
            value: "sdk-b".to_owned(),
            expiring: ExpiringKeyRep { value: "sdk-a".to_owned(), timestamp: far },
        },
        ..EnvironmentRep::simple("e1", "", "mob-a")
    });
    fake.upsert_environment(EnvironmentRep {
        sdk_keys: vec![KeyRep::permanent("1", "sdk-c"), KeyRep::expiring("2", "sdk-d", 1)],
        ..EnvironmentRep::simple("e2", "sdk-c", "mob-c")
    });
    let check = async |path: &str, key: &str, expected: u16| {
        let opened = open(&fake, path, key).await;
        match expected {
            200 => assert!(opened.is_ok(), "{path} {key}: {opened:?}"),
            _ => assert_refused(&opened, expected),
        }
    };
    for key in ["sdk-a", "sdk-b", "sdk-c"] {
        check("/all", key, 200).await;
    }
    for key in ["sdk-d", "mob-a", "rel-a", "nobody", ""] {
        check("/all", key, 401).await;
    }
    check("/all?filter=unknown", "sdk-a", 404).await;
    check(AUTOCONFIG_PATH, "sdk-a", 401).await;
    fake.add_autoconfig_key("rel-b");
    check(AUTOCONFIG_PATH, "rel-b", 200).await;
    fake.revoke_autoconfig_key("rel-a");
    check(AUTOCONFIG_PATH, "rel-a", 401).await;
}

#[tokio::test]
async fn filters_have_data_of_their_own() {
    let fake = fake();
    fake.upsert_flag(("e1", "a b"), json!({ "key": "only" })).unwrap();
    let mut filtered = open(&fake, "/all?filter=a%20b", "sdk-a").await.unwrap();
    assert!(next(&mut filtered).await.unwrap().contains(r#""flags":{"only":{"#));
    fake.upsert_flag("e1", json!({ "key": "elsewhere" })).unwrap();
    fake.upsert_flag(("e1", "a b"), json!({ "key": "here" })).unwrap();
    assert!(next(&mut filtered).await.unwrap().contains("/flags/here"));
    assert_eq!(fake.open_streams(&StreamSelector::flags(("e1", "a b"))), 1);
    assert_eq!(fake.open_streams(&StreamSelector::flags("e1")), 0);
}

#[tokio::test]
async fn polls_answer_with_etags() {
    let fake = fake();
    let key = ("authorization", "sdk-a");
    let all = get(&fake, "/sdk/latest-all", &[key]).await;
    assert_eq!((all.status, all.environment.as_str()), (200, "e1"));
    assert_eq!(
        all.body,
        r#"{"flags":{"f1":{"key":"f1","version":1},"f2":{"key":"f2","version":1}},"segments":{}}"#
    );
    let weak = format!("W/{}", all.etag);
    for known in [&all.etag, &weak] {
        let again = get(&fake, "/sdk/latest-all", &[key, ("if-none-match", known)]).await;
        assert_eq!((again.status, again.body.as_str(), &again.etag), (304, "", &all.etag));
    }
    fake.delete_flag("e1", "f1");
    let changed = get(&fake, "/sdk/latest-all", &[key, ("if-none-match", &all.etag)]).await;
    assert_eq!(changed.status, 200);
    let check = async |path: &str, status: u16, body: &str| {
        let answer = get(&fake, path, &[key]).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{path}");
    };
    check("/sdk/flags", 200, r#"{"f2":{"key":"f2","version":1}}"#).await;
    check("/sdk/flags/f%32", 200, r#"{"key":"f2","version":1}"#).await;
    check("/sdk/flags/f1", 404, "").await;
    check("/sdk/segments/s", 404, "").await;
    check("/sdk/goals/e1", 200, "[]").await;
    check("/sdk/goals/e2", 404, "").await;
    check("/elsewhere", 404, "").await;
    assert_eq!(get(&fake, "/sdk/latest-all", &[("authorization", "x")]).await.status, 401);
}

#[tokio::test]
async fn events_are_recorded_once() {
    let fake = fake();
    let check = async |path: &str, key: &str, status: u16| {
        let headers = [("authorization", key)];
        let headers = if key.is_empty() { &[][..] } else { &headers[..] };
        assert_eq!(post(&fake, path, headers, "[]").await, status, "{path} {key}");
    };
    for path in ["/bulk", "/diagnostic"] {
        check(path, "sdk-a", 202).await;
        check(path, "mob-a", 401).await;
    }
    for path in ["/mobile", "/mobile/events/diagnostic"] {
        check(path, "mob-a", 202).await;
        check(path, "sdk-a", 401).await;
    }
    for path in ["/events/bulk/", "/events/diagnostic/"] {
        check(&format!("{path}e1"), "", 202).await;
        check(&format!("{path}e2"), "", 404).await;
    }
    check("/elsewhere", "sdk-a", 404).await;
    assert_eq!(fake.deliveries().len(), 6);
    let headers = [("authorization", "sdk-a"), ("x-launchdarkly-payload-id", "p")];
    for _ in 0..2 {
        assert_eq!(post(&fake, "/bulk", &headers, "raw \u{1f9ed}").await, 202);
    }
    let delivered = fake.wait_for_deliveries(7, LONG).await.unwrap();
    let last = delivered.last().unwrap();
    assert_eq!((last.copies, &last.body[..]), (2, "raw \u{1f9ed}".as_bytes()));
    assert!(fake.wait_for_deliveries(8, SHORT).await.is_err());
    fake.clear_log();
    assert!(fake.deliveries().is_empty() && fake.requests().is_empty());
}

#[tokio::test]
async fn oversized_events_and_other_methods_are_refused() {
    let fake = fake();
    let body = "x".repeat(10 * 1024 * 1024 + 1);
    assert_eq!(post(&fake, "/bulk", &[("authorization", "sdk-a")], &body).await, 413);
    let request = Request::delete("/bulk").body(Full::default()).unwrap();
    assert_eq!(ask(&fake, request).await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn requests_are_logged_with_all_they_said() {
    let fake = fake();
    let waiting = fake.wait_for_requests(AUTOCONFIG_PATH, 2, LONG);
    let asking = async {
        for key in ["rel-a", "wrong"] {
            let path = format!("{AUTOCONFIG_PATH}?rpacProtocolVersion=2");
            let _refused_or_not = open(&fake, &path, key).await;
        }
    };
    let (requests, ()) = tokio::join!(waiting, asking);
    let requests = requests.unwrap();
    let seen: Vec<_> = requests
        .iter()
        .map(|request| (request.method.as_str(), request.query.as_str(), request.authorization()))
        .collect();
    let query = "rpacProtocolVersion=2";
    assert_eq!(seen, [("GET", query, Some("rel-a")), ("GET", query, Some("wrong"))]);
    assert_eq!(requests[0].header("accept"), Some("text/event-stream"));
    assert!(requests[0].at <= requests[1].at);
    assert!(fake.requests_for("/all").is_empty());
    let error = fake.wait_for_requests("/all", 1, SHORT).await.unwrap_err();
    assert_eq!(error.to_string(), "no 1 requests for /all within 30ms; seen: []");
}

#[tokio::test]
async fn heartbeats_come_at_the_interval_in_force() {
    let fake = fake();
    let mut client = open(&fake, FLAGS_PATH, "sdk-a").await.unwrap();
    next(&mut client).await.unwrap();
    assert!(tokio::time::timeout(SHORT, client.next_item()).await.is_err());
    fake.set_heartbeat(Some(Duration::from_millis(1)));
    for _ in 0..3 {
        let item = tokio::time::timeout(LONG, client.next_item()).await.unwrap().unwrap();
        assert_eq!(item, Some(StreamItem::Comment));
    }
    let mut fresh = open(&fake, FLAGS_PATH, "sdk-a").await.unwrap();
    next(&mut fresh).await.unwrap();
    assert_eq!(fresh.next_item().await.unwrap(), Some(StreamItem::Comment));
}

#[tokio::test]
async fn streams_are_counted_selected_and_ended() {
    let fake = fake();
    fake.upsert_environment(EnvironmentRep::simple("e2", "sdk-b", ""));
    let autoconfig = open(&fake, AUTOCONFIG_PATH, "rel-a").await.unwrap();
    let mut first = open(&fake, FLAGS_PATH, "sdk-a").await.unwrap();
    let mut second = open(&fake, FLAGS_PATH, "sdk-b").await.unwrap();
    let count = |selector| fake.open_streams(&selector);
    assert_eq!(count(StreamSelector::All), 3);
    assert_eq!(count(StreamSelector::Autoconfig), 1);
    assert_eq!(count(StreamSelector::AllFlags), 2);
    assert_eq!(count(StreamSelector::flags("e2")), 1);
    assert_eq!(count(StreamSelector::key("sdk-a")), 1);
    assert_eq!(fake.push_raw(&StreamSelector::key("sdk-a"), "odd", b"last"), 1);
    assert_eq!(fake.close_streams(&StreamSelector::key("sdk-a")), 1);
    assert!(next(&mut first).await.unwrap().starts_with("put"));
    assert_eq!(next(&mut first).await.as_deref(), Some("odd last"), "what was sent still comes");
    assert_eq!(next(&mut first).await, None, "closed in order");
    assert_eq!(fake.cut_streams(&StreamSelector::flags("e2")), 1);
    let error = loop {
        match tokio::time::timeout(LONG, second.next()).await.unwrap() {
            Ok(Some(_put)) => {}
            Ok(None) => panic!("ended in order"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StreamClientError::CutShort | StreamClientError::Broken(_)));
    drop(autoconfig);
    fake.wait_for_streams(&StreamSelector::All, 0, LONG).await.unwrap();
    assert_eq!(fake.push_bytes(&StreamSelector::All, "nobody"), 0);
}

#[tokio::test]
async fn raw_bytes_go_out_as_they_are() {
    let fake = fake();
    let mut client = open(&fake, FLAGS_PATH, "sdk-a").await.unwrap();
    next(&mut client).await.unwrap();
    fake.push_bytes(&StreamSelector::AllFlags, &b"event: x\r\ndata: \xff"[..]);
    fake.push_bytes(&StreamSelector::AllFlags, &b"\xfe\r\n\r\n"[..]);
    let event = client.next().await.unwrap().unwrap();
    assert_eq!((event.name.as_str(), &event.data[..]), ("x", &b"\xff\xfe"[..]));
    fake.push_raw(&StreamSelector::AllFlags, "lines", b"one\ntwo");
    assert_eq!(next(&mut client).await.unwrap(), "lines one\ntwo");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let fake = fake();
    let stuck = open(&fake, FLAGS_PATH, "sdk-a").await.unwrap();
    let large = Bytes::from(vec![b'x'; 64 * 1024]);
    let mut pushed = 0;
    while fake.push_bytes(&StreamSelector::AllFlags, large.clone()) == 1 {
        pushed += 1;
        assert!(pushed < 100_000, "the queue has no end");
    }
    assert_eq!(fake.open_streams(&StreamSelector::AllFlags), 0);
    drop(stuck);
}

#[tokio::test]
async fn composed_environments_are_served_whole() {
    let fake = fake();
    let composed = composed_data::environment(7, 300);
    fake.load(&composed);
    assert_eq!(fake.data(&composed.rep.env_id), composed.data);
    let mut client = open(&fake, FLAGS_PATH, &composed.rep.sdk_key.value).await.unwrap();
    let event = client.next().await.unwrap().unwrap();
    let put: Value = serde_json::from_slice(&event.data).unwrap();
    assert_eq!(put["data"]["flags"].as_object().unwrap().len(), 300);
    assert_eq!(put["data"]["segments"].as_object().unwrap().len(), 6);
    let changed = composed_data::changed_flag(7, 5, 1);
    let version = fake.upsert_flag(&composed.rep.env_id, changed).unwrap();
    assert_eq!(version, composed_data::flag_version(5, 1));
    assert!(next(&mut client).await.unwrap().contains(&composed_data::flag_key(5)));
}

#[tokio::test]
async fn the_service_ends_with_its_last_handle() {
    let fake = fake();
    let mut client = open(&fake, FLAGS_PATH, "sdk-a").await.unwrap();
    next(&mut client).await.unwrap();
    let second = fake.clone();
    drop(fake);
    second.upsert_flag("e1", json!({ "key": "f1" })).unwrap();
    next(&mut client).await.unwrap();
    drop(second);
    let ended = tokio::time::timeout(LONG, client.next()).await.unwrap();
    assert!(ended.is_err(), "{ended:?}");
}
