//! Decides what one environment serves, and what follows from each event. Pure.
//!
//! Events come from sources and stores, or designate an SDK key. Effects are messages to clients,
//! orders to stores, and upstream connections to open or drop. The environment's task (see
//! `runner`) brings the events and carries out the effects.
//!
//! Until LaunchDarkly has answered, the served data is provisional: it comes from a store, and the
//! first live change of an item replaces it, whatever its version. Nothing that was read from a
//! store is written to one.

mod deletions;
mod effects;
#[cfg(test)]
mod test_room;

use std::sync::Arc;
use std::time::SystemTime;

use self::deletions::Deletions;
pub use self::effects::{
    Announcement, Effects, LocalOrder, SharedOrder, Told, UpstreamOrder, Which,
};
use super::difference::{Difference, are_few, has_older_item};
use super::environment::EnvironmentStatus;
use super::stored_data::{Answer, Reaction, Store, StoredData, Trust};
use crate::model::{ChangeSet, DataSet, ErrorKind, ItemKey, Origin, SdkKey};
use crate::source::SourceEvent;
use crate::streams::Snapshot;
use crate::telemetry::At;

/// Most names of items in one log line.
const NAMES_MAX: usize = 10;

/// The state of one environment.
#[derive(Debug)]
pub struct Serving {
    /// The snapshot that clients get.
    served: Option<Arc<Snapshot>>,
    /// Deletions that the data set no longer contains.
    deletions: Deletions,
    /// Answers of the stores, and what of them is served until LaunchDarkly answers.
    stored: StoredData,
    /// The connection that the data comes from.
    current: Connection,
    /// The connection under a new SDK key, which replaces `current` with its first data set: the
    /// old connection and its data stay until then.
    next: Option<Connection>,
    /// True once the embedded store is open.
    has_local: bool,
    /// True once every store has answered or data is served.
    is_loaded: bool,
    status: EnvironmentStatus,
}

/// One upstream connection, with its reconnections under the same key.
#[derive(Debug)]
struct Connection {
    key: SdkKey,
    /// Connections up to this number were given up; late events of them are ignored.
    given_up: u64,
    /// True while the served data is what LaunchDarkly sent over the current connection.
    is_live: bool,
}

impl Connection {
    fn new(key: SdkKey) -> Self {
        Self { key, given_up: 0, is_live: false }
    }
}

impl Serving {
    /// Creates the state of an environment whose current connection is opened under that key, and
    /// whose stores are to be read. `served` is what it serves already, if its task was started
    /// again.
    pub fn new(
        key: SdkKey,
        trust: Trust,
        stores: impl IntoIterator<Item = Store>,
        served: Option<Arc<Snapshot>>,
        status: EnvironmentStatus,
    ) -> Self {
        Self {
            served,
            deletions: Deletions::default(),
            stored: StoredData::new(trust, stores),
            current: Connection::new(key),
            next: None,
            has_local: false,
            is_loaded: false,
            status,
        }
    }

    /// The served snapshot.
    pub fn served(&self) -> Option<&Arc<Snapshot>> {
        self.served.as_ref()
    }

    /// True once every store has answered or data is served.
    pub fn is_loaded(&self) -> bool {
        self.is_loaded
    }

    /// The status for `/status`.
    pub fn status(&self) -> &EnvironmentStatus {
        &self.status
    }

    /// Notes that the environment's task ends.
    pub fn on_stop(&mut self, now: SystemTime) {
        self.status.connection.on_close(now);
    }

    /// Takes the SDK key that LaunchDarkly designates: its connection is opened beside the current
    /// one.
    pub fn on_designated(&mut self, key: SdkKey) -> Effects {
        let upstream = if key == self.current.key {
            self.next.take().map(|_| UpstreamOrder::DropNext)
        } else if self.next.as_ref().is_none_or(|next| next.key != key) {
            tracing::info!(
                "SDK key changed; clients with the old one are refused, and the old upstream \
                 connection brings the data until the new one is live"
            );
            self.next = Some(Connection::new(key.clone()));
            Some(UpstreamOrder::OpenNext(key))
        } else {
            None
        };
        Effects { upstream, ..Effects::default() }
    }

    /// Notes that there is no embedded store for now; `answer` says whether there may be one later.
    pub fn on_no_local_store(&mut self, answer: Answer) -> Effects {
        self.status.local_store_known = true;
        self.answered(Store::Local, answer)
    }

