//! Environments come, change and go while the relay runs.

use pilotlight::testing::demo::fake_launchdarkly::{Fault, FaultRule, FaultScope, StreamSelector};
use pilotlight::testing::demo::representations::{EnvironmentRep, KeyRep};
use serde_json::{Value, json};

use pilotlight_test_kit::relay::{LONG, next_event};
use pilotlight_test_kit::scene::{
    Scene, assert_ends, code, environment, flags, load, patch_of, put_of, sdk, wait_for_code,
    wait_for_mobile, with_anchor, with_keys,
};

fn with_several_keys(id: &str) -> EnvironmentRep {
    let mut rep =
        with_keys(environment(id), [KeyRep::permanent("batch", format!("sdk-{id}-batch"))]);
    rep.mobile_keys.push(KeyRep::permanent("tablet", format!("mob-{id}-tablet")));
    rep
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_of_every_environment_opens_its_own() {
    let ids = ["e1", "e2", "e3"];
    let scene = Scene::healthy(&ids.map(with_several_keys)).await;
    for id in ids {
        for key in [sdk(id), format!("sdk-{id}-batch")] {
            let (_, put) = scene.stream(&key).await;
            assert_eq!(flags(&put), [format!("of-{id}")], "{key}");
        }
        for key in [format!("mob-{id}"), format!("mob-{id}-tablet")] {
            wait_for_mobile(&scene.relay, &key, true).await;
        }
        assert_ne!(code(&scene.relay, &format!("/ping/{id}"), "").await, 404);
        // Only the designated key has an upstream connection.
        assert_eq!(scene.flag_requests(&sdk(id)), 1);
        assert_eq!(scene.flag_requests(&format!("sdk-{id}-batch")), 0);
    }
    assert_eq!(scene.code("sdk-of-nobody").await, 401);
    assert_eq!(scene.code("mob-e1").await, 401, "a mobile key is no SDK key");
    wait_for_mobile(&scene.relay, "sdk-e1", false).await;
    assert_eq!(code(&scene.relay, "/ping/e9", "").await, 404);
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn environments_come_change_and_go() {
    let scene = Scene::healthy(&["e1", "e2"].map(environment)).await;
    let (mut stays, _) = scene.stream(&sdk("e1")).await;
    assert_eq!(scene.code(&sdk("new")).await, 401);

    load(&scene.launchdarkly, &environment("new"));
    let (mut goes, put) = scene.stream(&sdk("new")).await;
    assert_eq!(flags(&put), ["of-new"]);

    let mut renamed = environment("new");
    renamed.env_name = "Renamed".to_owned();
    renamed.secure_mode = true;
    renamed.default_ttl = 3;
    scene.launchdarkly.upsert_environment(renamed);
    scene
        .relay
        .wait_for_status("it is renamed", |status| {
            status["environments"]["new"]["envName"] == "Renamed"
        })
        .await;
    let poll = scene.relay.get_with_key("/sdk/latest-flags", &sdk("new")).await;
    assert!(poll.header("expires").is_some(), "the lifetime is obeyed");
    scene.expect_patch("new", &mut goes).await;
    assert_eq!(scene.flag_requests(&sdk("new")), 1, "nothing of that concerns the connection");

    scene.launchdarkly.delete_environment("new");
    assert_ends(&mut goes).await;
    // Refused before the stream ended: a client that comes back at once is not served.
    assert_eq!(scene.code(&sdk("new")).await, 401);
    assert_eq!(code(&scene.relay, "/ping/new", "").await, 404);
    wait_for_mobile(&scene.relay, "mob-new", false).await;
    scene.expect_patch("e1", &mut stays).await;
    scene.relay.wait_until_healthy(2).await;
    let key = StreamSelector::key(&sdk("new"));
    scene.launchdarkly.wait_for_streams(&key, 0, LONG).await.unwrap();

    // It may come back.
    load(&scene.launchdarkly, &environment("new"));
    scene.stream(&sdk("new")).await;
    scene.assert_sound();
}

fn rep(id: &str, key: &str, version: u64) -> Value {
    json!({"envID": id, "sdkKey": {"value": key}, "version": version})
}

fn delete(id: &str, version: u64) -> Value {
    json!({"path": format!("/environments/{id}"), "version": version})
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_than_what_is_known_changes_nothing() {
    let scene = Scene::start(|launchdarkly| {
        let rep = EnvironmentRep { version: 10, ..environment("e1") };
        load(launchdarkly, &rep);
    });
    scene.relay.wait_until_healthy(1).await;
    scene.push_autoconfig("patch", &patch_of("e1", &rep("e1", "sdk-older", 9)));
    scene.push_autoconfig("patch", &patch_of("e1", &rep("e1", "sdk-equal", 10)));
    scene.push_autoconfig("delete", &delete("e1", 10));
    // Deleted before it came: what is older than the deletion must not appear.
    scene.push_autoconfig("delete", &delete("early", 5));
    scene.push_autoconfig("patch", &patch_of("early", &rep("early", "sdk-early-5", 5)));
    // What comes after is proof that all of that was seen.
    load(&scene.launchdarkly, &environment("marker"));
    scene.relay.wait_until_healthy(2).await;
    assert_eq!(scene.code(&sdk("e1")).await, 200);
    for key in ["sdk-older", "sdk-equal", "sdk-early-5"] {
        assert_eq!(scene.code(key).await, 401, "{key}");
    }

    scene.push_autoconfig("patch", &patch_of("early", &rep("early", "sdk-early-6", 6)));
    wait_for_code(&scene.relay, "/sdk/latest-flags", "sdk-early-6", 503).await;
    scene.push_autoconfig("delete", &delete("early", 7));
    scene.wait_for_code("sdk-early-6", 401).await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_or_failing_environment_delays_no_other() {
    let hangs = with_keys(environment("hangs"), [KeyRep::permanent("extra", "sdk-hangs-extra")]);
    let scene = Scene::start(|launchdarkly| {
        let flags = |fault| FaultRule::new(FaultScope::Flags, fault);
        launchdarkly.inject(flags(Fault::BlackHole).for_key(&sdk("hangs")));
        launchdarkly.inject(flags(Fault::status(500)).for_key(&sdk("fails")));
        load(launchdarkly, &hangs);
        load(launchdarkly, &environment("fails"));
        load(launchdarkly, &with_several_keys("works"));
    });
    let (mut works, _) = scene.stream(&sdk("works")).await;
    assert_eq!(scene.code(&sdk("hangs")).await, 503, "known, without data");
    assert_eq!(scene.code("sdk-hangs-extra").await, 503);

    // Addition, revocation and rotation of others, and of the hanging one itself.
    load(&scene.launchdarkly, &environment("added"));
    scene.stream(&sdk("added")).await;
    let (mut batch, _) = scene.stream("sdk-works-batch").await;
    load(&scene.launchdarkly, &environment("works"));
    assert_ends(&mut batch).await;
    scene.launchdarkly.upsert_environment(environment("hangs"));
    scene.wait_for_code("sdk-hangs-extra", 401).await;
    let rotated = with_anchor(environment("works"), "sdk-works-2");
    scene.launchdarkly.upsert_environment(rotated);
    scene.stream("sdk-works-2").await;
    assert_ends(&mut works).await;
    scene.launchdarkly.delete_environment("fails");
    scene.wait_for_code(&sdk("fails"), 401).await;
    assert_eq!(scene.code(&sdk("hangs")).await, 503);

    scene.launchdarkly.clear_faults();
    scene.stream(&sdk("hangs")).await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_live_word_replaces_a_cached_one_of_the_same_version() {
    let cached = EnvironmentRep { version: 5, ..environment("e1") };
    let scene = Scene::healthy(&[cached]).await;
    let mut hole = None;
    let scene = scene
        .restart(|launchdarkly| {
            launchdarkly.upsert_environment(with_anchor(environment("e1"), "sdk-e1-live"));
            let mut live = serde_json::to_value(launchdarkly.environment("e1").unwrap()).unwrap();
            live["version"] = 5.into();
            let put = put_of(&json!({"e1": live})).to_string();
            let autoconfig = |fault| FaultRule::new(FaultScope::Autoconfig, fault);
            launchdarkly.inject(autoconfig(Fault::PutData(put.into())));
            hole = Some(launchdarkly.inject(autoconfig(Fault::BlackHole)));
        })
        .await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    scene.launchdarkly.clear_fault(hole.unwrap());
    scene.stream("sdk-e1-live").await;
    assert_ends(&mut client).await;
    assert_eq!(scene.code(&sdk("e1")).await, 401);
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_two_environments_opens_the_first_and_is_told_once() {
    let shared = |id| with_keys(environment(id), [KeyRep::permanent("both", "sdk-both")]);
    let scene = Scene::healthy(&[shared("e1"), shared("e2")]).await;
    let (_, put) = scene.stream("sdk-both").await;
    assert_eq!(flags(&put), ["of-e1"]);
    // Keys that expire are looked for ten times a second; each look used to tell it again.
    let (mut client, _) = scene.stream(&sdk("e2")).await;
    for _ in 0..5 {
        load(&scene.launchdarkly, &shared("e2"));
        let (name, _) = next_event(&mut client).await;
        assert_eq!(name, "patch");
    }
    let told = scene.relay.log().matches("already opens another one").count();
    assert_eq!(told, 1, "{}", scene.relay.log());
    // When the first one gives it up, the second one has it.
    load(&scene.launchdarkly, &environment("e1"));
    pilotlight_test_kit::eventually("the key moves", async || {
        let (_, put) = scene.stream("sdk-both").await;
        if flags(&put) == ["of-e2"] { Ok(()) } else { Err(put.to_string()) }
    })
    .await;
    scene.assert_sound();
}
