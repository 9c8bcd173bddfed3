//! The task of one environment's shared store: reads it while upstream is not live, and keeps it
//! equal to what LaunchDarkly said.
//!
//! Each visit is idempotent and may be dropped at any moment: what it did not write is still
//! known to be missing. Whether the database may be dialled is not decided here; while its breaker
//! is open a visit fails at once, and the database's return ends the pause.

mod telling;
mod writing;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::SharedRead;
use super::orders::{Orders, Task, Waiting};
use super::reconcile::{Authority, Decision, Doubts, decide};
use super::schedule::{Due, HERD_WAIT, Reason, Schedule, Timing};
use crate::flagstore::backend::{FlagBackend, Look, StoredRows};
use crate::flagstore::marker::{Identity, Marker};
use crate::model::{DataSet, ItemKey};
use crate::storage::{Health, StoreError};
use crate::tasks::beside;

/// So many items are handled on the spot.
const FEW_ITEMS: usize = 100;

/// Bound on the last write before the end of the process.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// A live relay confirms the age of the stored set when its marker tells an older time than this.
const CONFIRMATION_AGE: Duration = Duration::from_secs(300);

/// The task.
#[derive(Debug)]
pub(super) struct Keeper<B> {
    backend: B,
    /// The environment whose data this is, if its ID is known.
    identity: Option<Identity>,
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
    /// True once a marker was seen: from then on an empty store is a loss.
    complete: bool,
    /// True once everything that LaunchDarkly said was found or written: from then on an item
    /// that is missing is a loss.
    verified: bool,
    /// True if the last comparison could read the store.
    was_read: bool,
    /// True if the last comparison left something in place of what LaunchDarkly says, until it is
    /// certain that no relay knows better.
    unsettled: bool,
    /// True if the store refused a write since the last comparison that ended well: it may lack
    /// more than that by the time it takes writes again.
    unwritten: bool,
}

