//! Errors of the store, and its status.

use std::path::PathBuf;
use std::time::SystemTime;

use super::file::{Fault, FaultKind};
use super::start::trust::NotTrusted;
use crate::sealing::OpenError;
use crate::storage::Cause;

/// The reason why the store could not be opened, or why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum LocalStoreError {
    /// Another process, or another store of this one, holds the directory.
    #[error("another process uses the local store in {}", path.display())]
    InUse {
        /// The directory or file.
        path: PathBuf,
    },
    /// The directory cannot be created or entered.
    #[error("the directory of the local store, {}, cannot be used", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The directory or a file in it could have been written by another user.
    #[error("the local store is not used")]
    NotTrusted(#[source] NotTrusted),
    /// The file can neither be opened nor created.
    #[error("the local store {} cannot be opened", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Cause,
    },
    /// The file is damaged where this call read. The store copies the readable part of it as soon
    /// as there is something to store.
    #[error("the local store is damaged")]
    Damaged(#[source] Cause),
    /// The disk failed in this call; its change is not stored.
    #[error("the local store cannot use its disk")]
    Disk(#[source] Cause),
    /// The store failed before and has not recovered yet, or was closed.
    #[error("the local store is not available at the moment")]
    Unavailable,
    /// Too many changes wait to be written.
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

/// The kind of reason why a file was set aside.
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
    /// Its current path.
    pub path: PathBuf,
    /// The kind of reason, for decisions.
    pub reason: SetAsideReason,
    /// The reason, for the log.
    pub cause: String,
}

/// Numbers of records that did not open, by reason.
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
    /// The sum.
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

/// A current failure of the writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The error and its causes.
    pub text: String,
    /// The time at which it last occurred.
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
    /// The time of the last commit.
    pub last_commit: Option<SystemTime>,
    /// The problem that currently prevents storing.
    pub problem: Option<Problem>,
    /// Number of times that the file in use was replaced while the store ran, by an empty one or by
    /// a repaired copy. Sets are then stored again from memory; owners of named records must read
    /// and write theirs again.
    pub replaced: u64,
    /// The file that was set aside last.
    pub set_aside: Option<SetAside>,
    /// Records that did not open in reads.
    pub skipped: Skipped,
    /// True while the file is sealed under a key that is not configured: no part of it is read, and
    /// it is set aside when there is something to store.
    pub unreadable: bool,
    /// 1 while the file is sealed under a key that is not the current one, 0 once it was copied;
    /// `None` while there is no readable file.
    pub to_reseal: Option<usize>,
    /// The reason why the file could not be copied after a change of keys; the copy is tried again.
    pub copy_problem: Option<String>,
}
