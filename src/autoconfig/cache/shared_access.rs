//! The shared database as a keeper sees it: the tier, the keys, and the signs of a loss.

use tokio::sync::watch;

use super::backend::Backend;
use super::codec::CacheKeys;
use super::keeper::{TierAccess, TierError, Wanted};
use super::shared_tier::{Memory, Reading, SharedTier, Written};
use crate::storage::Health;

/// A shared tier with what it needs from one call to the next.
#[derive(Debug)]
pub struct SharedAccess<B> {
    tier: SharedTier<B>,
    keys: watch::Receiver<CacheKeys>,
    health: watch::Receiver<Health>,
    /// The count of connections at the last write: a new one may lead to a database that lost
    /// its data.
    seen_epoch: u64,
    memory: Memory,
}

impl<B: Backend> SharedAccess<B> {
    /// Access to a tier.
    pub fn new(
        tier: SharedTier<B>,
        keys: watch::Receiver<CacheKeys>,
        health: watch::Receiver<Health>,
    ) -> Self {
        Self { tier, keys, health, seen_epoch: 0, memory: Memory::default() }
    }
}

impl<B: Backend> TierAccess for SharedAccess<B> {
    async fn read(&mut self) -> Result<Reading, TierError> {
        let keys = self.keys.borrow_and_update().clone();
        self.tier.read(&keys).await.map_err(|error| TierError(error.into()))
    }

    async fn write(&mut self, wanted: &Wanted) -> Result<Written, TierError> {
        let keys = self.keys.borrow_and_update().clone();
        let desired = wanted.records.encoded();
        let written = self
            .tier
            .write(&keys, &desired, wanted.confirmed_at, &mut self.memory)
            .await
            .map_err(|error| TierError(error.into()))?;
        self.seen_epoch = self.health.borrow().connected_epoch;
        Ok(written)
    }

    fn needs_second_look(&self) -> bool {
        self.memory.needs_second_look()
    }

    async fn disturbed(&mut self) {
        let seen = self.seen_epoch;
        tokio::select! {
            Ok(()) = self.keys.changed() => {}
            true = async { self.health.wait_for(|health| health.connected_epoch > seen).await.is_ok() } => {}
            else => std::future::pending().await,
        }
    }
}
