//! The core of autoconfig: takes messages of the stream and content of the caches, and decides what
//! the relay runs, what is kept in the cache and what happens to the connection. Pure: no clock, no
//! I/O.
//!
//! Invariants, each held by a property test over all interleavings: cached content never follows
//! live content; a deleted environment never comes back; one unusable environment harms no other.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::adoption::{Adopt, Adoption, Verdict};
use super::messages::{Message, Put, Unusable};
use super::ordering::{Applied, Ordered};
use super::record_set::{
    CachedSet, Gone, RecordSet, add_gone, environment_name, filter_name, next_order,
};
use super::records::{EnvironmentRecord, FilterRecord};
use super::specs::{SpecSettings, Specs, desired, difference, keys_with_views};
use super::startup_race::{CacheOutcome, Event, StartupRace, Tier};
use crate::model::{EnvironmentChange, ListState};
use crate::telemetry::Rounded;

/// Shortest time between a message that would remove every environment and the opening of the
/// connection that confirms it. Long enough for a glitch upstream to pass.
pub const WIPE_CONFIRMATION_DELAY: Duration = Duration::from_secs(5);

/// Connection that a message came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Counts connections of this process.
    pub number: u64,
    /// Time at which it was opened.
    pub opened_at: Instant,
}

/// Action on the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamStep {
    /// Something on it could not be used: connect again, slower if that repeats.
    RestartMalformed,
    /// The server asked for a new connection.
    Reconnect,
    /// Connect again, not before this moment, to confirm that every environment is to be removed.
    ConfirmAt(Instant),
}

/// Rules of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Rule for the use of ld-relay's rows.
    pub adopt: Adopt,
    /// Time for which the list stays authoritative after the stream was lost.
    pub authority: Duration,
}

/// Consequences of a message or a cache read.
#[derive(Debug, Default)]
pub struct Reaction {
    /// Steps for the environments, in order.
    pub changes: Vec<EnvironmentChange>,
    /// The merged records of all tiers, for tiers that lack some of them.
    pub learnt: Option<Arc<CachedSet>>,
    /// The set that the cache should hold from now on.
    pub persist: Option<Arc<RecordSet>>,
    /// Action on the connection.
    pub stream: Option<StreamStep>,
}

/// Everything known about the list of environments.
#[derive(Debug)]
pub struct State {
    settings: SpecSettings,
    race: StartupRace,
    environments: Ordered<Arc<EnvironmentRecord>>,
    filters: Ordered<Arc<FilterRecord>>,
    /// Records that were removed, by name.
    gone: BTreeMap<String, Gone>,
    /// Names of records that LaunchDarkly last sent in a form that cannot be used.
    unusable: BTreeSet<String>,
    /// Versions of the records at the last check for removed ones, by name.
    known: BTreeMap<String, i64>,
    /// Content of each tier of the cache, while the race is on.
    tiers: BTreeMap<Tier, CachedSet>,
    adoption: Adoption,
    specs: Specs,
    list: ListState,
    authority: Duration,
    /// Time at which the stream that confirmed the list was lost.
    disconnected_at: Option<Instant>,
    /// The first connection with a message that would remove every environment, and the time of
    /// that message.
    wipe_announced: Option<(u64, Instant)>,
}

impl State {
    /// Creates the state in which nothing is known and these cache tiers are being read.
    pub fn new(settings: SpecSettings, tiers: &[Tier], policy: Policy) -> Self {
        Self {
            settings,
            race: StartupRace::new(tiers),
            environments: Ordered::default(),
            filters: Ordered::default(),
            gone: BTreeMap::new(),
            unusable: BTreeSet::new(),
            known: BTreeMap::new(),
            tiers: BTreeMap::new(),
            adoption: Adoption::new(policy.adopt, tiers),
            specs: Specs::new(),
            list: ListState::Unknown,
            authority: policy.authority,
            disconnected_at: None,
            wipe_announced: None,
        }
    }

