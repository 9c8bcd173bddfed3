//! Keeps a copy of an environment's data in a database equal to what is wanted.
//!
//! A copy is shared: other relays write to it, and it may lose its data at any time. So a relay
//! *visits* it: it looks, compares, writes and corrects, and each visit can be given up at any
//! moment, because what it did not do is still known to be missing.
//!
//! ```text
//! what is wanted ──▶ Replica ──Step::Call──▶ task ──▶ database
//!                      ▲  what it answered ────┘
//! ```
//!
//! [`Replica`] decides when a visit begins and what follows from how it ended; its schedule,
//! [`Doubts`] and [`Authority`] are its parts. A kind of copy says what one visit consists of
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

/// The present, as pure code is told of it.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// For pauses and ages.
    pub now: Instant,
    /// For what people and other processes read.
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

/// What the task does next.
#[derive(Debug)]
pub enum Step<C> {
    /// Ask the database, and tell what it answered.
    Call(C),
    /// Wait so long, and tell that the time has passed.
    Wait(Duration),
    /// Wait for something to happen.
    Rest,
}

/// How a visit goes on.
#[derive(Debug)]
pub enum Progress<C> {
    /// With this call.
    Call(C),
    /// With this pause.
    Wait(Duration),
    /// The visit has ended.
    End(End),
}

/// How a visit ended that got an answer each time it asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything that is stored was compared.
    Compared {
        /// Whether upstream was live when that was done.
        live: bool,
        /// Whether something waits for its second look.
        doubts: bool,
        /// What comes next.
        then: Then,
    },
    /// Changes were written.
    Flushed {
        /// What comes next.
        then: Then,
    },
    /// A look for signs of a loss found this.
    Looked(Option<Reason>),
    /// A look after a new connection found the same server with the same data, or not.
    Verified {
        /// True if only a comparison can tell.
        compare: bool,
    },
}

/// What follows from a visit that wrote or compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// Changes that were accepted can be written now.
    Flush,
    /// Others wrote to some items at each attempt: write these again soon.
    Retry,
    /// Compare at once, because what is stored may lack something.
    Compare(Reason),
    /// Compare again after a short random wait, because a peer was faster.
    Overtaken(Reason),
}

/// What waits to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// A whole data set that was not compared with what is stored.
    pub put: bool,
    /// Changed items.
    pub dirty: bool,
    /// Whether upstream is live.
    pub live: bool,
}

/// What a visit to one kind of copy consists of. Pure: no I/O, no clock, no tasks.
pub trait Visits {
    /// What the database is asked.
    type Call;
    /// What it answers.
    type Answer;
    /// What is told to others on the way: to the environment, to an operator.
    type Effect;

    /// What waits to be written.
    fn waiting(&self) -> Waiting;

    /// Whether what waits may be written before the end of the process.
    fn may_write(&self) -> bool;

    /// Whether a second look would settle anything now.
    fn is_second_look_ripe(&self, at: &Moment) -> bool;

    /// Upstream is no longer live.
    fn not_live(&mut self);

    /// Begins a visit.
    fn begin(&mut self, due: Due, at: &Moment) -> Progress<Self::Call>;

    /// Goes on after an answer.
    fn answered(&mut self, answer: Self::Answer, at: &Moment) -> Progress<Self::Call>;

    /// Goes on after a pause.
    fn waited(&mut self, at: &Moment) -> Progress<Self::Call>;

    /// The visit ended well, and what follows is scheduled. `in_doubt`: the copy may have lost
    /// something and is still to be compared for that.
    fn ended(&mut self, in_doubt: bool, at: &Moment);

    /// The visit failed. Returns true if the database answers and takes no writes: then reading it
    /// again before it takes them would show nothing new.
    fn failed(&mut self, due: Due, error: &StoreError, at: &Moment) -> bool;

    /// Reports the state of the copy, after whatever happened.
    fn report(&mut self, in_doubt: bool);

    /// What is to be told, in order. Called after each step.
    fn effects(&mut self) -> Vec<Self::Effect>;

    /// True if the next step handles so much data that it must not keep the runtime waiting.
    fn is_much(&self, answer: Option<&Self::Answer>) -> bool;
}
