//! Several relays on one store: it converges to the newest versions, and one of them does the
//! work.

use pilotlight::testing::demo::composed_data::{environment_id, flag_key};
use pilotlight_test_kit::flaky_proxy::FlakyProxy;
use serde_json::{Value, json};
use tempfile::TempDir;

use pilotlight_test_kit::cache_database::Kind;
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::fleet::{Fleet, NEVER, OFTEN};
use pilotlight_test_kit::relay::RelayProcess;
use pilotlight_test_kit::stored_flags::onlooker::Onlooker;
use pilotlight_test_kit::stored_flags::witness::Witness;
use pilotlight_test_kit::stored_flags::{
    holds, is_complete, prefix, store_status, wait_until_complete, wait_until_in_order,
};

on_every_database!(
    two_relays_of_which_one_is_cut_off_converge,
    five_relays_of_which_one_is_cut_off_converge,
    a_relay_that_is_cut_off_corrects_nothing,
    of_five_relays_one_fills,
);

/// A relay whose flags come over a line of its own, which can be frozen without its noticing.
async fn relay_on_a_line(
    fleet: &Fleet,
    disk: &TempDir,
    interval: &str,
) -> (RelayProcess, FlakyProxy) {
    let line = FlakyProxy::start(fleet.launchdarkly.address()).unwrap();
    let uri = format!("http://{}", line.address());
    let relay = fleet.filled_by(&fleet.relay(disk, interval).with("STREAM_URI", uri)).await;
    (relay, line)
}

async fn two_relays_of_which_one_is_cut_off_converge(kind: Kind) {
    relays_converge(kind, 2).await;
}

async fn five_relays_of_which_one_is_cut_off_converge(kind: Kind) {
    relays_converge(kind, 5).await;
}

/// Everything is lost again and again while flags change, and one relay believes in old flags.
async fn relays_converge(kind: Kind, count: usize) {
    let fleet = Fleet::on(kind, 1, 40).await;
    let onlooker = (kind == Kind::Redis).then(|| Onlooker::of(&fleet));
    let disks: Vec<TempDir> = (0..count).map(|_| TempDir::new().unwrap()).collect();
    let (cut_off, line) = relay_on_a_line(&fleet, &disks[0], OFTEN).await;
    wait_until_complete(&fleet, kind, 0).await;
    line.freeze();
    let old = fleet.launchdarkly.data(environment_id(0).as_str());
    let start = |disk| fleet.relay(disk, OFTEN).start().unwrap();
    let healthy: Vec<RelayProcess> = disks[1..].iter().map(start).collect();
    for relay in &healthy {
        relay.wait_until_healthy(1).await;
    }
    let witness = Witness::of(&healthy[0], 0).await;
    for loss in 0..3 {
        for change in 0..10 {
            if change == 5 {
                fleet.database.wipe().await;
            }
            witness.change(&fleet, loss * 10 + change).await;
        }
        eventually("the newest flags come back", async || is_complete(&fleet, kind, 0).await).await;
    }
    witness.assert_untroubled();
    if let Some(onlooker) = onlooker {
        onlooker.assert_untroubled();
    }
    // Alone with an emptied store, the one that is cut off fills it with what it has.
    for relay in healthy {
        relay.kill().await.unwrap();
    }
    fleet.database.wipe().await;
    eventually("the old flags are stored, all of them", async || {
        let newer = cut_off.status().await["environments"][environment_id(0)]["data"].clone();
        holds(&fleet, kind, &prefix(0), &old).await.map_err(|error| format!("{error}; {newer}"))
    })
    .await;
}

