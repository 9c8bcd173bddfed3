//! What SDKs receive: one encoding of each payload and each change, shared by all of them.

mod hub;
mod payloads;
mod sending;
mod snapshot;

pub use hub::{Hub, Next, StreamKind, Subscription};
pub use sending::{Sending, SlowReader, Version, Versions};
pub use snapshot::Snapshot;
