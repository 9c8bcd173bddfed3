//! Fan-out of one environment's changes to its streams.
//!
//! There is no queue per client: the hub has one ring of the newest changes, and each client holds
//! only its position in it. A change leaves the ring once every client has read it. A client that
//! fell out of the ring gets the whole data set again (a resync), never a gap. The ring and the
//! snapshot change under one lock, so a client that joins sees each change exactly once: in its
//! first put or as a patch.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use slab::Slab;

use super::payloads::{EncodedChanges, StreamKind};
use super::sending::Versions;
use super::snapshot::Snapshot;
use crate::model::ChangeSet;

/// Changes that a slow client may lag behind before it is resynchronised. ld-relay v8 drops a
/// client after 128 unread events.
const RING_MAX: usize = 256;

/// Bytes of these changes. A change of a large segment can be as large as the data set; several of
/// them are no cheaper for a slow client than the whole data set.
const RING_BYTES_MAX: usize = 8 << 20;

/// The comment that keeps idle streams alive (ld-relay v8: two bytes, no blank line).
const HEARTBEAT: Bytes = Bytes::from_static(b":\n");

/// The next item to send to a client.
pub enum Next {
    /// The whole data set; [`Subscription::whole`] gives it when it can be sent.
    Whole,
    /// Events that belong together, or a comment.
    Event(Bytes),
}

/// Shows the size of an event and not the event.
impl std::fmt::Debug for Next {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole => f.write_str("Whole"),
            Self::Event(event) => write!(f, "Event({} bytes)", event.len()),
        }
    }
}

/// The fan-out of one environment, and the owner of its served data.
#[derive(Debug, Default)]
pub struct Hub {
    inner: Mutex<Inner>,
    versions: Versions,
}

#[derive(Debug, Default)]
struct Inner {
    snapshot: Option<Arc<Snapshot>>,
    ring: VecDeque<Unread>,
    ring_bytes: usize,
    /// Number of the entry at the front of the ring.
    first: u64,
    /// Clients that have a place in the ring.
    readers: usize,
    closed: bool,
    waiting: Slab<Option<Waker>>,
}

/// An entry of the ring that some client has not read yet.
#[derive(Debug)]
struct Unread {
    entry: Entry,
    /// Number of clients that have not read it.
    by: usize,
}

#[derive(Debug)]
enum Entry {
    /// The snapshot was replaced as a whole.
    Put,
    Changes(Arc<EncodedChanges>),
    Heartbeat,
}

impl Entry {
    fn bytes(&self) -> usize {
        match self {
            Self::Put | Self::Heartbeat => 0,
            Self::Changes(changes) => changes.bytes(),
        }
    }
}

