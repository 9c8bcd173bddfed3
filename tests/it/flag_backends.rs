//! The flag stores on real databases: one contract for all, then each one's own troubles.

mod consul;
mod contract;
mod dynamodb;
mod peers;
mod races;
mod redis;
mod redis_connections;
mod redis_topologies;
mod sizes;
