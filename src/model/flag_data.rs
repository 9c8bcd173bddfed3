//! Flags and segments as LaunchDarkly sent them: bytes are kept, only the head is understood.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::item_map::ItemMap;

/// The two collections every SDK knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ItemKind {
    /// Feature flags: `flags` on the wire, `features` in stores.
    Flag,
    /// Segments.
    Segment,
}

impl ItemKind {
    /// Both kinds, in the order in which stores want them written.
    pub const ALL: [Self; 2] = [Self::Segment, Self::Flag];

    /// The collection's name in stream and poll JSON.
    pub fn wire_name(self) -> &'static str {
        match self {
            Self::Flag => "flags",
            Self::Segment => "segments",
        }
    }

    /// The collection's name in persistent stores.
    pub fn store_name(self) -> &'static str {
        match self {
            Self::Flag => "features",
            Self::Segment => "segments",
        }
    }
}

/// Names one flag or segment of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemKey {
    /// Which collection.
    pub kind: ItemKind,
    /// The key in LaunchDarkly, verbatim.
    pub key: Arc<str>,
}

impl ItemKey {
    /// Names an item.
    pub fn new(kind: ItemKind, key: impl Into<Arc<str>>) -> Self {
        Self { kind, key: key.into() }
    }
}

impl fmt::Display for ItemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.wire_name(), self.key)
    }
}

/// One flag or segment, or the tombstone of one.
#[derive(Clone, PartialEq, Eq)]
pub struct Item {
    /// LaunchDarkly's version of the item; higher is newer.
    pub version: u64,
    /// The item's JSON as received; `None` for a tombstone.
    pub json: Option<Bytes>,
}

/// Shows the size of the JSON and not the JSON: it holds rules and targets.
impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.json {
            Some(json) => write!(f, "Item(version {}, {} bytes)", self.version, json.len()),
            None => write!(f, "Item(version {}, deleted)", self.version),
        }
    }
}

impl Item {
    /// A live item.
    pub fn live(version: u64, json: impl Into<Bytes>) -> Self {
        Self { version, json: Some(json.into()) }
    }

    /// The mark of a deleted item.
    pub fn tombstone(version: u64) -> Self {
        Self { version, json: None }
    }

    /// Bytes of its JSON; none for a tombstone.
    pub fn json_bytes(&self) -> usize {
        self.json.as_ref().map_or(0, Bytes::len)
    }

    /// Whether the item is deleted.
    pub fn is_tombstone(&self) -> bool {
        self.json.is_none()
    }
}

/// All flags and segments of one environment, tombstones included.
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

    /// The item of that name, tombstones included.
    pub fn item(&self, key: &ItemKey) -> Option<&Arc<Item>> {
        self.collection(key.kind).get(&key.key)
    }

    /// Takes the item over if it is newer than what is held.
    ///
    /// Returns whether it was. Equal versions are refused, tombstones count (ld-relay v8: upsert
    /// by version).
    pub fn upsert(&mut self, key: &ItemKey, item: Arc<Item>) -> bool {
        let newer = self.item(key).is_none_or(|held| held.version < item.version);
        if newer {
            self.collection_mut(key.kind).insert(key.key.clone(), item);
        }
        newer
    }

    /// Number of items, tombstones included.
    pub fn len(&self) -> usize {
        self.flags.len() + self.segments.len()
    }

    /// Whether there is no item at all.
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

    /// Items that are newer here than in the other set, or not known there. Tombstones count.
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

/// Where the data that is served came from.
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
    /// The word for `/status`, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::LocalStore => "localStore",
            Self::SharedStore => "sharedStore",
        }
    }
}
