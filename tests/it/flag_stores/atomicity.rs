//! What SDKs in daemon mode see while a Redis is filled, emptied and filled again: nothing or
//! everything.

use pilotlight::testing::demo::composed_data::environment_id;
use serde_json::json;
use tempfile::TempDir;

use pilotlight_test_kit::cache_database::Kind;
use pilotlight_test_kit::fleet::{Fleet, OFTEN};
use pilotlight_test_kit::stored_flags::onlooker::Onlooker;
use pilotlight_test_kit::stored_flags::witness::Witness;
use pilotlight_test_kit::stored_flags::{wait_until_complete, wait_until_in_order};

/// More flags than go to the server in one piece.
const FLAGS: usize = 600;

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_nothing_or_everything() {
    let mut fleet = Fleet::on_mortal(Kind::Redis, 1, FLAGS).await;
    let onlooker = Onlooker::of(&fleet);
    onlooker.finds_nothing().await;
    let disk = TempDir::new().unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, OFTEN)).await;
    let witness = Witness::of(&relay, 0).await;
    let mut round = 0;
    for _ in 0..3 {
        onlooker.finds_everything(1).await;
        fleet.database.wipe().await;
        for _ in 0..15 {
            witness.change(&fleet, round).await;
            round += 1;
        }
        wait_until_complete(&fleet, Kind::Redis, 0).await;
    }
    fleet.database.kill();
    for _ in 0..15 {
        witness.change(&fleet, round).await;
        round += 1;
    }
    fleet.database.restart().await;
    wait_until_complete(&fleet, Kind::Redis, 0).await;
    wait_until_in_order(&relay).await;
    onlooker.finds_everything(10).await;
    onlooker.assert_untroubled();
    witness.assert_untroubled();
}

/// A put changes many flags at once, and the store is wiped out around the time at which they are
/// written: they must not be all that is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_put_into_a_store_that_is_wiped_meanwhile_is_no_part() {
    let fleet = Fleet::on(Kind::Redis, 1, 60).await;
    let onlooker = Onlooker::of(&fleet);
    let disk = TempDir::new().unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, OFTEN)).await;
    let environment = environment_id(0);
    for round in 0..20 {
        wait_until_complete(&fleet, Kind::Redis, 0).await;
        let mut data = fleet.launchdarkly.data(environment.as_str());
        for flag in ["put-1", "put-2", "put-3"] {
            let json = json!({"key": flag, "version": round + 1, "on": true});
            let item = pilotlight::testing::model::Item::live(round + 1, json.to_string());
            let key = pilotlight::testing::model::ItemKey::new(
                pilotlight::testing::model::ItemKind::Flag,
                flag,
            );
            data.upsert(&key, std::sync::Arc::new(item));
        }
        fleet.launchdarkly.replace_data(environment.as_str(), data);
        fleet.database.wipe().await;
    }
    wait_until_complete(&fleet, Kind::Redis, 0).await;
    wait_until_in_order(&relay).await;
    onlooker.assert_untroubled();
}
