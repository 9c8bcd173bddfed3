//! The flag store on several Redis servers that belong together: behind sentinels, and on clusters
//! whose slots part the keys of an environment or keep them together.

use std::collections::BTreeMap;

use pilotlight::testing::flagstore::backend::{Filled, FlagBackend, Row, StoredRows};
use pilotlight::testing::flagstore::marker::Note;
use pilotlight::testing::model::{ItemKey, ItemKind};
use pilotlight::testing::storage::Dialer;
use pilotlight::testing::storage::redis::{RedisDialer, RedisTopology, classify};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::contract::contract;
use super::peers::{Fills, Peer, jsons, wanted};
use super::redis::{RedisFlags, key_of, many, redis_flags, store};
use pilotlight_test_kit::LIMIT;
use pilotlight_test_kit::databases::{RedisCluster, SentinelGroup};

/// A cluster whose slots part the keys of an environment.
struct Cluster<'a>(&'a RedisCluster<'a>);

impl Cluster<'_> {
    /// Runs a command on the server that owns the key.
    fn run(&self, key: &str, command: &[&str]) -> String {
        self.0.servers[self.0.owner(key)].command(command)
    }
}

impl Peer for Cluster<'_> {
    type Flags = RedisFlags;

    const FILLS: Fills = Fills::All;
    // 512 MiB: too much for a test.
    const LONGEST_JSON: Option<usize> = None;

    fn flags(&self, prefix: &str) -> RedisFlags {
        redis_flags(store(self.0.settings()), prefix)
    }

    async fn plant(&self, prefix: &str, key: &ItemKey, value: &str) {
        let hash = key_of(prefix, key.kind.store_name());
        self.run(&hash, &["HSET", &hash, &key.key, value]);
    }

    async fn unmark(&self, prefix: &str) {
        let marker = key_of(prefix, "$inited");
        assert_eq!(self.run(&marker, &["DEL", &marker]), "1");
    }

    async fn mark_as_sdk(&self, prefix: &str) {
        let marker = key_of(prefix, "$inited");
        self.run(&marker, &["SET", &marker, ""]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_keeps_the_contract() {
    let cluster = RedisCluster::start(3).await;
    contract(&Cluster(&cluster)).await;
    let keys = cluster.everywhere(&["KEYS", "*"]);
    assert!(keys.iter().all(|keys| !keys.contains("pilotlight-")), "{keys:?}");
}

/// Relays that fill a store at once, and readers of it.
const FILLERS: usize = 3;
const ROUNDS: usize = 8;

/// Fills stores, of which each is filled once, while readers look at them without a pause.
async fn readers_watch_fills<const TOGETHER: bool>(topology: RedisTopology, tag: &'static str) {
    let set = many(1_500);
    let (round, rounds) = watch::channel(Some(0));
    let prefix = move |round: usize| format!("{tag}ld-{round}");
    let mut readers = JoinSet::new();
    readers.spawn(read_as_a_relay::<TOGETHER>(
        topology.clone(),
        prefix,
        set.clone(),
        rounds.clone(),
    ));
    readers.spawn(read_as_an_sdk::<TOGETHER>(topology.clone(), prefix, set.clone(), rounds));
    for number in 0..ROUNDS {
        round.send_replace(Some(number));
        let mut fillers = JoinSet::new();
        for _ in 0..FILLERS {
            let flags = redis_flags(store(topology.clone()), &prefix(number));
            let set = set.clone();
            fillers.spawn(async move { flags.fill(&set, &Note::default()).await.unwrap() });
        }
        let outcomes = fillers.join_all().await;
        let done = outcomes.iter().filter(|filled| **filled == Filled::Done).count();
        assert_eq!(done, 1, "{outcomes:?}");
        let found = redis_flags(store(topology.clone()), &prefix(number)).read().await.unwrap();
        assert!(found.marker.is_some() && jsons(&found) == wanted(&set));
    }
    round.send_replace(None);
    let seen = timeout(LIMIT, readers.join_all()).await.unwrap();
    assert!(seen.iter().all(|complete| *complete > 0), "complete sets were seen: {seen:?}");
}

fn of_kind(found: &StoredRows, kind: ItemKind) -> usize {
    found.rows.iter().filter(|row| row.key.kind == kind).count()
}

/// Reads whole sets; says how many of them were complete.
async fn read_as_a_relay<const TOGETHER: bool>(
    topology: RedisTopology,
    prefix: impl Fn(usize) -> String,
    set: Vec<Row>,
    mut rounds: watch::Receiver<Option<usize>>,
) -> usize {
    let expected = wanted(&set);
    let all = counts(&set);
    let mut complete = 0;
    let shared = store(topology);
    loop {
        let Some(round) = *rounds.borrow_and_update() else { return complete };
        let found = redis_flags(shared.clone(), &prefix(round)).read().await.unwrap();
        if found.marker.is_some() {
            assert!(jsons(&found) == expected, "{} rows with the marker", found.rows.len());
            complete += 1;
        } else if TOGETHER {
            assert_eq!(found.rows.len(), 0, "no rows without the marker");
        } else {
            for (kind, all) in ItemKind::ALL.into_iter().zip(all) {
                let part = of_kind(&found, kind);
                assert!(part == 0 || part == all, "{part} of {all} {kind:?}");
            }
        }
    }
}

/// Looks with single commands, as clients do that know nothing of ours.
async fn read_as_an_sdk<const TOGETHER: bool>(
    topology: RedisTopology,
    prefix: impl Fn(usize) -> String,
    set: Vec<Row>,
    mut rounds: watch::Receiver<Option<usize>>,
) -> usize {
    let [segments, flags] = counts(&set);
    let mut conn = RedisDialer::new(topology)
        .dial(&pilotlight::testing::storage::Meter::default())
        .await
        .unwrap();
    let mut complete = 0;
    loop {
        let Some(round) = *rounds.borrow_and_update() else { return complete };
        let prefix = prefix(round);
        let key = |name: &str| key_of(&prefix, name);
        if TOGETHER {
            let mut exists = redis::cmd("EXISTS");
            exists.arg(key("$inited")).arg(key("segments")).arg(key("features"));
            let found: usize = exists.query_async(&mut conn).await.map_err(classify).unwrap();
            assert!(found == 0 || found == 3, "{found} of 3 keys");
        }
        // Against the order in which they are written: what is seen first came last.
        let mut seen = BTreeMap::new();
        for (name, command) in [("$inited", "EXISTS"), ("features", "HLEN"), ("segments", "HLEN")] {
            let mut look = redis::cmd(command);
            look.arg(key(name));
            let found: usize = look.query_async(&mut conn).await.map_err(classify).unwrap();
            seen.insert(name, found);
        }
        let found = [seen["segments"], seen["features"], seen["$inited"]];
        let allowed = [
            [0, 0, 0],
            // What is looked at last may have come meanwhile.
            [segments, 0, 0],
            [segments, flags, 0],
            [segments, flags, 1],
        ];
        assert!(allowed.contains(&found), "{found:?}");
        complete += found[2];
    }
}

/// Numbers of segments and flags.
fn counts(set: &[Row]) -> [usize; 2] {
    ItemKind::ALL.map(|kind| set.iter().filter(|row| row.key.kind == kind).count())
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_sentinels_a_reader_sees_nothing_or_everything() {
    let group = SentinelGroup::start(1, 1).await;
    readers_watch_fills::<true>(group.settings().into(), "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_cluster_with_a_tag_a_reader_sees_nothing_or_everything() {
    let cluster = RedisCluster::start(3).await;
    readers_watch_fills::<true>(cluster.settings().into(), "{ld}:").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_cluster_without_a_tag_a_reader_sees_whole_hashes_in_their_order() {
    let cluster = RedisCluster::start(3).await;
    readers_watch_fills::<false>(cluster.settings().into(), "").await;
}
