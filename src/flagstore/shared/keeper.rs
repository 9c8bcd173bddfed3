//! The task of one environment's shared store: reads it while upstream is not live, and keeps it
//! equal to what LaunchDarkly said.
//!
//! Each visit is idempotent and may be dropped at any moment: what it did not write is still
//! known to be missing. Whether the database may be dialled is not decided here; while its breaker
//! is open a visit fails at once, and the database's return ends the pause.

mod telling;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::SharedRead;
use super::orders::{Orders, Task, Waiting};
use super::reconcile::{Authority, Decision, Doubts, decide};
use super::schedule::{Due, HERD_WAIT, Reason, Schedule, Timing};
use crate::flagstore::backend::{
    Condition, Correction, Filled, FlagBackend, Look, Marker, ROWS_MAX, Row, StoredRows, Upserted,
    chunks,
};
use crate::flagstore::layout;
use crate::model::DataSet;
use crate::storage::{Health, StoreError};

/// So many items are put into their order at once.
const FEW_ITEMS: usize = 100;

/// Bound on the last write before the end of the process.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// The task.
#[derive(Debug)]
pub(super) struct Keeper<B> {
    backend: B,
    orders: Orders,
    reads: mpsc::Sender<SharedRead>,
    health: watch::Receiver<Health>,
    schedule: Schedule,
    /// The count of connections at the last visit that got an answer: a new one may lead to a
    /// database that lost its data.
    seen_epoch: u64,
    known: Known,
    doubts: Doubts,
    was_live: bool,
    complained: Option<String>,
}

/// What the last visits showed of the store, to tell a loss by.
#[derive(Debug, Default)]
struct Known {
    marker: Option<Marker>,
    server: Option<Arc<str>>,
    /// Whether it once held what it should.
    complete: bool,
}

impl<B: FlagBackend> Keeper<B> {
    pub(super) fn new(
        backend: B,
        timing: Timing,
        orders: Orders,
        reads: mpsc::Sender<SharedRead>,
        health: watch::Receiver<Health>,
    ) -> Self {
        Self {
            backend,
            orders,
            reads,
            health,
            schedule: Schedule::new(timing, Instant::now()),
            seen_epoch: 0,
            known: Known::default(),
            doubts: Doubts::default(),
            was_live: false,
            complained: None,
        }
    }

