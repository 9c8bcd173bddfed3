//! An environment, a client and two stores for tests of the serving core, driven by words.

use std::fmt::Write as _;
use std::time::Duration;

use super::*;
use crate::environments::difference::difference;
use crate::environments::stored_data::StoredSet;
use crate::environments::test_support::{data, flag, items, word};
use crate::source::FlagMessageError;
use crate::upstream::StreamFailure;

/// An environment and a client that gets everything from it. Each event is a second later.
pub(super) struct Room {
    pub(super) serving: Serving,
    /// The data that the client holds.
    pub(super) client: Option<DataSet>,
    /// The data that the embedded and the shared store were told to hold.
    pub(super) stores: [Option<DataSet>; 2],
    pub(super) now: SystemTime,
}

fn words(data: &DataSet) -> String {
    let words: Vec<_> = data.iter().map(|(_, name, item)| word(name, item)).collect();
    words.join(" ")
}

fn names(keys: &[ItemKey]) -> String {
    keys.iter().map(|key| &*key.key).collect::<Vec<_>>().join(" ")
}

impl Room {
    pub(super) fn new(trust: Trust, has_shared: bool) -> Self {
        let now = SystemTime::UNIX_EPOCH;
        let status = EnvironmentStatus::initializing(now);
        let stores = [Store::Local].into_iter().chain(has_shared.then_some(Store::Shared));
        let serving = Serving::new(SdkKey::new("a"), trust, stores, None, status);
        Self { serving, client: None, stores: [None, None], now }
    }

    /// Plays an event and shows what follows, in order. Events: `put 1: a1 b2` (over connection 1),
    /// `patch 1: a2`, `junk 1`, `alive`, `lost`, `lost 401`, `restarted`; the same behind `next`
    /// for the connection under a new key; `key b`; `no local store`, `local: a1`, `local?: a1` (a
    /// part), `local` (nothing), `shared: a1`, `shared~: a1` (not counted), `shared?: a1`,
    /// `shared`, each with `!b` for an item that cannot be decoded.
    pub(super) fn play(&mut self, event: &str) -> String {
        self.now += Duration::from_secs(1);
        let was_loaded = self.serving.is_loaded();
        let state = self.serving.status().connection.state;
        let (head, rest) = event.split_once(": ").unwrap_or((event.trim_end_matches(':'), ""));
        let mut head: Vec<_> = head.split(' ').collect();
        let effects = match head[0] {
            "key" => self.serving.on_designated(SdkKey::new(head[1])),
            "no" => self.serving.on_no_local_store(Answer::Nothing),
            "unread" => self.serving.on_shared_store(Answer::Unread),
            "local" | "local?" => {
                let answer = answer(head[0], event.contains(':'), rest, Origin::LocalStore);
                self.serving.on_local_store(answer, None)
            }
            "shared" | "shared~" | "shared?" => {
                let answer = answer(head[0], event.contains(':'), rest, Origin::SharedStore);
                self.serving.on_shared_store(answer)
            }
            _ => {
                let which = if head[0] == "next" { Which::Next } else { Which::Current };
                if which == Which::Next {
                    head.remove(0);
                }
                let event = source_event(&head, rest);
                let served = self.serving.served().map(|served| served.data.clone());
                let difference = match (&event, served) {
                    (SourceEvent::Everything { data, .. }, Some(served)) => {
                        Some(difference(&served, data))
                    }
                    _ => None,
                };
                self.serving.on_source(which, event, difference, self.now)
            }
        };
        let mut shown = Vec::new();
        self.take(effects, &mut shown);
        if self.serving.is_loaded() && !was_loaded {
            shown.push("loaded".to_owned());
        }
        let status = &self.serving.status().connection;
        if status.state != state {
            shown.push(status.state.as_str().to_owned());
        }
        shown.join(", ")
    }

