//! Flag data in Consul (ld-relay v8: the layout of all SDKs).
//!
//! | key | value |
//! | --- | --- |
//! | `{prefix}/features/{key}`, `{prefix}/segments/{key}` | JSON |
//! | `{prefix}/$inited` | the marker |
//!
//! The separator is part of every listing, so an environment never sees its siblings' keys
//! (`ld` and `ld-staging`).
//!
//! Items are written by transactions of compare-and-set. One that is rolled back is repeated item
//! by item, because a transaction is all or nothing while items stand each on their own. A set
//! that fits into a single transaction is filled at once.
//!
//! A marker that another program wrote is told apart by its ModifyIndex: it changes when the
//! marker was lost and is written again. (Newer servers keep the index when the same value is
//! written over it.)

use std::collections::HashSet;

use super::backend::{
    Condition, Correction, Counts, Filled, FlagBackend, Look, Row, StoredRow, StoredRows, Upserted,
};
use super::batches::{Limits, batches};
use super::layout;
use super::marker::{Marker, Note};
use crate::model::{ItemKey, ItemKind};
use crate::storage::StoreError;
use crate::storage::consul::{
    ConsulConnection, ConsulStore, Entry, Operation, Put, TRANSACTION_BYTES_MAX,
    TRANSACTION_OPERATIONS_MAX, Transaction, VALUE_BYTES_MAX,
};
use crate::storage::join::join_bounded;

/// Prefix where none is configured (ld-relay v8).
pub const DEFAULT_PREFIX: &str = "launchdarkly";

/// Rows of one upserting transaction. One operation is left for the marker.
const UPSERT_BATCH: Limits = Limits {
    count: TRANSACTION_OPERATIONS_MAX - 1,
    bytes: TRANSACTION_BYTES_MAX - MARKER_BYTES_MAX,
};

/// Corrections of one transaction. A removal takes two operations.
const CORRECT_BATCH: Limits =
    Limits { count: TRANSACTION_OPERATIONS_MAX / 2, bytes: TRANSACTION_BYTES_MAX };

/// More than an operation on the marker takes, unless the prefix is absurd; then the transaction
/// is too large and items go one by one.
const MARKER_BYTES_MAX: usize = 4 * 1024;

/// Requests under way at a time where each item needs its own.
const IN_FLIGHT: usize = 8;

/// With more rows than this, the keys are listed, so that those that do not exist need not be
/// asked for one by one.
const ASKED_MAX: usize = 16;

/// Attempts to write one item, where any other write to it gets in the way
/// (go-server-sdk-consul: without limit).
const ATTEMPTS: usize = 10;

/// The flag data of one environment in Consul.
#[derive(Debug)]
pub struct ConsulFlags {
    store: ConsulStore,
    prefix: String,
}

/// What an upsert comes to, once it is known what is stored.
#[derive(Clone, Copy)]
enum Step {
    NotNewer,
    /// Newer than what has this index; 0: nothing is stored.
    Put(u64),
}

impl ConsulFlags {
    /// The environment with this prefix; empty stands for [`DEFAULT_PREFIX`].
    pub fn new(store: ConsulStore, prefix: &str) -> Self {
        let prefix = if prefix.is_empty() { DEFAULT_PREFIX } else { prefix }.to_owned();
        Self { store, prefix }
    }

    /// The prefix of its keys.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Where the items of a kind are, with the separator.
    fn folder(&self, kind: ItemKind) -> String {
        format!("{}/{}/", self.prefix, kind.store_name())
    }

    fn key(&self, key: &ItemKey) -> String {
        format!("{}{}", self.folder(key.kind), key.key)
    }

    fn marker(&self) -> String {
        format!("{}/$inited", self.prefix)
    }

    /// `None`: no server takes the row. An empty key is a folder.
    fn measure(&self, row: &Row) -> Option<usize> {
        let fits = row.json.len() <= VALUE_BYTES_MAX && !row.key.key.is_empty();
        fits.then(|| self.put(row, 0).encoded_bytes())
    }

    fn put(&self, row: &Row, index: u64) -> Operation {
        Operation::CompareAndSet { key: self.key(&row.key), value: row.json.clone(), index }
    }

    async fn look_for_marker(&self, conn: &ConsulConnection) -> Result<Option<Marker>, StoreError> {
        let entry = conn.get(&self.marker()).await?;
        Ok(entry.map(|entry| Marker::read(entry.value, entry.modify_index)))
    }

