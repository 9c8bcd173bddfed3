//! Takes the answers of the database during a visit.

use super::{Answer, FlagVisits, Outcome, Purpose, Step};
use crate::flagstore::backend::{Counts, Filled, Look, Row, Upserted};
use crate::flagstore::marker::{Marker, Unsettled};
use crate::flagstore::shared::visits::telling::Notice;
use crate::model::{DataSet, ItemMap};
use crate::replica::{Due, Moment, Reason};

impl FlagVisits {
    /// Takes the answer to the last call.
    pub(super) fn take(&mut self, answer: Answer, at: &Moment) {
        match (self.visit.asked.take(), answer) {
            (Some(Step::Read), Answer::Read(stored)) => self.compare(stored, at),
            (Some(Step::Fill(rows)), Answer::Fill(filled)) => self.take_fill(&rows, filled),
            (Some(Step::Upsert(rows)), Answer::Upsert(outcomes)) => {
                self.take_upserts(&rows, &outcomes);
            }
            (Some(Step::Correct(corrections)), Answer::Correct(done)) => {
                for (correction, _) in corrections.iter().zip(done).filter(|(_, done)| *done) {
                    self.doubts.settled(&correction.found.key);
                    self.visit.corrected += 1;
                }
            }
            (Some(Step::Mark(purpose)), Answer::Mark(marker)) => self.take_mark(purpose, marker),
            (Some(Step::LookBeforeFill), Answer::Look(look)) => {
                if look.marker.is_some() {
                    self.visit.stop(Outcome::Overtaken(Reason::MarkerChanged));
                }
            }
            (Some(Step::LookAfterFill), Answer::Look(look)) => self.known.marker = look.marker,
            (Some(Step::Look), Answer::Look(look)) => self.take_look(look),
            (asked, answer) => {
                debug_assert!(false, "{answer:?} is no answer to {asked:?}");
                self.visit.stop(Outcome::Overtaken(Reason::Failed));
            }
        }
    }

    fn take_fill(&mut self, rows: &[Row], filled: Filled) {
        match filled {
            Filled::Done => {
                self.visit.filled = rows.len() as u64;
                self.visit.steps.push_back(Step::LookAfterFill);
            }
            Filled::NotEmpty => self.visit.stop(Outcome::Overtaken(Reason::MarkerChanged)),
            Filled::Impossible => {
                // Checked once more, because a peer may have been faster during the random wait.
                self.visit.steps.push_back(Step::LookBeforeFill);
                self.visit.upsert(rows);
                self.visit.steps.push_back(Step::Mark(Purpose::Filled));
            }
        }
    }

    fn take_upserts(&mut self, rows: &[Row], outcomes: &[Upserted]) {
        for (row, outcome) in rows.iter().zip(outcomes) {
            match outcome {
                Upserted::Written => self.visit.written.push(row.key.clone()),
                Upserted::NotNewer => {}
                Upserted::Contended => {
                    self.visit.contended.insert(row.key.clone());
                }
                Upserted::Unguarded => {
                    self.visit.stop(Outcome::Overtaken(Reason::MarkerMissing));
                }
                Upserted::TooLarge => {
                    self.visit.refused += 1;
                    self.dropped(row);
                    continue;
                }
            }
            self.orders.report().update(|report| {
                report.dropped.remove(&row.key);
            });
        }
        // A store that others write to while it is filled item by item belongs to another writer.
        let is_fill = self.visit.steps.iter().any(|it| matches!(it, Step::Mark(Purpose::Filled)));
        if is_fill && !self.visit.contended.is_empty() {
            self.visit.stop(Outcome::Overtaken(Reason::MarkerChanged));
        }
    }

    /// Takes the marker that is stored after an attempt to write one.
    fn take_mark(&mut self, purpose: Purpose, marker: Option<Marker>) {
        let Some(marker) = marker else {
            // The store has lost its data.
            return self.visit.stop(Outcome::Overtaken(Reason::MarkerMissing));
        };
        let note = marker.note.as_ref();
        let is_told =
            note.is_some_and(|it| it.is_current(self.visit.inventory, self.identity.as_ref()));
        let is_taken_over = marker.unsettled == Some(Unsettled::Mixed);
        self.known.marker = Some(marker.clone());
        if marker.names_another(self.identity.as_ref()) {
            // Another environment was written into the store meanwhile. Nothing is written under
            // its name.
            return self.visit.stop(Outcome::Overtaken(Reason::MarkerChanged));
        }
        let is_mine = match purpose {
            Purpose::TakeOver => {
                self.visit.found = Some(marker);
                is_taken_over
            }
            Purpose::List => is_told,
            Purpose::Filled => {
                self.visit.filled = self.visit.written.len() as u64;
                is_told
            }
            // A peer that removed the marker may have been about to remove the rest.
            Purpose::Sign => is_told && self.visit.found.is_some(),
            // A peer may have written its own note since.
            Purpose::Announce(false) if !is_told => {
                self.visit.steps.push_front(Step::Mark(Purpose::Announce(true)));
                self.visit.found = Some(marker);
                true
            }
            Purpose::Announce(_) => {
                self.visit.found = Some(marker);
                is_told
            }
            Purpose::Settle | Purpose::Confirm => true,
        };
        if !is_mine {
            self.visit.stop(Outcome::Overtaken(Reason::MarkerChanged));
        }
    }

    fn take_look(&mut self, found: Look) {
        let loss = self.loss(&found);
        // If servers give no identity, only a comparison can show a loss.
        let is_known = self.known.server.is_some() && found.server.is_some();
        self.known.server = found.server.or(self.known.server.take());
        match (loss, self.visit.due) {
            (Some(reason), _) => self.visit.stop(Outcome::Loss(reason)),
            (None, Due::Verify) if !is_known => self.visit.stop(Outcome::Unknown),
            (None, Due::Look) => {
                self.visit.found = found.marker;
                self.visit.steps.push_back(Step::Mark(Purpose::Confirm));
            }
            (None, Due::Verify | Due::Flush | Due::Compare(_)) => {}
        }
    }

    /// A sign that the store has lost something.
    fn loss(&self, found: &Look) -> Option<Reason> {
        // Also if this relay has no data to repair it with: a reading finds what there is.
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
            // Items are known to be missing; the store accepts none.
            return None;
        }
        let counts = found.counts?;
        if marker.note.as_ref().is_some_and(|note| !counts.covers(note.inventory.counts)) {
            return Some(Reason::ItemsMissing);
        }
        let data = self.orders.task().data?;
        self.is_short(counts, &data).then_some(Reason::ItemsMissing)
    }

    fn is_short(&self, counts: Counts, data: &DataSet) -> bool {
        let live =
            |items: &ItemMap| items.iter().filter(|(_, item)| !item.is_tombstone()).count() as u64;
        let dropped = self.orders.report().get().dropped.len() as u64;
        counts.flags + dropped < live(&data.flags)
            || counts.segments + dropped < live(&data.segments)
    }

    fn dropped(&mut self, row: &Row) {
        let bytes = row.json.len() as u64;
        let mut is_news = false;
        self.orders.report().update(|report| {
            is_news = report.dropped.insert(row.key.clone(), bytes) != Some(bytes);
        });
        if is_news {
            self.tell(Notice::TooLarge { item: row.key.clone(), bytes });
        }
    }
}
