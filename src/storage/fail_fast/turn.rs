//! The turn of a bulk call: its admission, and its exclusive connection.

use tokio::sync::{SemaphorePermit, watch};

use super::{Dialer, FIRST, FailFast, Health};
use crate::storage::{BreakerState, Meter, StoreError};

/// A turn. A call that is dropped midway, or given up, leaves a connection on which an answer may
/// still arrive, so a turn that was not finished drops its connection.
pub(super) struct Turn<'a, D: Dialer> {
    database: &'a FailFast<D>,
    lane: usize,
    meter: Meter,
    is_finished: bool,
    /// Dropped last, so that the lane is free when the next call is admitted.
    _permit: SemaphorePermit<'a>,
}

impl<D: Dialer> FailFast<D> {
    /// Waits for a turn, in the order of the calls; refused while the database is unavailable.
    pub(super) async fn turn(&self) -> Result<Turn<'_, D>, StoreError> {
        let mut health = self.watch_health();
        let permit = tokio::select! {
            biased;
            () = away(&mut health) => return Err(StoreError::CoolingDown),
            permit = self.shared.admission.acquire() => permit,
        };
        let Ok(permit) = permit else { return Err(StoreError::CoolingDown) };
        let mut core = self.core();
        let lane = core.take_lane();
        // On a shared connection, only bytes that the call itself counts are its progress.
        let meter = if lane == FIRST { core.bulk_meter() } else { core.meter(lane) };
        Ok(Turn { database: self, lane, meter, is_finished: false, _permit: permit })
    }
}

/// Waits until the database is unavailable.
async fn away(health: &mut watch::Receiver<Health>) {
    // An error would mean that the sender was dropped, but the caller holds it.
    let _ = health.wait_for(|health| health.state != BreakerState::Closed).await;
}

impl<D: Dialer> Turn<'_, D> {
    /// The lane of its connection.
    pub(super) fn lane(&self) -> usize {
        self.lane
    }

    /// The meter of the call's bytes.
    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Ends the turn after an answer: the next call uses the connection.
    pub(super) fn finish(mut self) {
        self.is_finished = true;
    }
}

impl<D: Dialer> Drop for Turn<'_, D> {
    fn drop(&mut self) {
        self.database.core().give_back(self.lane, self.is_finished);
    }
}
