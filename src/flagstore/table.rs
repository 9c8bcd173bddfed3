//! Flags in a shared database: the layout that all SDKs read, on top of [`Table`].
//!
//! | | Redis, Valkey | DynamoDB | Consul |
//! | --- | --- | --- | --- |
//! | item | field KEY of the hash `P:features` or `P:segments` | partition `P:features`, KEY, with its version beside | `P/features/KEY` |
//! | marker | string `P:$inited` | partition and key `P:$inited` | `P/$inited` |
//!
//! A row is written only if it is still as it was read a moment before, so the decision whether an
//! item is newer is made here, for all databases alike.
//!
//! The marker's token is random, so that one look shows whether the store has been initialized
//! again since the last one. A marker that another program wrote is recognized by its value, and in
//! Consul by its ModifyIndex: it changes when the marker was lost and is written again. (Newer
//! servers keep the index when the same value is written over it.)

use std::sync::Arc;

use super::backend::{
    Condition, Correction, Counts, Filled, FlagBackend, Look, Row, StoredRow, StoredRows, Upserted,
};
use super::layout;
use super::marker::{Marker, Note};
use crate::model::{ItemKey, ItemKind};
use crate::storage::StoreError;
use crate::storage::table::Row as TableRow;
use crate::storage::table::{Created, NewSet, RowName, Table, Value, Write, Written, get_one};

/// Attempts to write rows, where other writers may get in the way (go-server-sdk-redis: 10).
const ATTEMPTS: usize = 10;

/// With more rows than this, a database that reads one by one first writes them as if they were
/// new.
const ASKED_MAX: usize = 16;

const MARKER: &str = "$inited";

/// The way in which names are put together in a kind of database (ld-relay v8).
#[derive(Clone, Copy, Debug)]
pub struct Naming {
    separator: char,
    /// The prefix where none is configured.
    default_prefix: &'static str,
}

impl Naming {
    /// Redis and Valkey.
    #[cfg(feature = "redis")]
    pub const REDIS: Self = Self { separator: ':', default_prefix: "launchdarkly" };
    /// DynamoDB.
    #[cfg(feature = "dynamodb")]
    pub const DYNAMODB: Self = Self { separator: ':', default_prefix: "" };
    /// Consul.
    #[cfg(feature = "consul")]
    pub const CONSUL: Self = Self { separator: '/', default_prefix: "launchdarkly" };

    /// The prefix of an environment.
    pub fn prefix<'a>(&self, configured: &'a str) -> &'a str {
        if configured.is_empty() { self.default_prefix } else { configured }
    }

    fn name(&self, prefix: &str, name: &str) -> Arc<str> {
        match prefix {
            "" => name.into(),
            prefix => format!("{prefix}{}{name}", self.separator).into(),
        }
    }
}

/// The flags of one environment in a shared database.
#[derive(Debug)]
pub struct FlagTable<T> {
    table: T,
    /// In the order of [`ItemKind::ALL`].
    spaces: [Arc<str>; 2],
    marker: RowName,
}

/// Action on a row, once the stored row is known.
enum Step<'a> {
    Keep,
    Put(&'a Row),
    Remove,
}

/// Result for one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    Kept,
    Changed,
    Contended,
    Unguarded,
    TooLarge,
}

impl<T: Table> FlagTable<T> {
    /// The environment with this prefix; if it is empty, the default of the database is used.
    pub fn new(table: T, naming: Naming, prefix: &str) -> Self {
        let prefix = naming.prefix(prefix);
        let spaces = ItemKind::ALL.map(|kind| naming.name(prefix, kind.store_name()));
        Self { table, spaces, marker: RowName::alone(naming.name(prefix, MARKER)) }
    }

    fn name(&self, key: &ItemKey) -> RowName {
        let at = ItemKind::ALL.iter().position(|kind| *kind == key.kind).unwrap_or_default();
        RowName::new(&self.spaces[at], key.key.clone())
    }

