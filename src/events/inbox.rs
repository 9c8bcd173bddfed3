//! The entrance: what request handlers give, within a budget of memory.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::post::{Destination, Sender};
use crate::model::DataSet;

/// Bytes of requests that have been answered and not been looked into yet.
const BYTES_MAX: usize = 64 << 20;

/// Number of such requests.
const POSTS_MAX: usize = 4096;

/// What a request holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A JSON array of analytics events.
    Analytics,
    /// One diagnostic event, which goes on as it is.
    Diagnostic,
}

/// A request with events.
#[derive(Debug)]
pub struct Posted {
    /// Where they go.
    pub destination: Destination,
    /// Who sent them.
    pub sender: Sender,
    /// What the body holds.
    pub kind: Kind,
    /// The name that the SDK gave them.
    pub payload_id: Option<Arc<str>>,
    /// The body, not compressed.
    pub body: Bytes,
    /// The flags of the environment, if the events are to be summarized.
    pub summarize: Option<Arc<DataSet>>,
}

/// The relay has no room for more events at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many events wait at this moment")]
pub struct Refused;

/// A request, and its part of the budget.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) posted: Posted,
    pub(super) room: OwnedSemaphorePermit,
}

/// Takes events. Clones reach the same publisher.
#[derive(Clone, Debug)]
pub struct Events {
    posts: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
}

impl Events {
    /// The entrance, and the publisher's end of it.
    pub(super) fn new() -> (Self, mpsc::Receiver<Waiting>) {
        let (posts, receiver) = mpsc::channel(POSTS_MAX);
        (Self { posts, room: Arc::new(Semaphore::new(BYTES_MAX / 1024)) }, receiver)
    }

    /// Takes events that an SDK has sent. Never waits.
    pub fn offer(&self, posted: Posted) -> Result<(), Refused> {
        let needed = u32::try_from(posted.body.len().div_ceil(1024)).map_err(|_| Refused)?;
        let room = self.room.clone().try_acquire_many_owned(needed).map_err(|_| Refused)?;
        self.posts.try_send(Waiting { posted, room }).map_err(|_| Refused)
    }
}
