//! Rows in Consul: one key each, `SPACE/KEY`, or `NAME` for a row outside of name spaces.
//!
//! Every listing includes the separator, so a name space never includes the keys of its siblings
//! (`ld` and `ld-staging`). Rows are written by transactions of compare-and-set. A transaction
//! applies completely or not at all, but rows are independent: if one is rolled back, the rows that
//! failed are conflicts, and the others are sent again.

use std::collections::HashSet;
use std::sync::Arc;

use super::kv::{
    Operation, Put, TRANSACTION_BYTES_MAX, TRANSACTION_OPERATIONS_MAX, Transaction, VALUE_BYTES_MAX,
};
use super::{ConsulConnection, ConsulStore, Entry};
use crate::storage::StoreError;
use crate::storage::join::join_bounded;
use crate::storage::table::{
    Contents, Created, Limits, Load, NewSet, Row, RowName, Signs, Table, Value, Write, Written,
    batches, get_one, read_between_markers, taken,
};

/// Concurrent requests where each row needs its own.
const IN_FLIGHT: usize = 8;

/// With more rows of a name space than this, its keys are listed, so that missing rows need not be
/// requested one by one.
const ASKED_MAX: usize = 16;

/// Transactions tried with the rest of a batch. Each one reports all rows that have changed.
const ATTEMPTS: usize = 4;

/// The rows of one Consul agent.
#[derive(Debug)]
pub struct ConsulTable {
    store: ConsulStore,
}

/// A write with the index that its key must have.
struct Step<'a> {
    place: usize,
    write: &'a Write,
    index: u64,
}

impl ConsulTable {
    /// The rows of this agent.
    pub fn new(store: ConsulStore) -> Self {
        Self { store }
    }

    /// Reads rows one by one, except those whose keys are known not to exist.
    async fn get_each(
        &self,
        conn: &ConsulConnection,
        names: &[RowName],
    ) -> Result<Vec<Option<Row>>, StoreError> {
        let mut listed: Vec<(&Arc<str>, HashSet<String>)> = Vec::new();
        for name in names {
            let is_same = |other: &&RowName| other.key.is_some() && other.space == name.space;
            let is_listed = listed.iter().any(|(space, _)| **space == name.space);
            if !is_listed && names.iter().filter(is_same).count() > ASKED_MAX {
                let keys = conn.keys(&folder(&name.space)).await?;
                listed.push((&name.space, keys.into_iter().collect()));
            }
        }
        let is_absent = |name: &RowName, key: &str| {
            let listed = listed.iter().find(|(space, _)| **space == name.space);
            name.key.is_some() && listed.is_some_and(|(_, keys)| !keys.contains(key))
        };
        let gets = names.iter().map(async |name| {
            let key = full_key(name);
            if is_absent(name, &key) || is_folder(name) {
                return Ok(None);
            }
            Ok(conn.get(&key).await?.map(|entry| row(name.clone(), entry)))
        });
        join_bounded(IN_FLIGHT, gets.collect()).await.into_iter().collect()
    }

    /// Looks up the index of an expected row that was built from memory. `None` if another value is
    /// stored.
    async fn resolve(
        &self,
        conn: &ConsulConnection,
        write: &Write,
    ) -> Result<Option<u64>, StoreError> {
        match &write.expected {
            None => Ok(Some(0)),
            Some(row) if row.revision != 0 => Ok(Some(row.revision)),
            Some(row) => {
                let stored = conn.get(&full_key(&write.name)).await?;
                let same = stored.filter(|stored| stored.value == row.value.bytes);
                Ok(same.map(|stored| stored.modify_index))
            }
        }
    }

