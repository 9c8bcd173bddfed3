//! What an operator gets wrong, and what somebody wrote who should not have: the start goes on,
//! the log tells it once with what and where, `/status` shows it, and it ends with its cause.

use pilotlight::testing::demo::composed_data::{environment_id, flag_key};
use pilotlight::testing::model::ItemKind;
use serde_json::json;
use tempfile::TempDir;

use pilotlight_test_kit::cache_database::{CacheDatabase, Kind};
use pilotlight_test_kit::databases::MASTER_TOKEN;
use pilotlight_test_kit::fleet::{Fleet, NEVER};
use pilotlight_test_kit::relay::{RelayProcess, RelaySettings};
use pilotlight_test_kit::stored_flags::witness::Witness;
use pilotlight_test_kit::stored_flags::{
    complaints, is_complete, namespace, prefix, wait_for_error, wait_until_complete,
    wait_until_in_order,
};

on_every_database!(
    items_that_cannot_be_read_are_named_and_written_anew,
    a_database_that_cannot_be_reached_at_the_start,
    a_database_that_does_not_answer_at_the_start,
    exit_always_ends_with_0_only_when_everything_is_stored,
);

/// Puts in what cannot be decoded, and an item without a version.
async fn spoil(fleet: &Fleet, kind: Kind) {
    let flags = namespace(kind, 0, ItemKind::Flag);
    let segments = namespace(kind, 0, ItemKind::Segment);
    let segment = pilotlight::testing::demo::composed_data::segment_key(0);
    // Version 0 of the attribute that DynamoDB has means: look into the JSON.
    fleet.database.put_item(&flags, &flag_key(2), 0, "{\"key\": ").await;
    fleet.database.put_item(&segments, &segment, 0, "no JSON").await;
    let flag = json!({"key": flag_key(3), "on": true});
    fleet.database.put_item(&flags, &flag_key(3), 0, &flag.to_string()).await;
}

async fn items_that_cannot_be_read_are_named_and_written_anew(kind: Kind) {
    let fleet = Fleet::on(kind, 1, 20).await;
    let disk = TempDir::new().unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, NEVER)).await;
    wait_until_complete(&fleet, kind, 0).await;
    relay.kill().await.unwrap();
    spoil(&fleet, kind).await;
    let relay = fleet.relay(&disk, NEVER).start().unwrap();
    wait_until_complete(&fleet, kind, 0).await;
    assert_named(&relay);
    let witness = Witness::of(&relay, 0).await;
    // While it runs, the next comparison finds them.
    spoil(&fleet, kind).await;
    fleet.launchdarkly.send_flags_put(environment_id(0).as_str());
    wait_until_complete(&fleet, kind, 0).await;
    wait_until_in_order(&relay).await;
    witness.asks(2).await;
    witness.assert_untroubled();
}

/// The log names the two in one line.
fn assert_named(relay: &RelayProcess) {
    let log = relay.log();
    let lines: Vec<&str> =
        log.lines().filter(|line| line.contains("cannot be decoded; they are left out")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    let segment = pilotlight::testing::demo::composed_data::segment_key(0);
    assert!(lines[0].contains(&flag_key(2)) && lines[0].contains(&segment), "{}", lines[0]);
}

async fn a_database_that_cannot_be_reached_at_the_start(kind: Kind) {
    let fleet = Fleet::on(kind, 1, 20).await;
    fleet.database.proxy().refuse();
    starts_without(&fleet, kind, "").await;
}

async fn a_database_that_does_not_answer_at_the_start(kind: Kind) {
    let fleet = Fleet::on(kind, 1, 20).await;
    fleet.database.proxy().black_hole();
    starts_without(&fleet, kind, "").await;
}

async fn exit_always_ends_with_0_only_when_everything_is_stored(kind: Kind) {
    let fleet = Fleet::on(kind, 2, 60).await;
    let disk = TempDir::new().unwrap();
    let run = async |init_timeout: &str| {
        let settings = fleet.relay(&disk, NEVER).with("EXIT_ALWAYS", "true");
        let mut relay = settings.with("INIT_TIMEOUT", init_timeout).start().unwrap();
        let status = relay.ended().await.unwrap();
        (status.code(), relay.log())
    };
    let fault: [&dyn Fn(); 2] =
        [&|| fleet.database.proxy().refuse(), &|| fleet.database.proxy().black_hole()];
    for fault in fault {
        fault();
        let (code, log) = run("2s").await;
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains("could not be stored within initTimeout"), "{log}");
    }
    fleet.database.proxy().pass().unwrap();
    let (code, log) = run("30s").await;
    assert_eq!(code, Some(0), "{log}");
    for index in 0..2 {
        is_complete(&fleet, kind, index).await.unwrap();
    }
}

