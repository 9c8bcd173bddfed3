//! The comparison of all stored rows with the served data: the decision, the steps that follow, and
//! the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{FlagVisits, Outcome, Purpose, Step};
use crate::flagstore::backend::{Correction, ROWS_MAX, StoredRows};
use crate::flagstore::inventory::Inventory;
use crate::flagstore::layout;
use crate::flagstore::marker::Marker;
use crate::flagstore::shared::reconcile::{Decision, decide};
use crate::flagstore::shared::visits::telling::Notice;
use crate::model::{DataSet, ItemKey};
use crate::replica::{Due, End, Moment, Reason, Then};

impl FlagVisits {
    /// Compares the rows that were read with the served data.
    pub(super) fn compare(&mut self, stored: StoredRows, at: &Moment) {
        self.known.was_read = true;
        // The data of now, not of before the read: LaunchDarkly may have sent what was found.
        self.visit.task = self.orders.task();
        self.visit.unwritten.extend(self.orders.dirty());
        self.tell_read(&stored);
        self.known.marker.clone_from(&stored.marker);
        let (authority, live) = (self.visit.task.authority, self.visit.is_live());
        let Some(data) = self.visit.task.data.clone() else {
            return self.visit.stop(Outcome::Left);
        };
        if self.visit.due == Due::Compare(Reason::MarkerMissing) && stored.marker.is_some() {
            self.visit.due = Due::Compare(Reason::MarkerChanged);
        }
        let decision = decide(&stored, &data, authority, &mut self.doubts, at.now);
        self.tell_unrepaired(decision.unrepaired);
        self.visit.lost = self.lost(&decision, &data);
        if live {
            let rows = stored.rows.iter().map(|row| &row.key).collect();
            self.orders.lacking(&decision.upserts, &rows);
        }
        let may_write = if decision.fill { self.visit.task.may_fill() } else { live };
        if !may_write {
            // A relay that is not live only fills empty stores. And a store that is filled with a
            // partial set would vouch for it.
            return self.visit.stop(Outcome::Left);
        }
        if decision.fill {
            self.plan_fill(&data);
        } else {
            self.plan_writes(stored, &data, decision);
        }
    }

    fn plan_fill(&mut self, data: &Arc<DataSet>) {
        self.known.others.clear();
        self.visit.inventory = self.inventory(data);
        let Due::Compare(reason) = self.visit.due else { return };
        // After a new connection the wait was before the comparison.
        if reason.is_seen_by_all() && reason != Reason::Reconnected {
            self.visit.steps.push_back(Step::Wait);
        }
        self.visit.steps.push_back(Step::Fill(Arc::new(layout::ordered(data))));
    }

    fn plan_writes(&mut self, stored: StoredRows, data: &Arc<DataSet>, decision: Decision) {
        let unknown = stored.rows.iter().filter(|row| data.item(&row.key).is_none());
        self.known.others = unknown.map(|row| row.key.clone()).collect();
        for &place in &decision.corrections {
            self.known.others.remove(&stored.rows[place].key);
        }
        let found = stored.marker.clone();
        let writes = !(decision.upserts.is_empty() && decision.corrections.is_empty());
        let mut rows = if decision.upserts.is_empty() { Vec::new() } else { layout::ordered(data) };
        rows.retain(|row| decision.upserts.contains(&row.key));
        let corrections = corrections(&stored, data, &decision.corrections);
        (self.visit.stored, self.visit.decision) = (stored, decision);
        let is_new = !self.added(&self.orders.report().get().dropped).is_empty();

        let names_another = |marker: &Marker| marker.names_another(self.identity.as_ref());
        if writes && found.as_ref().is_some_and(names_another) {
            self.visit.steps.push_back(Step::Mark(Purpose::TakeOver));
        }
        if is_new {
            self.visit.steps.push_back(Step::Mark(Purpose::Announce(false)));
        }
        // The rows are written under the marker that was found, so that a store that was wiped
        // since is filled, not given a few items.
        self.visit.found = found;
        self.visit.upsert(&rows);
        self.visit.steps.push_back(Step::Mark(Purpose::List));
        let chunks = corrections.chunks(ROWS_MAX);
        self.visit.steps.extend(chunks.map(|chunk| Step::Correct(chunk.to_vec())));
        self.visit.steps.push_back(Step::Mark(Purpose::Sign));
    }

    /// Items that the store has lost: written before, and neither changed since nor deleted.
    fn lost(&self, decision: &Decision, data: &DataSet) -> BTreeSet<ItemKey> {
        if !self.known.verified {
            return BTreeSet::new();
        }
        let is_lost = |key: &&ItemKey| {
            !self.visit.unwritten.contains(key)
                && data.item(key).is_some_and(|item| !item.is_tombstone())
        };
        decision.upserts.iter().filter(is_lost).cloned().collect()
    }

    /// Rows in the store once all missing ones are written, whether this relay knows them or not.
    pub(super) fn after_writes(&self) -> Inventory {
        let dropped = self.orders.report().get().dropped;
        let stored = self.visit.stored.rows.iter().map(|row| &row.key);
        Inventory::of(stored.chain(self.added(&dropped)))
    }

