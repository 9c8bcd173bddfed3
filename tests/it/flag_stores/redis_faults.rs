//! Faults that only Redis has. SDKs in proxy mode notice none of them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use pilotlight::testing::demo::composed_data::{environment_id, flag_key};
use serde_json::json;
use tempfile::TempDir;

use pilotlight_test_kit::cache_database::Kind;
use pilotlight_test_kit::databases::Redis;
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::fleet::{Fleet, NEVER, OFTEN};
use pilotlight_test_kit::relay::RelayProcess;
use pilotlight_test_kit::stored_flags::onlooker::Onlooker;
use pilotlight_test_kit::stored_flags::witness::Witness;
use pilotlight_test_kit::stored_flags::{
    complaints, is_complete, prefix, store_status, wait_for_error, wait_until_complete,
    wait_until_in_order,
};

/// Longer than a call to a database may take.
const PAUSE: Duration = Duration::from_secs(5);

/// Longest wait for a probe.
const PROBE_WAIT: Duration = Duration::from_secs(20);

/// A relay with everything stored, and a client of it.
async fn begin(fleet: &Fleet, interval: &str) -> (RelayProcess, Witness) {
    let relay = fleet.filled_by(&fleet.new_relay(interval)).await;
    wait_until_complete(fleet, Kind::Redis, 0).await;
    let witness = Witness::of(&relay, 0).await;
    (relay, witness)
}

