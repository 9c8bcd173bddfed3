//! What a keeper is told by its environment: the newest data, what of it is not stored yet, and
//! how sure we are of it. Telling never waits.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::report::SharedReport;
use crate::model::{DataSet, ItemKey};
use crate::replica::{Authority, Heard, Waiting};

/// The environment's end. Clones tell the same keeper.
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
    /// When the put came with which the present connection began; `None` while upstream is not
    /// live.
    put_at: Option<Instant>,
    heard: Option<Heard>,
    /// Items are missing in the data, because no store holds them in a readable form.
    is_partial: bool,
    /// A put waits to be compared with what is stored.
    put_waits: bool,
    /// Items that were accepted from upstream and are not stored yet. Never more than there are
    /// items.
    dirty: BTreeSet<ItemKey>,
    /// Those of them of which no row may be stored: they are counted before they are written.
    fresh: BTreeSet<ItemKey>,
}

/// What the keeper works with at a moment.
#[derive(Clone, Debug)]
pub struct Task {
    /// What is served; `None` before there is anything.
    pub data: Option<Arc<DataSet>>,
    /// Items are missing in it.
    pub is_partial: bool,
    pub authority: Authority,
}

impl Task {
    /// True if an empty store may be filled with the data.
    pub fn may_fill(&self) -> bool {
        !self.is_partial || self.authority.is_live()
    }
}

/// A keeper's two ends.
pub fn channel(report: SharedReport) -> (SharedFlags, Orders) {
    let (state, changed) = (Mutex::default(), Notify::new());
    let shared = Arc::new(Shared { state, changed, report });
    (SharedFlags { shared: shared.clone() }, Orders { shared })
}

impl SharedFlags {
    /// A put was accepted: the store is to hold exactly this.
    pub fn put(&self, data: Arc<DataSet>, now: Instant) {
        self.tell(|state| {
            // The comparison will find these too, unless the connection ends before it: then they
            // are what a relay that is not live may still write.
            let before = state.data.take().unwrap_or_default();
            state.dirty.retain(|key| data.item(key).is_some());
            state.changed(&before, &data, data.newer_than(&before).map(|(key, _)| key));
            (state.data, state.is_partial) = (Some(data), false);
            state.put_at = Some(now);
            state.heard.get_or_insert(Heard::first(now)).again(now);
            state.put_waits = true;
        });
    }

    /// Changes from upstream were accepted, and this is served now.
    pub fn changed(&self, data: Arc<DataSet>, keys: impl IntoIterator<Item = ItemKey>) {
        self.tell(|state| {
            let before = state.data.take().unwrap_or_default();
            state.changed(&before, &data, keys);
            state.data = Some(data);
        });
    }

    /// This is served now; it came from a store. `is_partial`: some items are missing in it,
    /// because no store holds them in a readable form.
    pub fn served(&self, data: Arc<DataSet>, is_partial: bool) {
        self.tell(|state| (state.data, state.is_partial) = (Some(data), is_partial));
    }

    /// The upstream connection delivered something, if only a heartbeat.
    pub fn heard(&self, now: Instant) {
        self.shared.lock().heard.get_or_insert(Heard::first(now)).again(now);
    }

    /// The upstream connection is gone.
    pub fn not_live(&self) {
        if self.shared.lock().put_at.is_some() {
            self.tell(|state| {
                state.put_at = None;
                state.put_waits = false;
            });
        }
    }

    /// The environment is gone for good: nothing is written any more.
    pub fn forget(&self) {
        self.tell(|state| *state = State::default());
    }

    /// What `/status` shows.
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
    /// Waits until something was told since the last time. Cancel-safe.
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

    /// What is served at this moment, and with what right.
    pub fn task(&self) -> Task {
        let state = self.shared.lock();
        let authority = match (state.put_at, state.heard) {
            (Some(put_at), Some(heard)) => Authority::Live { put_at, heard },
            (Some(_) | None, _) => Authority::Provisional,
        };
        Task { data: state.data.clone(), is_partial: state.is_partial, authority }
    }

    /// What is to be written item by item.
    pub fn dirty(&self) -> BTreeSet<ItemKey> {
        self.shared.lock().dirty.clone()
    }

    /// How many items are to be written.
    pub fn dirty_len(&self) -> usize {
        self.shared.lock().dirty.len()
    }

    /// These items are not stored, as a comparison has shown.
    pub fn missing(&self, keys: impl IntoIterator<Item = ItemKey>) {
        let mut state = self.shared.lock();
        for key in keys {
            state.fresh.insert(key.clone());
            state.dirty.insert(key);
        }
    }

    /// True if no row may be stored of some of the items to be written.
    pub fn has_fresh(&self) -> bool {
        !self.shared.lock().fresh.is_empty()
    }

    /// These items are stored at these versions. What has changed since still waits.
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

    /// A comparison with this right ended well: the put that it was for waits no longer.
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

    /// Tells how much is left to write.
    pub fn report_waiting(&self) {
        self.shared.report_waiting();
    }
}

impl State {
    /// These items are not written yet.
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
