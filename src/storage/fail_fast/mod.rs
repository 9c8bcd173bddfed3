//! One database behind deadlines and one breaker.
//!
//! Each call gets a time budget that covers dialling and asking together. A timeout or transport
//! failure costs the connection and opens the breaker; while it is open, calls are refused at
//! once and only the probe dials ([`FailFast::run_probe`], design D23). A connection that the
//! database ends while nobody uses it is replaced. Nothing is repeated here:
//! who wants a retry has a queue. It knows no database and no data.
//!
//! Connections are shared handles ([`Dialer::Conn`] is `Clone`): a multiplexed Redis connection,
//! an HTTP client. That lets any number of callers wait at the same time without a lock held over
//! I/O, and a caller that goes away takes nothing with it. Long answers hold up short ones on one
//! multiplexed connection, so a dialer may ask for further connections for bulk calls
//! ([`Dialer::BULK_CONNECTIONS`]).
//!
//! Invariant: all connections of one *generation* are dropped together, and a failure counts only
//! against the generation it was seen on. A hundred calls that time out on one dead connection
//! are one loss, and none of them reopens the breaker after the probe has closed it.

mod core;

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use self::core::Core;
pub use self::core::Health;
use super::StoreError;
use crate::telemetry::Rounded;

/// Budget of an ordinary call (stores.md 4.3: the socket timeout that proved itself).
pub const CALL_BUDGET: Duration = Duration::from_secs(2);

/// Budget of a call that moves a whole data set.
pub const BULK_BUDGET: Duration = Duration::from_secs(5);

/// A connection that was quiet for so long is checked before use: load balancers and connection
/// tracking drop quiet connections without telling either end.
pub const IDLE_LIMIT: Duration = Duration::from_secs(15);

/// Budget of that check. A quarter of a call's budget, so that a dead connection leaves time to
/// dial a new one within the same call.
pub const CHECK_BUDGET: Duration = Duration::from_millis(500);

/// How long a refusal at the dial (wrong password) is repeated to callers without dialling, so
/// that a hundred environments do not each ask.
pub const REFUSAL_MEMORY: Duration = Duration::from_secs(1);

/// Longest random wait before a connection that the database ended is replaced: relays do not all
/// dial in one moment, and a database that ends each connection at once is not hammered.
pub const REPLACE_WAIT: Duration = Duration::from_millis(300);

/// Makes connections to one database.
pub trait Dialer: Send + Sync + 'static {
    /// A handle that may be cloned and used by many callers at once.
    type Conn: Clone + Send + Sync + 'static;

    /// Connections beside the first one, taken in turn by bulk calls. 0: they share the first.
    const BULK_CONNECTIONS: usize = 0;

    /// Connects and authenticates. The caller keeps the time.
    fn dial(&self) -> impl Future<Output = Result<Self::Conn, StoreError>> + Send;

    /// Asks something cheap. An error that is not transient counts as an answer.
    fn check(&self, conn: Self::Conn) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Waits until the database ends the connection, where that shows while nobody asks anything.
    /// Cancel-safe.
    fn ended(&self, _conn: Self::Conn) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Told of each failure that cost the connections.
    fn lost(&self, _error: &StoreError) {}
}

/// Time budgets of one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// For [`FailFast::call`] and for a probe.
    pub call: Duration,
    /// For [`FailFast::bulk`].
    pub bulk: Duration,
}

impl Default for Budgets {
    fn default() -> Self {
        Self { call: CALL_BUDGET, bulk: BULK_BUDGET }
    }
}

/// One database. Clones share connections, breaker and health.
pub struct FailFast<D: Dialer> {
    shared: Arc<Shared<D>>,
}

struct Shared<D: Dialer> {
    name: &'static str,
    dialer: D,
    budgets: Budgets,
    core: Mutex<Core<D::Conn>>,
    health: watch::Sender<Health>,
}

impl<D: Dialer> Clone for FailFast<D> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<D: Dialer> std::fmt::Debug for FailFast<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FailFast").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

/// Which connection a call takes.
#[derive(Clone, Copy)]
enum Lane {
    First,
    Bulk,
}

impl<D: Dialer> FailFast<D> {
    /// A database that is not dialled before the first call. `name` stands in log lines.
    pub fn new(name: &'static str, dialer: D, budgets: Budgets) -> Self {
        let core = Core::new(Instant::now(), D::BULK_CONNECTIONS);
        let health = watch::Sender::new(core.health());
        Self { shared: Arc::new(Shared { name, dialer, budgets, core: Mutex::new(core), health }) }
    }

