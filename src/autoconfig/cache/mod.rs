//! The encrypted cache of autoconfig records: formats, tiers, and the databases behind them.
//!
//! Plaintext never passes below [`codec`]; a backend sees sealed bytes only.

mod backend;
#[cfg(any(feature = "redis", feature = "dynamodb", feature = "consul"))]
mod batches;
pub mod codec;
#[cfg(feature = "consul")]
mod consul;
#[cfg(feature = "dynamodb")]
mod dynamodb;
pub mod judge;
pub mod keeper;
pub mod ld_relay_format;
pub mod local_tier;
pub mod manifest;
#[cfg(test)]
pub(crate) mod memory;
pub mod plan;
#[cfg(feature = "redis")]
mod redis;
pub mod report;
pub mod shared_tier;
pub mod tier;
mod visits;

pub use backend::{Backend, Row, Swap, Swapped};
#[cfg(feature = "consul")]
pub use consul::ConsulCache;
#[cfg(feature = "dynamodb")]
pub use dynamodb::DynamoDbCache;
#[cfg(feature = "redis")]
pub use redis::RedisCache;
