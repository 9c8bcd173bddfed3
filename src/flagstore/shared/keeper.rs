//! Connects the visits to a shared flag store with the database, the environment and the log.

use tokio::sync::{mpsc, watch};

use super::SharedRead;
use super::orders::Orders;
use super::visits::{Answer, Call, Effect, FlagVisits, Notice};
use crate::flagstore::backend::FlagBackend;
use crate::model::ItemKey;
use crate::replica::task::Surroundings;
use crate::storage::{Health, StoreError};

/// Most names of items in one log line.
const NAMES_MAX: usize = 10;

/// The surroundings of one store.
#[derive(Debug)]
pub(super) struct Keeper<B> {
    pub(super) backend: B,
    pub(super) orders: Orders,
    pub(super) reads: mpsc::Sender<SharedRead>,
    pub(super) health: watch::Receiver<Health>,
}

impl<B: FlagBackend> Surroundings<FlagVisits> for Keeper<B> {
    async fn told(&mut self, seen_epoch: u64) {
        tokio::select! {
            biased;
            () = self.orders.changed() => {}
            true = new_connection(&mut self.health, seen_epoch) => {}
            // The database's owner is gone; this task ends soon.
            else => std::future::pending().await,
        }
    }

    async fn call(&mut self, call: Call) -> Result<Answer, StoreError> {
        let backend = &self.backend;
        let answer = match call {
            Call::Read => backend.read().await.map(Answer::Read),
            Call::Look => backend.look().await.map(Answer::Look),
            Call::Fill { rows, note } => backend.fill(&rows, &note).await.map(Answer::Fill),
            Call::Upsert { rows, condition } => {
                backend.upsert(&rows, condition.as_ref()).await.map(Answer::Upsert)
            }
            Call::Correct(corrections) => backend.correct(&corrections).await.map(Answer::Correct),
            Call::Mark { found, note } => {
                backend.mark(found.as_ref(), &note).await.map(Answer::Mark)
            }
        };
        answer.map_err(|error| error.with_cause_of(&self.health.borrow()))
    }

    fn epoch(&mut self) -> u64 {
        self.health.borrow_and_update().connected_epoch
    }

    async fn carry_out(&mut self, effect: Effect) {
        match effect {
            // An error means that the environment's task has ended.
            Effect::Read(read) => drop(self.reads.send(read).await),
            Effect::Notice(notice) => log(notice),
        }
    }

    fn left_unwritten(&mut self) {
        tracing::warn!(
            "the last changes could not be written to the shared flag store; a relay that is \
             connected to LaunchDarkly will write them"
        );
    }
}

/// Waits until the database has another connection than at the last visit; false if the database's
/// owner is gone. Cancel-safe.
async fn new_connection(health: &mut watch::Receiver<Health>, seen: u64) -> bool {
    health.wait_for(|health| health.connected_epoch != seen).await.is_ok()
}

fn log(notice: Notice) {
    match notice {
        Notice::Undecodable(items) => {
            let names: Vec<String> = items.iter().take(NAMES_MAX).map(ItemKey::to_string).collect();
            tracing::warn!(
                count = items.len(),
                items = names.join(", "),
                "items of the shared flag store cannot be decoded; they are left out, unless \
                 another store has them, until LaunchDarkly answers and they are written anew"
            );
        }
        Notice::NotServable(problem) => {
            tracing::warn!(problem, "the shared flag store cannot be served from");
        }
        Notice::Unrepaired(found) => tracing::warn!(
            outdated_items = found.outdated_items,
            newer_items = found.newer_items,
            no_valid_marker = found.no_valid_marker,
            "the shared flag store differs from what is served; it is repaired when LaunchDarkly \
             can be reached"
        ),
        Notice::Repopulated { items, reason } => tracing::warn!(
            items,
            reason = reason.as_str(),
            "the shared flag store had lost data; it was written again"
        ),
        Notice::Corrected { items } => tracing::warn!(
            items,
            "the shared flag store held items that are not what LaunchDarkly says; they were \
             corrected"
        ),
        Notice::TooLarge { item, bytes } => tracing::error!(
            %item,
            bytes,
            "this item is larger than the database takes; it is served from memory and not \
             stored there"
        ),
        Notice::Failed(error) => tracing::warn!(
            error,
            "the shared flag store cannot be used; memory serves, and it is tried again in the \
             background"
        ),
        Notice::InUseAgain => tracing::info!("the shared flag store is in use again"),
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
