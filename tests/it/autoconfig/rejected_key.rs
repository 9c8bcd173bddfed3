//! LaunchDarkly refuses the autoconfig key, or answers with something else that is no stream: the
//! process stays, cached environments are served, and another key needs no restart.

use std::path::Path;

use pilotlight::testing::demo::fake_launchdarkly::{
    FakeLaunchDarkly, FakeSettings, Fault, FaultRule, FaultScope,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use pilotlight_test_kit::relay::{LONG, RelayProcess, RelaySettings, next_event};
use pilotlight_test_kit::scene::{
    Scene, autoconfig_key, code, environment, flag, load, sdk, wait_for_code,
};

const POLL: &str = "/sdk/latest-flags";

async fn wait_for_rejection(relay: &RelayProcess, status_code: u16) -> Value {
    let what = format!("status {status_code} of autoconfig shows");
    relay
        .wait_for_status(&what, |status| {
            let error = &status["autoConfigStatus"]["lastError"];
            error["kind"] == "ERROR_RESPONSE" && error["statusCode"] == status_code
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_key_leaves_cached_environments_running() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    let scene =
        scene.restart(|launchdarkly| launchdarkly.revoke_autoconfig_key(&autoconfig_key())).await;
    let status = wait_for_rejection(&scene.relay, 401).await;
    assert_eq!(status["autoConfigStatus"]["state"], "OFF", "{status:#}");
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    // Its flags come in live: only the list of environments is cached.
    scene.wait_for_connection("e1", "VALID").await;
    scene.expect_patch("e1", &mut client).await;
    assert_eq!(scene.code("sdk-of-nobody").await, 503);
    assert_eq!(scene.relay.get("/readyz", &[]).await.status, 200);
    let log = scene.relay.log();
    assert!(log.contains("LaunchDarkly rejects the relay key (AUTO_CONFIG_KEY)"), "{log}");
    scene.assert_sound();
    // The next attempt is half a minute away; leaving does not wait for it.
    drop(client);
    let begun = Instant::now();
    let Scene { mut relay, .. } = scene;
    relay.signal("TERM").unwrap();
    assert!(relay.ended().await.unwrap().success());
    assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_key_and_no_cache_is_503_and_no_end_of_the_process() {
    for status_code in [401, 403] {
        let scene = Scene::start(|launchdarkly| {
            load(launchdarkly, &environment("e1"));
            let fault = Fault::status(status_code);
            launchdarkly.inject(FaultRule::new(FaultScope::Autoconfig, fault));
        });
        let status = wait_for_rejection(&scene.relay, status_code).await;
        assert_eq!(status["autoConfigStatus"]["state"], "OFF", "{status:#}");
        assert_eq!(status["status"], "degraded");
        assert_eq!(scene.code(&sdk("e1")).await, 503);
        assert_eq!(code(&scene.relay, "/ping/e1", "").await, 503);
        assert_eq!(scene.relay.get("/readyz", &[]).await.status, 503);
        assert_eq!(scene.relay.get("/livez", &[]).await.status, 200);
        scene.assert_sound();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_other_answer_ends_the_process_either() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    scene.relay.wait_until_stored().await;
    let Scene { launchdarkly, settings, relay, store: _store } = scene;
    relay.kill().await.unwrap();
    for status_code in [404, 405, 410, 418, 451, 400, 429, 500, 503, 204] {
        let fault = Fault::status(status_code);
        let fault = launchdarkly.inject(FaultRule::new(FaultScope::Autoconfig, fault));
        let relay = settings.start().unwrap();
        let status = wait_for_rejection(&relay, status_code).await;
        assert_eq!(status["autoConfigStatus"]["state"], "INITIALIZING", "{status:#}");
        wait_for_code(&relay, POLL, &sdk("e1"), 200).await;
        assert_eq!(code(&relay, POLL, "sdk-of-nobody").await, 503);
        launchdarkly.clear_fault(fault);
        relay.kill().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_rejected_while_the_relay_runs_changes_nothing_for_clients() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    scene.launchdarkly.revoke_autoconfig_key(&autoconfig_key());
    scene.cut_autoconfig();
    let status = wait_for_rejection(&scene.relay, 401).await;
    assert_eq!(status["autoConfigStatus"]["state"], "OFF", "{status:#}");
    scene.expect_patch("e1", &mut client).await;
    assert_eq!(scene.code("sdk-of-nobody").await, 401, "what was known stays known");
    scene.assert_sound();
}

fn with_key_file(launchdarkly: &FakeLaunchDarkly, file: &Path, store: &TempDir) -> RelaySettings {
    RelaySettings::autoconfig(launchdarkly, "", store.path())
        .without("AUTO_CONFIG_KEY")
        .with("AUTO_CONFIG_KEY_FILE", file.display().to_string())
}

/// Replaces the file as orchestrators do: at one moment, by another file.
fn write_key(file: &Path, key: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, format!("{key}\n")).unwrap();
    std::fs::rename(new, file).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrected_key_file_is_enough() {
    let launchdarkly = FakeLaunchDarkly::launch(&FakeSettings::default()).unwrap();
    load(&launchdarkly, &environment("e1"));
    let (directory, store) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let file = directory.path().join("key");
    write_key(&file, "rel-mistyped");
    let relay = with_key_file(&launchdarkly, &file, &store).start().unwrap();
    wait_for_rejection(&relay, 401).await;
    assert_eq!(code(&relay, POLL, &sdk("e1")).await, 503);
    // The next attempt under the same key would come after half a minute.
    write_key(&file, &autoconfig_key());
    relay.wait_until_healthy(1).await;
    wait_for_code(&relay, POLL, &sdk("e1"), 200).await;
    let requests = launchdarkly.requests_for("/relay_auto_config");
    let keys: Vec<_> = requests.iter().filter_map(|request| request.authorization()).collect();
    assert_eq!(keys, ["rel-mistyped", &autoconfig_key()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_can_be_exchanged_without_a_restart_and_without_losing_the_cache() {
    let launchdarkly = FakeLaunchDarkly::launch(&FakeSettings::default()).unwrap();
    load(&launchdarkly, &environment("e1"));
    let (directory, store) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let file = directory.path().join("key");
    write_key(&file, &autoconfig_key());
    let settings = with_key_file(&launchdarkly, &file, &store);
    let relay = settings.start().unwrap();
    relay.wait_until_healthy(1).await;
    relay.wait_until_stored().await;
    let (mut client, _) = relay.stream_with_put("/all", &sdk("e1")).await;

    launchdarkly.add_autoconfig_key("rel-second");
    launchdarkly.revoke_autoconfig_key(&autoconfig_key());
    write_key(&file, "rel-second");
    launchdarkly.wait_for_requests("/relay_auto_config", 2, LONG).await.unwrap();
    load(&launchdarkly, &environment("e2"));
    relay.wait_until_healthy(2).await;
    launchdarkly.upsert_flag("e1", flag("ticker")).unwrap();
    let (name, _) = next_event(&mut client).await;
    assert_eq!(name, "patch", "clients notice nothing");

    // Everything is sealed under the new key before long; the old one is not needed any more.
    relay
        .wait_for_status("everything is sealed anew", |status| {
            status["localStore"]["toReseal"] == 0 && status["localStore"]["pending"] == 0
        })
        .await;
    relay.wait_until_stored().await;
    relay.kill().await.unwrap();
    launchdarkly.stop().await;
    let relay = settings.start().unwrap();
    for id in ["e1", "e2"] {
        wait_for_code(&relay, POLL, &sdk(id), 200).await;
    }
}
