//! Items that a database does not take.

use pilotlight::testing::demo::composed_data::{environment_id, sdk_key};
use pilotlight::testing::model::ItemKind;
use serde_json::{Value, json};
use tempfile::TempDir;

use pilotlight_test_kit::cache_database::Kind;
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::fleet::{Fleet, NEVER};
use pilotlight_test_kit::stored_flags::witness::Witness;
use pilotlight_test_kit::stored_flags::{
    is_complete, store_status, stored, wait_for_store, wait_until_complete,
};

/// Above DynamoDB's 400 KB and Consul's 512 KiB.
const LARGE: usize = 600_000;

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_dynamodb_does_not_take_stops_no_other() {
    check(Kind::DynamoDb).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_consul_does_not_take_stops_no_other() {
    check(Kind::Consul).await;
}

async fn check(kind: Kind) {
    let fleet = Fleet::on(kind, 1, 20).await;
    let environment = environment_id(0);
    let disk = TempDir::new().unwrap();
    // One that is there from the beginning, and one that grows.
    let flag = |key: &str, bytes: usize| json!({"key": key, "on": true, "text": "x".repeat(bytes)});
    fleet.launchdarkly.upsert_flag(environment.as_str(), flag("born-large", LARGE)).unwrap();
    fleet.launchdarkly.upsert_flag(environment.as_str(), flag("growing", 10)).unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, NEVER)).await;
    wait_for_store(&relay, "the large one is named", |store| names(store) == ["born-large"]).await;
    let witness = Witness::of(&relay, 0).await;
    witness.change_flag(&fleet, flag("growing", LARGE)).await;
    for round in 0..5 {
        witness.change(&fleet, round).await;
    }
    let status = wait_for_store(&relay, "both are named, and nothing waits", |store| {
        names(store) == ["born-large", "growing"] && store["dirty"] == 0
    })
    .await;
    let store = store_status(&status, 0);
    assert_eq!(store["state"], "VALID", "{store}");
    let bytes = store["dropped"][0]["bytes"].as_u64().unwrap();
    assert!(bytes as usize > LARGE, "{bytes}");
    let log = relay.log();
    for key in ["born-large", "growing"] {
        let named = |line: &&str| line.contains("ERROR") && line.contains(key);
        assert_eq!(log.lines().filter(named).count(), 1, "{log}");
    }
    // All others are stored, and what was stored of the one that grew.
    let flags = stored(&fleet, kind, 0, ItemKind::Flag).await;
    assert_eq!((&flags["growing"]["version"], flags.get("born-large")), (&json!(1), None));
    assert_eq!(flags["tick-4"]["round"], 4);
    assert_eq!(flags.len(), 20 + 1 + 5);
    relay.wait_until_stored().await;
    witness.assert_untroubled();
    relay.kill().await.unwrap();

    // The local store has them, whole.
    fleet.launchdarkly.stop().await;
    let relay = fleet.relay(&disk, NEVER).start().unwrap();
    // The shared store may be read first; it has no more than it could take.
    eventually("what the local store has is served too", async || {
        let answer = relay.get_with_key("/sdk/latest-all", &sdk_key(0)).await;
        let flags = answer.json()["flags"].clone();
        let is_whole = |key: &str| flags[key]["text"].as_str().map(str::len) == Some(LARGE);
        if is_whole("born-large") && is_whole("growing") { Ok(()) } else { Err(answer.status) }
    })
    .await;
    fleet.launchdarkly.start().unwrap();
    wait_for_store(&relay, "they are named again", |store| names(store).len() == 2).await;

    // One that shrinks and one that goes are stored like any other.
    fleet.launchdarkly.upsert_flag(environment.as_str(), flag("growing", 10)).unwrap();
    fleet.launchdarkly.delete_flag(environment.as_str(), "born-large");
    wait_until_complete(&fleet, kind, 0).await;
    wait_for_store(&relay, "nothing is left out", |store| names(store).is_empty()).await;
    eventually("everything is stored", async || is_complete(&fleet, kind, 0).await).await;
}

/// Keys of the items that are named as left out.
fn names(store: &Value) -> Vec<&str> {
    let dropped = store["dropped"].as_array().into_iter().flatten();
    dropped.map(|it| it["item"].as_str().unwrap().rsplit(['/', ' ', ':']).next().unwrap()).collect()
}