    /// Takes the content of the embedded store, which is open; `problem` is the reason if it cannot
    /// be served.
    pub fn on_local_store(&mut self, answer: Answer, problem: Option<String>) -> Effects {
        self.status.local_store_known = true;
        self.has_local = true;
        if let Some(problem) = &problem {
            tracing::warn!(
                problem,
                "the flags of this environment in the local store cannot be served"
            );
        }
        self.status.stored_data_problem = problem;
        let local = match (self.live_word(), &answer) {
            // The store holds older data. What arrived before it was open is still to be stored.
            (Some(live), _) => Some(LocalOrder::Replace(live.data.clone())),
            (None, Answer::Set(set)) => {
                set.as_of.map(|written_at| LocalOrder::Adopt(set.data.clone(), written_at))
            }
            (None, Answer::Part(_) | Answer::Nothing | Answer::Unread) => None,
        };
        Effects { local, ..self.answered(Store::Local, answer) }
    }

    /// Takes the content of the shared store, read while LaunchDarkly was not live.
    pub fn on_shared_store(&mut self, answer: Answer) -> Effects {
        self.answered(Store::Shared, answer)
    }

    /// Takes an event of a source. `difference` is the difference of its data set from the served
    /// one, if there is one; the caller computes it, because that takes time.
    pub fn on_source(
        &mut self,
        which: Which,
        event: SourceEvent,
        difference: Option<Difference>,
        now: SystemTime,
    ) -> Effects {
        match which {
            Which::Current => self.on_current(event, difference, now),
            Which::Next => self.on_next(event, difference, now),
        }
    }

    fn on_current(
        &mut self,
        event: SourceEvent,
        difference: Option<Difference>,
        now: SystemTime,
    ) -> Effects {
        let mut effects = Effects::default();
        if !matches!(event, SourceEvent::Lost { .. }) {
            effects.shared.push(SharedOrder::Heard);
        }
        let given_up = self.current.given_up;
        match event {
            SourceEvent::Everything { connection, data } if connection > given_up => {
                self.put(data, difference, now, &mut effects);
            }
            SourceEvent::Changes { connection, changes } if connection > given_up => {
                self.change(&changes, now, &mut effects);
            }
            SourceEvent::Malformed { connection, error } if connection > given_up => {
                tell_malformed(&error);
                self.status.connection.on_failure(ErrorKind::InvalidData, None, now);
                self.current.given_up = connection;
                effects.upstream =
                    Some(UpstreamOrder::RestartMalformed(Which::Current, connection));
                self.not_live(&mut effects);
            }
            SourceEvent::Lost { failure } => {
                match failure {
                    Some(it) => self.status.connection.on_failure(it.kind, it.status, now),
                    None => self.status.connection.on_interruption(now),
                }
                self.not_live(&mut effects);
            }
            SourceEvent::Alive
            | SourceEvent::Everything { .. }
            | SourceEvent::Changes { .. }
            | SourceEvent::Malformed { .. } => {}
        }
        effects
    }

    /// Takes an event of the next connection. `/status` shows only its errors, so that an operator
    /// sees why it does not take over.
    fn on_next(
        &mut self,
        event: SourceEvent,
        difference: Option<Difference>,
        now: SystemTime,
    ) -> Effects {
        let mut effects = Effects::default();
        let Some(next) = &mut self.next else { return effects };
        match event {
            SourceEvent::Everything { connection, data } if connection > next.given_up => {
                let (data, difference) = self.unless_behind(data, difference);
                if let Some(next) = self.next.take() {
                    self.current = next;
                }
                tracing::info!("upstream connection under the new SDK key is live");
                effects.upstream = Some(UpstreamOrder::PromoteNext);
                self.put(data, difference, now, &mut effects);
            }
            SourceEvent::Malformed { connection, error } if connection > next.given_up => {
                tell_malformed(&error);
                self.status.connection.on_side_failure(ErrorKind::InvalidData, None, now);
                next.given_up = connection;
                effects.upstream = Some(UpstreamOrder::RestartMalformed(Which::Next, connection));
            }
            SourceEvent::Lost { failure: Some(it) } => {
                self.status.connection.on_side_failure(it.kind, it.status, now);
            }
            // Before its first data set a connection changes nothing.
            SourceEvent::Everything { .. }
            | SourceEvent::Changes { .. }
            | SourceEvent::Alive
            | SourceEvent::Malformed { .. }
            | SourceEvent::Lost { failure: None } => {}
        }
        effects
    }

