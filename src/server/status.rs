//! `/status`, in ld-relay's shape, with what Pilotlight adds: origin and age of data, the state of
//! caches and stores. Always 200; load balancers use [`super::readiness`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::{Map, Value};

use super::refusals::Refusals;
use super::routes::{EnvironmentName, OneEnvironment};
use crate::environments::{Environment, Registry};
use crate::model::{ConnectionState, ConnectionStatus, ListState, obscured, unix_ms};

/// Gives the members of `/status` about other parts of the process, such as `autoConfigStatus`.
/// Called for each body that is built; must not wait.
#[derive(Clone)]
pub struct StatusMembers(pub Arc<dyn Fn() -> Map<String, Value> + Send + Sync>);

impl fmt::Debug for StatusMembers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StatusMembers")
    }
}

#[derive(Serialize)]
struct Status {
    summary: Summary,
    environments: BTreeMap<String, EnvironmentStatus>,
    #[serde(flatten)]
    others: Map<String, Value>,
    /// Requests that were answered with 503, by reason.
    #[serde(rename = "refusedRequests")]
    refused_requests: Map<String, Value>,
    status: &'static str,
    version: &'static str,
    #[serde(rename = "clientVersion")]
    client_version: &'static str,
}

/// The environments together.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    environments: usize,
    /// Those that have data.
    serving: usize,
    /// Those whose data is what LaunchDarkly, or the archive, says now.
    live: usize,
    /// Age of the oldest data; `null` if that of some is not known, or if there is none.
    oldest_data_seconds: Option<u64>,
    streams: usize,
}

