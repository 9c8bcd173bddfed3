//! What a keeper writes into its store: everything, what is lacking, corrections, and the marker.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::{Compared, FEW_ITEMS, Keeper};
use crate::flagstore::backend::{
    Condition, Correction, Counts, Filled, FlagBackend, ROWS_MAX, Row, StoredRows, Upserted, chunks,
};
use crate::flagstore::layout;
use crate::flagstore::marker::{Marker, Note};
use crate::flagstore::shared::orders::Task;
use crate::flagstore::shared::reconcile::{Authority, Decision};
use crate::flagstore::shared::schedule::{HERD_WAIT, Reason};
use crate::model::{DataSet, ItemKey};
use crate::storage::StoreError;
use crate::tasks::beside;

impl<B: FlagBackend> Keeper<B> {
    /// Rows that the store is to hold, tombstones included. Those that the database does not take
    /// are not expected there.
    pub(super) fn counts(&self, data: &DataSet) -> Counts {
        let dropped = self.orders.report().get().dropped;
        let keys = data.iter().map(|(kind, key, _)| ItemKey { kind, key: key.clone() });
        keys.filter(|key| !dropped.contains_key(key))
            .fold(Counts::default(), |counts, key| counts.plus(&key))
    }

    /// The note for the marker.
    pub(super) fn note(&self, counts: Counts, authority: Authority) -> Note {
        let known = self.known.marker.as_ref().and_then(|marker| marker.note.as_ref());
        let identity = || known.and_then(|note| note.identity.clone());
        Note {
            counts,
            identity: self.identity.clone().or_else(identity),
            confirmed_at: match authority {
                Authority::Live { .. } if self.doubts.is_empty() => Some(SystemTime::now()),
                // The store holds something that LaunchDarkly does not say.
                Authority::Live { .. } => known.and_then(|note| note.confirmed_at),
                Authority::Provisional => None,
            },
            is_blank: false,
        }
    }

    /// Writes the marker if it does not tell what is stored. Returns whether it tells that then;
    /// else a peer was faster.
    pub(super) async fn mark(
        &mut self,
        found: Option<&Marker>,
        data: &DataSet,
        authority: Authority,
    ) -> Result<bool, StoreError> {
        let counts = self.counts(data);
        let told = found.and_then(|found| found.note.as_ref());
        if told.is_some_and(|note| note.is_current(counts, self.identity.as_ref())) {
            return Ok(true);
        }
        let note = self.note(counts, authority);
        let marker = self.backend.mark(found, &note).await?;
        let is_told =
            marker.note.as_ref().is_some_and(|it| it.is_current(counts, note.identity.as_ref()));
        self.known.marker = Some(marker);
        Ok(is_told)
    }

    /// Writes everything into an empty store; returns how many items that were.
    pub(super) async fn fill(
        &mut self,
        data: &Arc<DataSet>,
        authority: Authority,
        reason: Reason,
    ) -> Result<(u64, Compared), StoreError> {
        let overtaken = (0, Compared::Overtaken(Reason::MarkerChanged));
        let rows = ordered(data.clone()).await;
        // After a new connection it has waited before it compared.
        if reason.is_seen_by_all() && reason != Reason::Reconnected {
            tokio::time::sleep(HERD_WAIT.mul_f64(fastrand::f64())).await;
        }
        let note = self.note(self.counts(data), authority);
        match self.backend.fill(&rows, &note).await? {
            Filled::Done => {
                self.known.marker = self.backend.look().await?.marker;
                return Ok((rows.len() as u64, Compared::InOrder));
            }
            Filled::NotEmpty => {
                tracing::debug!("another relay has filled the store; comparing with it");
                return Ok(overtaken);
            }
            Filled::Impossible => {}
        }
        // One more look, because a peer may have been faster by the random wait.
        if self.backend.look().await?.marker.is_some() {
            return Ok(overtaken);
        }
        let written = self.upsert(&rows, Condition::Always).await?.written.len() as u64;
        let is_ours = self.mark(None, data, authority).await?;
        Ok((written, if is_ours { Compared::InOrder } else { overtaken.1 }))
    }

