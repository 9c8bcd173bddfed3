//! A flag store in memory, for tests of the keeper: it fails and hangs on command.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::flagstore::backend::{
    Condition, Correction, Counts, Filled, FlagBackend, Look, Row, StoredRow, StoredRows, Upserted,
};
use crate::flagstore::layout;
use crate::flagstore::marker::{Marker, Note};
use crate::model::{ItemKey, ItemKind};
use crate::storage::StoreError;

/// JSON longer than this is too large.
pub(super) const BYTES_MAX: usize = 1_000;

/// What somebody else does to the store.
type Happens = fn(&mut Content);

#[derive(Clone, Debug, Default)]
pub(super) struct MemoryFlags(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) rows: BTreeMap<ItemKey, Bytes>,
    pub(super) marker: Option<Bytes>,
    pub(super) server: u64,
    pub(super) away: bool,
    /// Reads are answered and writes refused, as by a full Redis.
    pub(super) refuses_writes: bool,
    /// Whether a fill is possible at once.
    pub(super) fills: bool,
    /// A row to which others write all the time.
    pub(super) busy: Option<ItemKey>,
    /// Rows are written whatever the marker, as by DynamoDB.
    pub(super) ignores_condition: bool,
    /// Calls so far, by their initial letters: r, l, f, u, c, m.
    pub(super) calls: String,
    /// What somebody else does right before the next call of that letter.
    pub(super) meanwhile: Option<(char, Happens)>,
}

impl MemoryFlags {
    pub(super) fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap()
    }

    /// The stored items as `a3 b-4`: key and version, a minus for tombstones, `!` for the marker.
    pub(super) fn shown(&self) -> String {
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
    fn marker(&self) -> Option<Marker> {
        self.marker.clone().map(|value| Marker::read(value, 0))
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
        let content = self.call('r')?;
        let row = |(key, json): (&ItemKey, &Bytes)| StoredRow {
            key: key.clone(),
            json: json.clone(),
            head: layout::head(json),
            revision: 0,
        };
        Ok(StoredRows { marker: content.marker(), rows: content.rows.iter().map(row).collect() })
    }

    async fn look(&self) -> Result<Look, StoreError> {
        let content = self.call('l')?;
        let count = |kind| content.rows.keys().filter(|key| key.kind == kind).count() as u64;
        Ok(Look {
            marker: content.marker(),
            counts: Some(Counts {
                segments: count(ItemKind::Segment),
                flags: count(ItemKind::Flag),
            }),
            server: Some(content.server.to_string().into()),
        })
    }

    async fn fill(&self, rows: &[Row], note: &Note) -> Result<Filled, StoreError> {
        let mut content = self.call('f')?;
        if !content.fills || rows.iter().any(|row| row.json.len() > BYTES_MAX) {
            return Ok(Filled::Impossible);
        }
        if content.marker.is_some() || !content.rows.is_empty() {
            return Ok(Filled::NotEmpty);
        }
        for row in rows {
            content.put(row);
        }
        content.marker = Some(note.value(None));
        Ok(Filled::Done)
    }

    async fn upsert(
        &self,
        rows: &[Row],
        condition: Condition<'_>,
    ) -> Result<Vec<Upserted>, StoreError> {
        let mut content = self.call('u')?;
        let is_there = |wanted| content.marker().is_some_and(|found| found.is_same_set(wanted));
        let is_refused = matches!(condition, Condition::Marked(wanted) if !is_there(wanted));
        if is_refused && !content.ignores_condition {
            return Ok(vec![Upserted::NoMarker; rows.len()]);
        }
        Ok(rows.iter().map(|row| content.put(row)).collect())
    }

    async fn correct(&self, corrections: &[Correction]) -> Result<Vec<bool>, StoreError> {
        let mut content = self.call('c')?;
        let correct = |it: &Correction| {
            let is_same = content.rows.get(&it.found.key) == Some(&it.found.json);
            if is_same {
                match &it.wanted {
                    Some(row) => content.rows.insert(row.key.clone(), row.json.clone()),
                    None => content.rows.remove(&it.found.key),
                };
            }
            is_same
        };
        Ok(corrections.iter().map(correct).collect())
    }

    async fn mark(&self, found: Option<&Marker>, note: &Note) -> Result<Marker, StoreError> {
        let mut content = self.call('m')?;
        if content.marker.as_ref() == found.map(|found| &found.value) {
            content.marker = Some(note.value(found));
        }
        content.marker().ok_or(StoreError::Refused("the marker was removed".into()))
    }
}
