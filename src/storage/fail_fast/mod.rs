//! One database behind deadlines and one breaker.
//!
//! Each call gets a time budget that covers dialling and asking together. A timeout or transport
//! failure of a small call costs the connections and opens the breaker; while it is open, calls
//! are refused at once and only the probe dials ([`FailFast::run_probe`], design D23). Nothing is
//! repeated here: a caller that wants a retry has a queue. This module knows no database and no
//! data.
//!
//! Bulk calls move whole data sets, which may take long over a slow line (design D45):
//!
//! - A few are admitted at a time ([`Dialer::BULK_CALLS`]), the others wait in the order in which
//!   they came. An environment has one call under way, so the environment that has waited longest
//!   is next, and the first data sets are complete early instead of all being complete late. The
//!   budget begins with the admission.
//! - An admitted call has a connection for itself, so that small calls do not stand behind a long
//!   answer, and so that the bytes on the connection are this call's progress.
//! - A call that makes progress has no deadline: it must move so many bytes in each budget.
//! - A call that is given up, or whose connection breaks, costs that connection only. Then a small
//!   call on the first connection decides whether the database is away.
//! - Small calls may stand behind bulk calls all the same, in a queue on the way that all
//!   connections share. So a small call waits on while bulk calls receive bytes, up to
//!   [`LATE_LIMIT`]. If that is not enough, the call has failed, and the database is not away.
//!   The same limit holds for a bulk call that gets too little while small calls are late and
//!   other bulk calls receive bytes.
//!
//! Connections are shared handles ([`Dialer::Conn`] is `Clone`): a multiplexed Redis connection,
//! an HTTP client. That lets any number of small calls wait at the same time without a lock held
//! over I/O, and the caller of a small call that goes away takes nothing with it.
//!
//! A connection that the database has ended is replaced without a word. Whether the database was
//! restarted or replaced at that moment is told by its identity ([`Dialer::identity`]); only if
//! that changed, or is not known, is the new connection a new *epoch* ([`Health`]), in which
//! everything stored is in doubt.
//!
//! Invariant: all connections of one *generation* are dropped together, and a failure counts only
//! against the generation it was seen on. A hundred calls that time out on one dead connection
//! are one loss, and none of them reopens the breaker after the probe has closed it.

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

/// Budget of an ordinary call (stores.md 4.3: the socket timeout that proved itself).
pub const CALL_BUDGET: Duration = Duration::from_secs(2);

/// Budget in which a call that moves a whole data set must end, or make progress.
pub const BULK_BUDGET: Duration = Duration::from_secs(5);

/// Longest time that a call waits for its answer while bulk calls of the same database receive
/// bytes: what they move may stand before the answer, in a queue on the way that all connections
/// share.
pub const LATE_LIMIT: Duration = Duration::from_secs(30);

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

    /// Bulk calls under way at a time. Few, because calls that share a slow line end later the
    /// more of them there are; and more than one, because a database that is far away leaves most
    /// of the time of a call unused.
    const BULK_CALLS: usize = 4;

    /// Whether each bulk call has a connection of its own. Otherwise bulk calls share the first
    /// connection: a client that itself opens what it needs.
    const BULK_ON_OWN_CONNECTIONS: bool = true;

    /// Connects and authenticates. The caller keeps the time. What the connection moves from the
    /// first byte on is counted by `meter`. A dialer that cannot count leaves it alone; then bulk
    /// calls count for themselves ([`FailFast::metered`]) or must end within their budget.
    fn dial(&self, meter: &Meter) -> impl Future<Output = Result<Self::Conn, StoreError>> + Send;

    /// Asks something cheap. An error that is not transient counts as an answer.
    fn check(&self, conn: Self::Conn) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The identity of the database that the connection leads to, which changes when the database
    /// is restarted or another one takes its place. `None` if it is not known.
    fn identity(
        &self,
        _conn: Self::Conn,
    ) -> impl Future<Output = Result<Option<String>, StoreError>> + Send {
        std::future::ready(Ok(None))
    }

    /// Whether the database has ended the connection, where that shows while nobody asks anything.
    fn has_ended(&self, _conn: &Self::Conn) -> bool {
        false
    }

    /// True if the error is an answer of the database about its own state, such as that it loads
    /// its data. False if the error may be the connection's alone.
    fn is_answer(&self, _error: &StoreError) -> bool {
        false
    }

    /// Waits until [`Dialer::has_ended`] is true. Cancel-safe.
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
    /// For [`FailFast::bulk`], from its admission on; renewed by progress.
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

/// The place of the connection of small calls among all connections.
const FIRST: usize = 0;

impl<D: Dialer> FailFast<D> {
    /// A database that is not dialled before the first call. `name` stands in log lines.
    pub fn new(name: &'static str, dialer: D, budgets: Budgets) -> Self {
        let own_connections = if D::BULK_ON_OWN_CONNECTIONS { D::BULK_CALLS } else { 0 };
        let core = Core::new(Instant::now(), own_connections);
        let health = watch::Sender::new(core.health());
        let (core, admission) = (Mutex::new(core), Semaphore::new(D::BULK_CALLS));
        let connections = watch::Sender::new(0);
        let shared = Shared { name, dialer, budgets, core, admission, health, connections };
        Self { shared: Arc::new(shared) }
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

    /// The number of connections for small calls that were made so far. It also grows where the
    /// epoch of the health does not: when a connection that was ended is replaced.
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
        // Written by the attempt and read after it, also when it ran out of time.
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

    /// Waits for a small call or a probe: for its budget, and on as long as bulk calls receive
    /// bytes. Says also whether it ran out of time while they did.
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
                    // A client may have times of its own.
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

    /// Drops the connections and forgets a refusal, because the settings changed (a new
    /// password). The next call dials; calls in flight finish on the old connections.
    pub fn reconnect(&self) {
        let mut core = self.core();
        core.drop_all();
        core.forget_refusal();
        self.publish(&core);
    }

    /// Runs `op` on the lane's connection, and notes of which generation that is.
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
                    // It may have died unnoticed. That alone is no outage: dial a new one.
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

    /// Draws the consequences of a small call that ran out of time behind bulk calls.
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
