//! Copying of the file in the background: its schedule and its steps.

use std::time::Duration;

use tokio::time::Instant;

use super::Writer;
use crate::storage::local::copy::{self, Copy};
use crate::storage::local::file::{FaultKind, Slot};
use crate::storage::local::start::directory::Removal;

/// Pause before a copy is tried again after a failure.
const COPY_RETRY: Duration = Duration::from_secs(60);

/// The state of copying the file in the background.
pub(super) enum CopyState {
    /// There is nothing to copy.
    Done,
    /// The need for a copy is checked at this time; `None` means: some time after the thread first
    /// sees it.
    Due {
        at: Option<Instant>,
    },
    Running(Box<Copy>),
}

impl Writer {
    pub(super) fn copy_due(&mut self, now: Instant) -> Option<Instant> {
        match &mut self.copy {
            CopyState::Done => None,
            CopyState::Due { at } => Some(*at.get_or_insert_with(|| now + self.timing.copy_delay)),
            CopyState::Running(_) => Some(now),
        }
    }

    /// Performs the next step of copying the file.
    pub(super) fn copy(&mut self) {
        match std::mem::replace(&mut self.copy, CopyState::Done) {
            CopyState::Done => {}
            CopyState::Due { .. } => self.begin_copy(),
            CopyState::Running(copy) => self.copy_portion(copy),
        }
    }

    /// Begins a copy if there is a reason for one.
    fn begin_copy(&mut self) {
        let ring = self.shared.ring();
        if matches!(self.directory.remove_aside(Removal::KeysChanged(&ring)), Ok(true)) {
            self.shared.update(|status| status.set_aside = None);
        }
        let length = std::fs::metadata(self.directory.database()).map_or(0, |data| data.len());
        let due = self.shared.holder.with(|slot| match slot {
            Slot::Open(open) if open.under() != ring.current().id() => Ok(true),
            Slot::Open(open) => open.read(|reading| copy::is_wasteful(reading, length)),
            Slot::Closed | Slot::Empty => Ok(false),
        });
        // A file that fails its checksums is repaired, not copied: reads of it may miss records.
        let checked = match due {
            Ok(false) => return,
            Ok(true) => self.shared.holder.make_writable(&self.directory),
            Err(fault) => Err(fault),
        };
        match checked {
            Ok(()) => {}
            Err(fault) if fault.kind == FaultKind::Damaged => {
                self.see_to(&fault);
                return self.copy_later();
            }
            Err(fault) => return self.not_copied(fault.to_string()),
        }
        match Copy::begin(&self.directory, &ring) {
            Ok(copy) => self.copy = CopyState::Running(Box::new(copy)),
            Err(fault) => self.not_copied(fault.to_string()),
        }
    }

    /// Copies a portion into the new file; after the last one, the new file replaces the old one.
    fn copy_portion(&mut self, mut copy: Box<Copy>) {
        let gathered =
            self.shared.holder.with_open(|open| open.read(|reading| copy.gather(reading)));
        let portion = match gathered {
            Ok(portion) => portion,
            Err(fault) => {
                self.see_to(&fault);
                return self.copy_later();
            }
        };
        let completes = portion.completes();
        if let Err(fault) = copy.apply(portion) {
            return self.not_copied(fault.to_string());
        }
        if !completes {
            self.copy = CopyState::Running(copy);
            return;
        }
        let finished = copy
            .finish(&self.directory)
            .and_then(|file| self.shared.holder.exchange(|_| Ok((Slot::Open(file), ()))));
        match finished {
            Ok(()) => {
                self.shared.show_file();
                self.shared.update(|status| (status.set_aside, status.copy_problem) = (None, None));
            }
            Err(fault) => self.not_copied(fault.to_string()),
        }
    }

    fn not_copied(&mut self, problem: String) {
        self.shared.update(|status| status.copy_problem = Some(problem));
        self.copy_later();
    }

    fn copy_later(&mut self) {
        self.copy = CopyState::Due { at: Some(Instant::now() + COPY_RETRY) };
    }
}