/// A relay whose line froze a moment after its put finds newer flags than it was told of.
async fn a_relay_that_is_cut_off_corrects_nothing(kind: Kind) {
    let fleet = Fleet::on(kind, 1, 20).await;
    let (disk, other_disk) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let healthy = fleet.filled_by(&fleet.relay(&other_disk, NEVER)).await;
    let (cut_off, line) = relay_on_a_line(&fleet, &disk, OFTEN).await;
    wait_until_complete(&fleet, kind, 0).await;
    line.freeze();
    let flag = json!({"key": flag_key(3), "on": true, "news": true});
    fleet.launchdarkly.upsert_flag(environment_id(0).as_str(), flag).unwrap();
    let flag = json!({"key": "fresh", "on": true, "news": true});
    fleet.launchdarkly.upsert_flag(environment_id(0).as_str(), flag).unwrap();
    wait_until_complete(&fleet, kind, 0).await;
    // Something that it does repair, so that it compares everything.
    let begun = now_ms();
    fleet.database.remove_marker(&prefix(0)).await;
    wait_until_complete(&fleet, kind, 0).await;
    // It would look a second time after 5 s, at what should not be there in its opinion. It says
    // so, and that it does not know better.
    cut_off
        .wait_for_status("it has waited longer than for its second look", |status| {
            let store = store_status(status, 0);
            store["writePending"] == true && now_ms() > begun + 7_000
        })
        .await;
    is_complete(&fleet, kind, 0).await.unwrap();
    drop(healthy);
}

/// When it last found the store in order, in its opinion.
fn last_write(status: &Value) -> u64 {
    store_status(status, 0)["lastWrite"].as_u64().unwrap_or(0)
}

async fn of_five_relays_one_fills(kind: Kind) {
    let fleet = Fleet::on(kind, 1, 40).await;
    let items = fleet.launchdarkly.data(environment_id(0).as_str()).len() as u64;
    let disks: Vec<TempDir> = (0..5).map(|_| TempDir::new().unwrap()).collect();
    let start = |disk| fleet.relay(disk, OFTEN).start().unwrap();
    let relays: Vec<RelayProcess> = disks.iter().map(start).collect();
    for relay in &relays {
        relay.wait_until_healthy(1).await;
        wait_until_in_order(relay).await;
    }
    wait_until_complete(&fleet, kind, 0).await;
    let onlooker = (kind == Kind::Redis).then(|| Onlooker::of(&fleet));
    for _ in 0..3 {
        let begun = now_ms();
        let moves = renames(&fleet, kind);
        match kind {
            Kind::Redis | Kind::Consul => fleet.database.wipe_prefix(&prefix(0)).await,
            // Deleting item by item is no loss of one moment.
            Kind::DynamoDb => {
                fleet.database.drop_table().await;
                fleet.database.create_table().await;
            }
        }
        wait_until_complete(&fleet, kind, 0).await;
        for relay in &relays {
            relay
                .wait_for_status("each one finds the store in order again", |status| {
                    last_write(status) > begun
                })
                .await;
        }
        let repaired = eventually("somebody tells of the repair", async || {
            let repaired = repairs_since(&relays, begun).await;
            if repaired.is_empty() { Err("nobody") } else { Ok(repaired) }
        })
        .await;
        match kind {
            Kind::Redis | Kind::Consul => assert_eq!(repaired, [items]),
            // Where items go one by one, several may take part, but each item is written once.
            Kind::DynamoDb => assert!(repaired.iter().sum::<u64>() <= items, "{repaired:?}"),
        }
        if kind == Kind::Redis {
            assert_eq!(renames(&fleet, kind) - moves, 2, "two hashes are moved into place");
        }
        is_complete(&fleet, kind, 0).await.unwrap();
    }
    if let Some(onlooker) = onlooker {
        onlooker.assert_untroubled();
    }
}

/// How many items each relay wrote that has repaired the store since that moment.
async fn repairs_since(relays: &[RelayProcess], begun: u64) -> Vec<u64> {
    let mut repaired = Vec::new();
    for relay in relays {
        let status = relay.status().await;
        let last = &store_status(&status, 0)["lastRepopulation"];
        if last["time"].as_u64() >= Some(begun) {
            repaired.push(last["items"].as_u64().unwrap());
        }
    }
    repaired
}

/// How often Redis moved a hash into place.
fn renames(fleet: &Fleet, kind: Kind) -> u64 {
    if kind != Kind::Redis {
        return 0;
    }
    let info = fleet.database.redis().command(&["INFO", "commandstats"]);
    let line = info.lines().find_map(|line| line.strip_prefix("cmdstat_renamenx:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

fn now_ms() -> u64 {
    pilotlight_test_kit::scene::from_now(std::time::Duration::ZERO)
}
