//! Tables on Redis and Valkey.

use pilotlight::testing::model::Password;
use pilotlight::testing::storage::redis::{
    RedisDialer, RedisStore, RedisTable, RedisTopology, run_id,
};
use pilotlight::testing::storage::table::Written;
use pilotlight::testing::storage::tls::TlsSettings;
use pilotlight::testing::storage::{BreakerState, Budgets, FailFast, StoreError};
use tokio::time::timeout;

use super::contract::{Creates, Peer, holds};
use super::outage::{ends_by_itself, is_a_refusal, is_noticed, probing, wait_for};
use super::space::{Space, content, insert, update};
use pilotlight_test_kit::LIMIT;
use pilotlight_test_kit::certificates::Certificates;
use pilotlight_test_kit::databases::Redis;

pub(super) fn store(settings: impl Into<RedisTopology>) -> RedisStore {
    FailFast::new("redis", RedisDialer::new(settings), Budgets::default())
}

/// A name space of a store.
pub(super) fn open(store: RedisStore, space: &str) -> Space<RedisTable> {
    Space::new(RedisTable::new(store), space)
}

/// Stands before each name where all keys are to be in one slot.
const TAG: &str = "{relay}:";

/// Servers that may hold several keys in one transaction, or not.
pub(super) struct RedisPeer<const TOGETHER: bool> {
    store: RedisStore,
    tag: &'static str,
}

impl RedisPeer<true> {
    /// One server, or one master.
    pub(super) fn one(settings: impl Into<RedisTopology>) -> Self {
        Self { store: store(settings), tag: "" }
    }

    /// A cluster, with names that are kept together.
    pub(super) fn tagged(settings: impl Into<RedisTopology>) -> Self {
        Self { store: store(settings), tag: TAG }
    }
}

impl RedisPeer<false> {
    /// A cluster, with names that are spread.
    pub(super) fn spread(settings: impl Into<RedisTopology>) -> Self {
        Self { store: store(settings), tag: "" }
    }
}

impl<const TOGETHER: bool> Peer for RedisPeer<TOGETHER> {
    type Table = RedisTable;

    fn table(&self) -> RedisTable {
        RedisTable::new(self.store.clone())
    }

