//! Sets of records: what was accepted from the stream, and what a cache held.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::records::{EnvironmentRecord, FilterRecord, Record, encode_environment, encode_filter};

/// Environments and filters by ID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordSet {
    /// Environments by ID.
    pub environments: BTreeMap<String, Arc<EnvironmentRecord>>,
    /// Filters by ID.
    pub filters: BTreeMap<String, Arc<FilterRecord>>,
}

/// Names of environment records in a cache begin with this (ld-relay v8).
const ENVIRONMENT_PREFIX: &str = "env:";
/// Names of filter records in a cache begin with this (ld-relay v8).
const FILTER_PREFIX: &str = "filter:";

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
            (format!("{ENVIRONMENT_PREFIX}{id}"), (record.version, encode_environment(record)))
        });
        let filters = self.filters.iter().map(|(id, record)| {
            (format!("{FILTER_PREFIX}{id}"), (record.version, encode_filter(record)))
        });
        environments.chain(filters).collect()
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.environments.len() + self.filters.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// When and in which order a cached set was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// When it was written, by the writer's clock.
    pub written_at: SystemTime,
    /// The writer's count of changes.
    pub sequence: u64,
}

/// What one tier of the cache held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CachedSet {
    /// The records that could be used.
    pub records: RecordSet,
    /// From the manifest; `None` where there is none (ld-relay's own rows).
    pub stamp: Option<Stamp>,
    /// Whether the manifest vouches for exactly these records.
    pub complete: bool,
}

impl CachedSet {
    /// Whether this set should take the place of another cached set.
    ///
    /// Manifests are compared by time, then sequence. Where one is missing, or does not vouch for
    /// its records (a relay may have been killed between the two), the versions of LaunchDarkly
    /// come first: newer is a set with some record at a higher version and none at a lower one.
    /// Otherwise a set with a manifest is preferred, and what is served stays.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        let by_stamp = match (self.stamp, other.stamp) {
            (Some(mine), Some(theirs)) => mine > theirs,
            (mine, theirs) => mine.is_some() && theirs.is_none(),
        };
        if self.complete && other.complete {
            return by_stamp;
        }
        let (mut higher, mut lower) = (false, false);
        for (id, mine) in &self.records.environments {
            if let Some(theirs) = other.records.environments.get(id) {
                higher |= mine.version > theirs.version;
                lower |= mine.version < theirs.version;
            }
        }
        match (higher, lower) {
            (true, false) => true,
            (false, true) => false,
            (true, true) | (false, false) => by_stamp,
        }
    }
}

impl CachedSet {
    /// This set with what only an older one has, if it is not whole itself: whether the rest was
    /// deleted or lost is not known, and a key of an environment that exists must not be turned
    /// away.
    #[must_use]
    pub fn or_rest_of(mut self, older: &Self) -> Self {
        if !self.complete {
            let (mine, theirs) = (&mut self.records, &older.records);
            for (id, record) in &theirs.environments {
                mine.environments.entry(id.clone()).or_insert_with(|| record.clone());
            }
            for (id, record) in &theirs.filters {
                mine.filters.entry(id.clone()).or_insert_with(|| record.clone());
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn set(stamp: Option<(u64, u64)>, versions: &[(&str, i64)]) -> CachedSet {
        let mut records = RecordSet::default();
        for (id, version) in versions {
            let value = json!({"envID": id, "sdkKey": {"value": "sdk-a"}, "version": version});
            let record = EnvironmentRecord::from_json(&value).unwrap();
            assert!(
                records
                    .insert(&format!("env:{id}"), Record::Environment { record, complete: true })
            );
        }
        let stamp = stamp.map(|(seconds, sequence)| Stamp {
            written_at: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            sequence,
        });
        CachedSet { records, stamp, complete: stamp.is_some() }
    }

    #[test]
    fn newer_is_decided_by_manifest_then_by_versions() {
        let check = |mine: &CachedSet, theirs: &CachedSet, newer: bool| {
            assert_eq!(mine.is_newer_than(theirs), newer, "{mine:?} {theirs:?}");
        };
        let old = set(Some((10, 9)), &[("a", 5)]);
        let new = set(Some((20, 1)), &[("a", 1)]);
        check(&new, &old, true);
        check(&old, &new, false);
        check(&old, &old, false);
        check(&set(Some((10, 10)), &[]), &old, true);
        let foreign = |version| set(None, &[("a", version), ("b", 1)]);
        check(&foreign(6), &old, true);
        check(&old, &foreign(6), false);
        check(&foreign(4), &old, false);
        check(&old, &foreign(4), true);
        check(&old, &foreign(5), true);
        check(&foreign(5), &old, false);
        check(&set(None, &[("a", 6), ("b", 0)]), &set(None, &[("a", 5), ("b", 1)]), false);
        // A manifest that was not written any more does not speak for its records.
        let killed =
            |version| CachedSet { complete: false, ..set(Some((9, 1)), &[("a", version)]) };
        check(&killed(6), &old, true);
        check(&old, &killed(6), false);
        check(&killed(5), &old, false);
        check(&old, &killed(5), true);
    }

    #[test]
    fn only_a_set_that_is_not_whole_is_completed_from_an_older_one() {
        let older = set(Some((10, 1)), &[("a", 5), ("b", 5)]);
        let whole = set(Some((20, 1)), &[("a", 6)]);
        assert_eq!(whole.clone().or_rest_of(&older), whole);
        let partial = CachedSet { complete: false, ..whole };
        let expected = CachedSet { complete: false, ..set(Some((20, 1)), &[("a", 6), ("b", 5)]) };
        assert_eq!(partial.or_rest_of(&older), expected);
    }

    #[test]
    fn an_environment_filed_under_a_foreign_id_is_refused() {
        let value = json!({"envID": "a", "sdkKey": {"value": "sdk-a"}});
        let record = EnvironmentRecord::from_json(&value).unwrap();
        let record = Record::Environment { record, complete: true };
        assert!(!RecordSet::default().insert("env:b", record));
    }
}
