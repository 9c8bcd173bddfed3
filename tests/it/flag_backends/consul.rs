//! The flag store on Consul.

use bytes::Bytes;
use pilotlight::testing::flagstore::backend::{
    Condition, Correction, Filled, FlagBackend, Row, StoredRow, StoredRows,
};
use pilotlight::testing::flagstore::marker::{Marker, Note};
use pilotlight::testing::flagstore::table::{FlagTable, Naming};
use pilotlight::testing::model::{ItemKey, Password};
use pilotlight::testing::storage::consul::{
    ConsulConnection, ConsulDialer, ConsulSettings, ConsulStore, ConsulTable, Put,
    TRANSACTION_OPERATIONS_MAX, TokenSource, VALUE_BYTES_MAX,
};
use pilotlight::testing::storage::{BreakerState, Budgets, Dialer, FailFast, StoreError};

use super::contract::contract;
use super::peers::{
    Fills, Peer, flag, holds, jsons, letters, live_row, rows, upserts, wanted, write_whole,
};
use pilotlight_test_kit::databases::{Consul, MASTER_TOKEN};

fn store(settings: ConsulSettings) -> ConsulStore {
    FailFast::new("consul", ConsulDialer::new(settings), Budgets::default())
}

type ConsulFlags = FlagTable<ConsulTable>;

fn consul_flags(store: ConsulStore, prefix: &str) -> ConsulFlags {
    FlagTable::new(ConsulTable::new(store), Naming::CONSUL, prefix)
}

struct ConsulPeer {
    agent: Consul,
    conn: ConsulConnection,
}

impl ConsulPeer {
    async fn start() -> Self {
        let agent = Consul::start().await;
        let conn = ConsulDialer::new(agent.settings())
            .dial(&pilotlight::testing::storage::Meter::default())
            .await
            .unwrap();
        Self { agent, conn }
    }

    async fn put(&self, key: &str, value: &str) {
        let put = self.conn.put(key, value.to_owned().into(), None).await.unwrap();
        assert_eq!(put, Put::Applied);
    }

    async fn value(&self, key: &str) -> Option<Bytes> {
        self.conn.get(key).await.unwrap().map(|entry| entry.value)
    }
}

fn key_of(prefix: &str, name: &str) -> String {
    format!("{}/{name}", Naming::CONSUL.prefix(prefix))
}

impl Peer for ConsulPeer {
    type Flags = ConsulFlags;

    const FILLS: Fills = Fills::Small;
    const LONGEST_JSON: Option<usize> = Some(VALUE_BYTES_MAX);

    fn flags(&self, prefix: &str) -> ConsulFlags {
        consul_flags(store(self.agent.settings()), prefix)
    }

    async fn plant(&self, prefix: &str, key: &ItemKey, value: &str) {
        let folder = key_of(prefix, key.kind.store_name());
        self.put(&format!("{folder}/{}", key.key), value).await;
    }

    async fn unmark(&self, prefix: &str) {
        assert!(self.conn.delete(&key_of(prefix, "$inited"), None).await.unwrap());
    }

