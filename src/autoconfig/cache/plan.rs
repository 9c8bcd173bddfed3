//! Plans the writes that make a shared cache hold the accepted records. Pure.
//!
//! Several relays write the same rows. Each write is a compare-and-swap against the row that was
//! read.
//!
//! A relay whose stream is live may write everything ([`plan_live`]). What a peer stored or removed
//! at a higher version is left alone at first: that peer may have received it a moment before this
//! relay does. It is corrected if this relay received its removal, or if it is still the same at a
//! second check some seconds later, when this relay's stream has gone on without it.
//!
//! A relay whose stream is not live adds only what is newer by version than anything stored
//! ([`plan_upward`]): it must not bring back what a peer has removed since.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use super::backend::{Row, Swap};
use super::codec::{Codec, OpenedRow, OpenedRows};
use super::judge::version_of;
use super::manifest::{Entry, LD_RELAY_MANIFEST_NAME, MANIFEST_NAME, Manifest};
use crate::autoconfig::record_set::{Gone, add_gone, next_order};

/// Records to be stored: version and text by name.
pub type Desired = BTreeMap<String, (i64, String)>;

/// Content of the cache when it was read.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// All rows.
    pub rows: &'a [Row],
    /// The opened rows.
    pub opened: &'a OpenedRows,
    /// The manifest among them.
    pub manifest: Option<&'a Manifest>,
}

/// Knowledge of a relay.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// The records that exist.
    pub desired: &'a Desired,
    /// Records that were removed, by name.
    pub gone: &'a BTreeMap<String, Gone>,
    /// Records that exist and that this relay cannot store, by name, with the lowest version that
    /// is not outdated.
    pub missing: &'a BTreeMap<String, i64>,
}

/// Shows the number of records and not the records: they hold SDK keys.
impl fmt::Debug for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known")
            .field("desired", &self.desired.len())
            .field("gone", &self.gone.len())
            .field("missing", &self.missing.len())
            .finish()
    }
}

/// Something in the cache that differs from what this relay knows and may be newer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The row, if there is one.
    pub row: Option<Row>,
    /// The version in the row or the manifest.
    pub version: Option<i64>,
}

/// One pass over the rows of a cache.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The writes, additions before removals.
    pub swaps: Vec<Swap>,
    /// Names of the records of the first swaps.
    pub written: Vec<String>,
    /// Claims that wait for a second check, by record name.
    pub doubtful: BTreeMap<String, Claim>,
    /// The records that the manifest lists once all writes are done.
    pub records: BTreeMap<String, Entry>,
    /// The removals that it lists.
    pub gone: BTreeMap<String, Gone>,
    /// Names of the rows that hold the desired records.
    pub row_names: HashSet<String>,
}

/// Plans a pass of a relay whose stream is live. `removed` names records that this relay wrote and
/// that were then removed on its stream, with their last known versions; `due` are the claims of
/// [`Plan::doubtful`] of an earlier pass for which this is the second check.
pub fn plan_live(
    codec: &Codec,
    stored: Stored<'_>,
    known: Known<'_>,
    removed: &BTreeMap<String, i64>,
    due: &BTreeMap<String, Claim>,
) -> Plan {
    let mut draft = Draft::new(codec, stored);
    for (name, (version, text)) in known.desired {
        let claim = draft.claim(name);
        let is_ahead = claim.version > Some(*version) || draft.gone_at(name) >= Some(*version);
        if is_ahead && due.get(name) != Some(&claim) {
            draft.doubt(name, claim);
        } else {
            draft.put(name, *version, text);
        }
    }
    known.missing.iter().for_each(|(name, version)| draft.keep(name, *version));
    for (name, (row, held)) in &stored.opened.records {
        let is_known = known.desired.contains_key(name) || known.missing.contains_key(name);
        if is_known || is_manifest(name) {
            continue;
        }
        let version = version_of(&held.text);
        let gone_at = [draft.gone_at(name), below(known.gone.get(name))];
        // A peer may have received it again: then it has a higher version.
        let is_removed = removed.get(name).is_some_and(|at| version <= Some(*at))
            || gone_at.into_iter().flatten().any(|at| version <= Some(at));
        let claim = Claim { row: Some(row.clone()), version };
        if is_removed || due.get(name) == Some(&claim) {
            draft.remove(name, row, version);
        } else {
            draft.doubt(name, claim);
        }
    }
    draft.removals.extend(stored.opened.superseded.iter().cloned());
    draft.finish(known.gone)
}

/// Plans a pass of a relay whose stream is not live.
pub fn plan_upward(codec: &Codec, stored: Stored<'_>, known: Known<'_>) -> Plan {
    let mut draft = Draft::new(codec, stored);
    draft.keep_listed();
    let is_empty = stored.rows.is_empty() && stored.manifest.is_none();
    if is_empty {
        known.missing.iter().for_each(|(name, version)| draft.keep(name, *version));
    }
    for (name, (version, text)) in known.desired {
        let claim = draft.claim(name);
        let listed = stored.manifest.and_then(|manifest| manifest.records.get(name));
        let stands = stored.opened.records.get(name).and_then(|(_, held)| version_of(&held.text));
        // True if nothing says that it was removed.
        let is_news = match claim.version {
            Some(claimed) => {
                let is_lost = listed.is_some() && stands != claim.version;
                *version > claimed || (is_lost && *version == claimed)
            }
            None => is_empty,
        };
        if is_news {
            draft.put(name, *version, text);
        }
    }
    for (name, gone) in known.gone {
        if known.desired.contains_key(name) {
            continue;
        }
        let claim = draft.claim(name);
        if let Some(row) = claim.row
            && claim.version <= Some(gone.version)
        {
            draft.remove(name, &row, claim.version);
        }
    }
    draft.finish(known.gone)
}

