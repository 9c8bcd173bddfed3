//! The encrypted cache of autoconfig records.

mod backend;
#[cfg(any(feature = "redis", feature = "dynamodb", feature = "consul"))]
mod batches;
#[cfg(feature = "consul")]
mod consul;
#[cfg(feature = "dynamodb")]
mod dynamodb;
#[cfg(feature = "redis")]
mod redis;

pub use backend::{Backend, Row, Swap, Swapped};
#[cfg(feature = "consul")]
pub use consul::ConsulCache;
#[cfg(feature = "dynamodb")]
pub use dynamodb::DynamoDbCache;
#[cfg(feature = "redis")]
pub use redis::RedisCache;
