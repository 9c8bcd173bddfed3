//! What a keeper writes into its store: everything, what is lacking, corrections, and the marker.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::{Compared, FEW_ITEMS, Keeper};
use crate::flagstore::backend::{
    Condition, Correction, Counts, Filled, FlagBackend, ROWS_MAX, Row, StoredRows, Upserted, chunks,
};
use crate::flagstore::layout;
use crate::flagstore::marker::{Marker, Note, Unsettled};
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
        Note {
            counts,
            // A relay that does not know its environment's ID does not know whose set this is.
            identity: self.identity.clone(),
            confirmed_at: match authority {
                Authority::Live { .. } if self.doubts.is_empty() => Some(SystemTime::now()),
                // The store holds something that LaunchDarkly does not say.
                Authority::Live { .. } => known.and_then(|note| note.confirmed_at),
                Authority::Provisional => None,
            },
            unsettled: None,
        }
    }

    /// Writes the marker if it does not tell that so much is stored. Returns whether it tells that
    /// then; else a peer was faster.
    async fn mark(
        &mut self,
        found: Option<&Marker>,
        counts: Counts,
        authority: Authority,
    ) -> Result<bool, StoreError> {
        let told = found.and_then(|found| found.note.as_ref());
        if told.is_some_and(|note| note.is_current(counts, self.identity.as_ref())) {
            return Ok(true);
        }
        let note = self.note(counts, authority);
        let marker = self.backend.mark(found, &note).await?;
        let told = marker.note.as_ref();
        let is_told = told.is_some_and(|it| it.is_current(counts, self.identity.as_ref()));
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
        let Upserts { written, contended, .. } = self.upsert(&rows, Condition::Always).await?;
        if !contended.is_empty() {
            return Ok(overtaken);
        }
        let is_ours = self.mark(None, self.counts(data), authority).await?;
        Ok((written.len() as u64, if is_ours { Compared::InOrder } else { overtaken.1 }))
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
        let mut found = stored.marker.clone();
        if !(decision.upserts.is_empty() && decision.corrections.is_empty())
            && let Some(theirs) = found.take_if(|it| it.names_another(self.identity.as_ref()))
        {
            found = self.take_over(&theirs).await?;
            if found.is_none() {
                return Ok(Compared::Overtaken(Reason::MarkerChanged));
            }
        }
        let found = found.as_ref();
        let mut contended = BTreeSet::new();
        if !decision.upserts.is_empty() {
            let mut rows = ordered(data.clone()).await;
            rows.retain(|row| decision.upserts.contains(&row.key));
            // A store that was wiped out since it was read is filled, not given a few items.
            let condition = found.map_or(Condition::Always, Condition::Marked);
            let mut upserts = self.upsert(&rows, condition).await?;
            written.append(&mut upserts.written);
            contended = upserts.contended;
            if upserts.unmarked {
                return Ok(Compared::Overtaken(Reason::MarkerMissing));
            }
        }
        let counts = self.standing(stored, data, decision, &contended);
        // Counts are lowered before rows are removed, so that the marker never tells more than
        // there is.
        if self.is_ours(found) && !self.mark(found, counts, authority).await? {
            return Ok(Compared::Overtaken(Reason::MarkerChanged));
        }
        self.correct(stored, data, &decision.corrections).await?;
        if !contended.is_empty() {
            return Ok(Compared::Contended(contended));
        }
        // Else items that are not this environment's may be among the rows. The set becomes this
        // environment's when the last of them is gone.
        if self.is_ours(found) || (!self.doubts.is_empty() && found.is_some()) {
            return Ok(Compared::InOrder);
        }
        if !self.doubts.is_empty() {
            // SDKs only ask whether there is a marker, and need it.
            let note = Note::unsettled(Unsettled::Unconfirmed, self.identity.clone());
            self.known.marker = Some(self.backend.mark(None, &note).await?);
            return Ok(Compared::Overtaken(Reason::MarkerChanged));
        }
        if !self.mark(found, counts, authority).await? || found.is_none() {
            // The peer that removed the marker may have been about to remove the rest.
            return Ok(Compared::Overtaken(Reason::MarkerChanged));
        }
        Ok(Compared::InOrder)
    }

    /// Replaces a marker that names another environment, before the first row under it changes:
    /// its counts must not vouch for rows of both. Returns the marker that stands then; `None` if
    /// a peer was faster.
    async fn take_over(&mut self, theirs: &Marker) -> Result<Option<Marker>, StoreError> {
        let note = Note::unsettled(Unsettled::Mixed, self.identity.clone());
        let marker = self.backend.mark(Some(theirs), &note).await?;
        self.known.marker = Some(marker.clone());
        Ok((marker.unsettled == Some(Unsettled::Mixed)).then_some(marker))
    }

    /// Rows of each kind that stand in the store once the corrections are carried out, whether
    /// this relay knows them or not. While some wait for a second look, the marker may tell of
    /// others that only a peer knows, so its counts are not lowered.
    fn standing(
        &self,
        stored: &StoredRows,
        data: &DataSet,
        decision: &Decision,
        contended: &BTreeSet<ItemKey>,
    ) -> Counts {
        let dropped = self.orders.report().get().dropped;
        let is_written = |key: &&ItemKey| !dropped.contains_key(*key) && !contended.contains(*key);
        let mut added: BTreeSet<&ItemKey> = decision.upserts.iter().filter(is_written).collect();
        for row in &stored.rows {
            added.remove(&row.key);
        }
        let found = stored.rows.iter().map(|row| &row.key);
        let mut counts = Counts::of(found.chain(added));
        if self.doubts.len() > decision.corrections.len() {
            let note = stored.marker.as_ref().and_then(|marker| marker.note.as_ref());
            counts = counts.max(note.map_or(Counts::default(), |note| note.counts));
        }
        let corrected = decision.corrections.iter().map(|&place| &stored.rows[place].key);
        corrected.filter(|key| data.item(key).is_none()).fold(counts, Counts::minus)
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
        // Rows that serve something wrong come before rows that are only too many.
        let is_removal = |place: &usize| data.item(&stored.rows[*place].key).is_none();
        let (removals, replacements): (Vec<usize>, Vec<usize>) =
            places.iter().copied().partition(is_removal);
        let corrections: Vec<Correction> = replacements
            .iter()
            .chain(&removals)
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
        // Under the name of another environment nothing is written.
        let marker = self.known.marker.as_ref();
        let upserts = match marker.filter(|it| !it.names_another(self.identity.as_ref())) {
            Some(marker) => Some(self.upsert(&rows, Condition::Marked(marker)).await?),
            None => None,
        };
        self.schedule.flushed();
        let Some(Upserts { contended, unmarked: false, .. }) = upserts else {
            // The store has lost its data, or somebody else has refilled it: it is not known what
            // else it lacks.
            self.schedule.compare(Instant::now(), Reason::MarkerMissing);
            return Ok(());
        };
        let written = rows.iter().filter(|row| !contended.contains(&row.key));
        self.orders.stored(written.map(|row| (&row.key, row.version)));
        if !contended.is_empty() {
            self.contended(contended.len());
        } else {
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
        let (counts, authority) = (self.counts(data), self.orders.task().authority);
        // Twice, because a peer may have written its own note since.
        for _ in 0..2 {
            let Some(marker) = self.known.marker.clone() else { return Ok(()) };
            let Some(note) = marker.note.as_ref().filter(|note| !note.covers(counts)) else {
                return Ok(());
            };
            // There may be rows of the other kind that only peers know.
            let counts = note.counts.max(counts);
            if !self.is_ours(Some(&marker)) || self.mark(Some(&marker), counts, authority).await? {
                return Ok(());
            }
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
                    Upserted::Contended => {
                        upserts.contended.insert(row.key.clone());
                    }
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
    /// Not written: others wrote to them at each attempt.
    contended: BTreeSet<ItemKey>,
    unmarked: bool,
}

/// The rows of a data set, in their order.
async fn ordered(data: Arc<DataSet>) -> Vec<Row> {
    if data.len() <= FEW_ITEMS {
        return layout::ordered(&data);
    }
    beside(move || layout::ordered(&data)).await
}
