//! All flags and segments of an environment.

use std::sync::Arc;

use super::item::{Item, ItemKey, ItemKind};
use super::item_map::ItemMap;
use crate::evaluation::{Flag, Lookup, Segment};

/// All flags and segments of one environment, including tombstones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataSet {
    /// Feature flags by key.
    pub flags: ItemMap,
    /// Segments by key.
    pub segments: ItemMap,
}

impl DataSet {
    /// The collection of a kind.
    pub fn collection(&self, kind: ItemKind) -> &ItemMap {
        match kind {
            ItemKind::Flag => &self.flags,
            ItemKind::Segment => &self.segments,
        }
    }

    /// The collection of a kind, to change it.
    pub fn collection_mut(&mut self, kind: ItemKind) -> &mut ItemMap {
        match kind {
            ItemKind::Flag => &mut self.flags,
            ItemKind::Segment => &mut self.segments,
        }
    }

    /// The item with this key, which may be a tombstone.
    pub fn item(&self, key: &ItemKey) -> Option<&Arc<Item>> {
        self.collection(key.kind).get(&key.key)
    }

    /// Stores the item if it is newer than the present one.
    ///
    /// Returns true if it was. Equal versions are refused; a tombstone is an item like others
    /// (ld-relay v8: upsert by version).
    pub fn upsert(&mut self, key: &ItemKey, item: Arc<Item>) -> bool {
        let newer = self.item(key).is_none_or(|held| held.version < item.version);
        if newer {
            self.collection_mut(key.kind).insert(key.key.clone(), item);
        }
        newer
    }

    /// Takes the tombstones of another set, unless it holds newer items.
    pub fn keep_deletions(&mut self, of: &Self) {
        for (kind, key, item) in of.iter().filter(|(_, _, item)| item.is_tombstone()) {
            self.upsert(&ItemKey { kind, key: key.clone() }, item.clone());
        }
    }

    /// Number of items, including tombstones.
    pub fn len(&self) -> usize {
        self.flags.len() + self.segments.len()
    }

    /// True if there is no item.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of items that are not tombstones.
    pub fn live_len(&self) -> usize {
        self.iter().filter(|(_, _, item)| !item.is_tombstone()).count()
    }

    /// Bytes of the JSON of all items.
    pub fn json_bytes(&self) -> usize {
        self.iter().map(|(_, _, item)| item.json_bytes()).sum()
    }

    /// Items that are newer than in the other set or missing there, including tombstones.
    pub fn newer_than<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (ItemKey, &'a Arc<Item>)> {
        self.iter()
            .filter(|(kind, key, item)| {
                let held = other.collection(*kind).get(key);
                held.is_none_or(|held| held.version < item.version)
            })
            .map(|(kind, key, item)| (ItemKey { kind, key: key.clone() }, item))
    }

    /// All items, segments first, each collection in the order of its keys.
    pub fn iter(&self) -> impl Iterator<Item = (ItemKind, &Arc<str>, &Arc<Item>)> {
        ItemKind::ALL
            .into_iter()
            .flat_map(|kind| self.collection(kind).iter().map(move |(key, item)| (kind, key, item)))
    }
}

/// Deleted items are not there.
impl Lookup for DataSet {
    fn flag(&self, key: &str) -> Option<&Flag> {
        self.flags.get(key)?.flag()
    }

    fn segment(&self, key: &str) -> Option<&Segment> {
        self.segments.get(key)?.segment()
    }
}

/// The origin of the data that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A put on the upstream connection of this process.
    Live,
    /// The embedded store of this machine.
    LocalStore,
    /// The database shared with other relays.
    SharedStore,
}

impl Origin {
    /// The value in `/status`, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::LocalStore => "localStore",
            Self::SharedStore => "sharedStore",
        }
    }
}
