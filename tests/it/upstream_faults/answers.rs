//! Connections that are refused, hang, or are answered with something that is no stream.

use std::time::Duration;

use pilotlight::testing::demo::fake_launchdarkly::{
    FakeLaunchDarkly, FakeSettings, Fault, StreamSelector,
};
use serde_json::{Value, json};

use super::on_flags;
use pilotlight_test_kit::relay::{LONG, next_event};
use pilotlight_test_kit::scene::{Scene, environment, flag, load, sdk};

/// Longest wait for the head of a response. See `Deadlines`.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);

async fn wait_for_error(scene: &Scene, kind: &str, status_code: Option<u16>) -> Value {
    let expected = status_code.map_or(Value::Null, Value::from);
    let what = format!("{kind} {expected} shows");
    let status = scene
        .relay
        .wait_for_status(&what, |status| {
            let error = &status["environments"]["e1"]["connectionStatus"]["lastError"];
            error["kind"] == kind && error["statusCode"] == expected
        })
        .await;
    status["environments"]["e1"]["connectionStatus"].clone()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Recovery {
    /// Within seconds.
    Soon,
    /// After half a minute; too long to wait for in each case.
    Slow,
}

/// A connection that was live ends, and what follows it goes wrong: clients notice nothing.
async fn check(fault: Fault, kind: &str, status_code: Option<u16>, recovery: Recovery) {
    let scene = Scene::healthy(&[environment("e1")]).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    scene.launchdarkly.inject(on_flags(fault.clone()));
    scene.launchdarkly.cut_streams(&StreamSelector::AllFlags);
    // Changed while nobody hears of it.
    scene.launchdarkly.upsert_flag("e1", flag("missed")).unwrap();
    let status = wait_for_error(&scene, kind, status_code).await;
    let rejected = matches!(status_code, Some(401 | 403));
    let expected = if rejected { "OFF" } else { "INTERRUPTED" };
    assert_eq!(status["state"], expected, "{fault:?}");
    assert_eq!(scene.code(&sdk("e1")).await, 200, "{fault:?}");
    assert_eq!(scene.code("sdk-of-nobody").await, 401, "{fault:?}");
    let (_, put) = scene.stream(&sdk("e1")).await;
    assert_eq!(put["data"]["flags"]["missed"], Value::Null);
    let status = scene.relay.status().await;
    assert_eq!(status["environments"]["e1"]["data"]["origin"], "live", "{status:#}");
    if recovery == Recovery::Soon {
        scene.launchdarkly.clear_faults();
        scene.wait_for_connection("e1", "VALID").await;
        // The first thing that the client hears is what it missed, and only that.
        let (name, data) = next_event(&mut client).await;
        assert_eq!((name.as_str(), &data["path"]), ("patch", &json!("/flags/missed")));
    }
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_pass_by_themselves_are_tried_again_within_seconds() {
    for status in [400, 408, 429, 500, 502, 503, 504, 204, 304] {
        check(Fault::status(status), "ERROR_RESPONSE", Some(status), Recovery::Soon).await;
    }
    let busy = Fault::status_with_retry_after(429, Duration::from_secs(3_600));
    check(busy, "ERROR_RESPONSE", Some(429), Recovery::Soon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejections_leave_the_data_in_service() {
    for status in [401, 403, 404, 405, 410] {
        check(Fault::status(status), "ERROR_RESPONSE", Some(status), Recovery::Slow).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_event_stream_is_invalid_data() {
    check(Fault::web_page(), "INVALID_DATA", None, Recovery::Soon).await;
    let json = Fault::ContentType("application/json".to_owned());
    check(json, "INVALID_DATA", None, Recovery::Soon).await;
    check(Fault::Reset, "NETWORK_ERROR", None, Recovery::Soon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_key_is_tried_again_without_a_restart() {
    let scene = Scene::start(|launchdarkly| {
        load(launchdarkly, &environment("e1"));
        launchdarkly.inject(on_flags(Fault::status(401)).times(1));
    });
    let status = wait_for_error(&scene, "ERROR_RESPONSE", Some(401)).await;
    assert_eq!(status["state"], "OFF");
    assert_eq!(scene.code(&sdk("e1")).await, 503);
    scene.launchdarkly.wait_for_requests("/all", 2, LONG + LONG).await.unwrap();
    scene.wait_for_code(&sdk("e1"), 200).await;
    let requests = scene.launchdarkly.requests_for("/all");
    let pause = requests[1].at - requests[0].at;
    assert!(pause >= Duration::from_secs(15), "a rejected key is not hammered: {pause:?}");
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_is_tried_again() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    scene.launchdarkly.stop().await;
    wait_for_error(&scene, "NETWORK_ERROR", None).await;
    scene.relay.wait_for_log("refused").await;
    assert_eq!(scene.code(&sdk("e1")).await, 200);
    scene.launchdarkly.start().unwrap();
    // A relay is healthy for a minute after it lost its connection.
    scene.wait_for_connection("e1", "VALID").await;
    scene.expect_patch("e1", &mut client).await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_answers_costs_one_deadline() {
    let scene = Scene::start(|launchdarkly| {
        load(launchdarkly, &environment("e1"));
        launchdarkly.inject(on_flags(Fault::Hang).times(1));
    });
    let status = wait_for_error(&scene, "NETWORK_ERROR", None).await;
    assert_eq!(status["state"], "INITIALIZING");
    scene.wait_for_code(&sdk("e1"), 200).await;
    let requests = scene.launchdarkly.requests_for("/all");
    let pause = requests[1].at - requests[0].at;
    assert!(pause >= HEADER_DEADLINE, "{pause:?}");
    assert!(scene.relay.log().contains("waiting for the response header"));
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_put_is_not_taken_for_data() {
    for fault in [Fault::WithoutPut, Fault::Silence] {
        let scene = Scene::start(|launchdarkly| {
            launchdarkly.set_heartbeat(Some(Duration::from_millis(20)));
            load(launchdarkly, &environment("e1"));
            launchdarkly.inject(on_flags(fault.clone()));
        });
        let flags = StreamSelector::AllFlags;
        scene.launchdarkly.wait_for_streams(&flags, 1, LONG).await.unwrap();
        for _ in 0..20 {
            assert_eq!(scene.code(&sdk("e1")).await, 503, "{fault:?}");
        }
        let status = scene.relay.status().await;
        let environment = &status["environments"]["e1"];
        assert_eq!(environment["connectionStatus"]["state"], "INITIALIZING", "{status:#}");
        assert_eq!(environment["data"]["origin"], "none");
        // A patch before the put is no data set.
        if fault == Fault::WithoutPut {
            scene.launchdarkly.upsert_flag("e1", flag("early")).unwrap();
            assert_eq!(scene.code(&sdk("e1")).await, 503);
        }
        scene.launchdarkly.clear_faults();
        scene.launchdarkly.cut_streams(&flags);
        scene.wait_for_code(&sdk("e1"), 200).await;
        scene.assert_sound();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_alone_keep_a_live_connection_valid() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    scene.launchdarkly.set_heartbeat(Some(Duration::from_millis(5)));
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    for _ in 0..20 {
        let status = scene.relay.status().await;
        assert_eq!(status["status"], "healthy", "{status:#}");
    }
    scene.expect_patch("e1", &mut client).await;
    assert_eq!(scene.flag_requests(&sdk("e1")), 1);
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_followed_at_home_and_nowhere_else() {
    for status in [301, 307, 308] {
        let scene = Scene::start(|launchdarkly| {
            load(launchdarkly, &environment("e1"));
            let fault = Fault::redirect(status, "/all?moved=1");
            launchdarkly.inject(on_flags(fault).times(1));
        });
        scene.relay.wait_until_healthy(1).await;
        let queries: Vec<_> =
            scene.launchdarkly.requests_for("/all").into_iter().map(|r| r.query).collect();
        assert_eq!(queries, ["", "moved=1"]);
        assert_eq!(scene.flag_requests(&sdk("e1")), 2, "the key goes along at home");
    }
    check(Fault::redirect(301, "/all?again=1"), "UNKNOWN", None, Recovery::Soon).await;
    // Not to another place without TLS: it would get the key, or see whose key it is.
    let other = FakeLaunchDarkly::launch(&FakeSettings::default()).unwrap();
    let elsewhere = Fault::redirect(307, &format!("{}/all", other.uri()));
    check(elsewhere, "ERROR_RESPONSE", Some(307), Recovery::Soon).await;
    assert!(other.requests().is_empty());
}
