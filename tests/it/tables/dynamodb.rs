//! Tables on DynamoDB.

use std::time::Duration;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use pilotlight::testing::storage::dynamodb::{
    DynamoDbDialer, DynamoDbSettings, DynamoDbStore, DynamoDbTable, Form,
};
use pilotlight::testing::storage::table::Written;
use pilotlight::testing::storage::{BreakerState, Budgets, FailFast, StoreError};
use tokio::time::Instant;

use super::contract::{Creates, Peer, holds};
use super::outage::{ends_by_itself, is_a_refusal, is_noticed, probing};
use super::space::{Change, Space, content, insert, update};
use pilotlight_test_kit::databases::{DynamoDb, settings_at};
use pilotlight_test_kit::dynamodb_faults::{DynamoDbFaults, Fault};

fn store(settings: DynamoDbSettings) -> DynamoDbStore {
    FailFast::new("dynamodb", DynamoDbDialer::new(settings), Budgets::default())
}

/// A name space of a table with rows as bytes.
fn open(store: DynamoDbStore, table: &str, space: &str) -> Space<DynamoDbTable> {
    Space::new(DynamoDbTable::new(store, table, Form::Binary), space)
}

struct DynamoDbPeer<const BINARY: bool>(DynamoDbStore);

impl<const BINARY: bool> Peer for DynamoDbPeer<BINARY> {
    type Table = DynamoDbTable;

    fn table(&self) -> DynamoDbTable {
        let form = if BINARY { Form::Binary } else { Form::Text };
        DynamoDbTable::new(self.0.clone(), format!("contract-{form:?}"), form)
    }