/// After the trouble everything is stored, the log told of it once, and clients noticed nothing.
async fn end(fleet: &Fleet, relay: &RelayProcess, witness: Witness) {
    wait_until_complete(fleet, Kind::Redis, 0).await;
    wait_until_in_order(relay).await;
    assert_eq!(complaints(relay), 1, "{}", relay.log());
    witness.assert_untroubled();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_dump_is_brought_up_to_date() {
    for is_noticed_by_writing in [true, false] {
        let mut fleet = Fleet::on_mortal(Kind::Redis, 1, 20).await;
        let interval = if is_noticed_by_writing { NEVER } else { OFTEN };
        let (relay, witness) = begin(&fleet, interval).await;
        for round in 0..4 {
            witness.change(&fleet, round).await;
        }
        wait_until_complete(&fleet, Kind::Redis, 0).await;
        assert_eq!(fleet.database.redis().command(&["SAVE"]), "OK");
        for round in 4..12 {
            witness.change(&fleet, round).await;
        }
        wait_until_complete(&fleet, Kind::Redis, 0).await;
        fleet.database.kill();
        if is_noticed_by_writing {
            witness.change(&fleet, 12).await;
            wait_for_error(&relay, "").await;
        }
        fleet.database.restart().await;
        let loaded = fleet.database.redis().command(&["INFO", "persistence"]);
        assert!(!loaded.contains("rdb_last_load_keys_loaded:0"), "{loaded}");
        wait_until_complete(&fleet, Kind::Redis, 0).await;
        wait_until_in_order(&relay).await;
        let status = relay
            .wait_for_status("the repair shows", |status| {
                store_status(status, 0)["lastRepopulation"].is_object()
            })
            .await;
        let items = &store_status(&status, 0)["lastRepopulation"]["items"];
        assert!((1..=9).contains(&items.as_u64().unwrap()), "no more than what was old: {items}");
        witness.assert_untroubled();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_database_delays_nobody() {
    let fleet = Fleet::on(Kind::Redis, 1, 20).await;
    let (relay, witness) = begin(&fleet, NEVER).await;
    let pause = PAUSE.as_millis().to_string();
    assert_eq!(fleet.database.redis().command(&["CLIENT", "PAUSE", &pause, "ALL"]), "OK");
    for round in 0..20 {
        witness.change(&fleet, round).await;
    }
    wait_for_error(&relay, "").await;
    witness.change(&fleet, 20).await;
    witness.asks(5).await;
    // Answered when the pause is over.
    assert_eq!(fleet.database.redis().command(&["PING"]), "PONG");
    end(&fleet, &relay, witness).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_database_is_named_and_written_when_it_has_room() {
    // More than goes to the server in one piece.
    let fleet = Fleet::on(Kind::Redis, 1, 600).await;
    let onlooker = Onlooker::of(&fleet);
    let (relay, witness) = begin(&fleet, OFTEN).await;
    let redis = fleet.database.redis();
    let room = |bytes: u64| {
        let set = ["CONFIG", "SET", "maxmemory", &bytes.to_string()];
        assert_eq!(redis.command(&set), "OK");
    };
    // Changes find no room.
    room(1);
    for round in 0..10 {
        witness.change(&fleet, round).await;
    }
    let status = wait_for_error(&relay, "OOM").await;
    assert_eq!(store_status(&status, 0)["breaker"], "closed", "the database is there");
    witness.asks(5).await;
    room(0);
    end(&fleet, &relay, witness).await;

    // A lost set finds room for a part of it, which nobody sees and which does not stay.
    let witness = Witness::of(&relay, 0).await;
    let full = memory(redis);
    fleet.database.wipe_prefix(&prefix(0)).await;
    let empty = memory(redis);
    room(empty + full.saturating_sub(empty) / 3);
    wait_for_error(&relay, "OOM").await;
    witness.asks(5).await;
    eventually("what was prepared is removed", async || {
        let keys = redis.command(&["KEYS", &format!("{}*", prefix(0))]);
        if keys.is_empty() { Ok(()) } else { Err(keys) }
    })
    .await;
    room(0);
    wait_until_complete(&fleet, Kind::Redis, 0).await;
    wait_until_in_order(&relay).await;
    assert_eq!(complaints(&relay), 2, "{}", relay.log());
    witness.assert_untroubled();
    onlooker.assert_untroubled();
}

fn memory(redis: &Redis) -> u64 {
    let info = redis.command(&["INFO", "memory"]);
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    line.trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_becomes_a_replica_is_written_when_it_is_promoted() {
    let fleet = Fleet::on(Kind::Redis, 1, 20).await;
    let (relay, witness) = begin(&fleet, OFTEN).await;
    let other = Redis::start().await;
    let redis = fleet.database.redis();
    // It takes over that the other one has nothing.
    redis.command(&["REPLICAOF", "127.0.0.1", &other.port.to_string()]);
    redis.is_in_sync().await;
    for round in 0..10 {
        witness.change(&fleet, round).await;
    }
    wait_for_error(&relay, "READONLY").await;
    witness.asks(5).await;
    is_complete(&fleet, Kind::Redis, 0).await.unwrap_err();
    // Between probes, which it answers, and writes, which it refuses, the log stays calm.
    let probed = fleet.database.proxy().accepted_connections() + 6;
    assert!(fleet.database.proxy().wait_for_accepted(probed, PROBE_WAIT).await);
    let noise = relay.log().matches("store is away").count();
    assert!(noise <= 2, "the flags' and the cache's at most: {}", relay.log());
    redis.command(&["REPLICAOF", "NO", "ONE"]);
    end(&fleet, &relay, witness).await;
    assert_eq!(other.command(&["DBSIZE"]), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_the_new_master_is_found_under_the_same_name() {
    let fleet = Fleet::on(Kind::Redis, 1, 20).await;
    let (relay, witness) = begin(&fleet, NEVER).await;
    let other = Redis::start().await;
    let redis = fleet.database.redis();
    other.command(&["REPLICAOF", "127.0.0.1", &redis.port.to_string()]);
    other.is_in_sync().await;
    // Roles change, and whoever connects anew gets to the new master. Those who are connected stay.
    other.command(&["REPLICAOF", "NO", "ONE"]);
    redis.command(&["REPLICAOF", "127.0.0.1", &other.port.to_string()]);
    redis.is_in_sync().await;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, other.port));
    fleet.database.proxy().set_upstream(address);
    for round in 0..10 {
        witness.change(&fleet, round).await;
    }
    // The old master shows it too: it follows the new one.
    wait_until_complete(&fleet, Kind::Redis, 0).await;
    wait_until_in_order(&relay).await;
    let info = other.command(&["INFO", "replication"]);
    assert!(info.contains("role:master"), "{info}");
    witness.assert_untroubled();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_no_longer_fits_is_named_and_tried_until_it_does() {
    let fleet = Fleet::on(Kind::Redis, 1, 20).await;
    let redis = fleet.database.redis();
    let relay_user = |password: &str| {
        let rule = format!(">{password}");
        let set = ["ACL", "SETUSER", "relay", "reset", "on", &rule, "~*", "+@all"];
        assert_eq!(redis.command(&set), "OK");
        // Those who are in already stay in.
        redis.command(&["CLIENT", "KILL", "USER", "relay"]);
    };
    relay_user("right-and-secret");
    let disk = TempDir::new().unwrap();
    let settings = fleet.relay(&disk, NEVER).with("REDIS_USERNAME", "relay");
    let relay = fleet.filled_by(&settings.with("REDIS_PASSWORD", "right-and-secret")).await;
    wait_until_complete(&fleet, Kind::Redis, 0).await;
    let witness = Witness::of(&relay, 0).await;
    relay_user("another");
    for round in 0..10 {
        witness.change(&fleet, round).await;
    }
    let status = wait_for_error(&relay, "WRONGPASS").await;
    assert!(!status.to_string().contains("right-and-secret"));
    witness.asks(5).await;
    relay_user("right-and-secret");
    end(&fleet, &relay, witness).await;
    assert!(!relay.log().contains("right-and-secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_type_is_named_and_harms_nobody_else() {
    let fleet = Fleet::on(Kind::Redis, 2, 20).await;
    let (relay, witness) = begin(&fleet, OFTEN).await;
    let (redis, flags) = (fleet.database.redis(), format!("{}:features", prefix(0)));
    redis.command(&["DEL", &flags]);
    redis.command(&["SET", &flags, "text"]);
    for round in 0..10 {
        witness.change(&fleet, round).await;
    }
    let status = wait_for_error(&relay, "WRONGTYPE").await;
    assert_eq!(store_status(&status, 0)["breaker"], "closed");
    // The other environment is written as ever.
    let flag = json!({"key": flag_key(1), "on": true, "news": true});
    fleet.launchdarkly.upsert_flag(environment_id(1).as_str(), flag).unwrap();
    wait_until_complete(&fleet, Kind::Redis, 1).await;
    assert_eq!(store_status(&relay.status().await, 1)["state"], "VALID");
    witness.asks(5).await;
    assert_eq!(redis.command(&["GET", &flags]), "text", "it is left to its owner");
    redis.command(&["DEL", &flags]);
    end(&fleet, &relay, witness).await;
}
