//! The flags that a [`Fleet`] stores, seen through the layout that SDKs read, and those who look at
//! them: an SDK in daemon mode, one in proxy mode, and one that looks every few milliseconds.

pub mod onlooker;
pub mod reader;
pub mod witness;

use std::collections::BTreeMap;

use pilotlight::testing::demo::composed_data::environment_id;
use pilotlight::testing::model::{DataSet, ItemKind};
use serde_json::Value;

use crate::cache_database::Kind;
use crate::eventually;
use crate::fleet::Fleet;
use crate::relay::RelayProcess;

/// An interval of looks that brings a comparison of everything every five seconds.
pub const VERY_OFTEN: &str = "250ms";

/// The stored items of one kind: key to JSON.
pub type Stored = BTreeMap<String, Value>;

/// The prefix of an environment's keys.
pub fn prefix(index: usize) -> String {
    format!("ld-{}", environment_id(index))
}

/// What separates the parts of a name in the database.
pub fn separator(kind: Kind) -> char {
    match kind {
        Kind::Redis | Kind::DynamoDb => ':',
        Kind::Consul => '/',
    }
}

/// Where the items of a kind stand.
pub fn namespace(kind: Kind, index: usize, items: ItemKind) -> String {
    format!("{}{}{}", prefix(index), separator(kind), items.store_name())
}

/// The items as they are stored.
pub async fn stored(fleet: &Fleet, kind: Kind, index: usize, items: ItemKind) -> Stored {
    stored_under(fleet, kind, &prefix(index), items).await
}

async fn stored_under(fleet: &Fleet, kind: Kind, prefix: &str, items: ItemKind) -> Stored {
    let namespace = format!("{prefix}{}{}", separator(kind), items.store_name());
    let rows = fleet.database.rows(&namespace).await;
    rows.into_iter()
        .map(|(key, json)| (key, serde_json::from_slice(&json).unwrap_or(Value::Null)))
        .collect()
}

/// Keys with versions of what is not deleted.
pub fn versions(stored: &Stored) -> BTreeMap<String, u64> {
    let live = stored.iter().filter(|(_, item)| item["deleted"] != true);
    live.map(|(key, item)| (key.clone(), item["version"].as_u64().unwrap_or(u64::MAX))).collect()
}

/// Keys with versions of what is not deleted, of one kind, in a data set.
pub fn wanted(data: &DataSet, kind: ItemKind) -> BTreeMap<String, u64> {
    let live = data.collection(kind).iter().filter(|(_, item)| !item.is_tombstone());
    live.map(|(key, item)| (key.to_string(), item.version)).collect()
}

/// Whether the store holds exactly what LaunchDarkly has, and the marker.
pub async fn is_complete(fleet: &Fleet, kind: Kind, index: usize) -> Result<(), String> {
    let data = fleet.launchdarkly.data(environment_id(index).as_str());
    holds(fleet, kind, &prefix(index), &data).await
}

/// Whether exactly this is stored under a prefix, and the marker.
pub async fn holds(fleet: &Fleet, kind: Kind, prefix: &str, data: &DataSet) -> Result<(), String> {
    for items in ItemKind::ALL {
        let found = versions(&stored_under(fleet, kind, prefix, items).await);
        let wanted = wanted(data, items);
        if found != wanted {
            let missing = wanted.iter().filter(|(key, version)| found.get(*key) != Some(version));
            let missing: Vec<_> = missing.take(5).collect();
            return Err(format!("{} of {} {items:?}: {missing:?}", found.len(), wanted.len()));
        }
    }
    if fleet.database.has_marker(prefix).await {
        Ok(())
    } else {
        Err("there is no marker".to_owned())
    }
}

/// Waits until the store holds exactly what LaunchDarkly has.
pub async fn wait_until_complete(fleet: &Fleet, kind: Kind, index: usize) {
    eventually("the store holds what LaunchDarkly has", async || {
        is_complete(fleet, kind, index).await
    })
    .await;
}

/// The part of `/status` about an environment's store.
pub fn store_status(status: &Value, index: usize) -> &Value {
    &status["environments"][environment_id(index)]["dataStoreStatus"]
}

/// Waits for a state of an environment's store.
pub async fn wait_for_store(
    relay: &RelayProcess,
    what: &str,
    condition: impl Fn(&Value) -> bool,
) -> Value {
    relay.wait_for_status(what, |status| condition(store_status(status, 0))).await
}

/// Waits until nothing waits to be stored and nothing is wrong.
pub async fn wait_until_in_order(relay: &RelayProcess) -> Value {
    wait_for_store(relay, "the store is in order", |store| {
        store["state"] == "VALID"
            && store["dirty"] == 0
            && store["writePending"] == false
            && store["error"].is_null()
            && store["problem"].is_null()
    })
    .await
}

/// Waits until `/status` names what is wrong.
pub async fn wait_for_error(relay: &RelayProcess, error: &str) -> Value {
    wait_for_store(relay, &format!("the trouble shows: {error}"), |store| {
        store["state"] == "INTERRUPTED"
            && store["error"].as_str().is_some_and(|text| text.contains(error))
    })
    .await
}

/// How often the log says that the database cannot be used.
pub fn complaints(relay: &RelayProcess) -> usize {
    relay.log().matches("the shared flag store cannot be used").count()
}
