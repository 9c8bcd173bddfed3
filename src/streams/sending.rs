//! Payloads that are being sent: a bound on the old versions of a data set that slow clients keep
//! in memory.
//!
//! A payload stays in memory until its client has taken it, so slow clients of forty versions of a
//! large data set would hold forty copies. The readers of the oldest versions are ended first; they
//! reconnect and get the newest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use slab::Slab;

use crate::model::DataSet;

/// Bytes of old versions of one environment's data that slow clients may hold.
const OLD_BYTES_MAX: usize = 64 << 20;

/// Versions that do not count as old: the newest one, and the one before, so that a data set that
/// changes while it is sent is still received however large it is. All payloads of one data set
/// are one version: each stream, poll and item. A payload that is the same buffer in several
/// versions counts once, for the newest of them.
const KEPT_VERSIONS: usize = 2;

/// A client that reads a payload slowly.
pub trait SlowReader: fmt::Debug + Send + Sync {
    /// Ends the client's connection, because the payload is too old to be kept for it.
    fn end(&self);
}

/// One version of data that is sent.
pub trait Version: fmt::Debug + Send + Sync {
    /// Addresses of the buffers that this version keeps itself. They cost no more memory when a
    /// client holds them too.
    fn own_buffers(&self) -> Vec<usize>;
}

impl Version for DataSet {
    fn own_buffers(&self) -> Vec<usize> {
        self.iter().filter_map(|(_, _, item)| item.json.as_ref()).map(address).collect()
    }
}

/// The versions of one thing that are being sent, for instance of one environment's data.
#[derive(Clone, Debug, Default)]
pub struct Versions(Arc<Mutex<Books>>);

#[derive(Debug, Default)]
struct Books {
    /// The versions to which a payload belongs, by age.
    versions: BTreeMap<u64, Weak<dyn Version>>,
    /// The payloads that are being sent, by their addresses. Versions share the buffers of
    /// unchanged items.
    payloads: BTreeMap<usize, Held>,
    next: u64,
}

/// One payload that readers hold.
#[derive(Debug)]
struct Held {
    bytes: usize,
    /// The newest version as part of which the payload was sent. It counts for that one only.
    version: u64,
    readers: Slab<Weak<dyn SlowReader>>,
}

/// Position of a reader in the books.
#[derive(Clone, Copy, Debug)]
struct Place {
    payload: usize,
    reader: usize,
}

fn address(buffer: &Bytes) -> usize {
    buffer.as_ptr() as usize
}

/// Number of the oldest versions to drop, given the sizes of all from the oldest to the newest.
/// Pure.
fn surplus(sizes: &[usize]) -> usize {
    let old = &sizes[..sizes.len().saturating_sub(KEPT_VERSIONS)];
    let mut bytes: usize = old.iter().sum();
    let is_too_much = |size: &&usize| {
        let too_much = bytes > OLD_BYTES_MAX;
        bytes -= **size;
        too_much
    };
    old.iter().take_while(is_too_much).count()
}

impl Books {
    /// Adds a reader; returns its place, and the readers that are to end.
    fn add(
        &mut self,
        version: Weak<dyn Version>,
        payload: &Bytes,
        reader: Weak<dyn SlowReader>,
    ) -> (Place, Vec<Weak<dyn SlowReader>>) {
        // As long as the weak reference exists, no other version has the address.
        let is_same =
            |known: &Weak<dyn Version>| std::ptr::addr_eq(known.as_ptr(), version.as_ptr());
        let known = self.versions.iter().rev().find(|(_, known)| is_same(known));
        let number = known.map_or(self.next, |(number, _)| *number);
        self.next = self.next.max(number + 1);
        self.versions.entry(number).or_insert(version);
        let at = address(payload);
        let held = self.payloads.entry(at).or_insert_with(|| Held {
            bytes: 0,
            version: number,
            readers: Slab::new(),
        });
        held.bytes = payload.len();
        held.version = held.version.max(number);
        let place = Place { payload: at, reader: held.readers.insert(reader) };
        self.forget_versions();
        (place, self.ended())
    }

    /// The readers of the old versions that exceed the bound.
    fn ended(&mut self) -> Vec<Weak<dyn SlowReader>> {
        if self.surplus().is_empty() {
            return Vec::new();
        }
        self.renew();
        let surplus = self.surplus();
        let old = self.payloads.values().filter(|held| surplus.contains(&held.version));
        old.flat_map(|held| held.readers.iter().map(|(_, reader)| reader.clone())).collect()
    }

