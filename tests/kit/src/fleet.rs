//! A LaunchDarkly, a database, any number of relays on both, and a reader that tells what a relay
//! with certain keys would find in the cache.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use pilotlight::testing::autoconfig::cache::Codec;
use pilotlight::testing::autoconfig::cache::Manifest;
use pilotlight::testing::autoconfig::cache::Row;
use pilotlight::testing::demo::composed_data::{environment, environment_id};
use pilotlight::testing::demo::fake_launchdarkly::{FakeLaunchDarkly, FakeSettings};
use pilotlight::testing::demo::representations::{EnvironmentRep, FilterRep, KeyRep};
use pilotlight::testing::sealing::{KeyRing, SealingKey};
use serde_json::Value;
use tempfile::TempDir;

use crate::cache_database::{CacheDatabase, Kind, Rows};
use crate::eventually;
use crate::relay::{RelayProcess, RelaySettings, Response};

/// `AUTO_CONFIG_CACHE_KEY`.
pub const CACHE_KEY: &str = "fleet-cache";

/// Where our own rows stand.
pub const SEALED: &str = "fleet-cache.pilotlight";

/// `AUTO_CONFIG_CACHE_ENCRYPTION_KEY`, unless a test is about keys.
pub const KEY: &str = "correct horse battery staple";

/// Name of the manifest's record.
const MANIFEST: &str = "manifest";

/// Name of the record that vouches for ld-relay's rows.
const LD_RELAY_MANIFEST: &str = "manifest of ld-relay's rows";

/// Environments have indices below this.
pub const ENVIRONMENTS_MAX: usize = 100;

/// An interval that is over before a test is.
pub const OFTEN: &str = "1s";

/// An interval that no test lives to see.
pub const NEVER: &str = "24h";

/// A fake LaunchDarkly, and the database of the relays below it.
pub struct Fleet {
    /// What the relays connect to.
    pub launchdarkly: FakeLaunchDarkly,
    /// What the relays share.
    pub database: CacheDatabase,
    /// Payload filters that LaunchDarkly has, as in [`Found::records`].
    filters: BTreeSet<String>,
}

/// What the sealed rows hold for somebody with certain keys.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// `env:ID@version`, `filter:ID@version`.
    pub records: BTreeSet<String>,
    /// Whether there is a manifest that vouches for exactly these.
    pub is_whole: bool,
    /// Rows that do not open.
    pub closed: usize,
}

impl Fleet {
    /// So many environments with so many flags each.
    pub fn new(database: CacheDatabase, environments: usize, flags: usize) -> Self {
        // Short, because some decisions wait for a sign of life of the stream.
        let heartbeat = Some(Duration::from_millis(200));
        let settings = FakeSettings { heartbeat, ..FakeSettings::default() };
        let launchdarkly = FakeLaunchDarkly::launch(&settings).unwrap();
        for index in 0..environments {
            launchdarkly.load(&environment(index, flags));
        }
        Self { launchdarkly, database, filters: BTreeSet::new() }
    }

    /// As [`Self::new`], on a database that lives as long as the test.
    pub async fn on(kind: Kind, environments: usize, flags: usize) -> Self {
        Self::new(CacheDatabase::start(kind).await, environments, flags)
    }

    /// As [`Self::new`], on a database that can be killed and frozen.
    pub async fn on_mortal(kind: Kind, environments: usize, flags: usize) -> Self {
        Self::new(CacheDatabase::start_mortal(kind).await, environments, flags)
    }

    /// A relay with the cache and without a key for it but its autoconfig key.
    pub fn keyless(&self, store: &Path, interval: &str) -> RelaySettings {
        let key = FakeSettings::default().autoconfig_key;
        let settings = RelaySettings::autoconfig(&self.launchdarkly, &key, store)
            .with("AUTO_CONFIG_CACHE_KEY", CACHE_KEY);
        self.database.configure(settings, interval)
    }

    /// A relay with the cache and with [`KEY`] for it.
    pub fn relay(&self, store: &TempDir, interval: &str) -> RelaySettings {
        self.keyless(store.path(), interval).with("AUTO_CONFIG_CACHE_ENCRYPTION_KEY", KEY)
    }

    /// A relay on a machine of its own, which has nothing yet.
    pub fn new_relay(&self, interval: &str) -> RelaySettings {
        let store = TempDir::new().unwrap();
        self.relay(&store, interval).keeping(store)
    }

    /// Starts a relay and waits until the cache holds what LaunchDarkly says.
    pub async fn filled_by(&self, settings: &RelaySettings) -> RelayProcess {
        let relay = settings.start().unwrap();
        eventually("the cache is filled", async || {
            self.look().await.map_err(|complaint| format!("{complaint}; log:\n{}", relay.log()))
        })
        .await;
        relay.wait_until_stored().await;
        relay
    }

    /// Fills the cache and leaves nobody who keeps it.
    pub async fn fill(&self) {
        let store = TempDir::new().unwrap();
        let relay = self.filled_by(&self.relay(&store, NEVER)).await;
        relay.kill().await.unwrap();
    }

