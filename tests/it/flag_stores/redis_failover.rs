//! Flags on several Redis servers that belong together: masters die, freeze and hand over, slots
//! move, while flags change every few milliseconds.

use pilotlight_test_kit::flaky_proxy::FlakyProxy;
use tempfile::TempDir;

use super::redis_scene::{
    Changes, PLAIN, TAGGED, launchdarkly, on, on_owners, prefix, relay, wait_until_held,
};
use pilotlight_test_kit::databases::{Redis, RedisCluster, SentinelGroup};
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::fleet::SEALED;
use pilotlight_test_kit::relay::RelayProcess;
use pilotlight_test_kit::stored_flags::wait_for_store;

/// What happens to a master.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Killed,
    Frozen,
    /// Somebody orders a failover; the old master is well.
    Ordered,
}

/// Changes made in each phase: some tenths of a second.
const A_FEW: usize = 60;

async fn shows_the_outage(relay: &RelayProcess) {
    wait_for_store(relay, "the outage shows", |store| {
        store["state"] == "INTERRUPTED"
            && store["breaker"] != "closed"
            && store["error"].is_string()
            && store["dirty"].as_u64() > Some(0)
    })
    .await;
}

async fn is_in_order(relay: &RelayProcess) {
    wait_for_store(relay, "everything is stored", |store| {
        store["state"] == "VALID"
            && store["breaker"] == "closed"
            && store["error"].is_null()
            && store["dirty"] == 0
            && store["writePending"] == false
    })
    .await;
}

async fn recovers(relay: &RelayProcess) {
    wait_for_store(relay, "the store is in use again", |store| {
        store["state"] == "VALID" && store["breaker"] == "closed" && store["error"].is_null()
    })
    .await;
}

