//! The tier that relays share, in one database: judges its rows and plans its writes. Pure.
//!
//! Rows are in two namespaces: our sealed ones under `<cache key>.pilotlight`, ld-relay's under the
//! cache key itself, so that neither removes the other's.

mod manifest_place;
mod writing;

use std::collections::BTreeMap;

use tokio::sync::watch;
use tokio::time::Instant;

use self::writing::Writing;
use super::backend::{Row, Swap, Swapped};
use super::codec::{CacheKeys, Codec, OpenedRows};
use super::judge::{Reading, judge};
use super::manifest::{LD_RELAY_MANIFEST_NAME, MANIFEST_NAME, Manifest};
use super::orders::Wanted;
use super::plan::{Claim, is_manifest};
use super::tier::{CacheTier, Part, Purpose, Written};
use crate::autoconfig::adoption::Adopt;
use crate::autoconfig::record_set::SetOrigin;
use crate::autoconfig::startup_race::CacheOutcome;
use crate::replica::{Doubts, Heard, Moment};

/// Appended to the cache key for our own rows.
pub const NAMESPACE_SUFFIX: &str = ".pilotlight";

/// Format that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheFormat {
    /// Our sealed format.
    Sealed,
    /// ld-relay's, for mixed fleets.
    LdRelay,
}

/// A call to the database.
#[derive(Clone, Debug)]
pub enum Call {
    /// All rows of a format.
    Read(CacheFormat),
    /// Changes of rows of a format.
    Swap(CacheFormat, Vec<Swap>),
}

/// An answer of the database.
#[derive(Debug)]
pub enum Answer {
    /// The rows.
    Rows(Vec<Row>),
    /// Result of each change.
    Swapped(Vec<Swapped>),
}

/// A shared database as a tier of the cache.
#[derive(Debug)]
pub struct SharedTier {
    namespace: String,
    format: CacheFormat,
    adopt: Adopt,
    /// Random name of this process in manifests.
    writer: String,
    keys: watch::Receiver<CacheKeys>,
    /// Versions of the records of the last write: those that are missing from the next were
    /// removed.
    written: BTreeMap<String, i64>,
    /// Claims that differ from the wanted records of the last write. They may have been stored a
    /// moment before they were read, so their time counts from the end of the read.
    doubts: Doubts<String, Claim>,
    visit: Visit,
}

/// Rows that one visit has read, and its write.
#[derive(Debug)]
struct Visit {
    purpose: Purpose,
    keys: CacheKeys,
    sealed: Vec<Row>,
    ld_relay: Option<Vec<Row>>,
    /// Time at which the rows had been read.
    seen_at: Option<Instant>,
    writing: Option<Writing>,
}

impl SharedTier {
    /// The tier of a cache key. `writer` names this process in manifests.
    pub fn new(
        cache_key: &str,
        (format, adopt): (CacheFormat, Adopt),
        writer: &str,
        mut keys: watch::Receiver<CacheKeys>,
    ) -> Self {
        let visit = Visit::new(Purpose::Tell, keys.borrow_and_update().clone());
        Self {
            namespace: format!("shared/{cache_key}{NAMESPACE_SUFFIX}"),
            format,
            adopt,
            writer: writer.to_owned(),
            keys,
            written: BTreeMap::new(),
            doubts: Doubts::default(),
            visit,
        }
    }

    fn codec(&self, format: CacheFormat) -> Codec {
        let keys = &self.visit.keys;
        match format {
            CacheFormat::Sealed => Codec::sealed(&keys.ring, &self.namespace),
            CacheFormat::LdRelay => Codec::LdRelay(Box::new(keys.ld_relay.clone())),
        }
    }

    /// The rows in the format that is written.
    fn rows(&self) -> &[Row] {
        match self.format {
            CacheFormat::Sealed => &self.visit.sealed,
            CacheFormat::LdRelay => self.visit.ld_relay.as_deref().unwrap_or_default(),
        }
    }

