//! Flags in the databases that relays share with one another and with SDKs: the real binary, real
//! databases, and everything that can happen to them.

mod atomicity;
mod bad_input;
mod cold;
mod cross_writing;
mod daemon;
mod dynamodb_faults;
mod layout;
mod limits;
mod loss;
mod outage;
mod partial;
mod peers;
mod prefixes;
mod redis_acl;
mod redis_connections;
mod redis_eviction;
mod redis_failover;
mod redis_faults;
mod redis_full;
mod redis_idle;
mod redis_scene;
mod redis_topologies;
mod slow_line;
