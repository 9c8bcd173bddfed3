//! The flag store on Redis and Valkey.

use std::collections::BTreeMap;

use pilotlight::testing::flagstore::backend::{
    Correction, Filled, FlagBackend, Row, StoredRow, Upserted,
};
use pilotlight::testing::flagstore::marker::Note;
use pilotlight::testing::flagstore::table::{FlagTable, Naming};
use pilotlight::testing::model::ItemKey;
use pilotlight::testing::storage::redis::{
    RedisDialer, RedisSettings, RedisStore, RedisTable, RedisTopology,
};
use pilotlight::testing::storage::{BreakerState, Budgets, Dialer, FailFast, StoreError};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::contract::contract;
use super::peers::{Fills, Peer, flag, holds, live_row, rows, segment, shown, upserts, wanted};
use pilotlight_test_kit::LIMIT;
use pilotlight_test_kit::databases::Redis;

pub(super) fn store(settings: impl Into<RedisTopology>) -> RedisStore {
    FailFast::new("redis", RedisDialer::new(settings), Budgets::default())
}

pub(super) type RedisFlags = FlagTable<RedisTable>;

pub(super) fn redis_flags(store: RedisStore, prefix: &str) -> RedisFlags {
    FlagTable::new(RedisTable::new(store), Naming::REDIS, prefix)
}

struct RedisPeer<'a> {
    server: &'a Redis,
    settings: RedisSettings,
}

pub(super) fn key_of(prefix: &str, name: &str) -> String {
    format!("{}:{name}", Naming::REDIS.prefix(prefix))
}

impl Peer for RedisPeer<'_> {
    type Flags = RedisFlags;

    const FILLS: Fills = Fills::All;
    // 512 MiB: too much for a test.
    const LONGEST_JSON: Option<usize> = None;

    fn flags(&self, prefix: &str) -> RedisFlags {
        redis_flags(store(self.settings.clone()), prefix)
    }

    async fn plant(&self, prefix: &str, key: &ItemKey, value: &str) {
        let hash = key_of(prefix, key.kind.store_name());
        self.server.command(&["HSET", &hash, &key.key, value]);
    }

    async fn unmark(&self, prefix: &str) {
        assert_eq!(self.server.command(&["DEL", &key_of(prefix, "$inited")]), "1");
    }

    async fn mark_as_sdk(&self, prefix: &str) {
        self.server.command(&["SET", &key_of(prefix, "$inited"), ""]);
    }
}