    /// Missing rows that are written, without those that the database refuses.
    fn added(&self, dropped: &BTreeMap<ItemKey, u64>) -> BTreeSet<&ItemKey> {
        let visit = &self.visit;
        let is_written =
            |key: &&ItemKey| !dropped.contains_key(*key) && !visit.contended.contains(*key);
        let mut added: BTreeSet<&ItemKey> =
            visit.decision.upserts.iter().filter(is_written).collect();
        for row in &visit.stored.rows {
            added.remove(&row.key);
        }
        added
    }

    /// The same once the corrections are carried out as well. While some rows wait for a second
    /// check, the marker may list others that only a peer knows, so nothing is taken off.
    pub(super) fn after_corrections(&self) -> Inventory {
        let visit = &self.visit;
        let mut rows = self.after_writes();
        if self.doubts.len() > visit.decision.corrections.len() {
            let note = visit.stored.marker.as_ref().and_then(|marker| marker.note.as_ref());
            let listed = note.map(|note| note.inventory);
            rows = listed.filter(|it| it.counts.covers(rows.counts)).unwrap_or(rows);
        }
        let is_wanted =
            |key: &ItemKey| visit.task.data.as_ref().is_some_and(|data| data.item(key).is_some());
        let places = visit.decision.corrections.iter();
        let corrected = places.map(|&place| &visit.stored.rows[place].key);
        corrected.filter(|key| !is_wanted(key)).fold(rows, Inventory::minus)
    }

    pub(super) fn end_comparison(&mut self, reason: Reason, at: &Moment) -> End {
        let live = self.visit.is_live();
        if self.visit.corrected > 0 {
            self.tell(Notice::Corrected { items: self.visit.corrected });
        }
        if let Some(data) = self.visit.task.data.clone() {
            self.end_of_writes(&data, reason, at);
        }
        let then = match self.visit.outcome {
            Outcome::Overtaken(reason) | Outcome::Loss(reason) => Then::Overtaken(reason),
            Outcome::InOrder | Outcome::Left | Outcome::Unknown => {
                self.orders.compared(self.visit.task.authority);
                if !self.visit.contended.is_empty() {
                    Then::Retry
                } else if self.orders.waiting().dirty && self.known.marker.is_some() {
                    // A relay may write changes that it accepted while it was live into a store
                    // that is whole.
                    Then::Flush
                } else {
                    Then::Nothing
                }
            }
        };
        End::Compared { live, doubts: !self.doubts.is_empty(), then }
    }

    fn end_of_writes(&mut self, data: &DataSet, reason: Reason, at: &Moment) {
        let (live, outcome) = (self.visit.is_live(), self.visit.outcome);
        // Of several relays that notice a loss each reports what it wrote itself.
        let is_lost = |key: &&ItemKey| self.visit.lost.contains(*key);
        let mut rewritten = self.visit.written.iter().filter(is_lost).count() as u64;
        if self.known.complete {
            rewritten += self.visit.filled;
        }
        if rewritten > 0 {
            self.tell_repopulation(reason, rewritten, at);
        }
        self.known.complete |= self.known.marker.is_some();
        self.known.unsettled = live && self.is_unsettled(data);
        if outcome != Outcome::InOrder {
            return;
        }
        if live && self.visit.contended.is_empty() {
            self.known.verified = true;
            self.known.unwritten = false;
            self.forget_dropped(data);
        }
        self.note_stored(data, &self.orders.dirty());
    }

    fn is_unsettled(&self, data: &DataSet) -> bool {
        let marker = self.known.marker.as_ref();
        let is_ours = marker
            .is_some_and(|it| it.unsettled.is_none() && !it.is_foreign_to(self.identity.as_ref()));
        // A served item differs in the store. An extra item alone does not contradict.
        let contradicts = |key: &ItemKey| data.item(key).is_some_and(|item| !item.is_tombstone());
        !is_ours || self.doubts.keys().any(contradicts)
    }

    /// Items that are no longer served need no place in the database.
    fn forget_dropped(&self, data: &DataSet) {
        self.orders.report().update(|report| {
            report.dropped.retain(|key, _| data.item(key).is_some_and(|it| !it.is_tombstone()));
        });
    }
}

/// The corrections of the rows at these places. Wrong rows come before rows that are only
/// superfluous.
fn corrections(stored: &StoredRows, data: &DataSet, places: &[usize]) -> Vec<Correction> {
    let is_removal = |place: &usize| data.item(&stored.rows[*place].key).is_none();
    let (removals, replacements): (Vec<usize>, Vec<usize>) =
        places.iter().copied().partition(is_removal);
    let correction = |place: usize| {
        let found = stored.rows[place].clone();
        let wanted = data.item(&found.key).map(|item| layout::row(&found.key, item));
        Correction { found, wanted }
    };
    replacements.into_iter().chain(removals).map(correction).collect()
}
