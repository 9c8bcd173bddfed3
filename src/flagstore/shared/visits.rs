//! Visits to the shared flag store of one environment. Pure.
//!
//! | visit | steps |
//! | --- | --- |
//! | comparison | read everything; then fill an empty store, or list new rows in the marker, write what is lacking, take rows off the list, correct what should not be there, and sign the marker, in this order |
//! | flush | list new rows in the marker, and write the items that changed |
//! | look, verification | look for the cheap signs of a loss; now and then confirm the age of the set in the marker |
//!
//! Each step may find that a peer was faster. Then the visit ends, and the store is compared again.

mod comparison;
pub(super) mod marking;
mod steps;
mod telling;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

pub use self::telling::{Effect, Notice};
use super::orders::{Orders, Task};
use super::reconcile::{Decision, RowDoubts};
use crate::flagstore::backend::{
    Condition, Correction, Filled, Look, Row, StoredRows, Upserted, chunks,
};
use crate::flagstore::inventory::Inventory;
use crate::flagstore::layout;
use crate::flagstore::marker::{Identity, Marker, Note};
use crate::model::{DataSet, ItemKey};
use crate::replica::{Authority, Due, End, Moment, Progress, Reason, Then, Visits, Waiting};
use crate::storage::StoreError;

/// Up to this many items are handled on a thread of the runtime.
const FEW_ITEMS: usize = 100;

/// A call to the database, as in [`crate::flagstore::backend::FlagBackend`].
#[derive(Clone, Debug)]
pub enum Call {
    Read,
    Look,
    Fill { rows: Arc<Vec<Row>>, note: Note },
    Upsert { rows: Vec<Row>, condition: Option<Condition> },
    Correct(Vec<Correction>),
    Mark { found: Option<Marker>, note: Note },
}

/// An answer of the database.
#[derive(Clone, Debug)]
pub enum Answer {
    Read(StoredRows),
    Look(Look),
    Fill(Filled),
    Upsert(Vec<Upserted>),
    Correct(Vec<bool>),
    /// The marker after the call.
    Mark(Option<Marker>),
}

/// The visits to one store, and what is known of it.
#[derive(Debug)]
pub struct FlagVisits {
    /// The environment whose data this is, if its ID is known.
    identity: Option<Identity>,
    orders: Orders,
    known: Known,
    doubts: RowDoubts,
    visit: Visit,
    /// True while a reported failure is not over.
    complained: bool,
    effects: Vec<Effect>,
}

/// Facts about the store from the last visits, by which a loss is noticed.
#[derive(Debug, Default)]
struct Known {
    marker: Option<Marker>,
    /// Stored items that this relay does not know. The marker lists them too.
    others: BTreeSet<ItemKey>,
    server: Option<Arc<str>>,
    /// True once a marker was seen: from then on an empty store is a loss.
    complete: bool,
    /// True once everything that LaunchDarkly sent was found or written: from then on an item that
    /// is missing is a loss.
    verified: bool,
    /// True if the last comparison could read the store.
    was_read: bool,
    /// True if the last comparison left something that contradicts LaunchDarkly, until it is
    /// certain that no relay has newer data.
    unsettled: bool,
    /// True if the store refused a write since the last successful comparison: it may lack more
    /// than that by the time it accepts writes again.
    unwritten: bool,
}

/// One visit.
#[derive(Debug)]
struct Visit {
    due: Due,
    /// The data that was served when it began.
    task: Task,
    /// Items that were not written then.
    unwritten: BTreeSet<ItemKey>,
    /// Those of them that probably have no row.
    fresh: BTreeSet<ItemKey>,
    /// Steps that are still to be done.
    steps: VecDeque<Step>,
    /// The last step that called the database.
    asked: Option<Step>,
    /// The marker under which rows are written.
    found: Option<Marker>,
    /// The rows that were read, and the decision about them.
    stored: StoredRows,
    decision: Decision,
    /// Items that the store has lost: written before, and neither changed since nor deleted.
    lost: BTreeSet<ItemKey>,
    /// Items that were written because they were absent or older.
    written: Vec<ItemKey>,
    /// Items that other writers changed at each attempt.
    contended: BTreeSet<ItemKey>,
    /// The list of rows to write into the marker.
    inventory: Inventory,
    /// True once the marker that was found lists the new items that are about to be written.
    is_listed: bool,
    /// Number of items that the database refused.
    refused: usize,
    /// Items of the set that was written into an empty store.
    filled: u64,
    /// Rows that differed at two checks and were replaced or removed.
    corrected: usize,
    outcome: Outcome,
}

