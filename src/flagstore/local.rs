//! Flag data in the embedded store of this machine.
//!
//! Data is read once, at the start, on a blocking thread. To write, the caller passes the served
//! snapshot and what changed in it; the store's thread does the rest, so nothing here waits. A set
//! that was read completely can be served; everything else is reported.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use crate::model::{DataSet, EnvironmentRef, ItemKey};
use crate::storage::local::{Content, LocalStore, LocalStoreError, SetId, SetRead};

use super::encoding::{Decoded, slot_of};

/// Names the data set of one environment, seen through one filter or none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DataSetId(SetId);

impl DataSetId {
    /// The data set of an environment.
    pub fn new(environment: &EnvironmentRef) -> Self {
        // The length keeps (ab, c) and (a, bc) apart.
        let name = &*environment.environment;
        Self(SetId::new(format!("{}:{name}{}", name.len(), environment.filter.as_str())))
    }
}

/// A data set that can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSet {
    /// The data, tombstones included.
    pub data: DataSet,
    /// The time at which it was accepted from upstream.
    pub written_at: SystemTime,
}

/// A data set of which something is missing. Never served by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incomplete {
    /// The items that could be read.
    pub data: DataSet,
    /// Number of items that the set had; 0 if not even that can be read.
    pub items: u64,
    /// Number of records that are missing.
    pub missing: u64,
    /// Number of records that are there and cannot be read.
    pub undecodable: u64,
}

/// The result of reading a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Everything.
    Complete(StoredSet),
    /// Nothing is stored.
    Absent,
    /// Less than everything.
    Incomplete(Incomplete),
    /// The store is sealed under a key that is not configured, so nothing is known of the set.
    Unreadable,
}

/// The flag data in an embedded store; clones are handles to the same.
#[derive(Clone, Debug)]
pub struct LocalFlags {
    store: LocalStore,
}

/// State of the embedded store, which is opened while everything else already starts.
#[derive(Clone, Debug)]
pub enum LocalFlagsState {
    /// It is being opened.
    Opening,
    /// It can be used.
    Open(LocalFlags),
    /// It cannot be used for now, because another process holds it or the machine refuses; it is
    /// tried again. It may hold data.
    Unavailable,
    /// There is none, and none can be made for now; it is tried again.
    Absent,
    /// It is switched off.
    Off,
}

impl LocalFlagsState {
    /// Waits until it is known whether there is a store; `None` if there is none for now.
    pub async fn opened(state: &mut watch::Receiver<Self>) -> Option<LocalFlags> {
        let known = state.wait_for(|state| !matches!(state, Self::Opening)).await;
        known.ok().and_then(|state| state.store())
    }

    /// Waits until there is a store, indefinitely if there never is one.
    pub async fn opened_at_last(state: &mut watch::Receiver<Self>) -> LocalFlags {
        let open = state.wait_for(|state| matches!(state, Self::Open(_))).await;
        match open.ok().and_then(|state| state.store()) {
            Some(local) => local,
            None => std::future::pending().await,
        }
    }

    fn store(&self) -> Option<LocalFlags> {
        match self {
            Self::Open(local) => Some(local.clone()),
            Self::Opening | Self::Unavailable | Self::Absent | Self::Off => None,
        }
    }
}

impl LocalFlags {
    /// The store that holds the data, for its status and its end.
    pub fn store(&self) -> &LocalStore {
        &self.store
    }

    /// The flag data in this store.
    pub fn new(store: LocalStore) -> Self {
        Self { store }
    }

