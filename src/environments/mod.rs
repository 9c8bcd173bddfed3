//! The running environments: the data, streams, upstream connection and keys of each.
//!
//! The supervisor owns the list; each environment has a task of its own, so that a slow or
//! failing one never delays another's addition, rotation or revocation.

mod credentials;
mod difference;
mod environment;
mod load_queue;
mod registry;
mod runner;
mod serving;
mod store_status;
mod stored_data;
mod supervisor;
#[cfg(test)]
mod test_support;

pub use environment::Environment;
pub use load_queue::LoadQueue;
pub use registry::{Access, Lease, Lookup, Registry};
pub use runner::RunnerSettings;
pub use stored_data::Trust;
pub use supervisor::{Orphans, Supervisor, SupervisorSettings};

/// Types that the simulation uses.
#[cfg(test)]
pub mod simulated {
    pub use super::difference::difference;
    pub use super::environment::EnvironmentStatus;
    pub use super::runner::answer_of_shared;
    pub use super::serving::{
        Announcement, Effects, LocalOrder, Serving, SharedOrder, Told, UpstreamOrder, Which,
    };
    pub use super::stored_data::{Answer, Store, StoredSet};
}
