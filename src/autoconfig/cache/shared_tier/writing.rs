//! The write of a visit: records first, the manifest that vouches for them last.

use std::collections::{BTreeMap, HashSet};

use super::manifest_place::ManifestPlace;
use super::{CacheFormat, Call, SharedTier, texts_of};
use crate::autoconfig::cache::backend::{Row, Swapped};
use crate::autoconfig::cache::manifest::{LD_RELAY_MANIFEST_NAME, Manifest};
use crate::autoconfig::cache::orders::Wanted;
use crate::autoconfig::cache::plan::{Claim, Desired, Known, Plan, Stored, plan_live, plan_upward};
use crate::autoconfig::cache::tier::{Part, Written, is_fresh};
use crate::autoconfig::record_set::Stamp;
use crate::replica::Moment;

/// A write under way.
#[derive(Debug)]
pub(super) struct Writing {
    wanted: Wanted,
    desired: Desired,
    place: ManifestPlace,
    /// The present manifest.
    standing: Option<Manifest>,
    /// True if there is no row in the format that is written.
    is_empty: bool,
    plan: Plan,
    doubtful: BTreeMap<String, Claim>,
    written: Written,
    /// The manifest that is being written.
    due: Option<Manifest>,
}

impl SharedTier {
    pub(super) fn begin_writing(&mut self, wanted: &Wanted, at: &Moment) -> Part<Call, Written> {
        let mut desired = wanted.records.encoded();
        let missing = wanted.missing();
        // Records that no manifest vouches for are not passed on.
        desired.retain(|name, _| !missing.contains_key(name));
        let codec = self.codec(self.format);
        let sealed = self.codec(CacheFormat::Sealed).open_all(&self.visit.sealed);
        let place = ManifestPlace::new(self, &sealed);
        let opened = match self.format {
            CacheFormat::Sealed => sealed,
            CacheFormat::LdRelay => codec.open_all(self.rows()),
        };
        let mut rows: Vec<Row> = self.rows().to_vec();
        if let Some((other, _)) = opened.records.get(LD_RELAY_MANIFEST_NAME) {
            // It belongs to the rows of the other format.
            rows.retain(|row| row.name != other.name);
        }
        let standing = place.manifest();
        let stored = Stored { rows: &rows, opened: &opened, manifest: standing.as_ref() };
        let known = Known { desired: &desired, gone: &wanted.records.gone, missing: &missing };
        let mut plan = if wanted.live {
            let is_gone = |(name, _): &(&String, &i64)| !desired.contains_key(*name);
            let removed = self.written.iter().filter(is_gone);
            let removed = removed.map(|(name, version)| (name.clone(), *version)).collect();
            let due = self.doubts.ripe(wanted.heard, at.now);
            plan_live(&codec, stored, known, &removed, &due)
        } else {
            plan_upward(&codec, stored, known)
        };
        let added: HashSet<&String> = plan.written.iter().collect();
        let is_stored = |name: &&String| opened.records.contains_key(*name) || added.contains(name);
        let records = plan.records.keys().filter(is_stored).count();
        let complete = records == plan.records.len();
        let mut written = Written { records, complete, ..Written::default() };
        for (name, error) in &opened.closed {
            // Rows in a place of ours are overwritten.
            if !plan.row_names.contains(name) && *name != place.row_name {
                written.skipped.count(*error);
            }
        }
        if let (false, true, Some(standing)) = (wanted.live, plan.swaps.is_empty(), &standing) {
            // The cache is left as it is.
            let texts = texts_of(&opened);
            written.records = texts.len();
            written.complete = standing.vouches_for(&texts);
        }
        let doubtful = std::mem::take(&mut plan.doubtful);
        let is_empty = rows.is_empty();
        let swaps = std::mem::take(&mut plan.swaps);
        self.visit.writing = Some(Writing {
            wanted: wanted.clone(),
            desired,
            place,
            standing,
            is_empty,
            plan,
            doubtful,
            written,
            due: None,
        });
        if swaps.is_empty() {
            self.write_manifest()
        } else {
            Part::Call(Call::Swap(self.format, swaps))
        }
    }

    pub(super) fn go_on_writing(&mut self, outcomes: &[Swapped]) -> Part<Call, Written> {
        let Some(writing) = &mut self.visit.writing else { return Part::Overtaken };
        let applied = outcomes.iter().filter(|outcome| **outcome == Swapped::Applied).count();
        if let Some(due) = writing.due.take() {
            return match outcomes.first() {
                Some(Swapped::Applied) => {
                    writing.written.rows += 1;
                    writing.written.stamp = Some(due.stamp);
                    self.done()
                }
                Some(Swapped::TooLarge) => {
                    writing.written.complete = false;
                    self.done()
                }
                Some(Swapped::Conflict) | None => Part::Overtaken,
            };
        }
        writing.written.rows += applied;
        let names = outcomes.iter().zip(&writing.plan.written);
        let too_large = names.filter(|(outcome, _)| **outcome == Swapped::TooLarge);
        writing.written.too_large = too_large.map(|(_, name)| name.clone()).collect();
        if outcomes.contains(&Swapped::Conflict) {
            return Part::Overtaken;
        }
        self.write_manifest()
    }

    fn write_manifest(&mut self) -> Part<Call, Written> {
        let Some(writing) = &mut self.visit.writing else { return Part::Overtaken };
        let Writing { wanted, plan, standing, written, place, is_empty, .. } = writing;
        if !written.too_large.is_empty() {
            written.records -= written.too_large.len();
            written.complete = false;
        }
        // A relay whose stream is not live cannot vouch for what it found without a manifest.
        let has_nothing = plan.records.is_empty() && plan.gone.is_empty();
        let may_vouch = wanted.live || standing.is_some() || (*is_empty && !has_nothing);
        if !may_vouch {
            written.complete = false;
            return self.done();
        }
        let stamp = standing.as_ref().map(|manifest| manifest.stamp);
        let confirmed_at = match stamp {
            Some(standing) if !wanted.live => standing.confirmed_at,
            Some(_) | None => wanted.confirmed_at,
        };
        let sequence = stamp.map_or(0, |stamp| stamp.sequence).saturating_add(1);
        let due = Manifest {
            stamp: Stamp { confirmed_at, sequence },
            writer: self.writer.clone(),
            records: std::mem::take(&mut plan.records),
            gone: std::mem::take(&mut plan.gone),
            adopted: false,
        };
        // Only a relay whose stream is live moves the manifest from a former key to the current
        // one.
        let may_stay = !wanted.live || place.in_place.is_some();
        let stays = standing.as_ref().filter(|standing| {
            may_stay && standing.says_the_same_as(&due) && is_fresh(standing.stamp, due.stamp)
        });
        if let Some(standing) = stays {
            written.stamp = Some(standing.stamp);
            return self.done();
        }
        let swaps = place.swaps(&due);
        writing.due = Some(due);
        Part::Call(Call::Swap(CacheFormat::Sealed, swaps))
    }

    fn done(&mut self) -> Part<Call, Written> {
        let Some(writing) = self.visit.writing.take() else { return Part::Overtaken };
        if writing.wanted.live {
            let versions = writing.desired.iter();
            self.written = versions.map(|(name, (version, _))| (name.clone(), *version)).collect();
            if let Some(seen_at) = self.visit.seen_at {
                self.doubts.note(writing.doubtful, seen_at);
            }
        }
        Part::Done(writing.written)
    }
}
