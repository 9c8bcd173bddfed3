//! Decides what of the stores' data an environment serves while LaunchDarkly has not answered.
//! Pure.
//!
//! The first set that is known to be whole is served at once; what other stores hold is added item
//! by item, where it is newer. A set that is empty, that only a marker without
//! counts vouches for, or that has items which cannot be decoded does not win by being first: it
//! waits until every other source has answered, and is served together with what those hold.
//! An empty set waits also for a store that could not be read.
//!
//! With [`Trust::LocalFirst`] a whole local set excludes the shared store: the shared store is
//! used only while the local one holds no whole set.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use crate::model::{ChangeSet, DataSet, ItemKey, Origin};

/// A store that an environment may be served from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Store {
    /// The embedded store.
    Local,
    /// The database that is shared with other relays.
    Shared,
}

/// Stores that count while LaunchDarkly has not answered (`[LocalStore] preferOver`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// All stores; of each item the newest version counts.
    #[default]
    All,
    /// A whole local set, or the last data from LaunchDarkly, counts alone: nothing is added to it
    /// from the shared store, which others can write.
    LocalFirst,
}

/// A data set from a store.
#[derive(Clone, Debug)]
pub struct StoredSet {
    pub data: Arc<DataSet>,
    pub origin: Origin,
    /// Time at which LaunchDarkly last confirmed it, if the store records it.
    pub as_of: Option<SystemTime>,
    /// True if the store counts its items and holds all of them.
    pub is_counted: bool,
    /// Items that the store holds but that cannot be decoded.
    pub undecodable: Vec<ItemKey>,
}

/// Answer of a store.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A data set.
    Set(StoredSet),
    /// Items of a set of which something is missing.
    Part(DataSet),
    /// Nothing that can be used.
    Nothing,
    /// It could not be read: it may hold anything.
    Unread,
}

/// Reaction of the environment to an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing changes for clients.
    Keep,
    /// Serve this data set.
    Serve { data: Arc<DataSet>, origin: Origin, as_of: Option<SystemTime> },
    /// Add these items to what is served.
    Add(ChangeSet),
}

/// Answers of the stores so far.
#[derive(Debug)]
pub struct StoredData {
    trust: Trust,
    /// Stores that have not answered yet.
    silent: BTreeSet<Store>,
    /// Stores that could not be read so far.
    unread: BTreeSet<Store>,
    /// Sets that wait for the other sources.
    held: Vec<StoredSet>,
    /// Items of incomplete sets, as long as there is nothing to add them to.
    leftovers: DataSet,
    /// Items that some store holds but that cannot be decoded there.
    undecodable: BTreeSet<ItemKey>,
    /// Items from the shared store that were added to a set from another source.
    from_shared: BTreeSet<ItemKey>,
    /// True if the served data came from a store that does not count its items.
    is_presumed: bool,
}

impl StoredData {
    pub fn new(trust: Trust, stores: impl IntoIterator<Item = Store>) -> Self {
        Self {
            trust,
            silent: stores.into_iter().collect(),
            unread: BTreeSet::new(),
            held: Vec::new(),
            leftovers: DataSet::default(),
            undecodable: BTreeSet::new(),
            from_shared: BTreeSet::new(),
            is_presumed: false,
        }
    }

    /// True once every store has answered.
    pub fn is_settled(&self) -> bool {
        self.silent.is_empty()
    }

    /// Takes an answer, while `served` is served and LaunchDarkly is not connected.
    pub fn on_answer(
        &mut self,
        store: Store,
        answer: Answer,
        served: Option<(&DataSet, Origin)>,
    ) -> Reaction {
        let origin = served.map(|(_, origin)| origin);
        let reaction = self.react(store, answer, served);
        match &reaction {
            Reaction::Add(items)
                if store == Store::Shared && origin != Some(Origin::SharedStore) =>
            {
                self.from_shared.extend(items.keys().cloned());
            }
            Reaction::Serve { .. } => self.from_shared.clear(),
            Reaction::Add(_) | Reaction::Keep => {}
        }
        reaction
    }