    fn tag(&self) -> &'static str {
        self.tag
    }

    const CHECKS_GUARD: bool = TOGETHER;
    const CREATES: Creates = Creates::All;

    // 512 MiB: too much for a test.
    const LONGEST_VALUE: Option<usize> = None;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_the_contract() {
    let server = Redis::start().await;
    holds(&RedisPeer::one(server.settings())).await;
    assert_eq!(
        server.command(&["KEYS", "*:pilotlight-*"]),
        "",
        "nothing that was prepared is left"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn valkey_keeps_the_contract() {
    let server = Redis::start_valkey().await;
    let url = format!("valkey://127.0.0.1:{}/3", server.port);
    holds(&RedisPeer::one(server.settings_of(&url))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_without_scripts_keeps_the_contract() {
    let server = Redis::start().await;
    server.command(&["ACL", "SETUSER", "relay", "on", ">s3cret", "~*", "+@all", "-@scripting"]);
    let url = format!("redis://relay:s3cret@127.0.0.1:{}", server.port);
    holds(&RedisPeer::one(server.settings_of(&url))).await;
    let used = server.command(&["INFO", "commandstats"]);
    assert!(used.contains("cmdstat_watch:") && used.contains("cmdstat_exec:"), "{used}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_behind_tls_with_client_certificates_keeps_the_contract() {
    let certificates = Certificates::make();
    let server = Redis::start_tls(&certificates).await;
    holds(&RedisPeer::one(server.tls_settings(&certificates))).await;

    let stranger = store(server.settings().with_tls(TlsSettings::default()));
    let error = open(stranger, "x").read_all().await.unwrap_err();
    assert!(error.is_transient(), "the server's CA is not trusted: {error:?}");
    let nobody = TlsSettings { ca_file: Some(certificates.ca()), client_certificate: None };
    let nobody = store(server.settings().with_tls(nobody));
    assert!(open(nobody, "x").read_all().await.is_err(), "no client certificate");
    let mut lost = server.tls_settings(&certificates);
    lost =
        lost.with_tls(TlsSettings { ca_file: Some("/nonexistent".into()), ..Default::default() });
    let lost = store(lost);
    is_a_refusal(&lost, &open(lost.clone(), "x"), "/nonexistent cannot be read").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_and_database_numbers() {
    let server = Redis::start().await;
    let socket = server.socket().display().to_string();
    let second = store(server.settings_of(&format!("unix://{socket}?db=2")));
    let space = open(second, "ns");
    assert_eq!(space.write(&[insert("env:a", "1")]).await.unwrap(), [Written::Applied]);
    let first = open(store(server.settings()), "ns");
    assert_eq!(first.read_all().await.unwrap(), []);
    let same = store(server.settings_of(&format!("redis://127.0.0.1:{}/2", server.port)));
    assert_eq!(open(same, "ns").read_all().await.unwrap().len(), 1);
    let none = store(server.settings_of(&format!("redis://127.0.0.1:{}/99", server.port)));
    is_a_refusal(&none, &open(none.clone(), "ns"), "DB index is out of range").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_layout_is_ld_relays() {
    let server = Redis::start().await;
    server.command(&["HSET", "relay-cache", "env:e1", "theirs", "filter:f1", "theirs too"]);
    let space = open(store(server.settings()), "relay-cache");
    assert_eq!(content(&space).await.len(), 2);
    let row = space.get("env:e1").await.unwrap().unwrap();
    assert_eq!(space.write(&[update(&row, "ours")]).await.unwrap(), [Written::Applied]);
    assert_eq!(server.command(&["HGET", "relay-cache", "env:e1"]), "ours");
    assert_eq!(server.command(&["TTL", "relay-cache"]), "-1");
    assert_eq!(server.command(&["KEYS", "*"]), "relay-cache");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_redis_is_noticed_and_comes_back() {
    let mut server = Redis::start().await;
    let store = store(server.settings());
    let space = open(store.clone(), "ns");
    let _probe = probing(&store);
    assert_eq!(space.write(&[insert("env:a", "1")]).await.unwrap(), [Written::Applied]);
    let run = async || store.call(async |mut conn| run_id(&mut conn).await).await.unwrap().unwrap();
    let (epoch, first_run) = (store.health().connected_epoch, run().await);
    server.kill();
    is_noticed(&store, &space).await;
    server.restart().await;
    ends_by_itself(&store, &space).await;
    assert_eq!(space.read_all().await.unwrap(), [], "it lost its data");
    assert!(store.health().connected_epoch > epoch);
    assert_ne!(run().await, first_run);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_away_from_the_start_is_no_reason_to_wait() {
    let mut server = Redis::start().await;
    server.kill();
    let store = store(server.settings());
    let space = open(store.clone(), "ns");
    let _probe = probing(&store);
    is_noticed(&store, &space).await;
    server.restart().await;
    ends_by_itself(&store, &space).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_redis_costs_the_connection_and_comes_back() {
    let server = Redis::start().await;
    let store = store(server.settings());
    let space = open(store.clone(), "ns");
    let _probe = probing(&store);
    assert_eq!(space.write(&[insert("env:a", "1")]).await.unwrap(), [Written::Applied]);
    let connections = || server.command(&["INFO", "stats"]);
    let made = |info: &str| -> u32 {
        let line = info.lines().find(|line| line.starts_with("total_connections_received:"));
        line.and_then(|line| line.trim().split(':').nth(1)).unwrap().parse().unwrap()
    };
    let before = made(&connections());
    server.freeze();
    is_noticed(&store, &space).await;
    server.thaw();
    ends_by_itself(&store, &space).await;
    assert!(made(&connections()) > before + 1, "a new connection, beside that of redis-cli");
    assert_eq!(content(&space).await.len(), 1, "nothing was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_a_refusal_until_it_is_replaced() {
    let server = Redis::start().await;
    server.command(&["ACL", "SETUSER", "relay", "on", ">right-password", "~*", "+@all"]);
    let url = format!("redis://relay:wrong-password@127.0.0.1:{}", server.port);
    let store = store(server.settings_of(&url));
    let space = open(store.clone(), "ns");
    is_a_refusal(&store, &space, "WRONGPASS").await;
    let shown = format!("{:?} {:?}", space.read_all().await, store.health());
    assert!(!shown.contains("wrong-password"), "{shown}");

    store.dialer().replace_password(Some(Password::new("right-password")));
    store.reconnect();
    assert_eq!(space.read_all().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_password_where_one_is_asked_for_is_a_refusal() {
    let server = Redis::start_with(&["--requirepass", "s3cret"]).await;
    let nobody = store(server.settings());
    is_a_refusal(&nobody, &open(nobody.clone(), "ns"), "NOAUTH").await;
    let known = store(server.settings_of(&format!("redis://:s3cret@127.0.0.1:{}", server.port)));
    assert_eq!(open(known, "ns").read_all().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_type_at_the_key_is_a_refusal() {
    let server = Redis::start().await;
    let store = store(server.settings());
    let space = open(store.clone(), "ns");
    server.command(&["SET", "ns", "a string"]);
    is_a_refusal(&store, &space, "WRONGTYPE").await;
    let error = space.write(&[insert("env:a", "1")]).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
    assert_eq!(server.command(&["GET", "ns"]), "a string", "left alone");
    server.command(&["DEL", "ns"]);
    assert_eq!(space.write(&[insert("env:a", "1")]).await.unwrap(), [Written::Applied]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_refuses_writes_and_is_read() {
    let server =
        Redis::start_with(&["--maxmemory", "3mb", "--maxmemory-policy", "noeviction"]).await;
    let store = store(server.settings());
    let space = open(store.clone(), "ns");
    assert_eq!(space.write(&[insert("small", "1")]).await.unwrap(), [Written::Applied]);
    let mut outcome = Ok(Vec::new());
    for number in 0..100 {
        let big = insert(&format!("big{number}"), vec![0; 200_000]);
        outcome = space.write(&[big]).await;
        if outcome.is_err() {
            break;
        }
    }
    let error = outcome.unwrap_err();
    assert!(
        matches!(&error, StoreError::Refused(cause) if cause.to_string().contains("OOM")),
        "{error:?}"
    );
    assert!(space.get("small").await.unwrap().is_some());
    assert_eq!(store.health().state, BreakerState::Closed);
    server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(space.write(&[insert("more", "1")]).await.unwrap(), [Written::Applied]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_left_until_there_is_a_master() {
    let master = Redis::start().await;
    let server = Redis::start().await;
    let store = store(server.settings());
    let space = open(store.clone(), "ns");
    let _probe = probing(&store);
    assert_eq!(space.read_all().await.unwrap(), []);
    let port = master.port.to_string();
    assert_eq!(server.command(&["REPLICAOF", "127.0.0.1", &port]), "OK");
    server.is_in_sync().await;
    assert_eq!(space.read_all().await.unwrap(), [], "a replica may be read");
    let error = space.write(&[insert("env:a", "1")]).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable(_)), "{error:?}");

    // A probe meets the replica, which answers PING, and is not content with it.
    wait_for(&store, BreakerState::HalfOpen).await;
    wait_for(&store, BreakerState::Open).await;
    let text = store.health().last_error.unwrap().text;
    assert!(text.contains("is a replica"), "{text}");
    assert_eq!(server.command(&["REPLICAOF", "NO", "ONE"]), "OK");
    ends_by_itself(&store, &space).await;
    assert_eq!(space.write(&[insert("env:a", "1")]).await.unwrap(), [Written::Applied]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_connection_is_replaced_while_nobody_asks() {
    let mut server = Redis::start().await;
    let store = store(server.settings());
    let space = open(store.clone(), "ns");
    let _probe = probing(&store);
    space.get("env:a").await.unwrap();
    let before = store.health();
    let mut connections = store.watch_connections();
    let first = *connections.borrow_and_update();
    server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    let replaced = connections.wait_for(|connections| *connections > first);
    assert!(timeout(LIMIT, replaced).await.is_ok(), "{:?}", store.health());
    space.get("env:a").await.unwrap();
    let after = store.health();
    assert_eq!((after.state, after.since), (BreakerState::Closed, before.since));

    // A server that was started anew may have lost its data.
    server.restart().await;
    let mut health = store.watch_health();
    let noticed = health.wait_for(|health| health.connected_epoch > after.connected_epoch);
    assert!(timeout(LIMIT, noticed).await.is_ok(), "{:?}", store.health());
}
