//! `autoConfigStatus`: ld-relay's states and what moves between them.

use std::time::Duration;

use pilotlight::demo::fake_launchdarkly::{Fault, FaultRule, FaultScope, StreamSelector};
use serde_json::Value;

use crate::support::relay::{LONG, RelaySettings};
use crate::support::scene::{Scene, environment, load, sdk};

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
async fn only_an_event_makes_it_valid() {
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
    // Any event counts, an unknown one too; it makes nothing ready.
    scene.launchdarkly.push_raw(&autoconfig, "news", b"{}");
    let status = scene.wait_for_autoconfig("VALID").await;
    assert!(status["autoConfigStatus"]["stateSince"].is_u64());
    assert_eq!(status["status"], "degraded", "no list is known");
    assert_eq!(scene.code(&sdk("e1")).await, 503);
    scene.launchdarkly.send_autoconfig_put();
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
async fn manual_environments_have_none() {
    let scene = Scene::start(|launchdarkly| load(launchdarkly, &environment("e1")));
    let store = tempfile::TempDir::new().unwrap();
    let settings = RelaySettings::manual(&scene.launchdarkly, store.path());
    let relay = settings.with("LD_ENV_One", sdk("e1")).start().unwrap();
    let status = relay.wait_until_healthy(1).await;
    assert!(status.get("autoConfigStatus").is_none(), "{status:#}");
}
