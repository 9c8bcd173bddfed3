//! Starts from several Redis servers that belong together, and what clients of these see while a
//! relay fills them.

use pilotlight::testing::demo::composed_data::{environment, environment_id};
use pilotlight::testing::demo::fake_launchdarkly::FakeLaunchDarkly;
use pilotlight::testing::model::{DataSet, ItemKind};
use tempfile::TempDir;
use tokio::time::{Duration, interval};

use super::redis_scene::{
    PLAIN, TAGGED, launchdarkly, on, on_owners, prefix, relay, serves_from_the_store,
    wait_until_held,
};
use pilotlight_test_kit::certificates::Certificates;
use pilotlight_test_kit::databases::{Redis, RedisCluster, SentinelGroup};
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::fleet::SEALED;
use pilotlight_test_kit::relay::RelaySettings;
use pilotlight_test_kit::stored_flags::wanted;

const ENVIRONMENTS: usize = 3;

/// Fills the servers by a relay that is killed then; gives what LaunchDarkly, which is no more,
/// had said.
async fn fill(settings: RelaySettings, launchdarkly: &FakeLaunchDarkly) -> Vec<DataSet> {
    let relay = settings.start().unwrap();
    relay.wait_until_stored().await;
    let data = |index| launchdarkly.data(environment_id(index).as_str());
    let said = (0..ENVIRONMENTS).map(data).collect();
    launchdarkly.stop().await;
    relay.kill().await.unwrap();
    said
}

