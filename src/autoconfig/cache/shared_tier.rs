//! The tier that relays share: reads and writes the rows of one database.
//!
//! Rows stand in two namespaces: our sealed ones under `<cache key>.pilotlight`, ld-relay's under
//! the cache key itself, so that neither removes the other's.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::backend::{Backend, Row, Swap, Swapped};
use super::codec::{CacheKeys, Codec, OpenedRows, Skipped};
use super::manifest::{MANIFEST_NAME, Manifest};
use super::plan::{Desired, Plan, plan};
use super::schedule::{SECOND_LOOK, STREAM_LAG};
use crate::autoconfig::record_set::{CachedSet, RecordSet, Stamp};
use crate::autoconfig::records::decode;
use crate::autoconfig::startup_race::CacheOutcome;
use crate::storage::StoreError;

/// Appended to the cache key for our own rows.
pub const NAMESPACE_SUFFIX: &str = ".pilotlight";

/// How often a write begins anew because a peer wrote at the same time.
const ATTEMPTS_MAX: u32 = 5;

/// A manifest younger than this is not rewritten only to confirm its age.
pub const CONFIRMATION_AGE: Duration = Duration::from_secs(600);

/// Longest pause before a write begins anew: relays hear of the same change at the same moment
/// (design D23).
const CONFLICT_PAUSE_MAX: Duration = Duration::from_millis(300);

/// Which format is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheFormat {
    /// Our sealed format.
    Sealed,
    /// ld-relay's, for mixed fleets.
    LdRelay,
}

/// A shared database seen as a tier of the cache.
#[derive(Debug)]
pub struct SharedTier<B> {
    sealed: B,
    ld_relay: B,
    namespace: String,
    format: CacheFormat,
    /// Random name of this process in manifests.
    writer: String,
}

/// What reading the tier gave.
#[derive(Debug)]
pub struct Reading {
    /// What it holds.
    pub outcome: CacheOutcome<CachedSet>,
    /// What was left out.
    pub skipped: Skipped,
}

/// What a write is to bring about.
#[derive(Debug)]
pub struct Update<'a> {
    /// The accepted records.
    pub desired: &'a Desired,
    /// When LaunchDarkly last confirmed them.
    pub confirmed_at: SystemTime,
    /// Whether the stream is live. If not, whoever wrote later than it was knows better.
    pub live: bool,
    /// When the stream last delivered anything.
    pub heard_at: Instant,
}

/// What is remembered between two writes.
#[derive(Debug, Default)]
pub struct Memory {
    /// Versions of the records of the last write: what is missing from the next was removed.
    written: BTreeMap<String, i64>,
    /// Rows that are not what was desired and wait for a second look, by record name: the row and
    /// when it was first seen. It may have been stored a moment before, so that counts from the
    /// end of the read.
    doubted: BTreeMap<String, (Row, Instant)>,
}

impl Memory {
    /// Since when the oldest row waits for a second look.
    pub fn doubts_since(&self) -> Option<Instant> {
        self.doubted.values().map(|(_, since)| *since).min()
    }

    /// The rows whose time has come: they stand for a while already, and a stream that is alive
    /// has not told of them since.
    fn due(&self, update: &Update<'_>, now: Instant) -> BTreeMap<String, Row> {
        let is_due = |since: Instant| {
            update.live
                && update.heard_at >= since + STREAM_LAG
                && now.saturating_duration_since(since) >= SECOND_LOOK
        };
        let due = self.doubted.iter().filter(|(_, (_, since))| is_due(*since));
        due.map(|(name, (row, _))| (name.clone(), row.clone())).collect()
    }

    fn remember(&mut self, update: &Update<'_>, doubtful: BTreeMap<String, Row>, seen_at: Instant) {
        let versions = update.desired.iter().map(|(name, (version, _))| (name.clone(), *version));
        self.written = versions.collect();
        let mut before = std::mem::take(&mut self.doubted);
        let since = |(name, row): (String, Row)| {
            let known = before.remove(&name).filter(|(known, _)| *known == row);
            let since = known.map_or(seen_at, |(_, since)| since);
            (name, (row, since))
        };
        self.doubted = doubtful.into_iter().map(since).collect();
    }
}

/// What a write did, and what the tier holds after it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows that were changed, the manifest included.
    pub rows: usize,
    /// Records that the database cannot hold.
    pub too_large: Vec<String>,
    /// Records that are stored.
    pub records: usize,
    /// Rows that are there and cannot be used.
    pub skipped: Skipped,
    /// The manifest that stands; `None` in ld-relay's format.
    pub stamp: Option<Stamp>,
    /// Whether everything that should be stored is, and the manifest says so where there is one.
    pub complete: bool,
}

/// What one pass came to.
struct Pass {
    written: Written,
    doubtful: BTreeMap<String, Row>,
    /// When the rows had been read.
    seen_at: Instant,
    /// A peer wrote at the same time.
    conflict: bool,
}

