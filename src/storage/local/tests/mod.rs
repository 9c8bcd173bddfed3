//! The store as a whole, on real files.

mod adoption;
mod damage;
mod former;
mod keys;
mod named;
mod rotation;
mod sets;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, Weak};

use redb::ReadableTable;
use tempfile::TempDir;

use crate::backoff::Backoff;
use crate::sealing::SealingKey;

use super::faults::{Faults, Mood};
use super::file::Tables;
use super::format::names::PART_KEY_BYTES;
use super::*;

const LONG: Duration = Duration::from_secs(30);

/// Items by slot: spread over all parts by their hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Items(BTreeMap<u64, Vec<u8>>);

const ITEM_BYTES: usize = 1000;

fn slot(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Items {
    fn numbered(count: u64, version: u8) -> Self {
        let item = |number: u64| {
            let text = format!("secret-item-{number}-");
            let mut item = vec![version; ITEM_BYTES];
            item[1..=text.len()].copy_from_slice(text.as_bytes());
            item
        };
        Self((0..count).map(|number| (slot(number), item(number))).collect())
    }

    fn with(mut self, number: u64, version: u8) -> Self {
        self.0.get_mut(&slot(number)).unwrap()[0] = version;
        self
    }

    fn shared(&self) -> Arc<dyn Content> {
        Arc::new(self.clone())
    }
}

impl Content for Items {
    fn items(&self) -> u64 {
        self.0.len() as u64
    }

    fn encoded_bytes(&self) -> u64 {
        (self.0.len() * ITEM_BYTES) as u64
    }

    fn encode(&self, buffer_of: &dyn Fn(u64) -> Option<usize>, buffers: &mut [Vec<u8>]) {
        for (slot, item) in &self.0 {
            if let Some(at) = buffer_of(*slot) {
                buffers[at].extend_from_slice(&slot.to_le_bytes());
                buffers[at].extend_from_slice(item);
            }
        }
    }
}

/// A directory for stores, opened one after the other.
struct Place {
    parent: TempDir,
    faults: Faults,
    timing: Timing,
    key_file: KeyFileUse,
    opened: Mutex<Vec<Weak<Shared>>>,
}

/// A store that is no longer used writes its pending changes in the background, and would create
/// its folder again if that were removed meanwhile.
impl Drop for Place {
    fn drop(&mut self) {
        let limit = tokio::time::Instant::now() + LONG;
        for store in self.opened.lock().unwrap().iter().filter_map(Weak::upgrade) {
            store.stop();
            while !store.has_ended() && tokio::time::Instant::now() < limit {
                std::thread::yield_now();
            }
        }
    }
}

impl Place {
    fn new() -> Self {
        let retry = Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(20) };
        let timing =
            Timing { commit_delay: Duration::ZERO, retry, copy_delay: LONG, ..Timing::default() };
        Self {
            parent: tempfile::tempdir().unwrap(),
            faults: Faults::default(),
            timing,
            key_file: KeyFileUse::Ignore,
            opened: Mutex::default(),
        }
    }

    fn try_open(&self, secrets: &[&str]) -> Result<Opened, LocalStoreError> {
        let mut directory = Directory::hold(self.parent.path())?;
        directory.faults = self.faults.clone();
        let opened = LocalStore::open_in(directory, ring(secrets), self.timing, self.key_file)?;
        self.opened.lock().unwrap().push(Arc::downgrade(&opened.store.shared));
        Ok(opened)
    }

    /// Opens a store that is expected to be intact.
    fn open(&self, secrets: &[&str]) -> LocalStore {
        let opened = self.try_open(secrets).unwrap();
        assert_eq!(opened.set_aside, None);
        opened.store
    }

    async fn reopened(&self, store: &LocalStore) -> LocalStore {
        assert!(store.close(LONG).await);
        self.open(&["key"])
    }

    fn file(&self) -> PathBuf {
        self.parent.path().join("pilotlight.redb")
    }

    /// Changes the records of a closed store.
    fn tamper(&self, with: impl FnOnce(&mut Tables<'_>)) {
        let directory = Directory::hold(self.parent.path()).unwrap();
        let (slot, opening) = start::open(&directory, &ring(&["key"])).unwrap();
        assert_eq!(opening, Opening::Found);
        let holder = file::Holder::new(slot);
        holder.make_writable(&directory).unwrap();
        let work = |tables: &mut Tables<'_>| {
            with(tables);
            Ok(())
        };
        holder.with_open(|open| open.commit(work)).unwrap();
    }

    /// True if the data key of the file is wrapped under this key.
    fn is_under(&self, secret: &str) -> bool {
        files_with(self, secret).contains(&"pilotlight.redb".to_owned())
    }
}

/// Files of the directory that contain the ID of a key, as every file does whose data key is
/// wrapped under it.
fn files_with(place: &Place, secret: &str) -> Vec<String> {
    let id = SealingKey::derive(secret).id();
    let holds = |path: &Path| {
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(8).any(|window| window == id.as_bytes())
    };
    let mut found: Vec<String> = std::fs::read_dir(place.parent.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| holds(path))
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    found.sort();
    found
}

fn ring(secrets: &[&str]) -> KeyRing {
    let mut keys = secrets.iter().map(|secret| SealingKey::derive(secret));
    KeyRing::new(keys.next().unwrap(), keys)
}

fn set(text: &str) -> SetId {
    SetId::new(text)
}

async fn put(store: &LocalStore, id: &str, items: &Items) {
    store.replace_set(&set(id), items.shared());
    assert!(store.flush(LONG).await, "{:?}", store.status());
}

async fn change(store: &LocalStore, id: &str, items: &Items, numbers: &[u64]) {
    let slots: Vec<u64> = numbers.iter().map(|number| slot(*number)).collect();
    store.change_set(&set(id), items.shared(), &slots);
    assert!(store.flush(LONG).await, "{:?}", store.status());
}

fn read(store: &LocalStore, id: &str) -> (SetRead, Items) {
    let mut items = Items::default();
    let found = store
        .read_set(&set(id), &mut |part| {
            for item in part.chunks(8 + ITEM_BYTES) {
                let slot = u64::from_le_bytes(item[..8].try_into().unwrap());
                assert!(items.0.insert(slot, item[8..].to_vec()).is_none());
            }
        })
        .unwrap();
    (found, items)
}

/// Reads a set that is expected to be complete.
#[track_caller]
fn complete(store: &LocalStore, id: &str) -> Items {
    let (found, items) = read(store, id);
    let SetRead::Found(found) = found else { panic!("{found:?}") };
    assert_eq!((found.missing, found.undecodable), (0, 0));
    assert_eq!(found.items, items.items());
    items
}

/// The tag of every part, by key.
type Parts = BTreeMap<[u8; PART_KEY_BYTES], [u8; 16]>;

/// The parts in the file.
fn parts(store: &LocalStore) -> Parts {
    let read = store.shared.read(|reading| {
        let mut parts = Parts::new();
        for entry in reading.parts.iter()? {
            let (key, sealed) = entry?;
            parts.insert(*key.value(), *sealed.value().last_chunk().unwrap());
        }
        Ok(parts)
    });
    read.unwrap().unwrap()
}

/// Waits for a state of the store.
async fn eventually(store: &LocalStore, what: &str, reached: impl Fn(&LocalStoreStatus) -> bool) {
    let mut following = store.subscribe();
    let waited = tokio::time::timeout(LONG, following.wait_for(|status| reached(status))).await;
    assert!(waited.is_ok(), "{what}: {:?}", store.status());
}
