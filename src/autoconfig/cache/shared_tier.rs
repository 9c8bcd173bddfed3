//! The tier that relays share: reads and writes the rows of one database.
//!
//! Rows stand in two namespaces: our sealed ones under `<cache key>.pilotlight`, ld-relay's under
//! the cache key itself, so that neither removes the other's.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::backend::{Backend, Row, Swap, Swapped};
use super::codec::{CacheKeys, Codec, OpenedRows, Skipped};
use super::judge::{Reading, judge};
use super::manifest::{LD_RELAY_MANIFEST_NAME, MANIFEST_NAME, Manifest};
use super::plan::{Claim, Desired, Known, Plan, Stored, is_manifest, plan_live, plan_upward};
use super::schedule::{SECOND_LOOK, STREAM_LAG};
use crate::autoconfig::adoption::Adopt;
use crate::autoconfig::record_set::{Gone, SetOrigin, Stamp};
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
    adopt: Adopt,
    /// Random name of this process in manifests.
    writer: String,
}

/// What a write is to bring about.
pub struct Update<'a> {
    /// The records that exist.
    pub desired: &'a Desired,
    /// Records that were removed.
    pub gone: &'a BTreeMap<String, Gone>,
    /// When LaunchDarkly last confirmed them, if that is known.
    pub confirmed_at: Option<SystemTime>,
    /// Whether the stream is live. If not, only what is newer by version than anything stored is
    /// written.
    pub live: bool,
    /// When the stream last delivered anything.
    pub heard_at: Instant,
}

/// Shows how many records there are and not the records: they hold SDK keys.
impl fmt::Debug for Update<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Update")
            .field("desired", &self.desired.len())
            .field("gone", &self.gone.len())
            .field("confirmed_at", &self.confirmed_at)
            .field("live", &self.live)
            .field("heard_at", &self.heard_at)
            .finish()
    }
}

/// What is remembered between two writes.
#[derive(Debug, Default)]
pub struct Memory {
    /// Versions of the records of the last write: what is missing from the next was removed.
    written: BTreeMap<String, i64>,
    /// What differs from what was desired and waits for a second look, by record name, with the
    /// moment when it was first seen. It may have been stored a moment before, so that counts from
    /// the end of the read.
    doubted: BTreeMap<String, (Claim, Instant)>,
}

impl Memory {
    /// Since when the oldest difference waits for a second look.
    pub fn doubts_since(&self) -> Option<Instant> {
        self.doubted.values().map(|(_, since)| *since).min()
    }

    /// The differences whose time has come: they stand for a while already, and a stream that is
    /// alive has not told of them since.
    fn due(&self, update: &Update<'_>, now: Instant) -> BTreeMap<String, Claim> {
        let is_due = |since: Instant| {
            update.live
                && update.heard_at >= since + STREAM_LAG
                && now.saturating_duration_since(since) >= SECOND_LOOK
        };
        let due = self.doubted.iter().filter(|(_, (_, since))| is_due(*since));
        due.map(|(name, (claim, _))| (name.clone(), claim.clone())).collect()
    }