impl<B: Backend> SharedTier<B> {
    /// The tier of a cache key: `sealed` and `ld_relay` are the database under our namespace and
    /// under the cache key itself.
    pub fn new(sealed: B, ld_relay: B, cache_key: &str, format: CacheFormat, writer: &str) -> Self {
        Self {
            sealed,
            ld_relay,
            namespace: format!("shared/{cache_key}{NAMESPACE_SUFFIX}"),
            format,
            writer: writer.to_owned(),
        }
    }

    fn codec(&self, format: CacheFormat, keys: &CacheKeys) -> Codec {
        match format {
            CacheFormat::Sealed => {
                Codec::Sealed { ring: keys.ring.clone(), namespace: self.namespace.clone() }
            }
            CacheFormat::LdRelay => Codec::LdRelay(Box::new(keys.ld_relay.clone())),
        }
    }

    fn backend(&self, format: CacheFormat) -> &B {
        match format {
            CacheFormat::Sealed => &self.sealed,
            CacheFormat::LdRelay => &self.ld_relay,
        }
    }

    /// Reads the environments. ld-relay's rows count where no sealed manifest opens, and where
    /// they are what this fleet writes (design D26).
    pub async fn read(&self, keys: &CacheKeys) -> Result<Reading, StoreError> {
        let ours = self.read_format(CacheFormat::Sealed, keys).await?;
        let manifest = manifest(&ours);
        if self.format == CacheFormat::Sealed && manifest.is_some() {
            return Ok(cached_set(&texts(&ours), manifest, ours.skipped));
        }
        let theirs = self.read_format(CacheFormat::LdRelay, keys).await?;
        let nothing_theirs = theirs.records.is_empty() && theirs.skipped.total() == 0;
        if nothing_theirs {
            return Ok(cached_set(&texts(&ours), manifest, ours.skipped));
        }
        let mut skipped = theirs.skipped;
        skipped.add(ours.skipped);
        Ok(cached_set(&texts(&theirs), None, skipped))
    }

    async fn read_format(
        &self,
        format: CacheFormat,
        keys: &CacheKeys,
    ) -> Result<OpenedRows, StoreError> {
        let rows = self.backend(format).read_all().await?;
        Ok(self.codec(format, keys).open_all(&rows))
    }

    /// Makes the rows hold what is desired. What a peer knows better is left.
    pub async fn write(
        &self,
        keys: &CacheKeys,
        update: &Update<'_>,
        memory: &mut Memory,
    ) -> Result<Written, StoreError> {
        let codec = self.codec(self.format, keys);
        let is_gone = |(name, _): &(&String, &i64)| !update.desired.contains_key(*name);
        let gone: BTreeMap<String, i64> =
            memory.written.iter().filter(is_gone).map(|(name, v)| (name.clone(), *v)).collect();
        let due = memory.due(update, Instant::now());
        let mut rows = 0;
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                tokio::time::sleep(CONFLICT_PAUSE_MAX.mul_f64(fastrand::f64())).await;
            }
            let mut pass = self.pass(&codec, update, &gone, &due).await?;
            rows += pass.written.rows;
            if !pass.conflict {
                memory.remember(update, pass.doubtful, pass.seen_at);
                pass.written.rows = rows;
                return Ok(pass.written);
            }
        }
        Err(StoreError::Unreachable("other relays keep changing the cache at the same time".into()))
    }

    /// One pass: records first, the manifest that vouches for them last.
    async fn pass(
        &self,
        codec: &Codec,
        update: &Update<'_>,
        gone: &BTreeMap<String, i64>,
        due: &BTreeMap<String, Row>,
    ) -> Result<Pass, StoreError> {
        let backend = self.backend(self.format);
        let rows = backend.read_all().await?;
        let seen_at = Instant::now();
        let opened = codec.open_all(&rows);
        let standing = manifest(&opened);
        if let Some(standing) = &standing
            && !update.live
            && standing.stamp.written_at > update.confirmed_at
        {
            let written = unchanged(&opened, standing);
            return Ok(Pass { written, doubtful: BTreeMap::new(), seen_at, conflict: false });
        }
        let mut plan = plan(codec, &rows, &opened, update.desired, gone, due);
        let doubtful = std::mem::take(&mut plan.doubtful);
        let (mut written, conflict) = self.carry_out(codec, plan, update, &rows, &opened).await?;
        if opened.skipped.total() > 0 {
            // Those that stood in a place of ours were overwritten.
            let ours = |row: &&Row| {
                let mut names = update.desired.keys().map(String::as_str).chain([MANIFEST_NAME]);
                names.any(|name| codec.row_name(name) == row.name)
            };
            let others: Vec<Row> = rows.iter().filter(|row| !ours(row)).cloned().collect();
            written.skipped = codec.open_all(&others).skipped;
        }
        Ok(Pass { written, doubtful, seen_at, conflict })
    }

    /// Carries out what was planned. Returns also whether a peer wrote at the same time.
    async fn carry_out(
        &self,
        codec: &Codec,
        plan: Plan,
        update: &Update<'_>,
        rows: &[Row],
        opened: &OpenedRows,
    ) -> Result<(Written, bool), StoreError> {
        let Plan { swaps, doubtful: _, mut texts } = plan;
        let wanted = texts.len();
        let mut written = Written::default();
        let mut conflict = false;
        if !swaps.is_empty() {
            let outcomes = self.backend(self.format).swap(&swaps).await?;
            for (swap, outcome) in swaps.iter().zip(outcomes) {
                match outcome {
                    Swapped::Applied => written.rows += 1,
                    Swapped::Conflict => conflict = true,
                    Swapped::TooLarge => {
                        let is_meant = |name: &&String| codec.row_name(name) == swap.name;
                        if let Some(name) = update.desired.keys().find(is_meant).cloned() {
                            texts.remove(&name);
                            written.too_large.push(name);
                        }
                    }
                }
            }
        }
        written.records = texts.len();
        written.complete = texts.len() == wanted;
        if !conflict && self.format == CacheFormat::Sealed {
            let due = Manifest::of(&texts, wanted, self.stamp(update, opened), &self.writer);
            match self.write_manifest(codec, rows, opened, &due).await? {
                Kept::Standing(stamp) => written.stamp = Some(stamp),
                Kept::Swapped(Swapped::Applied) => {
                    written.rows += 1;
                    written.stamp = Some(due.stamp);
                }
                Kept::Swapped(Swapped::Conflict) => conflict = true,
                Kept::Swapped(Swapped::TooLarge) => written.complete = false,
            }
        }
        Ok((written, conflict))
    }

    fn stamp(&self, update: &Update<'_>, opened: &OpenedRows) -> Stamp {
        let standing = manifest(opened).map_or(0, |standing| standing.stamp.sequence);
        Stamp { written_at: update.confirmed_at, sequence: standing.saturating_add(1) }
    }

    /// Writes the manifest if the one that stands does not say the same of the records, or if its
    /// age is to be confirmed.
    async fn write_manifest(
        &self,
        codec: &Codec,
        rows: &[Row],
        opened: &OpenedRows,
        due: &Manifest,
    ) -> Result<Kept, StoreError> {
        let row_name = codec.row_name(MANIFEST_NAME);
        let in_place = rows.iter().find(|row| row.name == row_name);
        if let Some(standing) = manifest(opened)
            && in_place.is_some()
            && standing.says_the_same_as(due)
            && is_fresh(standing.stamp, due.stamp)
        {
            return Ok(Kept::Standing(standing.stamp));
        }
        let mut swaps = vec![Swap {
            expected: in_place.cloned(),
            value: Some(codec.seal(MANIFEST_NAME, &due.encode())),
            name: row_name.clone(),
        }];
        // A manifest under another key stands under another name.
        if let Some((row, _)) = opened.records.get(MANIFEST_NAME)
            && row.name != row_name
        {
            swaps.push(Swap { name: row.name.clone(), expected: Some(row.clone()), value: None });
        }
        let outcomes = self.backend(self.format).swap(&swaps).await?;
        Ok(Kept::Swapped(outcomes.first().copied().unwrap_or(Swapped::Conflict)))
    }
}

