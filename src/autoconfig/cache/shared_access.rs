//! The shared database as a keeper sees it: the tier, the keys, and the signs of a loss.

use tokio::sync::watch;
use tokio::time::Instant;

use super::backend::Backend;
use super::codec::CacheKeys;
use super::judge::Reading;
use super::keeper::{Source, TierAccess, TierError, Wanted};
use super::shared_tier::{Memory, SharedTier, Update, Written};
use crate::storage::{Health, StoreError};

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

impl<B: Backend> SharedAccess<B> {
    /// Access to a tier.
    pub fn new(
        tier: SharedTier<B>,
        keys: watch::Receiver<CacheKeys>,
        health: watch::Receiver<Health>,
    ) -> Self {
        Self { tier, keys, health, seen_epoch: 0, memory: Memory::default() }
    }

    /// The count of connections at the beginning of a visit. A visit that begins without a
    /// connection makes one, which is the next.
    fn epoch(&self) -> u64 {
        let health = self.health.borrow();
        health.connected_epoch + u64::from(!health.connected)
    }

    /// Takes note of how a visit ended. A connection that was made after it had begun may lead to
    /// a database that lost its data in between, so only the first one counts as seen.
    fn settle<T>(&mut self, epoch: u64, outcome: Result<T, StoreError>) -> Result<T, TierError> {
        let health = self.health.borrow();
        match outcome {
            Ok(answer) => {
                self.seen_epoch = epoch.min(health.connected_epoch);
                Ok(answer)
            }
            Err(StoreError::CoolingDown) if health.last_error.is_some() => {
                let away = health.last_error.clone().map(StoreError::Away);
                Err(TierError(away.unwrap_or(StoreError::CoolingDown).into()))
            }
            Err(error) => Err(TierError(error.into())),
        }
    }
}

impl<B: Backend> TierAccess for SharedAccess<B> {
    async fn read(&mut self) -> Result<Reading, TierError> {
        let keys = self.keys.borrow_and_update().clone();
        let epoch = self.epoch();
        let outcome = self.tier.read(&keys).await;
        self.settle(epoch, outcome)
    }

    async fn write(&mut self, wanted: &Wanted) -> Result<Written, TierError> {
        let keys = self.keys.borrow_and_update().clone();
        let mut desired = wanted.records.encoded();
        if let Source::Tiers(known) = &wanted.source {
            // What no manifest vouches for is not passed on.
            desired.retain(|name, _| !known.unvouched.contains(name));
        }
        let update = Update {
            desired: &desired,
            gone: &wanted.records.gone,
            confirmed_at: wanted.confirmed_at,
            live: wanted.live,
            heard_at: wanted.heard_at,
        };
        let epoch = self.epoch();
        let outcome = self.tier.write(&keys, &update, &mut self.memory).await;
        self.settle(epoch, outcome)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::ld_relay_format::LdRelayKeys;
    use super::super::memory::MemoryBackend;
    use super::super::shared_tier::CacheFormat;
    use super::*;
    use crate::autoconfig::adoption::Adopt;
    use crate::sealing::{KeyRing, SealingKey};
    use crate::storage::BreakerState;

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_made_during_a_visit_is_a_reason_to_look_again() {
        let backend = MemoryBackend::default();
        let tier = SharedTier::new(
            backend.clone(),
            MemoryBackend::default(),
            "cache",
            (CacheFormat::Sealed, Adopt::Once),
            "w",
        );
        let keys = CacheKeys {
            ring: KeyRing::new(SealingKey::derive("k"), []),
            ld_relay: LdRelayKeys::derive("k", []),
        };
        let (_keys, keys) = watch::channel(keys);
        let health = watch::Sender::new(Health {
            state: BreakerState::Closed,
            since: Instant::now(),
            connected: false,
            connected_epoch: 0,
            last_error: None,
        });
        let mut access = SharedAccess::new(tier, keys, health.subscribe());
        let connect = |epoch| {
            health.send_modify(|health| {
                (health.connected, health.connected_epoch) = (true, epoch);
            });
        };
        let is_disturbed = async |access: &mut SharedAccess<MemoryBackend>| {
            tokio::time::timeout(Duration::from_secs(1), access.disturbed()).await.is_ok()
        };
        // The connection that a visit makes for itself.
        connect(1);
        let epoch = access.epoch();
        assert_eq!(epoch, 1);
        assert!(access.settle(epoch, Ok(())).is_ok());
        assert!(!is_disturbed(&mut access).await);

        // Another one, while the rows are being read: they may be gone.
        backend.with(|state| state.latency = Duration::from_secs(5));
        let reconnect = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            connect(2);
        };
        let (reading, ()) = tokio::join!(access.read(), reconnect);
        assert!(reading.is_ok());
        assert!(is_disturbed(&mut access).await);
        assert!(!is_disturbed(&mut access).await, "once");
    }
}
