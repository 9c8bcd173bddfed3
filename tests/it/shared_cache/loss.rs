//! The cache loses something while a relay is live: it notices, and makes it whole again.

use std::time::Duration;

use pilotlight::testing::demo::composed_data::environment_id;
use tempfile::TempDir;
use tokio::time::Instant;

use pilotlight_test_kit::cache_database::{Kind, Rows};
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::fleet::{
    Fleet, KEY, NEVER, OFTEN, SEALED, manifest_row, row_name, shared, wait_for_shared,
};

on_every_database!(whatever_is_lost_is_repaired, a_database_that_restarts_empty_is_filled_at_once);

/// With a look every second: far less than the usual interval, far more than a busy machine needs.
const SOON: Duration = Duration::from_secs(25);

#[derive(Clone, Copy, Debug)]
enum Loss {
    Everything,
    Row,
    Manifest,
    RowAltered,
    RowOfAnother,
    ManifestAltered,
    RowEmptied,
}

impl Loss {
    const ALL: [Self; 7] = [
        Self::Everything,
        Self::Row,
        Self::Manifest,
        Self::RowAltered,
        Self::RowOfAnother,
        Self::ManifestAltered,
        Self::RowEmptied,
    ];

    async fn happens(self, fleet: &Fleet, rows: &Rows) {
        let row = |index| row_name(KEY, &format!("env:{}", environment_id(index)));
        let altered = |name: &str| {
            let mut value = rows[name].clone();
            let middle = value.len() / 2;
            value[middle] ^= 1;
            value
        };
        let database = &fleet.database;
        match self {
            Self::Everything => database.wipe().await,
            Self::Row => database.remove(SEALED, &row(2)).await,
            Self::Manifest => database.remove(SEALED, &manifest_row()).await,
            Self::RowAltered => database.put(SEALED, &row(2), &altered(&row(2))).await,
            Self::RowOfAnother => database.put(SEALED, &row(2), &rows[&row(3)]).await,
            Self::ManifestAltered => {
                database.put(SEALED, &manifest_row(), &altered(&manifest_row())).await;
            }
            Self::RowEmptied => database.put(SEALED, &row(2), b"").await,
        }
    }
}

async fn whatever_is_lost_is_repaired(kind: Kind) {
    let fleet = Fleet::on(kind, 6, 2).await;
    let disk = TempDir::new().unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, OFTEN)).await;
    for loss in Loss::ALL {
        let rows = fleet.rows().await;
        loss.happens(&fleet, &rows).await;
        let begun = Instant::now();
        fleet.wait_until_whole().await;
        assert!(begun.elapsed() < SOON, "{loss:?} took {:?}", begun.elapsed());
        assert_eq!(fleet.rows().await.len(), 6 + 1, "{loss:?}");
    }
    relay
        .wait_for_status("/status knows", |status| {
            let skipped = &shared(status)["skipped"];
            shared(status)["complete"] == true
                && ["unknownKey", "altered", "undecodable"].iter().all(|why| skipped[why] == 0)
        })
        .await;
    relay.kill().await.unwrap();
    fleet.launchdarkly.stop().await;
    let new = fleet.new_relay(OFTEN).start().unwrap();
    let status = wait_for_shared(&new, "loaded").await;
    assert_eq!(shared(&status)["complete"], true);
    assert_eq!(shared(&status)["records"], 6);
}

async fn a_database_that_restarts_empty_is_filled_at_once(kind: Kind) {
    let mut fleet = Fleet::on_mortal(kind, 6, 2).await;
    let disk = TempDir::new().unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, NEVER)).await;
    fleet.database.kill();
    fleet.rename(1, "changed in the meantime");
    let status = relay
        .wait_for_status("the write fails", |status| shared(status)["state"] == "unavailable")
        .await;
    assert_eq!(shared(&status)["writePending"], true);
    fleet.database.restart().await;
    fleet.database.create_table().await;
    // The interval is a day: what fills it is the new connection.
    fleet.wait_until_whole().await;
    relay
        .wait_for_status("/status knows", |status| {
            shared(status)["state"] == "loaded" && shared(status)["writePending"] == false
        })
        .await;
    let complaints = relay.log().matches("could not be written to the autoconfig cache").count();
    assert_eq!(complaints, 1, "{}", relay.log());

    // The same in the silent case: nothing was to be written while it was away.
    // Gone for certain, so that the next one gets the store.
    relay.kill().await.unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, OFTEN)).await;
    fleet.database.kill();
    fleet.database.restart().await;
    fleet.database.create_table().await;
    eventually("it is filled again", async || {
        let rows = fleet.rows().await.len();
        if rows == 7 { Ok(()) } else { Err(format!("{rows} rows\n{}", relay.log())) }
    })
    .await;
}
