//! The flag stores on real databases: one contract for all, then each one's own troubles.

#[cfg(feature = "consul")]
mod consul;
mod contract;
#[cfg(feature = "dynamodb")]
mod dynamodb;
mod peers;
mod races;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
mod redis_connections;
#[cfg(feature = "redis")]
mod redis_topologies;
mod sizes;
