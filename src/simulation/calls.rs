//! The calls of a task that keeps a copy, and what becomes of them.

use std::time::Duration;

use fastrand::Rng;

use super::scenario::Millis;
use crate::storage::StoreError;

/// Most calls of one task in a minute, whatever fails.
const CALLS_A_MINUTE_MAX: usize = 500;

/// A process of a relay: its number, and which of its incarnations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct To(pub usize, pub u64);

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    Resting,
    /// Waits for the answer to the call of this number.
    Calling(u64),
    /// Pauses within a visit.
    Waiting,
}

/// The calls of one task.
#[derive(Debug)]
pub struct Calls {
    pub doing: Doing,
    /// Calls so far.
    pub made: u64,
    /// The times of the calls in the last minute.
    recent: Vec<Millis>,
}

impl Calls {
    pub fn none() -> Self {
        Self { doing: Doing::Resting, made: 0, recent: Vec::new() }
    }

    /// Counts a call that begins now, and returns its number; an error if there are too many.
    pub fn begin(&mut self, now: Millis) -> Result<u64, String> {
        self.made += 1;
        self.recent.retain(|at| at + 60_000 > now);
        self.recent.push(now);
        self.doing = Doing::Calling(self.made);
        if self.recent.len() > CALLS_A_MINUTE_MAX {
            return Err(format!("{} calls in a minute", self.recent.len()));
        }
        Ok(self.made)
    }
}

/// What becomes of the answer to a call.
#[derive(Clone, Copy, Debug)]
pub enum Reply {
    After(Millis),
    /// It is lost, after so many rows were written where that can be.
    Lost(usize),
}

/// What becomes of a call.
#[derive(Debug)]
pub struct Fate {
    /// When the database carries it out.
    pub executions: Vec<(Millis, Reply)>,
    /// When the caller gives up, and why, if it does not get the answer.
    pub failure: Option<(Millis, StoreError)>,
}

impl Fate {
    /// Draws a fate. So many of a hundred calls go wrong while faults happen.
    pub fn draw(rng: &mut Rng, bad_calls: Option<u64>) -> Self {
        let (there, back) = (rng.u64(1..40), rng.u64(1..40));
        let is_bad = bad_calls.is_some_and(|percent| rng.u64(..100) < percent);
        let fate = if is_bad { rng.u8(1..6) } else { 0 };
        let slow = rng.u64(1_000..20_000);
        let timed_out = || Some((1_000, StoreError::TimedOut { budget: Duration::from_secs(1) }));
        let unheard = Reply::Lost(usize::MAX);
        let (executions, failure) = match fate {
            // It never reaches the database.
            1 => (vec![], Some((there, StoreError::Unreachable("reset".into())))),
            // It is carried out, in part where that can be, and the answer is lost.
            2 => (vec![(there, Reply::Lost(rng.usize(..6)))], timed_out()),
            // It is carried out long after it was given up.
            3 => (vec![(slow, unheard)], timed_out()),
            // It is carried out twice.
            4 => (vec![(there, Reply::After(back)), (slow, unheard)], None),
            // It is slow.
            5 => (vec![(slow / 20, Reply::After(back))], None),
            _ => (vec![(there, Reply::After(back))], None),
        };
        Self { executions, failure }
    }
}
