//! The promises: what holds after each step, and what holds at rest.

use super::database::Rows;
use super::launchdarkly::{BASE, shown};
use super::relay::versions_of;
use super::{Environments, To};
use crate::autoconfig::record_set::CachedSet;
use crate::autoconfig::startup_race::CacheOutcome;
use crate::model::ListState;

impl Environments {
    /// What a relay runs after something was told to it.
    pub(super) fn check_relay(&mut self, to: To) {
        let name = self.relays[to.0].name;
        let launchdarkly = &self.launchdarkly;
        let relay = &self.relays[to.0];
        let Some(process) = relay.process.as_ref() else { return };
        let running = shown(&process.running);
        let is_authoritative = process.list == ListState::Authoritative;
        let problem = if is_authoritative && !process.is_told {
            Some(format!("{name} refuses keys, and LaunchDarkly never sent the list"))
        } else if is_authoritative && !launchdarkly.ever_had(&process.running) {
            Some(format!("{name} refuses keys with a list that never was: {running}"))
        } else if !process.is_told
            && let Some((id, _)) = process
                .running
                .iter()
                .find(|(id, version)| process.removed.get(*id) >= Some(*version))
        {
            Some(format!("{name} runs {id} again, which it knew as deleted: {running}"))
        } else {
            None
        };
        if let Some(problem) = problem {
            self.time.wrong(problem);
        }
    }

    /// After a write of a relay: nothing newest was overwritten, and no part is called whole.
    pub(super) fn check_write(&mut self, before: &Rows) {
        let (before, after) =
            (self.database.versions(before), self.database.versions(&self.database.rows));
        let lost = self.launchdarkly.truth.iter().find(|(id, version)| {
            before.get(*id) == Some(version) && after.get(*id) != Some(version)
        });
        if let Some((id, version)) = lost {
            return self
                .time
                .wrong(format!("the newest version of {id} ({version}) is overwritten"));
        }
        let stored = self.database.stored();
        self.check_removals(&stored);
        if let Some(list) = self.database.complete_list()
            && let Some(id) = BASE.iter().find(|id| !list.contains_key(**id))
        {
            self.time
                .wrong(format!("the manifest vouches for a list without {id}: {}", shown(&list)));
        }
    }

    /// What a store calls removed is removed.
    pub(super) fn check_removals(&mut self, stored: &CacheOutcome<CachedSet>) {
        let CacheOutcome::Loaded(set) = stored else { return };
        let truth = &self.launchdarkly.truth;
        let wrong = set.records.gone.iter().find_map(|(name, gone)| {
            let id = name.strip_prefix("env:")?;
            truth.get(id).filter(|version| **version <= gone.version).map(|_| id.to_owned())
        });
        if let Some(id) = wrong {
            self.time.wrong(format!("a store calls {id} removed, which exists"));
        }
    }

    /// After the faults have ended: everybody holds what LaunchDarkly says.
    pub(super) fn judge_rest(&mut self) -> Result<(), String> {
        let truth = &self.launchdarkly.truth;
        if self.database.complete_list().as_ref() != Some(truth) {
            let (database, truth) = (self.shown_database(), shown(truth));
            return Err(format!("at rest the database holds {database}, truth is {truth}"));
        }
        for (number, relay) in self.relays.iter().enumerate() {
            let shown_relay = self.shown_relay(number);
            let Some(process) = &relay.process else {
                return Err(format!("{} does not run at rest", relay.name));
            };
            if process.running != *truth || process.list != ListState::Authoritative {
                return Err(format!("at rest {shown_relay}, truth is {}", shown(truth)));
            }
            let stored = relay.stored();
            let is_whole = matches!(&stored, CacheOutcome::Loaded(set) if set.complete);
            if relay.has_local && (versions_of(&stored) != *truth || !is_whole) {
                return Err(format!("at rest the local store is not what is true: {shown_relay}"));
            }
            for (tier, keeper) in &process.copies {
                let report = keeper.report.get();
                if report.write_pending || report.error.is_some() || !report.complete {
                    return Err(format!(
                        "at rest {} reports of the {tier}: {report:?}",
                        relay.name
                    ));
                }
            }
        }
        Ok(())
    }

    pub(super) fn shown_relay(&self, number: usize) -> String {
        let relay = &self.relays[number];
        let name = relay.name;
        let stored = shown(&versions_of(&relay.stored()));
        match &relay.process {
            Some(process) => {
                let (running, list) = (shown(&process.running), process.list);
                format!("{name} runs {running} ({list:?}), on disk {stored}")
            }
            None => format!("{name} does not run, on disk {stored}"),
        }
    }

    pub(super) fn shown_database(&self) -> String {
        let rows = shown(&self.database.versions(&self.database.rows));
        match self.database.complete_list() {
            Some(_) => format!("{rows} !"),
            None => format!("{rows} ({} rows)", self.database.rows.len()),
        }
    }
}