    /// The index of the marker, if it is of this set still.
    async fn look_for(
        &self,
        conn: &ConsulConnection,
        wanted: &Marker,
    ) -> Result<Option<u64>, StoreError> {
        let found = self.look_for_marker(conn).await?;
        Ok(found.filter(|found| found.is_same_set(wanted)).map(|found| found.revision))
    }

    /// The keys of a kind that exist.
    async fn keys(
        &self,
        conn: &ConsulConnection,
        kind: ItemKind,
    ) -> Result<HashSet<String>, StoreError> {
        let folder = self.folder(kind);
        let keys = conn.keys(&folder).await?.into_iter();
        Ok(keys.filter(|key| *key != folder).collect())
    }

    /// The keys of both kinds that exist, if there are so many rows that it is worth it.
    async fn keys_for(&self, rows: &[Row]) -> Result<Option<HashSet<String>>, StoreError> {
        if rows.len() <= ASKED_MAX {
            return Ok(None);
        }
        let mut keys = HashSet::new();
        for kind in ItemKind::ALL {
            if rows.iter().any(|row| row.key.kind == kind) {
                keys.extend(self.store.bulk(async |conn| self.keys(&conn, kind).await).await?);
            }
        }
        Ok(Some(keys))
    }

    async fn upsert_batch(
        &self,
        conn: &ConsulConnection,
        rows: &[&Row],
        keys: Option<&HashSet<String>>,
        condition: Condition<'_>,
    ) -> Result<Vec<Upserted>, StoreError> {
        let mut operations = Vec::with_capacity(TRANSACTION_OPERATIONS_MAX);
        if let Condition::Marked(wanted) = condition {
            let Some(index) = self.look_for(conn, wanted).await? else {
                return Ok(vec![Upserted::NoMarker; rows.len()]);
            };
            operations.push(Operation::CheckIndex { key: self.marker(), index });
        }
        let steps = rows.iter().map(|row| self.step(conn, row, keys)).collect();
        let steps: Vec<Step> =
            join_bounded(IN_FLIGHT, steps).await.into_iter().collect::<Result<_, _>>()?;
        operations.extend(rows.iter().zip(&steps).filter_map(|(row, step)| match step {
            Step::NotNewer => None,
            Step::Put(index) => Some(self.put(row, *index)),
        }));
        let bytes: usize = operations.iter().map(Operation::encoded_bytes).sum();
        let nothing = steps.iter().all(|step| matches!(step, Step::NotNewer));
        let outcome = |step: &Step| match step {
            Step::NotNewer => Upserted::NotNewer,
            Step::Put(_) => Upserted::Written,
        };
        if nothing
            || (bytes <= TRANSACTION_BYTES_MAX
                && conn.transaction(&operations).await? == Transaction::Applied)
        {
            return Ok(steps.iter().map(outcome).collect());
        }
        let alone = rows.iter().zip(steps).map(|(row, step)| async move {
            match step {
                Step::NotNewer => Ok(Upserted::NotNewer),
                Step::Put(_) => self.upsert_alone(conn, row, condition).await,
            }
        });
        join_bounded(IN_FLIGHT, alone.collect()).await.into_iter().collect()
    }

    async fn step(
        &self,
        conn: &ConsulConnection,
        row: &Row,
        keys: Option<&HashSet<String>>,
    ) -> Result<Step, StoreError> {
        let key = self.key(&row.key);
        if keys.is_some_and(|keys| !keys.contains(&key)) {
            return Ok(Step::Put(0));
        }
        Ok(match conn.get(&key).await? {
            None => Step::Put(0),
            // What cannot be decoded counts as version 0.
            Some(entry) => match layout::head(&entry.value).map_or(0, |head| head.version) {
                stored if stored >= row.version => Step::NotNewer,
                _ => Step::Put(entry.modify_index),
            },
        })
    }

