//! One database behind deadlines and one breaker.
//!
//! Each call has a time budget that covers dialling and the request together. A time-out or
//! transport failure of a small call drops the connections and opens the breaker; while it is open,
//! calls are refused at once and only the probe dials ([`FailFast::run_probe`]). Calls
//! are not repeated here: a caller that wants a retry keeps its own queue. This module knows
//! nothing about specific databases or data.
//!
//! Bulk calls transfer whole data sets, which may take long on a slow connection:
//!
//! - A few are admitted at a time ([`Dialer::BULK_CALLS`]), the others wait in the order in which
//!   they arrived. An environment runs one call at a time, so the environment that has waited
//!   longest is next, and some data sets are complete early instead of all being complete late. The
//!   budget begins with the admission.
//! - An admitted call has its own connection, so that small calls do not wait behind a long answer,
//!   and the bytes on the connection measure this call's progress.
//! - A call that makes progress has no deadline: it must transfer a minimum of bytes in each
//!   budget.
//! - If a call is given up or its connection breaks, only that connection is dropped. Then a small
//!   call on the first connection decides whether the database is unavailable.
//! - Small calls may still wait behind bulk calls, in a network queue that all connections share.
//!   So a small call continues to wait while bulk calls receive bytes, up to [`LATE_LIMIT`]. After
//!   that the call has failed, but the database is not unavailable. The same limit applies to a
//!   bulk call that receives too little while small calls are late and other bulk calls receive
//!   bytes.
//!
//! Connections are shared handles ([`Dialer::Conn`] is `Clone`): a multiplexed Redis connection, an
//! HTTP client. So any number of small calls can wait at the same time without a lock held over
//! I/O, and a small call whose caller is dropped does not affect the connection.
//!
//! A connection that the database has ended is replaced silently. The identity of the database
//! ([`Dialer::identity`]) shows if it was restarted or replaced at that moment. Only if the
//! identity changed, or is not known, the new connection begins a new *epoch* ([`Health`]), in
//! which all stored data is in doubt.
//!
//! Invariant: all connections of one *generation* are dropped together, and a failure affects only
//! the generation in which it occurred. A hundred calls that time out on one dead connection are
//! one loss, and none of them reopens the breaker after the probe has closed it.

mod bulk;
mod core;
mod pace;
mod probe;
mod turn;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};

use self::core::Core;
pub use self::core::Health;
use self::pace::{Patience, Wait};
use super::{Meter, StoreError};

/// Budget of an ordinary call.
pub const CALL_BUDGET: Duration = Duration::from_secs(2);

/// Budget in which a call that transfers a whole data set must end, or make progress.
pub const BULK_BUDGET: Duration = Duration::from_secs(5);

/// Longest time that a call waits for its answer while bulk calls of the same database receive
/// bytes: the answer may wait behind those bytes, in a network queue that all connections share.
pub const LATE_LIMIT: Duration = Duration::from_secs(30);

/// Time without traffic after which a connection is checked before use: load balancers and
/// connection tracking drop idle connections without notice to either end.
pub const IDLE_LIMIT: Duration = Duration::from_secs(15);

/// Budget of that check. A quarter of a call's budget, so that a dead connection leaves time to
/// dial a new one within the same call.
pub const CHECK_BUDGET: Duration = Duration::from_millis(500);

/// Time for which a refusal of a dial (wrong password) is repeated to callers without dialling, so
/// that a hundred environments do not each dial.
pub const REFUSAL_MEMORY: Duration = Duration::from_secs(1);

/// Longest random wait before a connection that the database ended is replaced: relays do not all
/// dial at the same moment, and a database that ends each connection at once is not flooded.
pub const REPLACE_WAIT: Duration = Duration::from_millis(300);

