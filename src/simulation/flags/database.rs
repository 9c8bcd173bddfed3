//! The shared database: its content, what becomes of it, and what it does to calls.

use std::collections::VecDeque;

use bytes::Bytes;

use super::launchdarkly::{BASE, key};
use crate::flagstore::backend::{StoredRow, StoredRows};
use crate::flagstore::inventory::Inventory;
use crate::flagstore::layout;
use crate::flagstore::marker::{Identity, Marker, Note};
use crate::flagstore::simulated::{Answer, Call, Content, judge};
use crate::flagstore::{Completeness, SharedRead};
use crate::model::{DataSet, Item, ItemKey};
use crate::storage::StoreError;

/// Most old states that are kept.
const DUMPS_MAX: usize = 8;

#[derive(Debug)]
pub struct Database {
    pub content: Content,
    dumps: VecDeque<Content>,
    pub is_away: bool,
}

impl Database {
    pub fn new(is_row_by_row: bool) -> Self {
        let content = Content {
            fills: !is_row_by_row,
            ignores_condition: is_row_by_row,
            server: 1,
            ..Content::default()
        };
        Self { content, dumps: VecDeque::new(), is_away: false }
    }

    /// Keeps the present state, to go back to it.
    pub fn dump(&mut self) {
        self.dumps.truncate(DUMPS_MAX - 1);
        self.dumps.push_front(self.content.clone());
    }

    /// Goes back to an old state; returns false if there is none.
    pub fn go_back(&mut self, random: usize) -> bool {
        let Some(dump) = self.dumps.get(random % self.dumps.len().max(1)) else { return false };
        let server = self.content.server + 1;
        self.content = Content { server, refuses_writes: false, ..dump.clone() };
        true
    }

    pub fn wipe(&mut self) {
        self.content.rows.clear();
        self.content.marker = None;
        self.content.server += 1;
    }

    /// Holds the set of another environment from now on: rows that nobody here knows, and some under
    /// names that are known here, at versions that look older and newer.
    pub fn hand_over(&mut self) {
        self.content.rows.clear();
        for (name, version) in [("a", 500), ("b", 1), ("x", 3), ("S", 2), ("X", 1)] {
            let json = format!(r#"{{"key":"{name}","version":{version},"foreign":true}}"#);
            let row = layout::row(&key(name), &Item::live(version, json));
            self.content.rows.insert(row.key, row.json);
        }
        let identity = Identity { environment: "another".into(), filter: "".into() };
        let inventory = Inventory::of(self.content.rows.keys());
        let note = Note { inventory, identity: Some(identity), ..Note::default() };
        self.content.marker = Some(note.value(None));
    }

    /// Whether the marker lists exactly the rows that there are. While it lists fewer, because other
    /// programs have added some, a row that is lost need not be missed: that is its limit.
    pub fn is_listed(&self) -> bool {
        let stored = self.content.read();
        let note = stored.marker.as_ref().and_then(|marker| marker.note.as_ref());
        note.is_none_or(|note| note.inventory == Inventory::of(self.content.rows.keys()))
    }

    /// Removes a row, if it will be missed.
    pub fn evict(&mut self, random: usize) -> Option<ItemKey> {
        if !self.is_listed() {
            return None;
        }
        let victim = self.content.rows.keys().nth(random % self.content.rows.len().max(1))?.clone();
        self.content.rows.remove(&victim);
        Some(victim)
    }

    pub fn carry_out(&mut self, call: Call) -> Result<Answer, StoreError> {
        if self.is_away {
            return Err(StoreError::Unreachable("away".into()));
        }
        let is_write = !matches!(call, Call::Read | Call::Look);
        if is_write && self.content.refuses_writes {
            return Err(StoreError::Refused("OOM".into()));
        }
        Ok(self.content.answer(call))
    }

    /// What a read finds that began when this was stored and ends now: some rows as they were, the
    /// others as they are.
    pub fn torn(&self, before: &Content, random: usize) -> StoredRows {
        let (before, after) = (before.read(), self.content.read());
        let is_early = |row: &StoredRow| {
            (row.key.key.len() + row.key.key.as_bytes()[0] as usize + random).is_multiple_of(2)
        };
        let early = before.rows.into_iter().filter(is_early);
        let late = after.rows.into_iter().filter(|row| !is_early(row));
        let marker = if (random / 2).is_multiple_of(2) { before.marker } else { after.marker };
        StoredRows { marker, rows: early.chain(late).collect() }
    }

    /// Rows as they differ between two states.
    pub fn changes<'a>(
        &'a self,
        before: &'a Content,
    ) -> impl Iterator<Item = (&'a ItemKey, Option<&'a Bytes>, Option<&'a Bytes>)> {
        let mut keys: Vec<&ItemKey> = before.rows.keys().chain(self.content.rows.keys()).collect();
        keys.sort();
        keys.dedup();
        keys.into_iter()
            .map(|key| (key, before.rows.get(key), self.content.rows.get(key)))
            .filter(|(_, before, after)| before != after)
    }

    /// What a relay that knows only the database would serve as whole.
    pub fn complete_set(&self, identity: &Identity) -> Option<std::sync::Arc<DataSet>> {
        match judge(&self.content.read(), Some(identity)) {
            // What cannot be decoded is named, and not served as whole.
            SharedRead::Complete(set)
                if set.completeness == Completeness::Counted && set.undecodable.is_empty() =>
            {
                Some(set.data)
            }
            SharedRead::Complete(_)
            | SharedRead::Absent
            | SharedRead::Incomplete { .. }
            | SharedRead::Foreign { .. }
            | SharedRead::Failed(_) => None,
        }
    }

    /// The stored items as `a3 b-4`, with `!` for the marker.
    pub fn shown(&self) -> String {
        let row = |(key, json): (&ItemKey, &Bytes)| match layout::head(json) {
            Some(head) => {
                format!("{}{}{}", key.key, if head.deleted { "-" } else { "" }, head.version)
            }
            None => format!("{}?", key.key),
        };
        let mut words: Vec<String> = self.content.rows.iter().map(row).collect();
        if let Some(value) = &self.content.marker {
            let marker = Marker::read(value.clone(), 0);
            words.push(match (marker.note, marker.unsettled) {
                (Some(note), _) => {
                    format!("!{}+{}", note.inventory.counts.flags, note.inventory.counts.segments)
                }
                (None, Some(why)) => format!("!{why:?}"),
                (None, None) => "!".to_owned(),
            });
        }
        words.join(" ")
    }
}

/// Items that were there from the beginning and are not in this set.
pub fn base_lost(data: &DataSet) -> impl Iterator<Item = ItemKey> {
    let is_lost = |key: &ItemKey| data.item(key).is_none_or(|item| item.is_tombstone());
    BASE.iter().map(|name| key(name)).filter(is_lost)
}

/// The row of an item, byte for byte.
pub fn row_of(data: &DataSet, item: &ItemKey) -> Option<Bytes> {
    Some(layout::row(item, data.item(item)?).json)
}
