//! Keeps a copy of data in a database equal to the wanted data.
//!
//! A copy is shared: other relays write to it, and it may lose its data at any time. So a relay
//! *visits* it: it checks, compares, writes and corrects. A visit can be cancelled at any moment,
//! because what it did not do is still known to be missing.
//!
//! ```text
//! what is wanted ──▶ Replica ──Step::Call──▶ task ──▶ database
//!                      ▲  what it answered ────┘
//! ```
//!
//! [`Replica`] decides when a visit begins and what follows from its end; its schedule, [`Doubts`]
//! and [`Authority`] are its parts. Each kind of copy defines what one visit consists of
//! ([`Visits`]). All of that is pure. [`task`] is the one task around it.

mod authority;
mod core;
mod doubts;
mod schedule;
pub mod task;

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

pub use self::authority::{Authority, Heard};
#[cfg(test)]
pub use self::authority::{SECOND_LOOK, STREAM_LAG};
pub use self::core::Replica;
pub use self::doubts::Doubts;
pub use self::schedule::{Due, HERD_WAIT, Reason, Timing};
use crate::storage::StoreError;

/// The present moment, as input of pure code.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// For pauses and ages.
    pub now: Instant,
    /// For times that people and other processes read.
    pub wall: SystemTime,
    /// A random number from 0 to 1, so that relays do not act all at once.
    pub random: f64,
}

impl Moment {
    /// This moment.
    pub fn present() -> Self {
        Self { now: Instant::now(), wall: SystemTime::now(), random: fastrand::f64() }
    }
}

/// Next action of the task.
#[derive(Debug)]
pub enum Step<C> {
    /// Ask the database, and pass on the answer.
    Call(C),
    /// Wait for this time, and report that it has passed.
    Wait(Duration),
    /// Wait for something to happen.
    Rest,
}

/// Continuation of a visit.
#[derive(Debug)]
pub enum Progress<C> {
    /// A call.
    Call(C),
    /// A pause.
    Wait(Duration),
    /// The visit has ended.
    End(End),
}

/// End of a visit to which the database always answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything that is stored was compared.
    Compared {
        /// True if upstream was live at that time.
        live: bool,
        /// True if something waits for its second check.
        doubts: bool,
        /// The next step.
        then: Then,
    },
    /// The visit had nothing to do, and asked the database nothing.
    Unasked {
        /// True if upstream was live at that time.
        live: bool,
    },
    /// Changes were written.
    Flushed {
        /// The next step.
        then: Then,
    },
    /// A look for signs of a loss found this.
    Looked(Option<Reason>),
    /// A check after a new connection ended.
    Verified {
        /// True if it did not find the same server with the same data, so that only a comparison
        /// can tell.
        compare: bool,
    },
}

/// Consequence of a visit that wrote or compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// Changes that were accepted can be written now.
    Flush,
    /// Other writers changed some items at each attempt: write these again soon.
    Retry,
    /// Compare at once, because the copy may lack something.
    Compare(Reason),
    /// Compare again after a short random wait, because a peer was faster.
    Overtaken(Reason),
}

/// Data that waits to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// A whole data set that was not compared with the copy.
    pub put: bool,
    /// Changed items.
    pub dirty: bool,
    /// True if upstream is live.
    pub live: bool,
}

/// The visits to one kind of copy. Pure: no I/O, no clock, no tasks.
pub trait Visits {
    /// A request to the database.
    type Call;
    /// An answer of the database.
    type Answer;
    /// A message to others during a visit: to the environment, to the operator.
    type Effect;

    /// Data that waits to be written.
    fn waiting(&self) -> Waiting;

    /// True if what waits may be written before the end of the process.
    fn may_write(&self) -> bool;

    /// True if a second check would settle anything now.
    fn is_second_look_ripe(&self, at: &Moment) -> bool;

    /// Notes that upstream is no longer live.
    fn not_live(&mut self);

    /// Begins a visit.
    fn begin(&mut self, due: Due, at: &Moment) -> Progress<Self::Call>;

    /// Goes on after an answer.
    fn answered(&mut self, answer: Self::Answer, at: &Moment) -> Progress<Self::Call>;

    /// Goes on after a pause.
    fn waited(&mut self, at: &Moment) -> Progress<Self::Call>;

    /// Notes that the visit succeeded and what follows is scheduled. `in_doubt`: the copy may have
    /// lost something and is still to be compared for that.
    fn ended(&mut self, in_doubt: bool, at: &Moment);

    /// Notes that the visit failed. Returns true if the database answers but refuses writes: then
    /// reading it again before it accepts them would show nothing new.
    fn failed(&mut self, due: Due, error: &StoreError, at: &Moment) -> bool;

    /// Reports the state of the copy after each event.
    fn report(&mut self, in_doubt: bool);

    /// Takes the effects to carry out, in order. Called after each step.
    fn effects(&mut self) -> Vec<Self::Effect>;

    /// True if the next step handles so much data that it must not block a thread of the runtime.
    fn is_much(&self, answer: Option<&Self::Answer>) -> bool;
}
