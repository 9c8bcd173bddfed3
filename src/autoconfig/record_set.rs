//! Sets of records, accepted from the stream or read from the tiers of the cache.
//!
//! Sets of two tiers are merged record by record. Versions decide, never clocks: a revocation that
//! one tier knows must not be undone by another tier whose writer's clock runs fast.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use super::records::{EnvironmentRecord, FilterRecord, Record, encode_environment, encode_filter};

/// Number of removed records that a set remembers. A relay that was stopped while more records
/// were removed than this may serve one of them from its own disk until LaunchDarkly answers.
pub const GONE_MAX: usize = 1_000;

/// Names of environment records in a cache begin with this (ld-relay v8).
const ENVIRONMENT_PREFIX: &str = "env:";
/// Names of filter records in a cache begin with this (ld-relay v8).
const FILTER_PREFIX: &str = "filter:";

/// The trace of a removed record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Records up to this version are removed.
    pub version: i64,
    /// Order of removals; the oldest are forgotten first.
    pub order: u64,
}

/// Environments and filters by ID, and the names of removed ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordSet {
    /// Environments by ID.
    pub environments: BTreeMap<String, Arc<EnvironmentRecord>>,
    /// Filters by ID.
    pub filters: BTreeMap<String, Arc<FilterRecord>>,
    /// Removed records by their names in a cache.
    pub gone: BTreeMap<String, Gone>,
    /// Names of records that exist, in a form that cannot be used, and of which no good form is
    /// known here. What stores hold of them stays.
    pub unusable: BTreeSet<String>,
}

/// The name of an environment's record in a cache.
pub fn environment_name(id: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{id}")
}

/// The name of a filter's record in a cache.
pub fn filter_name(id: &str) -> String {
    format!("{FILTER_PREFIX}{id}")
}

impl RecordSet {
    /// Files a decoded record under the ID that its cache name holds. The kind inside decides;
    /// an environment under a foreign ID is refused.
    pub fn insert(&mut self, name: &str, record: Record) -> bool {
        match record {
            Record::Environment { record, .. } => {
                let id = name.strip_prefix(ENVIRONMENT_PREFIX).unwrap_or(name);
                let fits = record.id == id;
                if fits {
                    self.environments.insert(id.to_owned(), Arc::new(record));
                }
                fits
            }
            Record::Filter(record) => {
                let id = name.strip_prefix(FILTER_PREFIX).unwrap_or(name);
                self.filters.insert(id.to_owned(), Arc::new(record));
                true
            }
        }
    }

    /// All records by their names in a cache: version and text.
    pub fn encoded(&self) -> BTreeMap<String, (i64, String)> {
        let environments = self.environments.iter().map(|(id, record)| {
            (environment_name(id), (record.version, encode_environment(record)))
        });
        let filters = self
            .filters
            .iter()
            .map(|(id, record)| (filter_name(id), (record.version, encode_filter(record))));
        environments.chain(filters).collect()
    }

    /// Versions of all records by their names in a cache.
    pub fn versions(&self) -> BTreeMap<String, i64> {
        let environments =
            self.environments.iter().map(|(id, record)| (environment_name(id), record.version));
        let filters = self.filters.iter().map(|(id, record)| (filter_name(id), record.version));
        environments.chain(filters).collect()
    }

    /// Leaves out the record of that name.
    pub fn remove(&mut self, name: &str) {
        if let Some(id) = name.strip_prefix(ENVIRONMENT_PREFIX) {
            self.environments.remove(id);
        } else if let Some(id) = name.strip_prefix(FILTER_PREFIX) {
            self.filters.remove(id);
        }
    }

    fn copy_from(&mut self, other: &Self, name: &str) {
        if let Some(id) = name.strip_prefix(ENVIRONMENT_PREFIX) {
            if let Some(record) = other.environments.get(id) {
                self.environments.insert(id.to_owned(), record.clone());
            }
        } else if let Some(id) = name.strip_prefix(FILTER_PREFIX)
            && let Some(record) = other.filters.get(id)
        {
            self.filters.insert(id.to_owned(), record.clone());
        }
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.environments.len() + self.filters.len()
    }
}

/// Adds removals to others; of two about one name the higher version counts. Keeps the newest
/// [`GONE_MAX`].
pub fn add_gone<'a, N: AsRef<str>>(
    gone: &mut BTreeMap<String, Gone>,
    others: impl IntoIterator<Item = (N, &'a Gone)>,
) {
    for (name, other) in others {
        let held = gone.entry(name.as_ref().to_owned()).or_insert(*other);
        held.version = held.version.max(other.version);
        held.order = held.order.max(other.order);
    }
    while gone.len() > GONE_MAX {
        let oldest = gone.iter().min_by_key(|(_, gone)| gone.order).map(|(name, _)| name.clone());
        let Some(oldest) = oldest else { return };
        gone.remove(&oldest);
    }
}

/// Order of a removal that follows all of these.
pub fn next_order(gone: &BTreeMap<String, Gone>) -> u64 {
    gone.values().map(|gone| gone.order).max().unwrap_or(0).saturating_add(1)
}

/// A manifest's statement about its set as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Time at which LaunchDarkly last confirmed the set, by the writer's clock. Used only to show
    /// the age and for `cacheMaxAge`. `None` if it is not known.
    pub confirmed_at: Option<SystemTime>,
    /// The writer's count of changes.
    pub sequence: u64,
}