/// Commands go to `command`, for which redis-cli uses database 0.
async fn keeps_the_contract(server: &Redis, settings: RedisSettings) {
    contract(&RedisPeer { server, settings }).await;
    let keys = server.command(&["KEYS", "*pilotlight-*"]);
    assert_eq!(keys, "", "nothing that was prepared is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_keeps_the_contract() {
    let server = Redis::start().await;
    keeps_the_contract(&server, server.settings()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_without_scripts_keeps_the_contract() {
    let server = Redis::start().await;
    let settings = user(&server, &["+@all", "-@scripting"]);
    keeps_the_contract(&server, settings).await;
    let used = server.command(&["INFO", "commandstats"]);
    assert!(used.contains("cmdstat_watch:") && used.contains("cmdstat_hmget:"), "{used}");
}

/// Settings for a user with these rules.
fn user(server: &Redis, rules: &[&str]) -> RedisSettings {
    let mut command = vec!["ACL", "SETUSER", "relay", "reset", "on", ">s3cret", "~*", "&*"];
    command.extend(rules);
    assert_eq!(server.command(&command), "OK");
    server.settings_of(&format!("redis://relay:s3cret@127.0.0.1:{}", server.port))
}

fn lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn the_layout_is_ld_relays() {
    let server = Redis::start().await;
    let flags = redis_flags(store(server.settings()), "");
    let set = rows("/s3 a1 b-2");
    assert_eq!(flags.fill(&set, &Note::default()).await.unwrap(), Filled::Done);
    let marker = flags.mark(None, &Note::default()).await.unwrap().unwrap();
    upserts(&flags, "c7", Some(&marker), "w").await;
    let keys = server.command(&["KEYS", "*"]);
    let names = ["launchdarkly:$inited", "launchdarkly:features", "launchdarkly:segments"];
    assert_eq!(lines(&keys), names);
    for name in names {
        assert_eq!(server.command(&["PTTL", name]), "-1", "{name} never expires");
    }
    assert_eq!(server.command(&["TYPE", "launchdarkly:$inited"]), "string");
    assert_eq!(server.command(&["HKEYS", "launchdarkly:segments"]), "s");
    assert_eq!(lines(&server.command(&["HKEYS", "launchdarkly:features"])), ["a", "b", "c"]);
    assert_eq!(
        server.command(&["HGET", "launchdarkly:features", "a"]),
        r#"{"key":"a","salt":"s","version":1,"clientSide":false,"on":false,"prerequisites":[],"targets":[],"rules":[],"fallthrough":{},"offVariation":null,"variations":[],"deleted":false}"#
    );
    assert_eq!(
        server.command(&["HGET", "launchdarkly:features", "b"]),
        r#"{"key":"$deleted","on":false,"prerequisites":[],"targets":[],"contextTargets":[],"rules":[],"fallthrough":{},"offVariation":null,"variations":[],"clientSide":false,"salt":"","trackEvents":false,"trackEventsFallthrough":false,"debugEventsUntilDate":null,"version":2,"deleted":true}"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_other_writers_leave_is_read() {
    let server = Redis::start().await;
    let peer = RedisPeer { server: &server, settings: server.settings() };
    // ld-relay and Node write an empty marker, Python its name.
    for (place, value) in ["", "ld:$inited", "1"].into_iter().enumerate() {
        let prefix = format!("ld{place}");
        let flags = peer.flags(&prefix);
        server.command(&["SET", &key_of(&prefix, "$inited"), value]);
        peer.plant(&prefix, &flag("a"), r#"{"key":"a","version":5,"deleted":true}"#).await;
        peer.plant(&prefix, &flag("b"), r#"{"version":6,"key":"$deleted","deleted":true}"#).await;
        peer.plant(&prefix, &segment("s"), r#"{"key":"s","version":2,"new":{"x":1}}"#).await;
        holds(&flags, "! /s2 a-5 b-6").await;
        let marker = flags.mark(None, &Note::default()).await.unwrap().unwrap();
        assert_eq!(marker.value, value, "it is theirs");
        upserts(&flags, "a5 b7 /s2", Some(&marker), "nwn").await;
        holds(&flags, "! /s2 a-5 b7").await;
    }
    // An initialization by somebody else shows.
    let flags = peer.flags("ours");
    assert_eq!(flags.fill(&rows("a1"), &Note::default()).await.unwrap(), Filled::Done);
    let before = flags.look().await.unwrap();
    server.command(&["SET", "ours:$inited", ""]);
    assert_ne!(flags.look().await.unwrap().marker, before.marker);
    // Names that are not text are nobody's.
    server.command(&["EVAL", r"redis.call('HSET', 'ours:features', '\255', '{}')", "0"]);
    holds(&flags, "! a1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_shows_counts_and_restarts() {
    let mut server = Redis::start().await;
    let flags = redis_flags(store(server.settings()), "ld");
    assert_eq!(flags.fill(&rows("/s1 a1 b-1"), &Note::default()).await.unwrap(), Filled::Done);
    let first = flags.look().await.unwrap();
    let counts = first.counts.unwrap();
    assert_eq!((counts.segments, counts.flags), (1, 2));
    assert!(first.server.is_some() && first.marker.is_some());
    assert_eq!(flags.look().await.unwrap(), first);
    server.restart().await;
    let flags = redis_flags(store(server.settings()), "ld");
    let second = flags.look().await.unwrap();
    assert_ne!(second.server, first.server);
    assert_eq!((second.marker, second.counts.unwrap().flags), (None, 0));
}

pub(super) fn many(count: u64) -> Vec<Row> {
    let row = |number| {
        let name = format!("item {number}");
        let key = if number % 5 == 0 { segment(&name) } else { flag(&name) };
        live_row(&key, 1, &"x".repeat(500))
    };
    (0..count).map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_nothing_or_everything() {
    const ROUNDS: usize = 20;
    let server = Redis::start().await;
    let set = many(3_000);
    let expected = wanted(&set);
    let mut tasks = JoinSet::new();
    let (done, is_done) = tokio::sync::watch::channel(false);
    for _ in 0..2 {
        let (flags, is_done) = (redis_flags(store(server.settings()), "ld"), is_done.clone());
        let expected = expected.clone();
        tasks.spawn(async move {
            let (mut nothing, mut everything) = (0, 0);
            while !*is_done.borrow() {
                let found = flags.read().await.unwrap();
                if found.marker.is_none() {
                    assert_eq!(found.rows.len(), 0, "no rows without the marker");
                    nothing += 1;
                } else {
                    let found: BTreeMap<_, _> =
                        found.rows.into_iter().map(|row| (row.key, row.json)).collect();
                    assert!(found == expected, "{} rows with the marker", found.len());
                    everything += 1;
                }
            }
            assert!(nothing > 0 && everything > 0, "{nothing} {everything}");
        });
    }
    // Others read without transactions, but one command is one moment.
    let raw = store(server.settings());
    tasks.spawn(async move {
        let mut conn =
            raw.dialer().dial(&pilotlight::testing::storage::Meter::default()).await.unwrap();
        while !*is_done.borrow() {
            let mut exists = redis::cmd("EXISTS");
            exists.arg(&["ld:$inited", "ld:features", "ld:segments"]);
            let found: u64 = exists.query_async(&mut conn).await.unwrap();
            assert!(found == 0 || found == 3, "{found}");
        }
    });
    let flags = redis_flags(store(server.settings()), "ld");
    for _ in 0..ROUNDS {
        assert_eq!(flags.fill(&set, &Note::default()).await.unwrap(), Filled::Done);
        flags.read().await.unwrap();
        server.command(&["FLUSHALL"]);
        flags.read().await.unwrap();
    }
    done.send_replace(true);
    timeout(LIMIT, tasks.join_all()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dying_relay_prepared_expires() {
    let server = Redis::start().await;
    let settings = user(&server, &["+@all", "-renamenx", "-unlink"]);
    let flags = redis_flags(store(settings), "ld");
    let error = flags.fill(&rows("/s1 a1"), &Note::default()).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Refused(cause) if cause.to_string().contains("NOPERM")),
        "{error:?}"
    );
    let keys = server.command(&["KEYS", "*"]);
    let keys = lines(&keys);
    assert_eq!(keys.len(), 2, "{keys:?}");
    for key in keys {
        assert!(key.contains(":pilotlight-"), "{key}");
        let left: i64 = server.command(&["PTTL", key]).parse().unwrap();
        assert!((1..=60_000).contains(&left), "{key} {left}");
    }
    holds(&flags, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_prepared_and_not_used_is_discarded() {
    let server = Redis::start().await;
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let flags = redis_flags(store(server.settings()), "ld");
        tasks.spawn(async move { flags.fill(&many(2_000), &Note::default()).await.unwrap() });
    }
    let outcomes = tasks.join_all().await;
    let done = outcomes.iter().filter(|filled| **filled == Filled::Done).count();
    assert_eq!(done, 1, "{outcomes:?}");
    let keys = server.command(&["KEYS", "*"]);
    assert_eq!(lines(&keys), ["ld:$inited", "ld:features", "ld:segments"]);
    assert_eq!(server.command(&["PTTL", "ld:features"]), "-1");
}

/// A full server evicts keys that expire: those that are prepared.
#[tokio::test(flavor = "multi_thread")]
async fn a_fill_of_which_a_part_was_evicted_leaves_no_marker() {
    let server = Redis::start().await;
    let set = many(3_000);
    let (done, is_done) = tokio::sync::watch::channel(false);
    let saboteur = store(server.settings());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut conn = saboteur.dialer().dial(&pilotlight::testing::storage::Meter::default()).await.unwrap();
        while !*is_done.borrow() {
            let mut evict = redis::cmd("EVAL");
            evict.arg("for _, key in ipairs(redis.call('KEYS', 'ld:segments:*')) do redis.call('DEL', key) end").arg(0);
            evict.exec_async(&mut conn).await.unwrap();
        }
    });
    let flags = redis_flags(store(server.settings()), "ld");
    let attempts = async {
        loop {
            match flags.fill(&set, &Note::default()).await {
                Ok(filled) => {
                    assert_eq!(filled, Filled::Done);
                    assert_eq!(flags.read().await.unwrap().rows.len(), set.len());
                    server.command(&["FLUSHALL"]);
                }
                Err(StoreError::Refused(cause)) => break cause.to_string(),
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    let cause = timeout(LIMIT, attempts).await.unwrap();
    assert_eq!(cause, "what was prepared was removed");
    done.send_replace(true);
    tasks.join_all().await;
    assert_eq!(server.command(&["KEYS", "*"]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_another_type_are_refused_and_left() {
    let server = Redis::start().await;
    for denied in [false, true] {
        let rules: &[&str] = if denied { &["+@all", "-@scripting"] } else { &["+@all"] };
        let store = store(user(&server, rules));
        let refused = |error: StoreError| match &error {
            StoreError::Refused(cause) if cause.to_string().contains("WRONGTYPE") => {}
            _ => panic!("{error:?}"),
        };
        for key in ["features", "segments"] {
            let prefix = format!("wrong-{key}-{denied}");
            let flags = redis_flags(store.clone(), &prefix);
            server.command(&["SET", &key_of(&prefix, key), "text"]);
            refused(flags.read().await.unwrap_err());
            refused(flags.look().await.unwrap_err());
            refused(flags.upsert(&rows("/s1 a1"), None).await.unwrap_err());
            assert_eq!(
                flags.fill(&rows("/s1 a1"), &Note::default()).await.unwrap(),
                Filled::NotEmpty
            );
            let found = |key| StoredRow { key, json: "{}".into(), head: None, revision: 0 };
            let both =
                [flag("a"), segment("s")].map(|key| Correction { found: found(key), wanted: None });
            refused(flags.correct(&both).await.unwrap_err());
            assert_eq!(server.command(&["GET", &key_of(&prefix, key)]), "text");
        }
        let prefix = format!("wrong-marker-{denied}");
        let flags = redis_flags(store.clone(), &prefix);
        server.command(&["SADD", &key_of(&prefix, "$inited"), "member"]);
        refused(flags.read().await.unwrap_err());
        refused(flags.look().await.unwrap_err());
        refused(flags.mark(None, &Note::default()).await.unwrap_err());
        assert_eq!(flags.fill(&rows("a1"), &Note::default()).await.unwrap(), Filled::NotEmpty);
        assert_eq!(server.command(&["TYPE", &key_of(&prefix, "$inited")]), "set");
        assert_eq!(store.health().state, BreakerState::Closed, "no flapping");
    }
}

/// Writers of other kinds use `WATCH`: ours must disturb them, and theirs must not be lost.
#[tokio::test(flavor = "multi_thread")]
async fn scripts_and_watching_writers_respect_each_other() {
    let server = Redis::start().await;
    let watching = user(&server, &["+@all", "-@scripting"]);
    let mut tasks = JoinSet::new();
    for writer in 0..4_u64 {
        let settings = if writer % 2 == 0 { watching.clone() } else { server.settings() };
        let flags = redis_flags(store(settings), "ld");
        tasks.spawn(async move {
            let mut written = Vec::new();
            for step in 0..50 {
                let version = step * 4 + writer;
                let row = live_row(&flag("a"), version, "s");
                loop {
                    match flags.upsert(std::slice::from_ref(&row), None).await {
                        Ok(outcomes) => {
                            // Too many others at each attempt: the keeper repeats it, too.
                            if outcomes == [Upserted::Contended] {
                                continue;
                            }
                            if outcomes == [Upserted::Written] {
                                written.push(version);
                            }
                            break;
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }
            written
        });
    }
    let mut written = tasks.join_all().await.concat();
    written.sort_unstable();
    assert_eq!(written.last(), Some(&199));
    let flags = redis_flags(store(server.settings()), "ld");
    assert_eq!(shown(&flags.read().await.unwrap()), "a199");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_the_right_to_write_is_told() {
    let server = Redis::start().await;
    let flags =
        redis_flags(store(user(&server, &["+@read", "+@connection", "+@transaction"])), "ld");
    holds(&flags, "").await;
    for error in [
        flags.upsert(&rows("a1"), None).await.unwrap_err(),
        flags.fill(&rows("a1"), &Note::default()).await.unwrap_err(),
        flags.mark(None, &Note::default()).await.unwrap_err(),
    ] {
        let StoreError::Refused(cause) = &error else { panic!("{error:?}") };
        assert!(cause.to_string().contains("NOPERM"), "{cause}");
    }
    // Where the server's identity may not be asked for, the rest of a look is there.
    let look = flags.look().await.unwrap();
    assert_eq!((look.server, look.counts.unwrap().flags), (None, 0));
}

/// Bytes that are no text count as version 0 too, whatever a script makes of them.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_text_are_replaced() {
    let server = Redis::start().await;
    let flags = redis_flags(store(server.settings()), "ld");
    let plant = r#"return redis.call('HSET', 'ld:features', 'a', '{"version":9,"x":"' .. string.char(255) .. '"}')"#;
    server.command(&["EVAL", plant, "0"]);
    holds(&flags, "a?").await;
    upserts(&flags, "a5", None, "w").await;
    holds(&flags, "a5").await;
}