    /// What makes the connections, for callers that need one of their own.
    pub fn dialer(&self) -> &D {
        &self.shared.dialer
    }

    /// The time budgets of calls.
    pub fn budgets(&self) -> Budgets {
        self.shared.budgets
    }

    /// The present health.
    pub fn health(&self) -> Health {
        self.shared.health.borrow().clone()
    }

    /// The health and its changes. A borrowed value must not be kept over an `await`: calls wait
    /// for its return when they have something to report.
    pub fn watch_health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    /// Runs `op` on a connection within the ordinary budget.
    pub async fn call<T, F, Fut>(&self, op: F) -> Result<T, StoreError>
    where
        F: FnOnce(D::Conn) -> Fut + Send,
        Fut: Future<Output = Result<T, StoreError>> + Send,
    {
        self.run(Lane::First, self.shared.budgets.call, op).await
    }

    /// Runs `op`, which moves much data, on a connection within the larger budget.
    pub async fn bulk<T, F, Fut>(&self, op: F) -> Result<T, StoreError>
    where
        F: FnOnce(D::Conn) -> Fut + Send,
        Fut: Future<Output = Result<T, StoreError>> + Send,
    {
        self.run(Lane::Bulk, self.shared.budgets.bulk, op).await
    }

    /// Drops the connections and forgets a refusal, because the settings changed (a new
    /// password). The next call dials; calls in flight finish on the old connections.
    pub fn reconnect(&self) {
        let mut core = self.core();
        core.drop_all();
        core.forget_refusal();
        self.publish(&core);
    }

