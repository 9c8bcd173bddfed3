//! Calls that transfer whole data sets: their time limit, and the effect of their failure.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::time::{Instant, sleep_until};

use super::pace::{Pace, Progress};
use super::{Dialer, FailFast, Shared, error_text};
use crate::storage::{Meter, StoreError};

impl<D: Dialer> FailFast<D> {
    /// Runs `op`, which transfers much data, when its turn comes, on its own connection.
    pub async fn bulk<T, F, Fut>(&self, op: F) -> Result<T, StoreError>
    where
        F: FnOnce(D::Conn) -> Fut + Send,
        Fut: Future<Output = Result<T, StoreError>> + Send,
    {
        self.metered(|conn, _meter| op(conn)).await
    }

    /// The same, for an `op` that transfers bytes outside of its connection: bytes that it counts
    /// with the meter are also progress of the call.
    pub async fn metered<T, F, Fut>(&self, op: F) -> Result<T, StoreError>
    where
        F: FnOnce(D::Conn, Meter) -> Fut + Send,
        Fut: Future<Output = Result<T, StoreError>> + Send,
    {
        let turn = self.turn().await?;
        let (lane, generation) = (turn.lane(), AtomicU64::new(0));
        let metered = |conn| op(conn, turn.meter().clone());
        // Boxed, because such a call may also be a large future.
        let attempt = Box::pin(self.attempt(lane, &generation, metered));
        let outcome = self.paced(turn.meter(), attempt).await;
        let generation = generation.into_inner();
        let lost = outcome.as_ref().err().filter(|error| self.is_loss(error));
        if let Some(error) = lost {
            // Dropping the turn also drops its connection.
            drop(turn);
            let error = error_text(error);
            tracing::debug!(store = self.shared.name, %error, "a bulk call failed");
            self.ask_whether_away(generation, error).await;
        } else {
            turn.finish();
            self.settle(lane, generation, outcome.as_ref().err());
        }
        outcome
    }

    /// Waits for a bulk call as long as it makes progress. If it is silent for the budget of a
    /// small call, the database is checked, so that an outage is noticed as soon as by small calls.
    async fn paced<T>(
        &self,
        meter: &Meter,
        attempt: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let Shared { budgets, dialer, .. } = &*self.shared;
        let given_up = Err(StoreError::TimedOut { budget: budgets.bulk });
        let arrived = || self.core().arrived();
        let mut pace = Pace::new(*budgets, Instant::now(), meter.total(), arrived());
        let mut is_looked_into = false;
        let mut attempt = std::pin::pin!(attempt);
        loop {
            tokio::select! {
                biased;
                outcome = &mut attempt => return outcome,
                () = sleep_until(pace.next(Instant::now())) => {}
            }
            let progress = pace.observe(Instant::now(), meter.total(), arrived());
            match progress {
                Progress::Enough => {
                    is_looked_into = false;
                    continue;
                }
                Progress::Silent if is_looked_into => {
                    // Another call may have noticed meanwhile that the database is unavailable.
                    if !self.core().breaker.admits() {
                        return given_up;
                    }
                    continue;
                }
                Progress::Silent | Progress::TooLittle => {}
            }
            let begun = Instant::now();
            tokio::select! {
                biased;
                outcome = &mut attempt => return outcome,
                asked = Box::pin(self.call(|conn| dialer.check(conn))) => {
                    if asked.is_err_and(|error| error.is_transient()) {
                        return given_up;
                    }
                    is_looked_into = true;
                }
            }
            let now = Instant::now();
            let is_spent = pace.observe(now, meter.total(), arrived()) == Progress::TooLittle;
            if is_spent && !pace.excuse(now, now - begun, arrived()) {
                return given_up;
            }
        }
    }

    /// True if a bulk call probably failed because of its connection.
    fn is_loss(&self, error: &StoreError) -> bool {
        match error {
            StoreError::TimedOut { .. } | StoreError::Unreachable(_) => {
                !self.shared.dialer.is_answer(error)
            }
            StoreError::CoolingDown
            | StoreError::Away(_)
            | StoreError::Refused(_)
            | StoreError::Unreadable { .. } => false,
        }
    }

    /// Checks the database with a small call, after a bulk call has failed on its own connection.
    /// If that fails too, it opens the breaker.
    async fn ask_whether_away(&self, generation: u64, error: Arc<str>) {
        {
            let mut core = self.core();
            if core.generation() != generation {
                return;
            }
            core.breaker.note(Instant::now(), error);
            self.publish(&core);
        }
        let asked = Box::pin(self.call(|conn| self.shared.dialer.check(conn)));
        if let Err(error) = asked.await {
            let error = error_text(&error);
            tracing::debug!(store = self.shared.name, %error, "small calls fail too");
        }
    }
}