    /// The numbers of the versions to drop.
    fn surplus(&self) -> Vec<u64> {
        let mut sizes: BTreeMap<u64, usize> = BTreeMap::new();
        for held in self.payloads.values() {
            *sizes.entry(held.version).or_default() += held.bytes;
        }
        let count = surplus(&sizes.values().copied().collect::<Vec<_>>());
        sizes.into_keys().take(count).collect()
    }

    /// Counts payloads for the newest version if it keeps them itself.
    fn renew(&mut self) {
        let Some((number, newest)) = self.versions.last_key_value() else { return };
        for buffer in newest.upgrade().map(|newest| newest.own_buffers()).into_iter().flatten() {
            if let Some(held) = self.payloads.get_mut(&buffer) {
                held.version = *number;
            }
        }
        self.forget_versions();
    }

    fn remove(&mut self, place: Place) {
        if let Some(held) = self.payloads.get_mut(&place.payload) {
            held.readers.try_remove(place.reader);
            if held.readers.is_empty() {
                self.payloads.remove(&place.payload);
                self.forget_versions();
            }
        }
    }

    /// Forgets the versions for which no payload counts.
    fn forget_versions(&mut self) {
        let counted: BTreeSet<u64> = self.payloads.values().map(|held| held.version).collect();
        self.versions.retain(|number, _| counted.contains(number));
    }
}

