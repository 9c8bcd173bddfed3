//! The database that the relays share: rows that it cannot read, and what becomes of them.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::launchdarkly::Versions;
use super::relay::{NAMESPACE, keys, versions_of};
use crate::autoconfig::cache::codec::Codec;
use crate::autoconfig::cache::shared_tier::{Answer, CacheFormat, Call};
use crate::autoconfig::cache::simulated::{judge, judge_sealed, texts_of};
use crate::autoconfig::cache::{Row, Swap, Swapped};
use crate::autoconfig::record_set::{CachedSet, SetOrigin};
use crate::autoconfig::startup_race::CacheOutcome;
use crate::storage::StoreError;

/// Most old states that are kept.
const DUMPS_MAX: usize = 8;

pub type Rows = BTreeMap<String, Row>;

#[derive(Debug)]
pub struct Database {
    pub rows: Rows,
    dumps: VecDeque<Rows>,
    revision: u64,
    codec: Codec,
    pub is_away: bool,
    pub refuses_writes: bool,
}

impl Database {
    pub fn new() -> Self {
        Self {
            rows: Rows::new(),
            dumps: VecDeque::new(),
            revision: 0,
            codec: Codec::sealed(&keys().ring, NAMESPACE),
            is_away: false,
            refuses_writes: false,
        }
    }

    /// Keeps the present state, to go back to it.
    pub fn dump(&mut self) {
        self.dumps.truncate(DUMPS_MAX - 1);
        self.dumps.push_front(self.rows.clone());
    }

    /// An old state, if there is one.
    pub fn old(&self, random: usize) -> Option<&Rows> {
        self.dumps.get(random % self.dumps.len().max(1))
    }

    /// Puts a row.
    pub fn put(&mut self, name: &str, value: Bytes) {
        self.revision += 1;
        let row = Row { name: name.to_owned(), value, revision: self.revision };
        self.rows.insert(name.to_owned(), row);
    }

    /// Loses a row.
    pub fn evict(&mut self, random: usize) {
        if let Some(name) = self.rows.keys().nth(random % self.rows.len().max(1)).cloned() {
            self.rows.remove(&name);
        }
    }

    pub fn carry_out(&mut self, call: Call) -> Result<Answer, StoreError> {
        if self.is_away {
            return Err(StoreError::Unreachable("away".into()));
        }
        match call {
            Call::Read(CacheFormat::Sealed) => {
                Ok(Answer::Rows(self.rows.values().cloned().collect()))
            }
            // Nobody writes ld-relay's format here.
            Call::Read(CacheFormat::LdRelay) => Ok(Answer::Rows(Vec::new())),
            Call::Swap(..) if self.refuses_writes => Err(StoreError::Refused("OOM".into())),
            Call::Swap(_, swaps) => {
                Ok(Answer::Swapped(swaps.iter().map(|swap| self.swap(swap)).collect()))
            }
        }
    }

    fn swap(&mut self, swap: &Swap) -> Swapped {
        let found = self.rows.get(&swap.name);
        let is_expected = match (&swap.expected, found) {
            (None, None) => true,
            (Some(expected), Some(found)) => {
                expected.value == found.value && [0, found.revision].contains(&expected.revision)
            }
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !is_expected {
            return Swapped::Conflict;
        }
        match &swap.value {
            Some(value) => self.put(&swap.name, value.clone()),
            None => drop(self.rows.remove(&swap.name)),
        }
        Swapped::Applied
    }

    /// What a read finds that began when there were other rows: some rows as they were.
    pub fn torn(&self, before: &Rows, random: usize) -> Vec<Row> {
        let is_early =
            |name: &str| (name.bytes().map(usize::from).sum::<usize>() + random).is_multiple_of(2);
        let early = before.values().filter(|row| is_early(&row.name));
        let late = self.rows.values().filter(|row| !is_early(&row.name));
        early.chain(late).cloned().collect()
    }

    /// The name of the row of an environment.
    pub fn row_name(&self, id: &str) -> String {
        self.codec.row_name(&format!("env:{id}"))
    }

    /// The environments in rows, whatever their manifest says.
    pub fn versions(&self, rows: &Rows) -> Versions {
        let rows: Vec<Row> = rows.values().cloned().collect();
        let opened = self.codec.open_all(&rows);
        let reading = judge(&texts_of(&opened), None, opened.skipped, SetOrigin::Own);
        versions_of(&reading.outcome)
    }

    /// What a relay finds in it.
    pub fn stored(&self) -> CacheOutcome<CachedSet> {
        let rows: Vec<Row> = self.rows.values().cloned().collect();
        judge_sealed(&self.codec.open_all(&rows)).outcome
    }

    /// What a relay would take for the whole list that knows only this database.
    pub fn complete_list(&self) -> Option<Versions> {
        let stored = self.stored();
        match &stored {
            CacheOutcome::Loaded(set) if set.complete => Some(versions_of(&stored)),
            CacheOutcome::Loaded(_)
            | CacheOutcome::Empty
            | CacheOutcome::Unavailable
            | CacheOutcome::Unreadable => None,
        }
    }
}
