//! Data for SDKs: one encoding of each payload and each change, shared by all clients.

mod hub;
mod payloads;
mod sending;
mod snapshot;

pub use hub::{Hub, Next, Subscription};
pub use payloads::{PING, StreamKind};
pub use sending::{Sending, SlowReader, Version, Versions};
pub use snapshot::Snapshot;
