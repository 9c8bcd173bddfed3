//! An official SDK in daemon mode: what it gives, compared with what LaunchDarkly's data mean.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::ensure;
use pilotlight::testing::demo::composed_data::{expected_value_after, flag_key};
use serde_json::{Map, Value, json};

use super::prefix;
use crate::cache_database::Kind;
use crate::fleet::Fleet;
use crate::sdk_driver::{Evaluation, Language, SdkDriver, WatchReport, same_value};
use crate::{eventually, futures_of};

/// Pause between two evaluations of every flag by a watcher. Long enough to leave something of the
/// machine to the database.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);

/// How many rounds a watcher goes on to show that all is well.
const ROUNDS: u64 = 3;

/// SDKs that have a store for the database.
pub fn languages(kind: Kind) -> &'static [Language] {
    match kind {
        Kind::Redis => &[Language::Python, Language::Node, Language::Go],
        Kind::DynamoDb => &[Language::Python, Language::Go],
        Kind::Consul => &[Language::Python],
    }
}

/// An SDK and the environment that it reads.
pub struct Reader {
    /// The SDK, which reads the database by itself.
    pub sdk: SdkDriver,
    /// Index of the environment.
    pub environment: usize,
    /// How many flags are watched.
    watched: u64,
}

/// What an environment of composed data came to.
#[derive(Clone, Default)]
pub struct Expected {
    /// How many flags it began with.
    pub flags: usize,
    /// Those that have changed, once.
    pub changed: BTreeSet<usize>,
    /// Those that have been deleted.
    pub deleted: BTreeSet<usize>,
}

impl Expected {
    /// Value by key of the flags that there are.
    fn values(&self, environment: usize) -> Map<String, Value> {
        let live = (0..self.flags).filter(|flag| !self.deleted.contains(flag));
        live.map(|flag| {
            let changes = usize::from(self.changed.contains(&flag));
            (flag_key(flag), expected_value_after(environment, flag, changes))
        })
        .collect()
    }
}

impl Reader {
    /// Every SDK that has a store for the database, each on an environment of its own.
    pub async fn start_all(fleet: &Fleet, kind: Kind) -> anyhow::Result<Vec<Self>> {
        let start = async |(environment, language): (usize, &Language)| {
            let store = fleet.database.sdk_store(&prefix(environment));
            let sdk = SdkDriver::start_on_store(*language, &store).await?;
            anyhow::Ok(Self { sdk, environment, watched: 0 })
        };
        futures_of(languages(kind).iter().enumerate().map(start)).await
    }

    /// Whether the SDK gives exactly the expected values, flag by flag and all at once.
    pub async fn compare(&mut self, expected: &Expected) -> anyhow::Result<()> {
        let values = expected.values(self.environment);
        let keys: Vec<&str> = values.keys().map(String::as_str).collect();
        for (key, given) in self.sdk.eval_all(&keys).await? {
            ensure!(
                same_value(&given.value, &values[&key]) && given.variation.is_some(),
                "{key} gives {given:?}, not {}",
                values[&key]
            );
        }
        for flag in &expected.deleted {
            let given = self.eval(&flag_key(*flag)).await?;
            ensure!(is_not_found(&given), "a deleted flag gives {given:?}");
        }
        let all = self.sdk.all_flags().await?;
        ensure!(all.valid, "the set of all flags is not valid");
        let (given, wanted) = (Value::Object(all.values), Value::Object(values));
        ensure!(same_value(&given, &wanted), "all flags are {given:#}");
        Ok(())
    }

    /// Waits until the SDK gives exactly the expected values.
    pub async fn sees(&mut self, expected: &Expected) -> anyhow::Result<()> {
        let what = self.named("gives what LaunchDarkly's data mean");
        eventually(&what, async || self.compare(expected).await).await;
        Ok(())
    }

    /// One flag with a default that no flag has.
    pub async fn eval(&mut self, key: &str) -> anyhow::Result<Evaluation> {
        self.sdk.eval(key, "none").await
    }

    /// Begins to evaluate flags again and again.
    pub async fn watch(&mut self, expected: &Expected) -> anyhow::Result<()> {
        let values = expected.values(self.environment);
        let keys: Vec<&str> = values.keys().map(String::as_str).collect();
        self.watched = keys.len() as u64;
        self.sdk.watch_start(&keys, WATCH_INTERVAL).await
    }

    /// Whether nothing has fallen back since the watch began, nor does in some rounds more.
    pub async fn has_not_fallen_back(&mut self) -> anyhow::Result<()> {
        self.watches_on().await?;
        let report = self.sdk.watch_report().await?;
        ensure!(report.fallbacks == 0, "{}: {report:?}", self.named("fell back"));
        Ok(())
    }

    /// Goes on watching for some rounds, in which nothing falls back.
    pub async fn watches_on(&mut self) -> anyhow::Result<()> {
        // The round that is under way may have begun when something was missing.
        let before = self.watches(1).await?;
        let after = self.watches(ROUNDS).await?;
        ensure!(
            after.fallbacks == before.fallbacks,
            "{}: {after:?} after {before:?}",
            self.named("falls back")
        );
        Ok(())
    }

    /// Waits until so many rounds more have ended, and gives the counts.
    async fn watches(&mut self, rounds: u64) -> anyhow::Result<WatchReport> {
        let enough = self.sdk.watch_report().await?.evaluations + rounds * self.watched;
        let what = self.named("watches on");
        let report = eventually(&what, async || {
            let report = self.sdk.watch_report().await.map_err(|error| format!("{error:#}"))?;
            if report.evaluations >= enough { Ok(report) } else { Err(format!("{report:?}")) }
        });
        Ok(report.await)
    }

    fn named(&self, what: &str) -> String {
        let (language, version) = (self.sdk.language(), self.sdk.version());
        format!("{language} SDK {version} on environment {} {what}", self.environment)
    }
}

/// The default was given because there is no such flag.
pub fn is_not_found(given: &Evaluation) -> bool {
    given.variation.is_none() && given.reason.error_kind.as_deref() == Some("FLAG_NOT_FOUND")
}

/// A flag that gives everybody a text which tells who wrote which version.
pub fn signed_flag(key: &str, version: u64, writer: &str) -> Value {
    json!({
        "key": key, "version": version, "on": false, "offVariation": 0, "salt": "s",
        "variations": [signature(writer, version)], "fallthrough": {"variation": 0},
        "prerequisites": [], "targets": [], "contextTargets": [], "rules": [],
        "clientSide": false, "deleted": false,
    })
}

/// The value of such a flag.
pub fn signature(writer: &str, version: u64) -> String {
    format!("{writer} {version}")
}

/// The text of each flag, or `-` where there is no flag.
pub async fn signatures(
    reader: &mut Reader,
    keys: &[&str],
) -> anyhow::Result<BTreeMap<String, String>> {
    let given = reader.sdk.eval_all(keys).await?;
    let text = |evaluation: Evaluation| {
        let not_found = if is_not_found(&evaluation) { "-" } else { "?" };
        evaluation.value.as_str().unwrap_or(not_found).to_owned()
    };
    Ok(given.into_iter().map(|(key, evaluation)| (key, text(evaluation))).collect())
}
