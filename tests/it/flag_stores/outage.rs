//! The database is away: SDKs notice nothing, and nothing is lost.

use pilotlight::demo::composed_data::{environment_id, sdk_key};
use serde_json::json;
use tempfile::TempDir;

use super::scene::{wait_for_store, wait_until_complete};
use crate::shared_cache::database::Kind;
use crate::shared_cache::scene::{NEVER, Scene};
use crate::support::relay::next_event;

on_every_database!(clients_notice_no_frozen_database, clients_notice_no_silent_network);

async fn clients_notice_no_frozen_database(kind: Kind) {
    let scene = Scene::on_mortal(kind, 1, 20).await;
    let trouble = |scene: &Scene| scene.database.freeze();
    let relief = |scene: &Scene| scene.database.thaw();
    clients_notice_nothing(scene, kind, trouble, relief).await;
}

async fn clients_notice_no_silent_network(kind: Kind) {
    let scene = Scene::on_mortal(kind, 1, 20).await;
    let trouble = |scene: &Scene| scene.database.proxy().freeze();
    let relief = |scene: &Scene| scene.database.proxy().pass().unwrap();
    clients_notice_nothing(scene, kind, trouble, relief).await;
}

async fn clients_notice_nothing(
    scene: Scene,
    kind: Kind,
    trouble: impl Fn(&Scene),
    relief: impl Fn(&Scene),
) {
    let disk = TempDir::new().unwrap();
    let relay = scene.filled_by(&scene.relay(&disk, NEVER)).await;
    wait_until_complete(&scene, kind, 0).await;
    let (mut client, _) = relay.stream_with_put("/all", &sdk_key(0)).await;
    trouble(&scene);
    for round in 0..20 {
        let flag = json!({"key": format!("flag-{}", round % 7), "on": true, "round": round});
        scene.launchdarkly.upsert_flag(environment_id(0).as_str(), flag).unwrap();
        let (name, data) = next_event(&mut client).await;
        assert_eq!((name.as_str(), &data["data"]["round"]), ("patch", &json!(round)));
        let (_other, put) = relay.stream_with_put("/all", &sdk_key(0)).await;
        assert_eq!(put["data"]["flags"][format!("flag-{}", round % 7)]["round"], round);
    }
    wait_for_store(&relay, "what waits shows, once for each item", |store| {
        store["state"] == "INTERRUPTED" && store["dirty"] == 7 && store["error"].is_string()
    })
    .await;
    relief(&scene);
    wait_until_complete(&scene, kind, 0).await;
    wait_for_store(&relay, "nothing waits any more", |store| {
        store["state"] == "VALID" && store["dirty"] == 0 && store["error"].is_null()
    })
    .await;
}
