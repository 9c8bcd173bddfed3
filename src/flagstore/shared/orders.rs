//! Orders of an environment to its keeper: the newest data, what of it is not stored yet, and its
//! authority. Sending them never waits.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::report::SharedReport;
use crate::model::{DataSet, ItemKey};
use crate::replica::{Authority, Heard, Waiting};

/// The environment's end. Clones reach the same keeper.
#[derive(Clone, Debug)]
pub struct SharedFlags {
    shared: Arc<Shared>,
}

/// The keeper's end.
#[derive(Clone, Debug)]
pub struct Orders {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
    report: SharedReport,
}

#[derive(Debug, Default)]
struct State {
    data: Option<Arc<DataSet>>,
    /// Time of the put with which the current connection began; `None` while upstream is not live.
    put_at: Option<Instant>,
    heard: Option<Heard>,
    /// True if items are missing in the data, because no store holds them in a readable form.
    is_partial: bool,
    /// True while a put waits to be compared with the stored data.
    put_waits: bool,
    /// Items that were accepted from upstream and are not stored yet. Never more than there are
    /// items.
    dirty: BTreeSet<ItemKey>,
    /// Those of them that may have no stored row: they are listed before they are written.
    fresh: BTreeSet<ItemKey>,
}

/// Input of the keeper at a moment.
#[derive(Clone, Debug)]
pub struct Task {
    /// The served data; `None` before there is any.
    pub data: Option<Arc<DataSet>>,
    /// True if items are missing in it.
    pub is_partial: bool,
    pub authority: Authority,
}

impl Task {
    /// True if an empty store may be filled with the data.
    pub fn may_fill(&self) -> bool {
        !self.is_partial || self.authority.is_live()
    }
}

/// Creates the two ends of a keeper's orders.
pub fn channel(report: SharedReport) -> (SharedFlags, Orders) {
    let (state, changed) = (Mutex::default(), Notify::new());
    let shared = Arc::new(Shared { state, changed, report });
    (SharedFlags { shared: shared.clone() }, Orders { shared })
}

impl SharedFlags {
    /// Passes an accepted put: the store is to hold exactly this.
    pub fn put(&self, data: Arc<DataSet>, now: Instant) {
        self.tell(|state| {
            // The comparison will find these too, unless the connection ends before it: then they
            // are what a relay that is not live may still write.
            let before = state.data.take().unwrap_or_default();
            state.dirty.retain(|key| data.item(key).is_some());
            state.changed(&before, &data, data.newer_than(&before).map(|(key, _)| key));
            (state.data, state.is_partial) = (Some(data), false);
            state.put_at = Some(now);
            state.heard = Some(Heard::after(state.heard, now));
            state.put_waits = true;
        });
    }

    /// Passes accepted changes from upstream, and the data that is served now.
    pub fn changed(&self, data: Arc<DataSet>, keys: impl IntoIterator<Item = ItemKey>) {
        self.tell(|state| {
            let before = state.data.take().unwrap_or_default();
            state.changed(&before, &data, keys);
            state.data = Some(data);
        });
    }

    /// Passes data from a store that is served now. `is_partial`: some items are missing in it,
    /// because no store holds them in a readable form.
    pub fn served(&self, data: Arc<DataSet>, is_partial: bool) {
        self.tell(|state| (state.data, state.is_partial) = (Some(data), is_partial));
    }

    /// Notes that the upstream connection delivered something, if only a heartbeat.
    pub fn heard(&self, now: Instant) {
        let mut state = self.shared.lock();
        state.heard = Some(Heard::after(state.heard, now));
    }

    /// Notes that the upstream connection is lost.
    pub fn not_live(&self) {
        if self.shared.lock().put_at.is_some() {
            self.tell(|state| {
                state.put_at = None;
                state.put_waits = false;
            });
        }
    }

    /// Notes that the environment is removed for good: nothing is written any more.
    pub fn forget(&self) {
        self.tell(|state| *state = State::default());
    }

