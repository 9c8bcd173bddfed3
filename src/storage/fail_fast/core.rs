//! The state of the connections of [`super::FailFast`]. Pure: the caller passes the time.
//!
//! It does not dial; it decides which connection to use, which to drop and what the health is.

use std::sync::Arc;

use tokio::sync::OnceCell;
use tokio::time::{Duration, Instant};

use super::{FIRST, IDLE_LIMIT, REFUSAL_MEMORY};
use crate::storage::breaker::{Breaker, BreakerState, LastError};
use crate::storage::{Meter, StoreError};

/// The health of a database, as other modules see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The state of its breaker.
    pub state: BreakerState,
    /// The time since which it is available or unavailable.
    pub since: Instant,
    /// True if a connection is open. Closed and not connected means: not used yet, or refused.
    pub connected: bool,
    /// Grows when the database may have been restarted or replaced: with each connection that was
    /// made when none was open, and when the database ended a connection and the next one leads to
    /// a database of another or of an unknown identity.
    pub connected_epoch: u64,
    /// The newest failure, kept after recovery.
    pub last_error: Option<LastError>,
}

#[cfg(test)]
impl Health {
    /// A database with its first connection, for tests of code that follows the health.
    pub fn connected_at(now: Instant) -> Self {
        Self {
            state: BreakerState::Closed,
            since: now,
            connected: true,
            connected_epoch: 1,
            last_error: None,
        }
    }
}

/// Connections, breaker and refusal of one database.
pub(super) struct Core<C> {
    pub(super) breaker: Breaker,
    generation: u64,
    lanes: Vec<LaneSlot<C>>,
    /// The group of the meters of all bulk calls.
    bulk_meter: Meter,
    /// The identity of the database, as of `identified_generation`.
    identity: Option<String>,
    identified_generation: Option<u64>,
    /// True after the database ended a connection, until its identity is known again.
    is_doubted: bool,
    connected_epoch: u64,
    connections: u64,
    /// The generation that the epoch was counted for.
    connected_generation: Option<u64>,
    /// The connection whose end is watched: the first lane's, if that has one.
    standing: Option<Standing<C>>,
    refusal: Option<Refusal>,
}

/// A connection whose end is watched.
#[derive(Clone)]
pub(super) struct Standing<C> {
    pub(super) generation: u64,
    pub(super) lane: usize,
    pub(super) conn: C,
}

struct LaneSlot<C> {
    cell: Arc<OnceCell<C>>,
    /// Counts the bytes of its successive connections.
    meter: Meter,
    /// True while a bulk call has it exclusively.
    is_taken: bool,
    /// The time of the connection's last answer; `None` before it was made.
    answered: Option<Instant>,
}

struct Refusal {
    until: Instant,
    text: Arc<str>,
}

/// A refusal that is repeated without dialling again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct RepeatedRefusal(Arc<str>);

