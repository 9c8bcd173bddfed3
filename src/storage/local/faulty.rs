//! A file that fails on command, for tests.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

/// What the file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Mood {
    Well,
    /// Writes fail: no space is left.
    Full,
    /// Reads give nothing: the file was cut.
    Cut,
    /// Reads panic.
    Panic,
    /// Reads fail: the disk is dying.
    Dying,
}

/// Switches the mood of a file.
#[derive(Clone, Debug)]
pub(super) struct Faults(Arc<AtomicU8>);

impl Faults {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU8::new(Mood::Well as u8)))
    }

    pub(super) fn set(&self, mood: Mood) {
        self.0.store(mood as u8, Ordering::SeqCst);
    }

    fn is(&self, mood: Mood) -> bool {
        self.0.load(Ordering::SeqCst) == mood as u8
    }

    pub(super) fn wrap(&self, file: File) -> Result<impl StorageBackend + use<>, redb::Error> {
        Ok(FaultyFile { file: FileBackend::new(file)?, faults: self.clone() })
    }
}

#[derive(Debug)]
struct FaultyFile {
    file: FileBackend,
    faults: Faults,
}

impl StorageBackend for FaultyFile {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        assert!(!self.faults.is(Mood::Panic), "the file is in a panic");
        if self.faults.is(Mood::Cut) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.faults.is(Mood::Dying) {
            return Err(io::Error::other("input/output error"));
        }
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        if self.faults.is(Mood::Full) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write(offset, data)
    }

    fn close(&self) -> Result<(), io::Error> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
}
