//! Decides when a copy is visited, and what follows from the end of a visit. Pure.

use tokio::time::Instant;

use super::schedule::{Due, HERD_WAIT, Reason, Schedule, Timing};
use super::{End, Moment, Progress, Step, Then, Visits, Waiting};
use crate::storage::StoreError;

/// One copy, as one relay keeps it.
#[derive(Debug)]
pub struct Replica<V> {
    visits: V,
    schedule: Schedule,
    visit: Option<Visit>,
    /// Count of connections at the last visit that got an answer: a new connection may lead to a
    /// database that lost its data.
    seen_epoch: u64,
    was_live: bool,
}

/// A visit under way.
#[derive(Clone, Copy, Debug)]
struct Visit {
    due: Due,
    /// Count of connections when it began. A connection that is made during it may lead to another
    /// database than the one that answered first.
    epoch: u64,
}

impl<V: Visits> Replica<V> {
    /// A copy that is visited at once.
    pub fn new(visits: V, timing: Timing, at: &Moment) -> Self {
        Self {
            visits,
            schedule: Schedule::new(timing, at.now),
            visit: None,
            seen_epoch: 0,
            was_live: false,
        }
    }

    /// The visits of this kind of copy.
    pub fn visits(&mut self) -> &mut V {
        &mut self.visits
    }

    /// Last known count of connections.
    pub fn seen_epoch(&self) -> u64 {
        self.seen_epoch
    }

    /// True if the next step handles so much data that it must not block a thread of the runtime.
    pub fn is_much(&self, answer: Option<&V::Answer>) -> bool {
        self.visits.is_much(answer)
    }

    /// Time of the next visit; `None` if none is planned until [`told`](Self::told) is called.
    pub fn next(&self) -> Option<Instant> {
        self.schedule.next().map(|(at, _)| at)
    }

    /// Notes that the wanted data or the connection to the database has changed.
    pub fn told(&mut self, epoch: u64, at: &Moment) {
        if epoch != self.seen_epoch {
            self.seen_epoch = epoch;
            self.schedule.reconnected(at.now, at.random);
        }
        let Waiting { put, dirty, live } = self.visits.waiting();
        if self.was_live && !live {
            self.visits.not_live();
            self.schedule.not_live(at.now, at.random);
        }
        if put {
            self.schedule.compare(at.now, Reason::Put);
        }
        if dirty && !put && live {
            self.schedule.flush(at.now);
        }
        self.was_live = live;
        self.report();
    }

    /// Begins the visit that is due.
    pub fn begin(&mut self, epoch: u64, at: &Moment) -> Step<V::Call> {
        let Some((_, due)) = self.schedule.next() else { return Step::Rest };
        if due == Due::Compare(Reason::SecondLook) && !self.visits.is_second_look_ripe(at) {
            self.schedule.look_later(at.now);
            return Step::Rest;
        }
        self.visit(due, epoch, at)
    }

    /// Begins a last visit before the end of the process, whatever the schedule says. Does nothing
    /// if nothing waits, or if what waits must not be written.
    pub fn begin_last(&mut self, epoch: u64, at: &Moment) -> Step<V::Call> {
        if !self.visits.may_write() {
            return Step::Rest;
        }
        let due = match self.visits.waiting() {
            Waiting { put: false, dirty: false, .. } => return Step::Rest,
            Waiting { put: true, .. } => Due::Compare(Reason::Put),
            Waiting { put: false, dirty: true, .. } => Due::Flush,
        };
        self.visit(due, epoch, at)
    }

    /// Continues the visit after a pause.
    pub fn waited(&mut self, epoch: u64, at: &Moment) -> Step<V::Call> {
        let progress = self.visits.waited(at);
        self.go_on(progress, epoch, at)
    }

    /// Continues the visit after the database answered or failed.
    pub fn answered(
        &mut self,
        answer: Result<V::Answer, StoreError>,
        epoch: u64,
        at: &Moment,
    ) -> Step<V::Call> {
        match answer {
            Ok(answer) => {
                let progress = self.visits.answered(answer, at);
                self.go_on(progress, epoch, at)
            }
            Err(error) => {
                self.failed(&error, at);
                Step::Rest
            }
        }
    }

    fn visit(&mut self, due: Due, epoch: u64, at: &Moment) -> Step<V::Call> {
        self.visit = Some(Visit { due, epoch });
        let progress = self.visits.begin(due, at);
        self.go_on(progress, epoch, at)
    }

    fn go_on(&mut self, progress: Progress<V::Call>, epoch: u64, at: &Moment) -> Step<V::Call> {
        match progress {
            Progress::Call(call) => Step::Call(call),
            Progress::Wait(pause) => Step::Wait(pause),
            Progress::End(end) => {
                let visit = self.visit.take();
                match (end, visit) {
                    (End::Unasked { live }, Some(Visit { due, .. })) => {
                        self.schedule.unasked(at.now, at.random, due, live);
                    }
                    (_, Some(Visit { epoch: 0, .. })) => {
                        // The very first connection is made by the visit itself.
                        self.seen_epoch = epoch.min(1);
                    }
                    (_, Some(Visit { epoch, .. })) => self.seen_epoch = epoch,
                    (_, None) => {}
                }
                self.ended(end, at);
                Step::Rest
            }
        }
    }

    fn ended(&mut self, end: End, at: &Moment) {
        let Moment { now, random, .. } = *at;
        match end {
            End::Compared { live, doubts, then } => {
                self.schedule.compared(now, random, live, doubts);
                self.then(then, at);
            }
            // What was planned for another reason stays.
            End::Unasked { .. } => {}
            End::Flushed { then } => {
                self.schedule.flushed();
                self.then(then, at);
            }
            End::Looked(loss) => {
                self.schedule.looked(now, random);
                if let Some(reason) = loss {
                    tracing::debug!(reason = reason.as_str(), "a stored copy is compared");
                    self.schedule.compare(now, reason);
                }
            }
            End::Verified { compare } => {
                self.schedule.verified();
                if compare {
                    self.schedule.compare(now, Reason::Reconnected);
                }
            }
        }
        self.visits.ended(self.schedule.is_in_doubt(), at);
        self.report();
    }

    fn then(&mut self, then: Then, at: &Moment) {
        match then {
            Then::Nothing => {}
            Then::Flush => self.schedule.flush(at.now),
            Then::Retry => self.schedule.contended(at.now, at.random),
            Then::Compare(reason) => self.schedule.compare(at.now, reason),
            Then::Overtaken(reason) => {
                // A random pause, so that not all relays compare at the same moment again.
                let pause = HERD_WAIT.mul_f64(0.5 + at.random.clamp(0.0, 1.0) / 2.0);
                self.schedule.compare(at.now + pause, reason);
            }
        }
    }

    fn failed(&mut self, error: &StoreError, at: &Moment) {
        if let Some(Visit { due, .. }) = self.visit.take() {
            let is_refused = self.visits.failed(due, error, at);
            // A relay that is not live writes no single items: it only fills an empty store, after
            // a comparison.
            if is_refused && self.visits.waiting().live {
                self.schedule.refused(at.now, at.random);
            } else {
                self.schedule.failed(at.now, at.random, due);
            }
        }
        self.report();
    }

    fn report(&mut self) {
        self.visits.report(self.schedule.is_in_doubt());
    }
}