impl<C: Clone> Core<C> {
    pub(super) fn new(now: Instant, bulk_connections: usize) -> Self {
        let bulk_meter = Meter::default();
        let lane =
            |meter| LaneSlot { cell: Arc::default(), meter, is_taken: false, answered: None };
        let first = std::iter::once(Meter::default());
        let meters = first.chain((0..bulk_connections).map(|_| bulk_meter.sibling()));
        Self {
            breaker: Breaker::new(now),
            generation: 1,
            lanes: meters.map(lane).collect(),
            bulk_meter,
            identity: None,
            identified_generation: None,
            is_doubted: false,
            connected_epoch: 0,
            connections: 0,
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

    /// The number of connections for small calls that were made.
    pub(super) fn connections(&self) -> u64 {
        self.connections
    }

    /// The time for which the database has been unavailable.
    pub(super) fn away(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.breaker.since())
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn cell(&self, lane: usize) -> Arc<OnceCell<C>> {
        self.lanes[lane].cell.clone()
    }

    /// The connection whose end is watched.
    pub(super) fn standing(&self) -> Option<Standing<C>> {
        self.standing.clone()
    }

    /// The meter of the lane's connections.
    pub(super) fn meter(&self, lane: usize) -> Meter {
        self.lanes[lane].meter.clone()
    }

    /// A meter for one bulk call on a shared connection.
    pub(super) fn bulk_meter(&self) -> Meter {
        self.bulk_meter.sibling()
    }

    /// Bytes that all bulk calls together have received so far.
    pub(super) fn arrived(&self) -> u64 {
        self.bulk_meter.arrived()
    }

    /// Takes a lane for a bulk call: the first free one, so that a relay with little load keeps few
    /// connections. If bulk calls have no connections of their own, it is the first lane, which is
    /// shared.
    pub(super) fn take_lane(&mut self) -> usize {
        let free = self.lanes.iter().skip(1).position(|lane| !lane.is_taken);
        let lane = free.map_or(FIRST, |place| 1 + place);
        self.lanes[lane].is_taken = true;
        lane
    }

    /// Gives a lane back. Its connection is dropped if it may still be busy with the call.
    pub(super) fn give_back(&mut self, lane: usize, is_usable: bool) {
        self.lanes[lane].is_taken = false;
        if !is_usable && lane != FIRST {
            self.drop_connection(lane);
        }
    }

    /// Handles that the database has ended the connection of a lane, or all of them. The lane's is
    /// dropped, so that the next call dials, and the identity of the database must be checked.
    pub(super) fn connection_ended(&mut self, lane: usize, generation: u64) {
        if generation == self.generation {
            self.drop_connection(lane);
            self.is_doubted = true;
        }
    }

    /// Handles that the connection of a lane did not answer a check before use. For the connection
    /// of small calls, all connections are dropped, unless bulk calls received bytes meanwhile
    /// (`is_busy`). If bulk calls share that connection, it is then alive.
    pub(super) fn was_mute(&mut self, lane: usize, generation: u64, now: Instant, is_busy: bool) {
        if lane == FIRST && !is_busy {
            self.drop_generation(generation);
        } else if lane == FIRST && self.is_first_shared() {
            self.answered(lane, generation, now);
        } else if generation == self.generation {
            self.drop_connection(lane);
        }
    }

    /// True if bulk calls use the connection of small calls.
    fn is_first_shared(&self) -> bool {
        self.lanes.len() == 1
    }

    /// Handles a small call that ran out of time while bulk calls received bytes: the database is
    /// available. At most the call's own connection is dropped, if it has answered no call since
    /// `began`.
    pub(super) fn was_late(
        &mut self,
        generation: u64,
        began: Instant,
        now: Instant,
        text: Arc<str>,
    ) {
        self.breaker.note(now, text);
        let is_mute = self.lanes[FIRST].answered.is_some_and(|at| at < began);
        if generation == self.generation && is_mute && !self.is_first_shared() {
            self.drop_connection(FIRST);
        }
    }

    fn drop_connection(&mut self, lane: usize) {
        let slot = &mut self.lanes[lane];
        (slot.cell, slot.answered) = (Arc::default(), None);
        if self.standing.as_ref().is_some_and(|standing| standing.lane == lane) {
            self.standing = None;
        }
    }

    /// True if the identity of the database need not be checked.
    pub(super) fn is_identified(&self) -> bool {
        let is_connected = self.connected_generation == Some(self.generation);
        let is_known = self.identified_generation == Some(self.generation);
        !is_connected || (is_known && !self.is_doubted)
    }

    /// True if the database ended a connection since its identity was last checked.
    pub(super) fn is_doubted(&self) -> bool {
        self.is_doubted
    }

    /// Handles the identity of the database, from a connection of this generation.
    pub(super) fn identified(&mut self, generation: u64, identity: Option<String>) {
        if generation != self.generation {
            return;
        }
        let is_same = identity.is_some() && identity == self.identity;
        if self.is_doubted && !is_same {
            self.connected_epoch += 1;
        }
        self.is_doubted = false;
        self.identity = identity;
        self.identified_generation = Some(generation);
    }

    /// Decides if an ordinary call may dial.
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

    /// True if the connection must be checked before use.
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
        self.connections += u64::from(lane == FIRST);
        if lane == FIRST || self.standing.is_none() {
            self.standing = Some(Standing { generation, lane, conn: conn.clone() });
        }
        if self.connected_generation != Some(generation) {
            self.connected_generation = Some(generation);
            self.connected_epoch += 1;
        }
    }

    /// Makes the connection of a successful probe the only one.
    pub(super) fn adopt(&mut self, now: Instant, conn: C) {
        self.drop_all();
        self.connected(FIRST, self.generation, now, &conn);
        self.lanes[FIRST].cell = Arc::new(OnceCell::new_with(Some(conn)));
        self.breaker.on_probe_success(now);
    }

    pub(super) fn refused(&mut self, now: Instant, text: Arc<str>) {
        self.breaker.note(now, text.clone());
        self.refusal = Some(Refusal { until: now + REFUSAL_MEMORY, text });
    }

    pub(super) fn forget_refusal(&mut self) {
        self.refusal = None;
    }

    /// Drops the connections of a generation; returns true if they were in use.
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
        // The next connection begins a new epoch anyway.
        self.is_doubted = false;
        for slot in &mut self.lanes {
            (slot.cell, slot.answered) = (Arc::default(), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database with connection 1 for small calls, and 2 for bulk calls if they have their own.
    fn connected(bulk_connections: usize, now: Instant) -> Core<u32> {
        let mut core = Core::new(now, bulk_connections);
        for (lane, number) in (0..=bulk_connections).zip(1..) {
            core.cell(lane).set(number).unwrap();
            core.connected(lane, 1, now, &number);
        }
        core
    }

    /// The remaining connections, and true if the database is not connected.
    fn left(core: &Core<u32>) -> (Vec<Option<u32>>, bool) {
        let conns = (0..core.lanes.len()).map(|lane| core.cell(lane).get().copied()).collect();
        (conns, !core.health().connected)
    }

    #[test]
    fn what_a_mute_connection_costs() {
        let now = Instant::now();
        let check = |bulk_connections, is_busy, expected: (Vec<Option<u32>>, bool)| {
            let mut core = connected(bulk_connections, now);
            core.was_mute(FIRST, 1, now + IDLE_LIMIT, is_busy);
            assert_eq!(left(&core), expected, "{bulk_connections} {is_busy}");
            core.was_mute(FIRST, 0, now + IDLE_LIMIT, is_busy);
            assert_eq!(left(&core), expected, "one of an earlier generation");
            assert!(!core.is_quiet(FIRST, now + IDLE_LIMIT), "it is not checked again at once");
        };
        check(1, false, (vec![None, None], true));
        check(1, true, (vec![None, Some(2)], false));
        check(0, false, (vec![None], true));
        check(0, true, (vec![Some(1)], false));
    }

    #[test]
    fn what_a_late_call_costs() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let check = |bulk_connections, generation, answered, expected: Vec<Option<u32>>| {
            let mut core = connected(bulk_connections, now);
            core.answered(FIRST, 1, after(answered));
            core.was_late(generation, after(5), after(35), "late".into());
            assert_eq!(
                left(&core),
                (expected, false),
                "{bulk_connections} {generation} {answered}"
            );
            assert!(core.breaker.admits());
            assert_eq!(core.health().connected_epoch, 1);
            assert_eq!(&*core.health().last_error.unwrap().text, "late");
        };
        check(1, 1, 4, vec![None, Some(2)]);
        check(1, 1, 5, vec![Some(1), Some(2)]);
        check(1, 0, 4, vec![Some(1), Some(2)]);
        check(0, 1, 4, vec![Some(1)]);
    }
}
