//! The state of one environment that the server reads. Its task (see `runner`) is the only writer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::flagstore::SharedFlags;
use crate::model::{ConnectionStatus, EnvironmentRef, EnvironmentSpec, ItemKey};
use crate::streams::Hub;

use super::store_status::StoreStatus;

/// Progress of reading the stores that an environment may be served from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loading {
    /// A stored set may arrive in the next milliseconds.
    InProgress,
    /// Every store has answered, or data is being served.
    Done,
}

/// One environment, or one filtered view of it.
#[derive(Debug)]
pub struct Environment {
    /// Its name.
    pub reference: EnvironmentRef,
    /// Time at which this process first heard of it.
    pub created_at: SystemTime,
    /// The same moment, on the monotonic clock.
    pub known_at: Instant,
    /// Its served data and its streams.
    pub hub: Arc<Hub>,
    spec: ArcSwap<EnvironmentSpec>,
    status: Mutex<EnvironmentStatus>,
    loading: watch::Sender<Loading>,
    shared: ArcSwapOption<SharedFlags>,
    /// True if the environment is removed for good, so that its stored data must be removed too.
    doomed: AtomicBool,
}

/// Content of `/status` about an environment, besides its specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentStatus {
    /// The upstream connection.
    pub connection: ConnectionStatus,
    /// Reason why stored data could not be used, if it could not.
    pub stored_data_problem: Option<String>,
    /// True once it is known whether there is a local store; from then on it gets the served data.
    pub local_store_known: bool,
    /// Items that no store holds in a form that can be decoded, so that clients do not get them.
    pub missing_items: Vec<ItemKey>,
    /// Number of items from the shared store that were added to a set from another source.
    pub items_from_shared_store: usize,
    /// True if the served data came from a store that does not count its items.
    pub is_presumed: bool,
}

impl EnvironmentStatus {
    /// Status of an environment of which nothing is known yet.
    pub fn initializing(now: SystemTime) -> Self {
        Self {
            connection: ConnectionStatus::initializing(now),
            stored_data_problem: None,
            local_store_known: false,
            missing_items: Vec::new(),
            items_from_shared_store: 0,
            is_presumed: false,
        }
    }
}

impl Environment {
    pub(super) fn new(spec: Arc<EnvironmentSpec>, now: SystemTime) -> Self {
        Self {
            reference: spec.reference.clone(),
            created_at: now,
            known_at: Instant::now(),
            hub: Arc::default(),
            spec: ArcSwap::new(spec),
            status: Mutex::new(EnvironmentStatus::initializing(now)),
            loading: watch::Sender::new(Loading::InProgress),
            shared: ArcSwapOption::empty(),
            doomed: AtomicBool::new(false),
        }
    }

    /// Its specification from LaunchDarkly or the configuration.
    pub fn spec(&self) -> Arc<EnvironmentSpec> {
        self.spec.load_full()
    }

    /// Its current status.
    pub fn status(&self) -> EnvironmentStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// True if the data from LaunchDarkly has reached the stores, or is on its way to the local
    /// one.
    pub fn is_stored(&self) -> bool {
        let is_in_order = |store: StoreStatus| {
            store.state == "VALID" && !store.write_pending && store.last_write.is_some()
        };
        self.status().local_store_known && self.shared_store().is_none_or(is_in_order)
    }

    /// The store of its flags that is shared with others, if there is one.
    pub fn shared_store(&self) -> Option<StoreStatus> {
        self.shared.load().as_ref().map(|shared| StoreStatus::of(&shared.report().get()))
    }

    pub(super) fn set_shared(&self, shared: SharedFlags) {
        self.shared.store(Some(Arc::new(shared)));
    }

    /// Waits until every store has answered or data is being served.
    pub async fn loaded(&self) {
        // The sender lives in self, so the wait cannot fail.
        let _ = self.loading.subscribe().wait_for(|loading| *loading == Loading::Done).await;
    }

    /// True if a request waits in [`loaded`](Self::loaded).
    pub(super) fn is_awaited(&self) -> bool {
        self.loading.receiver_count() > 0
    }

    /// True while a stored set may still arrive.
    pub fn is_loading(&self) -> bool {
        *self.loading.borrow() == Loading::InProgress
    }

    /// Marks the environment as removed for good.
    pub(super) fn doom(&self) {
        self.doomed.store(true, Ordering::Release);
    }

    pub(super) fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::Acquire)
    }

    pub(super) fn set_spec(&self, spec: Arc<EnvironmentSpec>) {
        self.spec.store(spec);
    }

    pub(super) fn set_loaded(&self) {
        self.loading
            .send_if_modified(|loading| std::mem::replace(loading, Loading::Done) != Loading::Done);
    }

    pub(super) fn set_status(&self, status: &EnvironmentStatus) {
        let mut current = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != *status {
            current.clone_from(status);
        }
    }
}
