//! A backend in memory, for tests, with the faults that a database can have.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::backend::{Backend, Row, Swap, Swapped};
use crate::storage::StoreError;

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
