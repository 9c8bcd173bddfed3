//! LaunchDarkly: one environment whose items change, and the streams that tell of it.
//!
//! Messages of one stream arrive in their order, within [`LAG_MAX`], unless the stream is stalled:
//! then they wait and arrive together.

use std::collections::BTreeMap;
use std::sync::Arc;

use fastrand::Rng;

use crate::model::{DataSet, Item, ItemKey, ItemKind};
use crate::simulation::scenario::Millis;

/// The longest that a message is under way.
pub const LAG_MAX: Millis = 1_900;

/// Items that are there from the beginning and never deleted, changed though they are.
pub const BASE: [&str; 3] = ["a", "b", "S"];

/// Items that come and go. Capitals are segments.
const OTHERS: [&str; 5] = ["c", "d", "e", "T", "U"];

/// What an environment holds.
#[derive(Debug)]
pub struct LaunchDarkly {
    pub truth: DataSet,
    versions: BTreeMap<&'static str, u64>,
    /// Every state that there was, as text.
    history: std::collections::BTreeSet<String>,
    /// False during an outage.
    pub is_up: bool,
}

/// A message on its way.
#[derive(Clone, Debug)]
pub enum Message {
    Put(DataSet),
    Change(ItemKey, Arc<Item>),
    Heartbeat,
    Junk,
}

pub fn key(name: &str) -> ItemKey {
    let is_segment = name.chars().all(char::is_uppercase);
    ItemKey::new(if is_segment { ItemKind::Segment } else { ItemKind::Flag }, name)
}

/// The live items as `a3 b4`.
pub fn shown(data: &DataSet) -> String {
    let live = data.iter().filter(|(_, _, item)| !item.is_tombstone());
    let words: Vec<String> = live.map(|(_, key, item)| format!("{key}{}", item.version)).collect();
    words.join(" ")
}

impl LaunchDarkly {
    pub fn new() -> Self {
        let mut launchdarkly = Self {
            truth: DataSet::default(),
            versions: BTreeMap::new(),
            history: std::collections::BTreeSet::new(),
            is_up: true,
        };
        for name in BASE {
            launchdarkly.set(name, false);
        }
        launchdarkly.history.clear();
        launchdarkly.history.insert(shown(&launchdarkly.truth));
        launchdarkly
    }

    fn set(&mut self, name: &'static str, delete: bool) -> (ItemKey, Arc<Item>) {
        let version = self.versions.entry(name).or_insert(0);
        *version += 1;
        let item = if delete {
            Item::tombstone(*version)
        } else {
            Item::live(*version, format!(r#"{{"key":"{name}","version":{version}}}"#))
        };
        let (key, item) = (key(name), Arc::new(item));
        self.truth.upsert(&key, item.clone());
        self.history.insert(shown(&self.truth));
        (key, item)
    }

    /// Somebody changes, adds or deletes an item.
    pub fn change(&mut self, rng: &mut Rng) -> (ItemKey, Arc<Item>) {
        if rng.bool() {
            return self.set(BASE[rng.usize(..BASE.len())], false);
        }
        let name = OTHERS[rng.usize(..OTHERS.len())];
        let is_there = self.truth.item(&key(name)).is_some_and(|item| !item.is_tombstone());
        self.set(name, is_there && rng.bool())
    }

    /// What a new stream is sent first: what is deleted is not in it.
    pub fn put(&self) -> DataSet {
        let mut data = DataSet::default();
        for (kind, key, item) in self.truth.iter().filter(|(_, _, item)| !item.is_tombstone()) {
            data.upsert(&ItemKey { kind, key: key.clone() }, item.clone());
        }
        data
    }

    /// Whether LaunchDarkly ever held exactly these live items.
    pub fn ever_held(&self, data: &DataSet) -> bool {
        self.history.contains(&shown(data))
    }
}