/// The last version before a removal. A record at the version of the removal itself may only have
/// been missing from a put; it waits for the second check.
fn below(gone: Option<&Gone>) -> Option<i64> {
    gone.map(|gone| gone.version.saturating_sub(1))
}

pub(super) fn is_manifest(name: &str) -> bool {
    name == MANIFEST_NAME || name == LD_RELAY_MANIFEST_NAME
}

/// A plan that is being built.
struct Draft<'a> {
    codec: &'a Codec,
    stored: Stored<'a>,
    rows: HashMap<&'a str, &'a Row>,
    removals: Vec<Row>,
    plan: Plan,
}

impl<'a> Draft<'a> {
    fn new(codec: &'a Codec, stored: Stored<'a>) -> Self {
        let rows = stored.rows.iter().map(|row| (row.name.as_str(), row)).collect();
        let mut plan = Plan::default();
        if let Some(manifest) = stored.manifest {
            plan.gone.clone_from(&manifest.gone);
        }
        Self { codec, stored, rows, removals: Vec::new(), plan }
    }

    /// Starts from the records that the manifest lists; without one, from the rows.
    fn keep_listed(&mut self) {
        match self.stored.manifest {
            Some(manifest) => self.plan.records.clone_from(&manifest.records),
            None => {
                for (name, (_, held)) in &self.stored.opened.records {
                    if let Some(version) = version_of(&held.text).filter(|_| !is_manifest(name)) {
                        let entry = self.codec.entry(name, version, &held.text);
                        self.plan.records.insert(name.clone(), entry);
                    }
                }
            }
        }
    }

    fn gone_at(&self, name: &str) -> Option<i64> {
        Some(self.stored.manifest?.gone.get(name)?.version)
    }

    /// The cache's claim about a record: the highest version in its row, the list of records or the
    /// list of removals.
    fn claim(&self, name: &str) -> Claim {
        let held = self.stored.opened.records.get(name);
        let listed = self.stored.manifest.and_then(|manifest| manifest.records.get(name));
        let versions = [
            held.and_then(|(_, held): &(Row, OpenedRow)| version_of(&held.text)),
            listed.map(|entry| entry.version),
            self.gone_at(name),
        ];
        let version = versions.into_iter().flatten().max();
        Claim { row: held.map(|(row, _)| row.clone()), version }
    }

    /// Leaves the stored record as it is, for now.
    fn doubt(&mut self, name: &str, claim: Claim) {
        self.list_as_stored(name);
        self.plan.doubtful.insert(name.to_owned(), claim);
    }

    /// Leaves the stored record as it is. The manifest lists it although nothing may be stored.
    fn keep(&mut self, name: &str, version: i64) {
        self.list_as_stored(name);
        let of_missing = || Entry::of_missing(version);
        self.plan.records.entry(name.to_owned()).or_insert_with(of_missing);
    }

    fn list_as_stored(&mut self, name: &str) {
        let listed = self.stored.manifest.and_then(|manifest| manifest.records.get(name)).cloned();
        let from_row = || {
            let (_, held) = self.stored.opened.records.get(name)?;
            let version = version_of(&held.text)?;
            Some(self.codec.entry(name, version, &held.text))
        };
        let newer = from_row().filter(|entry| {
            self.gone_at(name) < Some(entry.version)
                && listed.as_ref().is_none_or(|listed| listed.version < entry.version)
        });
        if newer.is_some() {
            self.plan.gone.remove(name);
        }
        if let Some(entry) = newer.or(listed) {
            self.plan.records.insert(name.to_owned(), entry);
        }
    }

    /// Plans to store the record as given.
    fn put(&mut self, name: &str, version: i64, text: &str) {
        let row_name = self.codec.row_name(name);
        self.plan.records.insert(name.to_owned(), self.codec.entry(name, version, text));
        self.plan.gone.remove(name);
        let stored = self.stored.opened.records.get(name);
        self.plan.row_names.insert(row_name.clone());
        if stored.is_some_and(|(_, held)| held.key_rank == 0 && held.text == text) {
            return;
        }
        // A row that is sealed under another key has another name.
        self.removals.extend(stored.map(|(row, _)| row.clone()).filter(|row| row.name != row_name));
        self.plan.written.push(name.to_owned());
        self.plan.swaps.push(Swap {
            // The row of that name, readable or not.
            expected: self.rows.get(row_name.as_str()).map(|row| (*row).clone()),
            value: Some(self.codec.seal(name, text)),
            name: row_name,
        });
    }

    fn remove(&mut self, name: &str, row: &Row, version: Option<i64>) {
        self.plan.records.remove(name);
        self.removals.push(row.clone());
        if let Some(version) = version {
            let order = next_order(&self.plan.gone);
            let gone = Gone { version, order };
            add_gone(&mut self.plan.gone, [(name, &gone)]);
        }
    }

    fn finish(mut self, gone: &BTreeMap<String, Gone>) -> Plan {
        let listed = &self.plan.records;
        let is_certain = |(name, gone): &(&String, &Gone)| {
            listed.get(*name).is_none_or(|entry| entry.version <= gone.version)
                && !self.plan.doubtful.contains_key(*name)
        };
        let certain: Vec<_> = gone.iter().filter(is_certain).collect();
        add_gone(&mut self.plan.gone, certain);
        let gone = &self.plan.gone;
        self.plan.records.retain(|name, _| !gone.contains_key(name));
        self.plan.swaps.extend(self.removals.into_iter().map(|row| Swap {
            name: row.name.clone(),
            expected: Some(row),
            value: None,
        }));
        self.plan
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
