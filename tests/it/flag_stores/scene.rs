//! What all tests of flag stores need: the scene of the shared cache, seen through the layout that
//! SDKs read.

use std::collections::BTreeMap;

use pilotlight::demo::composed_data::environment_id;
use pilotlight::model::{DataSet, ItemKind};
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
    let rows = scene.database.rows(&namespace(kind, index, items)).await;
    rows.into_iter()
        .map(|(key, json)| (key, serde_json::from_slice(&json).unwrap_or(Value::Null)))
        .collect()
}

/// Keys with versions of what is not deleted.
fn versions(stored: &Stored) -> BTreeMap<String, u64> {
    let live = stored.iter().filter(|(_, item)| item["deleted"] != true);
    live.map(|(key, item)| (key.clone(), item["version"].as_u64().unwrap_or(u64::MAX))).collect()
}

fn wanted(data: &DataSet, kind: ItemKind) -> BTreeMap<String, u64> {
    let live = data.collection(kind).iter().filter(|(_, item)| !item.is_tombstone());
    live.map(|(key, item)| (key.to_string(), item.version)).collect()
}

/// Whether the store holds exactly what LaunchDarkly has, and the marker.
pub(crate) async fn is_complete(scene: &Scene, kind: Kind, index: usize) -> Result<(), String> {
    let data = scene.launchdarkly.data(environment_id(index).as_str());
    for items in ItemKind::ALL {
        let found = versions(&stored(scene, kind, index, items).await);
        let wanted = wanted(&data, items);
        if found != wanted {
            let missing = wanted.iter().filter(|(key, version)| found.get(*key) != Some(version));
            let missing: Vec<_> = missing.take(5).collect();
            return Err(format!("{} of {} {items:?}: {missing:?}", found.len(), wanted.len()));
        }
    }
    if scene.database.has_marker(&prefix(index)).await {
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
