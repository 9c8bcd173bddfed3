//! Where the flags and segments of an environment rest while no process serves them.
//!
//! Memory is what is served (design D1); the stores here are where a start reads from and where
//! accepted data goes to. This module does not decide which data is served.

pub mod backend;
#[cfg(any(feature = "dynamodb", feature = "consul"))]
mod batches;
#[cfg(feature = "consul")]
pub mod consul;
#[cfg(feature = "dynamodb")]
pub mod dynamodb;
mod encoding;
pub mod layout;
mod local;
pub mod marker;
#[cfg(feature = "redis")]
pub mod redis;
mod shared;

pub use local::{DataSetId, LocalFlags, LocalFlagsState, ReadOutcome};
#[cfg(test)]
pub use shared::simulated;
pub use shared::{
    Completeness, DatabaseFacts, OpenShared, SharedFlags, SharedRead, SharedStatus, SharedStores,
    StoreFacts, Timing,
};
