//! What all tests of flag stores need: the scene of the shared cache, seen through the layout that
//! SDKs read.

use std::collections::BTreeMap;

use pilotlight::testing::demo::composed_data::environment_id;
use pilotlight::testing::model::{DataSet, ItemKind};
use serde_json::Value;

use crate::shared_cache::database::Kind;
use crate::shared_cache::scene::Scene;
use crate::support::eventually;
use crate::support::relay::RelayProcess;

/// An interval of looks that brings a comparison of everything every five seconds.
pub(crate) const VERY_OFTEN: &str = "250ms";

/// The stored items of one kind: key to JSON.
pub(crate) type Stored = BTreeMap<String, Value>;

/// The prefix of an environment's keys.
pub(crate) fn prefix(index: usize) -> String {
    format!("ld-{}", environment_id(index))
}

/// What separates the parts of a name in the database.
pub(crate) fn separator(kind: Kind) -> char {
    match kind {
        Kind::Redis | Kind::DynamoDb => ':',
        Kind::Consul => '/',
    }
}

/// Where the items of a kind stand.
pub(crate) fn namespace(kind: Kind, index: usize, items: ItemKind) -> String {
    format!("{}{}{}", prefix(index), separator(kind), items.store_name())
}

/// The items as they are stored.
pub(crate) async fn stored(scene: &Scene, kind: Kind, index: usize, items: ItemKind) -> Stored {
    stored_under(scene, kind, &prefix(index), items).await
}

async fn stored_under(scene: &Scene, kind: Kind, prefix: &str, items: ItemKind) -> Stored {
    let namespace = format!("{prefix}{}{}", separator(kind), items.store_name());
    let rows = scene.database.rows(&namespace).await;
    rows.into_iter()
        .map(|(key, json)| (key, serde_json::from_slice(&json).unwrap_or(Value::Null)))
        .collect()
}

/// Keys with versions of what is not deleted.
pub(crate) fn versions(stored: &Stored) -> BTreeMap<String, u64> {
    let live = stored.iter().filter(|(_, item)| item["deleted"] != true);
    live.map(|(key, item)| (key.clone(), item["version"].as_u64().unwrap_or(u64::MAX))).collect()
}

pub(crate) fn wanted(data: &DataSet, kind: ItemKind) -> BTreeMap<String, u64> {
    let live = data.collection(kind).iter().filter(|(_, item)| !item.is_tombstone());
    live.map(|(key, item)| (key.to_string(), item.version)).collect()
}

/// Whether the store holds exactly what LaunchDarkly has, and the marker.
pub(crate) async fn is_complete(scene: &Scene, kind: Kind, index: usize) -> Result<(), String> {
    let data = scene.launchdarkly.data(environment_id(index).as_str());
    holds(scene, kind, &prefix(index), &data).await
}

/// Whether exactly this is stored under a prefix, and the marker.
pub(crate) async fn holds(
    scene: &Scene,
    kind: Kind,
    prefix: &str,
    data: &DataSet,
) -> Result<(), String> {
    for items in ItemKind::ALL {
        let found = versions(&stored_under(scene, kind, prefix, items).await);
        let wanted = wanted(data, items);
        if found != wanted {
            let missing = wanted.iter().filter(|(key, version)| found.get(*key) != Some(version));
            let missing: Vec<_> = missing.take(5).collect();
            return Err(format!("{} of {} {items:?}: {missing:?}", found.len(), wanted.len()));
        }
    }
    if scene.database.has_marker(prefix).await {
        Ok(())
    } else {
        Err("there is no marker".to_owned())
    }
}

/// Waits until the store holds exactly what LaunchDarkly has.
pub(crate) async fn wait_until_complete(scene: &Scene, kind: Kind, index: usize) {
    eventually("the store holds what LaunchDarkly has", async || {
        is_complete(scene, kind, index).await
    })
    .await;
}

/// The part of `/status` about an environment's store.
pub(crate) fn store_status(status: &Value, index: usize) -> &Value {
    &status["environments"][environment_id(index)]["dataStoreStatus"]
}

/// Waits for a state of an environment's store.
pub(crate) async fn wait_for_store(
    relay: &RelayProcess,
    what: &str,
    condition: impl Fn(&Value) -> bool,
) -> Value {
    relay.wait_for_status(what, |status| condition(store_status(status, 0))).await
}

/// Waits until nothing waits to be stored and nothing is wrong.
pub(crate) async fn wait_until_in_order(relay: &RelayProcess) -> Value {
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
pub(crate) async fn wait_for_error(relay: &RelayProcess, error: &str) -> Value {
    wait_for_store(relay, &format!("the trouble shows: {error}"), |store| {
        store["state"] == "INTERRUPTED"
            && store["error"].as_str().is_some_and(|text| text.contains(error))
    })
    .await
}

/// How often the log says that the database cannot be used.
pub(crate) fn complaints(relay: &RelayProcess) -> usize {
    relay.log().matches("the shared flag store cannot be used").count()
}
