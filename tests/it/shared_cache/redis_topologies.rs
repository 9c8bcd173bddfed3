//! The shared cache on Redis behind sentinels and on a Redis Cluster: the master that holds it is
//! killed, and a relay on a new machine starts from what its replica has.

use std::time::Duration;

use pilotlight::testing::demo::composed_data::environment;
use pilotlight::testing::demo::fake_launchdarkly::{FakeLaunchDarkly, FakeSettings};
use tempfile::TempDir;

use pilotlight_test_kit::certificates::Certificates;
use pilotlight_test_kit::databases::{RedisCluster, SentinelGroup};
use pilotlight_test_kit::fleet::{CACHE_KEY, KEY, OFTEN, SEALED, shared, wait_for_shared};
use pilotlight_test_kit::relay::{RelayProcess, RelaySettings};

fn launchdarkly() -> FakeLaunchDarkly {
    let heartbeat = Some(Duration::from_millis(200));
    let settings = FakeSettings { heartbeat, ..FakeSettings::default() };
    let launchdarkly = FakeLaunchDarkly::launch(&settings).unwrap();
    for index in 0..3 {
        launchdarkly.load(&environment(index, 5));
    }
    launchdarkly
}

fn relay(launchdarkly: &FakeLaunchDarkly, machine: &TempDir) -> RelaySettings {
    let key = FakeSettings::default().autoconfig_key;
    RelaySettings::autoconfig(launchdarkly, &key, machine.path())
        .with("AUTO_CONFIG_CACHE_KEY", CACHE_KEY)
        .with("AUTO_CONFIG_CACHE_ENCRYPTION_KEY", KEY)
        .with("ENV_DATASTORE_PREFIX", "ld-$CID")
        .with("REDIS_HEALTH_CHECK_INTERVAL", OFTEN)
}

async fn is_loaded(relay: &RelayProcess) {
    let status = wait_for_shared(relay, "loaded").await;
    let tier = shared(&status);
    assert_eq!((tier["records"].as_u64(), tier["complete"].as_bool()), (Some(3), Some(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_start_follows_the_sentinels_to_the_new_master() {
    let certificates = Certificates::make();
    let mut group = SentinelGroup::start_guarded(1, 1, &certificates).await;
    let launchdarkly = launchdarkly();
    let machine = TempDir::new().unwrap();
    let first = group.configure(relay(&launchdarkly, &machine)).start().unwrap();
    first.wait_until_stored().await;
    assert_eq!(group.copied(SEALED).await, 4, "environments and the manifest");
    launchdarkly.stop().await;
    first.kill().await.unwrap();
    group.servers[0].kill();

    // It need not wait for the failover: it finds the new master when there is one.
    let machine = TempDir::new().unwrap();
    let second = group.configure(relay(&launchdarkly, &machine)).start().unwrap();
    is_loaded(&second).await;
    let log = second.log();
    assert!(!log.contains("s3cret") && !log.contains("w4tched"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_start_finds_the_new_owner_of_the_slot() {
    let mut cluster = RedisCluster::start_with_replicas(3).await;
    let launchdarkly = launchdarkly();
    let machine = TempDir::new().unwrap();
    let first = cluster.configure(relay(&launchdarkly, &machine)).start().unwrap();
    first.wait_until_stored().await;
    let owner = cluster.owner(SEALED);
    assert_eq!(cluster.copied(SEALED, owner).await, 4, "environments and the manifest");
    launchdarkly.stop().await;
    first.kill().await.unwrap();
    cluster.servers[owner].kill();

    let machine = TempDir::new().unwrap();
    let second = cluster.configure(relay(&launchdarkly, &machine)).start().unwrap();
    is_loaded(&second).await;
}
