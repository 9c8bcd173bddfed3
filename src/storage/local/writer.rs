//! The thread that writes.
//!
//! Its loop: wait until something is due, write everything that waits in one transaction, and see
//! to what went wrong. All reasons to wake are in [`Writer::wait`]. When nothing waits and the file
//! may hold what an older key opens, it is written anew, a portion at a time (`rewrite.rs`).
//!
//! What is done about a failure:
//!
//! | failure | at once | then |
//! | --- | --- | --- |
//! | the disk refuses | the file is opened anew, so that it can be read | tried again with pauses |
//! | damage, for the first time | the file is opened anew | tried again at once |
//! | damage again | the file is set aside, an empty one made | all known sets are stored again |
//! | somebody removed the file | it is made anew, with its directory | all known sets are stored again |
//! | a reader found damage | nothing: the rest of the file can still be read | as damage again, when there is something to store |

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::batch::{BatchWriter, Written};
use super::database::{Fault, FaultKind, Opening};
use super::directory::Directory;
use super::pending::{Batch, NamedWork};
use super::rewrite::Rewrite;
use super::sets;
use super::shared::Shared;
use super::{LocalStoreError, Problem, TRANSACTION_BYTES, Timing, named};

/// Pause before sealing anew is tried again after a failure.
const RESEAL_RETRY: Duration = Duration::from_secs(60);

/// Immediate attempts after damage: one on the file opened anew, one on the new file.
const DAMAGE_ATTEMPTS: u32 = 2;

/// Starts the thread.
pub(super) fn start(
    directory: Directory,
    shared: Arc<Shared>,
    timing: Timing,
) -> std::io::Result<()> {
    let writer = Writer {
        directory,
        shared: shared.clone(),
        timing,
        first_seen: None,
        retry_at: None,
        failures: 0,
        damages: 0,
        reseal: Reseal::Waiting { until: None },
    };
    let thread = std::thread::Builder::new().name("local-store".to_owned());
    thread.spawn(move || {
        // Whatever happens in there, whoever waits for the end is told.
        let _ = catch_unwind(AssertUnwindSafe(|| writer.run()));
        shared.holder.close();
        shared.update(|status| status.available = false);
        shared.set_ended();
    })?;
    Ok(())
}

/// What the thread does next.
enum Turn {
    Commit,
    Reseal,
    Reopen,
    End,
}

/// How far sealing anew has come.
enum Reseal {
    Done,
    /// Until then; `None`: from the first time that the thread looks.
    Waiting {
        until: Option<Instant>,
    },
    Rewriting(Box<Rewrite>),
}

struct Writer {
    directory: Directory,
    shared: Arc<Shared>,
    timing: Timing,
    /// When the thread first saw what waits.
    first_seen: Option<Instant>,
    /// Not before then, after a failure.
    retry_at: Option<Instant>,
    failures: u32,
    damages: u32,
    reseal: Reseal,
}

impl Writer {
    fn run(mut self) {
        loop {
            match self.wait() {
                Turn::Commit => self.commit(),
                Turn::Reseal => self.reseal(),
                Turn::Reopen => self.reopen(),
                Turn::End => return,
            }
        }
    }

    fn wait(&mut self) -> Turn {
        let shared = self.shared.clone();
        let mut requests = shared.requests();
        loop {
            let now = Instant::now();
            if std::mem::take(&mut requests.ring_changed) {
                self.reseal = Reseal::Waiting { until: None };
            }
            if std::mem::take(&mut requests.reopen) {
                return Turn::Reopen;
            }
            if requests.gave_up {
                return Turn::End;
            }
            let idle = requests.pending.is_empty();
            if idle {
                self.first_seen = None;
                for done in requests.flushes.drain(..) {
                    let _ = done.send(true);
                }
                if requests.stop {
                    return Turn::End;
                }
            }
            let due = self.commit_due(now, idle, requests.stop || !requests.flushes.is_empty());
            if due.is_some_and(|due| due <= now) {
                return Turn::Commit;
            }
            let reseal = if idle && self.retry_at.is_none() { self.reseal_due(now) } else { None };
            if reseal.is_some_and(|due| due <= now) {
                return Turn::Reseal;
            }
            let next = [due, reseal].into_iter().flatten().min();
            requests = shared.wait(requests, next.map(|next| next.duration_since(now)));
        }
    }