    fn react(
        &mut self,
        store: Store,
        answer: Answer,
        served: Option<(&DataSet, Origin)>,
    ) -> Reaction {
        self.silent.remove(&store);
        match &answer {
            Answer::Unread => self.unread.insert(store),
            Answer::Set(_) | Answer::Part(_) | Answer::Nothing => self.unread.remove(&store),
        };
        let answer = match (self.trust, store, served) {
            (Trust::LocalFirst, Store::Shared, Some((_, origin)))
                if origin != Origin::SharedStore =>
            {
                Answer::Nothing
            }
            (Trust::LocalFirst, Store::Local, Some((_, Origin::SharedStore))) => {
                // The local store opened late.
                return match answer {
                    Answer::Set(set) if set.is_whole() => set.into_served(),
                    Answer::Set(_) | Answer::Part(_) | Answer::Nothing | Answer::Unread => {
                        Reaction::Keep
                    }
                };
            }
            (Trust::All | Trust::LocalFirst, _, _) => answer,
        };
        let served = served.map(|(data, _)| data);
        match answer {
            Answer::Set(set) => {
                self.undecodable.extend(set.undecodable.iter().cloned());
                if let Some(served) = served {
                    return added(served, &set.data);
                }
                self.held.push(set);
            }
            Answer::Part(data) => {
                if let Some(served) = served {
                    return added(served, &data);
                }
                merge(&mut self.leftovers, &data);
            }
            Answer::Nothing | Answer::Unread if served.is_some() => return Reaction::Keep,
            Answer::Nothing | Answer::Unread => {}
        }
        self.serve_if_sure()
    }

    /// Notes that LaunchDarkly has answered: stored data no longer counts, and silent stores are no
    /// longer awaited.
    pub fn on_live(&mut self) {
        *self = Self::new(self.trust, []);
    }

    /// Number of items from the shared store that were added to a set from another source.
    pub fn items_from_shared(&self) -> usize {
        self.from_shared.len()
    }

    /// True if items may be missing in the served data without the relay knowing, because the store
    /// that it came from does not count its items.
    pub fn is_presumed(&self) -> bool {
        self.is_presumed
    }

    /// Items that clients do not get because no store holds them in a form that can be decoded.
    pub fn missing(&self, served: &DataSet) -> Vec<ItemKey> {
        self.undecodable.iter().filter(|key| served.item(key).is_none()).cloned().collect()
    }

    /// Drops held data of stores; those that have not answered are still awaited.
    fn forget(&mut self) {
        self.held.clear();
        self.leftovers = DataSet::default();
        self.undecodable.clear();
    }

    fn serve_if_sure(&mut self) -> Reaction {
        if self.trust == Trust::LocalFirst {
            if self.silent.contains(&Store::Local) {
                return Reaction::Keep;
            }
            let is_local = |set: &StoredSet| set.origin == Origin::LocalStore && set.is_whole();
            if let Some(at) = self.held.iter().position(is_local) {
                let local = self.held.swap_remove(at);
                self.forget();
                return local.into_served();
            }
        }
        let is_sure = |set: &StoredSet| set.is_whole() && set.data.live_len() > 0;
        if !self.is_settled() && !self.held.iter().any(is_sure) {
            return Reaction::Keep;
        }
        let mut sets = std::mem::take(&mut self.held);
        // The most reliable and largest set gives its origin to all.
        sets.sort_by_key(|set| std::cmp::Reverse((set.is_counted, set.data.live_len())));
        let mut sets = sets.into_iter();
        let Some(mut first) = sets.next() else { return Reaction::Keep };
        for other in sets {
            merge(Arc::make_mut(&mut first.data), &other.data);
        }
        let leftovers = std::mem::take(&mut self.leftovers);
        if !leftovers.is_empty() {
            merge(Arc::make_mut(&mut first.data), &leftovers);
        }
        if first.data.live_len() == 0 && !self.unread.is_empty() {
            // An empty set is believed only when no other store is left to be read.
            self.held.push(first);
            return Reaction::Keep;
        }
        self.is_presumed = !first.is_counted;
        first.into_served()
    }
}

impl StoredSet {
    /// True if nothing of it is known to be missing.
    fn is_whole(&self) -> bool {
        self.is_counted && self.undecodable.is_empty()
    }

    fn into_served(self) -> Reaction {
        Reaction::Serve { data: self.data, origin: self.origin, as_of: self.as_of }
    }
}

/// Items of a store that are newer than the served ones, or not served.
fn added(served: &DataSet, stored: &DataSet) -> Reaction {
    let news: ChangeSet =
        stored.newer_than(served).map(|(key, item)| (key, item.clone())).collect();
    if news.is_empty() { Reaction::Keep } else { Reaction::Add(news) }
}