    fn takes(&self, row: &Row) -> bool {
        self.table.takes(&self.name(&row.key), &value(row))
    }

    /// The item in a row; `None` for a row that is in neither name space.
    fn stored(&self, row: TableRow) -> Option<StoredRow> {
        let TableRow { name, value, revision } = row;
        let at = self.spaces.iter().position(|space| *space == name.space)?;
        let head = match T::KEEPS_VERSIONS {
            true => layout::head_beside(&value.bytes, value.version.as_deref()),
            false => layout::head(&value.bytes),
        };
        let key = ItemKey { kind: ItemKind::ALL[at], key: name.key? };
        Some(StoredRow { key, json: value.bytes, head, revision })
    }

    /// Writes rows as `decide` says, each only if it is still as it was when that was decided.
    /// With a condition, only while the marker meets it.
    async fn settle<'a>(
        &self,
        keys: &[&ItemKey],
        bytes: usize,
        condition: Option<&Condition>,
        decide: impl Fn(usize, Option<&StoredRow>) -> Step<'a> + Send + Sync,
    ) -> Result<Vec<Settled>, StoreError> {
        let mut outcomes = vec![Settled::Contended; keys.len()];
        let mut open: Vec<usize> = (0..keys.len()).collect();
        for attempt in 0..ATTEMPTS {
            if open.is_empty() {
                break;
            }
            let is_blind = attempt == 0 && T::READS_ONE_BY_ONE && open.len() > ASKED_MAX;
            let asked = if is_blind { &[] } else { &open[..] };
            let mut names: Vec<RowName> = asked.iter().map(|at| self.name(keys[*at])).collect();
            names.extend(condition.map(|_| self.marker.clone()));
            let mut found = self.table.get(&names, bytes).await?;
            let mut guard = None;
            if let Some(condition) = condition {
                guard = found.pop().flatten().filter(|row| condition.is_met_by(&marker(row)));
                if guard.is_none() {
                    open.iter().for_each(|at| outcomes[*at] = Settled::Unguarded);
                    break;
                }
            }
            found.resize(open.len(), None);
            let (mut places, mut writes) = (Vec::new(), Vec::new());
            for (at, expected) in std::mem::take(&mut open).into_iter().zip(found) {
                let stored = expected.clone().and_then(|row| self.stored(row));
                let value = match decide(at, stored.as_ref()) {
                    // The row was not read, so this decides nothing.
                    Step::Keep if is_blind => {
                        open.push(at);
                        continue;
                    }
                    Step::Keep => {
                        outcomes[at] = Settled::Kept;
                        continue;
                    }
                    Step::Put(row) => Some(value(row)),
                    Step::Remove => None,
                };
                places.push(at);
                writes.push(Write { name: self.name(keys[at]), expected, value });
            }
            let done = self.table.write(&writes, guard.as_ref()).await?;
            for (at, written) in places.into_iter().zip(done) {
                match written {
                    Written::Applied => outcomes[at] = Settled::Changed,
                    Written::TooLarge => outcomes[at] = Settled::TooLarge,
                    Written::Conflict | Written::Unguarded => open.push(at),
                }
            }
        }
        Ok(outcomes)
    }
}

impl<T: Table> FlagBackend for FlagTable<T> {
    async fn read(&self) -> Result<StoredRows, StoreError> {
        let found = self.table.read(&self.spaces, Some(&self.marker)).await?;
        // Rows that were wiped out while they were read are not complete.
        let [before, after] = found.markers.each_ref().map(|row| row.as_ref().map(marker));
        let marker =
            before.zip(after).filter(|(before, after)| after.is_same_set(before)).map(|it| it.1);
        let rows = found.rows.into_iter().filter_map(|row| self.stored(row)).collect();
        Ok(StoredRows { marker, rows })
    }

