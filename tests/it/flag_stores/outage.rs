//! The database is away: SDKs notice nothing, and nothing is lost.

use tempfile::TempDir;

use pilotlight_test_kit::cache_database::Kind;
use pilotlight_test_kit::fleet::{Fleet, NEVER};
use pilotlight_test_kit::stored_flags::witness::{TICKS, Witness};
use pilotlight_test_kit::stored_flags::{
    complaints, wait_for_store, wait_until_complete, wait_until_in_order,
};

on_every_database!(
    clients_notice_no_frozen_database,
    clients_notice_no_silent_network,
    clients_notice_no_black_hole,
    clients_notice_no_killed_database,
);

/// What happens to a database.
#[derive(Clone, Copy)]
enum Trouble {
    /// Its process is stopped: connections stand, answers do not come.
    Frozen,
    /// The network delivers nothing, and later everything.
    Silent,
    /// The network swallows what is sent, for good.
    BlackHole,
    /// Its process is killed, and comes back with nothing.
    Killed,
}

impl Trouble {
    fn begin(self, fleet: &mut Fleet) {
        match self {
            Self::Frozen => fleet.database.freeze(),
            Self::Silent => fleet.database.proxy().freeze(),
            Self::BlackHole => fleet.database.proxy().black_hole(),
            Self::Killed => fleet.database.kill(),
        }
    }

    async fn end(self, fleet: &mut Fleet) {
        match self {
            Self::Frozen => fleet.database.thaw(),
            Self::Silent | Self::BlackHole => fleet.database.proxy().pass().unwrap(),
            Self::Killed => {
                fleet.database.restart().await;
                fleet.database.create_table().await;
            }
        }
    }
}

async fn clients_notice_no_frozen_database(kind: Kind) {
    clients_notice_nothing(kind, Trouble::Frozen).await;
}

async fn clients_notice_no_silent_network(kind: Kind) {
    clients_notice_nothing(kind, Trouble::Silent).await;
}

async fn clients_notice_no_black_hole(kind: Kind) {
    clients_notice_nothing(kind, Trouble::BlackHole).await;
}

async fn clients_notice_no_killed_database(kind: Kind) {
    clients_notice_nothing(kind, Trouble::Killed).await;
}

async fn clients_notice_nothing(kind: Kind, trouble: Trouble) {
    let mut fleet = Fleet::on_mortal(kind, 1, 20).await;
    let disk = TempDir::new().unwrap();
    // No look would come within the life of this test.
    let relay = fleet.filled_by(&fleet.relay(&disk, NEVER)).await;
    wait_until_complete(&fleet, kind, 0).await;
    let witness = Witness::of(&relay, 0).await;
    trouble.begin(&mut fleet);
    for round in 0..20 {
        witness.change(&fleet, round).await;
    }
    wait_for_store(&relay, "what waits shows, once for each item", |store| {
        store["state"] == "INTERRUPTED"
            && store["breaker"] != "closed"
            && store["dirty"] == TICKS
            && store["error"].is_string()
    })
    .await;
    for round in 20..25 {
        witness.change(&fleet, round).await;
    }
    witness.asks(10).await;
    trouble.end(&mut fleet).await;
    wait_until_complete(&fleet, kind, 0).await;
    wait_until_in_order(&relay).await;
    assert_eq!(complaints(&relay), 1, "{}", relay.log());
    witness.assert_untroubled();
}
