//! A flag store in memory, for tests of the keeper: it fails and hangs on command.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::flagstore::backend::{
    Condition, Correction, Counts, Filled, FlagBackend, Look, Marker, Row, StoredRow, StoredRows,
    Upserted,
};
use crate::flagstore::layout;
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
    pub(super) marker: Option<u64>,
    pub(super) server: u64,
    pub(super) away: bool,
    /// Whether a fill is possible at once.
    pub(super) fills: bool,
    /// Calls so far, by their initial letters: r, l, f, u, c, m.
    pub(super) calls: String,
    /// What somebody else does right before the next call of that letter.
    pub(super) meanwhile: Option<(char, Happens)>,
    marks: u64,
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
        words.extend(content.marker.map(|_| "!".to_owned()));
        words.join(" ")
    }

    fn call(&self, name: char) -> Result<MutexGuard<'_, Content>, StoreError> {
        let mut content = self.content();
        content.calls.push(name);
        if let Some((_, happens)) = content.meanwhile.take_if(|(before, _)| *before == name) {
            happens(&mut content);
        }
        if content.away { Err(StoreError::Unreachable("away".into())) } else { Ok(content) }
    }
}

impl Content {
    fn marker(&self) -> Option<Marker> {
        self.marker.map(|number| Marker(number.to_string().into()))
    }

    fn mark(&mut self) -> Marker {
        if self.marker.is_none() {
            self.marks += 1;
            self.marker = Some(self.marks);
        }
        self.marker().unwrap()
    }

    fn put(&mut self, row: &Row) -> Upserted {
        if row.json.len() > BYTES_MAX {
            return Upserted::TooLarge;
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

    async fn fill(&self, rows: &[Row]) -> Result<Filled, StoreError> {
        let mut content = self.call('f')?;
        if !content.fills {
            return Ok(Filled::Impossible);
        }
        if content.marker.is_some() || !content.rows.is_empty() {
            return Ok(Filled::NotEmpty);
        }
        for row in rows {
            content.put(row);
        }
        content.mark();
        Ok(Filled::Done)
    }

    async fn upsert(
        &self,
        rows: &[Row],
        condition: Condition<'_>,
    ) -> Result<Vec<Upserted>, StoreError> {
        let mut content = self.call('u')?;
        if matches!(condition, Condition::Marked(marker) if content.marker().as_ref() != Some(marker))
        {
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

    async fn mark(&self) -> Result<Marker, StoreError> {
        Ok(self.call('m')?.mark())
    }
}
