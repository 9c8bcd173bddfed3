//! A database that is there and does not want us: told once, shown in `/status`, over by itself
//! when somebody has seen to it.

use tempfile::TempDir;

use pilotlight_test_kit::cache_database::{CacheDatabase, Kind};
use pilotlight_test_kit::databases::MASTER_TOKEN;
use pilotlight_test_kit::fleet::{Fleet, NEVER, OFTEN, SEALED, shared, wait_for_shared};
use pilotlight_test_kit::relay::{RelayProcess, RelaySettings};

const READ_COMPLAINT: &str = "the autoconfig cache cannot be read";
const WRITE_COMPLAINT: &str = "could not be written to the autoconfig cache";

/// Plays both halves of a trouble: a cold start that cannot read, and a live relay that cannot
/// write. `trouble` and `cure` act on the database.
async fn check(
    fleet: &Fleet,
    settings: impl Fn(&TempDir) -> RelaySettings,
    trouble: impl AsyncFn(),
    cure: impl AsyncFn(),
    error: &str,
) {
    fleet.launchdarkly.stop().await;
    trouble().await;
    let disk = TempDir::new().unwrap();
    let relay = settings(&disk).start().unwrap();
    wait_for_error(&relay, error).await;
    wait_for_attempts(fleet, &relay).await;
    cure().await;
    wait_for_shared(&relay, "loaded").await;
    assert_eq!(complaints(&relay), (1, 0), "{}", relay.log());
    // Gone for certain, so that the next one gets the store.
    relay.kill().await.unwrap();

    fleet.launchdarkly.start().unwrap();
    trouble().await;
    let relay = settings(&disk).start().unwrap();
    relay.wait_until_healthy(2).await;
    fleet.rename(0, "changed during the trouble");
    // The trouble showed before the change was here.
    let pending = |status: &_| shared(status)["writePending"] == true;
    relay.wait_for_status("the change waits", pending).await;
    wait_for_error(&relay, error).await;
    wait_for_attempts(fleet, &relay).await;
    cure().await;
    fleet.wait_until_whole().await;
    relay.wait_until_stored().await;
    let status = relay.status().await;
    assert_eq!(shared(&status)["error"], serde_json::Value::Null);
    assert!(complaints(&relay).1 <= 1, "{}", relay.log());
}

fn complaints(relay: &RelayProcess) -> (usize, usize) {
    let log = relay.log();
    (log.matches(READ_COMPLAINT).count(), log.matches(WRITE_COMPLAINT).count())
}

async fn wait_for_error(relay: &RelayProcess, error: &str) -> serde_json::Value {
    relay
        .wait_for_status(&format!("the trouble shows: {error}"), |status| {
            let tier = shared(status);
            tier["state"] == "unavailable"
                && tier["error"].as_str().is_some_and(|text| text.contains(error))
        })
        .await
}

/// Waits until the relay has tried again some times: connections, or what it says it did.
async fn wait_for_attempts(fleet: &Fleet, relay: &RelayProcess) {
    let proxy = fleet.database.proxy();
    // Redis and Consul keep one connection; those that are turned away come again.
    let before = proxy.accepted_connections();
    let age = relay.age() + std::time::Duration::from_secs(3);
    pilotlight_test_kit::eventually("it tried again", async || {
        let more = proxy.accepted_connections() - before;
        if more >= 3 || relay.age() > age { Ok(()) } else { Err(more) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_of_redis() {
    let fleet = Fleet::on(Kind::Redis, 2, 1).await;
    fleet.fill().await;
    let redis = fleet.database.redis();
    // The tests' own connections have no password, so the relay gets a user of its own.
    let settings = |disk: &TempDir| {
        let settings = fleet.relay(disk, NEVER).with("REDIS_USERNAME", "relay");
        settings.with("REDIS_PASSWORD", "right")
    };
    let relay_user = |password: &str| {
        let rule = format!(">{password}");
        let set = ["ACL", "SETUSER", "relay", "reset", "on", &rule, "~*", "+@all"];
        assert_eq!(redis.command(&set), "OK");
        // Those who are in already stay in.
        redis.command(&["CLIENT", "KILL", "USER", "relay"]);
    };
    check(
        &fleet,
        settings,
        async || relay_user("wrong"),
        async || relay_user("right"),
        "WRONGPASS",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_type_in_redis() {
    let fleet = Fleet::on(Kind::Redis, 2, 1).await;
    fleet.fill().await;
    let redis = fleet.database.redis();
    let trouble = async || {
        redis.command(&["RENAME", SEALED, "kept"]);
        redis.command(&["SET", SEALED, "text"]);
    };
    let cure = async || {
        redis.command(&["RENAME", "kept", SEALED]);
    };
    let settings = |disk: &TempDir| fleet.relay(disk, NEVER);
    check(&fleet, settings, trouble, cure, "WRONGTYPE").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_takes_no_writes() {
    let fleet = Fleet::on(Kind::Redis, 2, 1).await;
    fleet.fill().await;
    let redis = fleet.database.redis();
    let relay = fleet.filled_by(&fleet.new_relay(NEVER)).await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]);
    fleet.rename(0, "changed while it is full");
    wait_for_error(&relay, "OOM").await;
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]);
    fleet.wait_until_whole().await;
    relay.wait_until_stored().await;
    assert_eq!(complaints(&relay).1, 1, "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_of_dynamodb() {
    let fleet = Fleet::on(Kind::DynamoDb, 2, 1).await;
    fleet.fill().await;
    let kept = fleet.rows().await;
    let cure = async || {
        fleet.database.create_table().await;
        for (name, value) in &kept {
            fleet.database.put(SEALED, name, value).await;
        }
    };
    // The old rows may come after what a live relay writes into the new table.
    let settings = |disk: &TempDir| fleet.relay(disk, OFTEN);
    let trouble = async || fleet.database.drop_table().await;
    check(&fleet, settings, trouble, cure, "ResourceNotFoundException").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aws_without_region_or_credentials() {
    let fleet = Fleet::on(Kind::DynamoDb, 2, 1).await;
    for (missing, error) in
        [("AWS_REGION", "no AWS region is configured"), ("AWS_ACCESS_KEY_ID", "credential")]
    {
        let settings = fleet.new_relay(NEVER).without(missing);
        // What the machine under the tests may know is not asked.
        let relay = settings.with("AWS_EC2_METADATA_DISABLED", "true").start().unwrap();
        relay.wait_until_healthy(2).await;
        wait_for_error(&relay, error).await;
        assert_eq!(relay.get("/readyz", &[]).await.status, 200);
        assert_eq!(complaints(&relay).1, 1, "{}", relay.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_of_consul() {
    let fleet = Fleet::new(CacheDatabase::start_consul_with_acl().await, 2, 1);
    let folder = TempDir::new().unwrap();
    let token = folder.path().join("token");
    let settings = |disk: &TempDir| {
        fleet.relay(disk, NEVER).with("CONSUL_TOKEN_FILE", token.display().to_string())
    };
    std::fs::write(&token, MASTER_TOKEN).unwrap();
    let disk = TempDir::new().unwrap();
    let relay = fleet.filled_by(&settings(&disk)).await;
    relay.kill().await.unwrap();
    check(
        &fleet,
        settings,
        async || std::fs::write(&token, "9e107d9d-372b-4826-8d81-d3542a419d6b").unwrap(),
        async || std::fs::write(&token, MASTER_TOKEN).unwrap(),
        "403",
    )
    .await;
}
