//! `autoConfigStatus`: ld-relay's states and what moves between them.

use std::time::Duration;

use pilotlight::testing::demo::fake_launchdarkly::{Fault, FaultRule, FaultScope, StreamSelector};
use pilotlight::testing::demo::representations::KeyRep;
use serde_json::Value;

use pilotlight_test_kit::relay::{LONG, RelaySettings};
use pilotlight_test_kit::scene::{Scene, environment, from_now, load, sdk, with_keys};

fn on_autoconfig(fault: Fault) -> FaultRule {
    FaultRule::new(FaultScope::Autoconfig, fault)
}

async fn wait_for_error(scene: &Scene, kind: &str) -> Value {
    let what = format!("an error of kind {kind}");
    let status = scene
        .relay
        .wait_for_status(&what, |status| status["autoConfigStatus"]["lastError"]["kind"] == kind)
        .await;
    status["autoConfigStatus"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_tells_of_environments_makes_it_valid() {
    let scene = Scene::start(|launchdarkly| {
        load(launchdarkly, &environment("e1"));
        launchdarkly.set_heartbeat(Some(Duration::from_millis(20)));
        launchdarkly.inject(on_autoconfig(Fault::WithoutPut));
    });
    let autoconfig = StreamSelector::Autoconfig;
    scene.launchdarkly.wait_for_streams(&autoconfig, 1, LONG).await.unwrap();
    scene.relay.wait_for_log("upstream stream opened").await;
    // Answered with 200 and alive, but nothing was said yet.
    for _ in 0..20 {
        let status = scene.relay.status().await;
        assert_eq!(status["autoConfigStatus"]["state"], "INITIALIZING", "{status:#}");
        assert_eq!(scene.code(&sdk("e1")).await, 503);
        assert_eq!(scene.relay.get("/readyz", &[]).await.status, 503);
    }
    // An unknown event shows that somebody answers, and tells nothing of environments.
    scene.launchdarkly.push_raw(&autoconfig, "news", b"{}");
    scene.relay.wait_for_log("unknown autoconfig event ignored").await;
    let status = scene.relay.status().await;
    assert_eq!(status["autoConfigStatus"]["state"], "INITIALIZING", "{status:#}");
    assert_eq!(status["status"], "degraded", "no list is known");
    assert_eq!(scene.code(&sdk("e1")).await, 503);
    scene.launchdarkly.send_autoconfig_put();
    let status = scene.wait_for_autoconfig("VALID").await;
    assert!(status["autoConfigStatus"]["stateSince"].is_u64());
    scene.relay.wait_until_healthy(1).await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_interrupt_what_was_valid_and_stay_on_record() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    let status = scene.relay.status().await;
    assert!(status["autoConfigStatus"]["lastError"].is_null(), "{status:#}");
    let since = status["autoConfigStatus"]["stateSince"].as_u64().unwrap();

    scene.launchdarkly.inject(on_autoconfig(Fault::status(503)).times(1));
    scene.cut_autoconfig();
    let status = wait_for_error(&scene, "ERROR_RESPONSE").await;
    assert_eq!(
        (&status["state"], &status["lastError"]["statusCode"]),
        (&"INTERRUPTED".into(), &503.into())
    );
    assert!(status["lastError"]["time"].as_u64().unwrap() >= since);
    assert!(status["stateSince"].as_u64().unwrap() >= since);

    let status = scene.wait_for_autoconfig("VALID").await;
    assert_eq!(status["autoConfigStatus"]["lastError"]["statusCode"], 503, "it is kept");
    // The environment itself was never touched.
    let connection = &status["environments"]["e1"]["connectionStatus"];
    assert_eq!(connection["state"], "VALID", "{status:#}");
    assert!(connection["lastError"].is_null(), "{status:#}");
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_before_the_first_event_leave_it_initializing() {
    let scene = Scene::start(|launchdarkly| {
        load(launchdarkly, &environment("e1"));
        launchdarkly.inject(on_autoconfig(Fault::Reset));
    });
    let status = wait_for_error(&scene, "NETWORK_ERROR").await;
    assert_eq!(status["state"], "INITIALIZING");
    assert!(status["lastError"]["statusCode"].is_null());
    scene.launchdarkly.clear_faults();
    scene.relay.wait_until_healthy(1).await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_was_cut_off_for_long_does_not_tell_new_keys_never() {
    let removed = KeyRep::permanent("removed", "sdk-removed");
    let near = KeyRep::expiring("near", "sdk-near", from_now(Duration::from_secs(5)));
    let rep = |keys: &[&KeyRep]| {
        with_keys(environment("e1"), keys.iter().map(|key| (*key).clone()).collect::<Vec<_>>())
    };
    let scene = Scene::start_with(
        |launchdarkly| load(launchdarkly, &rep(&[&removed, &near])),
        |settings| settings.with("DISCONNECTED_STATUS_TIME", "2s"),
    );
    scene.relay.wait_until_healthy(1).await;
    assert_eq!(scene.code("sdk-removed").await, 200);
    scene.launchdarkly.upsert_environment(rep(&[&near]));
    scene.wait_for_code("sdk-removed", 401).await;
    assert_eq!(scene.code("sdk-made-later").await, 401);

    scene.launchdarkly.inject(on_autoconfig(Fault::Hang));
    scene.cut_autoconfig();
    scene.wait_for_code("sdk-made-later", 503).await;
    assert_eq!(scene.code("sdk-removed").await, 401, "its removal is known");
    assert_eq!(scene.code(&sdk("e1")).await, 200);
    scene.wait_for_code("sdk-near", 401).await;
    scene.relay.wait_for_log("away for longer than disconnectedStatusTime").await;
    assert_eq!(scene.relay.get("/readyz", &[]).await.status, 200);

    scene.launchdarkly.clear_faults();
    scene.launchdarkly.cut_connections();
    scene.wait_for_code("sdk-made-later", 401).await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn manual_environments_have_none() {
    let scene = Scene::start(|launchdarkly| load(launchdarkly, &environment("e1")));
    let store = tempfile::TempDir::new().unwrap();
    let settings = RelaySettings::manual(&scene.launchdarkly, store.path());
    let relay = settings.with("LD_ENV_One", sdk("e1")).start().unwrap();
    let status = relay.wait_until_healthy(1).await;
    assert!(status.get("autoConfigStatus").is_none(), "{status:#}");
}
