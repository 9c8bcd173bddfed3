//! The state that callers and the writer thread share: the file, the keys, pending changes, the
//! status.
//!
//! Callers only add work and wake the thread; they hold a lock for the time of an insertion.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use tokio::sync::{oneshot, watch};

use crate::sealing::KeyRing;
use crate::storage::local::file::{Fault, FaultKind, Holder, Reading, Slot};
use crate::storage::local::format::sets::Content;
use crate::storage::local::start::directory::has_aside;
use crate::storage::local::{LocalStoreError, LocalStoreStatus, SetAside, SetId, Skipped};

use super::pending::{Dirty, NamedWork, Pending, SetWork};

/// Requests to the thread.
#[derive(Default)]
pub(crate) struct Requests {
    pub(crate) pending: Pending,
    /// Callers that wait until everything is stored.
    pub(crate) flushes: Vec<oneshot::Sender<bool>>,
    /// True if the keys were replaced.
    pub(crate) ring_changed: bool,
    /// True if a reader found that the database's handle is unusable.
    pub(crate) reopen: bool,
    /// Damage that a reader found.
    pub(crate) damage: Option<Fault>,
    /// True if the thread must write the pending changes and end.
    pub(crate) stop: bool,
    /// True if no handle is left: a removed directory is not created again.
    pub(crate) unwatched: bool,
    /// True while the thread cannot write: named changes are refused at once.
    pub(crate) failing: bool,
    /// Number of sets and changes that the thread has taken but not stored yet.
    pub(crate) in_flight: usize,
    /// True if the thread ends although changes are pending, because they could not be stored.
    pub(crate) gave_up: bool,
}

/// A set that was stored or read by this process.
struct Known {
    /// The newest snapshot, while it is in use.
    content: Weak<dyn Content>,
    written_at: SystemTime,
    /// True if the file contains the content of the last call for this set, except for pending
    /// changes.
    stored: bool,
}

