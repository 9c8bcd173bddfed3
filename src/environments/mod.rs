//! One room per environment: its data, its streams, its upstream connection, its keys.
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
pub use supervisor::{Strangers, Supervisor, SupervisorSettings};