    /// Writes and corrects what was decided.
    pub(super) async fn carry_out(
        &mut self,
        stored: &StoredRows,
        data: &Arc<DataSet>,
        decision: &Decision,
        authority: Authority,
        written: &mut Vec<ItemKey>,
    ) -> Result<Compared, StoreError> {
        if !decision.upserts.is_empty() {
            let mut rows = ordered(data.clone()).await;
            rows.retain(|row| decision.upserts.contains(&row.key));
            // A store that was wiped out since it was read is filled, not given a few items.
            let condition = stored.marker.as_ref().map_or(Condition::Always, Condition::Marked);
            let mut upserts = self.upsert(&rows, condition).await?;
            written.append(&mut upserts.written);
            if upserts.unmarked {
                return Ok(Compared::Overtaken(Reason::MarkerMissing));
            }
        }
        let found = stored.marker.as_ref();
        // Counts are lowered before rows are removed, so that the marker never tells more than
        // there is.
        if self.is_ours(found) && !self.mark(found, data, authority).await? {
            return Ok(Compared::Overtaken(Reason::MarkerChanged));
        }
        self.correct(stored, data, &decision.corrections).await?;
        // Else items that are not this environment's may be among the rows. The set becomes this
        // environment's when the last of them is gone.
        if self.is_ours(found) || (!self.doubts.is_empty() && found.is_some()) {
            return Ok(Compared::InOrder);
        }
        if !self.doubts.is_empty() {
            // SDKs only ask whether there is a marker, and need it.
            self.known.marker = Some(self.backend.mark(None, &Note::blank()).await?);
            return Ok(Compared::Overtaken(Reason::MarkerChanged));
        }
        if !self.mark(found, data, authority).await? || found.is_none() {
            // The peer that removed the marker may have been about to remove the rest.
            return Ok(Compared::Overtaken(Reason::MarkerChanged));
        }
        Ok(Compared::InOrder)
    }

    /// True if the marker says that the rows belong to this environment.
    pub(super) fn is_ours(&self, marker: Option<&Marker>) -> bool {
        let note = marker.and_then(|marker| marker.note.as_ref());
        note.is_some_and(|note| note.belongs_to(self.identity.as_ref()))
    }

    /// Replaces or removes the stored rows at these places.
    async fn correct(
        &mut self,
        stored: &StoredRows,
        data: &DataSet,
        places: &[usize],
    ) -> Result<(), StoreError> {
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
            for (correction, is_done) in chunk.iter().zip(corrected) {
                if is_done {
                    self.doubts.settled(&correction.found.key);
                    written += 1;
                }
            }
        }
        if written > 0 {
            tracing::warn!(
                items = written,
                "the shared flag store held items that are not what LaunchDarkly says; they were \
                 corrected"
            );
        }
        Ok(())
    }

    /// Writes the items that changed.
    pub(super) async fn flush(&mut self) -> Result<(), StoreError> {
        let Task { data: Some(data), authority: Authority::Live { .. }, .. } = self.orders.task()
        else {
            self.schedule.flushed();
            return Ok(());
        };
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
            self.raise_counts(&data).await?;
            if std::mem::take(&mut self.known.unwritten) {
                self.schedule.compare(Instant::now(), Reason::Failed);
            }
            self.succeeded();
            self.in_order();
        }
        Ok(())
    }

    /// A marker that tells of fewer rows than there are would vouch for a set that has lost some:
    /// it is raised with each new item.
    async fn raise_counts(&mut self, data: &DataSet) -> Result<(), StoreError> {
        let Some(marker) = self.known.marker.clone() else { return Ok(()) };
        let is_behind = marker.note.as_ref().is_some_and(|note| !note.covers(self.counts(data)));
        if is_behind && self.is_ours(Some(&marker)) {
            let authority = self.orders.task().authority;
            self.mark(Some(&marker), data, authority).await?;
        }
        Ok(())
    }

    async fn upsert(&self, rows: &[Row], condition: Condition<'_>) -> Result<Upserts, StoreError> {
        let mut upserts = Upserts::default();
        for chunk in chunks(rows) {
            let outcomes = self.backend.upsert(chunk, condition).await?;
            for (row, outcome) in chunk.iter().zip(outcomes) {
                match outcome {
                    Upserted::Written => upserts.written.push(row.key.clone()),
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
}

/// How a list of rows was written.
#[derive(Debug, Default)]
struct Upserts {
    written: Vec<ItemKey>,
    unmarked: bool,
}

/// The rows of a data set, in their order.
async fn ordered(data: Arc<DataSet>) -> Vec<Row> {
    if data.len() <= FEW_ITEMS {
        return layout::ordered(&data);
    }
    beside(move || layout::ordered(&data)).await
}