async fn starts_without(fleet: &Fleet, kind: Kind, error: &str) {
    let disk = TempDir::new().unwrap();
    let relay = fleet.relay(&disk, NEVER).start().unwrap();
    starts(fleet, kind, &relay, error, async || fleet.database.proxy().pass().unwrap()).await;
}

/// A relay serves although its database does not, and fills that as soon as the trouble is over.
async fn starts(
    fleet: &Fleet,
    kind: Kind,
    relay: &RelayProcess,
    error: &str,
    cure: impl AsyncFn(),
) {
    let witness = Witness::of(relay, 0).await;
    wait_for_error(relay, error).await;
    for round in 0..10 {
        witness.change(fleet, round).await;
    }
    witness.asks(5).await;
    is_complete(fleet, kind, 0).await.unwrap_err();
    cure().await;
    wait_until_complete(fleet, kind, 0).await;
    wait_until_in_order(relay).await;
    assert_eq!(complaints(relay), 1, "{}", relay.log());
    witness.assert_untroubled();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_at_the_start() {
    let fleet = Fleet::on(Kind::Redis, 1, 20).await;
    let user = |password: &str| {
        let rule = format!(">{password}");
        let set = ["ACL", "SETUSER", "relay", "reset", "on", &rule, "~*", "+@all"];
        assert_eq!(fleet.database.redis().command(&set), "OK");
    };
    user("another");
    let disk = TempDir::new().unwrap();
    let settings = fleet.relay(&disk, NEVER).with("REDIS_USERNAME", "relay");
    let relay = settings.with("REDIS_PASSWORD", "right").start().unwrap();
    starts(&fleet, Kind::Redis, &relay, "WRONGPASS", async || user("right")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_does_not_exist_at_the_start() {
    let fleet = Fleet::on(Kind::DynamoDb, 1, 20).await;
    let disk = TempDir::new().unwrap();
    fleet.database.drop_table().await;
    let relay = fleet.relay(&disk, NEVER).start().unwrap();
    let witness = Witness::of(&relay, 0).await;
    wait_for_error(&relay, "ResourceNotFound").await;
    for round in 0..10 {
        witness.change(&fleet, round).await;
    }
    fleet.database.create_table().await;
    wait_until_complete(&fleet, Kind::DynamoDb, 0).await;
    wait_until_in_order(&relay).await;
    assert_eq!(complaints(&relay), 1, "{}", relay.log());
    witness.assert_untroubled();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_consul_does_not_know_at_the_start() {
    let fleet = Fleet::new(CacheDatabase::start_consul_with_acl().await, 1, 20);
    let (disk, secret) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let file = secret.path().join("token");
    std::fs::write(&file, "3b9f0c1e-0000-4000-8000-00000000dead").unwrap();
    let settings: RelaySettings = fleet.relay(&disk, NEVER);
    let relay = settings.with("CONSUL_TOKEN_FILE", file.display().to_string()).start().unwrap();
    let cure = async || std::fs::write(&file, MASTER_TOKEN).unwrap();
    starts(&fleet, Kind::Consul, &relay, "403", cure).await;
    assert!(!fleet.database.rows(&prefix(0)).await.is_empty());
}
