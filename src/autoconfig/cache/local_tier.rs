//! The tier of this machine: records in the embedded store, all of them with their manifest in
//! one transaction. Pure.

use std::collections::BTreeMap;
use std::fmt;

use tokio::sync::watch;

use super::codec::Skipped;
use super::judge::{Reading, judge};
use super::manifest::{Entry, MANIFEST_NAME, Manifest};
use super::orders::{Source, Wanted};
use super::tier::{CacheTier, Part, Purpose, Written, is_fresh};
use crate::autoconfig::record_set::{Gone, SetOrigin, Stamp, add_gone, next_order};
use crate::autoconfig::startup_race::CacheOutcome;
use crate::replica::Moment;
use crate::storage::local::{LocalStoreStatus, NamedRecords};

/// Records by name, with their versions.
type Encoded = BTreeMap<String, (i64, String)>;

/// Space of the store that holds the records. Fixed: independent of the shared cache's key.
pub(super) const SPACE: &str = "autoconfig";

/// Treatment of records that do not open with the configured keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// They stay: with the right key they may open again.
    Keep,
    /// They are removed.
    Remove,
}

/// A call to the store.
#[derive(Clone, Debug)]
pub enum Call {
    /// Everything in the space.
    Load,
    /// These changes, in one transaction.
    Store {
        /// Records by name.
        puts: Vec<(String, Vec<u8>)>,
        /// Names of records to remove.
        deletes: Vec<String>,
        /// Treatment of records that do not open.
        closed: Closed,
    },
}

/// An answer of the store.
#[derive(Debug)]
pub enum Answer {
    /// Everything in the space.
    Loaded {
        /// The records.
        records: NamedRecords,
        /// True if a file was set aside: its content is not known.
        has_set_aside: bool,
    },
    /// The changes are made.
    Stored,
}

/// The embedded store as a tier of the cache.
#[derive(Debug)]
pub struct LocalTier {
    writer: String,
    status: watch::Receiver<LocalStoreStatus>,
    /// Number of times that the store's file had been replaced when `stored` was in it.
    replaced: u64,
    /// The stored content, as far as it is known.
    stored: Option<Stored>,
    /// Content of a replaced file, while nothing newer is known.
    to_restore: Option<Stored>,
    /// The stored content after the write under way, and the result of that write.
    writing: Option<(Stored, Written)>,
}

/// Content of the space.
#[derive(Default)]
struct Stored {
    texts: BTreeMap<String, String>,
    manifest: Option<Manifest>,
    skipped: Skipped,
}

/// Shows the number of records and not the records: they hold SDK keys.
impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored")
            .field("texts", &self.texts.len())
            .field("manifest", &self.manifest)
            .field("skipped", &self.skipped)
            .finish()
    }
}

impl LocalTier {
    /// The tier in a store of that status. `writer` names this process in manifests.
    pub fn new(writer: &str, status: watch::Receiver<LocalStoreStatus>) -> Self {
        Self {
            writer: writer.to_owned(),
            status,
            replaced: 0,
            stored: None,
            to_restore: None,
            writing: None,
        }
    }

    /// Notes if the file was replaced by an empty one.
    fn look_for_loss(&mut self) {
        let replaced = self.status.borrow().replaced;
        if replaced != self.replaced {
            self.replaced = replaced;
            self.to_restore = self.stored.take().or(self.to_restore.take());
        }
    }

    fn loaded(&mut self, records: NamedRecords, has_set_aside: bool) -> Reading {
        let stored = self.stored.insert(Stored::of(records));
        let reading = stored.judged();
        match reading.outcome {
            CacheOutcome::Empty if has_set_aside => {
                Reading { outcome: CacheOutcome::Unreadable, ..reading }
            }
            CacheOutcome::Loaded(_)
            | CacheOutcome::Empty
            | CacheOutcome::Unavailable
            | CacheOutcome::Unreadable => reading,
        }
    }