    /// Takes the result of reading a tier of the cache.
    pub fn on_cache(&mut self, tier: Tier, outcome: CacheOutcome<CachedSet>) -> Reaction {
        self.adoption.note(tier, &outcome);
        if let Some(set) = self.race.on(Event::Cache(tier, outcome)) {
            let set = match self.tiers.remove(&tier) {
                Some(before) if before.origin == set.origin => set.merged_with(&before),
                Some(_) | None => set,
            };
            self.tiers.insert(tier, set);
        }
        if self.race.is_live() {
            return Reaction::default();
        }
        let mut known: Option<CachedSet> = None;
        for set in self.tiers.values() {
            let verdict = self.adoption.verdict(set);
            self.adoption.tell(set, verdict);
            if verdict == Verdict::Used {
                known = Some(match known {
                    Some(known) => known.merged_with(set),
                    None => set.clone(),
                });
            }
        }
        let known = known.unwrap_or_default();
        if known == CachedSet::default() {
            return Reaction::default();
        }
        self.load(&known.records);
        let is_empty = self.environments.is_empty();
        let list = if is_empty { self.list } else { ListState::Provisional };
        Reaction {
            changes: self.changes(list),
            // Removals count for the other tier although nothing is left.
            learnt: Some(Arc::new(known)),
            ..Reaction::default()
        }
    }

    fn load(&mut self, records: &RecordSet) {
        for (id, record) in &records.environments {
            if self.environments.get(id) != Some(record) {
                report_views(record);
            }
        }
        self.environments
            .load_cached(records.environments.iter().map(|(id, r)| (id.clone(), r.clone())));
        self.filters.load_cached(records.filters.iter().map(|(id, r)| (id.clone(), r.clone())));
        add_gone(&mut self.gone, &records.gone);
        self.known = records.versions();
    }

    /// Notes that the stream was lost. Known environments go on; after a while the list is no
    /// longer authoritative.
    pub fn on_disconnected(&mut self, now: Instant) {
        if self.list == ListState::Authoritative {
            self.disconnected_at.get_or_insert(now);
        }
    }

    /// Time at which the list ceases to be authoritative, if nothing happens before.
    pub fn lapse_at(&self) -> Option<Instant> {
        let disconnected_at = self.disconnected_at?;
        (self.list == ListState::Authoritative).then(|| disconnected_at + self.authority)
    }

    /// Takes note of the time that has passed.
    pub fn on_time(&mut self, now: Instant) -> Reaction {
        if self.lapse_at().is_none_or(|at| now < at) {
            return Reaction::default();
        }
        tracing::warn!(
            after = %Rounded(self.authority),
            "the autoconfig stream has been away for longer than disconnectedStatusTime; keys that \
             are not known get 503 instead of 401 until LaunchDarkly answers, because they may \
             have been made since"
        );
        Reaction { changes: self.changes(ListState::Lapsed), ..Reaction::default() }
    }

    /// Takes a decoded message of a connection.
    pub fn on_message(
        &mut self,
        connection: Connection,
        message: Message,
        now: Instant,
    ) -> Reaction {
        match message {
            Message::Put(put) => self.on_put(connection, put, now),
            Message::PatchEnvironment(id, record) => self.on_patch(id, record),
            Message::PatchFilter(id, record) => {
                let applied = self.filters.upsert(id, record.version, Arc::new(record));
                self.after_item(applied)
            }
            Message::DeleteEnvironment(id, version) => {
                let mut remaining = self.environments.clone();
                let applied = remaining.delete(&id, version);
                if applied == Applied::Changed
                    && remaining.is_empty()
                    && let Some(step) = self.wipe_held_back(connection, now)
                {
                    return Reaction { stream: Some(step), ..Reaction::default() };
                }
                self.environments = remaining;
                self.after_deletion(&environment_name(&id), version, applied)
            }
            Message::DeleteFilter(id, version) => {
                let applied = self.filters.delete(&id, version);
                self.after_deletion(&filter_name(&id), version, applied)
            }
            Message::Reconnect => {
                Reaction { stream: Some(StreamStep::Reconnect), ..Reaction::default() }
            }
            Message::PutElsewhere | Message::UnknownEvent(_) | Message::UnknownItem(_) => {
                Reaction::default()
            }
        }
    }

