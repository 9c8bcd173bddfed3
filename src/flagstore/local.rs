//! Flag data in the embedded store of this machine.
//!
//! Reading is done once, at the start, off the runtime's threads. Writing is telling: which
//! snapshot is served now and what changed in it; the store's thread does the rest, so nothing here
//! waits. What a read calls complete can be served (design D29); everything else is reported.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use crate::model::{DataSet, EnvironmentRef, ItemKey};
use crate::sealing::KeyId;
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
    /// When it was accepted from upstream.
    pub written_at: SystemTime,
    /// Grows with each change, among the states of this set in this store.
    pub sequence: u64,
}

/// A data set of which something is missing. Never served by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incomplete {
    /// What could be read.
    pub data: DataSet,
    /// Items that the set had; 0 if not even that can be read.
    pub items: u64,
    /// Records that are not there.
    pub missing: u64,
    /// Records that are there and cannot be read.
    pub undecodable: u64,
}

/// What was read of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Everything.
    Complete(StoredSet),
    /// Nothing is stored.
    Absent,
    /// Less than everything.
    Incomplete(Incomplete),
    /// It is stored, under keys that are not configured.
    Unreadable {
        /// The keys.
        keys: Vec<KeyId>,
    },
}

/// The flag data in an embedded store; clones are handles to the same.
#[derive(Clone, Debug)]
pub struct LocalFlags {
    store: LocalStore,
}

/// Whether there is an embedded store. It is opened while everything else already starts.
#[derive(Clone, Debug)]
pub enum LocalFlagsState {
    /// It is being opened.
    Opening,
    /// It can be used.
    Open(LocalFlags),
    /// There is none: switched off, in use by another process, or impossible on this machine.
    Off,
}

impl LocalFlagsState {
    /// Waits until it is known whether there is a store; `None` if there is none.
    pub async fn opened(state: &mut watch::Receiver<Self>) -> Option<LocalFlags> {
        let known = state.wait_for(|state| !matches!(state, Self::Opening)).await;
        match known.as_deref() {
            Ok(Self::Open(local)) => Some(local.clone()),
            Ok(Self::Opening | Self::Off) | Err(_) => None,
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
            SetRead::Unreadable { keys } => return Ok(ReadOutcome::Unreadable { keys }),
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
            let (written_at, sequence) = (found.written_at, found.sequence);
            ReadOutcome::Complete(StoredSet { data, written_at, sequence })
        } else {
            let (items, missing) = (found.items, found.missing);
            ReadOutcome::Incomplete(Incomplete { data, items, missing, undecodable })
        })
    }

    /// A full put of live data was accepted: the store is to hold this and nothing else. What it
    /// holds already is not written again.
    pub fn replaced(&self, id: &DataSetId, data: Arc<DataSet>) {
        self.store.replace_set(&id.0, data);
    }

    /// These items changed; the snapshot is the newest, with all changes before this one in it.
    pub fn changed(&self, id: &DataSetId, data: Arc<DataSet>, keys: &[ItemKey]) {
        let slots: Vec<u64> = keys.iter().map(slot_of).collect();
        self.store.change_set(&id.0, data, &slots);
    }

    /// What was read is served. Nothing is written; but if the file is lost while this process
    /// runs, the set is stored again from memory.
    pub fn adopted(&self, id: &DataSetId, data: &Arc<DataSet>, written_at: SystemTime) {
        let content: Arc<dyn Content> = data.clone();
        self.store.adopt_set(&id.0, &content, written_at);
    }

    /// The environment is gone, or has no such filter any more.
    pub fn removed(&self, id: &DataSetId) {
        self.store.remove_set(&id.0);
    }

    /// Only these data sets exist: all others are removed. Only for an authoritative list.
    pub fn retain(&self, ids: &[DataSetId]) {
        let ids: Vec<SetId> = ids.iter().map(|id| id.0.clone()).collect();
        self.store.retain_sets(&ids);
    }
}
