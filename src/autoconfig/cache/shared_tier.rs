//! The tier that relays share: reads and writes the rows of one database.
//!
//! Rows stand in two namespaces: our sealed ones under `<cache key>.pilotlight`, ld-relay's under
//! the cache key itself, so that neither removes the other's.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::backend::{Backend, Row, Swap, Swapped};
use super::codec::{CacheKeys, Codec, OpenedRows, Skipped};
use super::manifest::{MANIFEST_NAME, Manifest};
use super::plan::{Desired, plan};
use crate::autoconfig::record_set::{CachedSet, RecordSet, Stamp};
use crate::autoconfig::records::decode;
use crate::autoconfig::startup_race::CacheOutcome;
use crate::storage::StoreError;

/// Appended to the cache key for our own rows.
pub const NAMESPACE_SUFFIX: &str = ".pilotlight";

/// How often a write begins anew because a peer wrote at the same time.
const ATTEMPTS_MAX: u32 = 5;

/// A manifest younger than this is not rewritten only to confirm its age.
pub const CONFIRMATION_AGE: std::time::Duration = std::time::Duration::from_secs(600);

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

/// What is remembered between two writes.
#[derive(Debug, Default)]
pub struct Memory {
    /// Versions of the records of the last write: what is missing from the next was removed.
    written: BTreeMap<String, i64>,
    /// Rows that are not ours and wait for a second look.
    doubted: BTreeMap<String, Row>,
}

impl Memory {
    /// Whether a second look is due some seconds after this write.
    pub fn needs_second_look(&self) -> bool {
        !self.doubted.is_empty()
    }
}

