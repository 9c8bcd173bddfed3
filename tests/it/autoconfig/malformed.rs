//! Messages that make no sense: what is known stays, what makes sense beside them is taken, and
//! nobody is refused for good meanwhile.

use pilotlight::testing::demo::fake_launchdarkly::{
    FakeLaunchDarkly, Fault, FaultRule, FaultScope, StreamSelector,
};
use pilotlight::testing::demo::representations::FilterRep;
use serde_json::{Value, json};

use pilotlight_test_kit::eventually;
use pilotlight_test_kit::relay::LONG;
use pilotlight_test_kit::scene::{
    Scene, environment, flag, load, patch_of, put_of, sdk, wait_for_code, with_anchor,
};

/// What LaunchDarkly says about an environment, changed by hand.
fn said(launchdarkly: &FakeLaunchDarkly, id: &str) -> Value {
    serde_json::to_value(launchdarkly.environment(id).unwrap()).unwrap()
}

/// The environment at its next version, with a designated key that its own list does not hold.
fn contradicting(launchdarkly: &FakeLaunchDarkly, id: &str) -> Value {
    let mut rep = said(launchdarkly, id);
    rep["version"] = (rep["version"].as_u64().unwrap() + 1).into();
    rep["sdkKey"]["value"] = "sdk-unlisted".into();
    rep
}