    async fn upsert_alone(
        &self,
        conn: &ConsulConnection,
        row: &Row,
        condition: Condition<'_>,
    ) -> Result<Upserted, StoreError> {
        for _ in 0..ATTEMPTS {
            let mut operations = Vec::with_capacity(2);
            if let Condition::Marked(wanted) = condition {
                let Some(index) = self.look_for(conn, wanted).await? else {
                    return Ok(Upserted::NoMarker);
                };
                operations.push(Operation::CheckIndex { key: self.marker(), index });
            }
            let Step::Put(index) = self.step(conn, row, None).await? else {
                return Ok(Upserted::NotNewer);
            };
            operations.push(self.put(row, index));
            match self.put_alone(conn, &operations, row, index).await? {
                Put::Applied => return Ok(Upserted::Written),
                Put::TooLarge => return Ok(Upserted::TooLarge),
                Put::Conflict => {}
            }
        }
        Ok(Upserted::Contended)
    }

    /// Carries out the operations that write one row; the write alone, if the row is longer than
    /// a transaction can be.
    async fn put_alone(
        &self,
        conn: &ConsulConnection,
        operations: &[Operation],
        row: &Row,
        index: u64,
    ) -> Result<Put, StoreError> {
        let bytes: usize = operations.iter().map(Operation::encoded_bytes).sum();
        if bytes > TRANSACTION_BYTES_MAX {
            return conn.put(&self.key(&row.key), row.json.clone(), Some(index)).await;
        }
        Ok(match conn.transaction(operations).await? {
            Transaction::Applied => Put::Applied,
            Transaction::RolledBack => Put::Conflict,
            Transaction::TooLarge => Put::TooLarge,
        })
    }

    fn correction(&self, correction: &Correction) -> Vec<Operation> {
        let index = correction.found.revision;
        match &correction.wanted {
            Some(row) => vec![self.put(row, index)],
            // A conditional removal alone would count a key that is gone as removed.
            None => {
                let key = self.key(&correction.found.key);
                vec![Operation::CheckIndex { key: key.clone(), index }, Operation::Delete { key }]
            }
        }
    }

    /// `None`: it cannot be carried out, because no server takes what is wanted, or because what
    /// was found was not found here.
    fn measure_correction(&self, correction: &Correction) -> Option<usize> {
        if let Some(row) = &correction.wanted {
            self.measure(row)?;
        }
        let bytes = self.correction(correction).iter().map(Operation::encoded_bytes).sum();
        (correction.found.revision != 0).then_some(bytes)
    }

    async fn correct_batch(
        &self,
        conn: &ConsulConnection,
        corrections: &[&Correction],
    ) -> Result<Vec<bool>, StoreError> {
        let operations: Vec<Operation> =
            corrections.iter().flat_map(|correction| self.correction(correction)).collect();
        let bytes: usize = operations.iter().map(Operation::encoded_bytes).sum();
        if bytes <= TRANSACTION_BYTES_MAX
            && conn.transaction(&operations).await? == Transaction::Applied
        {
            return Ok(vec![true; corrections.len()]);
        }
        let alone = corrections.iter().map(|correction| async move {
            let operations = self.correction(correction);
            Ok(match &correction.wanted {
                None => conn.transaction(&operations).await? == Transaction::Applied,
                Some(row) => {
                    let index = correction.found.revision;
                    self.put_alone(conn, &operations, row, index).await? == Put::Applied
                }
            })
        });
        join_bounded(IN_FLIGHT, alone.collect()).await.into_iter().collect()
    }

    async fn read_kind(&self, kind: ItemKind) -> Result<Vec<StoredRow>, StoreError> {
        let folder = self.folder(kind);
        let entries = self.store.bulk(async |conn| conn.list(&folder).await).await?;
        Ok(entries.into_iter().filter_map(|entry| stored_row(kind, &folder, entry)).collect())
    }
}

fn stored_row(kind: ItemKind, folder: &str, entry: Entry) -> Option<StoredRow> {
    let key = entry.key.strip_prefix(folder)?;
    // A key that is the bare prefix is a folder that somebody made by hand.
    let key = Some(key).filter(|key| !key.is_empty())?;
    let (key, head) = (ItemKey::new(kind, key), layout::head(&entry.value));
    Some(StoredRow { key, json: entry.value, head, revision: entry.modify_index })
}