async fn sentinels_fail_over(trouble: Trouble) {
    let mut group = SentinelGroup::start(1, 3).await;
    let launchdarkly = launchdarkly(2, 20);
    let machine = TempDir::new().unwrap();
    let relay = group.configure(relay(&launchdarkly, &machine, PLAIN)).start().unwrap();
    wait_until_held(&on(&group.servers[0]), &launchdarkly, PLAIN, 2).await;
    let mut changes = Changes::start(&launchdarkly, &relay).await;
    changes.go_on_for(A_FEW).await;
    match trouble {
        Trouble::Killed => group.servers[0].kill(),
        Trouble::Frozen => group.servers[0].freeze(),
        Trouble::Ordered => group.order_failover().await,
    }
    if trouble != Trouble::Ordered {
        shows_the_outage(&relay).await;
    }
    let new = group.new_master(0).await;
    changes.go_on_for(A_FEW).await;
    recovers(&relay).await;

    // The old master comes back, as what it was, until a sentinel sets it right.
    match trouble {
        Trouble::Killed => group.servers[0].restart().await,
        Trouble::Frozen => group.servers[0].thaw(),
        Trouble::Ordered => {}
    }
    changes.go_on_for(A_FEW).await;
    group.servers[0].is_in_sync().await;
    changes.go_on_for(A_FEW).await;
    changes.finish().await;
    is_in_order(&relay).await;
    wait_until_held(&on(&group.servers[new]), &launchdarkly, PLAIN, 2).await;
    wait_until_held(&on(&group.servers[0]), &launchdarkly, PLAIN, 2).await;
    assert!(group.servers[new].command(&["INFO", "replication"]).contains("role:master"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_behind_sentinels_that_is_killed_costs_nothing() {
    sentinels_fail_over(Trouble::Killed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_behind_sentinels_that_freezes_costs_nothing() {
    sentinels_fail_over(Trouble::Frozen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_behind_sentinels_that_hands_over_costs_nothing() {
    sentinels_fail_over(Trouble::Ordered).await;
}

async fn a_replica_takes_over(trouble: Trouble, start: &str) {
    let mut cluster = RedisCluster::start_with_replicas(3).await;
    let launchdarkly = launchdarkly(2, 20);
    let machine = TempDir::new().unwrap();
    let relay = cluster.configure(relay(&launchdarkly, &machine, start)).start().unwrap();
    wait_until_held(&on_owners(&cluster), &launchdarkly, start, 2).await;
    let flags = format!("{}:features", prefix(start, 0));
    let old = cluster.owner(&flags);
    let mut changes = Changes::start(&launchdarkly, &relay).await;
    changes.go_on_for(A_FEW).await;
    if trouble == Trouble::Killed {
        cluster.servers[old].kill();
    } else {
        cluster.servers[old].freeze();
    }
    shows_the_outage(&relay).await;
    cluster.replica_of(old).is_master().await;
    changes.go_on_for(A_FEW).await;
    recovers(&relay).await;

    if trouble == Trouble::Killed {
        cluster.servers[old].restart().await;
    } else {
        cluster.servers[old].thaw();
    }
    changes.go_on_for(A_FEW).await;
    cluster.servers[old].is_in_sync().await;
    changes.go_on_for(A_FEW).await;
    changes.finish().await;
    is_in_order(&relay).await;
    wait_until_held(&on_owners(&cluster), &launchdarkly, start, 2).await;
    assert_ne!(cluster.owner(&flags), old);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_of_a_cluster_that_is_killed_costs_nothing() {
    a_replica_takes_over(Trouble::Killed, PLAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_of_a_cluster_that_freezes_costs_nothing() {
    a_replica_takes_over(Trouble::Frozen, TAGGED).await;
}

async fn slots_move(start: &str) {
    let cluster = RedisCluster::start(3).await;
    let launchdarkly = launchdarkly(2, 20);
    let machine = TempDir::new().unwrap();
    let relay = cluster.configure(relay(&launchdarkly, &machine, start)).start().unwrap();
    wait_until_held(&on_owners(&cluster), &launchdarkly, start, 2).await;
    let mut changes = Changes::start(&launchdarkly, &relay).await;
    changes.go_on_for(A_FEW).await;
    for name in ["features", "segments", "$inited", "features"] {
        let key = format!("{}:{name}", prefix(start, 0));
        let from = cluster.owner(&key);
        let to = (from + 1) % 3;
        cluster.begin_to_move(&key, from, to);
        changes.go_on_for(A_FEW).await;
        for key in cluster.keys_beside(&key, from) {
            cluster.move_key(&key, from, to);
            changes.go_on_for(A_FEW).await;
        }
        cluster.finish_to_move(&key, from, to);
        changes.go_on_for(A_FEW).await;
        recovers(&relay).await;
    }
    changes.finish().await;
    is_in_order(&relay).await;
    wait_until_held(&on_owners(&cluster), &launchdarkly, start, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_move_during_writes_cost_nothing() {
    slots_move(PLAIN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_with_whole_environments_that_moves_during_writes_costs_nothing() {
    slots_move(TAGGED).await;
}

/// A name that leads to the master, as managed services have it: the master becomes a replica,
/// and some time later the name leads to the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_moves_to_another_master_is_followed() {
    let (old, new) = (Redis::start().await, Redis::start().await);
    let port = |server: &Redis| server.port.to_string();
    assert_eq!(new.command(&["REPLICAOF", "127.0.0.1", &port(&old)]), "OK");
    new.is_in_sync().await;
    let name = FlakyProxy::start(([127, 0, 0, 1], old.port).into()).unwrap();
    let launchdarkly = launchdarkly(2, 20);
    let machine = TempDir::new().unwrap();
    let relay = relay(&launchdarkly, &machine, PLAIN)
        .with("USE_REDIS", "true")
        .with("REDIS_URL", format!("redis://{}", name.address()))
        .start()
        .unwrap();
    wait_until_held(&on(&old), &launchdarkly, PLAIN, 2).await;
    let mut changes = Changes::start(&launchdarkly, &relay).await;
    changes.go_on_for(A_FEW).await;
    assert_eq!(new.command(&["REPLICAOF", "NO", "ONE"]), "OK");
    assert_eq!(old.command(&["REPLICAOF", "127.0.0.1", &port(&new)]), "OK");
    shows_the_outage(&relay).await;
    // A probe meets the replica, which answers PING, and is not content with it.
    wait_for_store(&relay, "the reason shows", |store| {
        store["error"].as_str().is_some_and(|error| error.contains("is a replica"))
    })
    .await;
    let served = eventually("replicas take no writes", async || {
        let info = old.command(&["INFO", "replication"]);
        if info.contains("role:slave") { Ok(info) } else { Err(info) }
    })
    .await;
    assert!(served.contains("slave_read_only:1"), "{served}");
    name.set_upstream(([127, 0, 0, 1], new.port).into());
    changes.go_on_for(A_FEW).await;
    recovers(&relay).await;
    changes.go_on_for(A_FEW).await;
    changes.finish().await;
    is_in_order(&relay).await;
    wait_until_held(&on(&new), &launchdarkly, PLAIN, 2).await;
}

/// Nobody writes and nobody looks: that the server ended the connections is what it is noticed by.
#[tokio::test(flavor = "multi_thread")]
async fn servers_that_restart_empty_while_nothing_changes_are_filled_at_once() {
    let mut server = Redis::start().await;
    let mut cluster = RedisCluster::start(3).await;
    let launchdarkly = launchdarkly(2, 20);
    let machines = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let url = format!("redis://127.0.0.1:{}", server.port);
    let alone = relay(&launchdarkly, &machines[0], PLAIN)
        .with("USE_REDIS", "true")
        .with("REDIS_URL", url)
        .start()
        .unwrap();
    let clustered = cluster.configure(relay(&launchdarkly, &machines[1], PLAIN)).start().unwrap();
    for relay in [&alone, &clustered] {
        relay.wait_until_stored().await;
    }
    for _ in 0..3 {
        server.restart().await;
        wait_until_held(&on(&server), &launchdarkly, PLAIN, 2).await;
        let owner = cluster.owner(&format!("{}:features", prefix(PLAIN, 1)));
        cluster.servers[owner].restart().await;
        wait_until_held(&on_owners(&cluster), &launchdarkly, PLAIN, 2).await;
    }
    // The cache of environments, too.
    eventually("the cache is whole again", async || {
        let rows = server.command(&["HLEN", SEALED]);
        if rows == "3" { Ok(()) } else { Err(rows) }
    })
    .await;
    for relay in [&alone, &clustered] {
        is_in_order(relay).await;
    }
}
