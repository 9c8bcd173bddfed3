//! The database's file, with a switch that cuts the database off from it.
//!
//! The database writes when it is closed. On a file that may be damaged that can end the process:
//! a panic while another one unwinds. So a database is never closed but abandoned: it is cut off
//! first, every access fails, and dropping it changes nothing. What was committed is safe, as it
//! is after a kill, and the next open takes no longer for it.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::AtomicU8;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

/// Cuts a database off from its file, for good.
#[derive(Clone, Debug)]
pub(super) struct Switch {
    cut: Arc<AtomicBool>,
    #[cfg(test)]
    faults: Faults,
}

impl Switch {
    pub(super) fn new(#[cfg(test)] faults: Faults) -> Self {
        Self {
            cut: Arc::default(),
            #[cfg(test)]
            faults,
        }
    }

    /// From here on every access to the file fails.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    fn check(&self) -> io::Result<()> {
        if self.cut.load(Ordering::SeqCst) {
            return Err(io::Error::other("the file was abandoned"));
        }
        Ok(())
    }
}

/// A file behind a switch.
#[derive(Debug)]
pub(super) struct SwitchedFile {
    file: FileBackend,
    switch: Switch,
}

impl SwitchedFile {
    pub(super) fn new(file: File, switch: Switch) -> Result<Self, redb::Error> {
        Ok(Self { file: FileBackend::new(file)?, switch })
    }
}

impl StorageBackend for SwitchedFile {
    fn len(&self) -> Result<u64, io::Error> {
        self.switch.check()?;
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.switch.check()?;
        #[cfg(test)]
        self.switch.faults.on_read()?;
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.switch.check()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.switch.check()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.switch.check()?;
        #[cfg(test)]
        self.switch.faults.on_write()?;
        self.file.write(offset, data)
    }

    // Locks are released also when the file was abandoned.
    fn close(&self) -> Result<(), io::Error> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

/// What a file does in tests.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Mood {
    Well,
    /// Writes fail: no space is left.
    Full,
    /// Reads give nothing: the file was cut short.
    Short,
    /// Reads panic.
    Panic,
    /// Reads fail: the disk is dying.
    Dying,
}

/// Sets the mood of the files of a directory.
#[cfg(test)]
#[derive(Clone, Debug, Default)]
pub(super) struct Faults(Arc<AtomicU8>);

#[cfg(test)]
impl Faults {
    pub(super) fn set(&self, mood: Mood) {
        self.0.store(mood as u8, Ordering::SeqCst);
    }

    fn is(&self, mood: Mood) -> bool {
        self.0.load(Ordering::SeqCst) == mood as u8
    }

    fn on_read(&self) -> io::Result<()> {
        assert!(!self.is(Mood::Panic), "the file is in a panic");
        if self.is(Mood::Short) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.is(Mood::Dying) { Err(io::Error::other("input/output error")) } else { Ok(()) }
    }

    fn on_write(&self) -> io::Result<()> {
        if self.is(Mood::Full) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}
