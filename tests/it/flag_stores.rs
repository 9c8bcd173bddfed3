//! Flags in the databases that relays share with one another and with SDKs: the real binary, real
//! databases, and everything that can happen to them.

mod cold;
mod layout;
mod loss;
mod outage;
mod peers;
mod redis_acl;
mod redis_connections;
mod redis_eviction;
mod redis_failover;
mod redis_scene;
mod redis_topologies;
mod scene;
