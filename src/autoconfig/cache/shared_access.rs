//! The shared database as a keeper sees it: the tier, the keys, and the signs of a loss.

use tokio::sync::watch;
use tokio::time::Instant;

use super::backend::Backend;
use super::codec::CacheKeys;
use super::keeper::{TierAccess, TierError, Wanted};
use super::shared_tier::{Memory, Reading, SharedTier, Update, Written};
use crate::storage::{Health, LastError, StoreError};

/// A shared tier with what it needs from one call to the next.
#[derive(Debug)]
pub struct SharedAccess<B> {
    tier: SharedTier<B>,
    keys: watch::Receiver<CacheKeys>,
    health: watch::Receiver<Health>,
    /// The count of connections that the keeper knows of: a new one may lead to a database that
    /// lost its data.
    seen_epoch: u64,
    memory: Memory,
}

/// Nothing was asked, because the database is known to be away.
#[derive(Debug, thiserror::Error)]
#[error("store is away: {0}")]
struct Away(LastError);

impl<B: Backend> SharedAccess<B> {
    /// Access to a tier.
    pub fn new(
        tier: SharedTier<B>,
        keys: watch::Receiver<CacheKeys>,
        health: watch::Receiver<Health>,
    ) -> Self {
        Self { tier, keys, health, seen_epoch: 0, memory: Memory::default() }
    }

    /// Takes note of how a call ended. An answer came over the newest connection.
    fn settle<T>(&mut self, outcome: Result<T, StoreError>) -> Result<T, TierError> {
        let health = self.health.borrow();
        match outcome {
            Ok(answer) => {
                self.seen_epoch = health.connected_epoch;
                Ok(answer)
            }
            Err(StoreError::CoolingDown) if health.last_error.is_some() => {
                let away = health.last_error.clone().map(Away);
                Err(TierError(away.map_or_else(|| StoreError::CoolingDown.into(), Into::into)))
            }
            Err(error) => Err(TierError(error.into())),
        }
    }
}

impl<B: Backend> TierAccess for SharedAccess<B> {
    async fn read(&mut self) -> Result<Reading, TierError> {
        let keys = self.keys.borrow_and_update().clone();
        let outcome = self.tier.read(&keys).await;
        self.settle(outcome)
    }

    async fn write(&mut self, wanted: &Wanted) -> Result<Written, TierError> {
        let keys = self.keys.borrow_and_update().clone();
        let update = Update {
            desired: &wanted.records.encoded(),
            confirmed_at: wanted.confirmed_at,
            live: wanted.live,
            heard_at: wanted.heard_at,
        };
        let outcome = self.tier.write(&keys, &update, &mut self.memory).await;
        self.settle(outcome)
    }

    fn doubts_since(&self) -> Option<Instant> {
        self.memory.doubts_since()
    }

    async fn disturbed(&mut self) {
        let seen = self.seen_epoch;
        tokio::select! {
            Ok(()) = self.keys.changed() => {}
            Some(epoch) = newer_epoch(&mut self.health, seen) => self.seen_epoch = epoch,
            else => std::future::pending().await,
        }
    }
}

/// Waits for a count of connections above this one.
async fn newer_epoch(health: &mut watch::Receiver<Health>, seen: u64) -> Option<u64> {
    let grown = health.wait_for(|health| health.connected_epoch > seen).await.ok()?;
    Some(grown.connected_epoch)
}
