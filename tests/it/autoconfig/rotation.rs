//! A new designated SDK key: clients follow the list at once, whatever the upstream connections do.
//! The old upstream connection brings the data until the new one is live.

use std::time::Duration;

use pilotlight::testing::demo::fake_launchdarkly::{Fault, FaultRule, FaultScope, StreamSelector};
use pilotlight::testing::demo::representations::{EnvironmentRep, ExpiringKeyRep, KeyRep};

use pilotlight_test_kit::relay::{LONG, next_event};
use pilotlight_test_kit::scene::{
    Scene, assert_ends, environment, flags, from_now, load, sdk, with_anchor, with_keys,
};

fn flags_of(key: &str, fault: Fault) -> FaultRule {
    FaultRule::new(FaultScope::Flags, fault).for_key(key)
}

async fn upstream_streams(scene: &Scene, key: &str, count: usize) {
    let selector = StreamSelector::key(key);
    scene.launchdarkly.wait_for_streams(&selector, count, LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_key_is_refused_at_once_and_the_old_connection_brings_the_data_for_the_new_one()
{
    let scene = Scene::healthy(&[environment("e1")]).await;
    let (mut old, _) = scene.stream(&sdk("e1")).await;
    let hole = scene.launchdarkly.inject(flags_of("sdk-new", Fault::BlackHole));
    scene.launchdarkly.upsert_environment(with_anchor(environment("e1"), "sdk-new"));

    // LaunchDarkly hangs on the new key, and the old one is not in the list any more.
    assert_ends(&mut old).await;
    assert_eq!(scene.code(&sdk("e1")).await, 401);
    // The new key is accepted and served from what the old connection brings.
    let (mut new, put) = scene.stream("sdk-new").await;
    assert_eq!(flags(&put), ["of-e1"]);
    scene.wait_for_flag_requests("sdk-new", 1).await;
    scene.expect_patch("e1", &mut new).await;
    let status = scene.relay.status().await;
    let connection = &status["environments"]["e1"]["connectionStatus"];
    assert_eq!(connection["state"], "VALID", "{status:#}");
    let keys = status["environments"]["e1"]["sdkKeys"].as_array().unwrap();
    assert_eq!(keys.len(), 1, "{status:#}");

    scene.launchdarkly.clear_fault(hole);
    upstream_streams(&scene, "sdk-new", 1).await;
    upstream_streams(&scene, &sdk("e1"), 0).await;
    scene.expect_patch("e1", &mut new).await;
    assert_eq!(scene.code(&sdk("e1")).await, 401);
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_that_launchdarkly_rejects_does_no_harm_to_the_data() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    scene.launchdarkly.inject(flags_of("sdk-bad", Fault::status(401)));
    scene.launchdarkly.upsert_environment(with_anchor(environment("e1"), "sdk-bad"));
    let status = scene
        .relay
        .wait_for_status("the rejection shows", |status| {
            status["environments"]["e1"]["connectionStatus"]["lastError"]["statusCode"] == 401
        })
        .await;
    // The data is as live as before.
    assert_eq!(status["environments"]["e1"]["connectionStatus"]["state"], "VALID", "{status:#}");
    assert_eq!(status["status"], "healthy");
    let (mut client, _) = scene.stream("sdk-bad").await;
    scene.expect_patch("e1", &mut client).await;
    assert_eq!(scene.code(&sdk("e1")).await, 401);

    scene.launchdarkly.upsert_environment(with_anchor(environment("e1"), "sdk-good"));
    assert_ends(&mut client).await;
    for (key, expected) in [(&*sdk("e1"), 401), ("sdk-bad", 401), ("sdk-good", 200)] {
        assert_eq!(scene.code(key).await, expected, "{key}");
    }
    upstream_streams(&scene, "sdk-good", 1).await;
    scene.assert_sound();
}

/// LaunchDarkly may know a new key later than the relay does: it is tried again, first after half
/// a minute, and the payload that told of it need not come again.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_that_is_rejected_at_first_takes_over_when_it_is_known() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    let rejection = scene.launchdarkly.inject(flags_of("sdk-new", Fault::status(401)));
    scene.launchdarkly.upsert_environment(with_anchor(environment("e1"), "sdk-new"));
    scene.wait_for_flag_requests("sdk-new", 1).await;
    let (mut new, _) = scene.stream("sdk-new").await;
    scene.launchdarkly.clear_fault(rejection);
    let selector = StreamSelector::key("sdk-new");
    scene.launchdarkly.wait_for_streams(&selector, 1, 3 * LONG).await.unwrap();
    upstream_streams(&scene, &sdk("e1"), 0).await;
    assert_eq!(scene.code(&sdk("e1")).await, 401);
    scene.expect_patch("e1", &mut new).await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_can_be_taken_back() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    scene.launchdarkly.inject(flags_of("sdk-new", Fault::BlackHole));
    scene.launchdarkly.upsert_environment(with_anchor(environment("e1"), "sdk-new"));
    scene.wait_for_flag_requests("sdk-new", 1).await;
    scene.wait_for_code("sdk-new", 200).await;
    scene.launchdarkly.upsert_environment(environment("e1"));
    scene.wait_for_code("sdk-new", 401).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    scene.launchdarkly.clear_faults();
    scene.expect_patch("e1", &mut client).await;
    assert_eq!(scene.flag_requests(&sdk("e1")), 1, "the connection is the first one");

    // And forth again: nothing is left over from the first time.
    scene.launchdarkly.upsert_environment(with_anchor(environment("e1"), "sdk-new"));
    assert_ends(&mut client).await;
    upstream_streams(&scene, "sdk-new", 1).await;
    upstream_streams(&scene, &sdk("e1"), 0).await;
    assert_eq!(scene.code(&sdk("e1")).await, 401);
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn between_keys_that_are_both_accepted_no_stream_ends() {
    let both = |anchor: &str| {
        let mut rep = with_anchor(environment("e1"), anchor);
        rep.sdk_keys = ["sdk-a", "sdk-b"].map(|key| KeyRep::permanent(key, key)).to_vec();
        rep
    };
    let scene = Scene::healthy(&[both("sdk-a")]).await;
    let (mut a, _) = scene.stream("sdk-a").await;
    let (mut b, _) = scene.stream("sdk-b").await;
    scene.launchdarkly.upsert_environment(both("sdk-b"));
    upstream_streams(&scene, "sdk-b", 1).await;
    upstream_streams(&scene, "sdk-a", 0).await;
    // The new connection's put says nothing new, so the patch is the next event of both.
    scene.expect_patch("e1", &mut a).await;
    let (name, _) = next_event(&mut b).await;
    assert_eq!(name, "patch");
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_with_grace_keeps_the_old_key_until_its_end() {
    let first = EnvironmentRep::simple("e1", "sdk-a", "");
    let scene = Scene::healthy(&[first]).await;
    let (mut old, _) = scene.stream("sdk-a").await;
    let end = from_now(Duration::from_secs(5));
    let mut rotated = EnvironmentRep::simple("e1", "sdk-b", "");
    rotated.sdk_key.expiring = ExpiringKeyRep { value: "sdk-a".to_owned(), timestamp: end };
    scene.launchdarkly.upsert_environment(rotated);
    upstream_streams(&scene, "sdk-b", 1).await;
    upstream_streams(&scene, "sdk-a", 0).await;
    scene.expect_patch("e1", &mut old).await;
    assert_ends(&mut old).await;
    assert!(from_now(Duration::ZERO) > end, "ended before its time");
    assert_eq!(scene.code("sdk-a").await, 401);
    assert_eq!(scene.code("sdk-b").await, 200);
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn rotations_one_after_the_other_end_with_the_newest_key() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    for key in ["sdk-1", "sdk-2", "sdk-3", "sdk-4"] {
        scene.launchdarkly.upsert_environment(with_anchor(environment("e1"), key));
    }
    // Another environment shows that all of that was taken in.
    load(&scene.launchdarkly, &with_keys(environment("e2"), []));
    scene.stream(&sdk("e2")).await;
    upstream_streams(&scene, "sdk-4", 1).await;
    scene.wait_for_code(&sdk("e1"), 401).await;
    for (key, expected) in [("sdk-1", 401), ("sdk-2", 401), ("sdk-3", 401), ("sdk-4", 200)] {
        assert_eq!(scene.code(key).await, expected, "{key}");
    }
    let all = StreamSelector::flags("e1");
    scene.launchdarkly.wait_for_streams(&all, 1, LONG).await.unwrap();
    scene.assert_sound();
}
