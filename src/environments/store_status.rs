//! Values of `/status` about the store that an environment shares with others.

use std::time::SystemTime;

use crate::flagstore::{SharedStatus, Unrepaired};

/// The state of a shared flag store.
#[derive(Clone, Debug)]
pub struct StoreStatus {
    /// `INITIALIZING`, `VALID` or `INTERRUPTED` (ld-relay v8).
    pub state: &'static str,
    /// Time since which it has that state.
    pub since: SystemTime,
    /// `redis`, `dynamodb` or `consul`.
    pub database: &'static str,
    /// Its address, without passwords.
    pub server: Option<String>,
    /// The prefix of its keys.
    pub prefix: Option<String>,
    /// Its table.
    pub table: Option<String>,
    /// `closed`, `open` or `halfOpen`.
    pub breaker: &'static str,
    /// Reason why it cannot be used, if it cannot.
    pub error: Option<String>,
    /// Accepted changes that are not stored yet.
    pub dirty: usize,
    /// True if data from LaunchDarkly may not be stored yet, or may be lost.
    pub write_pending: bool,
    /// Time at which it was last known to hold what it should.
    pub last_write: Option<SystemTime>,
    /// The last repair of a loss.
    pub last_repopulation: Option<LastRepopulation>,
    /// Policy by which the database removes items when its memory is full, if it does.
    pub eviction_policy: Option<String>,
    /// Items that the database does not take, with their size in bytes.
    pub dropped: Vec<(String, u64)>,
    /// Reason why the stored data could not be served, if it could not.
    pub problem: Option<String>,
    /// Stored items that cannot be decoded.
    pub undecodable: Vec<String>,
    /// Differences that are not repaired while LaunchDarkly cannot be reached.
    pub unrepaired: Unrepaired,
}

/// A repair of a loss.
#[derive(Clone, Debug)]
pub struct LastRepopulation {
    /// Time of the repair.
    pub at: SystemTime,
    /// Sign by which the loss was noticed.
    pub reason: &'static str,
    /// Items that were written.
    pub items: u64,
}

impl StoreStatus {
    pub(super) fn of(status: &SharedStatus) -> Self {
        let last_repopulation = status.last_repopulation.as_ref();
        Self {
            state: status.state.as_str(),
            since: status.since,
            database: status.database.kind,
            server: status.database.server.clone(),
            prefix: status.prefix.clone(),
            table: status.table.clone(),
            breaker: status.breaker.as_str(),
            error: status.error.clone(),
            dirty: status.dirty,
            write_pending: status.write_pending || status.in_doubt,
            last_write: status.last_write,
            last_repopulation: last_repopulation.map(|last| LastRepopulation {
                at: last.at,
                reason: last.reason.as_str(),
                items: last.items,
            }),
            eviction_policy: status.database.eviction_policy().map(|policy| policy.to_string()),
            dropped: status.dropped.iter().map(|(key, bytes)| (key.to_string(), *bytes)).collect(),
            problem: status.problem.clone(),
            undecodable: status.undecodable.iter().map(ToString::to_string).collect(),
            unrepaired: status.unrepaired,
        }
    }
}
