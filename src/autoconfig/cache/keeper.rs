//! Connects the visits to a tier with the database or the local store, the manager, and the log.
//!
//! Nothing here delays events: the wanted records arrive over a watch, of which only the newest
//! value counts, so that a slow database costs no memory and does not change their order.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::backend::Backend;
use super::codec::CacheKeys;
use super::local_tier::{self, Closed, LocalTier, SPACE};
use super::orders::Wanted;
use super::report::SharedReport;
use super::shared_tier::{self, CacheFormat, SharedTier};
use super::tier::{CONFIRMATION_AGE, CacheTier};
pub use super::visits::KeeperSettings;
use super::visits::{Effect, Notice, RecordVisits};
use crate::autoconfig::record_set::CachedSet;
use crate::autoconfig::startup_race::{CacheOutcome, Tier};
use crate::replica::task::{CopyTask, Surroundings};
use crate::replica::{Moment, Replica, Timing};
use crate::storage::local::{LocalStore, LocalStoreStatus};
use crate::storage::{Health, StoreError};
use crate::telemetry::Rounded;

/// Bound on one call; those of a database have budgets of their own below it.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause between reads of the shared tier while the stream is not live: a peer may have written
/// something newer.
const REREAD: Duration = Duration::from_secs(15);

/// Connections of a keeper to the rest of the relay.
#[derive(Clone, Debug)]
pub struct KeeperEnds {
    /// Settings of the keeper.
    pub settings: KeeperSettings,
    /// The records that the tier should hold.
    pub wanted: watch::Receiver<Option<Wanted>>,
    /// Sends its content to the manager.
    pub results: mpsc::Sender<(Tier, CacheOutcome<CachedSet>)>,
    /// Its report for `/status`.
    pub report: SharedReport,
}

/// The store behind a tier, which answers its calls.
pub trait Place<T: CacheTier>: Send + 'static {
    /// Sends a call to it.
    fn call(&mut self, call: T::Call)
    -> impl Future<Output = Result<T::Answer, StoreError>> + Send;

    /// A count that grows when the tier may have lost its content or must be sealed again.
    fn epoch(&mut self) -> u64;

    /// Waits until it may have grown. Cancel-safe.
    fn disturbed(&mut self) -> impl Future<Output = ()> + Send;
}

/// Keeps a tier until it is cancelled: reads it until there are wanted records, and then writes
/// those.
pub async fn keep<T: CacheTier>(
    tier: T,
    place: impl Place<T>,
    ends: KeeperEnds,
    cancel: CancellationToken,
) {
    let KeeperEnds { settings, wanted, results, report } = ends;
    let timing = Timing {
        // Without an interval the tier is still visited as often as the age of its set must be
        // confirmed: `cacheMaxAge` is judged by it.
        check: Some(settings.check_interval.unwrap_or(CONFIRMATION_AGE)),
        reread: REREAD,
    };
    let name = settings.tier;
    let visits = RecordVisits::new(settings, tier, wanted.clone(), report);
    let keeper = Keeper { name, place, wanted, results };
    CopyTask::new(keeper).run(Replica::new(visits, timing, &Moment::present()), cancel).await;
}

#[derive(Debug)]
struct Keeper<P> {
    name: Tier,
    place: P,
    wanted: watch::Receiver<Option<Wanted>>,
    results: mpsc::Sender<(Tier, CacheOutcome<CachedSet>)>,
}

impl<T: CacheTier, P: Place<T>> Surroundings<RecordVisits<T>> for Keeper<P> {
    async fn told(&mut self, seen_epoch: u64) {
        let place = &mut self.place;
        let disturbed = async {
            while place.epoch() == seen_epoch {
                place.disturbed().await;
            }
        };
        tokio::select! {
            biased;
            Ok(()) = self.wanted.changed() => {}
            () = disturbed => {}
        }
    }

    fn epoch(&mut self) -> u64 {
        self.place.epoch()
    }

    async fn call(&mut self, call: T::Call) -> Result<T::Answer, StoreError> {
        let call = tokio::time::timeout(CALL_TIMEOUT, self.place.call(call));
        call.await.unwrap_or(Err(StoreError::TimedOut { budget: CALL_TIMEOUT }))
    }

    async fn carry_out(&mut self, effect: Effect) {
        match effect {
            // The manager outlives its keepers except at the very end.
            Effect::Read(outcome) => drop(self.results.send((self.name, outcome)).await),
            Effect::Notice(notice) => log(self.name, notice),
        }
    }

    fn left_unwritten(&mut self) {
        tracing::warn!(
            tier = %self.name,
            "the last accepted environments could not be written to the autoconfig cache; the \
             next start writes them"
        );
    }
}

/// The shared database.
#[derive(Debug)]
pub struct SharedPlace<B> {
    sealed: B,
    ld_relay: B,
    health: watch::Receiver<Health>,
    keys: Keys,
}

/// The embedded store.
#[derive(Debug)]
pub struct LocalPlace {
    store: LocalStore,
    status: watch::Receiver<LocalStoreStatus>,
    keys: Keys,
}

/// The keys of the cache, and the number of their changes.
#[derive(Debug)]
struct Keys {
    keys: watch::Receiver<CacheKeys>,
    changes: u64,
}

impl Keys {
    fn changes(&mut self) -> u64 {
        if self.keys.has_changed().unwrap_or(false) {
            self.keys.mark_unchanged();
            self.changes += 1;
        }
        self.changes
    }