/// The kind of rows that a set was read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SetOrigin {
    /// Our own sealed rows, or the rows that this fleet is configured to write.
    #[default]
    Own,
    /// Rows that ld-relay left, read because nothing of our own was there.
    Adopted,
}

/// A set that was read from the tiers of the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CachedSet {
    /// The records that can be used.
    pub records: RecordSet,
    /// From the manifest; `None` where there is none.
    pub stamp: Option<Stamp>,
    /// True if a manifest vouches for exactly these records.
    pub complete: bool,
    /// Names of records that no manifest vouches for: their age is not known.
    pub unvouched: BTreeSet<String>,
    /// Names of records that a manifest lists and that are missing here, with their versions. An
    /// older record of that name is outdated.
    pub missing: BTreeMap<String, i64>,
    /// The kind of rows.
    pub origin: SetOrigin,
}

impl CachedSet {
    /// Time at which LaunchDarkly last confirmed the set, if that is known.
    pub fn confirmed_at(&self) -> Option<SystemTime> {
        self.stamp.and_then(|stamp| stamp.confirmed_at)
    }

    /// The lowest version at which a record of that name is not outdated by this set.
    fn floor(&self, name: &str) -> i64 {
        let above_gone = self.records.gone.get(name).map(|gone| gone.version.saturating_add(1));
        let listed = self.missing.get(name).copied();
        above_gone.into_iter().chain(listed).max().unwrap_or(i64::MIN)
    }

    /// Both sets in one: of each record the higher version, and none that the other set knows to be
    /// removed or outdated. A record that only one of them knows stays: whether the other lost it
    /// or never had it is not known, and a key of an environment that exists must not be refused.
    #[must_use]
    pub fn merged_with(&self, other: &Self) -> Self {
        let (mine, theirs) = (self.records.versions(), other.records.versions());
        let names: BTreeSet<&String> = mine.keys().chain(theirs.keys()).collect();
        let mut merged = Self { complete: true, ..Self::default() };
        let mut ages = Vec::new();
        for name in names {
            let (ours, other_version) = (mine.get(name).copied(), theirs.get(name).copied());
            let is_ours = ours >= other_version;
            let version = if is_ours { ours } else { other_version }.unwrap_or(i64::MIN);
            if version < self.floor(name).max(other.floor(name)) {
                continue;
            }
            let source = if is_ours { self } else { other };
            merged.records.copy_from(&source.records, name);
            // Every set that holds this version has the time at which it was confirmed.
            let vouching = [(self, ours), (other, other_version)]
                .into_iter()
                .filter(|(set, held)| *held == Some(version) && !set.unvouched.contains(name));
            let confirmed: Vec<_> = vouching.map(|(set, _)| set.confirmed_at()).collect();
            if confirmed.is_empty() {
                merged.unvouched.insert(name.clone());
            }
            ages.push(confirmed.into_iter().flatten().max());
        }
        let kept = merged.records.versions();
        add_gone(&mut merged.records.gone, &self.records.gone);
        add_gone(&mut merged.records.gone, &other.records.gone);
        merged.records.gone.retain(|name, _| !kept.contains_key(name));
        for (name, version) in self.missing.iter().chain(&other.missing) {
            let is_outdated = merged.records.gone.get(name).is_some_and(|g| g.version >= *version);
            if !kept.contains_key(name) && !is_outdated {
                let floor = merged.missing.entry(name.clone()).or_insert(*version);
                *floor = (*floor).max(*version);
            }
        }
        merged.complete = merged.missing.is_empty() && merged.unvouched.is_empty();
        merged.origin = match (self.origin, other.origin) {
            (SetOrigin::Adopted, SetOrigin::Adopted) => SetOrigin::Adopted,
            (SetOrigin::Own, _) | (_, SetOrigin::Own) => SetOrigin::Own,
        };
        merged.stamp = merged_stamp(self.stamp, other.stamp, &ages);
        merged
    }

    /// True if a tier that holds this set differs from the known records.
    pub fn lacks(&self, known: &RecordSet) -> bool {
        let (mine, theirs) = (self.records.versions(), known.versions());
        let is_newer = |(name, version): (&String, &i64)| {
            mine.get(name).is_none_or(|held| held < version) || self.unvouched.contains(name)
        };
        let is_removed = |(name, gone): (&String, &Gone)| {
            self.records.gone.get(name).is_none_or(|held| held.version < gone.version)
        };
        mine.keys().any(|name| !theirs.contains_key(name))
            || theirs.iter().any(is_newer)
            || known.gone.iter().any(is_removed)
    }
}

/// The stamp of a merged set: as old as its oldest record, and of unknown age if any record is.
fn merged_stamp(
    mine: Option<Stamp>,
    theirs: Option<Stamp>,
    ages: &[Option<SystemTime>],
) -> Option<Stamp> {
    let sequence = [mine, theirs].into_iter().flatten().map(|stamp| stamp.sequence).max()?;
    let of_sets = || [mine, theirs].into_iter().flatten().filter_map(|stamp| stamp.confirmed_at);
    let confirmed_at = match ages.iter().min() {
        Some(oldest) => *oldest,
        None => of_sets().max(),
    };
    Some(Stamp { confirmed_at, sequence })
}

#[cfg(test)]
#[path = "record_set_tests.rs"]
mod tests;
