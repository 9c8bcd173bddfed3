//! The tier of this machine: its key of last resort, and what can happen to its file while the
//! relay runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pilotlight::testing::demo::composed_data::{
    changed_flag, environment, environment_id, sdk_key,
};
use pilotlight::testing::demo::fake_launchdarkly::{
    FakeLaunchDarkly, FakeSettings, Fault, FaultRule, FaultScope,
};
use pilotlight::testing::sealing::{KeyRing, SealingKey};
use pilotlight::testing::storage::local::LocalStore;
use serde_json::Value;
use tempfile::TempDir;

use pilotlight_test_kit::eventually;
use pilotlight_test_kit::relay::{LONG, RelayProcess, RelaySettings, next_event};

fn launchdarkly(environments: usize, flags: usize) -> FakeLaunchDarkly {
    let launchdarkly = FakeLaunchDarkly::launch(&FakeSettings::default()).unwrap();
    for index in 0..environments {
        launchdarkly.load(&environment(index, flags));
    }
    launchdarkly
}

fn settings(launchdarkly: &FakeLaunchDarkly, store: &Path) -> RelaySettings {
    RelaySettings::autoconfig(launchdarkly, &FakeSettings::default().autoconfig_key, store)
}

fn file(store: &Path) -> PathBuf {
    store.join("pilotlight.redb")
}

