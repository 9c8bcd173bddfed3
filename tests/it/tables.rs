//! Tables on real databases: one contract for all, then each one's own troubles.

mod consul;
mod contract;
mod creations;
mod dynamodb;
mod outage;
mod redis;
mod redis_cluster;
mod redis_journal;
mod redis_sentinel;
mod space;