/// One step of a visit.
#[derive(Clone, Debug)]
enum Step {
    Read,
    /// Wait a random time before a fill that several relays may begin.
    Wait,
    Fill(Arc<Vec<Row>>),
    /// Check whether a peer was faster, before the store is filled item by item.
    LookBeforeFill,
    /// Read the marker of the fill.
    LookAfterFill,
    Upsert(Vec<Row>),
    Mark(Purpose),
    Correct(Vec<Correction>),
    Look,
}

/// Reason for writing the marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// It names another environment, and rows under it are about to be replaced.
    TakeOver,
    /// Rows are taken off the list before they are removed, so that the marker never lists more
    /// than there is.
    List,
    /// The store was filled item by item.
    Filled,
    /// All rows are this environment's.
    Sign,
    /// New items are about to be written. They are listed first, so that they cannot stand in for
    /// lost ones: a partial set would count as whole. `bool`: a second attempt.
    Announce(bool),
    /// The database refused some of those.
    Settle,
    /// LaunchDarkly still confirms the data.
    Confirm,
}

/// Outcome of a visit so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The store holds the served data, except for contended items.
    InOrder,
    /// The store may differ, and this relay leaves it as it is.
    Left,
    /// A peer changed it meanwhile: it is to be compared again, for that reason.
    Overtaken(Reason),
    /// A sign of a loss.
    Loss(Reason),
    /// Only a comparison can show whether anything was lost.
    Unknown,
}

impl Visit {
    fn new(due: Due, task: Task) -> Self {
        Self {
            due,
            task,
            unwritten: BTreeSet::new(),
            fresh: BTreeSet::new(),
            steps: VecDeque::new(),
            asked: None,
            found: None,
            stored: StoredRows::default(),
            decision: Decision::default(),
            lost: BTreeSet::new(),
            written: Vec::new(),
            contended: BTreeSet::new(),
            inventory: Inventory::default(),
            is_listed: false,
            refused: 0,
            filled: 0,
            corrected: 0,
            outcome: Outcome::InOrder,
        }
    }

    fn is_live(&self) -> bool {
        self.task.authority.is_live()
    }

    /// Skips the rest of the visit.
    fn stop(&mut self, outcome: Outcome) {
        self.steps.clear();
        self.outcome = outcome;
    }

    fn upsert(&mut self, rows: &[Row]) {
        self.steps.extend(chunks(rows).map(|chunk| Step::Upsert(chunk.to_vec())));
    }
}

impl FlagVisits {
    pub fn new(identity: Option<Identity>, orders: Orders) -> Self {
        let visit = Visit::new(Due::Look, orders.task());
        Self {
            identity,
            orders,
            known: Known::default(),
            doubts: RowDoubts::default(),
            visit,
            complained: false,
            effects: Vec::new(),
        }
    }

    /// Writes the items that changed.
    fn begin_flush(&mut self) {
        let (Some(data), true) = (self.visit.task.data.clone(), self.visit.is_live()) else {
            return self.visit.stop(Outcome::Left);
        };
        self.visit.unwritten = self.orders.dirty();
        // Under the name of another environment nothing is written. And new items are written only
        // where they can be listed.
        let dropped = self.orders.report().get().dropped;
        let is_absent = |key: &ItemKey| {
            data.item(key).is_some()
                && !self.known.others.contains(key)
                && !dropped.contains_key(key)
        };
        self.visit.fresh = self.orders.fresh().into_iter().filter(is_absent).collect();
        let is_new = !self.visit.fresh.is_empty();
        let marker = self.known.marker.as_ref().filter(|marker| {
            !marker.names_another(self.identity.as_ref()) && (!is_new || self.is_ours(Some(marker)))
        });
        let Some(marker) = marker.cloned() else {
            return self.visit.stop(Outcome::Overtaken(Reason::MarkerMissing));
        };
        let row = |key| Some(layout::row(key, data.item(key)?));
        let rows: Vec<Row> = self.visit.unwritten.iter().filter_map(row).collect();
        self.visit.found = Some(marker);
        if is_new {
            self.visit.steps.push_back(Step::Mark(Purpose::Announce(false)));
        }
        self.visit.upsert(&rows);
        if is_new {
            self.visit.steps.push_back(Step::Mark(Purpose::Settle));
        }
    }

