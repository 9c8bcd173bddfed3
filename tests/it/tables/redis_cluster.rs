//! Tables on a Redis Cluster.

use pilotlight::testing::storage::redis::{RedisStore, RedisTable, classify, run_id};
use pilotlight::testing::storage::table::Written;
use pilotlight::testing::storage::{BreakerState, StoreError};

use super::contract::holds;
use super::outage::{ends_by_itself, is_a_refusal, is_noticed, probing, wait_for};
use super::redis::{RedisPeer, open, store};
use super::redis_journal::Writer;
use super::space::{Space, content, insert, update};
use pilotlight_test_kit::certificates::Certificates;
use pilotlight_test_kit::databases::{Redis, RedisCluster, free_port};
use pilotlight_test_kit::eventually;

async fn a_cluster_keeps_the_contract(cluster: RedisCluster<'_>) {
    holds(&RedisPeer::spread(cluster.settings())).await;
    holds(&RedisPeer::tagged(cluster.settings())).await;
    let left = cluster.everywhere(&["KEYS", "*:pilotlight-*"]);
    assert!(left.iter().all(String::is_empty), "nothing that was prepared is left: {left:?}");
    let used = cluster.everywhere(&["DBSIZE"]);
    assert!(used.iter().all(|keys| keys != "0"), "all of them are used: {used:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_cluster_keeps_the_contract() {
    a_cluster_keeps_the_contract(RedisCluster::start(3).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_valkey_cluster_keeps_the_contract() {
    a_cluster_keeps_the_contract(RedisCluster::start_valkey(3).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_scripts_keeps_the_contract() {
    let cluster = RedisCluster::start(3).await;
    cluster.everywhere(&["ACL", "SETUSER", "relay", "on", ">s3cret", "~*", "+@all", "-@scripting"]);
    holds(&RedisPeer::spread(cluster.settings_of("relay:s3cret@", ""))).await;
    let used = cluster.everywhere(&["INFO", "commandstats"]);
    assert!(used.iter().all(|used| used.contains("cmdstat_exec:")), "{used:?}");
    holds(&RedisPeer::tagged(cluster.settings_of("relay:s3cret@", ""))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_behind_tls_keeps_the_contract() {
    let certificates = Certificates::make();
    let cluster = RedisCluster::start_tls(2, &certificates).await;
    cluster.everywhere(&["ACL", "SETUSER", "relay", "on", ">s3cret", "~*", "+@all"]);
    holds(&RedisPeer::spread(cluster.settings_of("relay:s3cret@", ""))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_a_cluster_are_no_outages() {
    let cluster = RedisCluster::start(3).await;
    let wrong = store(cluster.settings_of("relay:wr0ng@", ""));
    is_a_refusal(&wrong, &open(wrong.clone(), "ns"), "WRONGPASS").await;
    // This release has one database; the server knows best, so it is asked.
    let second = store(cluster.settings_of("", "/2"));
    let trouble = "SELECT is not allowed in cluster mode";
    is_a_refusal(&second, &open(second.clone(), "ns"), trouble).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seeds_of_no_use_are_passed_over() {
    let cluster = RedisCluster::start(3).await;
    let bus_port = free_port().to_string();
    let alone = Redis::start_with(&["--cluster-enabled", "yes", "--cluster-port", &bus_port]).await;
    let (no_cluster, frozen) = (Redis::start().await, Redis::start().await);
    frozen.freeze();
    let with = |seeds: &[&Redis]| {
        let mut settings = cluster.settings();
        settings.seeds.extend(seeds.iter().map(|it| it.settings().endpoint));
        settings
    };
    // Wherever they begin to ask.
    for _ in 0..6 {
        let store = store(with(&[&alone, &no_cluster, &frozen]));
        assert_eq!(open(store.clone(), "ns").read_all().await.unwrap(), []);
        assert_eq!(store.health().state, BreakerState::Closed);
    }
    let mut settings = with(&[&no_cluster]);
    settings.seeds.remove(0);
    let refused = store(settings.clone());
    let trouble = "cluster support disabled";
    is_a_refusal(&refused, &open(refused.clone(), "ns"), trouble).await;
    settings.seeds = vec![alone.settings().endpoint];
    let down = store(settings);
    is_noticed(&down, &open(down.clone(), "ns")).await;
    let text = down.health().last_error.unwrap().text;
    assert!(text.contains("cluster is down"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_over_several_slots_are_refused_before_anything_is_sent() {
    let cluster = RedisCluster::start(3).await;
    let store = store(cluster.settings());
    let set = async |keys: [&str; 2], atomic: bool| {
        let mut pipeline = redis::pipe();
        if atomic {
            pipeline.atomic();
        }
        for key in keys {
            pipeline.cmd("SET").arg(key).arg("1").ignore();
        }
        let set = async |mut conn| pipeline.exec_async(&mut conn).await.map_err(classify);
        store.call(set).await
    };
    for atomic in [false, true] {
        set(["{ld}:features", "{ld}:segments"], atomic).await.unwrap();
        let error = set(["launchdarkly:features", "launchdarkly:segments"], atomic).await;
        let Err(StoreError::Refused(cause)) = error else { panic!("{error:?}") };
        assert!(cause.to_string().contains("different slots"), "{cause}");
    }
    assert_eq!(cluster.servers[1].command(&["DBSIZE"]), "2");
    let together = |keys: [&str; 2]| store.dialer().keeps_together(keys);
    assert!(together(["{ld}:features", "{ld}:segments"]));
    assert!(!together(["launchdarkly:features", "launchdarkly:segments"]));
}

/// Moves the slot of a namespace while it is used, by whatever way it is written.
async fn follows_a_moving_slot(cluster: &mut RedisCluster<'_>, store: &RedisStore) {
    let space = open(store.clone(), "ns");
    let epoch = store.health().connected_epoch;
    let from = cluster.owner("ns");
    let to = (from + 1) % 3;

    // Not there yet: whatever is new goes to the new place.
    cluster.begin_to_move("ns", from, to);
    assert_eq!(space.read_all().await.unwrap(), []);
    let three = [insert("a", "1"), insert("b", "1"), insert("c", "1")];
    assert_eq!(space.write(&three).await.unwrap(), [Written::Applied; 3]);
    assert_eq!(space.get("a").await.unwrap().unwrap().value.bytes, "1");
    cluster.finish_to_move("ns", from, to);
    assert_eq!(content(&space).await.len(), 3);

    // The same with a server that joined after the relay had looked.
    let next = cluster.add_master().await;
    let other = open(store.clone(), "other");
    let home = cluster.owner("other");
    cluster.begin_to_move("other", home, next);
    assert_eq!(other.write(&three).await.unwrap(), [Written::Applied; 3]);
    assert_eq!(content(&other).await.len(), 3);
    cluster.finish_to_move("other", home, next);
    assert_eq!(content(&other).await.len(), 3);

    // There already: it is used at the old place until it is moved.
    cluster.begin_to_move("ns", to, next);
    let row = space.get("a").await.unwrap().unwrap();
    let swaps = [update(&row, "2"), insert("d", "1")];
    assert_eq!(space.write(&swaps).await.unwrap(), [Written::Applied; 2]);
    cluster.finish_to_move("ns", to, next);
    let row = space.get("a").await.unwrap().unwrap();
    assert_eq!(row.value.bytes, "2");
    assert_eq!(space.write(&[update(&row, "3")]).await.unwrap(), [Written::Applied]);
    assert_eq!(cluster.servers[next].command(&["HGET", "ns", "a"]), "3");
    let health = store.health();
    assert_eq!((health.state, health.connected_epoch), (BreakerState::Closed, epoch.max(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_moves_is_followed_without_an_error() {
    let mut cluster = RedisCluster::start(3).await;
    let store = store(cluster.settings());
    follows_a_moving_slot(&mut cluster, &store).await;
    let key = |mut conn| async move {
        let mut pipeline = redis::pipe();
        pipeline.atomic().cmd("HGET").arg("ns").arg("a").cmd("HLEN").arg("ns");
        pipeline.query_async::<(String, u8)>(&mut conn).await.map_err(classify)
    };
    assert_eq!(store.call(key).await.unwrap(), ("3".to_owned(), 4));
    // The bulk connections have not heard of it, and transactions are sent on as a whole.
    let from = cluster.owner("ns");
    cluster.begin_to_move("ns", from, 0);
    cluster.finish_to_move("ns", from, 0);
    assert_eq!(store.bulk(key).await.unwrap(), ("3".to_owned(), 4));
    assert_eq!(store.call(key).await.unwrap(), ("3".to_owned(), 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_master_is_replaced_by_its_replica() {
    let mut cluster = RedisCluster::start_with_replicas(3).await;
    let store = store(cluster.settings());
    let _probe = probing(&store);
    let run = async || store.call(async |mut conn| run_id(&mut conn).await).await.unwrap().unwrap();
    let first_run = run().await;
    assert_eq!(first_run.split(',').count(), 3, "{first_run}");
    let mut writer = Writer::start(&store, "ns");
    writer.has_written(100).await;
    let owner = cluster.owner("ns");
    let copied = cluster.copied("ns", owner).await;
    let epoch = store.health().connected_epoch;
    cluster.servers[owner].kill();
    writer.has_come_back(epoch).await;
    assert!(!writer.errors().is_empty(), "nobody was there for a while");
    writer.check(copied).await;
    assert_ne!(run().await, first_run);
    assert_eq!(run().await.split(',').count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_master_is_noticed_whose_keys_nobody_asks_for() {
    let mut cluster = RedisCluster::start(3).await;
    let store = store(cluster.settings());
    let _probe = probing(&store);
    let space = open(store.clone(), "ns");
    assert_eq!(space.write(&[insert("env:a", "1")]).await.unwrap(), [Written::Applied]);
    let run = async || store.call(async |mut conn| run_id(&mut conn).await).await;
    let first_run = run().await.unwrap().unwrap();
    let other = (cluster.owner("ns") + 1) % 3;
    cluster.servers[other].kill();
    assert!(run().await.unwrap_err().is_transient());
    is_cooling_down(&store, &space).await;
    cluster.servers[other].restart().await;
    ends_by_itself(&store, &space).await;
    assert_ne!(run().await.unwrap().unwrap(), first_run, "one of them lost its data");
    assert_eq!(space.read_all().await.unwrap().len(), 1, "the others did not");
}

async fn is_cooling_down(store: &RedisStore, space: &Space<RedisTable>) {
    wait_for(store, BreakerState::Open).await;
    assert!(matches!(space.read_all().await, Err(StoreError::CoolingDown)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_master_costs_the_connection_and_comes_back() {
    let cluster = RedisCluster::start(3).await;
    let store = store(cluster.settings());
    let space = open(store.clone(), "ns");
    let _probe = probing(&store);
    assert_eq!(space.write(&[insert("env:a", "1")]).await.unwrap(), [Written::Applied]);
    let owner = cluster.owner("ns");
    cluster.servers[owner].freeze();
    is_noticed(&store, &space).await;
    cluster.servers[owner].thaw();
    ends_by_itself(&store, &space).await;
    assert_eq!(content(&space).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_found_again_without_its_seed() {
    let mut cluster = RedisCluster::start_with_replicas(3).await;
    let store = store(cluster.settings());
    let space = open(store.clone(), "ns");
    let _probe = probing(&store);
    assert_eq!(space.read_all().await.unwrap(), []);
    // The only server that is configured, and a master.
    cluster.servers[0].kill();
    eventually("the loss being noticed and overcome", async || {
        let run = store.call(async |mut conn| run_id(&mut conn).await).await;
        let epoch = store.health().connected_epoch;
        if run.is_ok() && epoch > 1 { Ok(()) } else { Err(format!("{run:?} {epoch}")) }
    })
    .await;
    assert_eq!(space.write(&[insert("env:a", "1")]).await.unwrap(), [Written::Applied]);
}
