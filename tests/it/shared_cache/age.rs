//! How old a cached set may be.

use std::time::{Duration, SystemTime};

use pilotlight::testing::autoconfig::Stamp;
use pilotlight::testing::autoconfig::cache::Manifest;
use serde_json::Value;
use tempfile::TempDir;

use pilotlight_test_kit::cache_database::Kind;
use pilotlight_test_kit::fleet::{
    Fleet, KEY, NEVER, OFTEN, SEALED, codec, manifest_row, shared, wait_for_shared,
};
use pilotlight_test_kit::relay::RelaySettings;

on_every_database!(cached_environments_that_are_too_old_are_refused);

const MAX_AGE: &str = "AUTO_CONFIG_CACHE_MAX_AGE";

/// Makes the set of the shared cache look as if it had been confirmed so long ago.
async fn grow_old(fleet: &Fleet, age: Duration) {
    let codec = codec(&[KEY]);
    let rows = fleet.rows().await;
    let row = pilotlight::testing::autoconfig::cache::Row {
        name: manifest_row(),
        value: rows[&manifest_row()].clone().into(),
        revision: 0,
    };
    let manifest = Manifest::decode(&codec.open(&row).unwrap().text).unwrap();
    let stamp = Stamp { confirmed_at: Some(SystemTime::now() - age), ..manifest.stamp };
    let value = codec.seal("manifest", &Manifest { stamp, ..manifest }.encode());
    fleet.database.put(SEALED, &manifest_row(), &value).await;
}

async fn cached_environments_that_are_too_old_are_refused(kind: Kind) {
    let fleet = Fleet::on(kind, 2, 1).await;
    fleet.fill().await;
    grow_old(&fleet, Duration::from_secs(48 * 3600)).await;
    fleet.launchdarkly.stop().await;
    let check = async |max_age: Option<&str>, state: &str, environments: usize| {
        let settings = fleet.new_relay(NEVER);
        let settings: RelaySettings = match max_age {
            Some(max_age) => settings.with(MAX_AGE, max_age),
            None => settings,
        };
        let relay = settings.start().unwrap();
        wait_for_shared(&relay, state).await;
        let status = relay
            .wait_for_status("so many environments", |status| {
                status["environments"].as_object().unwrap().len() == environments
            })
            .await;
        (relay, status)
    };
    let (_, status) = check(None, "loaded", 2).await;
    let written_at = shared(&status)["writtenAt"].as_u64().unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    assert!(u128::from(written_at) < now - 47 * 3_600_000, "/status tells how old it is");
    assert!(shared(&status)["ageSeconds"].as_u64().unwrap() > 47 * 3_600);
    check(Some("72h"), "loaded", 2).await;
    let (relay, _) = check(Some("24h"), "tooOld", 0).await;
    let refusals = "older than cacheMaxAge allows";
    relay.wait_for_log(refusals).await;
    assert_eq!(relay.log().matches(refusals).count(), 1);

    // Without its manifest nobody knows how old it is.
    fleet.database.remove(SEALED, &manifest_row()).await;
    let (_, status) = check(None, "loaded", 2).await;
    assert_eq!(shared(&status)["ageSeconds"], Value::Null);
    check(Some("72h"), "tooOld", 0).await;
    // LaunchDarkly confirms it, and it is young.
    fleet.launchdarkly.start().unwrap();
    let disk = TempDir::new().unwrap();
    let relay = fleet.relay(&disk, OFTEN).with(MAX_AGE, "24h").start().unwrap();
    fleet.wait_until_whole().await;
    relay.wait_until_stored().await;
    assert_eq!(shared(&relay.status().await)["error"], Value::Null);
    relay.kill().await.unwrap();
    fleet.launchdarkly.stop().await;
    check(Some("24h"), "loaded", 2).await;
}
