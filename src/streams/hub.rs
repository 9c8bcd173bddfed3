//! Fan-out of one environment's changes to its streams.
//!
//! There is no queue per client: a ring of the newest changes stands here once, and each client
//! holds only its place in it. A client that fell out of the ring gets the whole data set again
//! (a resync), never a gap. The ring and the snapshot change under one lock, so a client that
//! joins sees each change exactly once: in its first put or as a patch.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use slab::Slab;

use super::payloads::Change;
use super::snapshot::Snapshot;

/// Changes that a slow client may lag behind before it is resynchronised. ld-relay v8 drops a
/// client after 128 unread events.
const RING_MAX: usize = 256;

/// The comment that keeps idle streams alive (ld-relay v8: two bytes, no blank line).
const HEARTBEAT: Bytes = Bytes::from_static(b":\n");

/// Which stream a client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// `/all`: flags and segments.
    All,
    /// `/flags`: flags only, for old SDKs.
    Flags,
}

/// What a client is to be sent next.
pub enum Next {
    /// The whole data set.
    Put(Arc<Snapshot>),
    /// One event or comment.
    Event(Bytes),
}

/// Shows the size of an event and not the event.
impl std::fmt::Debug for Next {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Put(snapshot) => f.debug_tuple("Put").field(snapshot).finish(),
            Self::Event(event) => write!(f, "Event({} bytes)", event.len()),
        }
    }
}

/// The fan-out of one environment, and the owner of what it serves.
#[derive(Debug, Default)]
pub struct Hub {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    snapshot: Option<Arc<Snapshot>>,
    ring: VecDeque<Entry>,
    /// Number of the entry at the front of the ring.
    first: u64,
    closed: bool,
    waiting: Slab<Option<Waker>>,
}

#[derive(Debug)]
enum Entry {
    /// The snapshot was replaced as a whole.
    Put,
    Change(Change),
    Heartbeat,
}

impl Hub {
    /// What is being served; `None` before the first complete data set.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.lock().snapshot.clone()
    }

    /// Serves a new data set and sends it to every client.
    pub fn replace(&self, snapshot: Arc<Snapshot>) {
        self.publish(Some(snapshot), [Entry::Put]);
    }

    /// Serves a new snapshot of which clients need not be told, because it says the same.
    pub fn confirm(&self, snapshot: Arc<Snapshot>) {
        self.publish(Some(snapshot), []);
    }

    /// Serves a snapshot that differs by one change, and sends that change.
    pub fn change(&self, snapshot: Arc<Snapshot>, change: Change) {
        self.publish(Some(snapshot), [Entry::Change(change)]);
    }

    /// Serves a snapshot that differs by several changes, and sends those.
    pub fn changes(&self, snapshot: Arc<Snapshot>, changes: impl IntoIterator<Item = Change>) {
        self.publish(Some(snapshot), changes.into_iter().map(Entry::Change));
    }

    /// Sends the comment that keeps idle streams alive.
    pub fn heartbeat(&self) {
        self.publish(None, [Entry::Heartbeat]);
    }

    /// Ends every stream, and those that are still to come.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake();
    }

    /// Lets every stream look again at what else may end it.
    pub fn wake(&self) {
        let wakers = self.lock().take_wakers();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Number of open streams.
    pub fn streams(&self) -> usize {
        self.lock().waiting.len()
    }

    /// A stream that begins with the whole data set.
    pub fn subscribe(self: &Arc<Self>, kind: StreamKind) -> Subscription {
        let slot = self.lock().waiting.insert(None);
        Subscription { hub: self.clone(), kind, next: None, slot }
    }

    fn publish(&self, snapshot: Option<Arc<Snapshot>>, entries: impl IntoIterator<Item = Entry>) {
        let wakers = {
            let mut inner = self.lock();
            if snapshot.is_some() {
                inner.snapshot = snapshot;
            }
            let before = inner.end();
            for entry in entries {
                if inner.ring.len() == RING_MAX {
                    inner.ring.pop_front();
                    inner.first += 1;
                }
                inner.ring.push_back(entry);
            }
            if inner.end() == before {
                return;
            }
            inner.take_wakers()
        };
        // Outside the lock: whoever wakes takes it at once.
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it holds the lock; a poisoned one is as good as any.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn take_wakers(&mut self) -> Vec<Waker> {
        self.waiting.iter_mut().filter_map(|(_, waker)| waker.take()).collect()
    }

    /// The number that the next entry will get.
    fn end(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    /// Lists a client to be woken by what comes next.
    fn wait<T>(&mut self, slot: usize, cx: &Context<'_>) -> Poll<T> {
        match &mut self.waiting[slot] {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            waiting => *waiting = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

/// One client's place in the stream. Dropping it leaves the hub.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    kind: StreamKind,
    /// Number of the next entry to send; `None` before the first put.
    next: Option<u64>,
    slot: usize,
}

impl Subscription {
    /// What to send next; `Ready(None)` when the stream is over.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Next>> {
        let Self { hub, kind, next: place, slot } = self;
        let mut inner = hub.lock();
        if inner.closed {
            return Poll::Ready(None);
        }
        let whole = |inner: &Inner| inner.snapshot.clone().map(Next::Put);
        let Some(mut next) = place.filter(|&next| next >= inner.first) else {
            // The first put, or a resync.
            if let Some(put) = whole(&inner) {
                *place = Some(inner.end());
                return Poll::Ready(Some(put));
            }
            return inner.wait(*slot, cx);
        };
        while let Some(entry) = inner.ring.get((next - inner.first) as usize) {
            next += 1;
            let event = match entry {
                Entry::Put => {
                    // The newest snapshot holds every change that is still in the ring.
                    *place = Some(inner.end());
                    return Poll::Ready(whole(&inner));
                }
                Entry::Change(change) => match kind {
                    StreamKind::All => Some(change.all.clone()),
                    StreamKind::Flags => change.flags.clone(),
                },
                Entry::Heartbeat => Some(HEARTBEAT),
            };
            if let Some(event) = event {
                *place = Some(next);
                return Poll::Ready(Some(Next::Event(event)));
            }
        }
        *place = Some(next);
        inner.wait(*slot, cx)
    }

    /// Which stream this is.
    pub fn kind(&self) -> StreamKind {
        self.kind
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.lock().waiting.remove(self.slot);
    }
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
