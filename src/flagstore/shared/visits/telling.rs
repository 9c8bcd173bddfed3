//! Reports of a visit: to the environment, to `/status`, and to the operator.

use super::FlagVisits;
use crate::flagstore::backend::StoredRows;
use crate::flagstore::shared::reading::{SharedRead, judge};
use crate::flagstore::shared::reconcile::Unrepaired;
use crate::flagstore::shared::report::{Repopulation, SharedState};
use crate::model::ItemKey;
use crate::replica::{Moment, Reason};
use crate::storage::StoreError;
use crate::telemetry::Chain;

/// A report to others.
#[derive(Debug)]
pub enum Effect {
    /// The content of the store, for the environment.
    Read(SharedRead),
    /// A notice for the operator.
    Notice(Notice),
}

/// A notice for the operator.
#[derive(Debug)]
pub enum Notice {
    /// Stored items cannot be decoded.
    Undecodable(Vec<ItemKey>),
    /// The stored data cannot be served.
    NotServable(String),
    /// A relay that is not live found differences.
    Unrepaired(Unrepaired),
    /// Lost data was written again.
    Repopulated { items: u64, reason: Reason },
    /// Items that should not be there were replaced or removed.
    Corrected { items: usize },
    /// The database does not accept this item.
    TooLarge { item: ItemKey, bytes: u64 },
    /// The store cannot be used.
    Failed(String),
    /// It can be used again.
    InUseAgain,
}

impl FlagVisits {
    pub(super) fn tell(&mut self, notice: Notice) {
        self.effects.push(Effect::Notice(notice));
    }

    /// Reports the rows that were read; to the environment only while upstream is not live.
    pub(super) fn tell_read(&mut self, stored: &StoredRows) {
        let rows = stored.rows.iter().filter(|row| row.head.is_none());
        let mut undecodable: Vec<ItemKey> = rows.map(|row| row.key.clone()).collect();
        undecodable.sort();
        let before = self.orders.report().get();
        if undecodable.iter().any(|key| !before.undecodable.contains(key)) {
            self.tell(Notice::Undecodable(undecodable.clone()));
        }
        self.orders.report().update(|report| report.undecodable = undecodable);
        let mut problem = None;
        if !self.visit.is_live() {
            let read = judge(stored, self.identity.as_ref());
            problem = match &read {
                SharedRead::Incomplete { problem, .. } | SharedRead::Foreign { problem } => {
                    Some(problem.clone())
                }
                SharedRead::Complete(_) | SharedRead::Absent | SharedRead::Failed(_) => None,
            };
            self.effects.push(Effect::Read(read));
        }
        if let Some(problem) = problem.clone().filter(|it| before.problem.as_ref() != Some(it)) {
            self.tell(Notice::NotServable(problem));
        }
        self.orders.report().update(|report| report.problem = problem);
    }

    pub(super) fn tell_unrepaired(&mut self, found: Unrepaired) {
        if found != self.orders.report().get().unrepaired && found != Unrepaired::default() {
            self.tell(Notice::Unrepaired(found));
        }
        self.orders.report().update(|report| report.unrepaired = found);
    }

    pub(super) fn tell_repopulation(&mut self, reason: Reason, items: u64, at: &Moment) {
        self.tell(Notice::Repopulated { items, reason });
        let at = at.wall;
        self.orders.report().update(|report| {
            report.last_repopulation = Some(Repopulation { at, reason, items });
        });
    }

    /// Notes that the database answered. `in_doubt`: the store may have lost something and is still
    /// to be compared for that.
    pub(super) fn succeeded(&mut self, in_doubt: bool, at: &Moment) {
        let found = self.orders.report().get().unrepaired;
        if found.outdated_items > 0 || found.no_valid_marker {
            let lack = "it lacks items that this relay serves, or its marker; a relay that is \
                        connected to LaunchDarkly will write them";
            return self.interrupted(lack.to_owned(), at);
        }
        if self.orders.waiting().dirty || in_doubt || self.known.unsettled {
            return;
        }
        if std::mem::take(&mut self.complained) {
            self.tell(Notice::InUseAgain);
        }
        self.orders.report().update(|report| {
            if report.state != SharedState::Valid {
                report.state = SharedState::Valid;
                report.since = at.wall;
            }
            report.error = None;
        });
    }

    /// Notes that the data from LaunchDarkly is stored.
    pub(super) fn in_order(&self, at: &Moment) {
        if !self.known.unsettled {
            self.orders.report().update(|report| report.last_write = Some(at.wall));
        }
    }

    pub(super) fn tell_failure(&mut self, error: &StoreError, at: &Moment) {
        let text = Chain(error).to_string();
        if !std::mem::replace(&mut self.complained, true) {
            self.tell(Notice::Failed(text.clone()));
        }
        self.interrupted(text.clone(), at);
        if !self.orders.waiting().live {
            self.effects.push(Effect::Read(SharedRead::Failed(text)));
        }
    }

    pub(super) fn interrupted(&self, error: String, at: &Moment) {
        self.orders.report().update(|report| {
            if report.state != SharedState::Interrupted {
                report.state = SharedState::Interrupted;
                report.since = at.wall;
            }
            report.error = Some(error);
        });
    }
}