    /// The next manifest over the held content.
    fn due(
        &self,
        wanted: &Wanted,
        encoded: &Encoded,
        missing: &BTreeMap<String, i64>,
        held: &Stored,
    ) -> Manifest {
        let entry = |(name, (version, text)): (&String, &(i64, String))| {
            (name.clone(), Entry::of(name, *version, text))
        };
        let mut records: BTreeMap<String, Entry> = encoded.iter().map(entry).collect();
        for (name, version) in missing {
            let listed = held.manifest.as_ref().and_then(|manifest| manifest.records.get(name));
            let listed = listed.filter(|entry| entry.version >= *version).cloned();
            records.insert(name.clone(), listed.unwrap_or(Entry::of_missing(*version)));
        }
        let standing = held.manifest.as_ref().map(|manifest| manifest.stamp);
        let gone = removed(held.manifest.as_ref(), wanted, &records);
        Manifest {
            stamp: Stamp {
                confirmed_at: wanted.confirmed_at,
                sequence: standing.map_or(0, |stamp| stamp.sequence).saturating_add(1),
            },
            writer: self.writer.clone(),
            records,
            gone,
            adopted: wanted.is_adopted(),
        }
    }
}

/// Judges records of the space as a start does.
#[cfg(test)]
pub fn judge_local(records: NamedRecords) -> Reading {
    Stored::of(records).judged()
}

impl Stored {
    fn of(NamedRecords { records, skipped }: NamedRecords) -> Self {
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let mut skipped = Skipped {
            unknown_key: count(skipped.unknown_key),
            forged: count(skipped.forged),
            undecodable: count(skipped.format),
            rolled_back: 0,
        };
        let mut texts = BTreeMap::new();
        for record in records {
            match String::from_utf8(record.value) {
                Ok(text) => {
                    texts.insert(record.name, text);
                }
                Err(_) => skipped.undecodable += 1,
            }
        }
        let manifest = texts.remove(MANIFEST_NAME).as_deref().and_then(Manifest::decode);
        Self { texts, manifest, skipped }
    }

    /// What the space tells at a start.
    fn judged(&self) -> Reading {
        judge(&self.texts, self.manifest.as_ref(), self.skipped, SetOrigin::Own)
    }

    /// The call that makes the space hold these records instead of what it holds.
    fn replaced_by(
        &self,
        texts: &BTreeMap<String, String>,
        manifest: &Manifest,
        closed: Closed,
    ) -> Call {
        let is_changed = |(name, text): &(&String, &String)| {
            closed == Closed::Remove || self.texts.get(*name) != Some(*text)
        };
        let changed = texts.iter().filter(is_changed);
        let mut puts: Vec<(String, Vec<u8>)> =
            changed.map(|(name, text)| (name.clone(), text.clone().into_bytes())).collect();
        puts.push((MANIFEST_NAME.to_owned(), manifest.encode().into_bytes()));
        let is_gone = |name: &&String| !texts.contains_key(*name);
        let deletes: Vec<String> = self.texts.keys().filter(is_gone).cloned().collect();
        Call::Store { puts, deletes, closed }
    }
}

impl CacheTier for LocalTier {
    type Call = Call;
    type Answer = Answer;

    fn read(&mut self, purpose: Purpose) -> Part<Call, Option<Reading>> {
        self.look_for_loss();
        match (purpose, &self.to_restore) {
            (Purpose::Write, _) if self.stored.is_some() => Part::Done(None),
            (_, Some(Stored { texts, manifest: Some(manifest), .. })) => {
                // The store's own content is written back as it was read.
                let call = Stored::default().replaced_by(texts, manifest, Closed::Keep);
                Part::Call(call)
            }
            (Purpose::Tell | Purpose::Write, _) => Part::Call(Call::Load),
        }
    }

    fn read_on(&mut self, answer: Answer, _at: &Moment) -> Part<Call, Option<Reading>> {
        self.to_restore = None;
        match answer {
            Answer::Stored => Part::Call(Call::Load),
            Answer::Loaded { records, has_set_aside } => {
                Part::Done(Some(self.loaded(records, has_set_aside)))
            }
        }
    }