    fn commit_due(&mut self, now: Instant, idle: bool, hurried: bool) -> Option<Instant> {
        match (hurried && !idle, self.retry_at) {
            (true, _) => Some(now),
            // Also with nothing waiting: the pause ends when a transaction succeeds.
            (false, Some(retry)) => Some(retry),
            (false, None) if idle => None,
            (false, None) => Some(*self.first_seen.get_or_insert(now) + self.timing.commit_delay),
        }
    }

    fn reseal_due(&mut self, now: Instant) -> Option<Instant> {
        match &mut self.reseal {
            Reseal::Done => None,
            Reseal::Waiting { until } => {
                Some(*until.get_or_insert_with(|| now + self.timing.reseal_delay))
            }
            Reseal::Rewriting(_) => Some(now),
        }
    }

    /// Writes what waits.
    fn commit(&mut self) {
        let damage = {
            let mut requests = self.shared.requests();
            if requests.pending.is_empty() { None } else { requests.damage.take() }
        };
        if !self.directory.is_in_place() {
            {
                let mut requests = self.shared.requests();
                if requests.unwatched {
                    requests.gave_up = true;
                    return;
                }
            }
            self.begin_again();
        } else if let Some(fault) = damage {
            self.recreate(&fault);
        }
        let (batch, flushes, stopping) = {
            let mut requests = self.shared.requests();
            let batch = requests.pending.take();
            requests.in_flight = batch.sets.len() + batch.named.len();
            (batch, std::mem::take(&mut requests.flushes), requests.stop)
        };
        self.first_seen = None;
        let result = self.write(&batch);
        match result {
            Ok(written) => self.committed(batch, &written, flushes),
            Err(fault) => self.not_committed(batch, &fault, flushes, stopping),
        }
    }

    fn write(&self, batch: &Batch) -> Result<Written, Fault> {
        self.checked()?;
        let begun = Instant::now();
        self.shared
            .holder
            .with(|open| {
                let ring = &self.shared.ring();
                open.commit(&[ring.current().id()].into(), |tables| {
                    let writer = BatchWriter { shared: &self.shared, open, ring };
                    writer.apply(tables, batch, |bytes| {
                        bytes > TRANSACTION_BYTES || begun.elapsed() > self.timing.transaction_time
                    })
                })
            })
            .unwrap_or_else(|| Err(no_file()))
    }

    /// Makes sure that the file can be written to.
    fn checked(&self) -> Result<(), Fault> {
        self.shared.holder.check(&self.directory).unwrap_or_else(|| Err(no_file()))
    }

    fn committed(
        &mut self,
        mut batch: Batch,
        written: &Written,
        flushes: Vec<oneshot::Sender<bool>>,
    ) {
        (self.failures, self.damages, self.retry_at) = (0, 0, None);
        let left = batch.sets.split_off(written.sets);
        self.shared.stored(batch.retained.as_deref(), &batch.sets);
        {
            let mut requests = self.shared.requests();
            requests.in_flight = 0;
            requests.failing = false;
            if !left.is_empty() {
                // They have waited long enough already.
                let now = Instant::now();
                self.first_seen = now.checked_sub(self.timing.commit_delay).or(Some(now));
                requests.pending.put_back(left);
            }
            let pending = requests.pending.len();
            requests.flushes.splice(0..0, flushes);
            drop(requests);
            self.shared.update(|status| {
                status.pending = pending;
                status.last_commit = Some(SystemTime::now());
                status.problem = None;
                status.available = true;
            });
        }
        for NamedWork { done, .. } in batch.named {
            let _ = done.send(Ok(()));
        }
        let current = self.shared.ring().current().id();
        let others = self.shared.holder.keys().and_then(|keys| keys.sealed);
        let has_others = others.is_none_or(|keys| keys.iter().any(|key| *key != current));
        if matches!(self.reseal, Reseal::Done) && has_others {
            // The last records under another key may be gone: they are counted again.
            self.reseal = Reseal::Waiting { until: None };
        }
    }

