//! What a keeper tells of its store: to its environment, to `/status` and to the log.

use std::time::SystemTime;

use tokio::time::Instant;

use super::Keeper;
use crate::flagstore::backend::{FlagBackend, Row, StoredRows};
use crate::flagstore::shared::orders::Task;
use crate::flagstore::shared::reading::{SharedRead, judge};
use crate::flagstore::shared::reconcile::{Authority, Decision};
use crate::flagstore::shared::report::{Repopulation, SharedState};
use crate::flagstore::shared::schedule::Reason;
use crate::model::{DataSet, ItemKey};
use crate::storage::StoreError;
use crate::telemetry::Chain;

/// Most names of items in one log line.
const NAMES_MAX: usize = 10;

impl<B: FlagBackend> Keeper<B> {
    /// Tells the environment what is stored, while it has nothing better.
    pub(super) async fn tell(&self, stored: &StoredRows, task: &Task) {
        let mut undecodable: Vec<ItemKey> =
            stored.rows.iter().filter(|row| row.head.is_none()).map(|it| it.key.clone()).collect();
        undecodable.sort();
        let before = self.orders.report().get().undecodable;
        if undecodable.iter().any(|key| !before.contains(key)) {
            let names: Vec<String> =
                undecodable.iter().take(NAMES_MAX).map(ToString::to_string).collect();
            tracing::warn!(
                count = undecodable.len(),
                items = names.join(", "),
                "items of the shared flag store cannot be decoded; they are left out, unless \
                 another store has them, until LaunchDarkly answers and they are written anew"
            );
        }
        self.orders.report().update(|report| report.undecodable = undecodable);
        if task.authority != Authority::Provisional {
            self.orders.report().update(|report| report.problem = None);
            return;
        }
        let read = judge(stored, self.identity.as_ref());
        self.report_problem(&read);
        // An error means that the environment is going.
        let _ = self.reads.send(read).await;
    }

    /// Says once why what is stored cannot be served.
    fn report_problem(&self, read: &SharedRead) {
        let problem = match read {
            SharedRead::Incomplete { problem, .. } | SharedRead::Foreign { problem } => {
                Some(problem.clone())
            }
            SharedRead::Complete(_) | SharedRead::Absent | SharedRead::Failed(_) => None,
        };
        let before = self.orders.report().get().problem;
        if let Some(problem) = problem.as_ref().filter(|problem| before.as_ref() != Some(problem)) {
            tracing::warn!(problem, "the shared flag store cannot be served from");
        }
        self.orders.report().update(|report| report.problem = problem);
    }

    /// Items that are no longer served need no place in the database.
    pub(super) fn forget_dropped(&self, data: &DataSet) {
        self.orders.report().update(|report| {
            report.dropped.retain(|key, _| data.item(key).is_some_and(|it| !it.is_tombstone()));
        });
    }

    pub(super) fn report_left(&self, decision: &Decision) {
        let before = self.orders.report().get().left;
        if decision.left != before && decision.left != Default::default() {
            tracing::warn!(
                behind = decision.left.behind,
                ahead = decision.left.ahead,
                unmarked = decision.left.unmarked,
                "the shared flag store differs from what is served; it is left as it is until \
                 LaunchDarkly is there"
            );
        }
        self.orders.report().update(|report| report.left = decision.left);
    }

    pub(super) fn repopulated(&self, reason: Reason, items: u64) {
        tracing::warn!(
            items,
            reason = reason.as_str(),
            "the shared flag store had lost data; it was written again"
        );
        let at = SystemTime::now();
        self.orders.report().update(|report| {
            report.last_repopulation = Some(Repopulation { at, reason, items });
        });
    }

    pub(super) fn dropped(&self, row: &Row) {
        let bytes = row.json.len() as u64;
        let mut is_news = false;
        self.orders.report().update(|report| {
            is_news = report.dropped.insert(row.key.clone(), bytes) != Some(bytes);
        });
        if is_news {
            tracing::error!(
                item = %row.key,
                bytes,
                "this item is larger than the database takes; it is served from memory and not \
                 stored there"
            );
        }
    }

    /// Tells how much is left to do.
    pub(super) fn report_waiting(&self) {
        self.orders.report_waiting();
        let in_doubt = self.is_in_doubt();
        self.orders.report().update(|report| report.in_doubt = in_doubt);
    }

    /// The database answered.
    pub(super) fn succeeded(&mut self) {
        let left = self.orders.report().get().left;
        let is_whole = left.behind == 0 && !left.unmarked;
        if !is_whole {
            let lack = "it lacks items that this relay serves, or its marker; a relay that is \
                        connected to LaunchDarkly will write them";
            return self.interrupted(lack.to_owned());
        }
        let is_done = !self.orders.waiting().dirty && !self.is_in_doubt();
        if is_done && self.complained.take().is_some() {
            tracing::info!("the shared flag store is in use again");
        }
        self.orders.report().update(|report| {
            if is_done {
                if report.state != SharedState::Valid {
                    report.state = SharedState::Valid;
                    report.since = SystemTime::now();
                }
                report.error = None;
            }
        });
    }

    /// What LaunchDarkly said is stored.
    pub(super) fn in_order(&self) {
        if self.known.unsettled {
            return;
        }
        self.orders.report().update(|report| report.last_write = Some(SystemTime::now()));
    }

    pub(super) async fn failed(&mut self, error: &StoreError) {
        let text = match (error, &self.health.borrow().last_error) {
            (StoreError::CoolingDown, Some(last)) => format!("store is away: {last}"),
            _ => Chain(error).to_string(),
        };
        if self.complained.is_none() {
            tracing::warn!(
                error = text,
                "the shared flag store cannot be used; memory serves, and it is tried again in \
                 the background"
            );
        }
        self.complained = Some(text.clone());
        self.interrupted(text.clone());
        if !self.orders.waiting().live {
            let _ = self.reads.send(SharedRead::Failed(text)).await;
        }
    }

    /// Others wrote to some items at each attempt; they are tried again.
    pub(super) fn contended(&mut self, items: usize) {
        self.schedule.contended(Instant::now(), fastrand::f64());
        self.interrupted(format!("other programs wrote to {items} items at each attempt"));
    }

    fn interrupted(&self, error: String) {
        self.orders.report().update(|report| {
            if report.state != SharedState::Interrupted {
                report.state = SharedState::Interrupted;
                report.since = SystemTime::now();
            }
            report.error = Some(error);
        });
    }
}
