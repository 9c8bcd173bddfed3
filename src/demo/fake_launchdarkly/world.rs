//! The state of the fake LaunchDarkly: environments, filters, flag data, keys.
//!
//! Pure: each change returns the event that announces it. The versions of each environment, filter
//! and item only rise, even if it is deleted and added again.
//!
//! Invariant: the first put of a new stream and the events describe the same state; the caller
//! holds one lock over both.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::Value;

use super::super::representations::{EnvironmentRep, FilterRep};
use super::{DataScope, FakeError, wire};
use crate::model::{DataSet, Item, ItemKey, ItemKind};

/// The complete state of the service.
#[derive(Debug, Default)]
pub(super) struct World {
    environments: BTreeMap<String, Versioned<EnvironmentRep>>,
    filters: BTreeMap<String, Versioned<FilterRep>>,
    data: BTreeMap<DataScope, ServedData>,
    autoconfig_keys: BTreeSet<String>,
}

/// A representation and its version; deleted ones keep their version.
#[derive(Debug)]
struct Versioned<T> {
    version: u64,
    rep: Option<T>,
}

/// One data set with the number of its changes.
#[derive(Debug, Default)]
struct ServedData {
    set: DataSet,
    revision: u64,
    /// Its put, encoded at most once between two changes and shared by all streams.
    put: OnceLock<Bytes>,
}

/// The routes that a credential opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// The routes of server-side SDKs and relays.
    Server,
    /// The routes of mobile SDKs.
    Mobile,
}

impl World {
    /// Accepts the key on the autoconfig stream.
    pub(super) fn add_autoconfig_key(&mut self, key: &str) {
        self.autoconfig_keys.insert(key.to_owned());
    }

    /// Refuses the key on the autoconfig stream.
    pub(super) fn revoke_autoconfig_key(&mut self, key: &str) {
        self.autoconfig_keys.remove(key);
    }

    /// True if the key opens the autoconfig stream.
    pub(super) fn accepts_autoconfig_key(&self, key: &str) -> bool {
        self.autoconfig_keys.contains(key)
    }

    /// The environment that the key opens at this time (milliseconds since 1970).
    pub(super) fn environment_of(&self, key: &str, audience: Audience, now: u64) -> Option<&str> {
        let opens = |rep: &EnvironmentRep| match audience {
            Audience::Server => rep.accepts_sdk_key(key, now),
            Audience::Mobile => rep.accepts_mobile_key(key, now),
        };
        let mut reps = self.environments.values().filter_map(|held| held.rep.as_ref());
        reps.find(|rep| opens(rep)).map(|rep| rep.env_id.as_str())
    }

    /// The environment, unless it is deleted.
    pub(super) fn environment(&self, id: &str) -> Option<&EnvironmentRep> {
        self.environments.get(id)?.rep.as_ref()
    }

    /// Adds or changes an environment at a version above all earlier ones; returns version and
    /// event.
    pub(super) fn upsert_environment(&mut self, mut rep: EnvironmentRep) -> (u64, Bytes) {
        rep.version = next_version(&self.environments, &rep.env_id, rep.version);
        let event = wire::environment_patch(&rep);
        let version = rep.version;
        self.environments.insert(rep.env_id.clone(), Versioned { version, rep: Some(rep) });
        (version, event)
    }

    /// Deletes an environment; returns the version of the deletion and the event.
    pub(super) fn delete_environment(&mut self, id: &str) -> (u64, Bytes) {
        let version = next_version(&self.environments, id, 0);
        self.environments.insert(id.to_owned(), Versioned { version, rep: None });
        (version, wire::environment_delete(id, version))
    }

    /// Adds or changes a payload filter.
    pub(super) fn upsert_filter(&mut self, id: &str, mut rep: FilterRep) -> (u64, Bytes) {
        rep.version = next_version(&self.filters, id, rep.version);
        let event = wire::filter_patch(id, &rep);
        let version = rep.version;
        self.filters.insert(id.to_owned(), Versioned { version, rep: Some(rep) });
        (version, event)
    }

    /// Deletes a payload filter.
    pub(super) fn delete_filter(&mut self, id: &str) -> (u64, Bytes) {
        let version = next_version(&self.filters, id, 0);
        self.filters.insert(id.to_owned(), Versioned { version, rep: None });
        (version, wire::filter_delete(id, version))
    }

