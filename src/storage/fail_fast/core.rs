//! What [`super::FailFast`] knows about its connections: pure, given the time.
//!
//! It dials nothing; it says which connection to use, which to drop and what the health is.

use std::sync::Arc;

use tokio::sync::OnceCell;
use tokio::time::{Duration, Instant};

use super::{IDLE_LIMIT, Lane, REFUSAL_MEMORY};
use crate::storage::StoreError;
use crate::storage::breaker::{Breaker, BreakerState, LastError};

/// What others may know about a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Who may use it.
    pub state: BreakerState,
    /// Since when it counts as available or as away.
    pub since: Instant,
    /// Whether a connection stands. Closed and not connected: not asked yet, or refused.
    pub connected: bool,
    /// Grows with each connection that was made after none stood: who sees it grow knows that
    /// the database may have been restarted or replaced.
    pub connected_epoch: u64,
    /// The newest failure, kept after recovery.
    pub last_error: Option<LastError>,
}

/// Connections, breaker and refusal of one database.
pub(super) struct Core<C> {
    pub(super) breaker: Breaker,
    generation: u64,
    lanes: Vec<LaneSlot<C>>,
    next_bulk: usize,
    connected_epoch: u64,
    /// The generation that the epoch was counted for.
    connected_generation: Option<u64>,
    /// The connection whose end is the end of all; the first lane's, if that has one.
    standing: Option<C>,
    refusal: Option<Refusal>,
}

struct LaneSlot<C> {
    cell: Arc<OnceCell<C>>,
    /// When the connection last answered; `None` before it was made.
    answered: Option<Instant>,
}

struct Refusal {
    until: Instant,
    text: Arc<str>,
}

/// A refusal that is repeated without asking again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct RepeatedRefusal(Arc<str>);

impl<C: Clone> Core<C> {
    pub(super) fn new(now: Instant, bulk_connections: usize) -> Self {
        Self {
            breaker: Breaker::new(now),
            generation: 1,
            lanes: empty_lanes(1 + bulk_connections),
            next_bulk: 0,
            connected_epoch: 0,
            connected_generation: None,
            standing: None,
            refusal: None,
        }
    }

    pub(super) fn health(&self) -> Health {
        Health {
            state: self.breaker.state(),
            since: self.breaker.since(),
            connected: self.connected_generation == Some(self.generation),
            connected_epoch: self.connected_epoch,
            last_error: self.breaker.last_error().cloned(),
        }
    }

    /// How long the database has been away.
    pub(super) fn away(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.breaker.since())
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn cell(&self, lane: usize) -> Arc<OnceCell<C>> {
        self.lanes[lane].cell.clone()
    }

    /// The connection whose end is to be noticed, with its generation.
    pub(super) fn standing(&self) -> Option<(u64, C)> {
        Some((self.generation, self.standing.clone()?))
    }

    /// The index of the connection for a call; bulk calls go round.
    pub(super) fn pick(&mut self, lane: Lane) -> usize {
        let bulk_lanes = self.lanes.len() - 1;
        match lane {
            Lane::Bulk if bulk_lanes > 0 => {
                self.next_bulk = (self.next_bulk + 1) % bulk_lanes;
                1 + self.next_bulk
            }
            Lane::First | Lane::Bulk => 0,
        }
    }

    /// Whether an ordinary call may dial.
    pub(super) fn admit(&self, now: Instant) -> Result<(), StoreError> {
        if !self.breaker.admits() {
            return Err(StoreError::CoolingDown);
        }
        match &self.refusal {
            Some(refusal) if now < refusal.until => {
                Err(StoreError::Refused(Box::new(RepeatedRefusal(refusal.text.clone()))))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the connection must be checked before use.
    pub(super) fn is_quiet(&self, lane: usize, now: Instant) -> bool {
        let answered = self.lanes[lane].answered;
        answered.is_some_and(|at| now.saturating_duration_since(at) >= IDLE_LIMIT)
    }

    pub(super) fn answered(&mut self, lane: usize, generation: u64, now: Instant) {
        if generation == self.generation {
            self.lanes[lane].answered = Some(now);
        }
    }

    pub(super) fn connected(&mut self, lane: usize, generation: u64, now: Instant, conn: &C) {
        self.forget_refusal();
        if generation != self.generation {
            return;
        }
        self.lanes[lane].answered = Some(now);
        if lane == 0 || self.standing.is_none() {
            self.standing = Some(conn.clone());
        }
        if self.connected_generation != Some(generation) {
            self.connected_generation = Some(generation);
            self.connected_epoch += 1;
        }
    }

    /// Takes over the connection of a successful probe as the only one.
    pub(super) fn adopt(&mut self, now: Instant, conn: C) {
        self.drop_all();
        self.connected(0, self.generation, now, &conn);
        self.lanes[0].cell = Arc::new(OnceCell::new_with(Some(conn)));
        self.breaker.on_probe_success(now);
    }

    pub(super) fn refused(&mut self, now: Instant, text: Arc<str>) {
        self.breaker.note(now, text.clone());
        self.refusal = Some(Refusal { until: now + REFUSAL_MEMORY, text });
    }

    pub(super) fn forget_refusal(&mut self) {
        self.refusal = None;
    }

    /// Drops the connections of a generation; says whether they were still in use.
    pub(super) fn drop_generation(&mut self, generation: u64) -> bool {
        let current = generation == self.generation;
        if current {
            self.drop_all();
        }
        current
    }

    pub(super) fn drop_all(&mut self) {
        self.generation += 1;
        self.standing = None;
        self.lanes = empty_lanes(self.lanes.len());
    }
}

fn empty_lanes<C>(count: usize) -> Vec<LaneSlot<C>> {
    (0..count).map(|_| LaneSlot { cell: Arc::new(OnceCell::new()), answered: None }).collect()
}
