//! Errors of the store, and its status.

use std::path::PathBuf;
use std::time::SystemTime;

use super::file::{Fault, FaultKind};
use super::start::trust::NotTrusted;
use crate::sealing::OpenError;
use crate::storage::Cause;

/// The reason for which the store could not be opened, or a call could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum LocalStoreError {
    /// Another process, or another store of this one, holds the directory.
    #[error("another process uses the local store in {}", path.display())]
    InUse {
        /// The directory or file.
        path: PathBuf,
    },
    /// The directory cannot be made or entered.
    #[error("the directory of the local store, {}, cannot be used", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The directory or a file in it could have been written by another user (design D41).
    #[error("the local store is not used")]
    NotTrusted(#[source] NotTrusted),
    /// The file can neither be opened nor made.
    #[error("the local store {} cannot be opened", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The file is damaged where this call read. The store copies what can be read of it as soon as
    /// there is something to store.
    #[error("the local store is damaged")]
    Damaged(#[source] Cause),
    /// The disk failed this call; the change that it was about is not stored.
    #[error("the local store cannot use its disk")]
    Disk(#[source] Cause),
    /// The store failed before and has not recovered yet, or was closed.
    #[error("the local store is not available at the moment")]
    Unavailable,
    /// Too much waits to be written.
    #[error("too many changes wait for the local store")]
    Overloaded,
}

impl From<Fault> for LocalStoreError {
    fn from(fault: Fault) -> Self {
        match fault.kind {
            FaultKind::Damaged | FaultKind::OtherFormat => Self::Damaged(fault.into()),
            FaultKind::Io => Self::Disk(fault.into()),
            FaultKind::Handle => Self::Unavailable,
        }
    }
}

/// The kind of reason for which a file was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetAsideReason {
    /// It cannot be read.
    Damaged,
    /// It was written by another version of this program, in a format that this one does not know.
    OtherFormat,
    /// It is sealed under a key that is not configured.
    OtherKey,
}

/// A file that was set aside, and replaced by another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Where it is now.
    pub path: PathBuf,
    /// The reason, for decisions.
    pub reason: SetAsideReason,
    /// The reason, for the log.
    pub cause: String,
}

/// Records that were met and not opened, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Not of this format.
    pub format: u64,
    /// Sealed under a key that is not configured.
    pub unknown_key: u64,
    /// Altered, cut, or moved from another place.
    pub forged: u64,
}

impl Skipped {
    /// All together.
    pub fn total(&self) -> u64 {
        self.format + self.unknown_key + self.forged
    }

    pub(super) fn count(&mut self, error: OpenError) {
        match error {
            OpenError::Format => self.format += 1,
            OpenError::UnknownKey => self.unknown_key += 1,
            OpenError::Forged => self.forged += 1,
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.format += other.format;
        self.unknown_key += other.unknown_key;
        self.forged += other.forged;
    }
}

/// A failure of the writer that is not over yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What went wrong, causes included.
    pub text: String,
    /// When it was last seen.
    pub at: SystemTime,
    /// Failures in a row.
    pub failures: u32,
}

/// The state of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalStoreStatus {
    /// True if there is a file to read from.
    pub available: bool,
    /// Sets and named changes that are not stored yet.
    pub pending: usize,
    /// When something was last stored.
    pub last_commit: Option<SystemTime>,
    /// What keeps the store from storing, while it does.
    pub problem: Option<Problem>,
    /// Number of times that another file took the place of the one in use while the store ran: an
    /// empty one, or a repaired copy. Sets are then stored again from memory; owners of named
    /// records must read and write theirs again.
    pub replaced: u64,
    /// The file that was set aside last.
    pub set_aside: Option<SetAside>,
    /// Records that reads met and did not open.
    pub skipped: Skipped,
    /// True while the file is sealed under a key that is not configured: nothing of it is read, and
    /// it is set aside when there is something to store.
    pub unreadable: bool,
    /// 1 while the file is under a key that is not the current one, 0 once it was copied; `None`
    /// while there is no readable file.
    pub to_reseal: Option<usize>,
    /// The reason for which the file could not be copied after a change of keys; it is tried again.
    pub copy_problem: Option<String>,
}
