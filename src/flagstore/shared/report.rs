//! What `/status` tells of one environment's shared store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use super::reconcile::Left;
use super::{DatabaseFacts, StoreFacts};
use crate::model::ItemKey;
use crate::replica::Reason;
use crate::storage::{BreakerState, Health};

/// Whether the store holds what it should (ld-relay v8: `dataStoreStatus.state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedState {
    /// Not known yet.
    Initializing,
    /// At the last look it did.
    Valid,
    /// It cannot be reached, or something could not be written to it.
    Interrupted,
}

impl SharedState {
    /// The word of `/status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initializing => "INITIALIZING",
            Self::Valid => "VALID",
            Self::Interrupted => "INTERRUPTED",
        }
    }
}

/// The last time that lost data was written again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repopulation {
    /// When it was done.
    pub at: SystemTime,
    /// How the loss was noticed.
    pub reason: Reason,
    /// Items that were written.
    pub items: u64,
}

/// What is known of the store.
#[derive(Clone, Debug)]
pub struct SharedStatus {
    /// The database it is in.
    pub database: Arc<DatabaseFacts>,
    /// The prefix of its keys; `None` without one.
    pub prefix: Option<String>,
    /// Its DynamoDB table.
    pub table: Option<String>,
    /// Who may use the database.
    pub breaker: BreakerState,
    /// Whether it holds what it should.
    pub state: SharedState,
    /// Since when.
    pub since: SystemTime,
    /// Why it does not.
    pub error: Option<String>,
    /// Accepted changes that are not stored yet.
    pub dirty: usize,
    /// Whether anything that LaunchDarkly said may not be stored yet: a put that was not compared
    /// with the store, or changes.
    pub write_pending: bool,
    /// Whether the store may have lost something, and is still to be compared for that.
    pub in_doubt: bool,
    /// When what LaunchDarkly said was last written, or found to be stored.
    pub last_write: Option<SystemTime>,
    /// The last repair of a loss.
    pub last_repopulation: Option<Repopulation>,
    /// Items that the database does not take, with the bytes of their JSON.
    pub dropped: BTreeMap<ItemKey, u64>,
    /// Why what was read could not be served, if it could not.
    pub problem: Option<String>,
    /// Stored items that cannot be decoded, at the last reading.
    pub undecodable: Vec<ItemKey>,
    /// What this relay would write or correct if its upstream were live.
    pub left: Left,
}

/// The newest status, shared between keeper and server.
#[derive(Debug)]
pub struct SharedReport {
    status: Mutex<SharedStatus>,
    health: watch::Receiver<Health>,
}

impl SharedReport {
    pub fn new(facts: StoreFacts, health: watch::Receiver<Health>) -> Self {
        let status = SharedStatus {
            database: facts.database,
            prefix: facts.prefix,
            table: facts.table,
            breaker: BreakerState::Closed,
            state: SharedState::Initializing,
            since: SystemTime::now(),
            error: None,
            dirty: 0,
            write_pending: false,
            in_doubt: false,
            last_write: None,
            last_repopulation: None,
            dropped: BTreeMap::new(),
            problem: None,
            undecodable: Vec::new(),
            left: Left::default(),
        };
        Self { status: Mutex::new(status), health }
    }

    /// The status at this moment.
    pub fn get(&self) -> SharedStatus {
        let breaker = self.health.borrow().state;
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        SharedStatus { breaker, ..status }
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut SharedStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