/// Makes connections to one database.
pub trait Dialer: Send + Sync + 'static {
    /// A handle that may be cloned and used by many callers at once.
    type Conn: Clone + Send + Sync + 'static;

    /// Concurrent bulk calls. Few, because the more calls share a slow connection, the later they
    /// end; and more than one, because with a distant database a call spends most of its time
    /// waiting.
    const BULK_CALLS: usize = 4;

    /// True if each bulk call has its own connection. Otherwise bulk calls share the first
    /// connection: a client that opens the connections it needs.
    const BULK_ON_OWN_CONNECTIONS: bool = true;

    /// Connects and authenticates. The caller limits the time. `meter` counts the bytes of the
    /// connection from the first one on. A dialer that cannot count does not use it; then bulk
    /// calls count themselves ([`FailFast::metered`]) or must end within their budget.
    fn dial(&self, meter: &Meter) -> impl Future<Output = Result<Self::Conn, StoreError>> + Send;

    /// Sends a cheap request. An error that is not transient is an answer.
    fn check(&self, conn: Self::Conn) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The identity of the database that the connection leads to, which changes when the database
    /// is restarted or another one takes its place. `None` if it is not known.
    fn identity(
        &self,
        _conn: Self::Conn,
    ) -> impl Future<Output = Result<Option<String>, StoreError>> + Send {
        std::future::ready(Ok(None))
    }

    /// True if the database has ended the connection, if that is visible without a request.
    fn has_ended(&self, _conn: &Self::Conn) -> bool {
        false
    }

    /// True if the error is an answer of the database about its own state, such as that it loads
    /// its data. False if the error may concern only the connection.
    fn is_answer(&self, _error: &StoreError) -> bool {
        false
    }

    /// Waits until [`Dialer::has_ended`] is true. Cancel-safe.
    fn ended(&self, _conn: Self::Conn) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Called for each failure for which the connections are dropped.
    fn lost(&self, _error: &StoreError) {}
}

/// Time budgets of one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// For [`FailFast::call`] and for a probe.
    pub call: Duration,
    /// For [`FailFast::bulk`], from its admission on; progress renews it.
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
    admission: Semaphore,
    health: watch::Sender<Health>,
    connections: watch::Sender<u64>,
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

/// The lane of the connection for small calls.
const FIRST: usize = 0;

impl<D: Dialer> FailFast<D> {
    /// A database that is not dialled before the first call. `name` appears in log lines.
    pub fn new(name: &'static str, dialer: D, budgets: Budgets) -> Self {
        let own_connections = if D::BULK_ON_OWN_CONNECTIONS { D::BULK_CALLS } else { 0 };
        let core = Core::new(Instant::now(), own_connections);
        let health = watch::Sender::new(core.health());
        let (core, admission) = (Mutex::new(core), Semaphore::new(D::BULK_CALLS));
        let connections = watch::Sender::new(0);
        let shared = Shared { name, dialer, budgets, core, admission, health, connections };
        Self { shared: Arc::new(shared) }
    }

    /// The dialer, for callers that need their own connection.
    pub fn dialer(&self) -> &D {
        &self.shared.dialer
    }

    /// The time budgets of calls.
    pub fn budgets(&self) -> Budgets {
        self.shared.budgets
    }

    /// The current health.
    pub fn health(&self) -> Health {
        self.shared.health.borrow().clone()
    }

    /// The health and its changes. A borrowed value must not be kept across an `await`: calls that
    /// report a change wait until it is returned.
    pub fn watch_health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    /// The number of connections for small calls that were made so far. Unlike the epoch of the
    /// health, it also grows when a connection that the database ended is replaced.
    pub fn watch_connections(&self) -> watch::Receiver<u64> {
        self.shared.connections.subscribe()
    }

    /// Runs `op` on a connection within the ordinary budget.
    pub async fn call<T, F, Fut>(&self, op: F) -> Result<T, StoreError>
    where
        F: FnOnce(D::Conn) -> Fut + Send,
        Fut: Future<Output = Result<T, StoreError>> + Send,
    {
        let began = Instant::now();
        // Written by the attempt and read after it, even if it ran out of time.
        let generation = AtomicU64::new(0);
        let attempt = std::pin::pin!(self.attempt(FIRST, &generation, op));
        let (outcome, is_late) = self.patiently(attempt).await;
        let generation = generation.load(Ordering::Relaxed);
        match &outcome {
            Err(error) if is_late => self.settle_late(generation, began, error),
            Ok(_) | Err(_) => self.settle(FIRST, generation, outcome.as_ref().err()),
        }
        outcome
    }