    /// Reads a data set. Blocks for about a millisecond per megabyte; different sets may be read
    /// on several threads at once.
    pub fn read_set(&self, id: &DataSetId) -> Result<ReadOutcome, LocalStoreError> {
        let mut decoded = Decoded::default();
        let found = match self.store.read_set(&id.0, &mut |part| decoded.part(part))? {
            SetRead::Absent => return Ok(ReadOutcome::Absent),
            SetRead::Unreadable => return Ok(ReadOutcome::Unreadable),
            SetRead::Undecodable => {
                let (data, items) = (DataSet::default(), 0);
                let incomplete = Incomplete { data, items, missing: 0, undecodable: 1 };
                return Ok(ReadOutcome::Incomplete(incomplete));
            }
            SetRead::Found(found) => found,
        };
        let undecodable = found.undecodable + decoded.malformed;
        let count = decoded.len();
        let data = decoded.into_data();
        // Two items of one key would leave fewer than were counted.
        let complete = found.missing == 0
            && undecodable == 0
            && count == found.items
            && data.len() as u64 == found.items;
        Ok(if complete {
            ReadOutcome::Complete(StoredSet { data, written_at: found.written_at })
        } else {
            let (items, missing) = (found.items, found.missing);
            ReadOutcome::Incomplete(Incomplete { data, items, missing, undecodable })
        })
    }

    /// Stores the data of an accepted put, and nothing else. What the store holds already is not
    /// written again.
    pub fn replaced(&self, id: &DataSetId, data: Arc<DataSet>) {
        self.store.replace_set(&id.0, data);
    }

    /// Stores changed items; the snapshot is the newest, with all earlier changes in it.
    pub fn changed(&self, id: &DataSetId, data: Arc<DataSet>, keys: &[ItemKey]) {
        let slots: Vec<u64> = keys.iter().map(slot_of).collect();
        self.store.change_set(&id.0, data, &slots);
    }

    /// Notes that the set that was read is served. Nothing is written; but if the file is lost
    /// while this process runs, the set is stored again from memory.
    pub fn adopted(&self, id: &DataSetId, data: &Arc<DataSet>, written_at: SystemTime) {
        let content: Arc<dyn Content> = data.clone();
        self.store.adopt_set(&id.0, &content, written_at);
    }

    /// Removes the set of an environment or a filter that no longer exists.
    pub fn removed(&self, id: &DataSetId) {
        self.store.remove_set(&id.0);
    }

    /// Removes all data sets except these. Only for an authoritative list.
    pub fn retain(&self, ids: &[DataSetId]) {
        let ids: Vec<SetId> = ids.iter().map(|id| id.0.clone()).collect();
        self.store.retain_sets(&ids);
    }
}