    /// The first put of a new autoconfig stream.
    pub(super) fn autoconfig_put(&self) -> Bytes {
        wire::autoconfig_put(&live(&self.environments), &live(&self.filters))
    }

    /// True if clients can request this data: the environment exists, and so does the filter, in
    /// its project or because data was set for it.
    pub(super) fn serves(&self, scope: &DataScope) -> bool {
        let Some(environment) = self.environment(&scope.environment) else { return false };
        scope.filter.is_empty()
            || self.data.contains_key(scope)
            || self
                .filters
                .values()
                .filter_map(|held| held.rep.as_ref())
                .any(|filter| filter.key == scope.filter && filter.proj_key == environment.proj_key)
    }

    /// The data and its ETag; empty for a scope without data.
    pub(super) fn data(&self, scope: &DataScope) -> (&DataSet, String) {
        static EMPTY: std::sync::LazyLock<DataSet> = std::sync::LazyLock::new(DataSet::default);
        let (set, revision) =
            self.data.get(scope).map_or((&*EMPTY, 0), |data| (&data.set, data.revision));
        let mut hasher = DefaultHasher::new();
        for (kind, key, item) in set.iter() {
            (kind, key, item.version).hash(&mut hasher);
        }
        // The hash distinguishes data sets; the number of changes distinguishes contents of equal
        // versions.
        (set, format!("\"{:x}-{revision:x}\"", hasher.finish()))
    }

    /// The first put of a new flag stream.
    pub(super) fn flags_put(&self, scope: &DataScope) -> Bytes {
        match self.data.get(scope) {
            Some(data) => data.put(),
            None => wire::flags_put(&DataSet::default()),
        }
    }

    /// Replaces the data; returns the put.
    pub(super) fn replace_data(&mut self, scope: &DataScope, set: DataSet) -> Bytes {
        let data = self.data.entry(scope.clone()).or_default();
        data.set = set;
        data.note_change();
        data.put()
    }

    /// Adds or changes an item at a version above all earlier ones and not below that in the JSON;
    /// returns version and event.
    pub(super) fn upsert_item(
        &mut self,
        scope: &DataScope,
        kind: ItemKind,
        mut json: Value,
    ) -> Result<(u64, Bytes), FakeError> {
        let no_key = FakeError::NoKey { kind };
        let members = json.as_object_mut().ok_or_else(|| no_key.clone())?;
        let key = members.get("key").and_then(Value::as_str).ok_or(no_key)?;
        let key = ItemKey::new(kind, key);
        let asked = members.get("version").and_then(Value::as_u64).unwrap_or(0);
        let data = self.data.entry(scope.clone()).or_default();
        let version = asked.max(data.set.item(&key).map_or(1, |held| held.version + 1));
        members.insert("version".to_owned(), version.into());
        let event = data.store(&key, Item::live(version, json.to_string()));
        Ok((version, event))
    }

    /// Takes an item unchanged, including its version. It is kept only if it is newer than the
    /// current one, but always announced.
    pub(super) fn upsert_raw(
        &mut self,
        scope: &DataScope,
        key: &ItemKey,
        version: u64,
        json: Bytes,
    ) -> Bytes {
        self.data.entry(scope.clone()).or_default().store(key, Item::live(version, json))
    }

    /// Deletes an item at its next version.
    pub(super) fn delete_item(&mut self, scope: &DataScope, key: &ItemKey) -> (u64, Bytes) {
        let data = self.data.entry(scope.clone()).or_default();
        let version = data.set.item(key).map_or(1, |held| held.version + 1);
        (version, data.store(key, Item::tombstone(version)))
    }
}

impl ServedData {
    fn store(&mut self, key: &ItemKey, item: Item) -> Bytes {
        let event = match &item.json {
            Some(json) => wire::item_patch(key.kind, &key.key, json),
            None => wire::item_delete(key.kind, &key.key, item.version),
        };
        if self.set.upsert(key, Arc::new(item)) {
            self.note_change();
        }
        event
    }

    fn note_change(&mut self) {
        self.revision += 1;
        self.put = OnceLock::new();
    }

    fn put(&self) -> Bytes {
        self.put.get_or_init(|| wire::flags_put(&self.set)).clone()
    }
}

fn next_version<T>(held: &BTreeMap<String, Versioned<T>>, id: &str, asked: u64) -> u64 {
    asked.max(held.get(id).map_or(1, |held| held.version + 1))
}

