//! Status of one environment's shared store, for `/status`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use super::reconcile::Unrepaired;
use crate::model::ItemKey;
use crate::replica::Reason;
use crate::storage::{BreakerState, Health};

/// Facts for `/status` about the place of an environment's flags.
#[derive(Clone, Debug, Default)]
pub struct StoreFacts {
    /// The database.
    pub database: Arc<DatabaseFacts>,
    /// The prefix of the environment's keys (ld-relay v8: `dbPrefix`).
    pub prefix: Option<String>,
    /// Its table (ld-relay v8: `dbTable`).
    pub table: Option<String>,
}

/// Facts for `/status` about the database itself.
#[derive(Clone, Debug, Default)]
pub struct DatabaseFacts {
    /// `redis`, `dynamodb` or `consul` (ld-relay v8: `database`).
    pub kind: &'static str,
    /// Its address, without passwords (ld-relay v8: `dbServer`).
    pub server: Option<String>,
    /// Watches the policy by which it removes items when its memory is full; `None` for a database
    /// without such a setting.
    pub evicts: Option<watch::Receiver<Option<Arc<str>>>>,
}

impl DatabaseFacts {
    /// The policy by which the database removes items when its memory is full, if it does.
    pub fn eviction_policy(&self) -> Option<Arc<str>> {
        self.evicts.as_ref()?.borrow().clone()
    }
}

/// State of the store (ld-relay v8: `dataStoreStatus.state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedState {
    /// Not known yet.
    Initializing,
    /// It held what it should at the last check.
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
    /// Time of the repair.
    pub at: SystemTime,
    /// Sign by which the loss was noticed.
    pub reason: Reason,
    /// Items that were written.
    pub items: u64,
}

/// Status of the store.
#[derive(Clone, Debug)]
pub struct SharedStatus {
    /// The database it is in.
    pub database: Arc<DatabaseFacts>,
    /// The prefix of its keys; `None` without one.
    pub prefix: Option<String>,
    /// Its DynamoDB table.
    pub table: Option<String>,
    /// State of the database's circuit breaker.
    pub breaker: BreakerState,
    /// State of the store.
    pub state: SharedState,
    /// Time since which it has that state.
    pub since: SystemTime,
    /// Reason if it does not hold what it should.
    pub error: Option<String>,
    /// Accepted changes that are not stored yet.
    pub dirty: usize,
    /// True if data from LaunchDarkly may not be stored yet: a put that was not compared with the
    /// store, or changes.
    pub write_pending: bool,
    /// True if the store may have lost something, and is still to be compared for that.
    pub in_doubt: bool,
    /// Time at which LaunchDarkly's data was last written, or found to be stored.
    pub last_write: Option<SystemTime>,
    /// The last repair of a loss.
    pub last_repopulation: Option<Repopulation>,
    /// Items that the database does not take, with the bytes of their JSON.
    pub dropped: BTreeMap<ItemKey, u64>,
    /// Reason why the rows that were read could not be served, if they could not.
    pub problem: Option<String>,
    /// Stored items that cannot be decoded, at the last reading.
    pub undecodable: Vec<ItemKey>,
    /// Differences that this relay would repair if its upstream were live.
    pub unrepaired: Unrepaired,
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
            unrepaired: Unrepaired::default(),
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