/// What became of the manifest.
enum Kept {
    /// The one that stands will do.
    Standing(Stamp),
    /// A new one was to take its place.
    Swapped(Swapped),
}

/// Whether a manifest need not be written again only to confirm its age. One from the future is
/// by another clock.
pub(super) fn is_fresh(standing: Stamp, now: Stamp) -> bool {
    let age = now.written_at.duration_since(standing.written_at);
    age.map_or(true, |age| age < CONFIRMATION_AGE)
}

/// Nothing was written, because a peer wrote later.
fn unchanged(opened: &OpenedRows, standing: &Manifest) -> Written {
    let texts = texts(opened);
    Written {
        records: texts.len(),
        skipped: opened.skipped,
        stamp: Some(standing.stamp),
        complete: standing.vouches_for(&texts),
        ..Written::default()
    }
}

fn texts(opened: &OpenedRows) -> BTreeMap<String, String> {
    let records = opened.records.values().filter(|(_, record)| record.name != MANIFEST_NAME);
    records.map(|(_, record)| (record.name.clone(), record.text.clone())).collect()
}

fn manifest(opened: &OpenedRows) -> Option<Manifest> {
    Manifest::decode(&opened.records.get(MANIFEST_NAME)?.1.text)
}

/// Judges records that were opened, from whichever tier.
pub(super) fn cached_set(
    texts: &BTreeMap<String, String>,
    manifest: Option<Manifest>,
    mut skipped: Skipped,
) -> Reading {
    let mut complete = manifest.as_ref().is_some_and(|manifest| manifest.vouches_for(texts));
    let mut records = RecordSet::default();
    for (name, text) in texts {
        let taken = decode(text.as_bytes()).is_ok_and(|record| records.insert(name, record));
        if !taken {
            skipped.undecodable += 1;
            complete = false;
        }
    }
    let outcome = if !records.environments.is_empty() {
        let stamp = manifest.map(|manifest| manifest.stamp);
        CacheOutcome::Loaded(CachedSet { records, stamp, complete })
    } else if skipped.total() > 0 {
        CacheOutcome::Unreadable
    } else {
        CacheOutcome::Empty
    };
    Reading { outcome, skipped }
}

#[cfg(test)]
#[path = "shared_tier_tests.rs"]
mod tests;