    /// Notes that these items are stored, except contended ones.
    fn note_stored(&self, data: &DataSet, keys: &BTreeSet<ItemKey>) {
        let written = keys.difference(&self.visit.contended);
        self.orders.stored(written.filter_map(|key| Some((key, data.item(key)?.version))));
    }

    fn end_flush(&mut self) -> Then {
        match (self.visit.outcome, &self.visit.task.data) {
            (Outcome::InOrder, Some(data)) => {
                self.note_stored(data, &self.visit.unwritten);
                if !self.visit.contended.is_empty() {
                    Then::Retry
                } else if std::mem::take(&mut self.known.unwritten) {
                    Then::Compare(Reason::Failed)
                } else {
                    Then::Nothing
                }
            }
            // The store has lost its data, or a peer has refilled it: it is not known what else it
            // lacks.
            (Outcome::Overtaken(reason), _) => Then::Compare(reason),
            (Outcome::InOrder | Outcome::Left | Outcome::Loss(_) | Outcome::Unknown, _) => {
                Then::Nothing
            }
        }
    }

    fn end(&mut self, at: &Moment) -> End {
        match self.visit.due {
            Due::Compare(reason) => self.end_comparison(reason, at),
            Due::Flush => End::Flushed { then: self.end_flush() },
            Due::Look => End::Looked(match self.visit.outcome {
                Outcome::Loss(reason) | Outcome::Overtaken(reason) => Some(reason),
                Outcome::InOrder | Outcome::Left | Outcome::Unknown => None,
            }),
            Due::Verify => End::Verified { compare: self.visit.outcome != Outcome::InOrder },
        }
    }

    /// Begins the next step that has a call; ends the visit if there is none.
    fn go_on(&mut self, at: &Moment) -> Progress<Call> {
        while let Some(step) = self.visit.steps.pop_front() {
            let call = match &step {
                Step::Wait => {
                    return Progress::Wait(crate::replica::HERD_WAIT.mul_f64(at.random));
                }
                Step::Read => Some(Call::Read),
                Step::Look | Step::LookBeforeFill | Step::LookAfterFill => Some(Call::Look),
                Step::Fill(rows) => {
                    let note = self.note(self.visit.inventory, at);
                    Some(Call::Fill { rows: rows.clone(), note })
                }
                Step::Upsert(rows) => {
                    let condition = self.visit.found.clone().map(match self.visit.is_listed {
                        true => Condition::SameRows,
                        false => Condition::SameSet,
                    });
                    Some(Call::Upsert { rows: rows.clone(), condition })
                }
                Step::Correct(corrections) => Some(Call::Correct(corrections.clone())),
                Step::Mark(purpose) => {
                    self.mark(*purpose, at).map(|(found, note)| Call::Mark { found, note })
                }
            };
            if let Some(call) = call {
                self.visit.asked = Some(step);
                return Progress::Call(call);
            }
        }
        Progress::End(self.end(at))
    }
}

impl Visits for FlagVisits {
    type Call = Call;
    type Answer = Answer;
    type Effect = Effect;

    fn waiting(&self) -> Waiting {
        self.orders.waiting()
    }

    fn may_write(&self) -> bool {
        // Without LaunchDarkly nothing is written, so that nothing newer is overwritten.
        self.orders.waiting().live
    }

    fn is_second_look_ripe(&self, at: &Moment) -> bool {
        match self.orders.task().authority {
            Authority::Live { heard, .. } => self.doubts.are_ripe(heard, at.now),
            Authority::Provisional => true,
        }
    }

    fn not_live(&mut self) {
        self.doubts.clear();
        self.known.unsettled = false;
    }

