//! Changes that belong together: the unit that a source passes to clients and stores.

use std::sync::Arc;

use super::item::{Item, ItemKey};

/// New, newer or deleted items, in the order in which clients receive them. No item occurs twice. A
/// client that applies all of them has the resulting data set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeSet(Vec<(ItemKey, Arc<Item>)>);

impl ChangeSet {
    /// One change.
    pub fn one(key: ItemKey, item: impl Into<Arc<Item>>) -> Self {
        Self(vec![(key, item.into())])
    }

    /// The changes, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&ItemKey, &Arc<Item>)> {
        self.0.iter().map(|(key, item)| (key, item))
    }

    /// The keys of the changed items.
    pub fn keys(&self) -> impl Iterator<Item = &ItemKey> {
        self.0.iter().map(|(key, _)| key)
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if nothing changed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of the items' JSON.
    pub fn json_bytes(&self) -> usize {
        self.0.iter().map(|(_, item)| item.json_bytes()).sum()
    }
}

impl FromIterator<(ItemKey, Arc<Item>)> for ChangeSet {
    fn from_iter<T: IntoIterator<Item = (ItemKey, Arc<Item>)>>(changes: T) -> Self {
        Self(changes.into_iter().collect())
    }
}
