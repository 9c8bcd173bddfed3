//! What follows from an event: what clients hear, what stores are told, and what happens to the
//! upstream connections.

use std::sync::Arc;
use std::time::SystemTime;

use crate::model::{ChangeSet, DataSet, ItemKey, SdkKey};
use crate::streams::Snapshot;

/// Which connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that the data comes from.
    Current,
    /// The one under a new SDK key.
    Next,
}

/// What is to be done. Clients hear first, stores after them.
#[derive(Debug, Default)]
pub struct Effects {
    pub announce: Option<Announcement>,
    pub local: Option<LocalOrder>,
    pub shared: Vec<SharedOrder>,
    pub upstream: Option<UpstreamOrder>,
}

/// A new snapshot, and what connected clients are told of it.
#[derive(Debug)]
pub struct Announcement {
    pub snapshot: Arc<Snapshot>,
    pub told: Told,
}

/// What connected clients are told.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing, because they have the same already.
    Nothing,
    /// These changes.
    Changes(ChangeSet),
    /// The whole data set.
    Everything,
}

/// What the embedded store is told.
#[derive(Debug)]
pub enum LocalOrder {
    /// It is to hold this and nothing else.
    Replace(Arc<DataSet>),
    /// These items changed, and this is the data set now.
    Change(Arc<DataSet>, Vec<ItemKey>),
    /// What was read from it is served; nothing is to be written.
    Adopt(Arc<DataSet>, SystemTime),
}

/// What the keeper of the shared store is told.
#[derive(Debug)]
pub enum SharedOrder {
    /// LaunchDarkly says that this is the data set: the store is to hold exactly this.
    Put(Arc<DataSet>),
    /// These items changed, and this is the data set now.
    Changed(Arc<DataSet>, Vec<ItemKey>),
    /// This came from stores and is served. `is_partial`: it lacks items that no store holds in a
    /// readable form.
    Served { data: Arc<DataSet>, is_partial: bool },
    /// The source gave a sign of life.
    Heard,
    /// What is served is no longer what LaunchDarkly says at this moment.
    NotLive,
}

/// What happens to the upstream connections.
#[derive(Debug, PartialEq, Eq)]
pub enum UpstreamOrder {
    /// Open the next connection under this key, in place of one that may be opening already.
    OpenNext(SdkKey),
    /// Drop the next connection.
    DropNext,
    /// The next connection is the current one from now on.
    PromoteNext,
    /// Give up a connection that brought data which cannot be used.
    RestartMalformed(Which, u64),
}