    fn remember(
        &mut self,
        update: &Update<'_>,
        doubtful: BTreeMap<String, Claim>,
        seen_at: Instant,
    ) {
        let versions = update.desired.iter().map(|(name, (version, _))| (name.clone(), *version));
        self.written = versions.collect();
        let mut before = std::mem::take(&mut self.doubted);
        let since = |(name, claim): (String, Claim)| {
            let known = before.remove(&name).filter(|(known, _)| *known == claim);
            let since = known.map_or(seen_at, |(_, since)| since);
            (name, (claim, since))
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
    doubtful: BTreeMap<String, Claim>,
    /// When the rows had been read.
    seen_at: Instant,
    /// A peer wrote at the same time.
    conflict: bool,
}

impl<B: Backend> SharedTier<B> {
    /// The tier of a cache key: `sealed` and `ld_relay` are the database under our namespace and
    /// under the cache key itself.
    pub fn new(
        sealed: B,
        ld_relay: B,
        cache_key: &str,
        (format, adopt): (CacheFormat, Adopt),
        writer: &str,
    ) -> Self {
        Self {
            sealed,
            ld_relay,
            namespace: format!("shared/{cache_key}{NAMESPACE_SUFFIX}"),
            format,
            adopt,
            writer: writer.to_owned(),
        }
    }

    fn codec(&self, format: CacheFormat, keys: &CacheKeys) -> Codec {
        match format {
            CacheFormat::Sealed => Codec::sealed(&keys.ring, &self.namespace),
            CacheFormat::LdRelay => Codec::LdRelay(Box::new(keys.ld_relay.clone())),
        }
    }

    fn backend(&self, format: CacheFormat) -> &B {
        match format {
            CacheFormat::Sealed => &self.sealed,
            CacheFormat::LdRelay => &self.ld_relay,
        }
    }

    /// Reads the environments.
    ///
    /// In our own format ld-relay's rows are read only where nothing of ours stands; whether they
    /// may be used is decided where the other tier is known too (design D42). In ld-relay's format
    /// our own rows count where ld-relay has none.
    pub async fn read(&self, keys: &CacheKeys) -> Result<Reading, StoreError> {
        let ours = self.read_format(CacheFormat::Sealed, keys).await?;
        let of_ours = |skipped| {
            judge(&texts(&ours), manifest(&ours, MANIFEST_NAME).as_ref(), skipped, SetOrigin::Own)
        };
        let holds_ours = ours.records.keys().any(|name| name != LD_RELAY_MANIFEST_NAME)
            || ours.skipped.total() > 0;
        if self.format == CacheFormat::Sealed
            && (holds_ours || self.adopt == Adopt::Never)
            && !(self.adopt == Adopt::Always && manifest(&ours, MANIFEST_NAME).is_none())
        {
            return Ok(of_ours(ours.skipped));
        }
        let theirs = self.read_format(CacheFormat::LdRelay, keys).await?;
        if theirs.records.is_empty() && theirs.skipped.total() == 0 {
            return Ok(of_ours(ours.skipped));
        }
        let mut skipped = theirs.skipped;
        skipped.add(ours.skipped);
        let origin = match self.format {
            CacheFormat::Sealed => SetOrigin::Adopted,
            CacheFormat::LdRelay => SetOrigin::Own,
        };
        let manifest = manifest(&ours, LD_RELAY_MANIFEST_NAME);
        let mut reading = judge(&texts(&theirs), manifest.as_ref(), skipped, origin);
        if let (SetOrigin::Adopted, CacheOutcome::Loaded(set)) = (origin, &mut reading.outcome) {
            set.unvouched = set.records.versions().into_keys().collect();
            set.stamp = None;
            set.complete = false;
        }
        Ok(reading)
    }

    async fn read_format(
        &self,
        format: CacheFormat,
        keys: &CacheKeys,
    ) -> Result<OpenedRows, StoreError> {
        let rows = self.backend(format).read_all().await?;
        Ok(self.codec(format, keys).open_all(&rows))
    }

    /// Makes the rows hold what is known. What a peer knows better is left.
    pub async fn write(
        &self,
        keys: &CacheKeys,
        update: &Update<'_>,
        memory: &mut Memory,
    ) -> Result<Written, StoreError> {
        let is_gone = |(name, _): &(&String, &i64)| !update.desired.contains_key(*name);
        let removed: BTreeMap<String, i64> =
            memory.written.iter().filter(is_gone).map(|(name, v)| (name.clone(), *v)).collect();
        let due = memory.due(update, Instant::now());
        let mut rows = 0;
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                tokio::time::sleep(CONFLICT_PAUSE_MAX.mul_f64(fastrand::f64())).await;
            }
            let mut pass = self.pass(keys, update, &removed, &due).await?;
            rows += pass.written.rows;
            if !pass.conflict {
                if update.live {
                    memory.remember(update, pass.doubtful, pass.seen_at);
                }
                pass.written.rows = rows;
                return Ok(pass.written);
            }
        }
        Err(StoreError::Unreachable("other relays keep changing the cache at the same time".into()))
    }

