//! Flag data of one environment in a database that it shares with other relays and with SDKs.
//!
//! ```text
//! runner --(SharedFlags: what is served, what was accepted)--> keeper --> FlagBackend
//! runner <--(SharedRead: what is stored, while upstream is not live)-- keeper
//! ```
//!
//! The keeper is a task of [`crate::replica`] beside the environment's own: clients hear of a
//! change before any database does, and a database that hangs delays nobody. What it is told is
//! coalesced by item, so a long outage costs no more memory than the data itself. What it does is
//! decided in [`visits`], which is pure.

mod keeper;
#[cfg(test)]
mod memory;
mod orders;
mod reading;
mod reconcile;
mod report;
mod visits;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::keeper::Keeper;
pub use self::orders::SharedFlags;
pub use self::reading::{Completeness, SharedRead};
pub use self::report::{SharedReport, SharedStatus};
use self::visits::FlagVisits;
use super::backend::FlagBackend;
use crate::flagstore::marker::Identity;
use crate::model::EnvironmentSpec;
pub use crate::replica::Timing;
use crate::replica::task::CopyTask;
use crate::replica::{Moment, Replica};
use crate::storage::Health;

/// What the simulation plays with.
#[cfg(test)]
pub mod simulated {
    pub use super::memory::Content;
    pub use super::orders::channel;
    pub use super::reading::judge;
    pub use super::report::{SharedReport, SharedState};
    pub use super::visits::{Answer, Call, Effect, FlagVisits};
}

/// The shared store of one environment, with the task that keeps it.
pub struct OpenShared {
    /// Tells the keeper what is served.
    pub flags: SharedFlags,
    /// What the keeper reads. One at a time: the keeper waits until it is taken.
    pub reads: mpsc::Receiver<SharedRead>,
    /// Runs the keeper until it is told to stop.
    pub run: Box<dyn FnOnce(CancellationToken) -> KeeperTask + Send>,
}

/// A running keeper.
pub(super) type KeeperTask = Pin<Box<dyn Future<Output = ()> + Send>>;

impl std::fmt::Debug for OpenShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenShared").field("flags", &self.flags).finish_non_exhaustive()
    }
}

/// Opens the shared store of an environment; which database it is in is known only here.
#[derive(Clone)]
pub struct SharedStores(Arc<dyn Fn(&EnvironmentSpec) -> OpenShared + Send + Sync>);

impl std::fmt::Debug for SharedStores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedStores")
    }
}

impl SharedStores {
    /// Stores that are made by `backend`, all behind the breaker whose health is given.
    pub fn new<B: FlagBackend>(
        timing: Timing,
        health: watch::Receiver<Health>,
        backend: impl Fn(&EnvironmentSpec) -> (StoreFacts, B) + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(move |spec| {
            let (facts, backend) = backend(spec);
            let (flags, orders) = orders::channel(SharedReport::new(facts, health.clone()));
            let (sender, reads) = mpsc::channel(1);
            let identity = Identity::of(spec);
            let keeper =
                Keeper { backend, orders: orders.clone(), reads: sender, health: health.clone() };
            let task = CopyTask::new(keeper);
            let replica =
                Replica::new(FlagVisits::new(identity, orders), timing, &Moment::present());
            let run = Box::new(move |cancel| -> KeeperTask { Box::pin(task.run(replica, cancel)) });
            OpenShared { flags, reads, run }
        }))
    }

    /// The store of an environment.
    pub fn open(&self, spec: &EnvironmentSpec) -> OpenShared {
        (self.0)(spec)
    }
}

/// What `/status` tells of where an environment's flags are.
#[derive(Clone, Debug, Default)]
pub struct StoreFacts {
    /// The database.
    pub database: Arc<DatabaseFacts>,
    /// The prefix of the environment's keys (ld-relay v8: `dbPrefix`).
    pub prefix: Option<String>,
    /// Its table (ld-relay v8: `dbTable`).
    pub table: Option<String>,
}

/// What `/status` tells of the database itself.
#[derive(Clone, Debug, Default)]
pub struct DatabaseFacts {
    /// `redis`, `dynamodb` or `consul` (ld-relay v8: `database`).
    pub kind: &'static str,
    /// Where it is, without passwords (ld-relay v8: `dbServer`).
    pub server: Option<String>,
    /// Told where the database may be set up to remove items when its memory is full.
    pub evicts: Option<watch::Receiver<Option<Arc<str>>>>,
}

impl DatabaseFacts {
    /// The policy by which the database removes items when its memory is full, if it does.
    pub fn eviction_policy(&self) -> Option<Arc<str>> {
        self.evicts.as_ref()?.borrow().clone()
    }
}