    async fn write_batch(
        &self,
        conn: &ConsulConnection,
        writes: &[&Write],
        guard: Option<&Row>,
    ) -> Result<Vec<Written>, StoreError> {
        let mut outcomes = vec![Written::Conflict; writes.len()];
        let indexes = writes.iter().map(|write| self.resolve(conn, write)).collect();
        let mut open = Vec::with_capacity(writes.len());
        for (place, index) in join_bounded(IN_FLIGHT, indexes).await.into_iter().enumerate() {
            open.extend(index?.map(|index| Step { place, write: writes[place], index }));
        }
        for _ in 0..ATTEMPTS {
            if open.is_empty() {
                return Ok(outcomes);
            }
            let mut owners = vec![None; usize::from(guard.is_some())];
            let mut operations: Vec<Operation> = guard.map(check).into_iter().collect();
            for step in &open {
                operations.extend(step.operations());
                owners.resize(operations.len(), Some(step.place));
            }
            let failed = match transact(conn, &operations).await? {
                Transaction::Applied => {
                    open.iter().for_each(|step| outcomes[step.place] = Written::Applied);
                    return Ok(outcomes);
                }
                Transaction::RolledBack { failed } => failed,
                Transaction::TooLarge => break,
            };
            let failed: Vec<Option<usize>> =
                failed.iter().filter_map(|place| owners.get(*place).copied()).collect();
            if failed.contains(&None) {
                open.iter().for_each(|step| outcomes[step.place] = Written::Unguarded);
                return Ok(outcomes);
            }
            open.retain(|step| !failed.contains(&Some(step.place)));
            if failed.is_empty() {
                break;
            }
        }
        let alone = open.iter().map(|step| step.alone(conn, guard)).collect();
        for (step, done) in open.iter().zip(join_bounded(IN_FLIGHT, alone).await) {
            outcomes[step.place] = done?;
        }
        Ok(outcomes)
    }

    async fn keys(
        &self,
        conn: &ConsulConnection,
        space: &Arc<str>,
    ) -> Result<Vec<String>, StoreError> {
        let folder = folder(space);
        let keys = conn.keys(&folder).await?.into_iter();
        Ok(keys.filter(|key| *key != folder).collect())
    }

    async fn read_space(&self, space: &Arc<str>) -> Result<Vec<Row>, StoreError> {
        let folder = folder(space);
        let entries = self.store.bulk(async |conn| conn.list(&folder).await).await?;
        let named = |entry: Entry| {
            let name = RowName::new(space, entry.key.strip_prefix(&folder)?);
            (!is_folder(&name)).then(|| row(name, entry))
        };
        Ok(entries.into_iter().filter_map(named).collect())
    }
}

impl Step<'_> {
    fn operations(&self) -> Vec<Operation> {
        let (key, index) = (full_key(&self.write.name), self.index);
        match &self.write.value {
            Some(value) => {
                vec![Operation::CompareAndSet { key, value: value.bytes.clone(), index }]
            }
            // No row is expected and none is to be stored: only a check.
            None if index == 0 => vec![Operation::CheckAbsent { key }],
            // A conditional removal alone would also succeed for a key that does not exist.
            None => {
                vec![Operation::CheckIndex { key: key.clone(), index }, Operation::Delete { key }]
            }
        }
    }

    /// Writes one row: in its own transaction, or without a transaction and without the guard,
    /// because the limit of a transaction is below that of a value.
    async fn alone(
        &self,
        conn: &ConsulConnection,
        guard: Option<&Row>,
    ) -> Result<Written, StoreError> {
        let operations: Vec<Operation> =
            guard.map(check).into_iter().chain(self.operations()).collect();
        match transact(conn, &operations).await? {
            Transaction::Applied => return Ok(Written::Applied),
            Transaction::RolledBack { failed } if guard.is_some() && failed.contains(&0) => {
                return Ok(Written::Unguarded);
            }
            Transaction::RolledBack { .. } => return Ok(Written::Conflict),
            Transaction::TooLarge => {}
        }
        let Some(value) = &self.write.value else { return Ok(Written::TooLarge) };
        let key = full_key(&self.write.name);
        Ok(match conn.put(&key, value.bytes.clone(), Some(self.index)).await? {
            Put::Applied => Written::Applied,
            Put::Conflict => Written::Conflict,
            Put::TooLarge => Written::TooLarge,
        })
    }
}

/// Sends a transaction, unless it is larger than servers accept.
async fn transact(
    conn: &ConsulConnection,
    operations: &[Operation],
) -> Result<Transaction, StoreError> {
    if operations.iter().map(Operation::encoded_bytes).sum::<usize>() > TRANSACTION_BYTES_MAX {
        return Ok(Transaction::TooLarge);
    }
    conn.transaction(operations).await
}

impl Table for ConsulTable {
    /// An empty key is a folder.
    fn takes(&self, name: &RowName, value: &Value) -> bool {
        value.bytes.len() <= VALUE_BYTES_MAX && !is_folder(name)
    }

