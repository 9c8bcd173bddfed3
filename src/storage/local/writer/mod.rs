//! The writer thread.
//!
//! Its loop: wait until something is due, write all pending changes in one transaction, and handle
//! failures. All reasons to wake are in [`Writer::wait`]. When no change is pending and a copy of
//! the file is due, the file is copied in portions (`copy.rs`).
//!
//! | failure | at once | then |
//! | --- | --- | --- |
//! | the disk refuses | the file is opened anew, so that it can be read | tried again with pauses |
//! | damage | the file is repaired: what can be read is copied into a new one, sets in memory are stored again | tried again at once, later with pauses |
//! | a reader found damage | nothing: the rest of the file can still be read | as damage, when there is something to store |
//! | the file or its directory was removed | it is made anew | sets in memory are stored again |
//! | the file is sealed under a key that is not configured | nothing while there is nothing to store | it is set aside, and a new one is made |

mod batch;
mod copying;
pub(crate) mod pending;
pub(crate) mod shared;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::copy;
use super::file::{Fault, FaultKind, Slot};
use super::start::directory::{Directory, Removal};
use super::start::{self, Opening};
use super::{LocalStoreError, Problem, SetAside, SetAsideReason};
use crate::backoff::Backoff;
use crate::telemetry::Chain;
use copying::CopyState;
use pending::{Batch, NamedWork, SetWork};
use shared::Shared;

/// Time for which changes are collected before they are written together. With the commit itself
/// this stays far below the 250 ms of design promise 4; a shorter time would only cause more
/// commits.
pub(super) const COMMIT_DELAY: Duration = Duration::from_millis(50);

/// Time after which a transaction begins no further large set, so that small changes that arrive
/// meanwhile do not wait. One set is always written completely.
const TRANSACTION_TIME: Duration = Duration::from_millis(50);

/// Bytes after which a transaction begins no further large set: a slow disk needs some 100 ms to
/// make them durable.
const TRANSACTION_BYTES: u64 = 8 * 1024 * 1024;

/// Pauses after failures: short at first, as most failures are transient; at most 30 s.
const RETRY: Backoff = Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(30) };

/// Pause before the file is copied: the start comes first.
const COPY_DELAY: Duration = Duration::from_secs(5);

/// Immediate attempts after damage: one on the repaired file, and one more.
const DAMAGE_ATTEMPTS: u32 = 2;

/// Times of a store; tests shorten them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub(super) commit_delay: Duration,
    pub(super) transaction_time: Duration,
    pub(super) retry: Backoff,
    pub(super) copy_delay: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            commit_delay: COMMIT_DELAY,
            transaction_time: TRANSACTION_TIME,
            retry: RETRY,
            copy_delay: COPY_DELAY,
        }
    }
}

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
        is_listed: false,
        copy: CopyState::Due { at: None },
    };
    let thread = std::thread::Builder::new().name("local-store".to_owned());
    thread.spawn(move || {
        // Even after a panic, callers that wait for the end are notified.
        let _ = catch_unwind(AssertUnwindSafe(|| writer.run()));
        shared.holder.close();
        shared.update(|status| status.available = false);
        shared.set_ended();
    })?;
    Ok(())
}

/// The next step of the thread.
enum Turn {
    Commit,
    Copy,
    Reopen,
    End,
}

struct Writer {
    directory: Directory,
    shared: Arc<Shared>,
    timing: Timing,
    /// The time at which the thread first saw the pending changes.
    first_seen: Option<Instant>,
    /// The time of the next attempt after a failure.
    retry_at: Option<Instant>,
    failures: u32,
    damages: u32,
    /// True once the list of sets was given: then a file under a key that is not configured
    /// contains nothing that is still needed.
    is_listed: bool,
    copy: CopyState,
}

