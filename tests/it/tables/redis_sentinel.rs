//! Tables on a Redis master that sentinels watch.

use pilotlight::testing::storage::redis::{SentinelSettings, run_id};
use pilotlight::testing::storage::table::Written;
use pilotlight::testing::storage::{BreakerState, StoreError};

use super::contract::holds;
use super::outage::{ends_by_itself, is_noticed, probing, wait_for};
use super::redis::{RedisPeer, open, store};
use super::redis_journal::Writer;
use super::space::{content, insert, update};
use pilotlight_test_kit::certificates::Certificates;
use pilotlight_test_kit::databases::SentinelGroup;
use pilotlight_test_kit::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn a_master_behind_sentinels_keeps_the_contract() {
    let group = SentinelGroup::start(1, 1).await;
    let mut settings = group.settings();
    settings.login.database = 2;
    holds(&RedisPeer::one(settings)).await;
    assert_eq!(group.servers[0].command(&["-n", "0", "DBSIZE"]), "0");
    assert_ne!(group.servers[0].command(&["-n", "2", "DBSIZE"]), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guarded_group_is_entered_and_followed() {
    let certificates = Certificates::make();
    let group = SentinelGroup::start_guarded(1, 1, &certificates).await;
    let store = store(group.settings());
    holds(&RedisPeer::one(group.settings())).await;

    let nobody = SentinelSettings { login: Default::default(), ..group.settings() };
    let error = open(super::redis::store(nobody), "ns").read_all().await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
    let mut stranger = group.settings();
    stranger.sentinels[0].password = None;
    stranger.sentinels[0].username = None;
    let error = open(super::redis::store(stranger), "ns").read_all().await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error:?}");

    let _probe = probing(&store);
    let space = open(store.clone(), "ns");
    assert_eq!(space.write(&[insert("env:a", "1")]).await.unwrap(), [Written::Applied]);
    group.order_failover().await;
    group.new_master(0).await;
    // Until it dials again, it may read what the old master has.
    eventually("a write to the new master", async || {
        let row = space.get("env:a").await?.unwrap();
        space.write(&[update(&row, "2")]).await.map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_somebody_orders_is_followed() {
    let group = SentinelGroup::start(1, 3).await;
    let store = store(group.settings());
    let _probe = probing(&store);
    let mut writer = Writer::start(&store, "ns");
    writer.has_written(100).await;
    let copied = group.copied("ns").await;
    let epoch = store.health().connected_epoch;
    group.order_failover().await;
    let new = group.new_master(0).await;
    writer.has_come_back(epoch).await;
    writer.check(copied).await;
    let rows = content(&open(store, "ns")).await.len().to_string();
    assert_eq!(group.servers[new].command(&["HLEN", "ns"]), rows, "written to the new master");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_master_is_replaced_within_seconds() {
    let mut group = SentinelGroup::start(2, 3).await;
    let store = store(group.settings());
    let _probe = probing(&store);
    let mut writer = Writer::start(&store, "ns");
    writer.has_written(100).await;
    let run = async || store.call(async |mut conn| run_id(&mut conn).await).await.unwrap().unwrap();
    let (epoch, first_run) = (store.health().connected_epoch, run().await);
    let copied = group.copied("ns").await;
    group.servers[0].kill();
    group.new_master(0).await;
    writer.has_come_back(epoch).await;
    assert!(!writer.errors().is_empty(), "nobody was there for a while");
    writer.check(copied).await;
    assert_ne!(run().await, first_run);

    // The old master comes back as what it was, empty, until a sentinel sets it right.
    let rows = content(&open(store.clone(), "ns")).await.len();
    group.servers[0].restart().await;
    store.reconnect();
    assert_eq!(content(&open(store, "ns")).await.len(), rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_that_are_dead_or_frozen_are_passed_over() {
    let mut group = SentinelGroup::start(0, 3).await;
    group.sentinels[0].kill();
    group.sentinels[1].freeze();
    // Wherever they begin to ask.
    for _ in 0..6 {
        let store = store(group.settings());
        let space = open(store.clone(), "ns");
        assert_eq!(space.read_all().await.unwrap(), []);
        assert_eq!(store.health().state, BreakerState::Closed);
    }
    group.sentinels[2].kill();
    let store = store(group.settings());
    let space = open(store.clone(), "ns");
    is_noticed(&store, &space).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_a_sentinel_takes_for_the_master_is_not_used() {
    let (group, real) = (SentinelGroup::start(0, 1).await, SentinelGroup::start(0, 1).await);
    let store = store(group.settings());
    let space = open(store.clone(), "ns");
    let _probe = probing(&store);
    assert_eq!(space.read_all().await.unwrap(), []);
    // Behind the sentinel's back.
    let named = &group.servers[0];
    let port = real.servers[0].port.to_string();
    assert_eq!(named.command(&["REPLICAOF", "127.0.0.1", &port]), "OK");
    named.is_in_sync().await;
    store.reconnect();
    let error = space.read_all().await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    wait_for(&store, BreakerState::Open).await;
    let text = store.health().last_error.unwrap().text;
    assert!(text.contains("is a replica"), "{text}");
    // Another sentinel knows better.
    let mut both = group.settings();
    both.sentinels.extend(real.settings().sentinels);
    for number in 0..6 {
        let space = open(super::redis::store(both.clone()), "ns");
        let row = insert(&format!("env:{number}"), "1");
        assert_eq!(space.write(&[row]).await.unwrap(), [Written::Applied]);
    }
    assert_eq!(real.servers[0].command(&["HLEN", "ns"]), "6");
    assert_eq!(named.command(&["REPLICAOF", "NO", "ONE"]), "OK");
    ends_by_itself(&store, &space).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_no_sentinel_knows_is_said() {
    let group = SentinelGroup::start(0, 1).await;
    let settings = SentinelSettings { master: "other".to_owned(), ..group.settings() };
    let store = store(settings);
    let space = open(store.clone(), "ns");
    is_noticed(&store, &space).await;
    let text = store.health().last_error.unwrap().text;
    assert!(text.contains("knows no master named \"other\""), "{text}");
}
