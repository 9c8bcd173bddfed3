//! Starts while LaunchDarkly is away.

use pilotlight::testing::demo::composed_data::{environment_id, sdk_key};
use pilotlight::testing::model::ItemKind;
use serde_json::json;
use tempfile::TempDir;

use pilotlight_test_kit::cache_database::Kind;
use pilotlight_test_kit::fleet::{Fleet, NEVER, OFTEN};
use pilotlight_test_kit::relay::next_event;
use pilotlight_test_kit::stored_flags::{namespace, prefix, wait_until_complete};

on_every_database!(
    a_new_machine_serves_from_the_database_alone,
    a_set_that_nobody_marked_is_not_served,
    a_relay_that_is_cut_off_learns_what_its_peer_writes,
);

async fn fill(fleet: &Fleet, kind: Kind) {
    let disk = TempDir::new().unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, NEVER)).await;
    wait_until_complete(fleet, kind, 0).await;
    relay.kill().await.unwrap();
}

async fn a_new_machine_serves_from_the_database_alone(kind: Kind) {
    let fleet = Fleet::on(kind, 2, 60).await;
    fill(&fleet, kind).await;
    let said = fleet.launchdarkly.data(environment_id(0).as_str());
    fleet.launchdarkly.stop().await;
    let disk = TempDir::new().unwrap();
    let relay = fleet.relay(&disk, NEVER).start().unwrap();
    let (_client, put) = relay.stream_with_put("/all", &sdk_key(0)).await;
    let flags = put["data"]["flags"].as_object().unwrap();
    assert_eq!(flags.len(), said.flags.len());
    for (key, item) in said.flags.iter() {
        assert_eq!(flags[&**key]["version"], item.version);
    }
    let status = relay.status().await;
    let data = &status["environments"][environment_id(0)]["data"];
    assert_eq!(data["origin"], "sharedStore", "{data}");
    relay.wait_until_ready().await;
}

async fn a_set_that_nobody_marked_is_not_served(kind: Kind) {
    let fleet = Fleet::on(kind, 1, 5).await;
    fill(&fleet, kind).await;
    fleet.database.remove_marker(&prefix(0)).await;
    fleet.launchdarkly.stop().await;
    let disk = TempDir::new().unwrap();
    let relay = fleet.relay(&disk, NEVER).start().unwrap();
    relay
        .wait_for_status("the environment is known", |status| {
            status["environments"].get(environment_id(0)).is_some()
        })
        .await;
    relay.wait_for_log("no marker says whose they are").await;
    assert_eq!(relay.get_with_key("/sdk/latest-all", &sdk_key(0)).await.status, 503);
}

async fn a_relay_that_is_cut_off_learns_what_its_peer_writes(kind: Kind) {
    let fleet = Fleet::on(kind, 1, 5).await;
    fill(&fleet, kind).await;
    fleet.launchdarkly.stop().await;
    let disk = TempDir::new().unwrap();
    let relay = fleet.relay(&disk, OFTEN).with("CACHE_TTL", "0s").start().unwrap();
    let (mut client, _) = relay.stream_with_put("/all", &sdk_key(0)).await;
    let flag = json!({"key": "from-a-peer", "version": 9, "on": true});
    let flags = namespace(kind, 0, ItemKind::Flag);
    fleet.database.put_item(&flags, "from-a-peer", 9, &flag.to_string()).await;
    let (name, data) = next_event(&mut client).await;
    assert_eq!((name.as_str(), &data["path"]), ("patch", &json!("/flags/from-a-peer")));
    assert_eq!(data["data"]["version"], 9);
}
