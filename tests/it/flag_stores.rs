//! Flags in the databases that relays share with one another and with SDKs: the real binary, real
//! databases, and everything that can happen to them.

mod cold;
mod cross_writing;
mod daemon;
mod layout;
mod loss;
mod outage;
mod peers;
mod reader;
mod scene;