    fn not_committed(
        &mut self,
        batch: Batch,
        fault: &Fault,
        flushes: Vec<oneshot::Sender<bool>>,
        stopping: bool,
    ) {
        {
            let mut requests = self.shared.requests();
            requests.in_flight = 0;
            requests.pending.put_back(batch.sets);
            requests.pending.put_back_retained(batch.retained);
        }
        for NamedWork { done, .. } in batch.named {
            let _ = done.send(Err(LocalStoreError::from(fault.clone())));
        }
        let again = self.see_to(fault);
        // Whoever wants it stored now learns that it is not, unless it is tried again now.
        let mut requests = self.shared.requests();
        if again {
            requests.flushes.splice(0..0, flushes);
        } else {
            for done in flushes {
                let _ = done.send(false);
            }
            if stopping {
                // What is left is counted by `status`, for whoever closes the store.
                requests.gave_up = true;
            }
        }
    }

    /// Takes note of a failure and does what can be done about it. Returns whether it makes sense
    /// to try again at once.
    fn see_to(&mut self, fault: &Fault) -> bool {
        self.failures += 1;
        let problem =
            Problem { text: fault.to_string(), at: SystemTime::now(), failures: self.failures };
        self.shared.update(|status| status.problem = Some(problem));
        let at_once = match fault.kind {
            FaultKind::Damaged | FaultKind::OtherFormat => {
                self.damages += 1;
                if self.damages == 1 {
                    self.reopen()
                } else {
                    self.recreate(fault)
                }
                self.damages <= DAMAGE_ATTEMPTS
            }
            FaultKind::Changed => {
                self.damages += 1;
                self.recreate(fault);
                self.damages <= DAMAGE_ATTEMPTS
            }
            FaultKind::Handle => {
                self.reopen();
                self.failures == 1
            }
            FaultKind::Io | FaultKind::InUse => {
                self.reopen();
                false
            }
        };
        let now = Instant::now();
        let pause = if at_once {
            Duration::ZERO
        } else {
            self.timing.retry.delay(self.failures, fastrand::f64())
        };
        self.retry_at = Some(now + pause);
        let mut requests = self.shared.requests();
        requests.failing = !at_once;
        let pending = requests.pending.len();
        drop(requests);
        self.shared.update(|status| status.pending = pending);
        at_once
    }

    /// Opens the file anew. One that does not open any more is replaced.
    fn reopen(&mut self) {
        match self.shared.holder.open(&self.directory, &self.shared.ring()) {
            Ok(Opening::Found) => self.shared.update(|status| status.available = true),
            Ok(Opening::Made) => self.replaced(None),
            Ok(Opening::Replaced(set_aside)) => self.replaced(Some(set_aside)),
            Err(error) => self.not_open(&error),
        }
    }

    /// Somebody removed the file under our feet: what is written to it would go with this process.
    fn begin_again(&mut self) {
        match self.directory.hold_again() {
            Ok(()) => self.reopen(),
            Err(error) => {
                self.shared.holder.close();
                self.not_open(&error);
            }
        }
    }

    fn recreate(&mut self, fault: &Fault) {
        match self.shared.holder.recreate(&self.directory, &self.shared.ring(), fault) {
            Ok(set_aside) => self.replaced(Some(set_aside)),
            Err(error) => self.not_open(&error),
        }
    }

