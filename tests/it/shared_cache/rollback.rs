//! Somebody who can write the database, and has no key, puts old records back or removes new ones.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use pilotlight::testing::demo::composed_data::{environment_id, sdk_key};
use serde_json::Value;
use tempfile::TempDir;

use pilotlight_test_kit::cache_database::Kind;
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::fleet::{
    CACHE_KEY, Fleet, KEY, NEVER, SEALED, assert_later, row_name, shared, wait_for_shared,
};

on_every_database!(
    a_single_record_that_is_put_back_revives_no_key,
    without_the_sealed_rows_a_relay_does_not_go_back_to_ld_relays,
);

async fn a_single_record_that_is_put_back_revives_no_key(kind: Kind) {
    let fleet = Fleet::on(kind, 2, 3).await;
    let disk = TempDir::new().unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, NEVER)).await;
    let old = fleet.rows().await;
    fleet.rotate(0, "sdk-second");
    fleet.wait_until_whole().await;
    relay.wait_until_stored().await;
    relay.kill().await.unwrap();
    fleet.launchdarkly.stop().await;
    let row = row_name(KEY, &format!("env:{}", environment_id(0)));
    fleet.database.put(SEALED, &row, &old[&row]).await;

    for max_age in ["", "24h"] {
        let settings = fleet.new_relay(NEVER);
        let relay = settings.with("AUTO_CONFIG_CACHE_MAX_AGE", max_age).start().unwrap();
        let status = wait_for_shared(&relay, "loaded").await;
        assert_eq!(shared(&status)["skipped"]["rolledBack"], 1, "{status:#}");
        assert_eq!(shared(&status)["complete"], false);
        relay.stream_with_put("/all", &sdk_key(1)).await;
        assert_later(&relay.get_with_key("/all", &sdk_key(0)).await);
        assert_later(&relay.get_with_key("/all", "sdk-second").await);
        relay.wait_for_log("older than its manifest says").await;
        relay.kill().await.unwrap();
    }
    // A relay whose own disk knows better serves the newer key, and puts the record right.
    let relay = fleet.relay(&disk, NEVER).start().unwrap();
    relay.stream_with_put("/all", "sdk-second").await;
    assert_later(&relay.get_with_key("/all", &sdk_key(0)).await);
    fleet.wait_until_whole().await;
}

async fn without_the_sealed_rows_a_relay_does_not_go_back_to_ld_relays(kind: Kind) {
    let fleet = Fleet::on(kind, 2, 3).await;
    // Rows as ld-relay would have left them.
    let mixed_disk = TempDir::new().unwrap();
    let settings = fleet.relay(&mixed_disk, NEVER).with("AUTO_CONFIG_CACHE_FORMAT", "ld-relay");
    let mixed = settings.start().unwrap();
    mixed.wait_until_healthy(2).await;
    mixed.wait_until_stored().await;
    mixed.kill().await.unwrap();
    assert_eq!(fleet.database.rows(CACHE_KEY).await.len(), 2);
    let disk = TempDir::new().unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, NEVER)).await;
    fleet.rotate(0, "sdk-second");
    fleet.launchdarkly.delete_environment(&environment_id(1));
    fleet.wait_until_whole().await;
    relay.wait_until_stored().await;
    relay.kill().await.unwrap();
    fleet.launchdarkly.stop().await;
    for name in fleet.rows().await.keys() {
        fleet.database.remove(SEALED, name).await;
    }

    // It may refill the cache from its disk, so this comes before.
    let other = fleet.new_relay(NEVER);
    let never = other.clone().with("AUTO_CONFIG_CACHE_ADOPT", "never").start().unwrap();
    let status = wait_for_shared(&never, "empty").await;
    assert_eq!(status["environments"], serde_json::json!({}));
    never.kill().await.unwrap();
    let always = other.with("AUTO_CONFIG_CACHE_ADOPT", "always").start().unwrap();
    always.stream_with_put("/all", &sdk_key(0)).await;
    always.wait_for_log("adopting environments that ld-relay left").await;
    assert_eq!(shared(&always.status().await)["ageSeconds"], Value::Null);
    assert_eq!(fleet.rows().await.len(), 0, "what was adopted is not passed on");
    always.kill().await.unwrap();

    // A local store that cannot be opened may hold newer records.
    let mode = |mode| fs::set_permissions(disk.path(), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o770);
    let relay = fleet.relay(&disk, NEVER).start().unwrap();
    relay.wait_for_log("while the local store cannot be opened").await;
    assert_eq!(relay.status().await["environments"], serde_json::json!({}));
    relay.kill().await.unwrap();
    mode(0o700);
    // What stood in a damaged one is not known.
    let damaged = TempDir::new().unwrap();
    fs::set_permissions(damaged.path(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(damaged.path().join("pilotlight.redb"), "").unwrap();
    for _ in 0..2 {
        let relay = fleet.relay(&damaged, NEVER).start().unwrap();
        relay.wait_for_log("holds only ld-relay's records").await;
        relay.wait_for_log("was set aside, so it is not known which environments").await;
        assert_eq!(relay.status().await["environments"], serde_json::json!({}));
        relay.kill().await.unwrap();
    }

    let relay = fleet.relay(&disk, NEVER).start().unwrap();
    relay.stream_with_put("/all", "sdk-second").await;
    for key in [sdk_key(0), sdk_key(1)] {
        assert_later(&relay.get_with_key("/all", &key).await);
    }
    relay.wait_for_log("holds only ld-relay's records").await;
    // What the disk knows goes back into the cache, which holds nothing of its own any more.
    eventually("the cache is filled", async || match fleet.rows().await.len() {
        0 => Err("empty"),
        _ => Ok(()),
    })
    .await;
    for key in [sdk_key(0), sdk_key(1)] {
        assert_later(&relay.get_with_key("/all", &key).await);
    }
}
