//! The encrypted cache of autoconfig records: formats, tiers, and the databases behind them.
//!
//! Plaintext never passes below [`codec`]; a backend sees sealed bytes only.

mod backend;
pub mod codec;
pub mod judge;
pub mod keeper;
pub mod ld_relay_format;
pub mod local_tier;
pub mod manifest;
#[cfg(test)]
pub(crate) mod memory;
pub mod orders;
pub mod plan;
pub mod report;
pub mod shared_tier;
#[cfg(any(feature = "redis", feature = "dynamodb", feature = "consul"))]
mod table;
pub mod tier;
mod visits;

pub use backend::{Backend, Row, Swap, Swapped};
#[cfg(any(feature = "redis", feature = "dynamodb", feature = "consul"))]
pub use table::RecordTable;

/// Types that the simulation uses.
#[cfg(test)]
pub mod simulated {
    pub use super::judge::judge;
    pub use super::local_tier::judge_local;
    pub use super::shared_tier::{judge_sealed, texts_of};
    pub use super::visits::{Effect, RecordVisits};
}