/// What a write did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows that were changed, the manifest included.
    pub rows: usize,
    /// Records that the database cannot hold.
    pub too_large: Vec<String>,
    /// Records that are stored.
    pub records: usize,
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
        let has_manifest = ours.1.is_some();
        if self.format == CacheFormat::Sealed && has_manifest {
            return Ok(reading(ours.0, ours.1));
        }
        let theirs = self.read_format(CacheFormat::LdRelay, keys).await?;
        let nothing_theirs = theirs.0.records.is_empty() && theirs.0.skipped.total() == 0;
        if nothing_theirs {
            return Ok(reading(ours.0, ours.1));
        }
        let mut reading = reading(theirs.0, None);
        reading.skipped.add(ours.0.skipped);
        Ok(reading)
    }

    async fn read_format(
        &self,
        format: CacheFormat,
        keys: &CacheKeys,
    ) -> Result<(OpenedRows, Option<Manifest>), StoreError> {
        let rows = self.backend(format).read_all().await?;
        let opened = self.codec(format, keys).open_all(&rows);
        let manifest = manifest(&opened);
        Ok((opened, manifest))
    }

    /// Makes the rows hold what is desired, as LaunchDarkly confirmed it at a moment.
    ///
    /// Only a relay with a live stream calls this. What a peer knows better is left.
    pub async fn write(
        &self,
        keys: &CacheKeys,
        desired: &Desired,
        confirmed_at: SystemTime,
        memory: &mut Memory,
    ) -> Result<Written, StoreError> {
        let codec = self.codec(self.format, keys);
        let is_gone = |(name, _): &(&String, &i64)| !desired.contains_key(*name);
        let gone: BTreeMap<String, i64> =
            memory.written.iter().filter(is_gone).map(|(name, v)| (name.clone(), *v)).collect();
        let mut total = Written::default();
        for _ in 0..ATTEMPTS_MAX {
            let (written, doubtful, conflict) =
                self.pass(&codec, desired, &gone, &memory.doubted, confirmed_at).await?;
            total.rows += written.rows;
            total.too_large = written.too_large;
            total.records = written.records;
            if !conflict {
                memory.written =
                    desired.iter().map(|(name, (version, _))| (name.clone(), *version)).collect();
                memory.doubted = doubtful;
                return Ok(total);
            }
        }
        Err(StoreError::Unreachable("other relays keep changing the cache at the same time".into()))
    }

    /// One pass: records first, the manifest that vouches for them last.
    async fn pass(
        &self,
        codec: &Codec,
        desired: &Desired,
        gone: &BTreeMap<String, i64>,
        doubted: &BTreeMap<String, Row>,
        confirmed_at: SystemTime,
    ) -> Result<(Written, BTreeMap<String, Row>, bool), StoreError> {
        let backend = self.backend(self.format);
        let rows = backend.read_all().await?;
        let opened = codec.open_all(&rows);
        let mut plan = plan(codec, &rows, &opened, desired, gone, doubted);
        let mut written = Written::default();
        let mut conflict = false;
        if !plan.swaps.is_empty() {
            let outcomes = backend.swap(&plan.swaps).await?;
            for (swap, outcome) in plan.swaps.iter().zip(outcomes) {
                match outcome {
                    Swapped::Applied => written.rows += 1,
                    Swapped::Conflict => conflict = true,
                    Swapped::TooLarge => {
                        let too_large = |name: &&String| codec.row_name(name) == swap.name;
                        if let Some(name) = desired.keys().find(too_large).cloned() {
                            plan.texts.remove(&name);
                            written.too_large.push(name);
                        }
                    }
                }
            }
        }
        written.records = plan.texts.len();
        if !conflict && self.format == CacheFormat::Sealed {
            match self.write_manifest(codec, &rows, &opened, &plan.texts, confirmed_at).await? {
                Some(Swapped::Applied) => written.rows += 1,
                Some(Swapped::Conflict) => conflict = true,
                Some(Swapped::TooLarge) | None => {}
            }
        }
        Ok((written, plan.doubtful, conflict))
    }

    /// Writes the manifest if the one that stands does not vouch for the records, or if its age
    /// is to be confirmed.
    async fn write_manifest(
        &self,
        codec: &Codec,
        rows: &[Row],
        opened: &OpenedRows,
        texts: &BTreeMap<String, String>,
        confirmed_at: SystemTime,
    ) -> Result<Option<Swapped>, StoreError> {
        let row_name = codec.row_name(MANIFEST_NAME);
        let standing = manifest(opened);
        let in_place = rows.iter().any(|row| row.name == row_name);
        if let Some(standing) = &standing
            && in_place
            && standing.vouches_for(texts)
            && confirmed_at
                .duration_since(standing.stamp.written_at)
                .map_or(true, |age| age < CONFIRMATION_AGE)
        {
            return Ok(None);
        }
        let sequence = standing.as_ref().map_or(0, |standing| standing.stamp.sequence) + 1;
        let manifest =
            Manifest::of(texts, Stamp { written_at: confirmed_at, sequence }, &self.writer);
        let mut swaps = vec![Swap {
            expected: rows.iter().find(|row| row.name == row_name).cloned(),
            value: Some(codec.seal(MANIFEST_NAME, &manifest.encode())),
            name: row_name.clone(),
        }];
        // A manifest under another key stands under another name.
        if let Some((row, _)) = opened.records.get(MANIFEST_NAME)
            && row.name != row_name
        {
            swaps.push(Swap { name: row.name.clone(), expected: Some(row.clone()), value: None });
        }
        let outcomes = self.backend(self.format).swap(&swaps).await?;
        Ok(outcomes.first().copied())
    }
}

fn manifest(opened: &OpenedRows) -> Option<Manifest> {
    Manifest::decode(&opened.records.get(MANIFEST_NAME)?.1.text)
}

/// Turns opened rows into what the race understands.
fn reading(opened: OpenedRows, manifest: Option<Manifest>) -> Reading {
    let texts = opened
        .records
        .into_values()
        .filter(|(_, record)| record.name != MANIFEST_NAME)
        .map(|(_, record)| (record.name, record.text))
        .collect::<BTreeMap<_, _>>();
    cached_set(&texts, manifest, opened.skipped)
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
    } else if skipped.unknown_key > 0 {
        CacheOutcome::Unreadable
    } else {
        CacheOutcome::Empty
    };
    Reading { outcome, skipped }
}

#[cfg(test)]
#[path = "shared_tier_tests.rs"]
mod tests;
