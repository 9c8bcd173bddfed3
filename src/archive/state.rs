//! Decides what follows from an archive: which environments, keys and flags change. Pure.
//!
//! An environment that cannot be used stays as it was. (ld-relay v8 removes it.) An archive without
//! environments is taken for a mistake if there were some.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::contents::{Archive, ArchivedEnvironment, Checksum};
use crate::autoconfig::records::EnvironmentRecord;
use crate::autoconfig::specs::{SpecSettings, Specs, desired, difference};
use crate::model::{EnvironmentChange, ListState};
use crate::source::{ArchivedSet, ArchivedSets};

/// What is known of the environments.
#[derive(Debug)]
pub struct ArchiveState {
    settings: SpecSettings,
    known: BTreeMap<String, Known>,
    specs: Specs,
    /// The revision of the flags that changed last, over all environments.
    revision: u64,
}

#[derive(Debug)]
struct Known {
    record: Arc<EnvironmentRecord>,
    /// The flags; `None` if only the description is known, from an earlier run.
    flags: Option<(Checksum, ArchivedSet)>,
}

/// What follows from an archive.
#[derive(Debug)]
pub struct News {
    /// The flags of all environments.
    pub sets: Arc<ArchivedSets>,
    /// What changed of the list of environments. To be passed on after the flags.
    pub changes: Vec<EnvironmentChange>,
    /// Number of environments whose flags changed.
    pub changed_flags: usize,
    /// Environments that cannot be used.
    pub problems: Vec<Problem>,
}

/// An environment that cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its ID.
    pub environment: String,
    /// The reason.
    pub reason: String,
    /// True if it is served as it was before.
    pub is_kept: bool,
}

impl Known {
    fn not_current(mut self) -> Self {
        if let Some((_, set)) = &mut self.flags {
            set.is_current = false;
        }
        self
    }
}

impl ArchiveState {
    /// A state without environments.
    pub fn new(settings: SpecSettings) -> Self {
        Self { settings, known: BTreeMap::new(), specs: Specs::new(), revision: 0 }
    }

    /// Takes environments that an earlier run has read: they are served from the local store until
    /// the archive can be read. Returns what changed of the list.
    pub fn recall(&mut self, records: Vec<Arc<EnvironmentRecord>>) -> Vec<EnvironmentChange> {
        let known =
            |record: Arc<EnvironmentRecord>| (record.id.clone(), Known { record, flags: None });
        self.known = records.into_iter().map(known).collect();
        self.changes(ListState::Provisional)
    }

    /// The descriptions of all environments.
    pub fn records(&self) -> impl Iterator<Item = &Arc<EnvironmentRecord>> {
        self.known.values().map(|known| &known.record)
    }

    /// Takes an archive; `None` if it has no environments although there were some.
    pub fn on_archive(&mut self, archive: Archive) -> Option<News> {
        if archive.environments.is_empty() && !self.known.is_empty() {
            return None;
        }
        let mut problems = Vec::new();
        let mut changed_flags = 0;
        let mut before = std::mem::take(&mut self.known);
        for (id, environment) in archive.environments {
            let known = before.remove(&id);
            let now = match environment {
                Ok(environment) => {
                    let (now, is_changed) = self.taken(environment, known);
                    changed_flags += usize::from(is_changed);
                    Some(now)
                }
                Err(reason) => {
                    let is_kept = known.is_some();
                    problems.push(Problem { environment: id.clone(), reason, is_kept });
                    known.map(Known::not_current)
                }
            };
            self.known.extend(now.map(|now| (id, now)));
        }
        // An environment that was never read may have any key.
        let list = match problems.iter().all(|problem| problem.is_kept) {
            true => ListState::Authoritative,
            false => ListState::Provisional,
        };
        let changes = self.changes(list);
        let sets = self.known.iter().filter_map(|(id, known)| {
            let (_, set) = known.flags.as_ref()?;
            Some((Arc::from(id.as_str()), set.clone()))
        });
        Some(News { sets: Arc::new(sets.collect()), changes, changed_flags, problems })
    }

    /// An environment as it is now, and whether its flags changed.
    fn taken(&mut self, now: ArchivedEnvironment, before: Option<Known>) -> (Known, bool) {
        let ArchivedEnvironment { record, data, checksum } = now;
        let same = before.and_then(|known| known.flags).filter(|(known, _)| *known == checksum);
        let is_changed = same.is_none();
        let flags = same.unwrap_or_else(|| {
            self.revision += 1;
            let (revision, data) = (self.revision, Arc::new(data));
            (checksum, ArchivedSet { revision, data, is_current: true })
        });
        let flags = (flags.0, ArchivedSet { is_current: true, ..flags.1 });
        (Known { record, flags: Some(flags) }, is_changed)
    }

