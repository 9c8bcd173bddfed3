//! Deletions that the data set no longer contains: a put leaves deleted items out.

use std::collections::BTreeMap;

use crate::model::{ChangeSet, DataSet, ItemKey};

/// Most deletions that are remembered; with more, clients are sent everything once.
const DELETIONS_MAX: usize = 1_000;

/// The versions at which items were deleted.
///
/// Clients that got a deletion ignore an older version of the item. A store that holds an older
/// version has nothing newer.
#[derive(Debug, Default)]
pub struct Deletions(BTreeMap<ItemKey, u64>);

impl Deletions {
    /// Notes the deletions of `before` that `after` lacks or has at a lower version. Returns false
    /// if there are too many: all are forgotten then, and clients must be sent everything.
    pub fn note(&mut self, before: &DataSet, after: &DataSet) -> bool {
        for (kind, key, item) in before.iter().filter(|(_, _, item)| item.is_tombstone()) {
            let told = after.collection(kind).get(key);
            if told.is_none_or(|told| told.version < item.version) {
                let version = self.0.entry(ItemKey { kind, key: key.clone() }).or_default();
                *version = item.version.max(*version);
            }
        }
        let is_bounded = self.0.len() <= DELETIONS_MAX;
        if !is_bounded {
            self.0.clear();
        }
        is_bounded
    }

    /// Forgets the deletions of items in a data set that clients are sent as a whole.
    pub fn told_all(&mut self, data: &DataSet) {
        self.0.retain(|key, _| data.item(key).is_none());
    }

    /// The version at which an item was deleted.
    pub fn version(&self, key: &ItemKey) -> Option<u64> {
        self.0.get(key).copied()
    }

    /// The changes that are newer than a deletion of their item.
    pub fn without_deleted(&self, changes: ChangeSet) -> ChangeSet {
        let is_newer =
            |key: &ItemKey, version: u64| self.version(key).is_none_or(|deleted| deleted < version);
        if changes.iter().all(|(key, item)| is_newer(key, item.version)) {
            return changes;
        }
        let kept = changes.iter().filter(|(key, item)| is_newer(key, item.version));
        kept.map(|(key, item)| (key.clone(), item.clone())).collect()
    }
}
