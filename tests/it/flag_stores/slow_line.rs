//! A slow line to the database, on which one environment takes longer than the budget of a call:
//! each environment is read once, and served.

use pilotlight::testing::demo::composed_data::{environment_id, sdk_key};
use pilotlight::testing::storage::fail_fast::BULK_BUDGET;
use pilotlight_test_kit::flaky_proxy::Side;
use serde_json::json;
use tempfile::TempDir;

use pilotlight_test_kit::cache_database::Kind;
use pilotlight_test_kit::fleet::{Fleet, NEVER};
use pilotlight_test_kit::relay::RelayProcess;
use pilotlight_test_kit::stored_flags::{store_status, wait_until_complete};

const ENVIRONMENTS: usize = 10;

/// Flags of the large environment beside the composed ones, and the bytes of each.
const LARGE: (usize, usize) = (16, 75_000);

const BYTES_PER_SECOND: u32 = 200_000;

on_every_database!(each_environment_is_read_once_over_a_slow_line);

async fn each_environment_is_read_once_over_a_slow_line(kind: Kind) {
    let fleet = Fleet::on(kind, ENVIRONMENTS, 30).await;
    let (flags, bytes) = LARGE;
    for flag in 0..flags {
        let flag = json!({"key": format!("large-{flag}"), "on": true, "salt": "s".repeat(bytes)});
        fleet.launchdarkly.upsert_flag(environment_id(0).as_str(), flag).unwrap();
    }
    let alone = (flags * bytes) as f64 / f64::from(BYTES_PER_SECOND);
    assert!(alone > BULK_BUDGET.as_secs_f64(), "{alone}");
    let disk = TempDir::new().unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, NEVER)).await;
    for index in 0..ENVIRONMENTS {
        wait_until_complete(&fleet, kind, index).await;
    }
    relay.kill().await.unwrap();
    fleet.launchdarkly.stop().await;

    // Over a line without a limit: what a start reads.
    let needed = bytes_of_a_start(&fleet).await;
    fleet.database.proxy().limit_line(BYTES_PER_SECOND);
    let read = bytes_of_a_start(&fleet).await;
    assert!(read < needed + needed / 10, "{read} bytes instead of {needed}");
}

/// Starts a relay on a new machine, waits until it serves everything, and counts what it has read.
async fn bytes_of_a_start(fleet: &Fleet) -> u64 {
    let carried = || fleet.database.proxy().carried_bytes(Side::Client);
    let (disk, before) = (TempDir::new().unwrap(), carried());
    let relay = fleet.relay(&disk, NEVER).with("CACHE_TTL", NEVER).start().unwrap();
    let status = relay
        .wait_for_status("everything is served", |status| {
            (0..ENVIRONMENTS).all(|index| {
                let environment = &status["environments"][environment_id(index)];
                environment["data"]["origin"] == "sharedStore"
            })
        })
        .await;
    for index in 0..ENVIRONMENTS {
        let store = store_status(&status, index);
        let shown = (&store["state"], &store["breaker"], &store["error"]);
        assert_eq!(shown, (&json!("VALID"), &json!("closed"), &json!(null)), "{store}");
    }
    let (_client, put) = relay.stream_with_put("/all", &sdk_key(0)).await;
    assert!(put["data"]["flags"].get(format!("large-{}", LARGE.0 - 1)).is_some());
    assert_undisturbed(&relay);
    relay.kill().await.unwrap();
    carried() - before
}

fn assert_undisturbed(relay: &RelayProcess) {
    for bad in ["store is away", "cannot be used"] {
        assert!(!relay.log().contains(bad), "{}", relay.log());
    }
}