    fn write(&mut self, wanted: &Wanted, _at: &Moment) -> Part<Call, Written> {
        self.to_restore = None;
        // Taken out, so that after an error the store is read again: then its content is not known.
        let held = self.stored.take().unwrap_or_default();
        let encoded = wanted.records.encoded();
        let missing = wanted.missing();
        let due = self.due(wanted, &encoded, &missing, &held);
        let mut texts: BTreeMap<String, String> =
            encoded.into_iter().map(|(name, (_, text))| (name, text)).collect();
        for name in &wanted.records.unusable {
            // Its last good form stays.
            texts.extend(held.texts.get(name).map(|text| (name.clone(), text.clone())));
        }
        let closed = match wanted.source {
            // Records that cannot be read are no longer needed.
            Source::Stream if held.skipped.total() > 0 => Closed::Remove,
            Source::Stream | Source::Tiers(_) => Closed::Keep,
        };
        let skipped = if closed == Closed::Keep { held.skipped } else { Skipped::default() };
        let written = Written {
            records: texts.len(),
            complete: missing.is_empty() && !wanted.is_adopted(),
            skipped,
            ..Written::default()
        };
        if let Some(standing) = &held.manifest
            && held.texts == texts
            && closed == Closed::Keep
            && standing.says_the_same_as(&due)
            && is_fresh(standing.stamp, due.stamp)
        {
            let stamp = Some(standing.stamp);
            self.stored = Some(held);
            return Part::Done(Written { stamp, ..written });
        }
        let call = held.replaced_by(&texts, &due, closed);
        let rows = match &call {
            Call::Store { puts, deletes, .. } => puts.len() + deletes.len(),
            Call::Load => 0,
        };
        let stamp = Some(due.stamp);
        let stored = Stored { texts, manifest: Some(due), skipped };
        self.writing = Some((stored, Written { rows, stamp, ..written }));
        Part::Call(call)
    }

    fn write_on(&mut self, _answer: Answer, _at: &Moment) -> Part<Call, Written> {
        let Some((stored, written)) = self.writing.take() else { return Part::Overtaken };
        self.stored = Some(stored);
        Part::Done(written)
    }

    fn failed(&mut self) {
        // A write has taken `stored` out; a read leaves it, so that it can be restored.
        self.writing = None;
    }
}

/// The removals that the next manifest lists beside these records: the known ones, and records of
/// the present manifest that LaunchDarkly no longer sends. That one tier lacks a record does not
/// remove it.
fn removed(
    standing: Option<&Manifest>,
    wanted: &Wanted,
    listed: &BTreeMap<String, Entry>,
) -> BTreeMap<String, Gone> {
    let mut gone = wanted.records.gone.clone();
    let exists = wanted.records.versions();
    if let Some(standing) = standing {
        add_gone(&mut gone, &standing.gone);
        let order = next_order(&gone);
        for (name, entry) in standing.records.iter().filter(|_| wanted.is_from_stream()) {
            if !listed.contains_key(name) {
                add_gone(&mut gone, [(name, &Gone { version: entry.version, order })]);
            }
        }
    }
    gone.retain(|name, _| !exists.contains_key(name));
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::local::NamedRecord;

    #[test]
    fn debug_shows_counts_and_no_records() {
        let texts = BTreeMap::from([("env:a".to_owned(), "sdk-1".to_owned())]);
        let shown = format!("{:?}", Stored { texts, ..Stored::default() });
        assert!(shown.contains("texts: 1,") && !shown.contains("sdk-1"), "{shown}");
    }

    #[test]
    fn what_a_file_held_is_restored_although_reading_failed_before_it_was_replaced() {
        let status = watch::Sender::new(LocalStoreStatus::default());
        let mut tier = LocalTier::new("w", status.subscribe());
        let at = Moment::present();
        assert!(matches!(tier.read(Purpose::Tell), Part::Call(Call::Load)));
        let manifest = Manifest {
            stamp: Stamp { confirmed_at: None, sequence: 1 },
            writer: String::new(),
            records: BTreeMap::new(),
            gone: BTreeMap::new(),
            adopted: false,
        };
        let records = vec![NamedRecord {
            name: MANIFEST_NAME.to_owned(),
            value: manifest.encode().into_bytes(),
        }];
        let records = NamedRecords { records, ..NamedRecords::default() };
        let answer = Answer::Loaded { records, has_set_aside: false };
        assert!(matches!(tier.read_on(answer, &at), Part::Done(Some(_))));

        assert!(matches!(tier.read(Purpose::Tell), Part::Call(Call::Load)));
        tier.failed();
        status.send_modify(|status| status.replaced += 1);
        for purpose in [Purpose::Tell, Purpose::Write] {
            match tier.read(purpose) {
                Part::Call(Call::Store { puts, .. }) => assert_eq!(puts[0].0, MANIFEST_NAME),
                other => panic!("{other:?}"),
            }
        }
    }
}
