//! Faults that only DynamoDB has.

use pilotlight_test_kit::http_fault_proxy::{DynamoDbFault, HttpFaultProxy};
use tempfile::TempDir;

use pilotlight_test_kit::cache_database::Kind;
use pilotlight_test_kit::fleet::{Fleet, NEVER};
use pilotlight_test_kit::stored_flags::witness::Witness;
use pilotlight_test_kit::stored_flags::{
    complaints, wait_for_error, wait_until_complete, wait_until_in_order,
};

/// Lets requests of every kind fail, among them some that get no answer.
fn inject_everything(faults: &HttpFaultProxy) {
    for (fault, calls) in [
        (DynamoDbFault::ThroughputExceeded, 25),
        (DynamoDbFault::Throttling, 10),
        (DynamoDbFault::InternalError, 5),
        (DynamoDbFault::Hang, 2),
    ] {
        faults.inject("PutItem", fault, calls);
    }
    faults.inject("Query", DynamoDbFault::Throttling, 3);
    faults.inject("Query", DynamoDbFault::InternalError, 2);
    faults.inject("GetItem", DynamoDbFault::ThroughputExceeded, 3);
    // The cache of environments is written in batches.
    faults.inject("BatchWriteItem", DynamoDbFault::HoldBack { requests: 2 }, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_throttles_and_fails_is_filled_and_changed_nevertheless() {
    let fleet = Fleet::on(Kind::DynamoDb, 1, 100).await;
    let faults = HttpFaultProxy::start(fleet.database.server_address()).unwrap();
    fleet.database.proxy().set_upstream(faults.address());
    inject_everything(&faults);
    let disk = TempDir::new().unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, NEVER)).await;
    wait_until_complete(&fleet, Kind::DynamoDb, 0).await;
    assert!(faults.calls("PutItem") > 100 + 42, "every fault was met");
    let witness = Witness::of(&relay, 0).await;
    inject_everything(&faults);
    for round in 0..60 {
        witness.change(&fleet, round).await;
    }
    wait_until_complete(&fleet, Kind::DynamoDb, 0).await;
    wait_until_in_order(&relay).await;
    witness.assert_untroubled();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_deleted_is_named_and_filled_when_it_is_made_again() {
    let fleet = Fleet::on(Kind::DynamoDb, 1, 20).await;
    let disk = TempDir::new().unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, NEVER)).await;
    wait_until_complete(&fleet, Kind::DynamoDb, 0).await;
    let witness = Witness::of(&relay, 0).await;
    fleet.database.drop_table().await;
    for round in 0..10 {
        witness.change(&fleet, round).await;
    }
    let status = wait_for_error(&relay, "ResourceNotFound").await;
    let store = pilotlight_test_kit::stored_flags::store_status(&status, 0);
    assert_eq!((&store["breaker"], &store["dirty"]), (&"closed".into(), &7.into()));
    witness.asks(5).await;
    fleet.database.create_table().await;
    wait_until_complete(&fleet, Kind::DynamoDb, 0).await;
    wait_until_in_order(&relay).await;
    assert_eq!(complaints(&relay), 1, "{}", relay.log());
    witness.assert_untroubled();
}
