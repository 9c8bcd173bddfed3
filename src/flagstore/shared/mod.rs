//! Flag data of one environment in a database that it shares with other relays and with SDKs.
//!
//! ```text
//! runner --(SharedFlags: what is served, what was accepted)--> keeper --> FlagBackend
//! runner <--(SharedRead: what is stored, while upstream is not live)-- keeper
//! ```
//!
//! The keeper is a task of [`crate::replica`] beside the environment's own: clients get a change
//! before any database does, and a database that hangs delays no client. Its orders are coalesced
//! by item, so a long outage costs no more memory than the data itself. [`visits`], which is pure,
//! decides what it does.

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
pub use self::reconcile::Unrepaired;
pub use self::report::{DatabaseFacts, SharedReport, SharedStatus, StoreFacts};
use self::visits::FlagVisits;
use super::backend::FlagBackend;
use crate::flagstore::marker::Identity;
use crate::model::EnvironmentSpec;
pub use crate::replica::Timing;
use crate::replica::task::CopyTask;
use crate::replica::{Moment, Replica};
use crate::storage::Health;

/// Types that the simulation uses.
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
    /// Passes the served data to the keeper.
    pub flags: SharedFlags,
    /// Readings of the keeper. One at a time: the keeper waits until it is taken.
    pub reads: mpsc::Receiver<SharedRead>,
    /// Runs the keeper until it is cancelled.
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