impl Summary {
    fn of<'a>(environments: impl Iterator<Item = &'a EnvironmentStatus>) -> Self {
        let mut summary = Self::default();
        let mut ages = Some(0);
        for EnvironmentStatus { data, connection_status, .. } in environments {
            summary.environments += 1;
            summary.streams += data.streams;
            if data.flags.is_some() {
                summary.serving += 1;
                ages = ages.zip(data.age_seconds).map(|(oldest, age)| age.max(oldest));
            }
            summary.live += usize::from(connection_status["state"] == "VALID");
        }
        summary.oldest_data_seconds = ages.filter(|_| summary.serving > 0);
        summary
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EnvironmentStatus {
    sdk_key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    env_id: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    env_key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    env_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    proj_key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    proj_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mobile_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiring_sdk_key: Option<String>,
    sdk_keys: Vec<KeyStatus>,
    mobile_keys: Vec<KeyStatus>,
    status: &'static str,
    connection_status: Value,
    data_store_status: Value,
    data: DataStatus,
}

#[derive(Serialize)]
struct KeyStatus {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry: Option<u64>,
}

/// Most names of items in one list.
const NAMES_MAX: usize = 100;

/// The served data and its age, which ld-relay does not report.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DataStatus {
    /// `live`, `localStore`, `sharedStore`, or `none`.
    origin: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    segments: Option<usize>,
    /// Seconds since LaunchDarkly last confirmed the data; 0 while the stream is live, `null` if
    /// not known.
    age_seconds: Option<u64>,
    /// Open streams of SDKs.
    streams: usize,
    /// Reason why stored data could not be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_data_problem: Option<String>,
    /// Items that clients do not get, because no store holds them in a form that can be decoded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing_items: Vec<String>,
    /// Items from the shared store that were added to a set from another source, because they are
    /// newer there.
    #[serde(skip_serializing_if = "is_zero")]
    items_from_shared_store: usize,
    /// True if the store of the data does not count its items, so that missing ones would not be
    /// noticed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    presumed_complete: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Sources of the content of `/status`.
#[derive(Debug)]
pub(super) struct StatusSources {
    pub(super) registry: Arc<Registry>,
    pub(super) members: StatusMembers,
    pub(super) refusals: Arc<Refusals>,
    /// Time after which an interrupted environment counts as disconnected.
    pub(super) disconnected_after: Duration,
}

impl StatusSources {
    /// The body of `/status`.
    pub(super) fn body(&self) -> String {
        let now = SystemTime::now();
        let mut environments = BTreeMap::new();
        let mut healthy = self.registry.list() != ListState::Unknown;
        for environment in self.registry.environments().iter() {
            let status = environment_status(environment, self.disconnected_after, now);
            healthy &= status.status == "connected";
            // ld-relay lets filtered views overwrite one another here; ours have distinct names.
            environments.insert(environment.reference.to_string(), status);
        }
        let status = Status {
            summary: Summary::of(environments.values()),
            environments,
            others: (self.members.0)(),
            refused_requests: self.refusals.numbers(),
            status: if healthy { "healthy" } else { "degraded" },
            version: crate::VERSION,
            client_version: crate::VERSION,
        };
        line(&status)
    }

    /// The body about one environment; `None` if there is none of this name.
    pub(super) fn body_of(&self, one: &OneEnvironment) -> Option<String> {
        let environments = self.registry.environments();
        let environment = environments.iter().find(|environment| is_meant(environment, one))?;
        Some(line(&environment_status(environment, self.disconnected_after, SystemTime::now())))
    }
}

/// JSON that ends like a line, for people who read it in a terminal.
fn line(status: &impl Serialize) -> String {
    // Strings and numbers only: cannot fail.
    serde_json::to_string(status).unwrap_or_default() + "\n"
}

/// True if a path means this environment.
fn is_meant(environment: &Environment, one: &OneEnvironment) -> bool {
    let reference = &environment.reference;
    let spec = environment.spec();
    let is_named = match &one.name {
        EnvironmentName::NameOrId(name) => {
            let id = spec.credentials.environment_id.as_ref();
            *reference.environment == **name || id.is_some_and(|id| id.as_str() == name)
        }
        EnvironmentName::Keys { project, environment } => {
            spec.project_key == *project && spec.environment_key == *environment
        }
    };
    is_named && reference.filter.as_str() == one.filter
}

fn environment_status(
    environment: &Environment,
    disconnected_after: Duration,
    now: SystemTime,
) -> EnvironmentStatus {
    let spec = environment.spec();
    let keys = &spec.credentials;
    let state = environment.status();
    let snapshot = environment.hub.snapshot();
    let valid = state.connection.state == ConnectionState::Valid;
    // ld-relay v8: expired keys are left out.
    let sdk_keys = || keys.sdk_keys.iter().filter(|key| key.is_valid_at(now));
    let soonest = sdk_keys()
        .filter(|key| key.value != keys.anchor && key.expiry.is_some())
        .min_by_key(|key| key.expiry);
    let age = |snapshot: &Arc<crate::streams::Snapshot>| {
        let as_of = if valid { now } else { snapshot.as_of? };
        Some(now.duration_since(as_of).map_or(0, |age| age.as_secs()))
    };
    let live = |items: &crate::model::ItemMap| {
        items.iter().filter(|(_, item)| !item.is_tombstone()).count()
    };
    // ld-relay v8: manual environments show no name except the key of the map.
    let autoconfigured = !spec.environment_key.is_empty();
    let named = |name: &str| if autoconfigured { name.to_owned() } else { String::new() };
    EnvironmentStatus {
        sdk_key: obscured(keys.anchor.expose()),
        env_id: keys.environment_id.as_ref().map(|id| id.as_str().to_owned()),
        env_key: spec.environment_key.clone(),
        env_name: named(&spec.environment_name),
        proj_key: named(&spec.project_key),
        proj_name: named(&spec.project_name),
        mobile_key: keys.primary_mobile.as_ref().map(|key| obscured(key.expose())),
        expiring_sdk_key: soonest.map(|key| obscured(key.value.expose())),
        sdk_keys: sdk_keys()
            .map(|key| key_status(key.name.as_ref(), key.value.expose(), key.expiry))
            .collect(),
        mobile_keys: keys
            .mobile_keys
            .iter()
            .filter(|key| key.is_valid_at(now))
            .map(|key| key_status(key.name.as_ref(), key.value.expose(), key.expiry))
            .collect(),
        status: if is_connected(&state.connection, disconnected_after, now) {
            "connected"
        } else {
            "disconnected"
        },
        connection_status: connection_status(&state.connection),
        data_store_status: store_status(environment),
        data: DataStatus {
            origin: snapshot.as_ref().map_or("none", |snapshot| snapshot.origin.as_str()),
            flags: snapshot.as_ref().map(|snapshot| live(&snapshot.data.flags)),
            segments: snapshot.as_ref().map(|snapshot| live(&snapshot.data.segments)),
            age_seconds: snapshot.as_ref().and_then(age),
            streams: environment.hub.streams(),
            stored_data_problem: state.stored_data_problem,
            missing_items: state
                .missing_items
                .iter()
                .take(NAMES_MAX)
                .map(ToString::to_string)
                .collect(),
            items_from_shared_store: state.items_from_shared_store,
            presumed_complete: state.is_presumed,
        },
    }
}

/// Status of the flag store in ld-relay's shape, with Pilotlight's additions.
fn store_status(environment: &Environment) -> Value {
    let Some(store) = environment.shared_store() else {
        // Without a database the data is in memory, where it is always available (ld-relay v8).
        return serde_json::json!({
            "state": "VALID",
            "stateSince": unix_ms(environment.created_at),
        });
    };
    let mut shape = serde_json::json!({
        "state": store.state,
        "stateSince": unix_ms(store.since),
        "database": store.database,
        "breaker": store.breaker,
        "dirty": store.dirty,
        "writePending": store.write_pending,
        "undecodable": store.undecodable.iter().take(NAMES_MAX).collect::<Vec<_>>(),
        "unrepaired": {
            "outdatedItems": store.unrepaired.outdated_items,
            "newerItems": store.unrepaired.newer_items,
            "noValidMarker": store.unrepaired.no_valid_marker,
        },
    });
    let mut add = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            shape[name] = value;
        }
    };
    add("dbServer", store.server.map(Into::into));
    add("dbPrefix", store.prefix.map(Into::into));
    add("dbTable", store.table.map(Into::into));
    add("error", store.error.map(Into::into));
    add("problem", store.problem.map(Into::into));
    add("evictionPolicy", store.eviction_policy.map(Into::into));
    add("lastWrite", store.last_write.map(|at| unix_ms(at).into()));
    add(
        "lastRepopulation",
        store.last_repopulation.map(|last| {
            serde_json::json!({
                "time": unix_ms(last.at),
                "reason": last.reason,
                "items": last.items,
            })
        }),
    );
    if !store.dropped.is_empty() {
        let dropped = store.dropped.into_iter();
        let item = |(item, bytes)| serde_json::json!({"item": item, "bytes": bytes});
        add("dropped", Some(dropped.map(item).collect()));
    }
    shape
}