    fn begin(&mut self, due: Due, at: &Moment) -> Progress<Call> {
        self.visit = Visit::new(due, self.orders.task());
        match due {
            Due::Compare(_) => {
                self.visit.unwritten = self.orders.dirty();
                self.known.was_read = false;
                self.visit.steps.push_back(Step::Read);
            }
            Due::Flush => self.begin_flush(),
            Due::Look | Due::Verify => self.visit.steps.push_back(Step::Look),
        }
        self.go_on(at)
    }

    fn answered(&mut self, answer: Answer, at: &Moment) -> Progress<Call> {
        self.take(answer, at);
        self.go_on(at)
    }

    fn waited(&mut self, at: &Moment) -> Progress<Call> {
        self.go_on(at)
    }

    fn ended(&mut self, in_doubt: bool, at: &Moment) {
        let (outcome, live) = (self.visit.outcome, self.visit.is_live());
        let is_told = match self.visit.due {
            Due::Compare(_) => matches!(outcome, Outcome::InOrder | Outcome::Left),
            Due::Flush | Due::Verify => outcome == Outcome::InOrder,
            Due::Look => false,
        };
        if !is_told {
            return;
        }
        let contended = self.visit.contended.len();
        if contended > 0 {
            let error = format!("other programs wrote to {contended} items at each attempt");
            return self.interrupted(error, at);
        }
        self.succeeded(in_doubt, at);
        if live && self.visit.due != Due::Verify {
            self.in_order(at);
        }
    }

    fn failed(&mut self, due: Due, error: &StoreError, at: &Moment) -> bool {
        self.tell_failure(error, at);
        let takes_no_writes = matches!(error, StoreError::Refused(_))
            && (due == Due::Flush || self.known.was_read)
            && self.orders.waiting().dirty;
        self.known.unwritten |= takes_no_writes;
        takes_no_writes
    }

    fn report(&mut self, in_doubt: bool) {
        self.orders.report_waiting();
        let in_doubt = in_doubt || self.known.unsettled;
        self.orders.report().update(|report| report.in_doubt = in_doubt);
    }

    fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    fn is_much(&self, answer: Option<&Answer>) -> bool {
        let items = match answer {
            Some(Answer::Read(stored)) => {
                stored.rows.len() + self.visit.task.data.as_ref().map_or(0, |data| data.len())
            }
            Some(
                Answer::Look(_)
                | Answer::Fill(_)
                | Answer::Upsert(_)
                | Answer::Correct(_)
                | Answer::Mark(_),
            ) => 0,
            None => self.orders.dirty_len(),
        };
        items > FEW_ITEMS
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::flagstore::shared::StoreFacts;
    use crate::flagstore::shared::orders::channel;
    use crate::flagstore::shared::report::SharedReport;
    use crate::model::{Item, ItemKind};
    use crate::storage::Health;

    fn identity(environment: &str) -> Option<Identity> {
        Some(Identity { environment: environment.into(), filter: "".into() })
    }

    /// Whether a change of an item that the store knows is written, where the marker that was seen
    /// last names this environment.
    fn is_change_written(marked_for: &str) -> bool {
        let at = Moment::present();
        let health = watch::Sender::new(Health::connected_at(at.now));
        let report = SharedReport::new(StoreFacts::default(), health.subscribe());
        let (flags, orders) = channel(report);
        let key = ItemKey::new(ItemKind::Flag, "a");
        let mut data = DataSet::default();
        data.upsert(&key, Arc::new(Item::live(1, "{}")));
        flags.put(Arc::new(data.clone()), at.now);
        orders.stored([(&key, 1)].into_iter());
        data.upsert(&key, Arc::new(Item::live(2, "{}")));
        flags.changed(Arc::new(data), [key]);

        let mut visits = FlagVisits::new(identity("e"), orders);
        let note = Note { identity: identity(marked_for), ..Note::default() };
        visits.known.marker = Some(Marker::read(note.value(None), 0));
        matches!(visits.begin(Due::Flush, &at), Progress::Call(Call::Upsert { .. }))
    }

    /// As when a peer of another environment was faster with an empty store that both filled.
    #[test]
    fn no_change_is_written_under_another_environments_name() {
        assert!(is_change_written("e"));
        assert!(!is_change_written("other"));
    }
}
