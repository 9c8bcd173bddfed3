//! Payloads that are being sent: a bound on the old versions of a data set that slow clients keep
//! in memory.
//!
//! A client that has not taken its payload holds it, so clients that came at forty versions of a
//! large data set would hold it forty times. The readers of the oldest versions end first; they
//! come back for the newest.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use slab::Slab;

use crate::model::DataSet;

/// Bytes of old versions of one environment's data that slow clients may hold.
const OLD_BYTES_MAX: usize = 64 << 20;

/// Versions that do not count as old: the newest one, and the one before, so that a data set that
/// changes while it is sent is still received however large it is. All payloads of one data set
/// are one version: each stream, poll and item.
const KEPT_VERSIONS: usize = 2;

/// A client that takes its time over a payload.
pub trait SlowReader: fmt::Debug + Send + Sync {
    /// Ends the client's connection, because the payload is too old to be kept for it.
    fn end(&self);
}

/// The versions of one environment's data that are being sent.
#[derive(Debug, Default)]
pub(super) struct Versions {
    /// By age, the oldest first.
    sending: BTreeMap<u64, Version>,
    next: u64,
}

#[derive(Debug)]
struct Version {
    /// The data set. As long as this exists, no other one has its address.
    data: Weak<DataSet>,
    /// Its payloads that are being sent, by their places in memory.
    payloads: BTreeMap<usize, Held>,
    readers: Slab<Weak<dyn SlowReader>>,
}

/// One payload that readers hold.
#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    readers: usize,
}

/// Where a reader is noted.
#[derive(Clone, Copy, Debug)]
struct Place {
    version: u64,
    payload: usize,
    reader: usize,
}

/// How many of the oldest versions are to go, by their sizes from the oldest to the newest. Pure.
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

impl Versions {
    /// Adds a reader; returns its place, and the readers that are to end.
    fn add(
        &mut self,
        data: &Arc<DataSet>,
        payload: &Bytes,
        reader: Weak<dyn SlowReader>,
    ) -> (Place, Vec<Weak<dyn SlowReader>>) {
        let is_same = |version: &Version| version.data.as_ptr() == Arc::as_ptr(data);
        let known = self.sending.iter().rev().find(|(_, version)| is_same(version));
        let number = known.map_or(self.next, |(number, _)| *number);
        self.next = self.next.max(number + 1);
        let version = self.sending.entry(number).or_insert_with(|| Version {
            data: Arc::downgrade(data),
            payloads: BTreeMap::new(),
            readers: Slab::new(),
        });
        let at = payload.as_ptr() as usize;
        let held = version.payloads.entry(at).or_default();
        (held.bytes, held.readers) = (payload.len(), held.readers + 1);
        let place = Place { version: number, payload: at, reader: version.readers.insert(reader) };
        let bytes = |version: &Version| version.payloads.values().map(|held| held.bytes).sum();
        let sizes: Vec<usize> = self.sending.values().map(bytes).collect();
        let old = self.sending.values().take(surplus(&sizes));
        let ended =
            old.flat_map(|version| version.readers.iter().map(|(_, reader)| reader.clone()));
        (place, ended.collect())
    }

    fn remove(&mut self, place: Place) {
        let Some(version) = self.sending.get_mut(&place.version) else { return };
        version.readers.try_remove(place.reader);
        if let Some(held) = version.payloads.get_mut(&place.payload) {
            held.readers -= 1;
            if held.readers == 0 {
                version.payloads.remove(&place.payload);
            }
        }
        if version.readers.is_empty() {
            self.sending.remove(&place.version);
        }
    }
}

/// A payload that is being sent to one reader.
#[derive(Debug)]
pub struct Sending {
    versions: Arc<Mutex<Versions>>,
    place: Place,
}

impl Sending {
    pub(super) fn begin(
        versions: &Arc<Mutex<Versions>>,
        data: &Arc<DataSet>,
        payload: &Bytes,
        reader: Weak<dyn SlowReader>,
    ) -> Self {
        let (place, ended) = lock(versions).add(data, payload, reader);
        for reader in ended {
            if let Some(reader) = reader.upgrade() {
                reader.end();
            }
        }
        Self { versions: versions.clone(), place }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        lock(&self.versions).remove(self.place);
    }
}

fn lock(versions: &Mutex<Versions>) -> MutexGuard<'_, Versions> {
    // Nothing panics while it holds the lock; a poisoned one is as good as any.
    versions.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

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
        let versions = Arc::new(Mutex::new(Versions::default()));
        let payload = || (Arc::new(DataSet::default()), Bytes::from(vec![0; 20 << 20]));
        let begin = |(data, payload): &(Arc<DataSet>, Bytes), reader: &Arc<Reader>| {
            let reader: Weak<Reader> = Arc::downgrade(reader);
            Sending::begin(&versions, data, payload, reader)
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
        assert!(lock(&versions).sending.is_empty());
    }

    #[test]
    fn readers_of_the_newest_data_stay_whatever_they_read_of_it() {
        let versions = Arc::new(Mutex::new(Versions::default()));
        let (before, now) = (Arc::new(DataSet::default()), Arc::new(DataSet::default()));
        let readers: Vec<Arc<Reader>> = (0..40).map(|_| Arc::default()).collect();
        let payloads: Vec<Bytes> = (0..40).map(|_| Bytes::from(vec![0; 4 << 20])).collect();
        let mut sending = Vec::new();
        for (index, (reader, payload)) in readers.iter().zip(&payloads).enumerate() {
            let data = if index < 20 { &before } else { &now };
            let reader: Weak<Reader> = Arc::downgrade(reader);
            sending.push(Sending::begin(&versions, data, payload, reader));
        }
        assert!(!readers.iter().any(|reader| reader.0.load(Ordering::Relaxed)));
    }
}
