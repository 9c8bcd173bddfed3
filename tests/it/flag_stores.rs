//! Flags in the databases that relays share with one another and with SDKs: the real binary, real
//! databases, and everything that can happen to them.

mod atomicity;
mod bad_input;
mod cold;
mod dynamodb;
mod layout;
mod limits;
mod loss;
mod onlooker;
mod outage;
mod peers;
mod prefixes;
mod redis;
mod scene;
mod witness;
