//! Environments whose prefixes begin alike: none of them touches another's keys.

use std::collections::BTreeMap;

use pilotlight::testing::demo::composed_data::{environment_id, flag_key, sdk_key};
use pilotlight::testing::model::ItemKind;
use serde_json::{Value, json};
use tempfile::TempDir;

use pilotlight_test_kit::cache_database::{Kind, Rows};
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::fleet::{Fleet, OFTEN};
use pilotlight_test_kit::relay::{RelayProcess, RelaySettings};
use pilotlight_test_kit::stored_flags::{holds, separator};

const PREFIXES: [&str; 4] = ["ld", "ld-staging", "LD-1", "LD-1.small"];

on_every_database!(what_happens_under_one_prefix_touches_no_other);

async fn what_happens_under_one_prefix_touches_no_other(kind: Kind) {
    let fleet = Fleet::on(kind, PREFIXES.len(), 20).await;
    let disk = TempDir::new().unwrap();
    let relay = start(&fleet, &disk);
    for index in 0..PREFIXES.len() {
        wait_until_held(&fleet, kind, index).await;
    }
    for (index, prefix) in PREFIXES.iter().enumerate() {
        let before = everything(&fleet, kind).await;
        let repairs = repairs(&relay).await;
        fleet.database.wipe_prefix(prefix).await;
        wait_until_held(&fleet, kind, index).await;
        // Unknown items are removed from under its own prefix only.
        let flag = json!({"key": flag_key(index), "on": true, "news": true});
        fleet.launchdarkly.upsert_flag(environment_id(index).as_str(), flag).unwrap();
        fleet.launchdarkly.delete_flag(environment_id(index).as_str(), &flag_key(7));
        wait_until_held(&fleet, kind, index).await;
        let after = everything(&fleet, kind).await;
        let others = |mut all: BTreeMap<&'static str, [Rows; 2]>| {
            all.remove(prefix);
            all
        };
        assert_eq!(others(before), others(after));
        let now = self::repairs(&relay).await;
        for (other, (before, after)) in repairs.iter().zip(&now).enumerate() {
            assert_eq!(before == after, other != index, "{other}: {before} {after}");
        }
    }
}

/// A relay with one environment under each prefix.
fn start(fleet: &Fleet, disk: &TempDir) -> RelayProcess {
    let settings = RelaySettings::manual(&fleet.launchdarkly, disk.path());
    let mut settings = fleet.database.configure(settings, OFTEN).without("ENV_DATASTORE_PREFIX");
    for (index, prefix) in PREFIXES.iter().enumerate() {
        settings = settings
            .with(&format!("LD_ENV_E{index}"), sdk_key(index))
            .with(&format!("LD_CLIENT_SIDE_ID_E{index}"), environment_id(index))
            .with(&format!("LD_PREFIX_E{index}"), *prefix);
    }
    settings.start().unwrap()
}

async fn wait_until_held(fleet: &Fleet, kind: Kind, index: usize) {
    let data = || fleet.launchdarkly.data(environment_id(index).as_str());
    eventually("what LaunchDarkly has is stored", async || {
        holds(fleet, kind, PREFIXES[index], &data()).await
    })
    .await;
}

/// All rows under all prefixes.
async fn everything(fleet: &Fleet, kind: Kind) -> BTreeMap<&'static str, [Rows; 2]> {
    let mut found = BTreeMap::new();
    for prefix in PREFIXES {
        let mut rows = [Rows::new(), Rows::new()];
        for (rows, items) in rows.iter_mut().zip(ItemKind::ALL) {
            let namespace = format!("{prefix}{}{}", separator(kind), items.store_name());
            *rows = fleet.database.rows(&namespace).await;
        }
        assert!(fleet.database.has_marker(prefix).await, "{prefix}");
        found.insert(prefix, rows);
    }
    found
}

/// The last repair of each environment.
async fn repairs(relay: &RelayProcess) -> Vec<Value> {
    let status = relay.status().await;
    let of = |index| {
        status["environments"][format!("E{index}")]["dataStoreStatus"]["lastRepopulation"].clone()
    };
    (0..PREFIXES.len()).map(of).collect()
}
