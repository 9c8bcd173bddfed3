//! An overview of a relay for people, from the JSON of `/status`: as a page and as text. Pure.

mod html;
mod text;

use std::time::Duration;

use serde_json::Value;

pub use html::html;
pub use text::text;

use crate::telemetry::Rounded;

/// A relay at one moment.
#[derive(Debug, Default, PartialEq, Eq)]
struct Overview {
    is_healthy: bool,
    version: String,
    /// Sentences about the relay as a whole.
    facts: Vec<String>,
    environments: Vec<Row>,
}

/// One environment.
#[derive(Debug, Default, PartialEq, Eq)]
struct Row {
    name: String,
    /// Where the served data came from.
    origin: String,
    age: String,
    launchdarkly: String,
    store: String,
    streams: String,
    flags: String,
    is_healthy: bool,
}

impl Row {
    fn cells(&self) -> [&str; COLUMNS.len()] {
        let Self { name, origin, age, launchdarkly, store, streams, flags, is_healthy: _ } = self;
        [name, origin, age, launchdarkly, store, streams, flags]
    }
}

/// The columns of a table of environments.
const COLUMNS: [&str; 7] =
    ["Environment", "Data", "Age", "LaunchDarkly", "Flag store", "Streams", "Flags"];

impl Overview {
    fn of(status: &Value) -> Self {
        let environments = status["environments"].as_object();
        Self {
            is_healthy: status["status"] == "healthy",
            version: word(&status["version"]),
            facts: facts(status),
            environments: environments
                .into_iter()
                .flatten()
                .map(|(name, environment)| row(name, environment))
                .collect(),
        }
    }

    fn verdict(&self) -> &'static str {
        if self.is_healthy { "healthy" } else { "degraded" }
    }
}

fn row(name: &str, environment: &Value) -> Row {
    let data = &environment["data"];
    let names = [&environment["projName"], &environment["envName"]].map(Value::as_str);
    let filter = name.split_once('/').map_or(String::new(), |(_, filter)| format!(" ({filter})"));
    let origin = match word(&data["origin"]).as_str() {
        "live" => "live",
        "localStore" => "local store",
        "sharedStore" => "shared store",
        _ => "none",
    };
    Row {
        name: match names {
            [Some(project), Some(environment)] => format!("{project} / {environment}{filter}"),
            _ => name.to_owned(),
        },
        origin: origin.to_owned(),
        age: data["ageSeconds"].as_u64().map_or_else(|| "unknown".to_owned(), age),
        launchdarkly: word(&environment["connectionStatus"]["state"]).to_lowercase(),
        store: word(&environment["dataStoreStatus"]["state"]).to_lowercase(),
        streams: word(&data["streams"]),
        flags: word(&data["flags"]),
        is_healthy: environment["status"] == "connected"
            && environment["dataStoreStatus"]["state"] == "VALID",
    }
}

fn facts(status: &Value) -> Vec<String> {
    let summary = &status["summary"];
    let count = |name: &str| word(&summary[name]);
    let mut facts = vec![format!(
        "{} environments: {} have data, {} of them live from their source",
        count("environments"),
        count("serving"),
        count("live"),
    )];
    if let Some(seconds) = summary["oldestDataSeconds"].as_u64() {
        facts.push(format!("oldest data: {}", age(seconds)));
    }
    facts.push(format!("open streams: {}", count("streams")));
    let mut state = |title: &str, value: &Value| {
        if let Some(state) = value["state"].as_str() {
            let error = value["error"].as_str().map(|it| format!(" ({it})")).unwrap_or_default();
            facts.push(format!("{title}: {}{error}", state.to_lowercase()));
        }
    };
    state("environments from LaunchDarkly", &status["autoConfigStatus"]);
    state("archive", &status["archive"]);
    for (name, tier) in status["autoConfigCache"].as_object().into_iter().flatten() {
        state(&format!("cache of environments, {name}"), tier);
    }
    state("local store", &status["localStore"]);
    facts
}

/// A string or a number as text; `-` for anything else.
fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => "-".to_owned(),
    }
}

/// An age for people.
fn age(seconds: u64) -> String {
    match seconds {
        0 => "0 s".to_owned(),
        seconds => Rounded(Duration::from_secs(seconds)).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    pub(super) fn sample() -> Value {
        json!({
            "summary": {
                "environments": 2, "serving": 1, "live": 1, "oldestDataSeconds": 90_000,
                "streams": 7,
            },
            "environments": {
                "e1/small": {
                    "status": "connected", "projName": "Shop <1>", "envName": "Test & more",
                    "sdkKey": "sdk-*****", "connectionStatus": {"state": "VALID"},
                    "dataStoreStatus": {"state": "VALID"},
                    "data": {"origin": "live", "flags": 3, "ageSeconds": 0, "streams": 7},
                },
                "two": {
                    "status": "disconnected", "connectionStatus": {"state": "INTERRUPTED"},
                    "dataStoreStatus": {"state": "INTERRUPTED"},
                    "data": {"origin": "none", "ageSeconds": null, "streams": 0},
                },
            },
            "autoConfigStatus": {"state": "INTERRUPTED"},
            "localStore": {"state": "unavailable", "error": "disk full"},
            "status": "degraded",
            "version": "1.2.3",
        })
    }

    #[test]
    fn what_people_ask_first_is_taken_from_the_status() {
        let overview = Overview::of(&sample());
        assert_eq!((overview.verdict(), overview.version.as_str()), ("degraded", "1.2.3"));
        assert_eq!(
            overview.facts,
            [
                "2 environments: 1 have data, 1 of them live from their source",
                "oldest data: 25 h",
                "open streams: 7",
                "environments from LaunchDarkly: interrupted",
                "local store: unavailable (disk full)",
            ]
        );
        let cells: Vec<_> = overview.environments.iter().map(Row::cells).collect();
        assert_eq!(
            cells,
            [
                ["Shop <1> / Test & more (small)", "live", "0 s", "valid", "valid", "7", "3"],
                ["two", "none", "unknown", "interrupted", "interrupted", "0", "-"],
            ]
        );
        let healthy: Vec<_> = overview.environments.iter().map(|row| row.is_healthy).collect();
        assert_eq!(healthy, [true, false]);
    }

    #[test]
    fn any_json_is_survived() {
        for status in [json!(null), json!([]), json!({"environments": 1, "summary": []})] {
            let overview = Overview::of(&status);
            assert!(!overview.is_healthy && overview.environments.is_empty(), "{status}");
        }
    }
}