    async fn read(
        &self,
        spaces: &[Arc<str>],
        marker: Option<&RowName>,
    ) -> Result<Contents, StoreError> {
        let reads = spaces.iter().map(|space| self.read_space(space)).collect();
        read_between_markers(self, marker, reads).await
    }

    async fn get(&self, names: &[RowName], bytes: usize) -> Result<Vec<Option<Row>>, StoreError> {
        let get = async |conn| self.get_each(&conn, names).await;
        Load::of(names.len(), bytes).run(&self.store, get).await
    }

    async fn write(
        &self,
        writes: &[Write],
        guard: Option<&Row>,
    ) -> Result<Vec<Written>, StoreError> {
        let mut outcomes = vec![Written::TooLarge; writes.len()];
        let sizes = taken(self, writes).map(|(place, write)| (place, encoded_bytes(write)));
        let guard_bytes = guard.map_or(0, |guard| check(guard).encoded_bytes());
        // A removal takes two operations of a transaction, the guard takes one.
        let each = 1 + usize::from(writes.iter().any(|write| write.value.is_none()));
        let limits = Limits {
            count: (TRANSACTION_OPERATIONS_MAX - 1) / each,
            bytes: TRANSACTION_BYTES_MAX.saturating_sub(guard_bytes),
        };
        for places in batches(sizes, limits) {
            let batch: Vec<&Write> = places.iter().map(|place| &writes[*place]).collect();
            let bytes = batch.iter().map(|write| write.content_bytes()).sum();
            let write = async |conn| self.write_batch(&conn, &batch, guard).await;
            let done = Load::of(batch.len(), bytes).run(&self.store, write).await?;
            for (place, outcome) in places.into_iter().zip(done) {
                outcomes[place] = outcome;
            }
        }
        Ok(outcomes)
    }

    /// Creates only a set that fits into one transaction. Another row that another client writes
    /// meanwhile is kept.
    async fn create(&self, set: &NewSet<'_>) -> Result<Created, StoreError> {
        let all = || set.rows.iter().chain([&set.marker]);
        if set.rows.len() >= TRANSACTION_OPERATIONS_MAX
            || !all().all(|(name, value)| self.takes(name, value))
        {
            return Ok(Created::Impossible);
        }
        let put = |(name, value): &(RowName, Value)| Operation::CompareAndSet {
            key: full_key(name),
            value: value.bytes.clone(),
            index: 0,
        };
        let operations: Vec<Operation> = all().map(put).collect();
        self.store
            .bulk(async |conn| {
                for space in set.spaces {
                    if !self.keys(&conn, space).await?.is_empty() {
                        return Ok(Created::NotEmpty);
                    }
                }
                Ok(match transact(&conn, &operations).await? {
                    Transaction::Applied => Created::Done,
                    Transaction::RolledBack { .. } => Created::NotEmpty,
                    Transaction::TooLarge => Created::Impossible,
                })
            })
            .await
    }

    async fn signs(&self, spaces: &[Arc<str>], marker: &RowName) -> Result<Signs, StoreError> {
        let marker = get_one(self, Some(marker)).await?;
        let mut counts = Vec::with_capacity(spaces.len());
        for space in spaces {
            let keys = self.store.bulk(async |conn| self.keys(&conn, space).await).await?;
            counts.push(keys.len() as u64);
        }
        Ok(Signs { marker, counts: Some(counts), server: None })
    }
}

fn row(name: RowName, entry: Entry) -> Row {
    Row { name, value: entry.value.into(), revision: entry.modify_index }
}

/// The prefix of all keys of a name space, with the separator.
fn folder(space: &str) -> String {
    format!("{space}/")
}

/// True for the bare prefix of a name space: a folder that an operator created.
fn is_folder(name: &RowName) -> bool {
    name.key.as_ref().is_some_and(|key| key.is_empty())
}

fn full_key(name: &RowName) -> String {
    match &name.key {
        Some(key) => format!("{}/{key}", name.space),
        None => name.space.to_string(),
    }
}

fn check(guard: &Row) -> Operation {
    Operation::CheckIndex { key: full_key(&guard.name), index: guard.revision }
}

/// An upper bound of the bytes that the operations of a write add to a transaction.
fn encoded_bytes(write: &Write) -> usize {
    let step = Step { place: 0, write, index: u64::MAX };
    step.operations().iter().map(Operation::encoded_bytes).sum()
}
