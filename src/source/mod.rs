//! Sources of an environment's flags, whatever their protocol.
//!
//! LaunchDarkly's stream is the one source so far. Its messages are decoded here, so that what an
//! environment serves is decided without knowing a protocol.

#[cfg(feature = "testing")]
pub mod decoding;
mod fdv1_messages;
mod fdv1_stream;

pub use fdv1_messages::FlagMessageError;
pub use fdv1_stream::{Fdv1Stream, Fdv1Streams, Received};

use crate::model::{ChangeSet, DataSet};
use crate::upstream::StreamFailure;

/// An event of a source. Connections are numbered from 1; a later one has a higher number.
#[derive(Debug)]
pub enum SourceEvent {
    /// The whole data set; versions do not matter.
    Everything {
        /// The connection that it came over.
        connection: u64,
        /// The data set.
        data: DataSet,
    },
    /// Changes that belong together; each applies if it is newer than what is known.
    Changes {
        /// The connection that they came over.
        connection: u64,
        /// The changes.
        changes: ChangeSet,
    },
    /// The source is alive, and sent nothing that changes the data.
    Alive,
    /// Data that cannot be used. What came before it stays.
    Malformed {
        /// The connection that it came over.
        connection: u64,
        /// The problem.
        error: FlagMessageError,
    },
    /// The connection ended, or none could be made. The source tries again by itself.
    Lost {
        /// The cause; `None` if the owner had asked for a restart.
        failure: Option<StreamFailure>,
    },
}