/// The state that callers and the thread share.
pub(crate) struct Shared {
    directory: PathBuf,
    pub(crate) holder: Holder,
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

/// Locks a mutex, even after a panic: no code that holds one of these locks leaves data half
/// changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(
        directory: PathBuf,
        slot: Slot,
        ring: KeyRing,
        set_aside: Option<SetAside>,
    ) -> Self {
        let status = LocalStoreStatus { available: true, set_aside, ..Default::default() };
        let shared = Self {
            directory,
            holder: Holder::new(slot),
            ring: Mutex::new(ring),
            requests: Mutex::default(),
            wake: Condvar::new(),
            known: Mutex::default(),
            status: watch::Sender::new(status),
            ended: watch::Sender::new(false),
        };
        shared.show_file();
        shared
    }

    pub(crate) fn ring(&self) -> KeyRing {
        lock(&self.ring).clone()
    }

    pub(crate) fn set_ring(&self, ring: KeyRing) {
        *lock(&self.ring) = ring;
        self.request(|requests| requests.ring_changed = true);
        self.show_file();
    }

    /// Updates in the status whether the file can be read, and whether it is under the current key.
    pub(crate) fn show_file(&self) {
        // Held until the update, so that no other thread publishes an earlier state later.
        let _requests = self.requests();
        let current = self.ring().current().id();
        let (unreadable, to_reseal) = self.holder.with(|slot| match slot {
            Slot::Empty => (false, None),
            Slot::Closed => (true, None),
            Slot::Open(open) => (false, Some(usize::from(open.under() != current))),
        });
        self.update(|status| (status.unreadable, status.to_reseal) = (unreadable, to_reseal));
    }

    /// True if a file was set aside and still exists.
    pub(crate) fn has_set_aside(&self) -> bool {
        has_aside(&self.directory, None)
    }

    /// Runs a read, and notifies the thread of a fault. `None` if the file is sealed under a key
    /// that is not configured.
    pub(crate) fn read<T>(
        &self,
        work: impl FnOnce(&Reading<'_>) -> Result<T, redb::Error>,
    ) -> Result<Option<T>, LocalStoreError> {
        let read = self.holder.with(|slot| match slot {
            Slot::Empty => None,
            Slot::Closed => Some(Ok(None)),
            Slot::Open(open) => Some(open.read(work).map(Some)),
        });
        read.ok_or(LocalStoreError::Unavailable)?.map_err(|fault| {
            self.request(|requests| match fault.kind {
                FaultKind::Handle | FaultKind::Io => requests.reopen = true,
                // The rest stays readable. The thread repairs the file when there is something to
                // store.
                FaultKind::Damaged | FaultKind::OtherFormat => {
                    requests.damage = Some(fault.clone())
                }
            });
            fault.into()
        })
    }

    pub(crate) fn add(&self, id: SetId, work: SetWork) {
        self.request(|requests| {
            if !requests.stop {
                requests.pending.add(id, work);
            }
        });
    }

    pub(crate) fn retain(&self, kept: Vec<SetId>) {
        self.request(|requests| {
            if !requests.stop {
                requests.pending.retain(kept);
            }
        });
    }

    pub(crate) fn add_named(&self, work: NamedWork) {
        self.request(|requests| {
            if requests.stop || requests.failing {
                let _ = work.done.send(Err(LocalStoreError::Unavailable));
            } else if let Err(work) = requests.pending.add_named(work) {
                let _ = work.done.send(Err(LocalStoreError::Overloaded));
            }
        });
    }

    pub(crate) fn flush(&self, done: oneshot::Sender<bool>) {
        self.request(|requests| {
            if !requests.stop {
                requests.flushes.push(done);
            }
        });
    }

    /// Asks the thread to write the pending changes and to end.
    pub(crate) fn stop(&self) {
        self.request(|requests| requests.stop = true);
    }

    /// Like [`stop`](Self::stop), when no handle is left.
    pub(crate) fn stop_unwatched(&self) {
        self.request(|requests| (requests.stop, requests.unwatched) = (true, true));
    }

    /// Completes when the thread has ended.
    pub(crate) fn until_ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut ended = self.ended.subscribe();
        async move {
            // The store owns the sender, so this only fails after the end.
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }

    #[cfg(test)]
    pub(crate) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    fn request(&self, change: impl FnOnce(&mut Requests)) {
        change(&mut self.requests());
        self.wake.notify_one();
    }

    /// The requests to the thread.
    pub(crate) fn requests(&self) -> MutexGuard<'_, Requests> {
        lock(&self.requests)
    }

    /// Waits for a request, at most for this time.
    pub(crate) fn wait<'a>(
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

    pub(crate) fn adopt(&self, id: &SetId, content: &Arc<dyn Content>, written_at: SystemTime) {
        let content = Arc::downgrade(content);
        let known = Known { content, written_at, stored: false };
        // Data that was given to be stored is newer than data that was read.
        lock(&self.known).entry(id.clone()).or_insert(known);
    }

    /// True if a change of a few items may be stored alone.
    pub(crate) fn is_stored(&self, id: &SetId) -> bool {
        lock(&self.known).get(id).is_some_and(|known| known.stored)
    }

    /// Records the changes that a transaction stored.
    pub(crate) fn stored(&self, kept: Option<&[SetId]>, sets: &[(SetId, SetWork)]) {
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

    /// After the file was replaced: adds every set that is still in memory to the pending changes,
    /// completely.
    pub(crate) fn store_everything_again(&self) {
        let mut known = lock(&self.known);
        let mut again = Vec::new();
        for (id, known) in known.iter_mut() {
            known.stored = false;
            if let Some(content) = known.content.upgrade() {
                let dirty = Dirty::All;
                let written_at = known.written_at;
                again.push((id.clone(), SetWork::Store { content, dirty, written_at }));
            }
        }
        drop(known);
        self.requests().pending.put_back(again);
    }

    pub(crate) fn skipped(&self, skipped: Skipped) {
        if skipped.total() > 0 {
            self.update(|status| status.skipped.add(skipped));
        }
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut LocalStoreStatus)) {
        self.status.send_modify(change);
    }

    pub(crate) fn status(&self) -> LocalStoreStatus {
        let pending = {
            let requests = self.requests();
            requests.pending.len() + requests.in_flight
        };
        LocalStoreStatus { pending, ..self.status.borrow().clone() }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<LocalStoreStatus> {
        self.status.subscribe()
    }

    /// Records that the thread has ended.
    pub(crate) fn set_ended(&self) {
        // Callers that still wait get no answer.
        let mut requests = self.requests();
        requests.stop = true;
        requests.flushes.clear();
        drop(requests);
        self.ended.send_replace(true);
    }
}