fn merge(data: &mut DataSet, other: &DataSet) {
    for (kind, key, item) in other.iter() {
        data.upsert(&ItemKey { kind, key: key.clone() }, item.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::Store::{Local, Shared};
    use super::*;
    use crate::environments::test_support::{data, flag, word};
    use crate::model::Item;

    fn shown<'a>(items: impl Iterator<Item = (&'a str, &'a Arc<Item>)>) -> String {
        items.map(|(key, item)| word(key, item)).collect::<Vec<_>>().join(" ")
    }

    /// Plays answers such as `local=a1 b2` (counted), `shared~a1` (presumed), `shared?a1` (a part),
    /// `local` (nothing) and `local*` (cannot be read), and shows what is served after each. `!a`
    /// behind a set is an item that cannot be decoded, `+2` the number of items from the shared
    /// store in a local set.
    #[track_caller]
    fn check(answers: &[&str], expected: &[&str]) {
        check_with(Trust::All, answers, expected);
    }

    #[track_caller]
    fn check_with(trust: Trust, answers: &[&str], expected: &[&str]) {
        let mut stored = StoredData::new(trust, [Local, Shared]);
        let mut served: Option<(DataSet, Origin)> = None;
        let mut seen = Vec::new();
        for answer in answers {
            let at = answer.find(['=', '~', '?']).unwrap_or(answer.len());
            let (name, rest) = answer.split_at(at);
            let (store, origin) = match name {
                "local" | "local*" => (Local, Origin::LocalStore),
                _ => (Shared, Origin::SharedStore),
            };
            let (form, rest) = rest.split_at(rest.len().min(1));
            let (items, undecodable) = rest.split_once('!').unwrap_or((rest, ""));
            let undecodable = undecodable.split_whitespace().map(flag).collect();
            let set = StoredSet {
                data: Arc::new(data(items)),
                origin,
                as_of: None,
                is_counted: form == "=",
                undecodable,
            };
            let answer = match form {
                "=" | "~" => Answer::Set(set),
                "?" => Answer::Part(data(items)),
                _ if name.ends_with('*') => Answer::Unread,
                _ => Answer::Nothing,
            };
            let mut line = String::new();
            let before = served.as_ref().map(|(data, origin)| (data, *origin));
            match stored.on_answer(store, answer, before) {
                Reaction::Keep => {}
                Reaction::Serve { data, origin, .. } => {
                    assert!(served.is_none() || trust == Trust::LocalFirst);
                    line = format!("{} ", origin.as_str());
                    served = Some(((*data).clone(), origin));
                }
                Reaction::Add(items) => {
                    let (served, _) = served.as_mut().unwrap();
                    items.iter().for_each(|(key, item)| {
                        served.upsert(key, item.clone());
                    });
                }
            }
            match &served {
                None => line.push_str(if stored.is_settled() { "none" } else { "wait" }),
                Some((served, _)) => {
                    line.push_str(&shown(served.flags.iter().map(|(key, item)| (&**key, item))));
                    for key in stored.missing(served) {
                        line.push_str(&format!(" !{}", key.key));
                    }
                    if stored.items_from_shared() > 0 {
                        line.push_str(&format!(" +{}", stored.items_from_shared()));
                    }
                }
            }
            seen.push(line);
        }
        assert_eq!(seen, expected, "{answers:?}");
    }

    #[test]
    fn a_whole_set_is_served_at_once_and_others_add_what_is_newer() {
        check(&["local=a1 b1", "shared=a2 c1"], &["localStore a1 b1", "a2 b1 c1 +2"]);
        check(&["shared=a2 b-3", "local=a1 b1"], &["sharedStore a2 b-3", "a2 b-3"]);
        check(&["local=a1", "shared"], &["localStore a1", "a1"]);
        check(&["local", "shared"], &["wait", "none"]);
    }

    #[test]
    fn a_lesser_set_does_not_win_by_being_first() {
        // Empty, as its marker confirms: another store may hold more.
        check(&["shared=", "local=a1 b1"], &["wait", "localStore a1 b1"]);
        check(&["shared=", "local"], &["wait", "sharedStore "]);
        check(&["local=", "shared=a1"], &["wait", "sharedStore a1"]);
        check(&["local=", "shared="], &["wait", "localStore "]);
        // Only tombstones are empty, too.
        check(&["shared=a-9", "local=a1 b1"], &["wait", "localStore a-9 b1"]);
        // Vouched for by a marker without counts.
        check(&["shared~a1", "local=a1 b1 c1"], &["wait", "localStore a1 b1 c1"]);
        check(&["shared~a2", "local=a1 b1"], &["wait", "localStore a2 b1"]);
        check(&["shared~a1", "local"], &["wait", "sharedStore a1"]);
        check(&["local", "shared~a1"], &["wait", "sharedStore a1"]);
    }

    #[test]
    fn an_empty_set_waits_for_a_store_that_cannot_be_read() {
        check(&["local=", "shared*"], &["wait", "none"]);
        check(
            &["local=", "shared*", "shared*", "shared"],
            &["wait", "none", "none", "localStore "],
        );
        check(&["local=", "shared*", "shared=a1"], &["wait", "none", "sharedStore a1"]);
        check(&["shared=", "local*", "local=a1 b1"], &["wait", "none", "localStore a1 b1"]);
        check(&["shared~a1", "local*"], &["wait", "sharedStore a1"]);
        check(&["local=a1", "shared*"], &["localStore a1", "a1"]);
    }

    #[test]
    fn parts_complete_a_set_and_are_no_set_themselves() {
        check(&["shared?a2 c1", "local=a1 b1"], &["wait", "localStore a2 b1 c1"]);
        check(&["local=a1 b1", "shared?a2 c1"], &["localStore a1 b1", "a2 b1 c1 +2"]);
        check(&["local?a1 b1", "shared"], &["wait", "none"]);
        check(&["local?a1 b1", "shared", "shared=a1"], &["wait", "none", "sharedStore a1 b1"]);
    }

    #[test]
    fn a_failing_source_does_not_answer_for_another() {
        check(
            &["shared", "shared", "shared", "local=a1"],
            &["wait", "wait", "wait", "localStore a1"],
        );
    }

    #[test]
    fn what_cannot_be_decoded_is_filled_from_elsewhere_or_named() {
        check(&["shared=a1!b", "local=a1 b1"], &["wait", "localStore a1 b1"]);
        check(&["shared=a1!b c", "local?b1"], &["wait", "sharedStore a1 b1 !c"]);
        check(&["shared=a1!b", "local"], &["wait", "sharedStore a1 !b"]);
        check(&["local=a1 b1", "shared=a1!b"], &["localStore a1 b1", "a1 b1"]);
        // The row was written again.
        check(&["shared=a1!b", "local", "shared=a1 b2"], &["wait", "sharedStore a1 !b", "a1 b2"]);
    }
    #[test]
    fn a_whole_local_set_can_exclude_the_shared_store() {
        let check = |answers: &[&str], expected: &[&str]| {
            check_with(Trust::LocalFirst, answers, expected);
        };
        check(&["local=a1 b1", "shared=a2 c1"], &["localStore a1 b1", "a1 b1"]);
        check(&["shared=a2 c1", "local=a1 b1"], &["wait", "localStore a1 b1"]);
        check(&["shared?a2 c1!d", "local=a1"], &["wait", "localStore a1"]);
        check(&["local=", "shared=a2"], &["localStore ", ""]);
        // Without a whole local set the shared store counts as always.
        check(&["shared=a2", "local"], &["wait", "sharedStore a2"]);
        check(&["local", "shared=a2", "shared=a3"], &["wait", "sharedStore a2", "a3"]);
        check(&["local?a1 b1", "shared=a2"], &["wait", "sharedStore a2 b1"]);
        // A local store that opens late takes over.
        check(
            &["local", "shared=a2 c1", "local=a1"],
            &["wait", "sharedStore a2 c1", "localStore a1"],
        );
        check(&["local", "shared=a2", "local?a3"], &["wait", "sharedStore a2", "a2"]);
    }

    #[test]
    fn nothing_is_added_to_what_launchdarkly_said_last() {
        let mut stored = StoredData::new(Trust::LocalFirst, []);
        let served = data("a1");
        let set = || StoredSet {
            data: Arc::new(data("a2")),
            origin: Origin::SharedStore,
            as_of: None,
            is_counted: true,
            undecodable: Vec::new(),
        };
        let answer = stored.on_answer(Shared, Answer::Set(set()), Some((&served, Origin::Live)));
        assert_eq!(answer, Reaction::Keep);
        let mut stored = StoredData::new(Trust::All, []);
        let answer = stored.on_answer(Shared, Answer::Set(set()), Some((&served, Origin::Live)));
        assert!(matches!(answer, Reaction::Add(_)));
    }
}