    /// Our own rows.
    pub async fn rows(&self) -> Rows {
        self.database.rows(SEALED).await
    }

    /// Waits until the cache holds exactly what LaunchDarkly says, whole.
    pub async fn wait_until_whole(&self) {
        eventually("the cache holds what LaunchDarkly says", async || self.look().await).await;
    }

    async fn look(&self) -> Result<(), String> {
        let found = open(&self.rows().await, &[KEY]);
        let said = self.said();
        if found.is_whole && found.closed == 0 && found.records == said {
            Ok(())
        } else {
            Err(format!("{found:?} where {said:?} is said"))
        }
    }

    /// What LaunchDarkly says, as [`Found::records`].
    pub fn said(&self) -> BTreeSet<String> {
        let name = |rep: EnvironmentRep| format!("env:{}@{}", rep.env_id, rep.version);
        let known = |index| self.launchdarkly.environment(&environment_id(index));
        (0..ENVIRONMENTS_MAX).filter_map(known).map(name).chain(self.filters.clone()).collect()
    }

    /// Adds a payload filter with that ID and key to the project at LaunchDarkly.
    pub fn add_filter(&mut self, id: &str, key: &str) {
        let rep =
            FilterRep { proj_key: "pilot-project".to_owned(), key: key.to_owned(), version: 0 };
        let version = self.launchdarkly.upsert_filter(id, rep);
        self.filters.insert(format!("filter:{id}@{version}"));
    }

    /// Changes an environment without a change of its keys; its name tells how.
    pub fn rename(&self, index: usize, name: &str) {
        let mut rep = self.launchdarkly.environment(&environment_id(index)).unwrap();
        name.clone_into(&mut rep.env_name);
        self.launchdarkly.upsert_environment(rep);
    }

    /// Gives an environment another SDK key.
    pub fn rotate(&self, index: usize, key: &str) {
        let mut rep = self.launchdarkly.environment(&environment_id(index)).unwrap();
        key.clone_into(&mut rep.sdk_key.value);
        rep.sdk_keys = vec![KeyRep::permanent("default", key)];
        self.launchdarkly.upsert_environment(rep);
    }
}

/// The part of `/status` about the shared cache.
pub fn shared(status: &Value) -> &Value {
    &status["autoConfigCache"]["shared"]
}

/// Waits for a state of the shared cache.
pub async fn wait_for_shared(relay: &RelayProcess, state: &str) -> Value {
    let reached = |status: &Value| shared(status)["state"] == state;
    relay.wait_for_status(&format!("the shared cache is {state}"), reached).await
}

/// Asserts that a request is turned away for now, not for good.
#[track_caller]
pub fn assert_later(response: &Response) {
    let retry_after = response.header("retry-after");
    assert!(
        response.status == 503 && retry_after.is_some_and(|it| it.parse::<u32>().is_ok()),
        "{response:?}"
    );
}

/// The codec of our own rows: the first key seals, all open. Panics without keys.
pub fn codec(keys: &[&str]) -> Codec {
    let mut ring = keys.iter().map(|key| SealingKey::derive(key));
    let ring = KeyRing::new(ring.next().unwrap(), ring);
    Codec::sealed(&ring, &format!("shared/{SEALED}"))
}

/// Name of the row that holds a record under the key.
pub fn row_name(key: &str, record: &str) -> String {
    codec(&[key]).row_name(record)
}

/// Name of the manifest's row.
pub fn manifest_row() -> String {
    row_name(KEY, MANIFEST)
}

/// Opens sealed rows.
pub fn open(rows: &Rows, keys: &[&str]) -> Found {
    let row = |(name, value): (&String, &Vec<u8>)| Row {
        name: name.clone(),
        value: value.clone().into(),
        revision: 0,
    };
    let opened = codec(keys).open_all(&rows.iter().map(row).collect::<Vec<_>>());
    let mut texts: BTreeMap<String, String> =
        opened.records.into_iter().map(|(name, (_, record))| (name, record.text)).collect();
    texts.remove(LD_RELAY_MANIFEST);
    let manifest = texts.remove(MANIFEST).as_deref().and_then(Manifest::decode);
    let is_whole = manifest.is_some_and(|manifest| manifest.vouches_for(&texts));
    let record = |(name, text): (&String, &String)| {
        let record: Value = serde_json::from_str(text).unwrap();
        format!("{name}@{}", record["data"]["version"])
    };
    let records = texts.iter().map(record).collect();
    Found { records, is_whole, closed: opened.skipped.total() }
}

/// What differs between two states of the rows: added, changed, removed.
pub fn difference(before: &Rows, after: &Rows) -> (usize, usize, usize) {
    let added = after.keys().filter(|name| !before.contains_key(*name)).count();
    let removed = before.keys().filter(|name| !after.contains_key(*name)).count();
    let changed = after
        .iter()
        .filter(|(name, value)| before.get(*name).is_some_and(|held| held != *value))
        .count();
    (added, changed, removed)
}