    /// The status for `/status`.
    pub fn report(&self) -> &SharedReport {
        &self.shared.report
    }

    fn tell(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.lock());
        self.shared.report_waiting();
        self.shared.changed.notify_one();
    }
}

impl Orders {
    /// Waits until there are new orders since the last time. Cancel-safe.
    pub async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    pub fn waiting(&self) -> Waiting {
        let state = self.shared.lock();
        Waiting {
            put: state.put_waits,
            dirty: !state.dirty.is_empty(),
            live: state.put_at.is_some(),
        }
    }

    /// The data that is served now, and its authority.
    pub fn task(&self) -> Task {
        let state = self.shared.lock();
        let authority = match (state.put_at, state.heard) {
            (Some(put_at), Some(heard)) => Authority::Live { put_at, heard },
            (Some(_) | None, _) => Authority::Provisional,
        };
        Task { data: state.data.clone(), is_partial: state.is_partial, authority }
    }

    /// Items to be written one by one.
    pub fn dirty(&self) -> BTreeSet<ItemKey> {
        self.shared.lock().dirty.clone()
    }

    /// Number of items to be written.
    pub fn dirty_len(&self) -> usize {
        self.shared.lock().dirty.len()
    }

    /// Notes items that are absent or older in the store, as a comparison has shown; `rows` are the
    /// rows that it holds.
    pub fn lacking(&self, keys: &BTreeSet<ItemKey>, rows: &BTreeSet<&ItemKey>) {
        let mut state = self.shared.lock();
        state.dirty.extend(keys.iter().cloned());
        state.fresh.extend(keys.iter().cloned());
        state.fresh.retain(|key| !rows.contains(key));
    }

    /// Those of the items to be written that may have no stored row.
    pub fn fresh(&self) -> BTreeSet<ItemKey> {
        self.shared.lock().fresh.clone()
    }

    /// Notes that these items are stored at these versions. Those that have changed since still
    /// wait.
    pub fn stored<'a>(&self, items: impl Iterator<Item = (&'a ItemKey, u64)>) {
        let mut state = self.shared.lock();
        let State { data, dirty, fresh, .. } = &mut *state;
        for (key, version) in items {
            let current = data.as_ref().and_then(|data| data.item(key));
            if current.is_none_or(|item| item.version <= version) {
                dirty.remove(key);
                fresh.remove(key);
            }
        }
    }

    /// Notes that a comparison with this authority succeeded: its put waits no longer.
    pub fn compared(&self, authority: Authority) {
        let mut state = self.shared.lock();
        match authority {
            Authority::Live { put_at, .. } if state.put_at == Some(put_at) => {
                state.put_waits = false;
            }
            Authority::Live { .. } | Authority::Provisional => {}
        }
    }

    pub fn report(&self) -> &SharedReport {
        &self.shared.report
    }

    /// Reports how much is left to write.
    pub fn report_waiting(&self) {
        self.shared.report_waiting();
    }
}

impl State {
    /// Notes items that are not written yet.
    fn changed(
        &mut self,
        before: &DataSet,
        after: &DataSet,
        keys: impl IntoIterator<Item = ItemKey>,
    ) {
        for key in keys {
            // The row of a tombstone may have been removed.
            let is_fresh = match (before.item(&key), after.item(&key)) {
                (None, _) => true,
                (Some(before), Some(after)) => before.is_tombstone() && !after.is_tombstone(),
                (Some(_), None) => false,
            };
            if is_fresh {
                self.fresh.insert(key.clone());
            }
            self.dirty.insert(key);
        }
        self.fresh.retain(|key| self.dirty.contains(key));
    }
}

impl Shared {
    fn report_waiting(&self) {
        let (dirty, put_waits) = {
            let state = self.lock();
            (state.dirty.len(), state.put_waits)
        };
        self.report.update(|report| {
            (report.dirty, report.write_pending) = (dirty, put_waits || dirty > 0);
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is complete before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