    /// Dials while the breaker is open, and when the database has ended a connection that nobody
    /// used just then: it may have been restarted or replaced. Until cancelled. One task of the
    /// owner runs it.
    pub async fn run_probe(self, cancel: CancellationToken) {
        let mut health = self.watch_health();
        loop {
            let (due, standing) = {
                let core = self.core();
                (core.breaker.next_probe(), core.standing())
            };
            let far = Instant::now() + Duration::from_secs(3600);
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                // An error would mean that the sender is gone, and `self` holds it.
                _ = health.changed() => continue,
                generation = self.ended(standing) => {
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => return,
                        () = self.replace(generation) => continue,
                    }
                }
                () = sleep_until(due.unwrap_or(far)) => {}
            }
            if !self.begin_probe() {
                continue;
            }
            // Dropping a probe midway is safe: the breaker scheduled the next one already.
            tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                () = self.probe() => {}
            }
        }
    }

    /// Waits for the end of a connection; gives its generation.
    async fn ended(&self, standing: Option<(u64, D::Conn)>) -> u64 {
        match standing {
            Some((generation, conn)) => {
                self.shared.dialer.ended(conn).await;
                generation
            }
            None => std::future::pending().await,
        }
    }

    /// The database has ended a connection: another one shows what became of it. What that comes
    /// to is settled as for any call.
    async fn replace(&self, generation: u64) {
        {
            let mut core = self.core();
            if !core.drop_generation(generation) {
                return;
            }
            self.publish(&core);
        }
        tokio::time::sleep(REPLACE_WAIT.mul_f64(fastrand::f64())).await;
        if let Err(error) = self.call(|conn| self.shared.dialer.check(conn)).await {
            let error = error_text(&error);
            tracing::debug!(store = self.shared.name, %error, "the connection was ended");
        }
    }

    fn begin_probe(&self) -> bool {
        let mut core = self.core();
        let begun = core.breaker.begin_probe(Instant::now(), fastrand::f64());
        if begun {
            self.publish(&core);
        }
        begun
    }

    async fn probe(&self) {
        let Shared { name, dialer, budgets, .. } = &*self.shared;
        let budget = budgets.call;
        let attempt = async {
            let conn = dialer.dial().await?;
            dialer.check(conn.clone()).await?;
            Ok(conn)
        };
        let outcome =
            timeout(budget, attempt).await.unwrap_or(Err(StoreError::TimedOut { budget }));
        let now = Instant::now();
        let mut core = self.core();
        match outcome {
            Ok(conn) => {
                let (away, relapsed) = (Rounded(core.away(now)), core.breaker.has_relapsed());
                core.adopt(now, conn);
                // A database that answers probes and nothing else comes back again and again.
                if relapsed {
                    tracing::debug!(store = name, %away, "store answers again");
                } else {
                    tracing::info!(store = name, %away, "store is back");
                }
            }
            Err(error) if error.is_transient() => {
                dialer.lost(&error);
                core.breaker.on_failure(now, fastrand::f64(), error_text(&error));
                tracing::debug!(store = name, error = %error_text(&error), "probe failed");
            }
            Err(error) => {
                // The database is there and does not want us: calls must be told so.
                core.drop_all();
                core.breaker.on_probe_success(now);
                core.refused(now, error_text(&error));
                tracing::info!(store = name, error = %error_text(&error), "store is back, but refuses us");
            }
        }
        self.publish(&core);
    }

    async fn run<T, F, Fut>(&self, lane: Lane, budget: Duration, op: F) -> Result<T, StoreError>
    where
        F: FnOnce(D::Conn) -> Fut + Send,
        Fut: Future<Output = Result<T, StoreError>> + Send,
    {
        let lane = self.core().pick(lane);
        // Written by the attempt and read after it, also when it ran out of time.
        let generation = AtomicU64::new(0);
        let attempt = async {
            let conn = self.connection(lane, &generation).await?;
            op(conn).await
        };
        let outcome =
            timeout(budget, attempt).await.unwrap_or(Err(StoreError::TimedOut { budget }));
        self.settle(lane, generation.into_inner(), outcome.as_ref().err());
        outcome
    }

    /// The lane's connection: checked if it was quiet, dialled if there is none. Callers of one
    /// lane wait for one dial; if its caller goes away, the next one takes it over.
    async fn connection(&self, lane: usize, used: &AtomicU64) -> Result<D::Conn, StoreError> {
        loop {
            let (generation, cell, quiet) = {
                let core = self.core();
                let idle = core.is_quiet(lane, Instant::now());
                (core.generation(), core.cell(lane), idle)
            };
            used.store(generation, Ordering::Relaxed);
            let conn = cell.get_or_try_init(|| self.dial(lane, generation)).await?.clone();
            if !quiet {
                return Ok(conn);
            }
            match timeout(CHECK_BUDGET, self.shared.dialer.check(conn.clone())).await {
                Ok(Ok(())) => {
                    self.core().answered(lane, generation, Instant::now());
                    return Ok(conn);
                }
                Ok(Err(error)) if !error.is_transient() => return Ok(conn),
                Ok(Err(_)) | Err(_) => {
                    // It died unnoticed. That alone is no outage: dial a new one.
                    let mut core = self.core();
                    core.drop_generation(generation);
                    self.publish(&core);
                }
            }
        }
    }

    async fn dial(&self, lane: usize, generation: u64) -> Result<D::Conn, StoreError> {
        self.core().admit(Instant::now())?;
        let outcome = self.shared.dialer.dial().await;
        let now = Instant::now();
        let mut core = self.core();
        match &outcome {
            Ok(conn) => core.connected(lane, generation, now, conn),
            Err(StoreError::Refused(_)) => {
                let error = outcome.as_ref().err().map(|error| error_text(error));
                core.refused(now, error.unwrap_or_default());
            }
            Err(
                StoreError::TimedOut { .. }
                | StoreError::CoolingDown
                | StoreError::Unreachable(_)
                | StoreError::Unreadable { .. },
            ) => {}
        }
        self.publish(&core);
        outcome
    }

    /// Draws the consequences of an ended call.
    fn settle(&self, lane: usize, generation: u64, error: Option<&StoreError>) {
        let now = Instant::now();
        let mut core = self.core();
        match error {
            None => core.answered(lane, generation, now),
            Some(StoreError::CoolingDown) => {}
            Some(error) if error.is_transient() => {
                if core.drop_generation(generation) {
                    self.shared.dialer.lost(error);
                    let text = error_text(error);
                    if core.breaker.on_failure(now, fastrand::f64(), text.clone()) {
                        self.log_loss(&core, &text);
                    }
                    self.publish(&core);
                }
            }
            Some(error) => {
                core.answered(lane, generation, now);
                core.breaker.note(now, error_text(error));
                self.publish(&core);
            }
        }
    }

    fn log_loss(&self, core: &Core<D::Conn>, error: &str) {
        if core.breaker.has_relapsed() {
            tracing::debug!(store = self.shared.name, error, "store is away again");
        } else {
            tracing::info!(store = self.shared.name, error, "store is away");
        }
    }

    fn publish(&self, core: &Core<D::Conn>) {
        self.shared.health.send_replace(core.health());
    }

    fn core(&self) -> MutexGuard<'_, Core<D::Conn>> {
        // A panic of another thread leaves the fields as valid as before: each is set on its own.
        self.shared.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error and its causes in one line. Errors of this crate and of the clients carry no secrets.
fn error_text(error: &dyn std::error::Error) -> Arc<str> {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.into()
}

#[cfg(test)]
mod tests;
