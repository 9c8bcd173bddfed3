//! A Redis whose memory is full (`maxmemory` is reached, `noeviction`): it refuses to write, and
//! every command of a transaction, also those that only read.

use pilotlight::testing::demo::composed_data::{environment_id, sdk_key};
use serde_json::json;
use tempfile::TempDir;

use super::redis_scene::serves_from_the_store;
use pilotlight_test_kit::cache_database::Kind;
use pilotlight_test_kit::databases::Redis;
use pilotlight_test_kit::fleet::{Fleet, NEVER, OFTEN};
use pilotlight_test_kit::relay::next_event;
use pilotlight_test_kit::stored_flags::{
    store_status, wait_for_error, wait_for_store, wait_until_complete, wait_until_in_order,
};

fn set_room(redis: &Redis, bytes: &str) {
    assert_eq!(redis.command(&["CONFIG", "SET", "maxmemory", bytes]), "OK");
}

/// Fills a database through a relay that is gone afterwards.
async fn filled() -> Fleet {
    let fleet = Fleet::on(Kind::Redis, 2, 60).await;
    let disk = TempDir::new().unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, NEVER)).await;
    for index in 0..2 {
        wait_until_complete(&fleet, Kind::Redis, index).await;
    }
    relay.kill().await.unwrap();
    fleet
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_machine_serves_from_a_full_database() {
    let fleet = filled().await;
    let redis = fleet.database.redis();
    set_room(redis, "1");
    let refused = redis.script("MULTI\nGET nothing\nEXEC\n");
    assert!(refused.contains("OOM"), "reading in a transaction is refused: {refused}");
    let said = fleet.launchdarkly.data(environment_id(0).as_str());
    fleet.launchdarkly.stop().await;
    let disk = TempDir::new().unwrap();
    let relay = fleet.relay(&disk, OFTEN).with("CACHE_TTL", "0s").start().unwrap();
    serves_from_the_store(&relay, 0, &said).await;
    relay.wait_until_ready().await;
    // Nothing is to be written, so nothing is wrong; and what it reads again shows what is new.
    wait_for_store(&relay, "the store is in order", |store| {
        store["state"] == "VALID" && store["breaker"] == "closed" && store["error"].is_null()
    })
    .await;
    let (mut client, _) = relay.stream_with_put("/all", &sdk_key(0)).await;
    set_room(redis, "0");
    let flag = json!({"key": "from-a-peer", "version": 9, "on": true}).to_string();
    let hash = format!("{}:features", pilotlight_test_kit::stored_flags::prefix(0));
    redis.command(&["HSET", &hash, "from-a-peer", &flag]);
    set_room(redis, "1");
    let (name, data) = next_event(&mut client).await;
    assert_eq!((name.as_str(), &data["path"]), ("patch", &json!("/flags/from-a-peer")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_database_that_lacks_a_change_is_named_until_it_has_room() {
    let fleet = filled().await;
    let redis = fleet.database.redis();
    set_room(redis, "1");
    let flag = json!({"key": "during-the-trouble", "on": true});
    fleet.launchdarkly.upsert_flag(environment_id(0).as_str(), flag).unwrap();
    let disk = TempDir::new().unwrap();
    let relay = fleet.relay(&disk, NEVER).start().unwrap();
    let status = wait_for_error(&relay, "OOM").await;
    let store = store_status(&status, 0);
    assert_eq!(store["breaker"], "closed", "the database is there: {store}");
    assert_eq!(store["writePending"], true, "{store}");
    let (_client, put) = relay.stream_with_put("/all", &sdk_key(0)).await;
    assert!(put["data"]["flags"].get("during-the-trouble").is_some());
    // The environment that needs nothing written is in order.
    wait_for_store_of(&relay, 1).await;
    set_room(redis, "0");
    wait_until_complete(&fleet, Kind::Redis, 0).await;
    wait_until_in_order(&relay).await;
}

async fn wait_for_store_of(relay: &pilotlight_test_kit::relay::RelayProcess, index: usize) {
    relay
        .wait_for_status("the other environment is in order", |status| {
            let store = store_status(status, index);
            store["state"] == "VALID" && store["error"].is_null()
        })
        .await;
}
