//! Sources of an environment's flags, whatever their protocol.
//!
//! LaunchDarkly's stream is one source, the archive of offline mode the other. Messages are decoded
//! here, so that what an environment serves is decided without knowing a protocol.

mod archived;
#[cfg(feature = "testing")]
pub mod decoding;
mod fdv1_messages;
mod fdv1_stream;

use std::sync::Arc;

use tokio::sync::watch;

pub use archived::{ArchivedSet, ArchivedSets};
pub use fdv1_messages::{FlagMessageError, data_set};
pub use fdv1_stream::Fdv1Streams;

use archived::ArchivedFlags;
use fdv1_stream::{Fdv1Stream, Undecoded};

use crate::model::{ChangeSet, DataSet, EnvironmentRef, SdkKey};
use crate::upstream::StreamFailure;

/// Opens the sources of environments.
#[derive(Clone, Debug)]
pub enum Sources {
    /// The flag streams of LaunchDarkly.
    LaunchDarkly(Arc<Fdv1Streams>),
    /// The archive of offline mode.
    Archive(watch::Receiver<Arc<ArchivedSets>>),
}

impl Sources {
    /// Opens the source of an environment.
    pub fn open(&self, key: &SdkKey, environment: &EnvironmentRef) -> Source {
        match self {
            Self::LaunchDarkly(streams) => Source::Fdv1(streams.open(key, &environment.filter)),
            Self::Archive(sets) => {
                Source::Archive(ArchivedFlags::new(environment.environment.clone(), sets.clone()))
            }
        }
    }

    /// True if another SDK key needs another source.
    pub fn depend_on_key(&self) -> bool {
        match self {
            Self::LaunchDarkly(_) => true,
            Self::Archive(_) => false,
        }
    }
}

/// The source of one environment. Dropping it ends it.
#[derive(Debug)]
pub enum Source {
    /// A flag stream of LaunchDarkly.
    Fdv1(Fdv1Stream),
    /// The archive of offline mode.
    Archive(ArchivedFlags),
}

impl Source {
    /// The next event. Safe to cancel. `None` only if the source's task stopped unexpectedly.
    pub async fn recv(&mut self) -> Option<Received> {
        match self {
            Self::Fdv1(stream) => stream.recv().await.map(Received::Fdv1),
            Self::Archive(flags) => Some(Received::Decoded(flags.recv().await)),
        }
    }

    /// Gives up a connection that delivered unusable data.
    pub fn restart_malformed(&self, connection: u64) {
        match self {
            Self::Fdv1(stream) => stream.restart_malformed(connection),
            // What comes from an archive was decoded before.
            Self::Archive(_) => {}
        }
    }
}

/// An event as it arrived.
#[derive(Debug)]
pub enum Received {
    /// An event of a stream, not decoded yet.
    Fdv1(Undecoded),
    /// A decoded event.
    Decoded(SourceEvent),
}

impl Received {
    /// Decodes what arrived; a large event on a blocking thread.
    pub async fn decoded(self) -> SourceEvent {
        match self {
            Self::Fdv1(received) => received.decoded().await,
            Self::Decoded(event) => event,
        }
    }
}

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