    /// Runs until it is told to stop.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        // Dropped at any await: visits are idempotent.
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = self.keep() => return,
        }
        self.last_write().await;
    }

    /// Writes what waits once more before the end.
    async fn last_write(&mut self) {
        let Waiting { put, dirty, .. } = self.orders.waiting();
        if !put && !dirty {
            return;
        }
        let write =
            async { if put { self.compare(Reason::Put).await } else { self.flush().await } };
        if !matches!(tokio::time::timeout(LAST_WRITE_TIMEOUT, write).await, Ok(Ok(()))) {
            tracing::warn!("the last changes could not be written to the shared flag store");
        }
    }

    async fn keep(&mut self) {
        loop {
            let due = match self.schedule.next() {
                Some((at, due)) => tokio::select! {
                    biased;
                    () = self.orders.changed() => None,
                    () = new_connection(&mut self.health, self.seen_epoch) => None,
                    () = tokio::time::sleep_until(at) => Some(due),
                },
                None => tokio::select! {
                    () = self.orders.changed() => None,
                    () = new_connection(&mut self.health, self.seen_epoch) => None,
                },
            };
            match due {
                None => self.take_note(),
                Some(due) => self.visit(due).await,
            }
            self.report_waiting();
        }
    }

    /// Something was told, or the database has a new connection.
    fn take_note(&mut self) {
        let now = Instant::now();
        let epoch = self.health.borrow_and_update().connected_epoch;
        if epoch != self.seen_epoch {
            self.seen_epoch = epoch;
            self.schedule.reconnected(now, fastrand::f64());
        }
        let Waiting { put, dirty, live } = self.orders.waiting();
        if put {
            self.schedule.compare(now, Reason::Put);
        }
        if dirty && !put {
            self.schedule.flush(now);
        }
        if self.was_live && !live {
            self.schedule.compared(now, fastrand::f64(), false, false);
        }
        self.was_live = live;
    }

    async fn visit(&mut self, due: Due) {
        let outcome = match due {
            Due::Compare(reason) => self.compare(reason).await,
            Due::Flush => self.flush().await,
            Due::Look => self.look().await,
        };
        match outcome {
            Ok(()) => {
                // The answer came over the newest connection.
                self.seen_epoch = self.health.borrow_and_update().connected_epoch;
            }
            Err(error) => {
                self.failed(&error).await;
                self.schedule.failed(Instant::now(), fastrand::f64(), due);
            }
        }
    }

    /// Reads everything, tells of it, and writes what is lacking.
    async fn compare(&mut self, reason: Reason) -> Result<(), StoreError> {
        let task = self.orders.task();
        let outcome = self.compare_with(&task, reason).await?;
        let live = task.authority != Authority::Provisional;
        let (now, doubts) = (Instant::now(), !self.doubts.is_empty());
        self.schedule.compared(now, fastrand::f64(), live, doubts);
        if let Compared::Overtaken(reason) = outcome {
            self.schedule.compare(now + HERD_WAIT, reason);
            return Ok(());
        }
        if let (Compared::InOrder, Some(data)) = (&outcome, &task.data) {
            let dirty = self.orders.dirty();
            let items = dirty.iter().filter_map(|key| Some((key, data.item(key)?.version)));
            self.orders.stored(items);
        }
        self.orders.compared(task.authority);
        if self.orders.waiting().dirty && self.known.marker.is_some() {
            // What a relay accepted while it was live, it may write into a store that is whole.
            self.schedule.flush(now);
        }
        self.succeeded();
        if live {
            self.in_order();
        }
        Ok(())
    }

    async fn compare_with(&mut self, task: &Task, reason: Reason) -> Result<Compared, StoreError> {
        let put = self.orders.waiting().put;
        let stored = self.backend.read().await?;
        self.tell(&stored, task).await;
        self.known.marker.clone_from(&stored.marker);
        let Some(data) = &task.data else { return Ok(Compared::Left) };
        let decision = decide(&stored, data, task.authority, &mut self.doubts, Instant::now());
        self.report_left(&decision);
        let reason = match (reason, &stored.marker) {
            (Reason::MarkerMissing, Some(_)) => Reason::MarkerChanged,
            (reason, _) => reason,
        };
        let (written, outcome) = if decision.fill {
            self.fill(data, reason).await?
        } else {
            self.carry_out(&stored, data, &decision).await?
        };
        // The first time it lost nothing, and what a put changes is no loss.
        if written > 0 && self.known.complete && (decision.fill || !put) {
            self.repopulated(reason, written);
        }
        self.known.complete |= self.known.marker.is_some();
        // A relay that is not live writes nothing but what it fills.
        let is_left = task.authority == Authority::Provisional && !decision.fill;
        Ok(if is_left { Compared::Left } else { outcome })
    }

    /// Writes everything into an empty store; tells how many items that were.
    async fn fill(
        &mut self,
        data: &Arc<DataSet>,
        reason: Reason,
    ) -> Result<(u64, Compared), StoreError> {
        let overtaken = (0, Compared::Overtaken(Reason::MarkerChanged));
        let rows = ordered(data.clone()).await;
        // After a new connection it has waited before it compared.
        if reason.is_seen_by_all() && reason != Reason::Reconnected {
            tokio::time::sleep(HERD_WAIT.mul_f64(fastrand::f64())).await;
        }
        match self.backend.fill(&rows).await? {
            Filled::Done => {
                self.known.marker = self.backend.look().await?.marker;
                return Ok((rows.len() as u64, Compared::InOrder));
            }
            Filled::NotEmpty => {
                tracing::debug!("somebody else has filled the store; comparing with it");
                return Ok(overtaken);
            }
            Filled::Impossible => {}
        }
        // One more look, because somebody may have been faster by the random wait.
        if self.backend.look().await?.marker.is_some() {
            return Ok(overtaken);
        }
        let written = self.upsert(&rows, Condition::Always).await?.written;
        self.known.marker = Some(self.backend.mark().await?);
        Ok((written, Compared::InOrder))
    }

    /// Writes and corrects what was decided; tells how many items that were.
    async fn carry_out(
        &mut self,
        stored: &StoredRows,
        data: &Arc<DataSet>,
        decision: &Decision,
    ) -> Result<(u64, Compared), StoreError> {
        let mut written = 0;
        if !decision.upserts.is_empty() {
            let mut rows = ordered(data.clone()).await;
            rows.retain(|row| decision.upserts.contains(&row.key));
            // A store that was wiped out since it was read is filled, not given a few items.
            let condition = stored.marker.as_ref().map_or(Condition::Always, Condition::Marked);
            let upserts = self.upsert(&rows, condition).await?;
            written = upserts.written;
            if upserts.unmarked {
                return Ok((written, Compared::Overtaken(Reason::MarkerMissing)));
            }
        }
        written += self.correct(stored, data, &decision.corrections).await?;
        if !decision.mark {
            return Ok((written, Compared::InOrder));
        }
        self.known.marker = Some(self.backend.mark().await?);
        // Whoever removed the marker may have been about to remove the rest.
        Ok((written, Compared::Overtaken(Reason::MarkerChanged)))
    }

    /// Replaces or removes the stored rows at these places; tells how many that were.
    async fn correct(
        &self,
        stored: &StoredRows,
        data: &DataSet,
        places: &[usize],
    ) -> Result<u64, StoreError> {
        let mut written = 0;
        let corrections: Vec<Correction> = places
            .iter()
            .map(|&place| {
                let found = stored.rows[place].clone();
                let wanted = data.item(&found.key).map(|item| layout::row(&found.key, item));
                Correction { found, wanted }
            })
            .collect();
        for chunk in corrections.chunks(ROWS_MAX) {
            let corrected = self.backend.correct(chunk).await?;
            written += corrected.into_iter().filter(|corrected| *corrected).count() as u64;
        }
        if written > 0 {
            tracing::warn!(
                items = written,
                "the shared flag store held items that LaunchDarkly does not have, or newer than \
                 it has; they were corrected"
            );
        }
        Ok(written)
    }

    /// Writes the items that changed.
    async fn flush(&mut self) -> Result<(), StoreError> {
        let Task { data: Some(data), .. } = self.orders.task() else { return Ok(()) };
        let keys = self.orders.dirty();
        let row = |key| Some(layout::row(key, data.item(key)?));
        let rows: Vec<Row> = keys.iter().filter_map(row).collect();
        let is_marked = match &self.known.marker {
            Some(marker) => !self.upsert(&rows, Condition::Marked(marker)).await?.unmarked,
            None => false,
        };
        self.schedule.flushed();
        if !is_marked {
            // The store has lost its data, or somebody else has refilled it: it is not known what
            // else it lacks.
            self.schedule.compare(Instant::now(), Reason::MarkerMissing);
        } else {
            self.orders.stored(rows.iter().map(|row| (&row.key, row.version)));
            self.succeeded();
            self.in_order();
        }
        Ok(())
    }

    async fn upsert(&self, rows: &[Row], condition: Condition<'_>) -> Result<Upserts, StoreError> {
        let mut upserts = Upserts::default();
        for chunk in chunks(rows) {
            let outcomes = self.backend.upsert(chunk, condition).await?;
            for (row, outcome) in chunk.iter().zip(outcomes) {
                match outcome {
                    Upserted::Written => upserts.written += 1,
                    Upserted::NotNewer => {}
                    Upserted::NoMarker => upserts.unmarked = true,
                    Upserted::TooLarge => {
                        self.dropped(row);
                        continue;
                    }
                }
                self.orders.report().update(|report| {
                    report.dropped.remove(&row.key);
                });
            }
        }
        Ok(upserts)
    }

    /// Looks for signs of a loss.
    async fn look(&mut self) -> Result<(), StoreError> {
        let found = self.backend.look().await?;
        let now = Instant::now();
        self.schedule.looked(now, fastrand::f64());
        let loss = self.loss(&found);
        self.known.server = found.server.or(self.known.server.take());
        if let Some(reason) = loss {
            tracing::debug!(reason = reason.as_str(), "comparing the shared flag store");
            self.schedule.compare(now, reason);
        }
        Ok(())
    }

    fn loss(&self, found: &Look) -> Option<Reason> {
        let data = self.orders.task().data;
        if found.marker.is_none() {
            // Without data there is nothing to repair, and a reading finds what there is.
            return Some(Reason::MarkerMissing);
        }
        if found.marker != self.known.marker {
            return Some(Reason::MarkerChanged);
        }
        if let (Some(before), Some(now)) = (&self.known.server, &found.server)
            && before != now
        {
            return Some(Reason::ServerChanged);
        }
        let (counts, data) = (found.counts?, data?);
        let live = |items: &crate::model::ItemMap| {
            items.iter().filter(|(_, item)| !item.is_tombstone()).count() as u64
        };
        let dropped = self.orders.report().get().dropped.len() as u64;
        let is_short = counts.flags + dropped < live(&data.flags)
            || counts.segments + dropped < live(&data.segments);
        is_short.then_some(Reason::ItemsMissing)
    }
}

/// How a comparison ended.
#[derive(Debug)]
enum Compared {
    /// The store holds what is served.
    InOrder,
    /// It may not, and this relay leaves it as it is.
    Left,
    /// Somebody else changed it meanwhile: it is to be compared again, for that reason.
    Overtaken(Reason),
}

/// How a list of rows was written.
#[derive(Debug, Default)]
struct Upserts {
    written: u64,
    unmarked: bool,
}

/// Waits until the database has another connection than at the last visit. Cancel-safe.
async fn new_connection(health: &mut watch::Receiver<Health>, seen: u64) {
    let changed = health.wait_for(|health| health.connected_epoch != seen).await.is_ok();
    if !changed {
        // The database's owner is gone; so is this task soon.
        std::future::pending::<()>().await;
    }
}

/// The rows of a data set, in their order. For many it takes a millisecond per megabyte, and is
/// done beside the runtime's threads.
async fn ordered(data: Arc<DataSet>) -> Vec<Row> {
    if data.len() <= FEW_ITEMS {
        return layout::ordered(&data);
    }
    match tokio::task::spawn_blocking(move || layout::ordered(&data)).await {
        Ok(rows) => rows,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
