//! Virtual time: what lies ahead, in order, and the trace of what has happened.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use tokio::time::Instant;

use super::scenario::Millis;
use crate::replica::Moment;

/// The virtual clock began at this second after 1970.
const BEGINNING: u64 = 1_764_000_000;

#[derive(Debug)]
pub struct Timeline<E> {
    pub rng: Rng,
    pub now: Millis,
    base: Instant,
    sequence: u64,
    queue: BinaryHeap<Reverse<(Millis, u64)>>,
    events: BTreeMap<u64, E>,
    is_traced: bool,
    trace: Vec<String>,
    problem: Option<String>,
}

impl<E> Timeline<E> {
    pub fn new(seed: u64, is_traced: bool) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            now: 0,
            base: Instant::now(),
            sequence: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            is_traced,
            trace: Vec::new(),
            problem: None,
        }
    }

    pub fn plan(&mut self, after: Millis, event: E) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now + after, self.sequence)));
        self.events.insert(self.sequence, event);
    }

    pub fn plan_around(&mut self, average: Millis, event: E) {
        let after = self.rng.u64(1..=2 * average);
        self.plan(after, event);
    }

    /// Takes back what was planned; returns it.
    pub fn take_back(&mut self, which: impl Fn(&E) -> bool) -> Vec<E> {
        self.events.extract_if(.., |_, event| which(event)).map(|(_, event)| event).collect()
    }

    /// The next event before `end`. Without one it is then that time.
    pub fn next(&mut self, end: Millis) -> Option<E> {
        while let Some(Reverse((at, sequence))) = self.queue.peek().copied() {
            if at > end {
                break;
            }
            self.queue.pop();
            self.now = at;
            if let Some(event) = self.events.remove(&sequence) {
                return Some(event);
            }
        }
        self.now = end;
        None
    }

    pub fn at(&mut self) -> Moment {
        Moment { now: self.instant(), wall: self.wall(), random: self.rng.f64() }
    }

    pub fn instant(&self) -> Instant {
        self.base + Duration::from_millis(self.now)
    }

    pub fn wall(&self) -> SystemTime {
        wall(self.now)
    }

    /// How long it is until then; at least a millisecond, because the clock of the cores is finer.
    pub fn until(&self, due: Instant) -> Millis {
        due.saturating_duration_since(self.instant()).as_millis() as Millis + 1
    }

    pub fn is_traced(&self) -> bool {
        self.is_traced
    }

    pub fn trace(&self) -> &[String] {
        &self.trace
    }

    /// Writes a line of the trace.
    pub fn line(&mut self, text: &str) {
        if self.is_traced {
            let (seconds, millis) = (self.now / 1_000, self.now % 1_000);
            self.trace.push(format!("{seconds:>4}.{millis:03} {text}"));
        }
    }

    /// A promise is broken.
    pub fn wrong(&mut self, problem: String) {
        self.line(&format!("WRONG: {problem}"));
        self.problem.get_or_insert(problem);
    }

    /// What was wrong first.
    pub fn take_problem(&mut self) -> Option<String> {
        self.problem.take()
    }
}

/// The virtual clock at a millisecond.
pub fn wall(now: Millis) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(BEGINNING * 1_000 + now)
}