/// Waits until the relay has told of invalid data and has asked so many times.
async fn wait_for_reconnect(scene: &Scene, requests: usize) {
    let status = scene
        .relay
        .wait_for_status("invalid data shows", |status| {
            status["autoConfigStatus"]["lastError"]["kind"] == "INVALID_DATA"
        })
        .await;
    assert!(status["autoConfigStatus"]["lastError"]["statusCode"].is_null());
    eventually("the stream is opened again", async || {
        let found = scene.autoconfig_requests();
        if found >= requests { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
}

async fn is_known(scene: &Scene, id: &str) {
    let what = format!("{id} is known");
    scene.relay.wait_for_status(&what, |status| status["environments"][id].is_object()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_malformed_environment_of_a_put_harms_no_other() {
    let scene = Scene::healthy(&["bad", "good", "gone"].map(environment)).await;
    let (mut client, _) = scene.stream(&sdk("bad")).await;
    // The version of a good environment rises with its new key; "gone" is not named any more.
    let good = with_anchor(environment("good"), "sdk-good-2");
    let malformed = contradicting(&scene.launchdarkly, "bad");
    let mut corrected = malformed.clone();
    corrected["sdkKeys"] = json!([{"key": "default", "value": "sdk-unlisted"}]);
    scene.launchdarkly.clear_log();
    let mut good_said = serde_json::to_value(&good).unwrap();
    good_said["version"] = 9.into();
    let put = put_of(&json!({"bad": malformed, "good": good_said, "new": {"envID": "new"}}));
    let fault = scene.autoconfig_puts(&put);
    scene.cut_autoconfig();

    // The fake knows the new key, so that its stream opens; its patch is older than the put.
    scene.launchdarkly.upsert_environment(good);
    scene.stream("sdk-good-2").await;
    scene.wait_for_code(&sdk("gone"), 503).await;
    wait_for_reconnect(&scene, 2).await;
    // Of the malformed one the last good form stays. Its keys are not known, so nobody is
    // refused for good.
    scene.expect_patch("bad", &mut client).await;
    assert_eq!(scene.code(&sdk("bad")).await, 200);
    for key in ["sdk-unlisted", "sdk-of-nobody", &*sdk("good")] {
        scene.wait_for_code(key, 503).await;
    }
    assert!(scene.relay.log().contains("cannot be used"), "{}", scene.relay.log());

    // The last good form is also what a cold start finds.
    scene.relay.wait_until_stored().await;
    let scene = scene.restart(FakeLaunchDarkly::refuse).await;
    for (key, expected) in [(&*sdk("bad"), 200), ("sdk-good-2", 200), (&*sdk("gone"), 503)] {
        scene.wait_for_code(key, expected).await;
    }

    // Corrected under the version that the malformed one had.
    let put = put_of(&json!({"bad": corrected, "good": good_said}));
    scene.autoconfig_puts(&put);
    scene.launchdarkly.clear_fault(fault);
    scene.launchdarkly.start().unwrap();
    scene.wait_for_code("sdk-of-nobody", 401).await;
    assert_eq!(scene.code("sdk-unlisted").await, 200);
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrected_environment_is_taken_at_the_version_of_the_malformed_one() {
    let scene = Scene::healthy(&["bad", "other"].map(environment)).await;
    let malformed = contradicting(&scene.launchdarkly, "bad");
    let other = said(&scene.launchdarkly, "other");
    let put = put_of(&json!({"bad": malformed, "other": other}));
    scene.launchdarkly.clear_log();
    let fault = scene.autoconfig_puts(&put);
    scene.cut_autoconfig();
    scene.wait_for_code("sdk-of-nobody", 503).await;
    let status = scene.relay.status().await;
    assert_eq!(status["autoConfigStatus"]["state"], "INTERRUPTED", "{status:#}");

    let mut corrected = malformed;
    corrected["sdkKeys"] = json!([{"key": "default", "value": "sdk-unlisted"},
        {"key": "old", "value": sdk("bad")}]);
    let put = put_of(&json!({"bad": corrected, "other": other}));
    // The older fault decides as long as it is there, so that no other put comes in between.
    scene.autoconfig_puts(&put);
    scene.launchdarkly.clear_fault(fault);
    scene.wait_for_code("sdk-of-nobody", 401).await;
    scene.wait_for_code("sdk-unlisted", 200).await;
    let status = scene.wait_for_autoconfig("VALID").await;
    assert_eq!(status["autoConfigStatus"]["lastError"]["kind"], "INVALID_DATA", "it is kept");
    scene.assert_sound();
}

/// Sends something that cannot be used, while the next connection brings no put: the relay asks
/// again, keeps what it has and refuses nobody for good, until a put settles it.
async fn check(event: &str, data: &[u8]) {
    let scene = Scene::healthy(&[environment("e1")]).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    assert_eq!(scene.code("sdk-of-nobody").await, 401);
    let silent = FaultRule::new(FaultScope::Autoconfig, Fault::WithoutPut);
    let fault = scene.launchdarkly.inject(silent);
    scene.launchdarkly.clear_log();
    scene.launchdarkly.push_raw(&StreamSelector::Autoconfig, event, data);
    wait_for_reconnect(&scene, 1).await;
    let shown = String::from_utf8_lossy(data);
    scene.wait_for_code("sdk-of-nobody", 503).await;
    assert_eq!(scene.code(&sdk("e1")).await, 200, "{event} {shown}");
    scene.launchdarkly.clear_fault(fault);
    let autoconfig = StreamSelector::Autoconfig;
    scene.launchdarkly.wait_for_streams(&autoconfig, 1, LONG).await.unwrap();
    scene.launchdarkly.send_autoconfig_put();
    scene.wait_for_code("sdk-of-nobody", 401).await;
    scene.wait_for_autoconfig("VALID").await;
    scene.expect_patch("e1", &mut client).await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_environments_of_patches_are_left_out() {
    let keys = json!([{"key": "default", "value": "sdk-a"}]);
    let cases = [
        // No key, an empty key, a key that no header can hold.
        json!({"envID": "e1", "version": 9}),
        json!({"envID": "e1", "version": 9, "sdkKey": {"value": "sdk-a"},
            "sdkKeys": [{"value": "sdk-a"}, {"value": ""}]}),
        json!({"envID": "e1", "version": 9, "sdkKey": {"value": "sdk-\u{e9}"}}),
        // Designated keys that the lists do not hold.
        json!({"envID": "e1", "version": 9, "sdkKey": {"value": "sdk-b"}, "sdkKeys": keys}),
        json!({"envID": "e1", "version": 9, "sdkKey": {"value": "sdk-a"}, "mobKey": "mob-a",
            "mobileKeys": [{"value": "mob-b"}]}),
        json!({"envID": "e1", "version": 9, "sdkKey": {"value": "sdk-a"},
            "mobileKeys": [{"value": "mob-b"}]}),
        // Wrong types.
        json!({"envID": "e1", "version": "nine", "sdkKey": {"value": "sdk-a"}}),
        json!("e1"),
    ];
    for environment in cases {
        check("patch", patch_of("e1", &environment).to_string().as_bytes()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_no_json_or_of_another_shape_are_left_out() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let cases: [(&str, &[u8]); 8] = [
        ("put", b"{\"path\":\"/\",\"data\":{\"environments\":{\"e1\":{"),
        ("put", b"\xff\xfe{}"),
        ("put", b"{\"path\":\"/\",\"data\":{\"environments\":[]}}"),
        ("put", deep.as_bytes()),
        ("patch", b"{\"path\":\"/environments/e1\",\"data\":"),
        ("patch", b"{\"path\":7}"),
        ("delete", b"{\"path\":\"/environments/e1\",\"version\":\"2\"}"),
        ("patch", b"{\"path\":\"/filters/f\",\"data\":{\"projKey\":[]}}"),
    ];
    for (event, data) in cases {
        check(event, data).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_filter_keeps_its_last_good_form() {
    let filter = FilterRep { proj_key: "web".to_owned(), key: "small".to_owned(), version: 0 };
    let scene = Scene::start(|launchdarkly| {
        launchdarkly.upsert_filter("f1", filter);
        launchdarkly.upsert_flag(("e1", "small"), flag("x")).unwrap();
        load(launchdarkly, &environment("e1"));
    });
    scene.relay.wait_until_healthy(2).await;
    scene.launchdarkly.clear_log();
    let mut put = put_of(&json!({"e1": said(&scene.launchdarkly, "e1"),
        "e2": serde_json::to_value(environment("e2")).unwrap()}));
    put["data"]["filters"] = json!({"f1": {"projKey": ["web"], "key": "small", "version": 2}});
    scene.autoconfig_puts(&put);
    scene.cut_autoconfig();
    // The environments beside it are taken in.
    is_known(&scene, "e2").await;
    wait_for_reconnect(&scene, 2).await;
    let path = "/sdk/latest-flags?filter=";
    wait_for_code(&scene.relay, &format!("{path}small"), &sdk("e1"), 200).await;
    wait_for_code(&scene.relay, &format!("{path}other"), &sdk("e1"), 503).await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_breaks_off_changes_nothing() {
    let scene = Scene::healthy(&["e1", "e2"].map(environment)).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    scene.launchdarkly.clear_log();
    let cut = Fault::CutAfter { bytes: 700 };
    scene.launchdarkly.inject(FaultRule::new(FaultScope::Autoconfig, cut).times(1));
    scene.cut_autoconfig();
    eventually("another connection follows", async || {
        let found = scene.autoconfig_requests();
        if found >= 2 { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
    scene.wait_for_autoconfig("VALID").await;
    assert_eq!(scene.code("sdk-of-nobody").await, 401);
    scene.expect_patch("e1", &mut client).await;
    assert_eq!(scene.code(&sdk("e2")).await, 200);
    assert!(!scene.relay.log().contains("environment removed"), "{}", scene.relay.log());
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_launchdarkly_may_send_is_passed_over() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    let elsewhere = json!({"path": "/elsewhere", "data": {"environments": {}}});
    scene.push_autoconfig("put", &elsewhere);
    scene.push_autoconfig("patch", &json!({"path": "/cats/tom", "data": true}));
    scene.push_autoconfig("delete", &json!({"path": "/cats/tom", "version": 7}));
    for event in ["news", "weather", "news"] {
        let autoconfig = StreamSelector::Autoconfig;
        scene.launchdarkly.push_raw(&autoconfig, event, b"{ not even json");
    }
    let mut foreign = said(&scene.launchdarkly, "e1");
    foreign["sdkKey"]["value"] = "sdk-foreign".into();
    scene.push_autoconfig("patch", &patch_of("e9", &foreign));
    // With members and collections that this version does not know.
    let mut rep = serde_json::to_value(with_anchor(environment("e2"), &sdk("e2"))).unwrap();
    rep["future"] = json!({"nested": [1, 2.0]});
    rep["version"] = 1.into();
    scene.push_autoconfig("patch", &patch_of("e2", &rep));
    is_known(&scene, "e2").await;
    scene.expect_patch("e1", &mut client).await;
    assert_eq!(scene.autoconfig_requests(), 1, "nothing of that is a reason to connect again");
    let status = scene.wait_for_autoconfig("VALID").await;
    assert!(status["autoConfigStatus"]["lastError"].is_null(), "{status:#}");
    let log = scene.relay.log();
    assert_eq!(log.matches("unknown autoconfig event").count(), 1, "told once: {log}");
    assert!(log.contains("environment skipped"), "{log}");
    scene.assert_sound();
}