impl Versions {
    /// Notes that a payload of a version is being sent to a reader, until the returned value is
    /// dropped. Ends the readers of versions that are too old.
    pub fn sending<V: Version + 'static>(
        &self,
        version: &Arc<V>,
        payload: &Bytes,
        reader: Weak<dyn SlowReader>,
    ) -> Sending {
        let version: Weak<V> = Arc::downgrade(version);
        let (place, ended) = self.books().add(version, payload, reader);
        for reader in ended {
            if let Some(reader) = reader.upgrade() {
                reader.end();
            }
        }
        Sending { versions: self.clone(), place }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // No code panics while it holds the lock, so a poisoned lock is safe to use.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A payload that is being sent to one reader.
#[derive(Debug)]
pub struct Sending {
    versions: Versions,
    place: Place,
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.versions.books().remove(self.place);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::model::{Item, ItemKey, ItemKind};

    #[test]
    fn the_oldest_versions_go_when_they_hold_too_much() {
        const MIB: usize = 1 << 20;
        let check = |sizes: &[usize], expected: usize| {
            let sizes: Vec<usize> = sizes.iter().map(|mib| mib * MIB).collect();
            assert_eq!(surplus(&sizes), expected, "{sizes:?}");
        };
        check(&[], 0);
        check(&[500], 0);
        check(&[500, 500], 0);
        check(&[500, 500, 500], 1);
        check(&[20, 20, 20, 20, 20], 0);
        check(&[20, 20, 20, 20, 20, 20], 1);
        check(&[1, 20, 20, 20, 20, 20, 20], 2);
        check(&[60, 4, 20, 20], 0);
        check(&[1; 66], 0);
        check(&[1; 68], 2);
    }

    #[derive(Debug, Default)]
    struct Reader(AtomicBool);

    impl SlowReader for Reader {
        fn end(&self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn readers_of_the_oldest_versions_end_and_those_that_finish_count_no_longer() {
        let versions = Versions::default();
        let payload = || (Arc::new(DataSet::default()), Bytes::from(vec![0; 20 << 20]));
        let begin = |(data, payload): &(Arc<DataSet>, Bytes), reader: &Arc<Reader>| {
            let reader: Weak<Reader> = Arc::downgrade(reader);
            versions.sending(data, payload, reader)
        };
        let has_ended = |reader: &Arc<Reader>| reader.0.load(Ordering::Relaxed);
        let readers: Vec<Arc<Reader>> = (0..8).map(|_| Arc::default()).collect();
        let payloads: Vec<_> = (0..7).map(|_| payload()).collect();
        let mut sending: Vec<_> = payloads
            .iter()
            .take(5)
            .zip(&readers)
            .map(|(payload, reader)| begin(payload, reader))
            .collect();
        sending.push(begin(&payloads[0], &readers[7]));
        assert!(!readers.iter().any(has_ended));
        // One that has finished makes room.
        sending.remove(1);
        sending.push(begin(&payloads[5], &readers[5]));
        assert!(!readers.iter().any(has_ended));
        sending.push(begin(&payloads[6], &readers[6]));
        let ended: Vec<usize> = (0..8).filter(|index| has_ended(&readers[*index])).collect();
        assert_eq!(ended, [0, 7], "both readers of the oldest version");
        sending.clear();
        assert!(versions.books().payloads.is_empty() && versions.books().versions.is_empty());
    }

    #[test]
    fn readers_of_the_newest_data_stay_whatever_they_read_of_it() {
        let versions = Versions::default();
        let (before, now) = (Arc::new(DataSet::default()), Arc::new(DataSet::default()));
        let readers: Vec<Arc<Reader>> = (0..40).map(|_| Arc::default()).collect();
        let payloads: Vec<Bytes> = (0..40).map(|_| Bytes::from(vec![0; 4 << 20])).collect();
        let mut sending = Vec::new();
        for (index, (reader, payload)) in readers.iter().zip(&payloads).enumerate() {
            let data = if index < 20 { &before } else { &now };
            let reader: Weak<Reader> = Arc::downgrade(reader);
            sending.push(versions.sending(data, payload, reader));
        }
        assert!(!readers.iter().any(|reader| reader.0.load(Ordering::Relaxed)));
    }

    /// A data set with a flag that changes and unchanged segments of so many bytes.
    fn changed(segments: &[Arc<Item>]) -> Arc<DataSet> {
        let mut data = DataSet::default();
        data.upsert(&ItemKey::new(ItemKind::Flag, "tiny"), Arc::new(Item::live(1, "{}")));
        for (index, segment) in segments.iter().enumerate() {
            let key = ItemKey::new(ItemKind::Segment, index.to_string());
            data.upsert(&key, segment.clone());
        }
        Arc::new(data)
    }

    /// One reader at each of thirty versions of the data, of the item with that index. Returns how
    /// many were ended.
    fn read_items(segments: &[Arc<Item>], index: impl Fn(usize) -> usize) -> usize {
        let versions = Versions::default();
        let readers: Vec<Arc<Reader>> = (0..30).map(|_| Arc::default()).collect();
        let mut sending = Vec::new();
        for (round, reader) in readers.iter().enumerate() {
            let reader: Weak<Reader> = Arc::downgrade(reader);
            let payload = segments[index(round)].json.as_ref().unwrap();
            sending.push(versions.sending(&changed(segments), payload, reader));
        }
        readers.iter().filter(|reader| reader.0.load(Ordering::Relaxed)).count()
    }

    #[test]
    fn readers_of_unchanged_items_stay_however_often_the_rest_changes() {
        let json = "x".repeat(4 << 20);
        let segments: Vec<_> = (0..30).map(|_| Arc::new(Item::live(1, json.clone()))).collect();
        assert_eq!(read_items(&segments, |_| 0), 0, "all read one item");
        assert_eq!(read_items(&segments, |round| round), 0, "each reads another item");
    }

    #[test]
    fn an_unchanged_item_does_not_end_with_the_old_version_in_which_it_began() {
        let versions = Versions::default();
        let segments = [Arc::new(Item::live(1, "x".repeat(4 << 20)))];
        let of_item: Arc<Reader> = Arc::default();
        let weak: Weak<Reader> = Arc::downgrade(&of_item);
        let item = segments[0].json.as_ref().unwrap();
        let _item = versions.sending(&changed(&segments), item, weak);
        let readers: Vec<Arc<Reader>> = (0..6).map(|_| Arc::default()).collect();
        let payloads: Vec<Bytes> = (0..6).map(|_| Bytes::from(vec![0; 20 << 20])).collect();
        let mut sending = Vec::new();
        for (reader, payload) in readers.iter().zip(&payloads) {
            let data = changed(&segments);
            let reader: Weak<Reader> = Arc::downgrade(reader);
            sending.push((versions.sending(&data, payload, reader), data));
        }
        let ended: Vec<bool> =
            readers.iter().map(|reader| reader.0.load(Ordering::Relaxed)).collect();
        assert_eq!(ended, [true, false, false, false, false, false]);
        assert!(!of_item.0.load(Ordering::Relaxed));
    }
}