    async fn look(&self) -> Result<Look, StoreError> {
        let signs = self.table.signs(&self.spaces, &self.marker).await?;
        let counts = signs.counts.map(|counts| {
            let count = |kind| {
                let at = ItemKind::ALL.iter().position(|it| *it == kind);
                at.and_then(|at| counts.get(at).copied()).unwrap_or_default()
            };
            Counts { segments: count(ItemKind::Segment), flags: count(ItemKind::Flag) }
        });
        let marker = signs.marker.as_ref().map(marker);
        Ok(Look { marker, counts, server: signs.server })
    }

    async fn fill(&self, rows: &[Row], note: &Note) -> Result<Filled, StoreError> {
        let set = NewSet {
            spaces: &self.spaces,
            rows: rows.iter().map(|row| (self.name(&row.key), value(row))).collect(),
            marker: (self.marker.clone(), note.value(None).into()),
        };
        Ok(match self.table.create(&set).await? {
            Created::Done => Filled::Done,
            Created::NotEmpty => Filled::NotEmpty,
            Created::Impossible => Filled::Impossible,
        })
    }

    async fn upsert(
        &self,
        rows: &[Row],
        condition: Option<&Condition>,
    ) -> Result<Vec<Upserted>, StoreError> {
        let taken: Vec<usize> = (0..rows.len()).filter(|at| self.takes(&rows[*at])).collect();
        let keys: Vec<&ItemKey> = taken.iter().map(|at| &rows[*at].key).collect();
        let bytes = taken.iter().map(|at| rows[*at].json.len()).sum();
        let decide = |place: usize, stored: Option<&StoredRow>| {
            let row = &rows[taken[place]];
            // A row that cannot be decoded counts as version 0.
            let version = |stored: &StoredRow| stored.head.map_or(0, |head| head.version);
            let is_newer = stored.is_none_or(|stored| version(stored) < row.version);
            if is_newer { Step::Put(row) } else { Step::Keep }
        };
        let settled = self.settle(&keys, bytes, condition, decide).await?;
        let mut outcomes = vec![Upserted::TooLarge; rows.len()];
        for (at, settled) in taken.iter().zip(settled) {
            outcomes[*at] = match settled {
                Settled::Changed => Upserted::Written,
                Settled::Kept => Upserted::NotNewer,
                Settled::Contended => Upserted::Contended,
                Settled::Unguarded => Upserted::Unguarded,
                Settled::TooLarge => Upserted::TooLarge,
            };
        }
        Ok(outcomes)
    }

    async fn correct(&self, corrections: &[Correction]) -> Result<Vec<bool>, StoreError> {
        let keys: Vec<&ItemKey> = corrections.iter().map(|it| &it.found.key).collect();
        let bytes = corrections.iter().map(|it| it.found.json.len()).sum();
        let decide = |place: usize, stored: Option<&StoredRow>| {
            let Correction { found, wanted } = &corrections[place];
            match wanted {
                _ if stored != Some(found) => Step::Keep,
                Some(row) if self.takes(row) => Step::Put(row),
                Some(_) => Step::Keep,
                None => Step::Remove,
            }
        };
        let settled = self.settle(&keys, bytes, None, decide).await?;
        Ok(settled.into_iter().map(|settled| settled == Settled::Changed).collect())
    }

    async fn mark(
        &self,
        found: Option<&Marker>,
        note: &Note,
    ) -> Result<Option<Marker>, StoreError> {
        let row = |marker: &Marker| TableRow {
            name: self.marker.clone(),
            value: marker.value.clone().into(),
            revision: marker.revision,
        };
        let write = Write {
            name: self.marker.clone(),
            expected: found.map(row),
            value: Some(note.value(found).into()),
        };
        self.table.write(&[write], None).await?;
        let stored = get_one(&self.table, Some(&self.marker)).await?;
        Ok(stored.as_ref().map(marker))
    }
}

fn value(row: &Row) -> Value {
    Value { bytes: row.json.clone(), version: Some(row.version.to_string().into()) }
}

fn marker(row: &TableRow) -> Marker {
    Marker::read(row.value.bytes.clone(), row.revision)
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