    /// Carries out the effects, and checks the invariants.
    fn take(&mut self, effects: Effects, shown: &mut Vec<String>) {
        if let Some(Announcement { snapshot, told }) = effects.announce {
            let origin = snapshot.origin.as_str();
            shown.push(match told {
                Told::Nothing => format!("{origin} same"),
                Told::Changes(changes) => {
                    let client = self.client.as_mut().expect("changes only follow a data set");
                    let mut text = format!("{origin} +");
                    for (key, item) in changes.iter() {
                        client.upsert(key, item.clone());
                        write!(text, " {}", word(&key.key, item)).unwrap();
                    }
                    text
                }
                Told::Everything => {
                    // It does not contain deleted items.
                    let items = snapshot.data.iter().filter(|(_, _, item)| !item.is_tombstone());
                    let mut client = DataSet::default();
                    items.for_each(|(_, name, item)| {
                        client.upsert(&flag(name), item.clone());
                    });
                    self.client = Some(client);
                    format!("{origin} = {}", words(&snapshot.data))
                }
            });
        }
        let [local, shared] = &mut self.stores;
        match effects.local {
            Some(LocalOrder::Replace(data)) => {
                shown.push("local =".to_owned());
                *local = Some((*data).clone());
            }
            Some(LocalOrder::Change(data, keys)) => {
                shown.push(format!("local + {}", names(&keys)));
                *local = Some((*data).clone());
            }
            Some(LocalOrder::Adopt(..)) => shown.push("local adopt".to_owned()),
            None => {}
        }
        for order in effects.shared {
            match order {
                SharedOrder::Put(data) => {
                    shown.push("shared =".to_owned());
                    *shared = Some((*data).clone());
                }
                SharedOrder::Changed(data, keys) => {
                    shown.push(format!("shared + {}", names(&keys)));
                    *shared = Some((*data).clone());
                }
                SharedOrder::Served { is_partial, .. } => {
                    shown.push(format!("shared {}", if is_partial { "part" } else { "served" }));
                }
                SharedOrder::NotLive => shown.push("not live".to_owned()),
                SharedOrder::Heard => {}
            }
        }
        shown.extend(effects.upstream.map(|order| match order {
            UpstreamOrder::OpenNext(key) => format!("open {}", key.expose()),
            UpstreamOrder::DropNext => "drop next".to_owned(),
            UpstreamOrder::PromoteNext => "promote next".to_owned(),
            UpstreamOrder::RestartMalformed(Which::Current, number) => format!("restart {number}"),
            UpstreamOrder::RestartMalformed(Which::Next, number) => {
                format!("restart next {number}")
            }
        }));
    }
}

fn answer(name: &str, has_set: bool, text: &str, origin: Origin) -> Answer {
    let (text, undecodable) = text.split_once('!').unwrap_or((text, ""));
    let undecodable: Vec<_> = undecodable.split_whitespace().map(flag).collect();
    if name.ends_with('?') {
        return Answer::Part(data(text));
    }
    if !has_set {
        return Answer::Nothing;
    }
    Answer::Set(StoredSet {
        data: Arc::new(data(text)),
        origin,
        as_of: Some(SystemTime::UNIX_EPOCH),
        is_counted: !name.ends_with('~'),
        undecodable,
    })
}

pub(super) fn source_event(head: &[&str], rest: &str) -> SourceEvent {
    let connection = || head[1].parse().unwrap();
    match head[0] {
        "put" => SourceEvent::Everything { connection: connection(), data: data(rest) },
        "patch" => {
            let changes = items(rest).into_iter().collect();
            SourceEvent::Changes { connection: connection(), changes }
        }
        "junk" => {
            let error = FlagMessageError::sample();
            SourceEvent::Malformed { connection: connection(), error }
        }
        "alive" => SourceEvent::Alive,
        "restarted" => SourceEvent::Lost { failure: None },
        "lost" => {
            let status = head.get(1).map(|status| status.parse().unwrap());
            let kind =
                if status.is_some() { ErrorKind::ErrorResponse } else { ErrorKind::NetworkError };
            SourceEvent::Lost { failure: Some(StreamFailure { kind, status }) }
        }
        other => panic!("{other}"),
    }
}