fn key_status(name: Option<&String>, value: &str, expiry: Option<SystemTime>) -> KeyStatus {
    KeyStatus { key: name.cloned(), value: obscured(value), expiry: expiry.map(unix_ms) }
}

/// ld-relay v8: disconnected before the first data from LaunchDarkly, and after a while without
/// a valid connection.
fn is_connected(status: &ConnectionStatus, disconnected_after: Duration, now: SystemTime) -> bool {
    match status.state {
        ConnectionState::Valid => true,
        ConnectionState::Initializing => false,
        ConnectionState::Off if !status.was_valid() => false,
        ConnectionState::Interrupted | ConnectionState::Off => {
            now.duration_since(status.since).is_ok_and(|passed| passed < disconnected_after)
        }
    }
}

/// A connection's status in ld-relay's shape.
pub fn connection_status(status: &ConnectionStatus) -> Value {
    let mut shape = serde_json::json!({
        "state": status.state.as_str(),
        "stateSince": unix_ms(status.since),
    });
    if let Some(error) = &status.last_error {
        shape["lastError"] = serde_json::json!({
            "kind": error.kind.as_str(),
            "time": unix_ms(error.at),
        });
        if let Some(code) = error.status_code {
            shape["lastError"]["statusCode"] = code.into();
        }
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ErrorKind;

    #[test]
    fn connected_follows_ld_relays_rule() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let check = |change: fn(&mut ConnectionStatus, SystemTime), now, expected| {
            let mut status = ConnectionStatus::initializing(at(0));
            change(&mut status, at(10));
            assert_eq!(is_connected(&status, Duration::from_secs(60), at(now)), expected);
        };
        let fail = |status: &mut ConnectionStatus, now| {
            status.on_failure(ErrorKind::NetworkError, None, now);
        };
        check(|_, _| {}, 11, false);
        check(fail, 11, false);
        check(|status, now| status.on_valid(now), 999, true);
        let interrupted = |status: &mut ConnectionStatus, now| {
            status.on_valid(now);
            status.on_failure(ErrorKind::NetworkError, None, now);
        };
        check(interrupted, 69, true);
        check(interrupted, 70, false);
        let reject = |status: &mut ConnectionStatus, now| {
            status.on_failure(ErrorKind::ErrorResponse, Some(401), now);
        };
        check(reject, 11, false);
    }

    #[test]
    fn a_status_code_is_shown_where_there_is_one() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
        let mut status = ConnectionStatus::initializing(at);
        status.on_failure(ErrorKind::ErrorResponse, Some(401), at);
        assert_eq!(
            connection_status(&status).to_string(),
            r#"{"lastError":{"kind":"ERROR_RESPONSE","statusCode":401,"time":1500},"state":"OFF","stateSince":1500}"#
        );
    }
}