    /// The data set of a new connection, or the served one if the current connection has delivered
    /// something newer, even if it was lost since. An environment has one sequence of states, so a
    /// data set with one older item is older as a whole, and the new connection will deliver what
    /// came after it. Later deletions do not show. Does not apply if items from a store were added.
    fn unless_behind(
        &self,
        mut data: DataSet,
        difference: Option<Difference>,
    ) -> (DataSet, Option<Difference>) {
        let Some(served) = self.live_word().filter(|_| self.stored.items_from_shared() == 0) else {
            return (data, difference);
        };
        if has_older_item(&data, &served.data) {
            return ((*served.data).clone(), Some(Difference::Nothing));
        }
        data.keep_deletions(&served.data);
        (data, difference)
    }

    fn not_live(&mut self, effects: &mut Effects) {
        self.current.is_live = false;
        effects.shared.push(SharedOrder::NotLive);
    }

    /// The last data from LaunchDarkly, if there is any.
    fn live_word(&self) -> Option<&Arc<Snapshot>> {
        self.served.as_ref().filter(|served| served.origin == Origin::Live)
    }

    /// Applies the whole data set from LaunchDarkly.
    fn put(
        &mut self,
        data: DataSet,
        difference: Option<Difference>,
        now: SystemTime,
        effects: &mut Effects,
    ) {
        let live_flags =
            |data: &DataSet| data.flags.iter().filter(|(_, flag)| !flag.is_tombstone()).count();
        let held = self.served.as_ref().map_or(0, |served| live_flags(&served.data));
        if held > 0 && live_flags(&data) == 0 {
            tracing::error!(
                held,
                "LaunchDarkly sent a data set without flags for an environment that had some; it is \
                 applied. If this is not intended, check the environment in LaunchDarkly"
            );
        }
        let is_bounded = match &self.served {
            Some(served) => self.deletions.note(&served.data, &data),
            None => true,
        };
        let difference = difference.filter(|_| is_bounded);
        let data = Arc::new(data);
        let anew = |data| Arc::new(Snapshot::new(data, Origin::Live, now));
        let (snapshot, told) = match (&self.served, difference) {
            // The stores get the same data set that is served: a store that is lost is filled from
            // it again.
            (Some(served), Some(Difference::Nothing)) if served.data == data => {
                (Arc::new(served.confirmed(Origin::Live, now)), Told::Nothing)
            }
            (Some(_), Some(Difference::Nothing)) => (anew(data), Told::Nothing),
            (Some(_), Some(Difference::Changes(changes))) => (anew(data), Told::Changes(changes)),
            (Some(_), Some(Difference::Everything) | None) | (None, _) => {
                (anew(data), Told::Everything)
            }
        };
        let data = snapshot.data.clone();
        self.current.is_live = true;
        self.status.connection.on_valid(now);
        self.stored.on_live();
        self.serve(snapshot, told, effects);
        if self.has_local {
            effects.local = Some(LocalOrder::Replace(data.clone()));
        }
        effects.shared.push(SharedOrder::Put(data));
    }

    /// Applies changes from LaunchDarkly.
    fn change(&mut self, changes: &ChangeSet, now: SystemTime, effects: &mut Effects) {
        let Some(served) = &self.served else {
            tracing::debug!("change before any complete data set; the next one has it");
            return;
        };
        let origin = served.origin;
        let mut data = (*served.data).clone();
        let taken: ChangeSet = changes
            .iter()
            .filter(|(key, item)| match origin {
                Origin::Live => data.upsert(key, (*item).clone()),
                Origin::LocalStore | Origin::SharedStore => {
                    // Provisional: the first live change counts.
                    data.collection_mut(key.kind).insert(key.key.clone(), (*item).clone());
                    true
                }
            })
            .map(|(key, item)| (key.clone(), item.clone()))
            .collect();
        if taken.is_empty() {
            tracing::debug!(items = changes.len(), "changes are not newer; ignored");
            return;
        }
        let as_of = match origin {
            Origin::Live => Some(now),
            // A few changes say nothing about the rest.
            Origin::LocalStore | Origin::SharedStore => served.as_of,
        };
        let data = Arc::new(data);
        let keys: Vec<ItemKey> = taken.keys().cloned().collect();
        let snapshot = Arc::new(Snapshot::new(data.clone(), origin, as_of));
        self.serve(snapshot, Told::Changes(taken), effects);
        if self.has_local {
            effects.local = Some(LocalOrder::Change(data.clone(), keys.clone()));
        }
        if self.current.is_live {
            effects.shared.push(SharedOrder::Changed(data, keys));
        }
    }

