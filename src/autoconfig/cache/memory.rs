//! Stores in memory, for tests: a backend with the faults that a database can have, and the content
//! of a local store; and records to put into them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::backend::{Backend, Row, Swap, Swapped};
use super::local_tier::{Answer, Call, Closed};
use crate::autoconfig::record_set::{RecordSet, environment_name};
use crate::autoconfig::records::{EnvironmentRecord, Record};
use crate::storage::StoreError;
use crate::storage::local::{NamedRecord, NamedRecords};

/// Environments by ID and version.
pub(crate) fn records(environments: &[(&str, i64)]) -> RecordSet {
    let mut set = RecordSet::default();
    for &(id, version) in environments {
        let value =
            serde_json::json!({"envID": id, "sdkKey": {"value": "sdk-a"}, "version": version});
        let record = EnvironmentRecord::from_json(&value).unwrap();
        set.insert(&environment_name(id), Record::Environment { record, complete: true });
    }
    set
}

/// The records of a local store.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryDisk(BTreeMap<String, Vec<u8>>);

impl MemoryDisk {
    /// What it holds, as it is loaded.
    pub(crate) fn named(&self) -> NamedRecords {
        let record = |(name, value): (&String, &Vec<u8>)| NamedRecord {
            name: name.clone(),
            value: value.clone(),
        };
        NamedRecords { records: self.0.iter().map(record).collect(), ..NamedRecords::default() }
    }

    pub(crate) fn carry_out(&mut self, call: Call) -> Answer {
        match call {
            Call::Load => Answer::Loaded { records: self.named(), has_set_aside: false },
            Call::Store { puts, deletes, closed } => {
                if closed == Closed::Remove {
                    self.0.clear();
                }
                deletes.iter().for_each(|name| drop(self.0.remove(name)));
                self.0.extend(puts);
                Answer::Stored
            }
        }
    }
}

/// Rows in memory, shared by all clones.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryBackend {
    state: Arc<Mutex<MemoryState>>,
}

#[derive(Debug, Default)]
pub(crate) struct MemoryState {
    pub(crate) rows: BTreeMap<String, Row>,
    /// Calls fail while this is set.
    pub(crate) away: bool,
    /// Values above this size are refused.
    pub(crate) value_bytes_max: Option<usize>,
    /// Time that a read takes.
    pub(crate) latency: Duration,
    /// Number of rows that were changed so far.
    pub(crate) writes: usize,
    revision: u64,
}

impl MemoryBackend {
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut MemoryState) -> R) -> R {
        act(&mut self.state.lock().unwrap())
    }

    fn reach(&self) -> Result<(), StoreError> {
        if self.with(|state| state.away) {
            return Err(StoreError::Unreachable("composed outage".into()));
        }
        Ok(())
    }
}

impl Backend for MemoryBackend {
    async fn read_all(&self) -> Result<Vec<Row>, StoreError> {
        let latency = self.with(|state| state.latency);
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        self.reach()?;
        Ok(self.with(|state| state.rows.values().cloned().collect()))
    }

    async fn swap(&self, swaps: &[Swap]) -> Result<Vec<Swapped>, StoreError> {
        self.reach()?;
        Ok(self.with(|state| swaps.iter().map(|swap| state.swap(swap)).collect()))
    }
}

impl MemoryState {
    fn swap(&mut self, swap: &Swap) -> Swapped {
        if self.rows.get(&swap.name) != swap.expected.as_ref() {
            return Swapped::Conflict;
        }
        let too_large =
            |value: &bytes::Bytes| self.value_bytes_max.is_some_and(|max| value.len() > max);
        if swap.value.as_ref().is_some_and(too_large) {
            return Swapped::TooLarge;
        }
        self.writes += 1;
        self.revision += 1;
        match &swap.value {
            Some(value) => {
                let row =
                    Row { name: swap.name.clone(), value: value.clone(), revision: self.revision };
                self.rows.insert(swap.name.clone(), row);
            }
            None => {
                self.rows.remove(&swap.name);
            }
        }
        Swapped::Applied
    }
}
