//! The shared cache in Consul: keys `{namespace}/{row name}`, one value each.
//!
//! The separator is part of every listing, so a namespace never sees its siblings'
//! (`ld` and `ld-staging`). Swaps go out in transactions of many; a transaction is all or nothing
//! while swaps stand each on their own, so one that is rolled back is repeated swap by swap.

use super::backend::{Backend, Row, Swap, Swapped};
use super::batches::{Batch, Limits, batches};
use crate::storage::StoreError;
use crate::storage::consul::{
    ConsulConnection, ConsulStore, Entry, Operation, Put, TRANSACTION_BYTES_MAX,
    TRANSACTION_OPERATIONS_MAX, Transaction, VALUE_BYTES_MAX,
};
use crate::storage::join::join_bounded;

/// A removal takes two operations of a transaction.
const BATCH: Limits =
    Limits { count: TRANSACTION_OPERATIONS_MAX / 2, bytes: TRANSACTION_BYTES_MAX };

/// Requests under way at a time where each swap needs its own.
const IN_FLIGHT: usize = 8;

/// One namespace in Consul.
#[derive(Debug)]
pub struct ConsulCache {
    store: ConsulStore,
    /// The namespace with its separator.
    prefix: String,
}

/// What a swap comes to, once the index of the stored value is known.
enum Step {
    /// What is expected is not what is stored.
    Conflict,
    Put {
        key: String,
        value: bytes::Bytes,
        index: u64,
    },
    Remove {
        key: String,
        index: u64,
    },
}

impl ConsulCache {
    /// The cache under `{namespace}/`.
    pub fn new(store: ConsulStore, namespace: &str) -> Self {
        Self { store, prefix: format!("{namespace}/") }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn row(&self, entry: Entry) -> Option<Row> {
        let name = entry.key.strip_prefix(&self.prefix)?;
        // A key that is the bare prefix is a folder that somebody made by hand.
        let name = Some(name).filter(|name| !name.is_empty())?.to_owned();
        Some(Row { name, value: entry.value, revision: entry.modify_index })
    }

    /// `None`: no server takes the value.
    fn measure(&self, swap: &Swap) -> Option<usize> {
        let Some(value) = &swap.value else { return Some(self.remove_bytes(swap)) };
        if value.len() > VALUE_BYTES_MAX {
            return None;
        }
        let put = Operation::Set { key: self.key(&swap.name), value: value.clone() };
        Some(put.encoded_bytes())
    }

    fn remove_bytes(&self, swap: &Swap) -> usize {
        2 * Operation::Delete { key: self.key(&swap.name) }.encoded_bytes()
    }

    async fn swap_batch(
        &self,
        conn: &ConsulConnection,
        batch: &Batch<'_>,
    ) -> Result<Vec<Swapped>, StoreError> {
        let resolving = batch.swaps.iter().map(|swap| self.resolve(conn, swap)).collect();
        let steps: Vec<Step> =
            join_bounded(IN_FLIGHT, resolving).await.into_iter().collect::<Result<_, _>>()?;
        let operations: Vec<Operation> = steps.iter().flat_map(Step::operations).collect();
        let bytes: usize = operations.iter().map(Operation::encoded_bytes).sum();
        if operations.is_empty() {
            return Ok(vec![Swapped::Conflict; steps.len()]);
        }
        if bytes <= TRANSACTION_BYTES_MAX
            && conn.transaction(&operations).await? == Transaction::Applied
        {
            return Ok(steps.iter().map(Step::when_applied).collect());
        }
        let alone = steps.iter().map(|step| step.alone(conn)).collect();
        join_bounded(IN_FLIGHT, alone).await.into_iter().collect()
    }

    /// Looks the index up where the caller does not know it.
    async fn resolve(&self, conn: &ConsulConnection, swap: &Swap) -> Result<Step, StoreError> {
        let key = self.key(&swap.name);
        let index = match &swap.expected {
            None => 0,
            Some(row) if row.revision != 0 => row.revision,
            Some(row) => match conn.get(&key).await? {
                Some(stored) if stored.value == row.value => stored.modify_index,
                Some(_) | None => return Ok(Step::Conflict),
            },
        };
        Ok(match &swap.value {
            Some(value) => Step::Put { key, value: value.clone(), index },
            None => Step::Remove { key, index },
        })
    }
}

impl Step {
    fn operations(&self) -> Vec<Operation> {
        match self {
            Self::Conflict => Vec::new(),
            Self::Put { key, value, index } => vec![Operation::CompareAndSet {
                key: key.clone(),
                value: value.clone(),
                index: *index,
            }],
            // Nothing is expected and nothing is to be stored: a question.
            Self::Remove { key, index: 0 } => vec![Operation::CheckAbsent { key: key.clone() }],
            // A conditional removal alone would count a key that is gone as removed.
            Self::Remove { key, index } => vec![
                Operation::CheckIndex { key: key.clone(), index: *index },
                Operation::Delete { key: key.clone() },
            ],
        }
    }

    fn when_applied(&self) -> Swapped {
        match self {
            Self::Conflict => Swapped::Conflict,
            Self::Put { .. } | Self::Remove { .. } => Swapped::Applied,
        }
    }

    async fn alone(&self, conn: &ConsulConnection) -> Result<Swapped, StoreError> {
        match self {
            Self::Conflict => Ok(Swapped::Conflict),
            // Not a transaction, because those carry less than the longest value.
            Self::Put { key, value, index } => {
                Ok(match conn.put(key, value.clone(), Some(*index)).await? {
                    Put::Applied => Swapped::Applied,
                    Put::Conflict => Swapped::Conflict,
                    Put::TooLarge => Swapped::TooLarge,
                })
            }
            Self::Remove { .. } => Ok(match conn.transaction(&self.operations()).await? {
                Transaction::Applied => Swapped::Applied,
                Transaction::RolledBack => Swapped::Conflict,
                Transaction::TooLarge => Swapped::TooLarge,
            }),
        }
    }
}

impl Backend for ConsulCache {
    async fn read_all(&self) -> Result<Vec<Row>, StoreError> {
        let entries = self.store.bulk(async |conn| conn.list(&self.prefix).await).await?;
        Ok(entries.into_iter().filter_map(|entry| self.row(entry)).collect())
    }

    async fn read(&self, name: &str) -> Result<Option<Row>, StoreError> {
        let key = self.key(name);
        let entry = self.store.call(async |conn| conn.get(&key).await).await?;
        Ok(entry.and_then(|entry| self.row(entry)))
    }

    async fn swap(&self, swaps: &[Swap]) -> Result<Vec<Swapped>, StoreError> {
        let mut outcomes = vec![Swapped::TooLarge; swaps.len()];
        for batch in batches(swaps, BATCH, |swap| self.measure(swap)) {
            let done = self.store.bulk(async |conn| self.swap_batch(&conn, &batch).await).await?;
            batch.record(&mut outcomes, done);
        }
        Ok(outcomes)
    }
}