    /// Waits until they may have changed. Cancel-safe.
    async fn changed(&mut self) {
        if self.keys.changed().await.is_err() {
            return std::future::pending().await;
        }
        self.changes += 1;
    }
}

impl<B: Backend> SharedPlace<B> {
    /// A database under our namespace (`sealed`) and under the cache key itself (`ld_relay`).
    pub fn new(
        sealed: B,
        ld_relay: B,
        health: watch::Receiver<Health>,
        keys: watch::Receiver<CacheKeys>,
    ) -> Self {
        Self { sealed, ld_relay, health, keys: Keys { keys, changes: 0 } }
    }
}

impl<B: Backend> Place<SharedTier> for SharedPlace<B> {
    async fn call(&mut self, call: shared_tier::Call) -> Result<shared_tier::Answer, StoreError> {
        let backend = |format| match format {
            CacheFormat::Sealed => &self.sealed,
            CacheFormat::LdRelay => &self.ld_relay,
        };
        let answer = match call {
            shared_tier::Call::Read(format) => {
                backend(format).read_all().await.map(shared_tier::Answer::Rows)
            }
            shared_tier::Call::Swap(format, swaps) => {
                backend(format).swap(&swaps).await.map(shared_tier::Answer::Swapped)
            }
        };
        answer.map_err(|error| error.with_cause_of(&self.health.borrow()))
    }

    fn epoch(&mut self) -> u64 {
        self.health.borrow_and_update().connected_epoch + self.keys.changes()
    }

    async fn disturbed(&mut self) {
        tokio::select! {
            () = self.keys.changed() => {}
            Ok(()) = self.health.changed() => {}
            else => std::future::pending().await,
        }
    }
}

impl LocalPlace {
    /// Creates the place of a store.
    pub fn new(store: LocalStore, keys: watch::Receiver<CacheKeys>) -> Self {
        let status = store.subscribe();
        Self { store, status, keys: Keys { keys, changes: 0 } }
    }

    /// The tier in it. `writer` names this process in manifests.
    pub fn tier(&self, writer: &str) -> LocalTier {
        LocalTier::new(writer, self.store.subscribe())
    }
}

impl Place<LocalTier> for LocalPlace {
    async fn call(&mut self, call: local_tier::Call) -> Result<local_tier::Answer, StoreError> {
        let failed =
            |error: Box<dyn std::error::Error + Send + Sync>| StoreError::Unreachable(error);
        match call {
            local_tier::Call::Load => {
                let store = self.store.clone();
                let read = tokio::task::spawn_blocking(move || store.read_named(SPACE));
                let records = read.await.map_err(|error| failed(error.into()))?;
                Ok(local_tier::Answer::Loaded {
                    records: records.map_err(|error| failed(error.into()))?,
                    has_set_aside: self.store.has_set_aside(),
                })
            }
            local_tier::Call::Store { puts, deletes, closed } => {
                let stored = match closed {
                    Closed::Remove => self.store.replace_named(SPACE, puts).await,
                    Closed::Keep => self.store.write_named(SPACE, puts, deletes).await,
                };
                stored.map_err(|error| failed(error.into()))?;
                Ok(local_tier::Answer::Stored)
            }
        }
    }

    fn epoch(&mut self) -> u64 {
        // Not 0, which stands for a connection that the first visit makes.
        1 + self.status.borrow_and_update().replaced + self.keys.changes()
    }

    async fn disturbed(&mut self) {
        tokio::select! {
            // The store seals its records again by itself, but now more of them may open.
            () = self.keys.changed() => {}
            Ok(()) = self.status.changed() => {}
            else => std::future::pending().await,
        }
    }
}

fn log(tier: Tier, notice: Notice) {
    match notice {
        Notice::Skipped(skipped) => tracing::warn!(
            %tier,
            sealed_under_unknown_keys = skipped.unknown_key,
            altered = skipped.forged,
            undecodable = skipped.undecodable,
            "records of the autoconfig cache cannot be used and are left out"
        ),
        Notice::RolledBack(records) => tracing::warn!(
            %tier,
            records,
            "the autoconfig cache holds records that are older than its manifest says: they were \
             put back, and are not used. Their keys get 503 until LaunchDarkly answers. Check who \
             can write to this store"
        ),
        Notice::SetAside => tracing::warn!(
            %tier,
            "the file of the local store was set aside, so it is not known which environments \
             were stored in it; keys get 503 until LaunchDarkly or the shared cache tells"
        ),
        Notice::WrongKeys => tracing::error!(
            %tier,
            "the autoconfig cache holds records, but none opens with the keys that are \
             configured; if the key was changed, list the former one in \
             cachePreviousEncryptionKeys"
        ),
        Notice::TooOld(max) => tracing::warn!(
            %tier,
            max = %max.map_or_else(|| "none".to_owned(), |max| Rounded(max).to_string()),
            "cached environments are older than cacheMaxAge allows, or their age is not known; \
             they are not used"
        ),
        Notice::FailedRead(error) => tracing::warn!(
            %tier,
            error,
            "the autoconfig cache cannot be read; trying again in the background"
        ),
        Notice::FailedWrite(error) => tracing::warn!(
            %tier,
            error,
            "accepted environments could not be written to the autoconfig cache; trying again in \
             the background"
        ),
        Notice::TooLarge(records) => tracing::error!(
            %tier,
            records = records.join(", "),
            "these records are larger than the database allows and are not cached there"
        ),
        Notice::InUseAgain => tracing::info!(%tier, "autoconfig cache is written again"),
        Notice::UpToDate { rows } => {
            tracing::debug!(%tier, rows, "autoconfig cache is up to date");
        }
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
