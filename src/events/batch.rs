//! Events that are sent in one request. Pure.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::post::{Destination, Sender};

/// Events that are sent in one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its name, the same at each attempt, so that LaunchDarkly counts its events once.
    pub id: Arc<str>,
    /// Where it goes.
    pub destination: Destination,
    /// Who sent the events.
    pub sender: Sender,
    /// Number of events.
    pub count: usize,
    /// The events as a JSON array, compressed.
    pub gzip: Bytes,
    /// Time at which it was closed.
    pub created: SystemTime,
    /// Attempts at which LaunchDarkly called it invalid.
    pub invalid: u32,
    /// True if the spool holds it.
    pub is_spooled: bool,
}
