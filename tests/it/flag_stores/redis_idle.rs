//! A Redis that ends connections which nobody uses just then (its option `timeout`, `CLIENT KILL`):
//! it has lost nothing, so nothing is read again.

use pilotlight::testing::demo::composed_data::environment_id;
use pilotlight::testing::demo::fake_launchdarkly::StreamSelector;
use serde_json::json;
use tempfile::TempDir;

use pilotlight_test_kit::cache_database::Kind;
use pilotlight_test_kit::databases::Redis;
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::fleet::{Fleet, NEVER};
use pilotlight_test_kit::relay::LONG;
use pilotlight_test_kit::stored_flags::{
    complaints, prefix, wait_until_complete, wait_until_in_order,
};

/// How often whole hashes were read.
fn readings(redis: &Redis) -> u64 {
    let info = redis.command(&["INFO", "commandstats"]);
    let line = info.lines().find(|line| line.starts_with("cmdstat_hgetall:"));
    let calls = line.and_then(|line| line.split("calls=").nth(1)?.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_redis_ends_cost_no_reading_and_no_error() {
    let fleet = Fleet::on(Kind::Redis, 3, 20).await;
    let disk = TempDir::new().unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, NEVER)).await;
    for index in 0..3 {
        wait_until_complete(&fleet, Kind::Redis, index).await;
    }
    let (redis, proxy) = (fleet.database.redis(), fleet.database.proxy());
    let before = readings(redis);
    let environment = environment_id(0);
    let hash = format!("{}:features", prefix(0));
    for round in 0..3 {
        let accepted = proxy.accepted_connections();
        redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        assert!(proxy.wait_for_accepted(accepted + 1, LONG).await, "it is replaced");
        let flag = json!({"key": "ticker", "on": true, "round": round});
        let version = fleet.launchdarkly.upsert_flag(environment.as_str(), flag).unwrap();
        eventually("the change is stored", async || {
            let stored = redis.command(&["HGET", &hash, "ticker"]);
            let item: serde_json::Value = serde_json::from_str(&stored).unwrap_or_default();
            if item["version"] == version { Ok(()) } else { Err(stored) }
        })
        .await;
    }
    assert_eq!(readings(redis), before, "{}", relay.log());

    // The connections for whole data sets were ended too.
    fleet.launchdarkly.cut_streams(&StreamSelector::All);
    eventually("everything is compared after a new put", async || match readings(redis) {
        found if found > before => Ok(()),
        found => Err(found.to_string()),
    })
    .await;
    wait_until_in_order(&relay).await;
    assert_eq!(complaints(&relay), 0, "{}", relay.log());
    assert!(!relay.log().contains("store is away"), "{}", relay.log());
}