    fn changes(&mut self, list: ListState) -> Vec<EnvironmentChange> {
        let specs = desired(self.known.values().map(|known| &known.record), &[], &self.settings);
        let mut changes = difference(&self.specs, &specs);
        self.specs = specs;
        changes.push(EnvironmentChange::List(list));
        changes
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{DataSet, Item, ItemKey, ItemKind};

    /// An environment with this key, whose flags are told by a number.
    fn environment(
        id: &str,
        key: &str,
        flags: u8,
    ) -> (String, Result<ArchivedEnvironment, String>) {
        let record = json!({"envID": id, "sdkKey": {"value": key}});
        let mut data = DataSet::default();
        let item = Arc::new(Item::live(flags.into(), "{}"));
        data.upsert(&ItemKey::new(ItemKind::Flag, "f"), item);
        let environment = ArchivedEnvironment {
            record: Arc::new(EnvironmentRecord::from_json(&record).unwrap()),
            data,
            checksum: [flags; 16],
        };
        (id.to_owned(), Ok(environment))
    }

    fn bad(id: &str) -> (String, Result<ArchivedEnvironment, String>) {
        (id.to_owned(), Err("broken".to_owned()))
    }

    /// Gives an archive; the steps are `+e1`, `-e1`, the state of the list, and `e1=7` for flags.
    #[track_caller]
    fn check(
        state: &mut ArchiveState,
        archive: Vec<(String, Result<ArchivedEnvironment, String>)>,
        expected: &str,
    ) {
        let archive = Archive { environments: archive.into_iter().collect() };
        let Some(news) = state.on_archive(archive) else { return assert_eq!(expected, "none") };
        let mut steps = steps(&news.changes);
        steps.extend(news.sets.iter().map(|(id, set)| {
            let version = set.data.flags.get("f").unwrap().version;
            format!("{id}={version}@{}{}", set.revision, if set.is_current { "" } else { "?" })
        }));
        steps.extend(news.problems.iter().map(|problem| {
            format!("{}!{}", problem.environment, if problem.is_kept { "kept" } else { "" })
        }));
        assert_eq!(steps.join(" "), expected);
    }

    fn steps(changes: &[EnvironmentChange]) -> Vec<String> {
        let step = |change: &EnvironmentChange| match change {
            EnvironmentChange::Upsert(spec) => {
                format!("+{}({})", spec.reference, spec.credentials.anchor.expose())
            }
            EnvironmentChange::Remove(reference) => format!("-{reference}"),
            EnvironmentChange::List(list) => format!("{list:?}"),
        };
        changes.iter().map(step).collect()
    }

    fn state() -> ArchiveState {
        ArchiveState::new(SpecSettings::default())
    }

    #[test]
    fn what_changes_follows_and_nothing_else() {
        let mut state = state();
        let two = || vec![environment("e1", "a", 1), environment("e2", "b", 1)];
        check(&mut state, two(), "+e1(a) +e2(b) Authoritative e1=1@1 e2=1@2");
        check(&mut state, two(), "Authoritative e1=1@1 e2=1@2");
        let rotated = vec![environment("e1", "c", 1), environment("e2", "b", 0)];
        check(&mut state, rotated, "+e1(c) Authoritative e1=1@1 e2=0@3");
        check(&mut state, vec![environment("e2", "b", 0)], "-e1 Authoritative e2=0@3");
        check(&mut state, two(), "+e1(a) Authoritative e1=1@4 e2=1@5");
    }

    #[test]
    fn a_bad_environment_stays_as_it_was() {
        let mut state = state();
        check(&mut state, vec![environment("e1", "a", 1)], "+e1(a) Authoritative e1=1@1");
        check(&mut state, vec![bad("e1")], "Authoritative e1=1@1? e1!kept");
        // Nobody knows the keys of one that was never read, so unknown keys are not refused for
        // good.
        let with_new = || vec![bad("e1"), bad("e2")];
        check(&mut state, with_new(), "Provisional e1=1@1? e1!kept e2!");
        check(&mut state, vec![environment("e1", "a", 1)], "Authoritative e1=1@1");
        let mended = vec![environment("e1", "a", 2), environment("e2", "b", 1)];
        check(&mut state, mended, "+e2(b) Authoritative e1=2@2 e2=1@3");
    }

    #[test]
    fn an_archive_without_environments_is_no_reason_to_refuse_all() {
        let mut state = state();
        check(&mut state, vec![], "Authoritative");
        check(&mut state, vec![environment("e1", "a", 1)], "+e1(a) Authoritative e1=1@1");
        check(&mut state, vec![], "none");
        assert_eq!(state.records().count(), 1);
    }

    #[test]
    fn what_an_earlier_run_knew_is_provisional() {
        let mut state = state();
        let record =
            |(_, environment): (_, Result<ArchivedEnvironment, _>)| environment.unwrap().record;
        let records = vec![record(environment("e1", "a", 1)), record(environment("e2", "b", 1))];
        assert_eq!(steps(&state.recall(records)), ["+e1(a)", "+e2(b)", "Provisional"]);
        let now = vec![environment("e1", "a", 1), bad("e2")];
        check(&mut state, now, "Authoritative e1=1@1 e2!kept");
        check(&mut state, vec![environment("e1", "a", 1)], "-e2 Authoritative e1=1@1");
    }
}
