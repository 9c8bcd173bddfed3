//! Stores of the flags and segments of an environment.
//!
//! Data is served from memory; a start reads from these stores, and accepted data is
//! written to them. This module does not decide which data is served.

pub mod backend;
pub mod encoding;
pub mod inventory;
pub mod layout;
mod local;
pub mod marker;
mod shared;
#[cfg(any(feature = "redis", feature = "dynamodb", feature = "consul"))]
pub mod table;

pub use local::{DataSetId, LocalFlags, LocalFlagsState, ReadOutcome};
#[cfg(test)]
pub use shared::simulated;
pub use shared::{
    Completeness, DatabaseFacts, OpenShared, SharedFlags, SharedRead, SharedStatus, SharedStores,
    StoreFacts, Timing, Unrepaired,
};