fn live<T>(held: &BTreeMap<String, Versioned<T>>) -> BTreeMap<&str, &T> {
    held.iter().filter_map(|(id, held)| Some((id.as_str(), held.rep.as_ref()?))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(bytes: &Bytes) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn versions_of_environments_rise_over_deletion_and_return() {
        let mut world = World::default();
        let rep = EnvironmentRep::simple("e1", "sdk-a", "mob-a");
        assert_eq!(world.upsert_environment(rep.clone()).0, 1);
        assert_eq!(world.upsert_environment(EnvironmentRep { version: 7, ..rep.clone() }).0, 7);
        assert_eq!(world.delete_environment("e1").0, 8);
        assert!(world.environment("e1").is_none());
        assert_eq!(world.environment_of("sdk-a", Audience::Server, 0), None);
        assert_eq!(world.upsert_environment(rep).0, 9);
        assert_eq!(world.environment_of("sdk-a", Audience::Server, 0), Some("e1"));
        assert_eq!(world.environment_of("sdk-a", Audience::Mobile, 0), None);
        assert_eq!(world.environment_of("mob-a", Audience::Mobile, 0), Some("e1"));
        assert!(text(&world.autoconfig_put()).contains(r#""version":9"#));
    }

    #[test]
    fn versions_of_items_rise_over_deletion_and_return() {
        let mut world = World::default();
        let scope = DataScope::from("e1");
        let key = ItemKey::new(ItemKind::Flag, "f");
        let mut upsert = |json| world.upsert_item(&scope, ItemKind::Flag, json).unwrap();
        assert_eq!(upsert(json!({"key": "f"})).0, 1);
        assert_eq!(upsert(json!({"key": "f", "version": 5})).0, 5);
        let (version, event) = upsert(json!({"key": "f", "version": 5}));
        assert_eq!(version, 6);
        assert!(text(&event).contains(r#""data":{"key":"f","version":6}"#), "{event:?}");
        let (_, before) = world.data(&scope);
        assert_eq!(world.delete_item(&scope, &key).0, 7);
        assert_ne!(world.data(&scope).1, before, "each change has its ETag");
        let back = world.upsert_item(&scope, ItemKind::Flag, json!({"key": "f"})).unwrap();
        assert_eq!(back.0, 8);
    }

    #[test]
    fn a_raw_item_is_announced_in_any_case_but_kept_only_if_newer() {
        let mut world = World::default();
        let scope = DataScope::from("e1");
        let key = ItemKey::new(ItemKind::Segment, "s");
        world.upsert_raw(&scope, &key, 5, Bytes::from_static(b"{ 5 }"));
        let event = world.upsert_raw(&scope, &key, 4, Bytes::from_static(b"{ 4 }"));
        assert!(text(&event).contains("{ 4 }"));
        assert!(text(&world.flags_put(&scope)).contains("{ 5 }"));
    }

    #[test]
    fn items_without_a_key_are_refused() {
        let mut world = World::default();
        for json in [json!({}), json!([]), json!({"key": 7})] {
            let refused = world.upsert_item(&"e1".into(), ItemKind::Flag, json.clone());
            assert_eq!(refused.unwrap_err(), FakeError::NoKey { kind: ItemKind::Flag }, "{json}");
        }
    }

    #[test]
    fn a_filter_is_known_by_its_project_or_by_its_data() {
        let mut world = World::default();
        world.upsert_environment(EnvironmentRep::simple("e1", "sdk-a", ""));
        let filter = |proj_key: &str, key: &str| FilterRep {
            proj_key: proj_key.to_owned(),
            key: key.to_owned(),
            version: 0,
        };
        world.upsert_filter("f1", filter("project", "small"));
        world.upsert_filter("f2", filter("another", "large"));
        world.replace_data(&("e1", "given").into(), DataSet::default());
        let check = |environment, filter, expected| {
            let scope = DataScope::from((environment, filter));
            assert_eq!(world.serves(&scope), expected, "{scope:?}");
        };
        check("e1", "", true);
        check("e1", "small", true);
        check("e1", "large", false);
        check("e1", "given", true);
        check("e2", "", false);
        assert_eq!(world.delete_filter("f1").0, 2);
        assert!(!world.serves(&("e1", "small").into()));
    }
}
