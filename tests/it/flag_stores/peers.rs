//! Several relays on one store.

use pilotlight::demo::composed_data::{environment_id, sdk_key};
use serde_json::json;
use tempfile::TempDir;

use super::scene::{is_complete, wait_until_complete};
use crate::shared_cache::database::Kind;
use crate::shared_cache::scene::{OFTEN, Scene};
use crate::support::eventually;
use pilotlight::demo::flaky_proxy::FlakyProxy;

on_every_database!(a_relay_that_is_cut_off_spoils_nothing, five_relays_agree);

/// One relay is cut off from LaunchDarkly and believes in old flags; another one is not.
async fn a_relay_that_is_cut_off_spoils_nothing(kind: Kind) {
    let scene = Scene::on(kind, 1, 40).await;
    let line = FlakyProxy::start(scene.launchdarkly.address()).unwrap();
    let (disk, other_disk) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let uri = format!("http://{}", line.address());
    let cut_off = scene.filled_by(&scene.relay(&disk, OFTEN).with("STREAM_URI", uri)).await;
    wait_until_complete(&scene, kind, 0).await;
    line.freeze();
    let old = scene.launchdarkly.data(environment_id(0).as_str());
    let healthy = scene.relay(&other_disk, OFTEN).start().unwrap();
    healthy.wait_until_healthy(1).await;
    for round in 0..5 {
        for flag in 0..10 {
            let flag = json!({"key": format!("flag-{flag}"), "on": true, "round": round});
            scene.launchdarkly.upsert_flag(environment_id(0).as_str(), flag).unwrap();
        }
        scene.database.wipe().await;
        eventually("the newest flags come back", async || is_complete(&scene, kind, 0).await).await;
    }
    assert_ne!(old, scene.launchdarkly.data(environment_id(0).as_str()));
    // Alone with an emptied store, the one that is cut off fills it with what it has.
    healthy.kill().await.unwrap();
    cut_off.stream_with_put("/all", &sdk_key(0)).await;
}

async fn five_relays_agree(kind: Kind) {
    let scene = Scene::on(kind, 1, 40).await;
    let disks: Vec<TempDir> = (0..5).map(|_| TempDir::new().unwrap()).collect();
    let relays: Vec<_> =
        disks.iter().map(|disk| scene.relay(disk, OFTEN).start().unwrap()).collect();
    for relay in &relays {
        relay.wait_until_healthy(1).await;
    }
    for round in 0..3 {
        wait_until_complete(&scene, kind, 0).await;
        scene.database.wipe().await;
        let flag = json!({"key": "flag-1", "on": true, "round": round});
        scene.launchdarkly.upsert_flag(environment_id(0).as_str(), flag).unwrap();
    }
    wait_until_complete(&scene, kind, 0).await;
}