    /// Takes the answer of a store. Once all have answered, clients no longer wait for stored data.
    fn answered(&mut self, store: Store, answer: Answer) -> Effects {
        let mut effects = Effects::default();
        // Data that was live is only added to, and only from the store that peers write to.
        let counts = match store {
            Store::Local => self.live_word().is_none(),
            Store::Shared => !self.current.is_live,
        };
        let answer = if counts { answer } else { Answer::Nothing };
        let served = self.served.as_ref().map(|served| (&*served.data, served.origin));
        match self.stored.on_answer(store, answer, served) {
            Reaction::Keep => self.report_items(),
            Reaction::Serve { data, origin, as_of } => {
                tracing::info!(
                    items = data.len(),
                    origin = origin.as_str(),
                    confirmed_at = %At(as_of),
                    "serving stored flags until LaunchDarkly answers"
                );
                if self.stored.is_presumed() {
                    tracing::warn!(
                        "the store's marker does not tell how many flags there should be, as after \
                         a write by ld-relay or an SDK; should some have been lost there, SDKs use \
                         their default values for them until LaunchDarkly answers"
                    );
                }
                let snapshot = Arc::new(Snapshot::new(data, origin, as_of));
                self.serve(snapshot, Told::Everything, &mut effects);
                self.tell_shared_of_stored(&mut effects);
            }
            Reaction::Add(news) => self.add(news, &mut effects),
        }
        self.is_loaded |= self.stored.is_settled();
        effects
    }

    /// Adds the newer items of a store to the served data.
    fn add(&mut self, news: ChangeSet, effects: &mut Effects) {
        let Some(served) = &self.served else { return };
        let news = self.deletions.without_deleted(news);
        if news.is_empty() {
            return;
        }
        tracing::info!(items = news.len(), "a store holds newer flags; they are served");
        let mut data = (*served.data).clone();
        for (key, item) in news.iter() {
            data.upsert(key, item.clone());
        }
        let told = if are_few(&news, &data) { Told::Changes(news) } else { Told::Everything };
        let snapshot = Arc::new(Snapshot::new(Arc::new(data), served.origin, served.as_of));
        self.serve(snapshot, told, effects);
        self.tell_shared_of_stored(effects);
    }

    fn tell_shared_of_stored(&self, effects: &mut Effects) {
        if let Some(served) = &self.served {
            let is_partial = !self.status.missing_items.is_empty() || self.stored.is_presumed();
            effects.shared.push(SharedOrder::Served { data: served.data.clone(), is_partial });
        }
    }

    fn serve(&mut self, snapshot: Arc<Snapshot>, told: Told, effects: &mut Effects) {
        let told = match told {
            Told::Changes(changes) if self.clients_ignore_any(&changes) => Told::Everything,
            told @ (Told::Nothing | Told::Changes(_) | Told::Everything) => told,
        };
        if told == Told::Everything {
            self.deletions.told_all(&snapshot.data);
        }
        self.served = Some(snapshot.clone());
        self.is_loaded = true;
        self.report_items();
        effects.announce = Some(Announcement { snapshot, told });
    }

    /// True if connected clients would ignore a change, because they hold that version or a newer
    /// one.
    fn clients_ignore_any(&self, changes: &ChangeSet) -> bool {
        let held = |key: &ItemKey| {
            let served = self.served.as_ref().and_then(|served| served.data.item(key));
            served.map(|item| item.version).max(self.deletions.version(key))
        };
        changes.iter().any(|(key, item)| held(key) >= Some(item.version))
    }

    /// Notes how many served items are from the shared store, and which items clients do not get
    /// because no store holds them in a readable form.
    fn report_items(&mut self) {
        self.status.items_from_shared_store = self.stored.items_from_shared();
        self.status.is_presumed = self.stored.is_presumed();
        let missing = match &self.served {
            Some(served) => self.stored.missing(&served.data),
            None => Vec::new(),
        };
        if missing == self.status.missing_items {
            return;
        }
        if !missing.is_empty() {
            let names: Vec<String> =
                missing.iter().take(NAMES_MAX).map(ToString::to_string).collect();
            tracing::error!(
                count = missing.len(),
                items = names.join(", "),
                "these items cannot be decoded in any store and are missing in what is served; \
                 SDKs use their default values for them until LaunchDarkly answers"
            );
        }
        self.status.missing_items = missing;
    }
}

fn tell_malformed(error: &impl std::fmt::Display) {
    tracing::error!(
        %error,
        "LaunchDarkly sent flag data that cannot be used; what is served stays, and the stream is \
         opened again"
    );
}

#[cfg(test)]
#[path = "serving_tests.rs"]
mod tests;
