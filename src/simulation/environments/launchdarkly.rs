//! LaunchDarkly's list of environments, and what its stream says.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use serde_json::{Value, json};

/// Environments that are there from the beginning and never deleted, changed though they are.
pub const BASE: [&str; 2] = ["a", "b"];

/// Environments that come and go.
const OTHERS: [&str; 3] = ["c", "d", "e"];

/// Versions of environments by their IDs.
pub type Versions = BTreeMap<String, i64>;

#[derive(Debug)]
pub struct LaunchDarkly {
    pub truth: Versions,
    /// The newest version of each, deletions included.
    versions: BTreeMap<&'static str, i64>,
    /// Every state that there was, as text.
    history: BTreeSet<String>,
    /// False during an outage.
    pub is_up: bool,
}

/// A message on its way.
#[derive(Clone, Debug)]
pub enum Message {
    Event(&'static str, Value),
    Heartbeat,
}

/// An environment as the stream describes it. Each version has a key of its own.
fn record(id: &str, version: i64) -> Value {
    json!({"envID": id, "sdkKey": {"value": format!("sdk-{id}-{version}")}, "version": version})
}

/// Environments as `a3 b4`.
pub fn shown(versions: &Versions) -> String {
    let words: Vec<String> =
        versions.iter().map(|(id, version)| format!("{id}{version}")).collect();
    words.join(" ")
}

impl LaunchDarkly {
    pub fn new() -> Self {
        let mut launchdarkly = Self {
            truth: Versions::new(),
            versions: BTreeMap::new(),
            history: BTreeSet::new(),
            is_up: true,
        };
        for id in BASE {
            launchdarkly.set(id, false);
        }
        launchdarkly.history = BTreeSet::from([shown(&launchdarkly.truth)]);
        launchdarkly
    }

    fn set(&mut self, id: &'static str, delete: bool) -> Message {
        let version = self.versions.entry(id).or_insert(0);
        *version += 1;
        let (path, version) = (format!("/environments/{id}"), *version);
        if delete {
            self.truth.remove(id);
        } else {
            self.truth.insert(id.to_owned(), version);
        }
        self.history.insert(shown(&self.truth));
        if delete {
            Message::Event("delete", json!({"path": path, "version": version}))
        } else {
            Message::Event("patch", json!({"path": path, "data": record(id, version)}))
        }
    }

    /// Somebody changes, adds or deletes an environment.
    pub fn change(&mut self, rng: &mut Rng) -> Message {
        if rng.bool() {
            return self.set(BASE[rng.usize(..BASE.len())], false);
        }
        let id = OTHERS[rng.usize(..OTHERS.len())];
        let delete = self.truth.contains_key(id) && rng.bool();
        self.set(id, delete)
    }

    /// What a new stream is sent first.
    pub fn put(&self) -> Message {
        put(self.truth.iter().map(|(id, version)| (id, record(id, *version))))
    }

    /// The same, with one environment whose record cannot be used.
    pub fn flawed_put(&self, rng: &mut Rng) -> Message {
        let flawed = rng.usize(..self.truth.len());
        let records = self.truth.iter().enumerate().map(|(number, (id, version))| {
            let record = if number == flawed { json!({"envID": 5}) } else { record(id, *version) };
            (id, record)
        });
        put(records)
    }

    /// Whether LaunchDarkly ever had exactly these environments.
    pub fn ever_had(&self, versions: &Versions) -> bool {
        self.history.contains(&shown(versions))
    }
}

fn put<'a>(records: impl Iterator<Item = (&'a String, Value)>) -> Message {
    let environments: serde_json::Map<String, Value> =
        records.map(|(id, record)| (id.clone(), record)).collect();
    Message::Event("put", json!({"path": "/", "data": {"environments": environments}}))
}

/// A put that says by mistake that there is no environment.
pub fn empty_put() -> Message {
    put(std::iter::empty())
}
