//! The shared cache on real databases: one contract for all, then each one's own troubles.

#[cfg(feature = "consul")]
mod consul;
mod contract;
#[cfg(feature = "dynamodb")]
mod dynamodb;
mod outage;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
mod redis_cluster;
#[cfg(feature = "redis")]
mod redis_journal;
#[cfg(feature = "redis")]
mod redis_sentinel;
