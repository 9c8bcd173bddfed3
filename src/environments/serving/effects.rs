//! Effects of an event: on clients, on stores, and on the upstream connections.

use std::sync::Arc;
use std::time::SystemTime;

use crate::model::{ChangeSet, DataSet, ItemKey, SdkKey};
use crate::streams::Snapshot;

/// One of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one that the data comes from.
    Current,
    /// The one under a new SDK key.
    Next,
}

/// Effects to carry out: on clients first, then on stores.
#[derive(Debug, Default)]
pub struct Effects {
    pub announce: Option<Announcement>,
    pub local: Option<LocalOrder>,
    pub shared: Vec<SharedOrder>,
    pub upstream: Option<UpstreamOrder>,
}

/// A new snapshot, and the message about it to connected clients.
#[derive(Debug)]
pub struct Announcement {
    pub snapshot: Arc<Snapshot>,
    pub told: Told,
}

/// Message to connected clients.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing, because they have the same already.
    Nothing,
    /// These changes.
    Changes(ChangeSet),
    /// The whole data set.
    Everything,
}

/// Order to the embedded store.
#[derive(Debug)]
pub enum LocalOrder {
    /// Hold this and nothing else.
    Replace(Arc<DataSet>),
    /// These items changed, and this is the data set now.
    Change(Arc<DataSet>, Vec<ItemKey>),
    /// The data that was read from it is served; nothing is to be written.
    Adopt(Arc<DataSet>, SystemTime),
}

/// Order to the keeper of the shared store.
#[derive(Debug)]
pub enum SharedOrder {
    /// LaunchDarkly sent this data set: the store is to hold exactly this.
    Put(Arc<DataSet>),
    /// These items changed, and this is the data set now.
    Changed(Arc<DataSet>, Vec<ItemKey>),
    /// This came from stores and is served. `is_partial`: it lacks items that no store holds in a
    /// readable form.
    Served { data: Arc<DataSet>, is_partial: bool },
    /// The source gave a sign of life.
    Heard,
    /// The served data is no longer live.
    NotLive,
}

/// Action on the upstream connections.
#[derive(Debug, PartialEq, Eq)]
pub enum UpstreamOrder {
    /// Open the next connection under this key, in place of one that may be opening already.
    OpenNext(SdkKey),
    /// Drop the next connection.
    DropNext,
    /// The next connection is the current one from now on.
    PromoteNext,
    /// Give up a connection that delivered unusable data.
    RestartMalformed(Which, u64),
}
