//! Keys are exchanged: nothing is lost on the way, and afterwards the old key opens nothing.

use std::path::Path;

use pilotlight::testing::demo::composed_data::sdk_key;
use pilotlight::testing::demo::fake_launchdarkly::FakeSettings;
use pilotlight::testing::sealing::{KeyRing, SealingKey};
use pilotlight::testing::storage::local::LocalStore;
use tempfile::TempDir;

use pilotlight_test_kit::cache_database::Kind;
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::fleet::{
    Fleet, KEY, NEVER, OFTEN, assert_later, open, shared, wait_for_shared,
};
use pilotlight_test_kit::relay::{LONG, RelayProcess, RelaySettings};

on_every_database!(a_new_key_takes_over_in_both_tiers, a_key_in_a_file_is_exchanged_live);

const NEW_KEY: &str = "a new key after the old one was seen by somebody";

const UNREADABLE: &str = "holds records, but none opens with the keys";

const KEY_VARIABLE: &str = "AUTO_CONFIG_CACHE_ENCRYPTION_KEY";
const PREVIOUS_VARIABLE: &str = "AUTO_CONFIG_CACHE_PREVIOUS_ENCRYPTION_KEYS";

async fn a_new_key_takes_over_in_both_tiers(kind: Kind) {
    let fleet = Fleet::on(kind, 3, 5).await;
    let disk = TempDir::new().unwrap();
    let with_key = |key: &str| fleet.relay(&disk, NEVER).with(KEY_VARIABLE, key);
    fleet.filled_by(&with_key(KEY)).await.kill().await.unwrap();

    // Exchanged during the outage: both tiers and the flags open with the previous key.
    fleet.launchdarkly.stop().await;
    let rotated = with_key(NEW_KEY).with(PREVIOUS_VARIABLE, format!("another key, {KEY}"));
    let relay = rotated.start().unwrap();
    relay.stream_with_put("/all", &sdk_key(0)).await;
    wait_for_both_tiers(&relay).await;
    assert!(open(&fleet.rows().await, &[KEY]).is_whole, "nothing is written without LaunchDarkly");

    fleet.launchdarkly.start().unwrap();
    eventually("every row is under the new key", async || {
        let found = open(&fleet.rows().await, &[NEW_KEY]);
        let is_whole = found.is_whole && found.closed == 0 && found.records == fleet.said();
        if is_whole { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    let relay = wait_until_resealed(&disk, &rotated, relay).await;
    relay.kill().await.unwrap();

    // The old key alone opens nothing, and says so.
    fleet.launchdarkly.stop().await;
    let relay = with_key(KEY).start().unwrap();
    let status = wait_for_shared(&relay, "unreadable").await;
    assert_eq!(shared(&status)["skipped"]["unknownKey"], 3 + 1);
    let status = relay
        .wait_for_status("the local tier is unreadable", |status| {
            status["autoConfigCache"]["local"]["state"] == "unreadable"
        })
        .await;
    // How many records the file holds is not known without its key.
    assert_eq!(status["autoConfigCache"]["local"]["skipped"]["unknownKey"], 1);
    assert_eq!(status["localStore"]["unreadable"], true);
    assert_eq!(status["environments"], serde_json::json!({}));
    assert_later(&relay.get_with_key("/all", &sdk_key(0)).await);
    relay.wait_for_log(UNREADABLE).await;
    assert_eq!(relay.log().matches(UNREADABLE).count(), 2, "once for each tier");
    assert!(relay.log().contains("sealed_under_unknown_keys=4"), "{}", relay.log());
    relay.kill().await.unwrap();

    // The new key alone opens everything, though an attempt with the old one came between.
    let relay = with_key(NEW_KEY).start().unwrap();
    relay.stream_with_put("/all", &sdk_key(2)).await;
    wait_for_both_tiers(&relay).await;
}

async fn wait_for_both_tiers(relay: &RelayProcess) {
    relay
        .wait_for_status("both tiers are loaded", |status| {
            ["local", "shared"].iter().all(|tier| {
                let tier = &status["autoConfigCache"][tier];
                tier["state"] == "loaded" && tier["complete"] == true
            })
        })
        .await;
}

async fn a_key_in_a_file_is_exchanged_live(kind: Kind) {
    let fleet = Fleet::on(kind, 3, 5).await;
    let (disk, folder) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let file = folder.path().join("key");
    let settings = fleet
        .keyless(disk.path(), OFTEN)
        .with("AUTO_CONFIG_CACHE_ENCRYPTION_KEY_FILE", file.display().to_string());
    std::fs::write(&file, format!("{KEY}\n")).unwrap();
    let relay = fleet.filled_by(&settings).await;
    std::fs::write(&file, format!("  {NEW_KEY}\n")).unwrap();
    eventually("every row is under the new key", async || {
        let found = open(&fleet.rows().await, &[NEW_KEY]);
        let is_whole = found.is_whole && found.closed == 0 && found.records == fleet.said();
        if is_whole { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    fleet.rename(1, "written under the new key");
    eventually("a change is sealed under it", async || {
        let found = open(&fleet.rows().await, &[NEW_KEY]);
        if found.records == fleet.said() { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    // The relay still opens what the old key sealed, until it is all sealed anew.
    let relay = wait_until_resealed(&disk, &settings, relay).await;
    relay.kill().await.unwrap();

    // A wrong key in an outage: the right one is taken up without a restart.
    fleet.launchdarkly.stop().await;
    std::fs::write(&file, KEY).unwrap();
    let relay = settings.start().unwrap();
    wait_for_shared(&relay, "unreadable").await;
    std::fs::write(&file, "").unwrap();
    relay.wait_for_log("a secret file cannot be used").await;
    std::fs::write(&file, NEW_KEY).unwrap();
    wait_for_shared(&relay, "loaded").await;
    relay
        .wait_for_status("the environments are known, from both tiers", |status| {
            status["environments"].as_object().unwrap().len() == 3
                && status["autoConfigCache"]["local"]["state"] == "loaded"
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_autoconfig_key_seals_where_there_is_no_other_and_is_exchanged_live() {
    let fleet = Fleet::on(Kind::Redis, 3, 5).await;
    let (disk, folder) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let file = folder.path().join("key");
    let settings = fleet
        .keyless(disk.path(), NEVER)
        .without("AUTO_CONFIG_KEY")
        .with("AUTO_CONFIG_KEY_FILE", file.display().to_string());
    let old = FakeSettings::default().autoconfig_key;
    std::fs::write(&file, &old).unwrap();
    let relay = settings.start().unwrap();
    relay.wait_until_healthy(3).await;
    relay.wait_until_stored().await;
    assert!(open(&fleet.rows().await, &[&old]).is_whole);

    let new = "rel-00000000-0000-4000-8000-second000002";
    fleet.launchdarkly.add_autoconfig_key(new);
    fleet.launchdarkly.revoke_autoconfig_key(&old);
    std::fs::write(&file, new).unwrap();
    eventually("every row is under the new key", async || {
        let found = open(&fleet.rows().await, &[new]);
        if found.is_whole && found.closed == 0 { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    relay.wait_until_healthy(3).await;
    let relay = wait_until_resealed_under(&disk, new, &settings, relay).await;
    relay.kill().await.unwrap();
    fleet.launchdarkly.stop().await;
    let relay = settings.start().unwrap();
    relay.stream_with_put("/all", &sdk_key(0)).await;
    let status = wait_for_shared(&relay, "loaded").await;
    assert_eq!(shared(&status)["complete"], true);
}

/// Waits until the embedded store opens with the new key alone. To look into it the relay has to
/// go for a moment; it is given back running.
async fn wait_until_resealed(
    disk: &TempDir,
    settings: &RelaySettings,
    relay: RelayProcess,
) -> RelayProcess {
    wait_until_resealed_under(disk, NEW_KEY, settings, relay).await
}

async fn wait_until_resealed_under(
    disk: &TempDir,
    key: &str,
    settings: &RelaySettings,
    mut relay: RelayProcess,
) -> RelayProcess {
    loop {
        relay
            .wait_for_status("nothing is left to be sealed anew", |status| {
                status["localStore"]["toReseal"] == 0
            })
            .await;
        relay.stop().await.unwrap();
        if left_under_other_keys(disk.path(), key).await == 0 {
            return settings.start().unwrap();
        }
        relay = settings.start().unwrap();
    }
}

/// Records and sets of a store with three environments that do not open with a key.
async fn left_under_other_keys(directory: &Path, key: &str) -> usize {
    let ring = KeyRing::new(SealingKey::derive(key), []);
    let store = LocalStore::open(directory, ring).unwrap().store;
    let (sets, named) = (store.stored_sets().unwrap(), store.read_named("autoconfig").unwrap());
    assert!(store.close(LONG).await);
    (3 - sets.len()) + (4 - named.records.len())
}