    /// True if ld-relay's rows count too. In our own format they do only if there are no rows of
    /// ours; whether they may be used is decided where the other tier is known too.
    fn needs_ld_relay(&self, ours: &OpenedRows) -> bool {
        if self.format == CacheFormat::LdRelay {
            return true;
        }
        let holds_ours = ours.records.keys().any(|name| name != LD_RELAY_MANIFEST_NAME)
            || ours.skipped.total() > 0;
        let has_manifest = manifest(ours, MANIFEST_NAME).is_some();
        self.visit.purpose == Purpose::Tell
            && match self.adopt {
                Adopt::Never => false,
                Adopt::Once => !holds_ours,
                Adopt::Always => !has_manifest,
            }
    }

    /// Judges the rows once everything is read.
    fn judged(&self, ours: &OpenedRows) -> Option<Reading> {
        if self.visit.purpose == Purpose::Write {
            return None;
        }
        let Some(rows) = &self.visit.ld_relay else { return Some(judge_sealed(ours)) };
        let theirs = self.codec(CacheFormat::LdRelay).open_all(rows);
        if theirs.records.is_empty() && theirs.skipped.total() == 0 {
            return Some(judge_sealed(ours));
        }
        let mut skipped = theirs.skipped;
        skipped.add(ours.skipped);
        let origin = match self.format {
            CacheFormat::Sealed => SetOrigin::Adopted,
            CacheFormat::LdRelay => SetOrigin::Own,
        };
        let manifest = manifest(ours, LD_RELAY_MANIFEST_NAME);
        let mut reading = judge(&texts_of(&theirs), manifest.as_ref(), skipped, origin);
        if let (SetOrigin::Adopted, CacheOutcome::Loaded(set)) = (origin, &mut reading.outcome) {
            set.unvouched = set.records.versions().into_keys().collect();
            set.stamp = None;
            set.complete = false;
        }
        Some(reading)
    }
}

impl Visit {
    fn new(purpose: Purpose, keys: CacheKeys) -> Self {
        Self { purpose, keys, sealed: Vec::new(), ld_relay: None, seen_at: None, writing: None }
    }
}

impl CacheTier for SharedTier {
    type Call = Call;
    type Answer = Answer;

    fn read(&mut self, purpose: Purpose) -> Part<Call, Option<Reading>> {
        self.visit = Visit::new(purpose, self.keys.borrow_and_update().clone());
        Part::Call(Call::Read(CacheFormat::Sealed))
    }

    fn read_on(&mut self, answer: Answer, at: &Moment) -> Part<Call, Option<Reading>> {
        let Answer::Rows(rows) = answer else { return Part::Overtaken };
        let is_first = self.visit.seen_at.replace(at.now).is_none();
        if is_first {
            self.visit.sealed = rows;
        } else {
            self.visit.ld_relay = Some(rows);
        }
        let ours = self.codec(CacheFormat::Sealed).open_all(&self.visit.sealed);
        if is_first && self.needs_ld_relay(&ours) {
            return Part::Call(Call::Read(CacheFormat::LdRelay));
        }
        Part::Done(self.judged(&ours))
    }

    fn write(&mut self, wanted: &Wanted, at: &Moment) -> Part<Call, Written> {
        self.begin_writing(wanted, at)
    }

    fn write_on(&mut self, answer: Answer, _at: &Moment) -> Part<Call, Written> {
        let Answer::Swapped(outcomes) = answer else { return Part::Overtaken };
        self.go_on_writing(&outcomes)
    }

    fn failed(&mut self) {
        self.visit.writing = None;
    }

    fn has_doubts(&self) -> bool {
        !self.doubts.is_empty()
    }

    fn are_doubts_ripe(&self, heard: Heard, at: &Moment) -> bool {
        self.doubts.are_ripe(heard, at.now)
    }
}

/// Judges rows in our own format by their manifest.
pub fn judge_sealed(ours: &OpenedRows) -> Reading {
    let manifest = manifest(ours, MANIFEST_NAME);
    judge(&texts_of(ours), manifest.as_ref(), ours.skipped, SetOrigin::Own)
}

/// The texts of the records, by name, without manifests.
pub fn texts_of(opened: &OpenedRows) -> BTreeMap<String, String> {
    let records = opened.records.values().filter(|(_, record)| !is_manifest(&record.name));
    records.map(|(_, record)| (record.name.clone(), record.text.clone())).collect()
}

fn manifest(opened: &OpenedRows, name: &str) -> Option<Manifest> {
    Manifest::decode(&opened.records.get(name)?.1.text)
}

#[cfg(test)]
#[path = "shared_tier_tests.rs"]
mod tests;
