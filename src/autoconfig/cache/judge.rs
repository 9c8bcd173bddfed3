//! Judges the records of one tier by their manifest: which of them may be used. Pure.
//!
//! A record that is older than the manifest says was put back, and is left out. A newer one was
//! written by a relay that was killed before it could write the manifest, and is used.

use std::collections::BTreeMap;

use super::codec::Skipped;
use super::manifest::Manifest;
use crate::autoconfig::record_set::{CachedSet, RecordSet, SetOrigin};
use crate::autoconfig::records::{Record, decode};
use crate::autoconfig::startup_race::CacheOutcome;

/// Result of reading a tier.
#[derive(Debug)]
pub struct Reading {
    /// Its content.
    pub outcome: CacheOutcome<CachedSet>,
    /// Rows that were left out.
    pub skipped: Skipped,
}

/// Relation of one record to the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Vouched,
    Unvouched,
    RolledBack,
}

/// Judges records that were opened. `manifest` is the one that is stored with them. Rows that did
/// not open at all are counted, but are no records: a list without them can be complete.
pub fn judge(
    texts: &BTreeMap<String, String>,
    manifest: Option<&Manifest>,
    mut skipped: Skipped,
    origin: SetOrigin,
) -> Reading {
    let closed = skipped;
    let mut set = CachedSet { origin, ..CachedSet::default() };
    let mut records = RecordSet::default();
    for (name, text) in texts {
        let Some((record, version)) = decoded(text) else {
            skipped.undecodable += 1;
            continue;
        };
        let standing = match manifest {
            Some(manifest) => standing(manifest, name, version, text),
            None => Standing::Unvouched,
        };
        if standing == Standing::RolledBack {
            skipped.rolled_back += 1;
        } else if !records.insert(name, record) {
            skipped.undecodable += 1;
        } else if standing == Standing::Unvouched {
            set.unvouched.insert(name.clone());
        }
    }
    let held = records.versions();
    if let Some(manifest) = manifest {
        let missing = manifest.records.iter().filter(|(name, _)| !held.contains_key(*name));
        set.missing = missing.map(|(name, entry)| (name.clone(), entry.version)).collect();
        records.gone = manifest.gone.clone();
        records.gone.retain(|name, _| !held.contains_key(name));
        if manifest.adopted {
            set.origin = SetOrigin::Adopted;
            set.unvouched = held.into_keys().collect();
        }
    }
    set.stamp = manifest.map(|manifest| manifest.stamp);
    set.complete = manifest.is_some()
        && set.missing.is_empty()
        && set.unvouched.is_empty()
        && skipped == closed;
    set.records = records;
    // A manifest alone lists what was removed, and what is missing. Filters alone are an empty
    // cache.
    let is_of_use = !set.records.environments.is_empty() || manifest.is_some();
    let outcome = if is_of_use {
        CacheOutcome::Loaded(set)
    } else if skipped.total() > 0 {
        CacheOutcome::Unreadable
    } else {
        CacheOutcome::Empty
    };
    Reading { outcome, skipped }
}

fn standing(manifest: &Manifest, name: &str, version: i64, text: &str) -> Standing {
    if let Some(entry) = manifest.records.get(name) {
        return match version.cmp(&entry.version) {
            std::cmp::Ordering::Less => Standing::RolledBack,
            std::cmp::Ordering::Equal if entry.fits(name, text) => Standing::Vouched,
            // The same version with another content was sealed at another time: which of the two is
            // newer is not known, so it is treated as the older one.
            std::cmp::Ordering::Equal => Standing::RolledBack,
            std::cmp::Ordering::Greater => Standing::Unvouched,
        };
    }
    match manifest.gone.get(name) {
        Some(gone) if version <= gone.version => Standing::RolledBack,
        Some(_) | None => Standing::Unvouched,
    }
}

fn decoded(text: &str) -> Option<(Record, i64)> {
    let record = decode(text.as_bytes()).ok()?;
    let version = match &record {
        Record::Environment { record, .. } => record.version,
        Record::Filter(record) => record.version,
    };
    Some((record, version))
}

/// The version inside a stored record; `None` if it cannot be decoded.
pub(super) fn version_of(text: &str) -> Option<i64> {
    decoded(text).map(|(_, version)| version)
}

#[cfg(test)]
mod tests {
    use super::super::manifest::Entry;
    use super::*;
    use crate::autoconfig::record_set::{Gone, Stamp};
    use crate::autoconfig::records::{FilterRecord, encode_filter};

    fn environment(id: &str, version: i64) -> String {
        let value =
            serde_json::json!({"envID": id, "sdkKey": {"value": "sdk-a"}, "version": version});
        let record = crate::autoconfig::records::EnvironmentRecord::from_json(&value).unwrap();
        crate::autoconfig::records::encode_environment(&record)
    }

