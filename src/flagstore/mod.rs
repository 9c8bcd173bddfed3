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

pub use local::{DataSetId, Incomplete, LocalFlags, LocalFlagsState, ReadOutcome, StoredSet};
pub use shared::{
    Completeness, DatabaseFacts, Left, OpenShared, Reason, Repopulation, SharedFlags, SharedRead,
    SharedReport, SharedSet, SharedState, SharedStatus, SharedStores, StoreFacts, Timing,
};