impl Hub {
    /// The served snapshot; `None` before the first complete data set.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.lock().snapshot.clone()
    }

    /// Serves a new data set and sends it to every client.
    pub fn replace(&self, snapshot: Arc<Snapshot>) {
        self.publish(Some(snapshot), [Entry::Put]);
    }

    /// Serves a new snapshot that clients need not get, because they have the same data.
    pub fn confirm(&self, snapshot: Arc<Snapshot>) {
        self.publish(Some(snapshot), []);
    }

    /// Serves a snapshot that differs by these changes, and sends them.
    pub fn change(&self, snapshot: Arc<Snapshot>, changes: ChangeSet) {
        let changes = Arc::new(EncodedChanges::new(changes));
        self.publish(Some(snapshot), [Entry::Changes(changes)]);
    }

    /// Sends the comment that keeps idle streams alive.
    pub fn heartbeat(&self) {
        self.publish(None, [Entry::Heartbeat]);
    }

    /// Ends every stream, including those that begin later.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake();
    }

    /// Wakes every stream, so that it checks again what else may end it.
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
        Subscription { hub: self.clone(), kind, place: Place::Before, slot }
    }

    /// The versions of the data that are being sent.
    pub fn versions(&self) -> &Versions {
        &self.versions
    }

    fn publish(&self, snapshot: Option<Arc<Snapshot>>, entries: impl IntoIterator<Item = Entry>) {
        let wakers = {
            let mut inner = self.lock();
            if snapshot.is_some() {
                inner.snapshot = snapshot;
            }
            let before = inner.end();
            for entry in entries {
                inner.push(entry);
            }
            if inner.end() == before {
                return;
            }
            inner.take_wakers()
        };
        // Outside the lock: the woken tasks take it at once.
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code panics while it holds the lock, so a poisoned lock is safe to use.
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

    fn push(&mut self, entry: Entry) {
        if self.readers == 0 {
            return;
        }
        self.ring_bytes += entry.bytes();
        self.ring.push_back(Unread { entry, by: self.readers });
        // The newest one stays whatever its size: clients that keep up must get it.
        while self.ring.len() > RING_MAX
            || (self.ring.len() > 1 && self.ring_bytes > RING_BYTES_MAX)
        {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(unread) = self.ring.pop_front() {
            self.ring_bytes -= unread.entry.bytes();
            self.first += 1;
        }
    }

    fn entry(&self, number: u64) -> Option<&Entry> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.ring.get(index).map(|unread| &unread.entry)
    }

    /// Notes that one client is done with the entries from `from` up to `to`, excluding `to`.
    fn pass(&mut self, from: u64, to: u64) {
        let skipped = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let count = usize::try_from(to.saturating_sub(from.max(self.first))).unwrap_or(usize::MAX);
        for unread in self.ring.iter_mut().skip(skipped).take(count) {
            unread.by = unread.by.saturating_sub(1);
        }
        while self.ring.front().is_some_and(|unread| unread.by == 0) {
            self.pop();
        }
    }

    /// Registers a client to be woken.
    fn wait<T>(&mut self, slot: usize, cx: &Context<'_>) -> Poll<T> {
        match &mut self.waiting[slot] {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            waiting => *waiting = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

/// Entry that a client finds in the ring.
enum Found {
    Whole,
    Changes(Arc<EncodedChanges>),
    Heartbeat,
}

/// One client's part in the fan-out. Dropping it leaves the hub.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    kind: StreamKind,
    place: Place,
    slot: usize,
}

/// Progress of a client. Numbers are those of the next entry that it has not passed.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Nothing.
    Before,
    /// Everything before that entry.
    At(u64),
    /// It waits for the whole data set, and needs no changes until then.
    Awaiting(u64),
}

impl Subscription {
    /// The next item to send; `Ready(None)` when the stream is over.
    ///
    /// After [`Next::Whole`] there are only comments until [`whole`](Self::whole) is called.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Next>> {
        let Self { hub, kind, place, slot } = self;
        let mut inner = hub.lock();
        if inner.closed {
            return Poll::Ready(None);
        }
        let mut next = match *place {
            Place::Before if inner.snapshot.is_some() => {
                inner.readers += 1;
                *place = Place::Awaiting(inner.end());
                return Poll::Ready(Some(Next::Whole));
            }
            Place::Before => return inner.wait(*slot, cx),
            Place::At(next) if next < inner.first => {
                *place = Place::Awaiting(next);
                return Poll::Ready(Some(Next::Whole));
            }
            Place::At(next) | Place::Awaiting(next) => next.max(inner.first),
        };
        let from = next;
        let is_awaiting = matches!(place, Place::Awaiting(_));
        let mut found = None;
        while let Some(entry) = inner.entry(next)
            && found.is_none()
        {
            next += 1;
            found = match entry {
                Entry::Heartbeat => Some(Found::Heartbeat),
                Entry::Put | Entry::Changes(_) if is_awaiting => None,
                Entry::Put => Some(Found::Whole),
                Entry::Changes(changes) if changes.concern(*kind) => {
                    Some(Found::Changes(changes.clone()))
                }
                Entry::Changes(_) => None,
            };
        }
        if *kind == StreamKind::Pings && matches!(found, Some(Found::Changes(_))) {
            // One ping is enough for all that has changed.
            next = inner.end();
        }
        *place = match found {
            Some(Found::Whole) => Place::Awaiting(next),
            _ if is_awaiting => Place::Awaiting(next),
            Some(Found::Changes(_) | Found::Heartbeat) | None => Place::At(next),
        };
        inner.pass(from, next);
        let Some(found) = found else { return inner.wait(*slot, cx) };
        // Outside the lock: the first reader encodes the events.
        drop(inner);
        Poll::Ready(Some(match found {
            Found::Whole => Next::Whole,
            Found::Heartbeat => Next::Event(HEARTBEAT),
            Found::Changes(changes) => Next::Event(changes.events(*kind)),
        }))
    }

    /// The whole data set. [`poll_next`](Self::poll_next) continues after it.
    pub fn whole(&mut self) -> Option<Arc<Snapshot>> {
        let mut inner = self.hub.lock();
        let end = inner.end();
        match self.place {
            Place::Before => inner.readers += 1,
            Place::At(next) | Place::Awaiting(next) => inner.pass(next, end),
        }
        // Passing entries can take them out of the ring, but does not change the number of the
        // next one.
        self.place = Place::At(end);
        inner.snapshot.clone()
    }

    /// The data set that [`whole`](Self::whole) would give at this moment.
    pub fn current(&self) -> Option<Arc<Snapshot>> {
        self.hub.snapshot()
    }

    /// The fan-out.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Kind of this stream.
    pub fn kind(&self) -> StreamKind {
        self.kind
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut inner = self.hub.lock();
        inner.waiting.remove(self.slot);
        if let Place::At(next) | Place::Awaiting(next) = self.place {
            inner.readers -= 1;
            let end = inner.end();
            inner.pass(next, end);
        }
    }
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
