//! The flag store on DynamoDB.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use pilotlight::testing::flagstore::backend::{Correction, FlagBackend, Row, StoredRow};
use pilotlight::testing::flagstore::marker::{Marker, Note};
use pilotlight::testing::flagstore::table::{FlagTable, Naming};
use pilotlight::testing::model::ItemKey;
use pilotlight::testing::storage::dynamodb::{
    DynamoDbDialer, DynamoDbSettings, DynamoDbStore, DynamoDbTable, Form,
};
use pilotlight::testing::storage::{BreakerState, Budgets, FailFast, StoreError};
use pilotlight::testing::tasks::TaskGroup;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::contract::contract;
use super::peers::{
    Fills, Peer, flag, holds, letters, live_row, rows, segment, upserts, write_whole,
};
use pilotlight_test_kit::databases::{DynamoDb, settings_at};
use pilotlight_test_kit::dynamodb_faults::{DynamoDbFaults, Fault};
use pilotlight_test_kit::eventually;

fn store(settings: DynamoDbSettings) -> DynamoDbStore {
    FailFast::new("dynamodb", DynamoDbDialer::new(settings), Budgets::default())
}

type DynamoDbFlags = FlagTable<DynamoDbTable>;

fn dynamodb_flags(store: DynamoDbStore, table: &str, prefix: &str) -> DynamoDbFlags {
    FlagTable::new(DynamoDbTable::new(store, table, Form::Text), Naming::DYNAMODB, prefix)
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn number(number: &str) -> AttributeValue {
    AttributeValue::N(number.to_owned())
}

/// A table of the shared server, and a client to look into it.
struct Table {
    server: Arc<DynamoDb>,
    name: &'static str,
    client: Client,
}

impl Table {
    async fn create(name: &'static str) -> Self {
        let server = DynamoDb::shared().await;
        server.create_table(name).await;
        let client = server.client().await;
        Self { server, name, client }
    }

    async fn put<const N: usize>(
        &self,
        namespace: &str,
        key: &str,
        more: [(&str, AttributeValue); N],
    ) {
        let more = more.into_iter().map(|(name, value)| (name.to_owned(), value));
        let names = [("namespace", namespace), ("key", key)];
        let names = names.into_iter().map(|(name, value)| (name.to_owned(), text(value)));
        let item: HashMap<_, _> = names.chain(more).collect();
        self.client.put_item().table_name(self.name).set_item(Some(item)).send().await.unwrap();
    }

    async fn attributes(&self, namespace: &str, key: &str) -> HashMap<String, AttributeValue> {
        let request = self.client.get_item().table_name(self.name).consistent_read(true);
        let request = request.key("namespace", text(namespace)).key("key", text(key));
        request.send().await.unwrap().item.unwrap_or_default()
    }
}

fn prefixed(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}:{name}") }
}

impl Peer for Table {
    type Flags = DynamoDbFlags;

    const FILLS: Fills = Fills::None;
    // ld-relay's rule: overhead 100, names 23, namespace 14, key 1, version 1.
    const LONGEST_JSON: Option<usize> = Some(400_000 - 100 - 23 - 14 - 1 - 1);

    fn flags(&self, prefix: &str) -> DynamoDbFlags {
        dynamodb_flags(store(self.server.settings()), self.name, prefix)
    }

    async fn plant(&self, prefix: &str, key: &ItemKey, value: &str) {
        let namespace = prefixed(prefix, key.kind.store_name());
        self.put(&namespace, &key.key, [("item", text(value))]).await;
    }

    async fn unmark(&self, prefix: &str) {
        let name = text(&prefixed(prefix, "$inited"));
        let request = self.client.delete_item().table_name(self.name);
        request.key("namespace", name.clone()).key("key", name).send().await.unwrap();
    }