impl FlagBackend for ConsulFlags {
    async fn read(&self) -> Result<StoredRows, StoreError> {
        let look = || self.store.call(async |conn| self.look_for_marker(&conn).await);
        // The marker before the items: it was the last that was written.
        let before = look().await?;
        let kinds = ItemKind::ALL.map(|kind| self.read_kind(kind));
        let mut rows = Vec::new();
        for of_kind in join_bounded(kinds.len(), kinds.into()).await {
            rows.append(&mut of_kind?);
        }
        // And after them: what was wiped out while it was read is not complete.
        let is_same = |found: Option<Marker>| match (&before, found) {
            (Some(before), Some(found)) => found.is_same_set(before),
            (Some(_) | None, _) => false,
        };
        let is_same = before.is_some() && is_same(look().await?);
        Ok(StoredRows { marker: before.filter(|_| is_same), rows })
    }

    async fn look(&self) -> Result<Look, StoreError> {
        let found = self.store.call(async |conn| self.look_for_marker(&conn).await).await?;
        let mut counts = [0; 2];
        for (count, kind) in counts.iter_mut().zip(ItemKind::ALL) {
            let keys = self.store.bulk(async |conn| self.keys(&conn, kind).await).await?;
            *count = keys.len() as u64;
        }
        let [segments, flags] = counts;
        let counts = Some(Counts { segments, flags });
        Ok(Look { marker: found, counts, server: None })
    }

    /// Only sets that fit into one transaction. A row that somebody else writes while it is under
    /// way, and that is not among these, stays beside them.
    async fn fill(&self, rows: &[Row], note: &Note) -> Result<Filled, StoreError> {
        let (key, value) = (self.marker(), note.value(None));
        let marker = Operation::CompareAndSet { key, value, index: 0 };
        let mut bytes = marker.encoded_bytes();
        let mut operations = Vec::new();
        for row in rows.iter().take(TRANSACTION_OPERATIONS_MAX) {
            let Some(of_row) = self.measure(row) else { return Ok(Filled::Impossible) };
            bytes += of_row;
            operations.push(self.put(row, 0));
        }
        operations.push(marker);
        if operations.len() > TRANSACTION_OPERATIONS_MAX || bytes > TRANSACTION_BYTES_MAX {
            return Ok(Filled::Impossible);
        }
        self.store
            .bulk(async |conn| {
                for kind in ItemKind::ALL {
                    if !self.keys(&conn, kind).await?.is_empty() {
                        return Ok(Filled::NotEmpty);
                    }
                }
                Ok(match conn.transaction(&operations).await? {
                    Transaction::Applied => Filled::Done,
                    Transaction::RolledBack => Filled::NotEmpty,
                    Transaction::TooLarge => Filled::Impossible,
                })
            })
            .await
    }

    async fn upsert(
        &self,
        rows: &[Row],
        condition: Condition<'_>,
    ) -> Result<Vec<Upserted>, StoreError> {
        let mut outcomes = vec![Upserted::TooLarge; rows.len()];
        let keys = self.keys_for(rows).await?;
        for places in batches(rows.iter().map(|row| self.measure(row)), UPSERT_BATCH) {
            let batch: Vec<&Row> = places.iter().map(|place| &rows[*place]).collect();
            let done = self
                .store
                .bulk(async |conn| self.upsert_batch(&conn, &batch, keys.as_ref(), condition).await)
                .await?;
            for (place, outcome) in places.into_iter().zip(done) {
                outcomes[place] = outcome;
            }
        }
        Ok(outcomes)
    }

    async fn correct(&self, corrections: &[Correction]) -> Result<Vec<bool>, StoreError> {
        let mut outcomes = vec![false; corrections.len()];
        let sizes = corrections.iter().map(|correction| self.measure_correction(correction));
        for places in batches(sizes, CORRECT_BATCH) {
            let batch: Vec<&Correction> = places.iter().map(|place| &corrections[*place]).collect();
            let done =
                self.store.bulk(async |conn| self.correct_batch(&conn, &batch).await).await?;
            for (place, outcome) in places.into_iter().zip(done) {
                outcomes[place] = outcome;
            }
        }
        Ok(outcomes)
    }

    async fn mark(&self, found: Option<&Marker>, note: &Note) -> Result<Marker, StoreError> {
        let (value, index) = (note.value(found), found.map_or(0, |found| found.revision));
        self.store
            .call(async |conn| {
                conn.put(&self.marker(), value.clone(), Some(index)).await?;
                let removed = || StoreError::Refused("the marker was removed meanwhile".into());
                self.look_for_marker(&conn).await?.ok_or_else(removed)
            })
            .await
    }
}
