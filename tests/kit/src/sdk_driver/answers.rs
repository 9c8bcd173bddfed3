//! What an SDK answers.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

/// How the wait for the first complete data set went.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Initialization {
    /// Whether the data set came within the limit.
    pub initialized: bool,
    /// Since the client was made.
    #[serde(rename = "elapsed_ms", deserialize_with = "milliseconds")]
    pub elapsed: Duration,
}

/// One evaluation.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Evaluation {
    /// What the SDK gave.
    pub value: Value,
    /// None: the default was given.
    pub variation: Option<u32>,
    /// Why it gave that. Client-side SDKs are told it only if they ask: otherwise, it is empty.
    #[serde(deserialize_with = "null_as_default")]
    pub reason: Reason,
}

/// Why an evaluation gave what it gave.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    pub kind: String,
    #[serde(default)]
    pub error_kind: Option<String>,
}

/// All flags at once.
#[derive(Clone, Debug, Deserialize)]
pub struct AllFlags {
    /// False while the SDK has no data.
    pub valid: bool,
    /// Values by keys of flags.
    pub values: Map<String, Value>,
}

/// How the wait for a value went.
#[derive(Clone, Debug, Deserialize)]
pub struct Awaited {
    /// Whether the value came within the limit.
    pub matched: bool,
    /// Since the command reached the driver.
    #[serde(rename = "elapsed_ms", deserialize_with = "milliseconds")]
    pub elapsed: Duration,
    /// The value last seen.
    pub value: Value,
}

/// What the SDK says of its connection.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Status {
    /// State of the data source.
    pub state: State,
    /// Whether the SDK says that it is initialized.
    pub initialized: bool,
    /// The newest failure, if there was one.
    pub last_error: Option<LastError>,
}

/// The states that all server-side SDKs share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// It has not yet had a complete data set.
    Initializing,
    /// The connection is sound.
    Valid,
    /// The connection failed, and the SDK tries again.
    Interrupted,
    /// The SDK has given up for good, or was closed.
    Off,
}

/// The newest failure of the SDK's connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct LastError {
    pub kind: String,
    /// 0 where no answer came.
    pub status_code: u16,
}

/// What the watcher counted since it was started.
#[derive(Clone, Debug, Deserialize)]
pub struct WatchReport {
    /// Evaluations after the first initialization.
    pub evaluations: u64,
    /// Those of them that fell back to the default.
    pub fallbacks: u64,
    /// Evaluations before the first initialization, which must fall back.
    pub before_init: u64,
    /// Longest time between two rounds: how closely the watcher really looked.
    #[serde(rename = "longest_pause_ms", deserialize_with = "milliseconds")]
    pub longest_pause: Duration,
    /// The first of `fallbacks`, if there was one.
    pub first_fallback: Option<Fallback>,
}

/// The first evaluation that fell back.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Fallback {
    pub flag: String,
    pub reason: Reason,
}

fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn milliseconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_millis)
}

/// Equal, where 2 and 2.0 are the same number, as SDKs write either.
pub fn same_value(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same_value(a, b)))
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_value(a, b))
        }
        _ => a == b,
    }
}