    /// Takes note of a message that cannot be decoded.
    pub fn on_undecodable(&mut self) -> Reaction {
        Reaction {
            changes: self.changes(self.doubted()),
            stream: Some(StreamStep::RestartMalformed),
            ..Reaction::default()
        }
    }

    /// The state of the list after a message that could not be used: it may have named a key, so an
    /// unknown key must not be refused for good until the next put.
    fn doubted(&self) -> ListState {
        match self.list {
            ListState::Unknown => ListState::Unknown,
            ListState::Provisional | ListState::Lapsed | ListState::Authoritative => {
                ListState::Provisional
            }
        }
    }

    fn on_patch(&mut self, id: String, record: Result<EnvironmentRecord, Unusable>) -> Reaction {
        let mut flaws = Flaws::default();
        match record {
            Ok(record) => {
                self.unusable.remove(&environment_name(&id));
                let applied = upsert(&mut self.environments, id, record);
                return self.after_item(applied);
            }
            Err(problem) => flaws.note(environment_name(&id), &id, &problem),
        }
        self.unusable.append(&mut flaws.names);
        Reaction {
            changes: self.changes(self.doubted()),
            stream: flaws.step(),
            ..Reaction::default()
        }
    }

    fn on_put(&mut self, connection: Connection, put: Put, now: Instant) -> Reaction {
        let mut flaws = Flaws::default();
        let mut environments = self.environments.clone();
        let mut named = HashSet::new();
        for (id, record) in put.environments {
            match record {
                Ok(record) => {
                    upsert(&mut environments, id.clone(), record);
                }
                Err(problem) => flaws.note(environment_name(&id), &id, &problem),
            }
            named.insert(id);
        }
        environments.retain(|id| named.contains(id));
        // An empty set is suspicious also while a cache may still bring environments.
        let something_to_lose = !self.environments.is_empty() || !self.race.caches_settled();
        if environments.is_empty()
            && something_to_lose
            && let Some(step) = self.wipe_held_back(connection, now)
        {
            return Reaction { stream: Some(step), ..Reaction::default() };
        }
        // This put settles any earlier suspicion.
        self.wipe_announced = None;
        self.environments = environments;
        self.race.on(Event::<CachedSet>::LivePut);
        self.tiers.clear();
        self.disconnected_at = None;

        named.clear();
        for (id, record) in put.filters {
            match record {
                Ok(record) => {
                    self.filters.upsert(id.clone(), record.version, Arc::new(record));
                }
                Err(problem) => flaws.note(filter_name(&id), &id, &problem.into()),
            }
            named.insert(id);
        }
        self.filters.retain(|id| named.contains(id));

        // With an unusable record the keys of one environment are not known, so an unknown key must
        // not be refused for good.
        let is_whole = flaws.names.is_empty();
        let list = if is_whole { ListState::Authoritative } else { ListState::Provisional };
        self.unusable = std::mem::take(&mut flaws.names);
        Reaction {
            changes: self.changes(list),
            persist: Some(self.accepted()),
            stream: flaws.step(),
            learnt: None,
        }
    }

    /// Checks a message that would remove every environment: returns a step if it must be
    /// confirmed.
    fn wipe_held_back(&mut self, connection: Connection, now: Instant) -> Option<StreamStep> {
        let Some((first, announced_at)) = self.wipe_announced else {
            tracing::error!(
                environments = self.environments.iter().count(),
                "LaunchDarkly says that every environment is gone; kept until a second connection \
                 says the same"
            );
            self.wipe_announced = Some((connection.number, now));
            return Some(StreamStep::ConfirmAt(now + WIPE_CONFIRMATION_DELAY));
        };
        let confirm_at = announced_at + WIPE_CONFIRMATION_DELAY;
        if connection.number == first || connection.opened_at < confirm_at {
            return Some(StreamStep::ConfirmAt(confirm_at.max(now)));
        }
        tracing::error!("a second connection confirms it: every environment is removed");
        self.wipe_announced = None;
        None
    }