    /// Waits for a small call or a probe: for its budget, and longer while bulk calls receive
    /// bytes. Also returns true if it ran out of time while they did.
    async fn patiently<T>(
        &self,
        mut attempt: Pin<&mut (impl Future<Output = Result<T, StoreError>> + Send)>,
    ) -> (Result<T, StoreError>, bool) {
        let arrived = || self.core().arrived();
        let budget = self.shared.budgets.call;
        let mut patience = Patience::new(budget, Instant::now(), arrived());
        loop {
            tokio::select! {
                biased;
                outcome = &mut attempt => {
                    // A client may have its own time-outs.
                    let is_timeout = matches!(outcome, Err(StoreError::TimedOut { .. }));
                    return (outcome, is_timeout && patience.is_busy(arrived()));
                }
                () = sleep_until(patience.deadline()) => {}
            }
            match patience.observe(Instant::now(), arrived()) {
                Wait::Longer => {}
                Wait::Late => return (Err(StoreError::TimedOut { budget: LATE_LIMIT }), true),
                Wait::Lost => return (Err(StoreError::TimedOut { budget }), false),
            }
        }
    }

    /// Drops the connections and a remembered refusal, because the settings changed (a new
    /// password). The next call dials; running calls finish on the old connections.
    pub fn reconnect(&self) {
        let mut core = self.core();
        core.drop_all();
        core.forget_refusal();
        self.publish(&core);
    }

    /// Runs `op` on the lane's connection, and stores its generation in `generation`.
    async fn attempt<T, F, Fut>(
        &self,
        lane: usize,
        generation: &AtomicU64,
        op: F,
    ) -> Result<T, StoreError>
    where
        F: FnOnce(D::Conn) -> Fut + Send,
        Fut: Future<Output = Result<T, StoreError>> + Send,
    {
        let conn = self.connection(lane, generation).await?;
        op(conn).await
    }

    /// The lane's connection: checked if it was idle, dialled if there is none. Callers of one lane
    /// wait for one dial; if its caller is dropped, the next one continues with a new dial.
    async fn connection(&self, lane: usize, used: &AtomicU64) -> Result<D::Conn, StoreError> {
        loop {
            let (generation, cell, quiet) = {
                let core = self.core();
                let idle = core.is_quiet(lane, Instant::now());
                (core.generation(), core.cell(lane), idle)
            };
            used.store(generation, Ordering::Relaxed);
            let known = cell.get().cloned();
            if known.is_some_and(|conn| self.shared.dialer.has_ended(&conn)) {
                let mut core = self.core();
                core.connection_ended(lane, generation);
                self.publish(&core);
                continue;
            }
            let conn = cell.get_or_try_init(|| self.dial(lane, generation)).await?.clone();
            if !quiet {
                return Ok(conn);
            }
            let arrived = self.core().arrived();
            match timeout(CHECK_BUDGET, self.shared.dialer.check(conn.clone())).await {
                Ok(Ok(())) => {
                    self.core().answered(lane, generation, Instant::now());
                    return Ok(conn);
                }
                Ok(Err(error)) if !error.is_transient() => return Ok(conn),
                Ok(Err(_)) | Err(_) => {
                    // The connection may have died unnoticed. That alone is no outage: dial a new
                    // one.
                    let mut core = self.core();
                    let is_busy = core.arrived() > arrived;
                    core.was_mute(lane, generation, Instant::now(), is_busy);
                    self.publish(&core);
                }
            }
        }
    }

    async fn dial(&self, lane: usize, generation: u64) -> Result<D::Conn, StoreError> {
        self.core().admit(Instant::now())?;
        let meter = self.core().meter(lane);
        let outcome = self.shared.dialer.dial(&meter).await;
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
                | StoreError::Away(_)
                | StoreError::Unreachable(_)
                | StoreError::Unreadable { .. },
            ) => {}
        }
        self.publish(&core);
        outcome
    }

    /// Handles the outcome of a call.
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

    /// Handles a small call that ran out of time behind bulk calls.
    fn settle_late(&self, generation: u64, began: Instant, error: &StoreError) {
        let text = error_text(error);
        tracing::debug!(store = self.shared.name, error = %text, "a small call came too late");
        let mut core = self.core();
        core.was_late(generation, began, Instant::now(), text);
        self.publish(&core);
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
        self.shared.connections.send_if_modified(|connections| {
            std::mem::replace(connections, core.connections()) != core.connections()
        });
    }

    fn core(&self) -> MutexGuard<'_, Core<D::Conn>> {
        // A panic of another thread leaves the fields valid: each is set separately.
        self.shared.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error and its causes on one line. Errors of this crate and of the clients contain no secrets.
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