    /// The file is an empty one.
    fn replaced(&mut self, set_aside: Option<super::SetAside>) {
        self.shared.requests().damage = None;
        self.shared.store_everything_again();
        // The new file holds nothing that was sealed under an older key.
        self.reseal = Reseal::Done;
        self.shared.update(|status| {
            status.available = true;
            status.replaced += 1;
            status.set_aside = set_aside.or(status.set_aside.take());
            (status.to_reseal, status.unreadable_sets) = (Some(0), 0);
        });
    }

    fn not_open(&mut self, error: &LocalStoreError) {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
        let text = format!("{error}{}", cause.unwrap_or_default());
        let failures = self.failures.max(1);
        self.shared.update(|status| {
            status.available = false;
            status.problem = Some(Problem { text, at: SystemTime::now(), failures });
        });
        // Somebody must try again, also if nothing waits.
        self.retry_at.get_or_insert_with(|| Instant::now() + self.timing.retry.base);
    }

    /// Goes one step on in sealing records anew.
    fn reseal(&mut self) {
        match std::mem::replace(&mut self.reseal, Reseal::Done) {
            Reseal::Done => {}
            Reseal::Waiting { .. } => self.count_old_records(),
            Reseal::Rewriting(rewrite) => self.rewrite(rewrite),
        }
    }

    /// Counts what is to be sealed anew, and begins if there is something.
    fn count_old_records(&mut self) {
        let ring = self.shared.ring();
        let counted = self.shared.holder.with(|open| {
            Ok((sets::inventory(open, &ring)?, named::counts(open)?, open.keys(), open.salt))
        });
        let (found, named, keys, salt) = match counted {
            Some(Ok(counted)) => counted,
            Some(Err(fault)) => {
                self.see_to(&fault);
                return self.reseal_later();
            }
            None => return self.reseal_later(),
        };
        let is_old = |key| key != ring.current().id() && ring.holds(key);
        let named_old: usize =
            named.iter().filter(|(key, _)| is_old(**key)).map(|(_, count)| count).sum();
        let mut live = found.unknown_keys;
        live.extend(named.keys());
        let due = keys.call_for_rewrite(&live, &ring);
        self.shared.counted(|status| {
            status.to_reseal = Some(found.under_old_keys.len() + named_old + usize::from(due));
            status.unreadable_sets = found.skipped.unknown_key;
        });
        if !due {
            return;
        }
        if let Err(fault) = self.checked() {
            self.see_to(&fault);
            return self.reseal_later();
        }
        match Rewrite::begin(&self.directory, salt) {
            Ok(rewrite) => self.reseal = Reseal::Rewriting(Box::new(rewrite)),
            Err(fault) => self.not_rewritten(fault.to_string()),
        }
    }

    /// Copies a portion into the new file; after the last one, the new file takes the place of the
    /// old one.
    fn rewrite(&mut self, mut rewrite: Box<Rewrite>) {
        let ring = self.shared.ring();
        let portion = match self.shared.holder.with(|open| rewrite.gather(open, &ring)) {
            Some(Ok(portion)) => portion,
            Some(Err(fault)) => {
                self.see_to(&fault);
                return self.reseal_later();
            }
            None => return self.reseal_later(),
        };
        let completes = portion.completes();
        if let Err(fault) = rewrite.apply(portion) {
            return self.not_rewritten(fault.to_string());
        }
        if !completes {
            self.reseal = Reseal::Rewriting(rewrite);
            return;
        }
        match rewrite.finish(&self.shared.holder, &self.directory) {
            Ok(()) => self.shared.counted(|status| {
                status.to_reseal = Some(0);
                status.set_aside = None;
                status.rewrite_problem = None;
            }),
            Err(error) => self.not_rewritten(error.to_string()),
        }
    }

    fn not_rewritten(&mut self, problem: String) {
        self.shared.update(|status| status.rewrite_problem = Some(problem));
        self.reseal_later();
    }

    fn reseal_later(&mut self) {
        self.reseal = Reseal::Waiting { until: Some(Instant::now() + RESEAL_RETRY) };
    }
}

pub(super) fn no_file() -> Fault {
    Fault::new(FaultKind::Io, "there is no open file")
}