    /// Judges stored versions against listed ones, `-` before removed ones, and shows what is
    /// used: `a1`, `?a1` without a voucher, `!a` missing; then how many were rolled back.
    #[track_caller]
    fn check(stored: &[(&str, i64)], listed: Option<&str>, expected: &str) {
        let name = |id: &str| format!("env:{id}");
        let texts = stored.iter().map(|(id, version)| (name(id), environment(id, *version)));
        let texts: BTreeMap<String, String> = texts.collect();
        let manifest = listed.map(|listed| {
            let mut manifest = Manifest {
                stamp: Stamp { confirmed_at: None, sequence: 1 },
                writer: String::new(),
                records: BTreeMap::new(),
                gone: BTreeMap::new(),
                adopted: false,
            };
            for word in listed.split_whitespace() {
                let (gone, word) = match word.strip_prefix('-') {
                    Some(word) => (true, word),
                    None => (false, word),
                };
                let (id, version) = word.split_at(1);
                let version = version.parse().unwrap();
                if gone {
                    manifest.gone.insert(name(id), Gone { version, order: 1 });
                } else {
                    let entry = Entry::of(&name(id), version, &environment(id, version));
                    manifest.records.insert(name(id), entry);
                }
            }
            manifest
        });
        let reading = judge(&texts, manifest.as_ref(), Skipped::default(), SetOrigin::Own);
        let mut shown = Vec::new();
        match reading.outcome {
            CacheOutcome::Loaded(set) => {
                for (id, record) in &set.records.environments {
                    let mark = if set.unvouched.contains(&name(id)) { "?" } else { "" };
                    shown.push(format!("{mark}{id}{}", record.version));
                }
                shown.extend(set.missing.keys().map(|name| format!("!{}", &name[4..])));
                if set.complete {
                    shown.push("whole".to_owned());
                }
            }
            other => shown.push(format!("{other:?}")),
        }
        if reading.skipped.rolled_back > 0 {
            shown.push(format!("rolled back {}", reading.skipped.rolled_back));
        }
        assert_eq!(shown.join(" "), expected, "{stored:?} {listed:?}");
    }

    #[test]
    fn the_manifest_vouches_for_each_record() {
        check(&[("a", 1), ("b", 2)], Some("a1 b2"), "a1 b2 whole");
        check(&[("a", 1)], Some("a1 b2"), "a1 !b");
        check(&[("a", 1), ("b", 2)], None, "?a1 ?b2");
        check(&[], None, "Empty");
    }

    #[test]
    fn an_older_record_is_a_rollback_and_a_newer_one_the_window_of_a_crash() {
        check(&[("a", 1), ("b", 1)], Some("a2 b1"), "b1 !a rolled back 1");
        check(&[("a", 1)], Some("a2"), "!a rolled back 1");
        check(&[("a", 3), ("b", 1)], Some("a2 b1"), "?a3 b1");
        check(&[("a", 1), ("n", 1)], Some("a1"), "a1 ?n1");
    }

    #[test]
    fn a_manifest_counts_although_a_row_beside_it_does_not_open() {
        let manifest = Manifest {
            stamp: Stamp { confirmed_at: None, sequence: 1 },
            writer: String::new(),
            records: BTreeMap::from([("env:a".to_owned(), Entry::of_missing(2))]),
            gone: BTreeMap::from([("env:b".to_owned(), Gone { version: 1, order: 1 })]),
            adopted: false,
        };
        let skipped = Skipped { forged: 1, ..Skipped::default() };
        let reading = judge(&BTreeMap::new(), Some(&manifest), skipped, SetOrigin::Own);
        let CacheOutcome::Loaded(set) = reading.outcome else { panic!("{reading:?}") };
        assert_eq!(set.missing, BTreeMap::from([("env:a".to_owned(), 2)]));
        assert!(set.records.gone.contains_key("env:b") && !set.complete);
    }

    #[test]
    fn a_removed_record_does_not_come_back_in_its_old_form() {
        check(&[("a", 1), ("b", 2)], Some("a1 -b2"), "a1 rolled back 1");
        check(&[("a", 1), ("b", 3)], Some("a1 -b2"), "a1 ?b3");
        check(&[], Some("-b2"), "whole");
    }

    #[test]
    fn the_same_version_with_another_text_is_left_out() {
        let text = environment("a", 1).replace("sdk-a", "sdk-b");
        let texts = BTreeMap::from([("env:a".to_owned(), text)]);
        let mut manifest = Manifest {
            stamp: Stamp { confirmed_at: None, sequence: 1 },
            writer: String::new(),
            records: BTreeMap::from([(
                "env:a".to_owned(),
                Entry::of("env:a", 1, &environment("a", 1)),
            )]),
            gone: BTreeMap::new(),
            adopted: false,
        };
        let judged = |manifest: &Manifest| {
            judge(&texts, Some(manifest), Skipped::default(), SetOrigin::Own).skipped
        };
        assert_eq!(judged(&manifest).rolled_back, 1);
        // ld-relay writes the same record as another text.
        manifest.records.insert("env:a".to_owned(), Entry { version: 1, digest: None });
        assert_eq!(judged(&manifest).rolled_back, 0);
    }

    #[test]
    fn filters_without_environments_are_an_empty_cache() {
        let project_key = "p".to_owned();
        let filter = encode_filter(&FilterRecord { project_key, key: "f".to_owned(), version: 1 });
        let texts = BTreeMap::from([("filter:p.f".to_owned(), filter)]);
        let reading = judge(&texts, None, Skipped::default(), SetOrigin::Own);
        assert!(matches!(reading.outcome, CacheOutcome::Empty), "{:?}", reading.outcome);
        assert_eq!(reading.skipped.total(), 0, "the filter itself is good");
    }
}
