//! What an SDK answers.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

/// How the wait for the first complete data set went.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Initialization {
    pub(crate) initialized: bool,
    /// Since the client was made.
    #[serde(rename = "elapsed_ms", deserialize_with = "milliseconds")]
    pub(crate) elapsed: Duration,
}

/// One evaluation.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Evaluation {
    pub(crate) value: Value,
    /// None: the default was given.
    pub(crate) variation: Option<u32>,
    pub(crate) reason: Reason,
}

/// Why an evaluation gave what it gave.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Reason {
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) error_kind: Option<String>,
}

/// All flags at once.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct AllFlags {
    /// False while the SDK has no data.
    pub(crate) valid: bool,
    pub(crate) values: Map<String, Value>,
}

/// How the wait for a value went.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Awaited {
    pub(crate) matched: bool,
    /// Since the command reached the driver.
    #[serde(rename = "elapsed_ms", deserialize_with = "milliseconds")]
    pub(crate) elapsed: Duration,
    /// The value last seen.
    pub(crate) value: Value,
}

/// What the SDK says of its connection.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Status {
    pub(crate) state: State,
    pub(crate) initialized: bool,
    pub(crate) last_error: Option<LastError>,
}

/// The states that all server-side SDKs share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum State {
    Initializing,
    Valid,
    Interrupted,
    Off,
}

/// The newest failure of the SDK's connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct LastError {
    pub(crate) kind: String,
    /// 0 where no answer came.
    pub(crate) status_code: u16,
}

/// What the watcher counted since it was started.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct WatchReport {
    /// Evaluations after the first initialization.
    pub(crate) evaluations: u64,
    /// Those of them that fell back to the default.
    pub(crate) fallbacks: u64,
    /// Evaluations before the first initialization, which must fall back.
    pub(crate) before_init: u64,
    /// Longest time between two rounds: how closely the watcher really looked.
    #[serde(rename = "longest_pause_ms", deserialize_with = "milliseconds")]
    pub(crate) longest_pause: Duration,
    pub(crate) first_fallback: Option<Fallback>,
}

/// The first evaluation that fell back.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Fallback {
    pub(crate) flag: String,
    pub(crate) reason: Reason,
}

fn milliseconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_millis)
}

/// Equal, where 2 and 2.0 are the same number, as SDKs write either.
pub(crate) fn same_value(a: &Value, b: &Value) -> bool {
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