    async fn mark_as_sdk(&self, prefix: &str) {
        let name = prefixed(prefix, "$inited");
        self.put(&name, &name, []).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dynamodb_keeps_the_contract() {
    contract(&Table::create("flags-contract").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_layout_is_ld_relays() {
    let table = Table::create("flags-layout").await;
    for prefix in ["", "ld"] {
        let set = rows("/s3 a12");
        write_whole(&table.flags(prefix), &set).await;
        for (row, name, version) in [(&set[0], "segments", "3"), (&set[1], "features", "12")] {
            let namespace = prefixed(prefix, name);
            let expected = HashMap::from([
                ("namespace".to_owned(), text(&namespace)),
                ("key".to_owned(), text(&row.key.key)),
                ("version".to_owned(), number(version)),
                ("item".to_owned(), text(std::str::from_utf8(&row.json).unwrap())),
            ]);
            assert_eq!(table.attributes(&namespace, &row.key.key).await, expected);
        }
        let marker = prefixed(prefix, "$inited");
        let mut found = table.attributes(&marker, &marker).await;
        assert!(found.remove("pilotlight").is_some_and(|note| note.is_s()));
        let expected = HashMap::from([
            ("namespace".to_owned(), text(&marker)),
            ("key".to_owned(), text(&marker)),
        ]);
        assert_eq!(found, expected);
    }
    let whole = table.client.scan().table_name(table.name).send().await.unwrap();
    assert_eq!(whole.count, 6, "and nothing else");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_other_writers_leave_is_read() {
    let table = Table::create("flags-others").await;
    let flags = table.flags("ld");
    let json = |version: u64| text(&format!(r#"{{"key":"x","version":{version}}}"#));
    let gone = text(r#"{"key":"a","version":5,"deleted":true}"#);
    table.put("ld:$inited", "ld:$inited", [("version", number("1"))]).await;
    table.put("ld:features", "a", [("version", number("5")), ("item", gone)]).await;
    // The attribute goes before the JSON, unless it is 0 or missing or something else.
    table.put("ld:features", "b", [("version", number("9")), ("item", json(2))]).await;
    table.put("ld:features", "c", [("version", number("2")), ("item", json(9))]).await;
    table.put("ld:features", "d", [("version", number("0")), ("item", json(9))]).await;
    table.put("ld:features", "e", [("item", json(9))]).await;
    table.put("ld:features", "f", [("version", text("2")), ("item", json(9))]).await;
    table.put("ld:features", "g", [("version", number("0")), ("item", json(0))]).await;
    table
        .put(
            "ld:features",
            "h",
            [("version", number("3")), ("item", json(3)), ("ttl", number("1"))],
        )
        .await;
    holds(&flags, "! a-5 b9 c2 d9 e9 f9 g0 h3").await;
    upserts(&flags, "a5 b8 c3 d8 e8 f8 g0 h4", None, "nnwnnnnw").await;
    holds(&flags, "! a-5 b9 c3 d9 e9 f9 g0 h4").await;
    upserts(&flags, "a6 b10 d10 e10 f10 g1", None, "wwwwww").await;
    holds(&flags, "! a6 b10 c3 d10 e10 f10 g1 h4").await;
    let theirs = flags.mark(None, &Note::default()).await.unwrap().unwrap();
    assert_eq!(theirs, Marker::read(bytes::Bytes::new(), 0));
    assert_eq!(table.attributes("ld:$inited", "ld:$inited").await.len(), 3, "it is theirs");
    let ours = flags.mark(Some(&theirs), &Note::default()).await.unwrap().unwrap();
    assert_eq!(ours.note, Some(Note::default()), "whatever else theirs has");
}

/// A `version` that no relay writes: each one can be replaced and removed, with or without JSON.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_not_a_whole_number_can_be_replaced_and_corrected() {
    let table = Table::create("flags-odd-versions").await;
    let flags = table.flags("");
    let json = || text(r#"{"key":"a","version":5}"#);
    for odd in ["-1", "7.5", "1.5", "1e30", "-1e-7", "18446744073709551616"] {
        let plant = async |item: AttributeValue| {
            table.put("features", "a", [("version", number(odd)), ("item", item)]).await;
        };
        plant(json()).await;
        holds(&flags, "a5").await;
        let found = flags.read().await.unwrap().rows.remove(0);
        assert!(found.head.unwrap().respell, "{odd} is not as it should be");
        upserts(&flags, "a5", None, "n").await;
        upserts(&flags, "a6", None, "w").await;
        assert_eq!(table.attributes("features", "a").await["version"], number("6"));
        plant(text("{")).await;
        upserts(&flags, "a6", None, "w").await;
        // A peer has written it meanwhile.
        let replaced = [Correction { found: found.clone(), wanted: Some(rows("a5").remove(0)) }];
        let removed = [Correction { found, wanted: None }];
        assert_eq!(flags.correct(&replaced).await.unwrap(), [false], "{odd}");
        assert_eq!(flags.correct(&removed).await.unwrap(), [false], "{odd}");
        table.put("features", "a", [("version", number("5")), ("item", json())]).await;
        assert_eq!(flags.correct(&removed).await.unwrap(), [false], "{odd}");
        plant(json()).await;
        assert_eq!(flags.correct(&replaced).await.unwrap(), [true], "{odd}");
        assert_eq!(table.attributes("features", "a").await["version"], number("5"));
        plant(json()).await;
        assert_eq!(flags.correct(&removed).await.unwrap(), [true], "{odd}");
        holds(&flags, "").await;
    }
    // ld-relay and SDKs never replace an item without a number.
    for more in [None, Some(text("5"))] {
        table.put("features", "a", [("item", json())]).await;
        if let Some(version) = more {
            table.put("features", "a", [("item", json()), ("version", version)]).await;
        }
        let found = flags.read().await.unwrap().rows.remove(0);
        assert!(found.head.unwrap().respell);
        let replaced = [Correction { found, wanted: Some(rows("a5").remove(0)) }];
        assert_eq!(flags.correct(&replaced).await.unwrap(), [true]);
        assert_eq!(table.attributes("features", "a").await["version"], number("5"));
        assert!(!flags.read().await.unwrap().rows.remove(0).head.unwrap().respell);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_item_is_replaced_and_corrected() {
    let table = Table::create("flags-garbage").await;
    let flags = table.flags("");
    let garbage = async |key: &str| {
        let blob = AttributeValue::B(Blob::new(b"x"));
        match key {
            "a" => table.put("features", key, [("version", number("7"))]).await,
            "b" => table.put("features", key, [("version", number("7")), ("item", blob)]).await,
            "c" => table.put("features", key, [("version", number("7")), ("item", text(""))]).await,
            "d" => {
                table.put("features", key, [("version", number("7")), ("item", text("{"))]).await
            }
            _ => table.put("features", key, []).await,
        }
    };
    let keys = ["a", "b", "c", "d", "e"];
    for key in keys {
        garbage(key).await;
    }
    holds(&flags, "a? b? c? d? e?").await;
    upserts(&flags, "a0 b0 c0 d0 e0", None, "nnnnn").await;
    upserts(&flags, "a1 b1 c1 d1 e1", None, "wwwww").await;
    holds(&flags, "a1 b1 c1 d1 e1").await;

    for key in keys {
        garbage(key).await;
    }
    let found = flags.read().await.unwrap().rows;
    let with = |wanted: fn(&StoredRow) -> Option<Row>| -> Vec<Correction> {
        found.iter().map(|row| Correction { found: row.clone(), wanted: wanted(row) }).collect()
    };
    let replaced = with(|row| Some(live_row(&row.key, 0, "s")));
    assert_eq!(flags.correct(&replaced).await.unwrap(), [true; 5]);
    holds(&flags, "a0 b0 c0 d0 e0").await;
    assert_eq!(flags.correct(&with(|_| None)).await.unwrap(), [false; 5]);
    for key in keys {
        garbage(key).await;
    }
    assert_eq!(flags.correct(&with(|_| None)).await.unwrap(), [true; 5]);
    assert_eq!(flags.correct(&with(|_| None)).await.unwrap(), [false; 5]);
    assert_eq!(flags.correct(&replaced).await.unwrap(), [false; 5]);
    holds(&flags, "").await;

    // The same text under another version is not what was found.
    let json = || text(r#"{"version":2}"#);
    table.put("features", "a", [("version", number("5")), ("item", json())]).await;
    let found = flags.read().await.unwrap().rows.remove(0);
    table.put("features", "a", [("version", number("6")), ("item", json())]).await;
    let removal = [Correction { found, wanted: None }];
    assert_eq!(flags.correct(&removal).await.unwrap(), [false]);
    table.put("features", "a", [("version", number("5")), ("item", json())]).await;
    assert_eq!(flags.correct(&removal).await.unwrap(), [true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_have_a_limit() {
    let table = Table::create("flags-keys").await;
    let flags = table.flags("ld");
    let set = ["a", &"k".repeat(1024), &"k".repeat(1025), "", "b"]
        .map(|name| live_row(&flag(name), 1, "s"));
    assert_eq!(letters(&flags.upsert(&set, None).await.unwrap()), "wwllw");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_environment_may_have_a_table_of_its_own() {
    let (one, other) = (Table::create("flags-one").await, Table::create("flags-other").await);
    write_whole(&one.flags("ld"), &rows("a1")).await;
    holds(&other.flags("ld"), "").await;
    write_whole(&other.flags("ld"), &rows("b2 /s1")).await;
    holds(&one.flags("ld"), "! a1").await;
    holds(&other.flags("ld"), "! /s1 b2").await;
}

/// The error of each operation.
async fn errors(flags: &DynamoDbFlags) -> [StoreError; 5] {
    let found = StoredRow { key: flag("a"), json: "{}".into(), head: None, revision: 0 };
    [
        flags.read().await.unwrap_err(),
        flags.look().await.unwrap_err(),
        flags.upsert(&rows("a1"), None).await.unwrap_err(),
        flags.correct(&[Correction { found, wanted: None }]).await.unwrap_err(),
        flags.mark(None, &Note::default()).await.unwrap_err(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_is_a_refusal_until_it_is_there() {
    let server = DynamoDb::shared().await;
    let store = store(server.settings());
    let flags = dynamodb_flags(store.clone(), "flags-later", "");
    for error in errors(&flags).await {
        let StoreError::Refused(cause) = &error else { panic!("{error:?}") };
        assert!(cause.to_string().contains("ResourceNotFoundException"), "{cause}");
    }
    assert_eq!(store.health().state, BreakerState::Closed, "no flapping");
    server.create_table("flags-later").await;
    write_whole(&flags, &rows("a1")).await;
    holds(&flags, "! a1").await;
}

/// A table behind a proxy with faults, with a store whose probe runs.
struct Faulty {
    proxy: DynamoDbFaults,
    store: DynamoDbStore,
    flags: DynamoDbFlags,
    _server: Arc<DynamoDb>,
    _probe: TaskGroup,
}

impl Faulty {
    async fn create(table: &'static str) -> Self {
        let server = DynamoDb::shared().await;
        server.create_table(table).await;
        let proxy = DynamoDbFaults::before(server.port).await;
        let store = store(settings_at(proxy.port));
        let flags = dynamodb_flags(store.clone(), table, "ld");
        let mut probe = TaskGroup::new(&CancellationToken::new());
        probe.spawn("probe", |cancel| store.clone().run_probe(cancel));
        Self { proxy, store, flags, _server: server, _probe: probe }
    }
}

fn fifty(version: u64) -> Vec<Row> {
    let row = |number: u64| {
        let name = format!("item {number}");
        let key = if number < 10 { segment(&name) } else { flag(&name) };
        live_row(&key, version, "s")
    };
    (0..50).map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn throttled_and_failed_requests_are_repeated() {
    let Faulty { proxy, store, flags, .. } = &Faulty::create("flags-throttled").await;
    let faults =
        |count| (0..count).map(|it| if it % 2 == 0 { Fault::Throttle } else { Fault::ServerError });
    proxy.plan("PutItem", faults(60), None);
    let outcomes = flags.upsert(&fifty(1), None).await.unwrap();
    assert_eq!(letters(&outcomes), "w".repeat(50));
    assert_eq!(proxy.seen(), 50 + 60);
    proxy.plan("PutItem", faults(2), None);
    flags.mark(None, &Note::default()).await.unwrap().unwrap();
    proxy.plan("GetItem", faults(2), None);
    assert!(flags.look().await.unwrap().marker.is_some());
    proxy.plan("Query", faults(4), None);
    let found = flags.read().await.unwrap();
    assert_eq!(found.rows.len(), 50);
    proxy.plan("DeleteItem", faults(60), None);
    let removal = |found: StoredRow| Correction { found, wanted: None };
    let removals: Vec<Correction> = found.rows.into_iter().map(removal).collect();
    assert_eq!(flags.correct(&removals).await.unwrap(), [true; 50]);
    assert_eq!(store.health().state, BreakerState::Closed);
}

/// Until the store works again, by itself.
async fn ends_by_itself(flags: &DynamoDbFlags) {
    eventually("the store being back", async || flags.look().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lasting_throttling_is_reported_within_the_budget_and_ends() {
    let Faulty { proxy, store, flags, .. } = &Faulty::create("flags-throttled-long").await;
    let budget = store.budgets().bulk;
    for operation in ["PutItem", "Query"] {
        proxy.plan(operation, [], Some(Fault::Throttle));
        let begun = Instant::now();
        let error = match operation {
            "PutItem" => flags.upsert(&fifty(1), None).await.map(drop).unwrap_err(),
            _ => flags.read().await.map(drop).unwrap_err(),
        };
        let StoreError::Unreachable(cause) = &error else { panic!("{error:?}") };
        assert!(cause.to_string().contains("ProvisionedThroughputExceeded"), "{cause}");
        assert!(begun.elapsed() < budget + Duration::from_secs(1), "{:?}", begun.elapsed());
        proxy.plan(operation, [], None);
        ends_by_itself(flags).await;
    }
    let outcomes = flags.upsert(&fifty(1), None).await.unwrap();
    assert_eq!(letters(&outcomes), "w".repeat(50));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_hangs_is_given_up_and_the_same_call_may_follow() {
    let Faulty { proxy, store, flags, .. } = &Faulty::create("flags-hang").await;
    let limit = store.budgets().bulk + Duration::from_secs(2);
    proxy.plan("PutItem", [Fault::Hang, Fault::Throttle, Fault::Hang], None);
    let begun = Instant::now();
    let error = flags.upsert(&fifty(3), None).await.unwrap_err();
    assert!(matches!(error, StoreError::TimedOut { .. }), "{error:?}");
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
    ends_by_itself(flags).await;
    let outcomes = letters(&flags.upsert(&fifty(3), None).await.unwrap());
    assert!(outcomes.chars().all(|letter| "wn".contains(letter)), "{outcomes}");
    let found = flags.read().await.unwrap();
    assert!(found.rows.len() == 50 && found.marker.is_none());
    assert!(found.rows.iter().all(|row| row.head.unwrap().version == 3));

    for operation in ["Query", "GetItem"] {
        proxy.plan(operation, [Fault::Hang], None);
        let begun = Instant::now();
        let error = flags.read().await.unwrap_err();
        assert!(matches!(error, StoreError::TimedOut { .. }), "{error:?}");
        assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
        ends_by_itself(flags).await;
    }
    assert_eq!(flags.read().await.unwrap().rows.len(), 50);
}