    /// One pass: records first, the manifest that vouches for them last.
    async fn pass(
        &self,
        keys: &CacheKeys,
        update: &Update<'_>,
        removed: &BTreeMap<String, i64>,
        due: &BTreeMap<String, Claim>,
    ) -> Result<Pass, StoreError> {
        let codec = self.codec(self.format, keys);
        let place = self.read_manifest_place(keys).await?;
        let mut rows = match &place.rows {
            Some(rows) => rows.clone(),
            None => self.backend(self.format).read_all().await?,
        };
        let seen_at = Instant::now();
        let opened = codec.open_all(&rows);
        if let Some((other, _)) = opened.records.get(LD_RELAY_MANIFEST_NAME) {
            // It belongs to the rows of the other format.
            rows.retain(|row| row.name != other.name);
        }
        let manifest = place.manifest(&opened);
        let stored = Stored { rows: &rows, opened: &opened, manifest: manifest.as_ref() };
        let known = Known { desired: update.desired, gone: update.gone };
        let mut plan = if update.live {
            plan_live(&codec, stored, known, removed, due)
        } else {
            plan_upward(&codec, stored, known)
        };
        let doubtful = std::mem::take(&mut plan.doubtful);
        let (mut written, conflict) = self.carry_out(plan, update, stored, &place).await?;
        if let (Some(standing), false) = (&manifest, written.rows > 0)
            && !update.live
        {
            let texts = texts(&opened);
            written.records = texts.len();
            written.complete = standing.vouches_for(&texts);
        }
        Ok(Pass { written, doubtful, seen_at, conflict })
    }

    /// Where the manifest stands, and what stands there.
    async fn read_manifest_place(&self, keys: &CacheKeys) -> Result<ManifestPlace, StoreError> {
        let codec = self.codec(CacheFormat::Sealed, keys);
        let name = match self.format {
            CacheFormat::Sealed => MANIFEST_NAME,
            CacheFormat::LdRelay => LD_RELAY_MANIFEST_NAME,
        };
        let row_name = codec.row_name(name);
        let rows = self.sealed.read_all().await?;
        let in_place = rows.iter().find(|row| row.name == row_name).cloned();
        let opened = match self.format {
            CacheFormat::Sealed => None,
            CacheFormat::LdRelay => codec.open_all(&rows).records.remove(name),
        };
        let rows = (self.format == CacheFormat::Sealed).then_some(rows);
        Ok(ManifestPlace { codec, name, row_name, in_place, opened, rows })
    }

    /// Carries out what was planned. Returns also whether a peer wrote at the same time.
    async fn carry_out(
        &self,
        plan: Plan,
        update: &Update<'_>,
        stored: Stored<'_>,
        place: &ManifestPlace,
    ) -> Result<(Written, bool), StoreError> {
        let mut written = Written { complete: true, ..Written::default() };
        let mut conflict = false;
        if !plan.swaps.is_empty() {
            let outcomes = self.backend(self.format).swap(&plan.swaps).await?;
            for (index, outcome) in outcomes.into_iter().enumerate() {
                match outcome {
                    Swapped::Applied => written.rows += 1,
                    Swapped::Conflict => conflict = true,
                    Swapped::TooLarge => written.too_large.extend(plan.written.get(index).cloned()),
                }
            }
        }
        written.records = plan.records.len() - written.too_large.len();
        written.complete = written.too_large.is_empty();
        for (name, error) in &stored.opened.closed {
            // Those that stood in a place of ours were overwritten.
            if !plan.row_names.contains(name) && *name != place.row_name {
                written.skipped.count(*error);
            }
        }
        // A relay whose stream is not live cannot vouch for what it found without a manifest.
        let has_nothing = plan.records.is_empty() && plan.gone.is_empty();
        let may_vouch =
            update.live || stored.manifest.is_some() || (stored.rows.is_empty() && !has_nothing);
        if !conflict && may_vouch {
            let standing = stored.manifest.map(|manifest| manifest.stamp);
            let sequence = standing.map_or(0, |stamp| stamp.sequence).saturating_add(1);
            let confirmed_at = match standing {
                Some(standing) if !update.live => standing.confirmed_at,
                Some(_) | None => update.confirmed_at,
            };
            let due = Manifest {
                stamp: Stamp { confirmed_at, sequence },
                writer: self.writer.clone(),
                records: plan.records,
                gone: plan.gone,
                adopted: false,
            };
            // Only a relay whose stream is live moves it from a former key to the current one.
            let may_stay = !update.live || place.in_place.is_some();
            let standing = stored.manifest.filter(|standing| {
                may_stay && standing.says_the_same_as(&due) && is_fresh(standing.stamp, due.stamp)
            });
            let kept = match standing {
                Some(standing) => Kept::Standing(standing.stamp),
                None => Kept::Swapped(self.write_manifest(stored.opened, place, &due).await?),
            };
            written.stamp = match kept {
                Kept::Standing(stamp) => Some(stamp),
                Kept::Swapped(Swapped::Applied) => {
                    written.rows += 1;
                    Some(due.stamp)
                }
                Kept::Swapped(Swapped::Conflict) => {
                    conflict = true;
                    None
                }
                Kept::Swapped(Swapped::TooLarge) => {
                    written.complete = false;
                    None
                }
            };
        }
        Ok((written, conflict))
    }