    fn after_deletion(&mut self, name: &str, version: i64, applied: Applied) -> Reaction {
        self.unusable.remove(name);
        if applied == Applied::Changed {
            self.removed(name, version);
        }
        self.after_item(applied)
    }

    fn after_item(&mut self, applied: Applied) -> Reaction {
        if applied == Applied::Stale {
            return Reaction::default();
        }
        Reaction {
            changes: self.changes(self.list),
            // Before the first put the cache holds more than the stream has sent.
            persist: self.race.is_live().then(|| self.accepted()),
            ..Reaction::default()
        }
    }

    /// The steps from what runs to what should run.
    fn changes(&mut self, list: ListState) -> Vec<EnvironmentChange> {
        let filters: Vec<_> = self.filters.iter().map(|(_, record)| record.clone()).collect();
        let records = self.environments.iter().map(|(_, record)| record);
        let specs = desired(records, &filters, &self.settings);
        let mut changes = difference(&self.specs, &specs);
        self.specs = specs;
        if self.list != list {
            self.list = list;
            changes.push(EnvironmentChange::List(list));
        }
        changes
    }

    fn removed(&mut self, name: &str, version: i64) {
        let order = next_order(&self.gone);
        add_gone(&mut self.gone, [(name, &Gone { version, order })]);
    }

    /// The set that the cache should hold: the accepted state, never the raw message, so that the
    /// last good form of an environment survives a malformed put. It includes the names of removed
    /// records, so that no older copy brings them back.
    fn accepted(&mut self) -> Arc<RecordSet> {
        let mut set = RecordSet {
            environments: self.environments.iter().map(|(id, r)| (id.clone(), r.clone())).collect(),
            filters: self.filters.iter().map(|(id, r)| (id.clone(), r.clone())).collect(),
            gone: BTreeMap::new(),
            unusable: BTreeSet::new(),
        };
        let versions = set.versions();
        let before = std::mem::replace(&mut self.known, versions);
        for (name, version) in before {
            if !self.known.contains_key(&name) {
                self.removed(&name, version);
            }
        }
        let exists = &self.known;
        self.gone.retain(|name, _| !exists.contains_key(name));
        set.gone.clone_from(&self.gone);
        // Of the others the last good form stands.
        self.unusable.retain(|name| !exists.contains_key(name));
        set.unusable.clone_from(&self.unusable);
        Arc::new(set)
    }
}

/// Problems of one message.
#[derive(Default)]
struct Flaws {
    /// Names of the records that cannot be used.
    names: BTreeSet<String>,
    /// Another connection may bring it in good form.
    malformed: bool,
}

impl Flaws {
    fn note(&mut self, name: String, id: &str, problem: &Unusable) {
        self.names.insert(name);
        match problem {
            Unusable::Malformed(_) => {
                self.malformed = true;
                tracing::error!(
                    id,
                    %problem,
                    "LaunchDarkly sent an environment or filter that cannot be used; its last good \
                     form stays, and the stream is opened again"
                );
            }
            Unusable::Foreign => tracing::warn!(id, %problem, "environment skipped"),
        }
    }

    fn step(&self) -> Option<StreamStep> {
        self.malformed.then_some(StreamStep::RestartMalformed)
    }
}

fn upsert(
    environments: &mut Ordered<Arc<EnvironmentRecord>>,
    id: String,
    record: EnvironmentRecord,
) -> Applied {
    let record = Arc::new(record);
    let applied = environments.upsert(id, record.version, record.clone());
    if applied == Applied::Changed {
        report_views(&record);
    }
    applied
}

/// Logs the keys with views, once for each form of an environment, not for each message.
fn report_views(record: &EnvironmentRecord) {
    for key in keys_with_views(record) {
        tracing::warn!(
            environment = record.id,
            key,
            "key is bound to views, which a relay cannot serve; clients that use it are refused"
        );
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