#[cfg(test)]
impl LocalFlags {
    /// A separate store, for tests of other modules.
    pub(crate) fn in_directory(directory: &std::path::Path) -> Self {
        let ring = crate::sealing::KeyRing::new(crate::sealing::SealingKey::derive("key"), []);
        Self::new(LocalStore::open(directory, ring).unwrap().store)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use crate::model::{FilterKey, Item, ItemKind};
    use crate::sealing::{KeyRing, SealingKey};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn open(directory: &Path, secret: &str) -> LocalStore {
        let ring = KeyRing::new(SealingKey::derive(secret), []);
        LocalStore::open(directory, ring).unwrap().store
    }

    fn id(environment: &str, filter: &str) -> DataSetId {
        let filter = FilterKey::new(filter);
        DataSetId::new(&EnvironmentRef { environment: environment.into(), filter })
    }

    fn flag(number: u64) -> ItemKey {
        ItemKey::new(ItemKind::Flag, format!("flag-{number}"))
    }

    fn data(flags: u64, version: u64) -> DataSet {
        let mut data = DataSet::default();
        for number in 0..flags {
            data.upsert(&flag(number), Item::live(version, vec![b'x'; 300]).into());
        }
        data.upsert(&ItemKey::new(ItemKind::Segment, "segment"), Item::live(1, "{}").into());
        data.upsert(&ItemKey::new(ItemKind::Segment, "gone"), Item::tombstone(version).into());
        data
    }

    #[track_caller]
    fn complete(local: &LocalFlags, id: &DataSetId) -> StoredSet {
        let read = local.read_set(id).unwrap();
        let ReadOutcome::Complete(stored) = read else { panic!("{read:?}") };
        stored
    }

    #[tokio::test]
    async fn data_comes_back_as_it_was_served_last() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), "key");
        let local = LocalFlags::new(store.clone());
        let (plain, filtered) = (id("env", ""), id("env", "filter"));
        let mut served = Arc::new(data(100, 1));
        let before = SystemTime::now() - Duration::from_millis(1);
        local.replaced(&plain, served.clone());
        local.replaced(&filtered, Arc::new(data(5, 1)));
        assert!(store.flush(LONG).await);

        Arc::make_mut(&mut served).upsert(&flag(7), Item::tombstone(2).into());
        local.changed(&plain, served.clone(), &[flag(7)]);
        Arc::make_mut(&mut served).upsert(&flag(500), Item::live(1, "new").into());
        local.changed(&plain, served.clone(), &[flag(500)]);
        assert!(store.close(LONG).await);

        let store = open(directory.path(), "key");
        let local = LocalFlags::new(store.clone());
        let stored = complete(&local, &plain);
        assert_eq!(stored.data, *served);
        assert!(stored.written_at >= before && stored.written_at <= SystemTime::now());
        assert_eq!(complete(&local, &filtered).data, data(5, 1));
        assert_eq!(local.read_set(&id("envfilter", "")).unwrap(), ReadOutcome::Absent);

        local.removed(&filtered);
        local.adopted(&plain, &served, stored.written_at);
        assert!(store.flush(LONG).await);
        assert_eq!(local.read_set(&filtered).unwrap(), ReadOutcome::Absent);
        local.retain(&[]);
        assert!(store.flush(LONG).await);
        assert_eq!(local.read_set(&plain).unwrap(), ReadOutcome::Absent);
    }

    #[tokio::test]
    async fn what_other_keys_sealed_is_a_state_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), "old");
        LocalFlags::new(store.clone()).replaced(&id("env", ""), Arc::new(data(3, 1)));
        assert!(store.close(LONG).await);
        let store = open(directory.path(), "new");
        let read = LocalFlags::new(store).read_set(&id("env", "")).unwrap();
        assert_eq!(read, ReadOutcome::Unreadable);
    }

    /// A data set with a part that no data set has.
    struct Spoilt(DataSet);

    impl Content for Spoilt {
        fn items(&self) -> u64 {
            self.0.items() + 1
        }
        fn encoded_bytes(&self) -> u64 {
            self.0.encoded_bytes()
        }
        fn encode(&self, buffer_of: &dyn Fn(u64) -> Option<usize>, buffers: &mut [Vec<u8>]) {
            self.0.encode(buffer_of, buffers);
            buffers[0].insert(0, 0xff);
        }
    }

    #[tokio::test]
    async fn what_cannot_be_decoded_is_not_complete() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), "key");
        let local = LocalFlags::new(store.clone());
        store.replace_set(&id("env", "").0, Arc::new(Spoilt(data(100, 1))));
        assert!(store.flush(LONG).await);
        let ReadOutcome::Incomplete(less) = local.read_set(&id("env", "")).unwrap() else {
            panic!("not complete")
        };
        assert_eq!((less.missing, less.undecodable, less.items), (0, 1, 103));
        // Items of the other parts can still complete a set from elsewhere.
        assert!(!less.data.is_empty() && less.data.len() < 102);
        for (kind, key, item) in less.data.iter() {
            assert_eq!(data(100, 1).collection(kind).get(key), Some(item));
        }
    }

    #[test]
    fn ids_keep_environment_and_filter_apart() {
        assert_eq!(id("env", "a"), id("env", "a"));
        for (one, other) in [(("env", "a"), ("enva", "")), (("1", "1:x"), ("11", ":x"))] {
            assert_ne!(id(one.0, one.1), id(other.0, other.1));
        }
    }
}
