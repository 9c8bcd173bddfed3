//! Keys of an environment: added, removed, expiring, and those that are refused.

use std::time::Duration;

use pilotlight::testing::demo::fake_launchdarkly::{Fault, FaultRule, FaultScope};
use pilotlight::testing::demo::representations::{EnvironmentRep, ExpiringKeyRep, KeyRep};
use serde_json::Value;

use pilotlight_test_kit::relay::next_event;
use pilotlight_test_kit::scene::{
    Scene, assert_ends, environment, from_now, load, patch_of, sdk, wait_for_mobile, with_keys,
};

/// Long enough for a stream to be opened on a busy machine.
const SOON: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_mobile_key_changes_without_touching_anything_else() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    let mut rep = environment("e1");
    rep.mob_key = "mob-new".to_owned();
    rep.mobile_keys = vec![KeyRep::permanent("default", "mob-new")];
    scene.launchdarkly.upsert_environment(rep.clone());
    wait_for_mobile(&scene.relay, "mob-new", true).await;
    wait_for_mobile(&scene.relay, "mob-e1", false).await;

    // An environment without any mobile key is as valid.
    rep.mob_key = String::new();
    rep.mobile_keys = Vec::new();
    scene.launchdarkly.upsert_environment(rep);
    wait_for_mobile(&scene.relay, "mob-new", false).await;
    scene.expect_patch("e1", &mut client).await;
    assert_eq!(scene.flag_requests(&sdk("e1")), 1);
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_key_ends_its_streams_and_no_others() {
    let keys = ["sdk-a", "sdk-b"].map(|key| KeyRep::permanent(key, key));
    let scene = Scene::healthy(&[with_keys(environment("e1"), keys.clone())]).await;
    let (mut anchor, _) = scene.stream(&sdk("e1")).await;
    let (mut a, _) = scene.stream("sdk-a").await;
    let (mut b, _) = scene.stream("sdk-b").await;
    let [_, kept] = keys;
    scene.launchdarkly.upsert_environment(with_keys(environment("e1"), [kept]));
    assert_ends(&mut a).await;
    assert_eq!(scene.code("sdk-a").await, 401);
    scene.expect_patch("e1", &mut anchor).await;
    let (name, _) = next_event(&mut b).await;
    assert_eq!(name, "patch");
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_refused_after_its_end_and_its_streams_end() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    let end = from_now(SOON);
    let keys = [
        KeyRep::expiring("ends", "sdk-ends", end),
        KeyRep::expiring("saved", "sdk-saved", end),
        KeyRep::expiring("over", "sdk-over", from_now(Duration::ZERO) - 1_000),
    ];
    let mut rep = with_keys(environment("e1"), keys);
    rep.mobile_keys.push(KeyRep::expiring("ends", "mob-ends", end));
    // The designated key is permanent, whatever its entry says.
    rep.sdk_keys[0].expiry = Some(end);
    scene.launchdarkly.upsert_environment(rep.clone());
    let (mut anchor, _) = scene.stream(&sdk("e1")).await;
    let (mut ends, _) = scene.stream("sdk-ends").await;
    let (mut saved, _) = scene.stream("sdk-saved").await;
    wait_for_mobile(&scene.relay, "mob-ends", true).await;
    assert_eq!(scene.code("sdk-over").await, 401, "expired already when it came");
    let status = scene.relay.status().await;
    let listed = status["environments"]["e1"]["sdkKeys"].as_array().unwrap().iter();
    let expiry = |key: &Value| Some((key["key"].as_str()?.to_owned(), key["expiry"].as_u64()?));
    let expiring: Vec<_> = listed.filter_map(expiry).collect();
    assert!(expiring.contains(&("ends".to_owned(), end)), "{expiring:?}");
    assert!(expiring.iter().all(|(name, _)| name != "default"), "{expiring:?}");
    assert!(status["environments"]["e1"]["expiringSdkKey"].is_string(), "{status:#}");

    // Without its end in a later payload a key is permanent again.
    rep.sdk_keys[2].expiry = None;
    scene.launchdarkly.upsert_environment(rep);
    assert!(from_now(Duration::ZERO) < end, "the machine is too slow for this test");

    assert_ends(&mut ends).await;
    assert!(from_now(Duration::ZERO) > end, "ended before its time");
    assert_eq!(scene.code("sdk-ends").await, 401);
    wait_for_mobile(&scene.relay, "mob-ends", false).await;
    assert_eq!(scene.code("sdk-saved").await, 200);
    scene.expect_patch("e1", &mut anchor).await;
    let (name, _) = next_event(&mut saved).await;
    assert_eq!(name, "patch");
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_single_expiring_key_of_older_senders_is_accepted_until_its_end() {
    let mut rep = EnvironmentRep::simple("e1", &sdk("e1"), "mob-e1");
    let end = from_now(SOON);
    rep.sdk_key.expiring = ExpiringKeyRep { value: "sdk-old".to_owned(), timestamp: end };
    let scene = Scene::healthy(&[rep]).await;
    let (mut old, _) = scene.stream("sdk-old").await;
    wait_for_mobile(&scene.relay, "mob-e1", true).await;
    assert_ends(&mut old).await;
    assert!(from_now(Duration::ZERO) > end, "ended before its time");
    assert_eq!(scene.code("sdk-old").await, 401);
    assert_eq!(scene.code(&sdk("e1")).await, 200);
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_with_an_end_survive_a_cold_start_and_end_in_it() {
    let far = KeyRep::expiring("far", "sdk-far", from_now(Duration::from_secs(3_600)));
    let near = KeyRep::expiring("near", "sdk-near", from_now(SOON));
    let over = KeyRep::expiring("over", "sdk-over", from_now(Duration::ZERO) - 1_000);
    let scene = Scene::healthy(&[with_keys(environment("e1"), [far, near, over])]).await;
    let outage = FaultRule::new(FaultScope::Everything, Fault::BlackHole);
    let scene = scene
        .restart(|launchdarkly| {
            launchdarkly.inject(outage);
        })
        .await;
    for key in [&sdk("e1"), "sdk-far"] {
        scene.wait_for_code(key, 200).await;
    }
    // Not 401: LaunchDarkly may have given it a longer life meanwhile.
    assert_eq!(scene.code("sdk-over").await, 503);
    scene.wait_for_code("sdk-near", 503).await;
    assert_eq!(scene.code("sdk-far").await, 200);
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_bound_to_views_are_refused_and_told_once() {
    let bound =
        |name: &str, value: &str| KeyRep { has_views: true, ..KeyRep::permanent(name, value) };
    let mut rep = with_keys(
        environment("e1"),
        [
            bound("bound-key", "sdk-bound"),
            KeyRep::permanent("plain", "sdk-twice"),
            bound("twice", "sdk-twice"),
        ],
    );
    // On the designated keys the mark does not count.
    rep.sdk_keys[0].has_views = true;
    rep.mobile_keys[0].has_views = true;
    rep.mobile_keys.push(bound("bound-mobile", "mob-bound"));
    let scene = Scene::healthy(&[rep]).await;
    assert_eq!(scene.code(&sdk("e1")).await, 200);
    assert_eq!(scene.code("sdk-bound").await, 401);
    assert_eq!(scene.code("sdk-twice").await, 401);
    wait_for_mobile(&scene.relay, "mob-e1", true).await;
    wait_for_mobile(&scene.relay, "mob-bound", false).await;

    // Other changes are no reason to tell it again.
    for id in ["e2", "e3"] {
        load(&scene.launchdarkly, &environment(id));
    }
    scene.relay.wait_until_healthy(3).await;
    let log = scene.relay.log();
    for name in ["bound-key", "twice", "bound-mobile"] {
        let told = log.lines().filter(|line| line.contains("views") && line.contains(name)).count();
        assert_eq!(told, 1, "{name}: {log}");
    }
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_stands_in_status_or_log() {
    let scene = Scene::start_with(
        |launchdarkly| {
            let mut rep = environment("e1");
            rep.sdk_key.value = "sdk-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9".to_owned();
            rep.sdk_keys = vec![
                KeyRep::permanent("default", rep.sdk_key.value.clone()),
                KeyRep::permanent("extra", "sdk-11112222-3333-4444-5555-666677778888"),
            ];
            rep.mob_key = "mob-99990000-aaaa-bbbb-cccc-ddddeeeeffff".to_owned();
            rep.mobile_keys = vec![KeyRep::permanent("default", rep.mob_key.clone())];
            load(launchdarkly, &rep);
        },
        |settings| settings.with("LOG_LEVEL", "debug"),
    );
    let keys = [
        "sdk-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9",
        "sdk-11112222-3333-4444-5555-666677778888",
        "mob-99990000-aaaa-bbbb-cccc-ddddeeeeffff",
        "sdk-deadbeef-dead-beef-dead-beefdeadbeef",
    ];
    let status = scene.relay.wait_until_healthy(1).await.to_string();
    let mut bad = scene.launchdarkly.environment("e1").unwrap();
    // A payload that cannot be used is reported without its secrets.
    bad.sdk_key.value = keys[3].to_owned();
    let bad = serde_json::to_value(bad).unwrap();
    scene.push_autoconfig("patch", &patch_of("e1", &bad));
    scene.relay.wait_for_log("cannot be used").await;
    let refused = scene.relay.get_with_key("/all", keys[3]).await;
    let log = scene.relay.log();
    for key in keys {
        for (place, text) in [("status", &*status), ("log", &*log), ("body", refused.text())] {
            assert!(!text.contains(key), "{key} stands in {place}");
        }
    }
    assert!(status.contains("sdk-********-****-****-****-*******7e8f9"), "{status}");
}
