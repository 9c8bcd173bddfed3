//! The database loses something while a relay is live.

use pilotlight::testing::demo::composed_data::environment_id;
use pilotlight::testing::model::ItemKind;
use serde_json::json;
use tempfile::TempDir;

use pilotlight_test_kit::cache_database::Kind;
use pilotlight_test_kit::fleet::{Fleet, NEVER, OFTEN};
use pilotlight_test_kit::stored_flags::witness::Witness;
use pilotlight_test_kit::stored_flags::{namespace, prefix, wait_for_store, wait_until_complete};

/// Looks so often that comparisons, one for twenty looks, come within the life of a test.
const ALWAYS: &str = "200ms";

on_every_database!(
    what_is_wiped_is_written_again,
    what_is_removed_in_part_is_written_again,
    a_missing_marker_is_set_again,
    a_database_that_restarts_empty_is_filled_at_once,
    a_change_into_an_emptied_store_brings_back_everything,
);

async fn what_is_wiped_is_written_again(kind: Kind) {
    let fleet = Fleet::on(kind, 3, 60).await;
    let disk = TempDir::new().unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, OFTEN)).await;
    let witness = Witness::of(&relay, 0).await;
    for _ in 0..3 {
        for index in 0..3 {
            wait_until_complete(&fleet, kind, index).await;
        }
        fleet.database.wipe().await;
    }
    for index in 0..3 {
        wait_until_complete(&fleet, kind, index).await;
    }
    let status = wait_for_store(&relay, "the repair shows", |store| {
        store["lastRepopulation"].is_object() && store["state"] == "VALID"
    })
    .await;
    let last = &pilotlight_test_kit::stored_flags::store_status(&status, 0)["lastRepopulation"];
    match kind {
        Kind::Redis | Kind::Consul => {
            assert_eq!((&last["reason"], &last["items"]), (&json!("markerMissing"), &json!(62)));
        }
        // Tables are emptied item by item, while the relay already writes them again.
        Kind::DynamoDb => assert!(last["items"].as_u64() >= Some(1), "{last}"),
    }
    witness.assert_untroubled();
}

async fn what_is_removed_in_part_is_written_again(kind: Kind) {
    let fleet = Fleet::on(kind, 1, 60).await;
    let disk = TempDir::new().unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, ALWAYS)).await;
    wait_until_complete(&fleet, kind, 0).await;
    let witness = Witness::of(&relay, 0).await;
    let data = fleet.launchdarkly.data(environment_id(0).as_str());
    for items in ItemKind::ALL {
        for (key, _) in data.collection(items).iter().step_by(9) {
            fleet.database.remove(&namespace(kind, 0, items), key).await;
        }
    }
    let status = wait_for_store(&relay, "the repair shows", |store| {
        store["lastRepopulation"].is_object() && store["state"] == "VALID"
    })
    .await;
    wait_until_complete(&fleet, kind, 0).await;
    let reason =
        &pilotlight_test_kit::stored_flags::store_status(&status, 0)["lastRepopulation"]["reason"];
    let expected = match kind {
        // Counting is cheap there.
        Kind::Redis | Kind::Consul => ["itemsMissing", "periodic"],
        Kind::DynamoDb => ["periodic", "periodic"],
    };
    assert!(expected.iter().any(|expected| reason == expected), "{reason}");
    // As many as before, but one is old and one is nobody's.
    let flags = namespace(kind, 0, ItemKind::Flag);
    let (key, _) = data.flags.iter().next().unwrap();
    let old = json!({"key": &**key, "version": 0, "on": true});
    fleet.database.put_item(&flags, key, 0, &old.to_string()).await;
    wait_until_complete(&fleet, kind, 0).await;
    let stray = json!({"key": "stray", "version": 3, "on": true});
    fleet.database.put_item(&flags, "stray", 3, &stray.to_string()).await;
    wait_until_complete(&fleet, kind, 0).await;
    witness.assert_untroubled();
}

async fn a_missing_marker_is_set_again(kind: Kind) {
    let fleet = Fleet::on(kind, 1, 5).await;
    let disk = TempDir::new().unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, OFTEN)).await;
    wait_until_complete(&fleet, kind, 0).await;
    let witness = Witness::of(&relay, 0).await;
    fleet.database.remove_marker(&prefix(0)).await;
    wait_until_complete(&fleet, kind, 0).await;
    witness.assert_untroubled();
}

async fn a_database_that_restarts_empty_is_filled_at_once(kind: Kind) {
    let mut fleet = Fleet::on_mortal(kind, 2, 60).await;
    let disk = TempDir::new().unwrap();
    // No look would come within the life of this test.
    let relay = fleet.filled_by(&fleet.relay(&disk, NEVER)).await;
    wait_until_complete(&fleet, kind, 0).await;
    fleet.database.kill();
    // Noticed by the next write.
    let flag = json!({"key": "fresh", "on": true});
    fleet.launchdarkly.upsert_flag(environment_id(0).as_str(), flag).unwrap();
    wait_for_store(&relay, "the outage shows", |store| {
        store["state"] == "INTERRUPTED" && store["breaker"] != "closed" && store["dirty"] == 1
    })
    .await;
    fleet.database.restart().await;
    fleet.database.create_table().await;
    for index in 0..2 {
        wait_until_complete(&fleet, kind, index).await;
    }
    wait_for_store(&relay, "the store is in order", |store| {
        store["state"] == "VALID" && store["dirty"] == 0
    })
    .await;
}

async fn a_change_into_an_emptied_store_brings_back_everything(kind: Kind) {
    let fleet = Fleet::on(kind, 1, 60).await;
    let disk = TempDir::new().unwrap();
    // No look would come within the life of this test.
    let _relay = fleet.filled_by(&fleet.relay(&disk, NEVER)).await;
    wait_until_complete(&fleet, kind, 0).await;
    fleet.database.wipe().await;
    let flag = json!({"key": "fresh", "on": true});
    fleet.launchdarkly.upsert_flag(environment_id(0).as_str(), flag).unwrap();
    // The change itself shows that the marker is gone.
    wait_until_complete(&fleet, kind, 0).await;
}
