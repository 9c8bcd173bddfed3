//! Warns if the servers remove keys without expiry when their memory is full.
//!
//! Redis is often set up as a cache, with a `maxmemory-policy` that begins with `allkeys-`. Then
//! flags vanish one by one, and SDKs that read them in daemon mode find that they do not exist. To
//! warn the operator before that happens, the policy is read in the background: after each new
//! connection, and at intervals. No call waits for the answer, and a server that does not report
//! its policy is ignored.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::RedisStore;
use super::connection::eviction_policies;
use crate::telemetry::Chain;

/// The policy by which a server removes keys, if one does.
pub type EvictionWarning = watch::Receiver<Option<Arc<str>>>;

/// Checks the policy of one database.
#[derive(Debug)]
pub struct EvictionWatch {
    store: RedisStore,
    pause: Option<Duration>,
    warning: watch::Sender<Option<Arc<str>>>,
}

impl EvictionWatch {
    /// A watch that checks again after `pause`; without one, only after a new connection.
    pub fn new(store: RedisStore, pause: Option<Duration>) -> Self {
        Self { store, pause, warning: watch::Sender::new(None) }
    }

    /// The current warning.
    pub fn warning(&self) -> EvictionWarning {
        self.warning.subscribe()
    }

    /// Checks until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        // May be dropped at any await: it only reads.
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
                    // An error would mean that the sender was dropped, but `self` holds it.
                    seen = changed.map_or(seen, |connections| *connections);
                }
                () = passed(self.pause), if seen > 0 => {}
            }
            // The check opens no connection by itself.
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

/// Waits for the pause; without one, forever.
async fn passed(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}