/// A relay on a new machine has everything from the servers.
async fn starts_cold(settings: RelaySettings, said: &[DataSet]) {
    let relay = settings.start().unwrap();
    for (index, said) in said.iter().enumerate() {
        serves_from_the_store(&relay, index, said).await;
    }
    let ready = relay.get("/readyz", &[]).await;
    assert_eq!(ready.status, 200, "{ready:?}");
    let log = relay.log();
    assert!(!log.contains("s3cret") && !log.contains("w4tched"), "{log}");
    let status = relay.status().await.to_string();
    assert!(!status.contains("s3cret") && !status.contains("w4tched"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_machine_starts_from_a_master_behind_sentinels_also_from_a_new_one() {
    let certificates = Certificates::make();
    let mut group = SentinelGroup::start_guarded(1, 1, &certificates).await;
    let launchdarkly = launchdarkly(ENVIRONMENTS, 40);
    let machine = TempDir::new().unwrap();
    let said = fill(group.configure(relay(&launchdarkly, &machine, PLAIN)), &launchdarkly).await;
    for index in 0..ENVIRONMENTS {
        group.copied(&format!("{}:features", prefix(PLAIN, index))).await;
    }
    assert_eq!(group.copied(SEALED).await, ENVIRONMENTS + 1, "environments and the manifest");
    let machine = TempDir::new().unwrap();
    starts_cold(group.configure(relay(&launchdarkly, &machine, PLAIN)), &said).await;
    // It need not wait for the failover: it finds the new master when there is one.
    group.servers[0].kill();
    let machine = TempDir::new().unwrap();
    starts_cold(group.configure(relay(&launchdarkly, &machine, PLAIN)), &said).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_machine_starts_from_a_cluster_also_without_one_of_its_masters() {
    let mut cluster = RedisCluster::start_with_replicas(3).await;
    let launchdarkly = launchdarkly(ENVIRONMENTS, 40);
    let machine = TempDir::new().unwrap();
    let said = fill(cluster.configure(relay(&launchdarkly, &machine, PLAIN)), &launchdarkly).await;
    let mut keys = vec![SEALED.to_owned()];
    for index in 0..ENVIRONMENTS {
        let prefix = prefix(PLAIN, index);
        keys.extend(["features", "segments"].map(|name| format!("{prefix}:{name}")));
    }
    for key in &keys {
        cluster.copied(key, cluster.owner(key)).await;
    }
    let machine = TempDir::new().unwrap();
    starts_cold(cluster.configure(relay(&launchdarkly, &machine, PLAIN)), &said).await;
    let owner = cluster.owner(&keys[1]);
    cluster.servers[owner].kill();
    let machine = TempDir::new().unwrap();
    starts_cold(cluster.configure(relay(&launchdarkly, &machine, PLAIN)), &said).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_machine_starts_from_one_slot_of_a_cluster() {
    let cluster = RedisCluster::start(3).await;
    let launchdarkly = launchdarkly(ENVIRONMENTS, 40);
    let machine = TempDir::new().unwrap();
    let said = fill(cluster.configure(relay(&launchdarkly, &machine, TAGGED)), &launchdarkly).await;
    let machine = TempDir::new().unwrap();
    starts_cold(cluster.configure(relay(&launchdarkly, &machine, TAGGED)), &said).await;
}

/// How often a client looks.
const PACE: Duration = Duration::from_millis(5);

const FLAGS: usize = 300;

/// What a client may see of an environment that is being filled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Nothing or everything.
    AtOnce,
    /// Each hash whole: segments, then flags, then the marker.
    InOrder,
}

/// Looks at an environment again and again, from before `begin` until everything is there.
async fn watch(
    owner: impl Fn(&str) -> u16,
    prefix: &str,
    data: &DataSet,
    seen: Seen,
    begin: impl FnOnce(),
) {
    let names = ["$inited", "features", "segments"].map(|name| format!("{prefix}:{name}"));
    let mut connections = Vec::new();
    for name in &names {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", owner(name))).unwrap();
        connections.push(client.get_multiplexed_async_connection().await.unwrap());
    }
    let count = |kind| wanted(data, kind).len();
    let all = [1, count(ItemKind::Flag), count(ItemKind::Segment)];
    let mut pace = interval(PACE);
    let mut begin = Some(begin);
    eventually("everything is there", async || {
        pace.tick().await;
        if seen == Seen::AtOnce {
            let mut exists = redis::cmd("EXISTS");
            exists.arg(&names);
            let found: usize = exists.query_async(&mut connections[0]).await.unwrap();
            assert!(found == 0 || found == 3, "{found} of 3 keys");
        }
        // Against the order in which they are written: what is seen first came last.
        let mut found = [0; 3];
        for (place, name) in names.iter().enumerate() {
            let mut look = redis::cmd(if place == 0 { "EXISTS" } else { "HLEN" });
            found[place] = look.arg(name).query_async(&mut connections[place]).await.unwrap();
        }
        let parts = [[0, 0, 0], [0, 0, all[2]], [0, all[1], all[2]], all];
        assert!(parts.contains(&found), "{found:?} of {all:?}");
        if let Some(begin) = begin.take() {
            assert_eq!(found, [0, 0, 0]);
            begin();
        }
        if found == all { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

/// Two relays learn of one environment after the other, and each wants to be the one that fills.
/// What the slower one had prepared is removed.
async fn environments_appear(
    configure: impl Fn(RelaySettings) -> RelaySettings,
    owner: impl Fn(&str) -> u16,
    start: &str,
    seen: Seen,
    servers: &[Redis],
) {
    let launchdarkly = launchdarkly(1, FLAGS);
    let machines = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let relays = machines
        .each_ref()
        .map(|machine| configure(relay(&launchdarkly, machine, start)).start().unwrap());
    for relay in &relays {
        relay.wait_until_stored().await;
    }
    for index in 1..=5 {
        let composed = environment(index, FLAGS);
        let data = composed.data.clone();
        let prefix = prefix(start, index);
        watch(&owner, &prefix, &data, seen, || launchdarkly.load(&composed)).await;
    }
    eventually("nothing that was prepared is left over", async || {
        let keys = servers.iter().map(|server| server.command(&["KEYS", "*pilotlight-*"]));
        let keys: Vec<String> = keys.collect();
        if keys.iter().all(String::is_empty) { Ok(()) } else { Err(keys.join("\n")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_sentinels_environments_appear_at_once() {
    let group = SentinelGroup::start(1, 1).await;
    let owner = |_: &str| group.servers[0].port;
    let configure = |settings| group.configure(settings);
    environments_appear(configure, owner, PLAIN, Seen::AtOnce, &group.servers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_cluster_with_a_tag_environments_appear_at_once() {
    let cluster = RedisCluster::start(3).await;
    let owner = |key: &str| cluster.servers[cluster.owner(key)].port;
    let configure = |settings| cluster.configure(settings);
    environments_appear(configure, owner, TAGGED, Seen::AtOnce, &cluster.servers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_cluster_without_a_tag_environments_appear_in_order() {
    let cluster = RedisCluster::start(3).await;
    let owner = |key: &str| cluster.servers[cluster.owner(key)].port;
    let configure = |settings| cluster.configure(settings);
    environments_appear(configure, owner, PLAIN, Seen::InOrder, &cluster.servers).await;
}

/// What is wiped comes back whole, on all kinds of servers.
#[tokio::test(flavor = "multi_thread")]
async fn wiped_servers_are_filled_again() {
    let group = SentinelGroup::start(1, 1).await;
    let cluster = RedisCluster::start(3).await;
    let launchdarkly = launchdarkly(2, 40);
    let machines = [TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap()];
    let often = |settings: RelaySettings| {
        settings.with("REDIS_HEALTH_CHECK_INTERVAL", pilotlight_test_kit::fleet::OFTEN)
    };
    let plain = often(relay(&launchdarkly, &machines[0], PLAIN));
    let tagged = often(relay(&launchdarkly, &machines[1], TAGGED));
    let guarded = often(relay(&launchdarkly, &machines[2], PLAIN));
    let relays = [cluster.configure(plain), cluster.configure(tagged), group.configure(guarded)]
        .map(|settings| settings.start().unwrap());
    for relay in &relays {
        relay.wait_until_stored().await;
    }
    for _ in 0..3 {
        cluster.everywhere(&["FLUSHALL"]);
        assert_eq!(group.servers[0].command(&["FLUSHALL"]), "OK");
        wait_until_held(&on_owners(&cluster), &launchdarkly, PLAIN, 2).await;
        wait_until_held(&on_owners(&cluster), &launchdarkly, TAGGED, 2).await;
        wait_until_held(&on(&group.servers[0]), &launchdarkly, PLAIN, 2).await;
    }
}