    async fn write_manifest(
        &self,
        opened: &OpenedRows,
        place: &ManifestPlace,
        due: &Manifest,
    ) -> Result<Swapped, StoreError> {
        let mut swaps = vec![Swap {
            expected: place.in_place.clone(),
            value: Some(place.codec.seal(place.name, &due.encode())),
            name: place.row_name.clone(),
        }];
        // A manifest under another key stands under another name.
        if let Some(row) = place.former_row(opened) {
            swaps.push(Swap { name: row.name.clone(), expected: Some(row), value: None });
        }
        let outcomes = self.sealed.swap(&swaps).await?;
        Ok(outcomes.first().copied().unwrap_or(Swapped::Conflict))
    }
}

/// The manifest of the format that is written, among our sealed rows.
struct ManifestPlace {
    codec: Codec,
    /// Name of its record.
    name: &'static str,
    /// Name of its row under the current key.
    row_name: String,
    /// What stands in that row, readable or not.
    in_place: Option<Row>,
    /// The manifest of ld-relay's rows, if one opens.
    opened: Option<(Row, super::codec::OpenedRow)>,
    /// All sealed rows, where they are the ones that are written.
    rows: Option<Vec<Row>>,
}

impl ManifestPlace {
    fn record<'a>(&'a self, opened: &'a OpenedRows) -> Option<&'a (Row, super::codec::OpenedRow)> {
        self.opened
            .as_ref()
            .or_else(|| opened.records.get(self.name).filter(|_| self.rows.is_some()))
    }

    fn manifest(&self, opened: &OpenedRows) -> Option<Manifest> {
        Manifest::decode(&self.record(opened)?.1.text)
    }

    /// The row of a manifest under a former key.
    fn former_row(&self, opened: &OpenedRows) -> Option<Row> {
        let (row, _) = self.record(opened)?;
        (row.name != self.row_name).then(|| row.clone())
    }
}

/// What became of the manifest.
enum Kept {
    /// The one that stands will do.
    Standing(Stamp),
    /// It does not say the same of the records, or its age is to be confirmed: a new one was to
    /// take its place.
    Swapped(Swapped),
}

/// Whether a manifest need not be written again only to confirm its age. One from the future is
/// by another clock.
pub(super) fn is_fresh(standing: Stamp, now: Stamp) -> bool {
    match (standing.confirmed_at, now.confirmed_at) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(standing), Some(now)) => {
            now.duration_since(standing).map_or(true, |age| age < CONFIRMATION_AGE)
        }
    }
}

fn texts(opened: &OpenedRows) -> BTreeMap<String, String> {
    let records = opened.records.values().filter(|(_, record)| !is_manifest(&record.name));
    records.map(|(_, record)| (record.name.clone(), record.text.clone())).collect()
}

fn manifest(opened: &OpenedRows, name: &str) -> Option<Manifest> {
    Manifest::decode(&opened.records.get(name)?.1.text)
}

#[cfg(test)]
#[path = "shared_tier_tests.rs"]
mod tests;
