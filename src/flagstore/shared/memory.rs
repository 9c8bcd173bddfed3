//! A flag store in memory, for tests of the keeper: it fails and hangs on command.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::flagstore::backend::{
    Condition, Correction, Filled, FlagBackend, Look, Row, StoredRow, StoredRows, Upserted,
};
use crate::flagstore::inventory::Inventory;
use crate::flagstore::layout;
use crate::flagstore::marker::{Marker, Note};
use crate::flagstore::shared::visits::{Answer, Call};
use crate::model::ItemKey;
use crate::storage::StoreError;

/// JSON longer than this is too large.
pub const BYTES_MAX: usize = 1_000;

/// Action of another writer on the store.
type Happens = fn(&mut Content);

#[derive(Clone, Debug, Default)]
pub struct MemoryFlags(Arc<Mutex<Content>>);

#[derive(Clone, Debug, Default)]
pub struct Content {
    pub rows: BTreeMap<ItemKey, Bytes>,
    pub marker: Option<Bytes>,
    pub server: u64,
    pub away: bool,
    /// Reads are answered and writes refused, as by a full Redis.
    pub refuses_writes: bool,
    /// True if a fill is possible at once.
    pub fills: bool,
    /// A row to which others write all the time.
    pub busy: Option<ItemKey>,
    /// Rows are written whatever the marker, as by DynamoDB.
    pub ignores_condition: bool,
    /// Calls so far, by their initial letters: r, l, f, u, c, m.
    pub calls: String,
    /// Action of another writer right before the next call of that letter.
    pub meanwhile: Option<(char, Happens)>,
}

impl MemoryFlags {
    pub fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap()
    }

    /// The stored items as `a3 b-4`: key and version, a minus for tombstones, `!` for the marker.
    pub fn shown(&self) -> String {
        let content = self.content();
        let row = |(key, json): (&ItemKey, &Bytes)| match layout::head(json) {
            Some(head) => {
                let sign = if head.deleted { "-" } else { "" };
                format!("{}{sign}{}", key.key, head.version)
            }
            None => format!("{}?", key.key),
        };
        let mut words: Vec<String> = content.rows.iter().map(row).collect();
        words.extend(content.marker.as_ref().map(|_| "!".to_owned()));
        words.join(" ")
    }

    fn call(&self, name: char) -> Result<MutexGuard<'_, Content>, StoreError> {
        let mut content = self.content();
        content.calls.push(name);
        if let Some((_, happens)) = content.meanwhile.take_if(|(before, _)| *before == name) {
            happens(&mut content);
        }
        if content.away {
            Err(StoreError::Unreachable("away".into()))
        } else if content.refuses_writes && !matches!(name, 'r' | 'l') {
            Err(StoreError::Refused("OOM".into()))
        } else {
            Ok(content)
        }
    }
}

impl Content {
    /// Applies a call, and returns the answer of a database with this content.
    pub fn answer(&mut self, call: Call) -> Answer {
        match call {
            Call::Read => Answer::Read(self.read()),
            Call::Look => Answer::Look(self.look()),
            Call::Fill { rows, note } => Answer::Fill(self.fill(&rows, &note)),
            Call::Upsert { rows, condition } => {
                Answer::Upsert(self.upsert(&rows, condition.as_ref()))
            }
            Call::Correct(corrections) => {
                Answer::Correct(corrections.iter().map(|it| self.correct(it)).collect())
            }
            Call::Mark { found, note } => Answer::Mark(self.mark(found.as_ref(), &note)),
        }
    }

    /// Everything that is stored.
    pub fn read(&self) -> StoredRows {
        let row = |(key, json): (&ItemKey, &Bytes)| StoredRow {
            key: key.clone(),
            json: json.clone(),
            head: layout::head(json),
            revision: 0,
        };
        StoredRows { marker: self.marker(), rows: self.rows.iter().map(row).collect() }
    }

    fn marker(&self) -> Option<Marker> {
        self.marker.clone().map(|value| Marker::read(value, 0))
    }

    fn look(&self) -> Look {
        let Inventory { counts, .. } = Inventory::of(self.rows.keys());
        let server = Some(self.server.to_string().into());
        Look { marker: self.marker(), counts: Some(counts), server }
    }

    fn fill(&mut self, rows: &[Row], note: &Note) -> Filled {
        if !self.fills || rows.iter().any(|row| row.json.len() > BYTES_MAX) {
            return Filled::Impossible;
        }
        if self.marker.is_some() || !self.rows.is_empty() {
            return Filled::NotEmpty;
        }
        for row in rows {
            self.put(row);
        }
        self.marker = Some(note.value(None));
        Filled::Done
    }

    fn upsert(&mut self, rows: &[Row], condition: Option<&Condition>) -> Vec<Upserted> {
        let is_met = |it: &Condition| self.marker().is_some_and(|found| it.is_met_by(&found));
        if !self.ignores_condition && condition.is_some_and(|it| !is_met(it)) {
            return vec![Upserted::Unguarded; rows.len()];
        }
        rows.iter().map(|row| self.put(row)).collect()
    }

    fn correct(&mut self, correction: &Correction) -> bool {
        let key = &correction.found.key;
        let is_same = self.rows.get(key) == Some(&correction.found.json);
        if is_same {
            match &correction.wanted {
                Some(row) => self.rows.insert(key.clone(), row.json.clone()),
                None => self.rows.remove(key),
            };
        }
        is_same
    }

    fn mark(&mut self, found: Option<&Marker>, note: &Note) -> Option<Marker> {
        if self.marker.as_ref() == found.map(|found| &found.value) {
            self.marker = Some(note.value(found));
        }
        self.marker()
    }

    fn put(&mut self, row: &Row) -> Upserted {
        if row.json.len() > BYTES_MAX {
            return Upserted::TooLarge;
        }
        if self.busy.as_ref() == Some(&row.key) {
            return Upserted::Contended;
        }
        let stored = self.rows.get(&row.key);
        let stored = stored.map(|json| layout::head(json).map_or(0, |head| head.version));
        if stored.is_some_and(|stored| stored >= row.version) {
            return Upserted::NotNewer;
        }
        self.rows.insert(row.key.clone(), row.json.clone());
        Upserted::Written
    }
}

impl FlagBackend for MemoryFlags {
    async fn read(&self) -> Result<StoredRows, StoreError> {
        Ok(self.call('r')?.read())
    }

    async fn look(&self) -> Result<Look, StoreError> {
        Ok(self.call('l')?.look())
    }

    async fn fill(&self, rows: &[Row], note: &Note) -> Result<Filled, StoreError> {
        Ok(self.call('f')?.fill(rows, note))
    }

    async fn upsert(
        &self,
        rows: &[Row],
        condition: Option<&Condition>,
    ) -> Result<Vec<Upserted>, StoreError> {
        Ok(self.call('u')?.upsert(rows, condition))
    }

    async fn correct(&self, corrections: &[Correction]) -> Result<Vec<bool>, StoreError> {
        let mut content = self.call('c')?;
        Ok(corrections.iter().map(|it| content.correct(it)).collect())
    }

    async fn mark(
        &self,
        found: Option<&Marker>,
        note: &Note,
    ) -> Result<Option<Marker>, StoreError> {
        Ok(self.call('m')?.mark(found, note))
    }
}
