//! A sorted map of items whose copies share unchanged parts.
//!
//! A data set is an immutable snapshot that readers hold without a lock, so each patch needs a new
//! copy of the map. Items are in sorted chunks behind [`Arc`]s: a patch copies one chunk of at most
//! [`CHUNK_MAX`] entries and the list of chunks, not all of ten thousand entries.

use std::fmt;
use std::sync::Arc;

use super::item::Item;

/// Entries in a chunk before it is split. Small enough that a patch copies little, large enough
/// that the list of chunks stays short.
const CHUNK_MAX: usize = 128;

type Entry = (Arc<str>, Arc<Item>);

/// Items by key, in the order of their keys.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ItemMap {
    /// Contains no empty chunk; keys ascend within and across chunks.
    chunks: Vec<Arc<Vec<Entry>>>,
    len: usize,
}

impl ItemMap {
    /// Number of items, including tombstones.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there is no item.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The item with this key.
    pub fn get(&self, key: &str) -> Option<&Arc<Item>> {
        let chunk = self.chunks.get(self.chunk_for(key)?)?;
        let index = chunk.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&chunk[index].1)
    }

    /// Stores the item under the key, replacing the present one.
    pub fn insert(&mut self, key: Arc<str>, item: Arc<Item>) {
        let Some(at) = self.chunk_for(&key).or((!self.chunks.is_empty()).then_some(0)) else {
            self.chunks.push(Arc::new(vec![(key, item)]));
            self.len = 1;
            return;
        };
        let chunk = Arc::make_mut(&mut self.chunks[at]);
        match chunk.binary_search_by(|(k, _)| (**k).cmp(&*key)) {
            Ok(index) => chunk[index].1 = item,
            Err(index) => {
                chunk.insert(index, (key, item));
                self.len += 1;
                if chunk.len() > CHUNK_MAX {
                    let tail = chunk.split_off(chunk.len() / 2);
                    self.chunks.insert(at + 1, Arc::new(tail));
                }
            }
        }
    }

    /// All items in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Item>)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().map(|(key, item)| (key, item)))
    }

    /// Index of the last chunk whose first key is not above `key`.
    fn chunk_for(&self, key: &str) -> Option<usize> {
        self.chunks.partition_point(|chunk| &*chunk[0].0 <= key).checked_sub(1)
    }
}

impl FromIterator<(Arc<str>, Arc<Item>)> for ItemMap {
    /// Collects items in any order; of two with the same key, the later stays.
    fn from_iter<I: IntoIterator<Item = Entry>>(items: I) -> Self {
        let mut entries: Vec<Entry> = items.into_iter().collect();
        if !entries.is_sorted_by(|a, b| a.0 < b.0) {
            entries.reverse(); // the stable sort then leaves the later of two equals in front
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            entries.dedup_by(|later, kept| later.0 == kept.0);
        }
        let len = entries.len();
        let mut chunks = Vec::with_capacity(len.div_ceil(CHUNK_MAX));
        let mut rest = entries.into_iter().peekable();
        while rest.peek().is_some() {
            chunks.push(Arc::new(rest.by_ref().take(CHUNK_MAX).collect()));
        }
        Self { chunks, len }
    }
}

impl fmt::Debug for ItemMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn entry(key: u16, version: u64) -> Entry {
        (Arc::from(format!("k{key}")), Arc::new(Item::tombstone(version)))
    }

    proptest! {
        #[test]
        fn behaves_as_a_sorted_map(
            first in prop::collection::vec((0u16..600, 0u64..9), 0..700),
            then in prop::collection::vec((0u16..600, 0u64..9), 0..300),
        ) {
            let mut map: ItemMap = first.iter().map(|&(k, v)| entry(k, v)).collect();
            let mut model: BTreeMap<_, _> = first.iter().map(|&(k, v)| entry(k, v)).collect();
            let before = map.clone();
            let model_before = model.clone();
            for &(k, v) in &then {
                let (key, item) = entry(k, v);
                map.insert(key.clone(), item.clone());
                model.insert(key, item);
            }
            prop_assert_eq!(map.len(), model.len());
            prop_assert!(map.iter().eq(model.iter()));
            prop_assert!(before.iter().eq(model_before.iter()), "a copy never changes");
            for k in 0..600 {
                let key = format!("k{k}");
                prop_assert_eq!(map.get(&key), model.get(&*key));
            }
        }
    }
}