impl<B: FlagBackend> Keeper<B> {
    pub(super) fn new(
        backend: B,
        identity: Option<Identity>,
        timing: Timing,
        orders: Orders,
        reads: mpsc::Sender<SharedRead>,
        health: watch::Receiver<Health>,
    ) -> Self {
        Self {
            backend,
            identity,
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
        let Waiting { put, dirty, live } = self.orders.waiting();
        if !put && !dirty {
            return;
        }
        let write =
            async { if put { self.compare(Reason::Put).await } else { self.flush().await } };
        // Without LaunchDarkly nothing is written, so that nothing newer is overwritten.
        let is_written =
            live && matches!(tokio::time::timeout(LAST_WRITE_TIMEOUT, write).await, Ok(Ok(())));
        if !is_written {
            tracing::warn!(
                "the last changes could not be written to the shared flag store; a relay that is \
                 connected to LaunchDarkly will write them"
            );
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
        if dirty && !put && live {
            self.schedule.flush(now);
        }
        if self.was_live && !live {
            self.doubts.clear();
            self.known.unsettled = false;
            self.schedule.not_live(now, fastrand::f64());
        }
        self.was_live = live;
    }

    async fn visit(&mut self, due: Due) {
        if due == Due::Compare(Reason::SecondLook) && !self.is_second_look_ripe() {
            return self.schedule.look_later(Instant::now());
        }
        // Noted before the visit: a connection that is made during it may lead to another
        // database than the one that answered first.
        let epoch = self.health.borrow_and_update().connected_epoch;
        let outcome = match due {
            Due::Compare(reason) => self.compare(reason).await,
            Due::Flush => self.flush().await,
            Due::Look => self.look().await,
            Due::Verify => self.verify().await,
        };
        match outcome {
            // The first connection of all is made by the visit itself.
            Ok(()) if epoch == 0 => {
                self.seen_epoch = self.health.borrow_and_update().connected_epoch.min(1);
            }
            Ok(()) => self.seen_epoch = epoch,
            Err(error) => {
                self.failed(&error).await;
                let takes_no_writes = matches!(error, StoreError::Refused(_))
                    && (due == Due::Flush || self.known.was_read)
                    && self.orders.waiting().dirty;
                if takes_no_writes {
                    self.known.unwritten = true;
                    self.schedule.refused(Instant::now(), fastrand::f64());
                } else {
                    self.schedule.failed(Instant::now(), fastrand::f64(), due);
                }
            }
        }
    }

    fn is_second_look_ripe(&self) -> bool {
        match self.orders.task().authority {
            Authority::Live { heard_at, .. } => self.doubts.are_ripe(heard_at, Instant::now()),
            Authority::Provisional => true,
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
        let contended = match outcome {
            Compared::Contended(keys) => Some(keys),
            Compared::InOrder => Some(BTreeSet::new()),
            Compared::Left | Compared::Overtaken(_) => None,
        };
        if let (Some(contended), Some(data)) = (&contended, &task.data) {
            let dirty = self.orders.dirty();
            let written = dirty.difference(contended);
            self.orders.stored(written.filter_map(|key| Some((key, data.item(key)?.version))));
        }
        self.orders.compared(task.authority);
        let contended = contended.unwrap_or_default().len();
        if contended > 0 {
            self.contended(contended);
            return Ok(());
        }
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
        let unwritten = self.orders.dirty();
        self.known.was_read = false;
        let stored = self.backend.read().await?;
        self.known.was_read = true;
        self.tell(&stored, task).await;
        self.known.marker.clone_from(&stored.marker);
        let Some(data) = &task.data else { return Ok(Compared::Left) };
        let (stored, decision) = self.decide(stored, data, task.authority).await;
        self.report_left(&decision);
        let reason = match (reason, &stored.marker) {
            (Reason::MarkerMissing, Some(_)) => Reason::MarkerChanged,
            (reason, _) => reason,
        };
        let lost = self.lost(&decision, data, &unwritten);
        let live = task.authority != Authority::Provisional;
        if live {
            self.orders.missing(decision.upserts.iter().cloned());
        }
        let (written, outcome) = if decision.fill && !task.may_fill() {
            // Filled with less than it held, the store would vouch for that.
            (0, Compared::Left)
        } else if decision.fill {
            let (written, outcome) = self.fill(data, task.authority, reason).await?;
            (if self.known.complete { written } else { 0 }, outcome)
        } else if task.authority == Authority::Provisional {
            // A relay that is not live writes nothing but what it fills.
            (0, Compared::Left)
        } else {
            let mut written = Vec::new();
            let outcome =
                self.carry_out(&stored, data, &decision, task.authority, &mut written).await?;
            // Of several relays that notice a loss each tells what it wrote itself.
            (written.iter().filter(|key| lost.contains(key)).count() as u64, outcome)
        };
        if written > 0 {
            self.repopulated(reason, written);
        }
        self.known.complete |= self.known.marker.is_some();
        self.known.unsettled = live && self.is_unsettled(data);
        if live && matches!(outcome, Compared::InOrder) {
            self.known.verified = true;
            self.known.unwritten = false;
            self.forget_dropped(data);
        }
        Ok(outcome)
    }

    fn is_unsettled(&self, data: &DataSet) -> bool {
        let marker = self.known.marker.as_ref();
        let is_ours = marker
            .is_some_and(|it| it.unsettled.is_none() && !it.is_foreign_to(self.identity.as_ref()));
        !is_ours || self.doubts.contradict(data)
    }

    /// True if the store may hold something else than what LaunchDarkly says.
    fn is_in_doubt(&self) -> bool {
        self.known.unsettled || self.schedule.is_in_doubt()
    }

    /// Compares what was read with what is served, beside the runtime's threads if that is much.
    async fn decide(
        &mut self,
        stored: StoredRows,
        data: &Arc<DataSet>,
        authority: Authority,
    ) -> (StoredRows, Decision) {
        let mut doubts = std::mem::take(&mut self.doubts);
        let (data, now) = (data.clone(), Instant::now());
        let is_much = data.len() + stored.rows.len() > FEW_ITEMS;
        let compare = move || {
            let decision = decide(&stored, &data, authority, &mut doubts, now);
            (stored, decision, doubts)
        };
        let (stored, decision, doubts) = if is_much { beside(compare).await } else { compare() };
        self.doubts = doubts;
        (stored, decision)
    }

    /// Items that the store has lost: written before, and neither changed since nor deleted.
    fn lost(
        &self,
        decision: &Decision,
        data: &DataSet,
        unwritten: &BTreeSet<ItemKey>,
    ) -> BTreeSet<ItemKey> {
        if !self.known.verified {
            return BTreeSet::new();
        }
        let is_lost = |key: &&ItemKey| {
            !unwritten.contains(key) && data.item(key).is_some_and(|item| !item.is_tombstone())
        };
        decision.upserts.iter().filter(is_lost).cloned().collect()
    }

    /// Looks for signs of a loss, and confirms the age of a set that is whole.
    async fn look(&mut self) -> Result<(), StoreError> {
        let found = self.backend.look().await?;
        let now = Instant::now();
        self.schedule.looked(now, fastrand::f64());
        let loss = self.loss(&found);
        self.known.server = found.server.or(self.known.server.take());
        match loss {
            Some(reason) => {
                tracing::debug!(reason = reason.as_str(), "comparing the shared flag store");
                self.schedule.compare(now, reason);
            }
            None => self.confirm(found.marker).await?,
        }
        Ok(())
    }

    /// Looks whether a new connection leads to the same server with the same data.
    async fn verify(&mut self) -> Result<(), StoreError> {
        let found = self.backend.look().await?;
        let loss = self.loss(&found);
        // Where servers do not tell who they are only a comparison can show it.
        let is_known = self.known.server.is_some() && found.server.is_some();
        self.known.server = found.server.or(self.known.server.take());
        self.schedule.verified();
        if loss.is_some() || !is_known {
            self.schedule.compare(Instant::now(), Reason::Reconnected);
        } else {
            self.succeeded();
        }
        Ok(())
    }

    /// Writes into the marker that LaunchDarkly still says the same, now and then.
    async fn confirm(&mut self, found: Option<Marker>) -> Result<(), StoreError> {
        let authority = self.orders.task().authority;
        let Waiting { put, dirty, live } = self.orders.waiting();
        let is_certain = live && !put && !dirty && self.doubts.is_empty();
        let (Some(marker), true) = (found, is_certain) else { return Ok(()) };
        if !self.is_ours(Some(&marker)) {
            return Ok(());
        }
        let Some(note) = &marker.note else { return Ok(()) };
        // By a clock ahead of ours it was confirmed in the future.
        let is_old = note
            .confirmed_at
            .is_none_or(|at| at.elapsed().is_ok_and(|age| age >= CONFIRMATION_AGE));
        if is_old {
            let note = self.note(note.counts, authority);
            self.known.marker = Some(self.backend.mark(Some(&marker), &note).await?);
        }
        Ok(())
    }

    fn loss(&self, found: &Look) -> Option<Reason> {
        let data = self.orders.task().data;
        // Without data there is nothing to repair, and a reading finds what there is.
        let Some(marker) = &found.marker else { return Some(Reason::MarkerMissing) };
        if !self.known.marker.as_ref().is_some_and(|known| known.is_same_set(marker)) {
            return Some(Reason::MarkerChanged);
        }
        if let (Some(before), Some(now)) = (&self.known.server, &found.server)
            && before != now
        {
            return Some(Reason::ServerChanged);
        }
        if self.known.unwritten {
            // That items are missing is known; the store takes none.
            return None;
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
    /// It does but for these items, to which others wrote at each attempt.
    Contended(BTreeSet<ItemKey>),
    /// It may not, and this relay leaves it as it is.
    Left,
    /// Somebody else changed it meanwhile: it is to be compared again, for that reason.
    Overtaken(Reason),
}

/// Waits until the database has another connection than at the last visit. Cancel-safe.
async fn new_connection(health: &mut watch::Receiver<Health>, seen: u64) {
    let changed = health.wait_for(|health| health.connected_epoch != seen).await.is_ok();
    if !changed {
        // The database's owner is gone; so is this task soon.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
