//! A store that an attacker put into the directory of the local store.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use pilotlight::testing::demo::composed_data::{environment, sdk_key};
use pilotlight::testing::demo::fake_launchdarkly::{FakeLaunchDarkly, FakeSettings};
use pilotlight::testing::flagstore::{DataSetId, LocalFlags, ReadOutcome};
use pilotlight::testing::model::EnvironmentRef;
use pilotlight::testing::sealing::{KeyRing, SealingKey};
use pilotlight::testing::storage::local::{KeyFile, LocalStore};
use tempfile::TempDir;

use pilotlight_test_kit::fleet::KEY;
use pilotlight_test_kit::relay::{LONG, RelayProcess, RelaySettings};

fn launchdarkly() -> FakeLaunchDarkly {
    let launchdarkly = FakeLaunchDarkly::launch(&FakeSettings::default()).unwrap();
    launchdarkly.load(&environment(0, 5));
    launchdarkly
}

fn relay(launchdarkly: &FakeLaunchDarkly, disk: &Path) -> RelaySettings {
    RelaySettings::autoconfig(launchdarkly, &FakeSettings::default().autoconfig_key, disk)
}

/// Fills a directory with a store that a relay of the attacker could have written: his list of
/// environments with his SDK keys, and his flags, all under the key in `local.key`.
async fn plant(launchdarkly: &FakeLaunchDarkly, directory: &Path) {
    let own = TempDir::new().unwrap();
    let attacker = relay(launchdarkly, own.path()).start().unwrap();
    attacker.wait_until_healthy(1).await;
    attacker.wait_until_stored().await;
    attacker.kill().await.unwrap();
    let key = SealingKey::derive(&FakeSettings::default().autoconfig_key);
    let from = LocalStore::open(own.path(), KeyRing::new(key, [])).unwrap().store;
    let records = from.read_named("autoconfig").unwrap().records;
    assert!(!records.is_empty());
    let file = KeyFile::read_or_make(directory).unwrap();
    let to = LocalStore::open(directory, KeyRing::new(file.key, [])).unwrap().store;
    let puts = records.into_iter().map(|record| (record.name, record.value)).collect();
    to.replace_named("autoconfig", puts).await.unwrap();
    let environment = pilotlight::testing::demo::composed_data::environment_id(0).as_str().into();
    let id = DataSetId::new(&EnvironmentRef { environment, filter: Default::default() });
    let flags = LocalFlags::new(from.clone()).read_set(&id).unwrap();
    let ReadOutcome::Complete(flags) = flags else { panic!("{flags:?}") };
    LocalFlags::new(to.clone()).replaced(&id, flags.data.into());
    assert!(from.close(LONG).await);
    assert!(to.close(LONG).await);
}

/// The relay of the victim, cut off from LaunchDarkly, does not serve the attacker.
async fn serves_nothing(relay: &RelayProcess) {
    let answer = relay.get_with_key("/sdk/latest-all", &sdk_key(0)).await;
    assert_eq!(answer.status, 503, "{}", relay.log());
    assert_ne!(relay.get("/readyz", &[]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn is_not_served_where_a_key_is_configured() {
    let launchdarkly = launchdarkly();
    let disk = TempDir::new().unwrap();
    plant(&launchdarkly, disk.path()).await;
    launchdarkly.stop().await;
    let settings = relay(&launchdarkly, disk.path());
    for settings in [
        settings.clone(),
        settings
            .with("AUTO_CONFIG_KEY", "rel-of-the-victim")
            .with("AUTO_CONFIG_CACHE_ENCRYPTION_KEY", KEY),
    ] {
        let relay = settings.start().unwrap();
        relay.wait_for_log("the local store has a local.key although a key is configured").await;
        relay
            .wait_for_status("its records are read and do not open", |status| {
                status["autoConfigCache"]["local"]["state"] == "unreadable"
            })
            .await;
        serves_nothing(&relay).await;
        relay.kill().await.unwrap();
    }
    assert!(disk.path().join("local.key").exists(), "it is evidence");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_others_can_write_is_not_used_and_that_shows() {
    let launchdarkly = launchdarkly();
    let parent = TempDir::new().unwrap();
    let disk = parent.path().join("store");
    let settings = relay(&launchdarkly, &disk);
    let relay = settings.start().unwrap();
    relay.wait_until_healthy(1).await;
    relay.wait_until_stored().await;
    relay.kill().await.unwrap();
    launchdarkly.stop().await;

    let file = disk.join("pilotlight.redb");
    let mode =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let refused = async |why: &str| {
        let relay = settings.start().unwrap();
        let status = relay
            .wait_for_status("the store is not used", |status| {
                status["localStore"]["state"] == "unavailable"
            })
            .await;
        let error = status["localStore"]["error"].as_str().unwrap();
        assert!(error.contains("is not trusted") && error.contains(why), "{error}");
        relay.wait_for_log(why).await;
        serves_nothing(&relay).await;
        relay
    };
    mode(&disk, 0o777);
    refused("chmod go-w").await.kill().await.unwrap();
    mode(&disk, 0o700);
    mode(&file, 0o620);
    refused("chmod go-w").await.kill().await.unwrap();
    mode(&file, 0o600);
    chown(&file, Some(4242), None).unwrap();
    refused("it belongs to user 4242").await.kill().await.unwrap();
    chown(&file, Some(0), None).unwrap();
    let elsewhere = parent.path().join("elsewhere");
    fs::rename(&disk, &elsewhere).unwrap();
    symlink(&elsewhere, &disk).unwrap();
    let relay = refused("it is a symbolic link").await;

    // Once it is put right, it is used without a restart.
    fs::remove_file(&disk).unwrap();
    fs::rename(&elsewhere, &disk).unwrap();
    relay.stream_with_put("/all", &sdk_key(0)).await;
}