    const BINARY: bool = BINARY;
    const CHECKS_GUARD: bool = false;
    const CREATES: Creates = Creates::None;
    // ld-relay's rule, less the name space `limits` and the key `v`.
    const LONGEST_VALUE: Option<usize> = Some(399_884 - 6 - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn dynamodb_keeps_the_contract() {
    let server = DynamoDb::shared().await;
    server.create_table("contract-Binary").await;
    holds(&DynamoDbPeer::<true>(store(server.settings()))).await;
    server.create_table("contract-Text").await;
    holds(&DynamoDbPeer::<false>(store(server.settings()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_layout_is_ld_relays_and_other_rows_are_left_alone() {
    let server = DynamoDb::shared().await;
    server.create_table("layout").await;
    let client = server.client().await;
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let put = async |key: &str, item: AttributeValue| {
        client
            .put_item()
            .table_name("layout")
            .item("namespace", text("ns"))
            .item("key", text(key))
            .item("item", item)
            .send()
            .await
            .unwrap();
    };
    put("env:theirs", AttributeValue::B(Blob::new(b"sealed"))).await;
    put("a-flag", text("{}")).await;
    let space = open(store(server.settings()), "layout", "ns");
    assert_eq!(content(&space).await.keys().collect::<Vec<_>>(), ["env:theirs"]);
    assert_eq!(space.get("a-flag").await.unwrap(), None);
    assert_eq!(space.write(&[insert("a-flag", "x")]).await.unwrap(), [Written::Conflict]);
    let row = space.get("env:theirs").await.unwrap().unwrap();
    assert_eq!(space.write(&[update(&row, "ours")]).await.unwrap(), [Written::Applied]);

    let stored = client
        .get_item()
        .table_name("layout")
        .key("namespace", text("ns"))
        .key("key", text("env:theirs"))
        .send()
        .await
        .unwrap()
        .item
        .unwrap();
    assert_eq!(stored.len(), 3);
    assert_eq!(stored["item"], AttributeValue::B(Blob::new(b"ours")));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_one_megabyte_are_put_together() {
    let server = DynamoDb::shared().await;
    server.create_table("pages").await;
    let space = open(store(server.settings()), "pages", "ns");
    let rows: Vec<Change> =
        (0..12_u8).map(|it| insert(&format!("env:{it}"), vec![it; 300_000])).collect();
    assert_eq!(space.write(&rows).await.unwrap(), [Written::Applied; 12]);
    assert_eq!(content(&space).await.len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_is_a_refusal_until_it_is_there() {
    let server = DynamoDb::shared().await;
    let store = store(server.settings());
    let space = open(store.clone(), "made-later", "ns");
    is_a_refusal(&store, &space, "ResourceNotFoundException").await;
    let error = space.write(&[insert("env:a", "1")]).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
    server.create_table("made-later").await;
    assert_eq!(space.write(&[insert("env:a", "1")]).await.unwrap(), [Written::Applied]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_dynamodb_is_noticed_and_comes_back() {
    let mut server = DynamoDb::start().await;
    server.create_table("cache").await;
    let store = store(server.settings());
    let space = open(store.clone(), "cache", "ns");
    let _probe = probing(&store);
    assert_eq!(space.write(&[insert("env:a", "1")]).await.unwrap(), [Written::Applied]);
    let epoch = store.health().connected_epoch;
    server.kill();
    is_noticed(&store, &space).await;
    server.restart().await;
    server.create_table("cache").await;
    ends_by_itself(&store, &space).await;
    assert_eq!(space.read_all().await.unwrap(), [], "it lost its data");
    assert!(store.health().connected_epoch > epoch);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_dynamodb_costs_the_connection_and_comes_back() {
    let server = DynamoDb::start().await;
    server.create_table("cache").await;
    let settings = DynamoDbSettings { probe_table: Some("cache".to_owned()), ..server.settings() };
    let store = store(settings);
    let space = open(store.clone(), "cache", "ns");
    let _probe = probing(&store);
    assert_eq!(space.write(&[insert("env:a", "1")]).await.unwrap(), [Written::Applied]);
    server.freeze();
    is_noticed(&store, &space).await;
    server.thaw();
    ends_by_itself(&store, &space).await;
    assert_eq!(space.read_all().await.unwrap().len(), 1, "nothing was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn throttled_and_failed_requests_are_repeated() {
    let server = DynamoDb::shared().await;
    server.create_table("throttled").await;
    let proxy = DynamoDbFaults::before(server.port).await;
    let store = store(settings_at(proxy.port));
    let space = open(store.clone(), "throttled", "ns");

    let faults = (0..60).map(|it| if it % 2 == 0 { Fault::Throttle } else { Fault::ServerError });
    proxy.plan("PutItem", faults, None);
    let rows: Vec<Change> = (0..50).map(|it| insert(&format!("env:{it}"), "1")).collect();
    assert_eq!(space.write(&rows).await.unwrap(), [Written::Applied; 50]);
    assert_eq!(proxy.seen(), 50 + 60);

    proxy.plan("Query", [Fault::Throttle, Fault::ServerError], None);
    assert_eq!(space.read_all().await.unwrap().len(), 50);
    assert_eq!(store.health().state, BreakerState::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn lasting_throttling_is_reported_within_the_budget_and_ends() {
    let server = DynamoDb::shared().await;
    server.create_table("throttled-long").await;
    let proxy = DynamoDbFaults::before(server.port).await;
    let store = store(settings_at(proxy.port));
    let space = open(store.clone(), "throttled-long", "ns");
    let _probe = probing(&store);
    proxy.plan("PutItem", [], Some(Fault::Throttle));
    let begun = Instant::now();
    let error = space.write(&[insert("env:a", "1")]).await.unwrap_err();
    let StoreError::Unreachable(cause) = &error else { panic!("{error:?}") };
    assert!(cause.to_string().contains("ProvisionedThroughputExceeded"), "{cause}");
    assert!(begun.elapsed() < store.budgets().bulk, "{:?}", begun.elapsed());
    proxy.plan("PutItem", [], None);
    ends_by_itself(&store, &space).await;
    assert_eq!(space.write(&[insert("env:a", "1")]).await.unwrap(), [Written::Applied]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_hangs_is_given_up() {
    let server = DynamoDb::shared().await;
    server.create_table("hangs").await;
    let proxy = DynamoDbFaults::before(server.port).await;
    let store = store(settings_at(proxy.port));
    let space = open(store.clone(), "hangs", "ns");
    let _probe = probing(&store);
    proxy.plan("PutItem", [Fault::Hang], None);
    let rows: Vec<Change> = (0..100).map(|it| insert(&format!("env:{it}"), "1")).collect();
    let begun = Instant::now();
    let error = space.write(&rows).await.unwrap_err();
    assert!(matches!(error, StoreError::TimedOut { .. }), "{error:?}");
    assert!(begun.elapsed() < store.budgets().bulk + Duration::from_secs(1));
    ends_by_itself(&store, &space).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_work_are_refused_and_nothing_ends() {
    let store =
        store(DynamoDbSettings { endpoint: Some("not a URL".to_owned()), ..settings_at(1) });
    let space = open(store.clone(), "table", "ns");
    is_a_refusal(&store, &space, "not an http or https URL").await;
    let error = space.write(&[insert("env:a", "1")]).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
}
