//! A message that would remove every environment is believed only when a second connection, at
//! least five seconds later, says the same. And the server's wish for a new connection.

use std::time::Duration;

use pilotlight::testing::demo::fake_launchdarkly::{Fault, FaultRule, FaultScope};
use serde_json::json;
use tokio::time::Instant;

use pilotlight_test_kit::eventually;
use pilotlight_test_kit::scene::{
    Scene, assert_ends, code, environment, load, put_of, sdk, wait_for_code,
};

/// See `WIPE_CONFIRMATION_DELAY`.
const CONFIRMATION: Duration = Duration::from_secs(5);

/// Waits for the connection after the first so many, and tells how long after a moment it came.
async fn next_connection(scene: &Scene, before: usize, begun: Instant) -> Duration {
    eventually("another autoconfig connection", async || {
        let requests = scene.launchdarkly.requests_for("/relay_auto_config");
        let next = requests.get(before).map(|request| request.at - begun);
        next.ok_or_else(|| format!("{} requests", requests.len()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_put_that_the_next_connection_contradicts_is_forgotten() {
    let scene = Scene::healthy(&["e1", "e2"].map(environment)).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    let begun = Instant::now();
    scene.push_autoconfig("put", &put_of(&json!({})));
    scene.relay.wait_for_log("every environment is gone").await;
    let status = scene.relay.status().await;
    assert_eq!(status["autoConfigStatus"]["state"], "INTERRUPTED", "{status:#}");
    assert_eq!(scene.code(&sdk("e2")).await, 200);
    let after = next_connection(&scene, 1, begun).await;
    assert!(after >= CONFIRMATION, "{after:?}");
    scene.wait_for_autoconfig("VALID").await;
    scene.expect_patch("e1", &mut client).await;
    assert_eq!(scene.code(&sdk("e2")).await, 200);
    assert_eq!(scene.code("sdk-of-nobody").await, 401);
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_put_that_the_next_connection_repeats_removes_everything() {
    let scene = Scene::healthy(&["e1", "e2"].map(environment)).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    let fault = scene.autoconfig_puts(&put_of(&json!({})));
    scene.cut_autoconfig();
    scene.relay.wait_for_log("every environment is gone").await;
    scene.expect_patch("e1", &mut client).await;
    assert_eq!(scene.code(&sdk("e1")).await, 200);
    assert_ends(&mut client).await;
    assert_eq!(scene.code(&sdk("e1")).await, 401);
    assert_eq!(code(&scene.relay, "/ping/e2", "").await, 404);
    let requests = scene.launchdarkly.requests_for("/relay_auto_config");
    let pause = requests[2].at - requests[1].at;
    assert!(pause >= CONFIRMATION, "{pause:?}");
    assert_eq!(scene.relay.get("/readyz", &[]).await.status, 200, "confirmed and empty");
    // It is no state to stay in.
    scene.launchdarkly.clear_fault(fault);
    scene.launchdarkly.send_autoconfig_put();
    scene.stream(&sdk("e1")).await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_the_last_environment_is_confirmed_too() {
    let scene = Scene::healthy(&["e1", "e2"].map(environment)).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    scene.launchdarkly.delete_environment("e2");
    scene.wait_for_code(&sdk("e2"), 401).await;
    scene.launchdarkly.delete_environment("e1");
    scene.relay.wait_for_log("every environment is gone").await;
    assert_eq!(scene.code(&sdk("e1")).await, 200);
    assert_ends(&mut client).await;
    assert_eq!(scene.code(&sdk("e1")).await, 401);
    assert!(scene.relay.log().contains("a second connection confirms it"));
    // Confirmed nothingness is what is cached: a cold start serves nothing.
    let scene = scene.restart(|launchdarkly| launchdarkly.refuse()).await;
    scene.wait_for_code(&sdk("e1"), 503).await;
    assert_eq!(scene.relay.status().await["environments"], json!({}));
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_cold_start_an_empty_put_does_not_displace_the_cache() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    let scene = scene
        .restart(|launchdarkly| {
            launchdarkly.clear_log();
            let empty = Fault::PutData(put_of(&json!({})).to_string().into());
            launchdarkly.inject(FaultRule::new(FaultScope::Autoconfig, empty));
        })
        .await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    assert_eq!(scene.code("sdk-of-nobody").await, 503);
    scene.expect_patch("e1", &mut client).await;
    assert_ends(&mut client).await;
    let requests = scene.launchdarkly.requests_for("/relay_auto_config");
    assert!(requests[1].at - requests[0].at >= CONFIRMATION);
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_any_environment_needs_no_confirmation() {
    let scene = Scene::start(|_| {});
    wait_for_code(&scene.relay, "/sdk/latest-flags", "sdk-e1", 401).await;
    assert_eq!(scene.relay.get("/readyz", &[]).await.status, 200);
    assert_eq!(scene.relay.status().await["status"], "healthy");
    load(&scene.launchdarkly, &environment("e1"));
    scene.stream(&sdk("e1")).await;
    // What was empty at the start is no first word against what came since.
    scene.push_autoconfig("put", &put_of(&json!({})));
    scene.relay.wait_for_log("every environment is gone").await;
    assert_eq!(scene.code(&sdk("e1")).await, 200);
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_may_ask_for_a_new_connection() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    let begun = Instant::now();
    // Twice on one connection is once.
    scene.launchdarkly.send_reconnect();
    scene.launchdarkly.send_reconnect();
    let after = next_connection(&scene, 1, begun).await;
    assert!(after >= Duration::from_millis(500), "not hammered: {after:?}");
    let status = scene.wait_for_autoconfig("VALID").await;
    assert!(status["autoConfigStatus"]["lastError"].is_null(), "nobody's fault: {status:#}");
    load(&scene.launchdarkly, &environment("e2"));
    scene.stream(&sdk("e2")).await;
    assert_eq!(scene.autoconfig_requests(), 2);
    scene.expect_patch("e1", &mut client).await;
    let requests = scene.launchdarkly.requests_for("/relay_auto_config");
    assert!(requests.iter().all(|request| request.query == "rpacProtocolVersion=2"));
    scene.assert_sound();
}