#[tokio::test(flavor = "multi_thread")]
async fn manual_environments_are_sealed_under_a_key_of_their_own_and_can_move_to_autoconfig() {
    let launchdarkly = launchdarkly(1, 5);
    let disk = TempDir::new().unwrap();
    // Whoever names the environment's ID keeps its flags when it comes by autoconfig.
    let manual = RelaySettings::manual(&launchdarkly, disk.path())
        .with("LD_ENV_Shop", sdk_key(0))
        .with("LD_CLIENT_SIDE_ID_Shop", environment_id(0));
    let relay = manual.start().unwrap();
    relay.wait_until_healthy(1).await;
    wait_until_first_stored(&relay).await;
    let key = disk.path().join("local.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&key).unwrap();
    relay.kill().await.unwrap();

    launchdarkly.stop().await;
    let relay = manual.start().unwrap();
    relay.stream_with_put("/all", &sdk_key(0)).await;
    assert_eq!(fs::read_to_string(&key).unwrap(), text, "it is made once");
    let log = relay.log();
    assert!(!log.contains(text.trim()), "{log}");
    relay.kill().await.unwrap();

    let automatic = settings(&launchdarkly, disk.path());
    launchdarkly.start().unwrap();
    // The list by autoconfig, the flags from the disk.
    launchdarkly.inject(FaultRule::new(FaultScope::Flags, Fault::Hang));
    let relay = automatic.start().unwrap();
    let (_, put) = relay.stream_with_put("/all", &sdk_key(0)).await;
    assert_eq!(put["data"]["flags"].as_object().unwrap().len(), 5);
    let status = relay.status().await;
    assert_eq!(status["environments"][environment_id(0)]["data"]["origin"], "localStore");
    assert_eq!(status["localStore"]["unreadable"], false);
    assert!(relay.log().contains("its flags were adopted"), "{}", relay.log());
    assert!(!key.exists(), "it opens nothing any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn previous_keys_alone_seal_nothing() {
    let launchdarkly = launchdarkly(1, 5);
    let disk = TempDir::new().unwrap();
    let manual = RelaySettings::manual(&launchdarkly, disk.path()).with("LD_ENV_Shop", sdk_key(0));
    let previous = manual.clone().with("AUTO_CONFIG_CACHE_PREVIOUS_ENCRYPTION_KEYS", "old");
    let relay = previous.start().unwrap();
    relay.wait_until_healthy(1).await;
    wait_until_first_stored(&relay).await;
    relay.kill().await.unwrap();
    launchdarkly.stop().await;
    let relay = manual.start().unwrap();
    relay.stream_with_put("/all", &sdk_key(0)).await;
}

/// Waits until the flags of a relay with one manual environment stand in its new store. They may
/// be there before the store is open, when nothing waits to be stored yet.
async fn wait_until_first_stored(relay: &RelayProcess) {
    let is_stored = |status: &Value| status["localStore"]["lastCommit"].is_u64();
    relay.wait_for_status("something is stored", is_stored).await;
    relay.wait_until_stored().await;
}

/// Waits until the store was made anew and holds so many environments, with the flags of each.
async fn wait_until_replaced(relay: &RelayProcess, told: &str, disk: &Path, environments: usize) {
    relay.wait_for_log(told).await;
    wait_until_held(disk, environments).await;
    relay
        .wait_for_status("all is well", |status| {
            let (store, tier) = (&status["localStore"], &status["autoConfigCache"]["local"]);
            store["state"] == "available"
                && store["error"].is_null()
                && tier["state"] == "loaded"
                && tier["complete"] == true
        })
        .await;
}

/// Waits until the file holds so many environments, with the flags of each. What `/status` tells
/// of the time before the file was lost looks the same.
async fn wait_until_held(disk: &Path, environments: usize) {
    eventually("the file holds everything", async || {
        let held = held(disk).await?;
        // The list has a manifest.
        if held == (environments, environments + 1) { Ok(()) } else { Err(format!("{held:?}")) }
    })
    .await;
}

/// Sets of flags and records of the list that a copy of the file holds.
async fn held(disk: &Path) -> Result<(usize, usize), String> {
    let copy = TempDir::new().unwrap();
    fs::copy(file(disk), file(copy.path())).map_err(|error| error.to_string())?;
    let key = SealingKey::derive(&FakeSettings::default().autoconfig_key);
    let opened = LocalStore::open(copy.path(), KeyRing::new(key, []));
    let store = opened.map_err(|error| error.to_string())?.store;
    let sets = store.stored_sets().map_err(|error| error.to_string())?;
    let named = store.read_named("autoconfig").map_err(|error| error.to_string())?;
    assert!(store.close(LONG).await);
    Ok((sets.len(), named.records.len()))
}

/// Starts without LaunchDarkly from what is on the disk, until it serves all environments.
async fn starts_cold(launchdarkly: &FakeLaunchDarkly, disk: &Path, environments: usize) {
    launchdarkly.stop().await;
    let relay = settings(launchdarkly, disk).start().unwrap();
    for index in 0..environments {
        relay.stream_with_put("/all", &sdk_key(index)).await;
    }
    assert_eq!(relay.status().await["autoConfigCache"]["local"]["complete"], true);
}

/// What happens to the file of a live relay, and what the log says of it.
async fn survives(harm: impl Fn(&Path), told: &str) {
    let launchdarkly = launchdarkly(3, 20);
    let parent = TempDir::new().unwrap();
    let disk = parent.path().join("store");
    let relay = settings(&launchdarkly, &disk).start().unwrap();
    relay.wait_until_healthy(3).await;
    relay.wait_until_stored().await;
    let (mut client, _) = relay.stream_with_put("/all", &sdk_key(0)).await;
    harm(&disk);
    // A change reaches clients whatever the store does, and the store finds out.
    launchdarkly.upsert_flag(&environment_id(0), changed_flag(0, 3, 1)).unwrap();
    assert_eq!(next_event(&mut client).await.0, "patch");
    wait_until_replaced(&relay, told, &disk, 3).await;
    // The list of environments goes on being kept.
    launchdarkly.load(&environment(3, 20));
    relay.wait_until_healthy(4).await;
    relay.wait_until_stored().await;
    wait_until_held(&disk, 4).await;
    let shows = |status: &Value| status["autoConfigCache"]["local"]["records"] == 4;
    relay.wait_for_status("/status shows it", shows).await;
    relay.kill().await.unwrap();
    starts_cold(&launchdarkly, &disk, 4).await;
}

const DAMAGED: &str = "the local store was damaged while in use";
const REMOVED: &str = "the file of the local store was removed while in use";

fn spoil(store: &Path) {
    let length = fs::metadata(file(store)).unwrap().len();
    let junk = vec![0xa5; usize::try_from(length).unwrap()];
    // In place, so that the open file is hit.
    let mut open = fs::OpenOptions::new().write(true).open(file(store)).unwrap();
    std::io::Write::write_all(&mut open, &junk).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_overwritten_while_in_use() {
    survives(spoil, DAMAGED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_emptied_while_in_use() {
    let cut = |store: &Path| {
        fs::OpenOptions::new().write(true).open(file(store)).unwrap().set_len(0).unwrap();
    };
    survives(cut, DAMAGED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_removed_while_in_use() {
    survives(|store| fs::remove_dir_all(store).unwrap(), REMOVED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_removed_while_in_use() {
    survives(|store| fs::remove_file(file(store)).unwrap(), REMOVED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_whose_place_something_else_stands_is_told_of_until_it_is_gone() {
    let launchdarkly = launchdarkly(1, 5);
    let parent = TempDir::new().unwrap();
    let disk = parent.path().join("store");
    let relay = settings(&launchdarkly, &disk).start().unwrap();
    relay.wait_until_healthy(1).await;
    relay.wait_until_stored().await;
    let (mut client, _) = relay.stream_with_put("/all", &sdk_key(0)).await;
    fs::remove_dir_all(&disk).unwrap();
    fs::write(&disk, "in the way").unwrap();
    for change in 1..4 {
        launchdarkly.upsert_flag(&environment_id(0), changed_flag(0, 3, change)).unwrap();
        assert_eq!(next_event(&mut client).await.0, "patch");
    }
    let status = relay
        .wait_for_status("/status tells", |status| status["localStore"]["state"] == "unavailable")
        .await;
    // The directory cannot be made, and what should be in it cannot be opened.
    let error = status["localStore"]["error"].as_str().unwrap();
    let is_clear = error.contains(disk.to_str().unwrap()) && error.contains("cannot be ");
    assert!(is_clear, "{status:#}");
    assert_eq!(relay.get_with_key("/sdk/flags", &sdk_key(0)).await.status, 200);
    fs::remove_file(&disk).unwrap();
    wait_until_replaced(&relay, REMOVED, &disk, 1).await;
    relay.kill().await.unwrap();
    starts_cold(&launchdarkly, &disk, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_in_an_outage_goes_back_into_a_store_that_was_replaced() {
    let launchdarkly = launchdarkly(2, 10);
    let parent = TempDir::new().unwrap();
    let disk = parent.path().join("store");
    let relay = settings(&launchdarkly, &disk).start().unwrap();
    relay.wait_until_healthy(2).await;
    relay.wait_until_stored().await;
    relay.kill().await.unwrap();

    // Flags come, the list of environments does not: it is known from the store alone.
    launchdarkly.inject(FaultRule::new(FaultScope::Autoconfig, Fault::Hang));
    launchdarkly.cut_connections();
    let relay = settings(&launchdarkly, &disk).start().unwrap();
    relay
        .wait_for_status("flags are live", |status| {
            let environments = status["environments"].as_object().unwrap();
            environments.len() == 2
                && environments.values().all(|it| it["data"]["origin"] == "live")
                && status["localStore"]["pending"] == 0
        })
        .await;
    fs::remove_dir_all(&disk).unwrap();
    launchdarkly.upsert_flag(&environment_id(0), changed_flag(0, 3, 1)).unwrap();
    relay.wait_for_log(REMOVED).await;
    wait_until_held(&disk, 2).await;
    relay.stop().await.unwrap();
    starts_cold(&launchdarkly, &disk, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_shows_and_delays_nobody() {
    let launchdarkly = launchdarkly(1, 5);
    let disk = TempDir::new().unwrap();
    let relay = settings(&launchdarkly, disk.path()).start().unwrap();
    relay.wait_until_healthy(1).await;
    relay.wait_until_stored().await;
    relay.stop().await.unwrap();

    // No file of the process may grow beyond what the store has: as if the disk were full. The
    // soft limit alone, because to lift a hard one takes more than being the same user.
    let blocks = fs::metadata(file(disk.path())).unwrap().len().div_ceil(512);
    let script = format!("trap '' XFSZ; ulimit -S -f {blocks}; exec \"$0\" \"$@\"");
    let relay =
        settings(&launchdarkly, disk.path()).under(&["/bin/sh", "-c", &script]).start().unwrap();
    relay.wait_until_healthy(1).await;
    let (mut client, _) = relay.stream_with_put("/all", &sdk_key(0)).await;
    for index in 1..6 {
        launchdarkly.load(&environment(index, 800));
    }
    relay.wait_until_healthy(6).await;
    let status = relay
        .wait_for_status("/status tells", |status| status["localStore"]["error"].is_string())
        .await;
    assert!(status["localStore"]["pending"].as_u64().unwrap() > 0, "{status:#}");
    launchdarkly.upsert_flag(&environment_id(0), changed_flag(0, 3, 1)).unwrap();
    assert_eq!(next_event(&mut client).await.0, "patch");
    let (_, put) = relay.stream_with_put("/all", &sdk_key(5)).await;
    assert_eq!(put["data"]["flags"].as_object().unwrap().len(), 800);
    let complaint = "the local store cannot be written";
    assert_eq!(relay.log().matches(complaint).count(), 1, "{}", relay.log());

    // There is room again.
    let id = relay.process_id().to_string();
    let lifted = std::process::Command::new("prlimit")
        .args(["--pid", &id, "--fsize=unlimited"])
        .status()
        .unwrap();
    assert!(lifted.success());
    relay
        .wait_for_status("everything is stored", |status| {
            status["localStore"]["pending"] == 0 && status["localStore"]["error"].is_null()
        })
        .await;
    relay.wait_until_stored().await;
    relay.kill().await.unwrap();
    starts_cold(&launchdarkly, disk.path(), 6).await;
}
