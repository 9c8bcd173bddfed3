//! The publisher and its spool.

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Publisher, SpoolPlace};
use crate::events::lines::Effect;
use crate::events::post::Destination;
use crate::events::spool::task::{self, Answer, Order, Told};
use crate::events::spool::{Spool, SpoolLoss};
use crate::tasks::{TaskGroup, beside};
use crate::telemetry::Chain;

impl Publisher {
    /// Takes an answer of the spool.
    pub(super) fn on_told(&mut self, told: Told) -> Vec<Effect> {
        let Told { answer, loss, bytes, events } = told;
        self.note_loss(&loss);
        let mut problem = None;
        let effects = match answer {
            Answer::Done => Vec::new(),
            Answer::NotWritten(batches, why) => {
                problem = Some(why);
                self.lines.not_spooled(batches)
            }
            Answer::Loaded(destination, found) => {
                self.lines.loaded(&destination, found);
                Vec::new()
            }
            Answer::NotLoaded(destination, why) => {
                problem = Some(why);
                self.lines.not_loaded(&destination, Instant::now());
                Vec::new()
            }
        };
        let bytes_in_memory = self.lines.bytes() as u64;
        let mut is_news = false;
        self.report.update(|report| {
            is_news = report.spool_problem.is_none() != problem.is_none();
            report.bytes_on_disk = bytes;
            report.events_on_disk = events;
            report.bytes_in_memory = bytes_in_memory;
            report.spool_problem.clone_from(&problem);
        });
        match (is_news, problem) {
            (true, Some(problem)) => tracing::error!(
                problem,
                "events cannot be kept on disk; they wait in memory, and the newest are dropped \
                 when that is full"
            ),
            (true, None) => tracing::info!("events are kept on disk again"),
            (false, _) => {}
        }
        effects
    }

    /// Gives an order to the spool. If too many wait for the disk, it is as if the disk had failed.
    pub(super) fn order(&mut self, order: Order) -> Vec<Effect> {
        let sent = match &self.spool {
            Some(spool) => spool.orders.try_send(order).map_err(TrySendError::into_inner),
            None => Err(order),
        };
        match sent {
            Ok(()) => Vec::new(),
            Err(Order::Append(_, batches)) => self.lines.not_spooled(batches),
            Err(Order::Load(destination)) => {
                self.lines.not_loaded(&destination, Instant::now());
                Vec::new()
            }
            Err(Order::Delete(_) | Order::SetRing(_)) => Vec::new(),
        }
    }

    /// Opens the spool once it is known where, and follows its keys.
    pub(super) async fn on_place(
        &mut self,
        places: &mut watch::Receiver<Option<SpoolPlace>>,
        tasks: &mut TaskGroup,
    ) {
        let Some(SpoolPlace { directory, ring }) = places.borrow_and_update().clone() else {
            return;
        };
        if self.spool.is_some() {
            self.order(Order::SetRing(ring));
            return;
        }
        let limits = self.settings.spool;
        match beside(move || Spool::open(&directory, &ring, limits)).await {
            Ok(mut spool) => {
                self.note_loss(&spool.take_loss());
                let found: Vec<Destination> = spool.destinations().cloned().collect();
                if !found.is_empty() {
                    tracing::info!(events = spool.events(), "events of an earlier run are sent");
                }
                if spool.foreign() > 0 {
                    tracing::error!(
                        files = spool.foreign(),
                        "events of an earlier run are sealed under a key that is not configured; \
                         add it to AUTO_CONFIG_CACHE_PREVIOUS_ENCRYPTION_KEYS, or they are removed \
                         when they are too old"
                    );
                }
                self.lines.open_spool(found);
                let (end, task) = task::start(spool);
                tasks.spawn_many("event spool", task);
                self.spool = Some(end);
            }
            Err(error) => {
                let problem = Chain(&error).to_string();
                tracing::error!(problem, "events cannot be kept on disk");
                self.report.update(|report| report.spool_problem = Some(problem));
            }
        }
    }

    fn note_loss(&self, loss: &SpoolLoss) {
        let SpoolLoss { no_room, expired, unreadable } = *loss;
        let total = no_room + expired + unreadable;
        for (reason, events) in
            [("noRoom", no_room), ("expired", expired), ("unreadable", unreadable)]
        {
            self.report.lose(reason, events);
        }
        if total > 0 {
            tracing::warn!(no_room, expired, unreadable, "events on disk are lost");
        }
    }
}
