//! What callers and the writer's thread have in common: the file, the keys, what waits, the status.
//!
//! Callers only put work in and wake the thread; they hold a lock for the time of an insertion.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use tokio::sync::{oneshot, watch};

use crate::sealing::KeyRing;

use super::database::{Fault, FaultKind, Holder, OpenFile};
use super::pending::{Dirty, NamedWork, Pending, SetWork};
use super::sets::{Content, Unknown};
use super::{LocalStoreError, LocalStoreStatus, SetAside, SetId, Skipped};

/// What the thread is asked for.
#[derive(Default)]
pub(super) struct Requests {
    pub(super) pending: Pending,
    /// Who waits until nothing waits any more.
    pub(super) flushes: Vec<oneshot::Sender<bool>>,
    /// The keys were exchanged.
    pub(super) ring_changed: bool,
    /// A reader found that the database's handle is of no more use.
    pub(super) reopen: bool,
    /// A reader found damage.
    pub(super) damage: Option<Fault>,
    /// Write what waits, and end.
    pub(super) stop: bool,
    /// No handle is left: a directory that was removed is not made again.
    pub(super) unwatched: bool,
    /// The thread does not write at the moment: named changes are refused at once.
    pub(super) failing: bool,
    /// Sets and changes that the thread has taken and not stored yet.
    pub(super) in_flight: usize,
    /// The thread ends although something waits: it could not be stored.
    pub(super) gave_up: bool,
}

/// A set that was stored or read by this process.
struct Known {
    /// The newest snapshot, for as long as somebody serves it.
    content: Weak<dyn Content>,
    written_at: SystemTime,
    /// Whether the file holds what the last call for this set gave, but for what waits.
    stored: bool,
}

/// See the module's text.
pub(super) struct Shared {
    pub(super) holder: Holder,
    ring: Mutex<KeyRing>,
    requests: Mutex<Requests>,
    wake: Condvar,
    known: Mutex<HashMap<SetId, Known>>,
    status: watch::Sender<LocalStoreStatus>,
    ended: watch::Sender<bool>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("status", &self.status()).finish_non_exhaustive()
    }
}

