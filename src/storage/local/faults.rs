//! Faults of files, for tests.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The behaviour of a file in tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mood {
    Well,
    /// Writes fail: no space is left.
    Full,
    /// Reads fail: the file was cut short.
    Short,
    /// Reads panic.
    Panic,
    /// Reads fail: the disk is dying.
    Dying,
    /// Files open to read only.
    ReadOnly,
}

/// Controls the behaviour of the files of a directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    mood: Arc<AtomicU8>,
    /// While this is locked, checks of a whole file wait.
    pub(crate) check_gate: Arc<Mutex<()>>,
    /// True once a check of a whole file has begun.
    pub(crate) check_begun: Arc<AtomicBool>,
}

impl Faults {
    pub(crate) fn set(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::SeqCst);
    }

    fn is(&self, mood: Mood) -> bool {
        self.mood.load(Ordering::SeqCst) == mood as u8
    }

    pub(super) fn on_open(&self, opened: io::Result<File>) -> io::Result<File> {
        if self.is(Mood::ReadOnly) { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { opened }
    }

    /// Waits at the gate before a check of a whole file.
    pub(super) fn on_check(&self) {
        self.check_begun.store(true, Ordering::SeqCst);
        drop(self.check_gate.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn on_read(&self) -> io::Result<()> {
        assert!(!self.is(Mood::Panic), "the file is in a panic");
        if self.is(Mood::Short) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.is(Mood::Dying) { Err(io::Error::other("input/output error")) } else { Ok(()) }
    }

    pub(super) fn on_write(&self) -> io::Result<()> {
        if self.is(Mood::Full) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}
