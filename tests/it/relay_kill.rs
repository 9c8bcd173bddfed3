//! `kill -9` of the real relay at random moments, its own start among them, while flags change.
//! Each time a relay that finds nobody but its local store serves everything.

use std::collections::BTreeMap;
use std::time::Duration;

use pilotlight::testing::demo::composed_data::{
    changed_flag, environment, environment_id, sdk_key,
};
use pilotlight::testing::demo::fake_launchdarkly::{FakeLaunchDarkly, FakeSettings};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::local_store_support::directory;
use pilotlight_test_kit::relay::{RelayProcess, RelaySettings};

const ROUNDS: u32 = 200;
const ENVIRONMENTS: usize = 3;
const FLAGS: usize = 40;

/// Longest life of a relay that is killed: several commits of its store.
const LIFE_MS_MAX: u64 = 300;

/// Between two changes at LaunchDarkly, now of a flag and now of the list.
const CHANGE_PAUSE: Duration = Duration::from_millis(2);

/// Versions of one environment's flags and segments.
type Versions = BTreeMap<String, u64>;

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_killed_at_any_moment_serves_again_each_time() {
    let launchdarkly = FakeLaunchDarkly::launch(&FakeSettings::default()).unwrap();
    for index in 0..ENVIRONMENTS {
        launchdarkly.load(&environment(index, FLAGS));
    }
    let store: TempDir = directory();
    let key = FakeSettings::default().autoconfig_key;
    let connected = RelaySettings::autoconfig(&launchdarkly, &key, store.path());
    // Nobody listens on port 1.
    let alone = connected.clone().with("STREAM_URI", "http://127.0.0.1:1");

    let first = connected.start().unwrap();
    first.wait_until_healthy(ENVIRONMENTS).await;
    first.wait_until_stored().await;
    first.kill().await.unwrap();
    let begun = launchdarkly.data(environment_id(0).as_str());
    let mut served = serve_alone(&alone).await;
    let mut changes = JoinSet::new();
    changes.spawn(change(launchdarkly.clone()));
    for round in 0..ROUNDS {
        let relay = connected.start().unwrap();
        sleep(Duration::from_micros(fastrand::u64(0..LIFE_MS_MAX * 1000))).await;
        relay.kill().await.unwrap();
        let now = serve_alone(&alone).await;
        for (before, now) in served.iter().zip(&now) {
            assert_eq!(before.len(), now.len(), "round {round}");
            for (name, version) in before {
                assert!(now.get(name) >= Some(version), "round {round}: {name} went back");
            }
        }
        served = now;
    }
    changes.shutdown().await;
    let moved = |(key, version): (&String, &u64)| {
        begun.flags.get(key.as_str()).is_some_and(|item| item.version < *version)
    };
    assert!(served[0].iter().any(moved), "changes came through");
}

/// Starts a relay that reaches nobody; what it serves, environment by environment. It is killed.
async fn serve_alone(alone: &RelaySettings) -> Vec<Versions> {
    let relay = alone.start().unwrap();
    let mut served = Vec::new();
    for index in 0..ENVIRONMENTS {
        served.push(versions(&relay, index).await);
    }
    let log = relay.log();
    assert!(!log.contains("set aside"), "{log}");
    relay.kill().await.unwrap();
    served
}

async fn versions(relay: &RelayProcess, index: usize) -> Versions {
    let (_client, put) = relay.stream_with_put("/all", &sdk_key(index)).await;
    let version = |(key, item): (&String, &Value)| (key.clone(), item["version"].as_u64().unwrap());
    let items = ["flags", "segments"].map(|kind| put["data"][kind].as_object().unwrap());
    assert_eq!(items[0].len(), FLAGS);
    items.into_iter().flatten().map(version).collect()
}

async fn change(launchdarkly: FakeLaunchDarkly) {
    for change in 1.. {
        let (index, flag) = (change % ENVIRONMENTS, change % FLAGS);
        let changed = changed_flag(index, flag, change);
        launchdarkly.upsert_flag(environment_id(index).as_str(), changed).unwrap();
        if change % 10 == 0 {
            let mut rep = launchdarkly.environment(&environment_id(index)).unwrap();
            rep.env_name = format!("change {change}");
            launchdarkly.upsert_environment(rep);
        }
        sleep(CHANGE_PAUSE).await;
    }
}
