//! Whether the servers remove keys that never expire when their memory is full.
//!
//! Redis is often set up as a cache, with a `maxmemory-policy` that begins with `allkeys-`. Flags
//! vanish there one by one, and whoever reads them in daemon mode is told that they do not exist.
//! An operator can know that before it happens, so the policy is asked for beside the work: after
//! each new connection, and now and then. Nothing waits for the answer, and a server that does not
//! tell is left alone.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::RedisStore;
use super::connection::eviction_policies;
use crate::telemetry::Chain;

/// The policy by which a server removes keys, if one does.
pub type EvictionWarning = watch::Receiver<Option<Arc<str>>>;

/// Looks at the policy of one database.
#[derive(Debug)]
pub struct EvictionWatch {
    store: RedisStore,
    pause: Option<Duration>,
    warning: watch::Sender<Option<Arc<str>>>,
}

impl EvictionWatch {
    /// A watch that looks again after `pause`; without one, only after a new connection.
    pub fn new(store: RedisStore, pause: Option<Duration>) -> Self {
        Self { store, pause, warning: watch::Sender::new(None) }
    }

    /// What it finds.
    pub fn warning(&self) -> EvictionWarning {
        self.warning.subscribe()
    }

    /// Looks until it is told to stop.
    pub async fn run(self, cancel: CancellationToken) {
        // Dropped at any await: it only reads.
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = self.keep_looking() => {}
        }
    }

    async fn keep_looking(&self) {
        let mut connections = self.store.watch_connections();
        let mut seen = 0;
        loop {
            tokio::select! {
                changed = connections.wait_for(|connections| *connections != seen) => {
                    // An error would mean that the sender is gone, and `self` holds it.
                    seen = changed.map_or(seen, |connections| *connections);
                }
                () = passed(self.pause), if seen > 0 => {}
            }
            // It opens no connection: whoever needs one does.
            if self.store.health().connected {
                self.look().await;
            }
        }
    }

    async fn look(&self) {
        let asked = self.store.call(async |mut conn| eviction_policies(&mut conn).await).await;
        let policies = match asked {
            Ok(policies) => policies,
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "the policy of eviction is not known");
                return;
            }
        };
        let found = policies.into_iter().find(|policy| policy.starts_with("allkeys-"));
        let found: Option<Arc<str>> = found.map(Into::into);
        if *self.warning.borrow() == found {
            return;
        }
        match &found {
            Some(policy) => tracing::warn!(
                %policy,
                "the database removes flags when its memory is full; set maxmemory-policy to \
                 noeviction"
            ),
            None => tracing::info!("the database does not remove flags any more"),
        }
        self.warning.send_replace(found);
    }
}

/// Waits; for ever without a pause.
async fn passed(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}