impl Writer {
    fn run(mut self) {
        loop {
            match self.wait() {
                Turn::Commit => self.commit(),
                Turn::Copy => self.copy(),
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
            let ring_changed = std::mem::take(&mut requests.ring_changed);
            if ring_changed {
                self.copy = CopyState::Due { at: None };
            }
            // A file that no key opened may open with the new ones.
            if std::mem::take(&mut requests.reopen) || (ring_changed && self.is_closed()) {
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
            let copy = if idle && self.retry_at.is_none() { self.copy_due(now) } else { None };
            if copy.is_some_and(|due| due <= now) {
                return Turn::Copy;
            }
            let next = [due, copy].into_iter().flatten().min();
            requests = shared.wait(requests, next.map(|next| next.duration_since(now)));
        }
    }

    fn commit_due(&mut self, now: Instant, idle: bool, hurried: bool) -> Option<Instant> {
        match (hurried && !idle, self.retry_at) {
            (true, _) => Some(now),
            // Even with no pending change: the pause ends when a transaction succeeds.
            (false, Some(retry)) => Some(retry),
            (false, None) if idle => None,
            (false, None) => Some(*self.first_seen.get_or_insert(now) + self.timing.commit_delay),
        }
    }

    fn is_closed(&self) -> bool {
        self.shared.holder.with(|slot| matches!(slot, Slot::Closed))
    }

    /// Writes the pending changes.
    fn commit(&mut self) {
        let (damage, stores) = {
            let mut requests = self.shared.requests();
            let damage = if requests.pending.is_empty() { None } else { requests.damage.take() };
            (damage, requests.pending.stores())
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
        } else if stores && self.is_closed() {
            self.set_closed_file_aside();
        } else if let Some(fault) = damage {
            self.repair(&fault);
        }
        let (batch, flushes, stopping) = {
            let mut requests = self.shared.requests();
            let batch = requests.pending.take();
            requests.in_flight = batch.sets.len() + batch.named.len();
            (batch, std::mem::take(&mut requests.flushes), requests.stop)
        };
        self.first_seen = None;
        match self.write(&batch) {
            Ok(sets) => self.committed(batch, sets, flushes),
            Err(fault) => self.not_committed(batch, &fault, flushes, stopping),
        }
    }

    /// Writes a batch. Returns the number of its sets that were applied.
    fn write(&mut self, batch: &Batch) -> Result<usize, Fault> {
        if self.is_closed() {
            // There is nothing to store, and the content of this file is not known.
            self.is_listed |= batch.retained.is_some();
            return Ok(batch.sets.len());
        }
        self.shared.holder.make_writable(&self.directory)?;
        let begun = Instant::now();
        let time = self.timing.transaction_time;
        self.shared.holder.with_open(|open| {
            open.commit(|tables| {
                batch::apply(&self.shared, tables, batch, |bytes| {
                    bytes > TRANSACTION_BYTES || begun.elapsed() > time
                })
            })
        })
    }

    fn committed(&mut self, mut batch: Batch, sets: usize, flushes: Vec<oneshot::Sender<bool>>) {
        (self.failures, self.damages, self.retry_at) = (0, 0, None);
        let left = batch.sets.split_off(sets);
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
        let is_listed = batch.retained.is_some();
        if is_listed && matches!(self.directory.remove_aside(Removal::OtherKeys), Ok(true)) {
            self.shared.update(|status| {
                status.set_aside.take_if(|it| it.reason == SetAsideReason::OtherKey);
            });
        }
        let has_removed = batch.sets.iter().any(|(_, work)| matches!(work, SetWork::Remove));
        if matches!(self.copy, CopyState::Done) && (is_listed || has_removed) {
            // The file may have become much larger than its content.
            self.copy = CopyState::Due { at: None };
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
        // Callers of `flush` learn that the changes are not stored, unless they are tried again
        // now.
        let mut requests = self.shared.requests();
        if again {
            requests.flushes.splice(0..0, flushes);
        } else {
            for done in flushes {
                let _ = done.send(false);
            }
            if stopping {
                // `status` counts the rest, for the caller of `close`.
                requests.gave_up = true;
            }
        }
    }

    /// Records a failure and handles it. Returns true if an immediate retry is useful.
    fn see_to(&mut self, fault: &Fault) -> bool {
        self.failures += 1;
        let problem =
            Problem { text: fault.to_string(), at: SystemTime::now(), failures: self.failures };
        self.shared.update(|status| status.problem = Some(problem));
        let at_once = match fault.kind {
            FaultKind::Damaged | FaultKind::OtherFormat => {
                self.damages += 1;
                self.repair(fault);
                self.damages <= DAMAGE_ATTEMPTS
            }
            FaultKind::Handle => {
                self.reopen();
                self.failures == 1
            }
            FaultKind::Io => {
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

    /// Opens the file again. A file that does not open any more is replaced.
    fn reopen(&mut self) {
        let was_closed = self.is_closed();
        let ring = self.shared.ring();
        let opened = self.shared.holder.exchange(|old| {
            drop(old);
            start::open(&self.directory, &ring)
        });
        self.copy = CopyState::Due { at: None };
        match opened {
            Ok(Opening::Found | Opening::Closed) => {}
            Ok(Opening::Made) => return self.replaced(None),
            Ok(Opening::Replaced(set_aside)) => return self.replaced(Some(set_aside)),
            Err(error) => return self.not_open(&error),
        }
        self.shared.show_file();
        let is_another = was_closed && !self.is_closed();
        self.shared.update(|status| {
            status.available = true;
            status.replaced += u64::from(is_another);
        });
    }

    /// Handles the removal of the file while it was in use: data written to it would be lost with
    /// this process.
    fn begin_again(&mut self) {
        match self.directory.hold_again() {
            Ok(()) => self.reopen(),
            Err(error) => {
                self.shared.holder.close();
                self.not_open(&error);
            }
        }
    }

    /// Replaces the file by a new one with the readable part of it.
    fn repair(&mut self, fault: &Fault) {
        self.renew(SetAsideReason::Damaged, &fault.to_string());
    }

    fn set_closed_file_aside(&mut self) {
        let cause = "it is sealed under a key that is not configured";
        self.renew(SetAsideReason::OtherKey, cause);
        if self.is_listed && matches!(self.directory.remove_aside(Removal::OtherKeys), Ok(true)) {
            self.shared.update(|status| status.set_aside = None);
        }
    }

    fn renew(&mut self, reason: SetAsideReason, cause: &str) {
        let ring = self.shared.ring();
        let renewed = self.shared.holder.with(|slot| {
            let old = match slot {
                Slot::Open(open) => Some(open),
                Slot::Closed | Slot::Empty => None,
            };
            copy::renew(&self.directory, &ring, reason, old)
        });
        let exchanged = renewed
            .and_then(|(file, path)| self.shared.holder.exchange(|_| Ok((Slot::Open(file), path))));
        match exchanged {
            Ok(path) => self.replaced(Some(SetAside { path, reason, cause: cause.to_owned() })),
            Err(fault) => self.not_open(&LocalStoreError::from(fault)),
        }
    }

    /// Handles the replacement of the file.
    fn replaced(&mut self, set_aside: Option<SetAside>) {
        self.shared.requests().damage = None;
        self.shared.store_everything_again();
        // The new file was made under the current key.
        self.copy = CopyState::Done;
        self.shared.show_file();
        self.shared.update(|status| {
            status.available = true;
            status.replaced += 1;
            status.set_aside = set_aside.or(status.set_aside.take());
        });
    }

    fn not_open(&mut self, error: &LocalStoreError) {
        let text = Chain(error).to_string();
        let failures = self.failures.max(1);
        self.shared.show_file();
        self.shared.update(|status| {
            status.available = false;
            status.problem = Some(Problem { text, at: SystemTime::now(), failures });
        });
        // The next attempt must come even if no change is pending.
        self.retry_at.get_or_insert_with(|| Instant::now() + self.timing.retry.base);
    }
}