    async fn mark_as_sdk(&self, prefix: &str) {
        self.put(&key_of(prefix, "$inited"), "").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consul_keeps_the_contract() {
    contract(&ConsulPeer::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_layout_is_ld_relays() {
    let peer = ConsulPeer::start().await;
    let set = rows("/s3 a12 b-2");
    write_whole(&peer.flags(""), &set).await;
    let marker = peer.flags("").mark(None, &Note::default()).await.unwrap().unwrap();
    upserts(&peer.flags(""), "c7", Some(&marker), "w").await;
    let mut keys = peer.conn.keys("").await.unwrap();
    keys.sort();
    assert_eq!(
        keys,
        [
            "launchdarkly/$inited",
            "launchdarkly/features/a",
            "launchdarkly/features/b",
            "launchdarkly/features/c",
            "launchdarkly/segments/s",
        ]
    );
    let marker = peer.value("launchdarkly/$inited").await.unwrap();
    assert_eq!(Marker::read(marker, 1).note, Some(Note::default()));
    assert_eq!(peer.value("launchdarkly/segments/s").await.unwrap(), set[0].json);
    assert_eq!(peer.value("launchdarkly/features/a").await.unwrap(), set[1].json);
    assert_eq!(peer.value("launchdarkly/features/b").await.unwrap(), set[2].json);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_other_writers_leave_is_read() {
    let peer = ConsulPeer::start().await;
    let flags = peer.flags("ld");
    for (key, value) in [
        ("ld/$inited", "something"),
        ("ld/features/a", r#"{"key":"a","version":5,"deleted":true}"#),
        ("ld/features/b", r#"{"version":6,"key":"$deleted","deleted":true}"#),
        ("ld/segments/s", r#"{"key":"s","version":2,"new":{"x":1}}"#),
        // Folders made by hand, and siblings that only begin alike.
        ("ld/features/", ""),
        ("ld/segments/", "x"),
        ("ld/features2/z", r#"{"version":1}"#),
        ("ld/other/z", r#"{"version":1}"#),
        ("ld2/features/z", r#"{"version":1}"#),
    ] {
        peer.put(key, value).await;
    }
    holds(&flags, "! /s2 a-5 b-6").await;
    let look = flags.look().await.unwrap();
    let counts = look.counts.unwrap();
    assert_eq!((counts.segments, counts.flags), (1, 2));
    assert_eq!(
        Some(flags.mark(None, &Note::default()).await.unwrap().unwrap()),
        look.marker,
        "it is theirs"
    );
    assert_eq!(peer.value("ld/$inited").await.unwrap(), "something");
    let marker = flags.mark(None, &Note::default()).await.unwrap().unwrap();
    upserts(&flags, "a5 b7 /s2", Some(&marker), "nwn").await;
    holds(&flags, "! /s2 a-5 b7").await;
    // A folder is no item.
    let empty = live_row(&flag(""), 1, "s");
    assert_eq!(letters(&flags.upsert(&[empty], None).await.unwrap()), "l");
    let row = StoredRow { key: flag("a"), json: "{}".into(), head: None, revision: 0 };
    let strange = Correction { found: row, wanted: None };
    assert_eq!(flags.correct(&[strange]).await.unwrap(), [false], "it was not found here");
}

fn many(count: usize, bytes: usize) -> Vec<Row> {
    let row = |number| live_row(&flag(&format!("f{number}")), 1, &"x".repeat(bytes));
    (0..count).map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sets_that_fit_a_transaction_are_filled_at_once() {
    let peer = ConsulPeer::start().await;
    for (name, set, expected) in [
        ("count", many(TRANSACTION_OPERATIONS_MAX - 1, 500), Filled::Done),
        ("too many", many(TRANSACTION_OPERATIONS_MAX, 500), Filled::Impossible),
        ("far too many", many(10 * TRANSACTION_OPERATIONS_MAX, 500), Filled::Impossible),
        ("bytes", many(10, 28_000), Filled::Done),
        ("too long", many(10, 40_000), Filled::Impossible),
    ] {
        let flags = peer.flags(name);
        assert_eq!(flags.fill(&set, &Note::default()).await.unwrap(), expected, "{name}");
        let found = flags.read().await.unwrap();
        if expected == Filled::Impossible {
            assert_eq!(found, StoredRows::default(), "{name}");
        } else {
            assert_eq!(jsons(&found), wanted(&set), "{name}");
            assert!(found.marker.is_some());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_longer_than_a_transaction_go_alone() {
    let peer = ConsulPeer::start().await;
    let flags = peer.flags("ld");
    let marker = flags.mark(None, &Note::default()).await.unwrap().unwrap();
    let marker = Condition::SameSet(marker);
    let long = |name: &str, version| live_row(&flag(name), version, &"x".repeat(450_000));
    let set = [live_row(&flag("a"), 1, "s"), long("b", 1), live_row(&flag("c"), 1, "s")];
    assert_eq!(letters(&flags.upsert(&set, Some(&marker)).await.unwrap()), "www");
    assert_eq!(letters(&flags.upsert(&set, Some(&marker)).await.unwrap()), "nnn");
    let found = flags.read().await.unwrap();
    let b = found.rows.iter().find(|row| row.key == flag("b")).unwrap();
    let wanted = || Some(long("b", 0));
    let corrections = [(); 2].map(|()| Correction { found: b.clone(), wanted: wanted() });
    assert_eq!(flags.correct(&corrections[..1]).await.unwrap(), [true]);
    assert_eq!(flags.correct(&corrections[..1]).await.unwrap(), [false]);
    holds(&flags, "! a1 b0 c1").await;
    peer.unmark("ld").await;
    assert_eq!(letters(&flags.upsert(&[long("b", 7)], Some(&marker)).await.unwrap()), "m");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_no_path_carries_are_read_and_written() {
    let peer = ConsulPeer::start().await;
    let conn = &peer.conn;
    for key in ["k//a", "k/../a", "k/.", "/k", "k/\n", "k/\u{200b}"] {
        assert_eq!(conn.get(key).await.unwrap(), None, "{key:?}");
        let put = async |value: &'static str, index| {
            conn.put(key, Bytes::from_static(value.as_bytes()), index).await.unwrap()
        };
        assert_eq!(put("1", Some(0)).await, Put::Applied, "{key:?}");
        assert_eq!(put("2", Some(0)).await, Put::Conflict, "{key:?}");
        let entry = conn.get(key).await.unwrap().unwrap();
        assert_eq!((&*entry.key, &entry.value[..]), (key, &b"1"[..]));
        assert_eq!(put("3", Some(entry.modify_index)).await, Put::Applied, "{key:?}");
        assert_eq!(put("", None).await, Put::Applied, "{key:?}");
        assert_eq!(conn.get(key).await.unwrap().unwrap().value, "");
        let long = Bytes::from(vec![b'x'; VALUE_BYTES_MAX]);
        assert_eq!(conn.put(key, long, None).await.unwrap(), Put::TooLarge, "{key:?}");
    }
    assert_eq!(conn.keys("k/").await.unwrap().len(), 5);
    assert_eq!(conn.keys("nothing/").await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_shows_no_token_is_told() {
    let agent = Consul::start_with_acl().await;
    let with = |token: &str| {
        let token = TokenSource::Fixed(Password::new(token));
        store(ConsulSettings { token, ..agent.settings() })
    };
    let stranger = with("1d7a5d9e-0000-4000-8000-000000000000");
    let flags = consul_flags(stranger.clone(), "ld");
    let found = StoredRow { key: flag("a"), json: "{}".into(), head: None, revision: 1 };
    let any = Condition::SameSet(Marker::read("any".into(), 0));
    for error in [
        flags.read().await.unwrap_err(),
        flags.look().await.unwrap_err(),
        flags.fill(&rows("a1"), &Note::default()).await.unwrap_err(),
        flags.upsert(&rows("a1"), None).await.unwrap_err(),
        flags.upsert(&many(100, 10), Some(&any)).await.unwrap_err(),
        flags.correct(&[Correction { found, wanted: None }]).await.unwrap_err(),
        flags.mark(None, &Note::default()).await.unwrap_err(),
    ] {
        let StoreError::Refused(cause) = &error else { panic!("{error:?}") };
        assert!(cause.to_string().contains("403"), "{cause}");
    }
    assert_eq!(stranger.health().state, BreakerState::Closed, "no flapping");
    let flags = consul_flags(with(MASTER_TOKEN), "ld");
    assert_eq!(flags.fill(&rows("a1"), &Note::default()).await.unwrap(), Filled::Done);
}