/// No code that holds one of these locks leaves data half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn new(holder: Holder, ring: KeyRing, set_aside: Option<SetAside>) -> Self {
        let status = LocalStoreStatus { available: true, set_aside, ..Default::default() };
        Self {
            holder,
            ring: Mutex::new(ring),
            requests: Mutex::default(),
            wake: Condvar::new(),
            known: Mutex::default(),
            status: watch::Sender::new(status),
            ended: watch::Sender::new(false),
        }
    }

    pub(super) fn ring(&self) -> KeyRing {
        lock(&self.ring).clone()
    }

    pub(super) fn set_ring(&self, ring: KeyRing) {
        *lock(&self.ring) = ring;
        self.request(|requests| {
            requests.ring_changed = true;
            self.update(|status| status.to_reseal = None);
        });
    }

    /// Runs a read; tells the thread if the database may have come to harm by it.
    pub(super) fn read<T>(
        &self,
        work: impl FnOnce(&OpenFile) -> Result<T, redb::Error>,
    ) -> Result<T, LocalStoreError> {
        let read = self.holder.with(work).ok_or(LocalStoreError::Unavailable)?;
        read.map_err(|fault: Fault| {
            match fault.kind {
                FaultKind::Handle | FaultKind::Io => {
                    self.request(|requests| requests.reopen = true);
                }
                FaultKind::Damaged | FaultKind::Changed | FaultKind::OtherFormat => {
                    self.damaged(fault.clone());
                }
                FaultKind::InUse => {}
            }
            fault.into()
        })
    }

    /// The file is damaged in one place: the rest stays readable until there is something to
    /// store; the thread begins a new file then.
    pub(super) fn damaged(&self, fault: Fault) {
        self.request(|requests| requests.damage = Some(fault));
    }

    pub(super) fn add(&self, id: SetId, work: SetWork) {
        self.request(|requests| {
            if !requests.stop {
                requests.pending.add(id, work);
            }
        });
    }

    pub(super) fn retain(&self, kept: Vec<SetId>) {
        self.request(|requests| {
            if !requests.stop {
                requests.pending.retain(kept);
            }
        });
    }

    pub(super) fn add_named(&self, work: NamedWork) {
        self.request(|requests| {
            if requests.stop || requests.failing {
                let _ = work.done.send(Err(LocalStoreError::Unavailable));
            } else if let Err(work) = requests.pending.add_named(work) {
                let _ = work.done.send(Err(LocalStoreError::Overloaded));
            }
        });
    }

    pub(super) fn flush(&self, done: oneshot::Sender<bool>) {
        self.request(|requests| {
            if !requests.stop {
                requests.flushes.push(done);
            }
        });
    }

    /// Asks the thread to write what waits and to end.
    pub(super) fn stop(&self) {
        self.request(|requests| requests.stop = true);
    }

    /// As [`stop`](Self::stop), when no handle is left.
    pub(super) fn stop_unwatched(&self) {
        self.request(|requests| (requests.stop, requests.unwatched) = (true, true));
    }

    /// Over when the thread has ended.
    pub(super) fn until_ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut ended = self.ended.subscribe();
        async move {
            // The sender lives in the store that is asked, so this only fails after the end.
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }

    #[cfg(test)]
    pub(super) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    fn request(&self, change: impl FnOnce(&mut Requests)) {
        change(&mut self.requests());
        self.wake.notify_one();
    }

    /// What the thread is asked for, for the thread itself.
    pub(super) fn requests(&self) -> MutexGuard<'_, Requests> {
        lock(&self.requests)
    }

    /// Waits until something is asked for, or for that time.
    pub(super) fn wait<'a>(
        &self,
        requests: MutexGuard<'a, Requests>,
        time: Option<std::time::Duration>,
    ) -> MutexGuard<'a, Requests> {
        match time {
            Some(time) => {
                let waited = self.wake.wait_timeout(requests, time);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.wake.wait(requests).unwrap_or_else(PoisonError::into_inner),
        }
    }

    pub(super) fn adopt(&self, id: &SetId, content: &Arc<dyn Content>, written_at: SystemTime) {
        let content = Arc::downgrade(content);
        let known = Known { content, written_at, stored: false };
        // Data that was given to be stored is newer than data that was read.
        lock(&self.known).entry(id.clone()).or_insert(known);
    }

    /// Whether a change of a few items may be stored as such.
    pub(super) fn is_stored(&self, id: &SetId) -> bool {
        lock(&self.known).get(id).is_some_and(|known| known.stored)
    }

    /// Takes note of what a transaction stored.
    pub(super) fn stored(&self, kept: Option<&[SetId]>, sets: &[(SetId, SetWork)]) {
        let mut known = lock(&self.known);
        if let Some(kept) = kept {
            known.retain(|id, _| kept.contains(id));
        }
        for (id, work) in sets {
            match work {
                SetWork::Store { content, written_at, .. } => {
                    let content = Arc::downgrade(content);
                    let entry = Known { content, written_at: *written_at, stored: true };
                    known.insert(id.clone(), entry);
                }
                SetWork::Remove => {
                    known.remove(id);
                }
            }
        }
    }

    /// The file is empty: every set that is still in memory waits to be stored whole.
    pub(super) fn store_everything_again(&self) {
        let mut known = lock(&self.known);
        let mut again = Vec::new();
        for (id, known) in known.iter_mut() {
            known.stored = false;
            if let Some(content) = known.content.upgrade() {
                let dirty = Dirty::All(Unknown::Keep);
                let written_at = known.written_at;
                again.push((id.clone(), SetWork::Store { content, dirty, written_at }));
            }
        }
        drop(known);
        self.requests().pending.put_back(again);
    }

    pub(super) fn skipped(&self, skipped: Skipped) {
        if skipped.total() > 0 {
            self.update(|status| status.skipped.add(skipped));
        }
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut LocalStoreStatus)) {
        self.status.send_modify(change);
    }

    /// Tells what is still to be sealed anew, unless the keys have changed since: then it must be
    /// counted again.
    pub(super) fn counted(&self, change: impl FnOnce(&mut LocalStoreStatus)) {
        let requests = self.requests();
        if !requests.ring_changed {
            self.update(change);
        }
    }

    pub(super) fn status(&self) -> LocalStoreStatus {
        let pending = {
            let requests = self.requests();
            requests.pending.len() + requests.in_flight
        };
        LocalStoreStatus { pending, ..self.status.borrow().clone() }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<LocalStoreStatus> {
        self.status.subscribe()
    }

    /// The thread has ended.
    pub(super) fn set_ended(&self) {
        // Whoever still waits for an answer gets none.
        let mut requests = self.requests();
        requests.stop = true;
        requests.flushes.clear();
        drop(requests);
        self.ended.send_replace(true);
    }
}
