//! The database's file as the database sees it.
//!
//! Three things are different from a plain file.
//!
//! * A file that is only read is not written to. The database marks a file as in use when it opens
//!   it, and waits for the disk twice; both are put off until there is something to store. So a
//!   start does not wait for a slow disk, and reads from one that takes no writes any more.
//!   (Nothing is lost by that: every file of ours bears the mark already, because none is ever
//!   closed.)
//! * A database is never closed but abandoned: it is cut off from its file, so that dropping it
//!   changes nothing there. Closing writes, and writing to a file that may be damaged can end the
//!   process. What was committed is safe, as it is after a kill, and the next open takes no longer.
//! * A file that somebody else changes while it is in use is damaged. The database holds pages in
//!   memory, so it may never come to read what became of them, and would write on into a file
//!   that does not open any more. Each commit writes the header, and each time the file must
//!   still have the header and the length that it was left with. (Damage in between that leaves
//!   both alone shows when it is read, and at the next start.)

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
#[cfg(test)]
use std::sync::atomic::AtomicU8;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use super::directory::{no_follow, private_file};

/// Where the database's header is: what is written there is put off.
const HEADER_BYTES: u64 = 4096;

/// Tells a file what it may do.
#[derive(Clone, Debug)]
pub(super) struct Switch {
    cut: Arc<AtomicBool>,
    writable: Arc<AtomicBool>,
    #[cfg(test)]
    faults: Faults,
}

impl Switch {
    pub(super) fn new(#[cfg(test)] faults: Faults) -> Self {
        Self {
            cut: Arc::default(),
            writable: Arc::default(),
            #[cfg(test)]
            faults,
        }
    }

    /// From here on the file is written to.
    pub(super) fn allow_writes(&self) {
        self.writable.store(true, Ordering::SeqCst);
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
    /// The file is not locked: it cannot be written to, or another handle of this process has
    /// locked it. The lock of the directory is left.
    unlocked: bool,
    /// The file is not written to: what the database writes is an error, except for the header,
    /// which is put off.
    only_checked: bool,
    switch: Switch,
    /// What was to be written into the header and was put off, in order.
    put_off: Mutex<Vec<(u64, Vec<u8>)>>,
    left: Mutex<Left>,
}

/// What a file was left with.
#[derive(Debug)]
struct Left {
    /// As much of it as the file has.
    header: Vec<u8>,
    length: u64,
}

impl Left {
    fn of(file: &FileBackend) -> io::Result<Self> {
        let length = file.len()?;
        let mut header = vec![0; usize::try_from(length.min(HEADER_BYTES)).unwrap_or(0)];
        file.read(0, &mut header)?;
        Ok(Self { header, length })
    }

    /// Makes sure that nobody has changed the file since.
    fn check(&self, file: &FileBackend) -> io::Result<()> {
        let found = Self::of(file)?;
        if found.length >= self.length && found.header.starts_with(&self.header) {
            return Ok(());
        }
        Err(io::Error::other(ChangedByOthers))
    }
}

/// A file is not as it was left.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("somebody else has changed the file while it was in use")]
pub(super) struct ChangedByOthers;

impl SwitchedFile {
    /// Opens a file or makes it.
    pub(super) fn open(path: &Path, switch: Switch) -> Result<Self, redb::Error> {
        let opened = private_file(path);
        #[cfg(test)]
        let opened = switch.faults.on_open(opened);
        let (file, unlocked) = match opened {
            Ok(file) => (file, false),
            Err(error) if is_read_only(&error) => (open_to_read(path).map_err(|_| error)?, true),
            Err(error) => return Err(error.into()),
        };
        Self::of(file, switch, unlocked, false)
    }

    /// Opens a file that another handle of this process uses, to read all of it.
    pub(super) fn open_to_check(path: &Path, switch: Switch) -> Result<Self, redb::Error> {
        Self::of(open_to_read(path)?, switch, true, true)
    }

    fn of(
        file: File,
        switch: Switch,
        unlocked: bool,
        only_checked: bool,
    ) -> Result<Self, redb::Error> {
        let file = FileBackend::new(file)?;
        let left = Mutex::new(Left::of(&file)?);
        Ok(Self { file, unlocked, only_checked, switch, put_off: Mutex::default(), left })
    }

    /// Fails for a file that is only checked: a sound file needs no write.
    fn must_take_writes(&self) -> io::Result<()> {
        if self.only_checked {
            let text = "the database wants to repair the file";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(())
    }

    fn puts_off(&self) -> bool {
        !self.switch.writable.load(Ordering::SeqCst)
    }

    fn write_through(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.switch.check()?;
        self.must_take_writes()?;
        #[cfg(test)]
        self.switch.faults.on_write()?;
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if offset >= HEADER_BYTES {
            self.file.write(offset, data)?;
            left.length = left.length.max(offset + data.len() as u64);
            return Ok(());
        }
        left.check(&self.file)?;
        self.file.write(offset, data)?;
        *left = Left::of(&self.file)?;
        Ok(())
    }

    /// Writes what was put off.
    fn settle(&self) -> io::Result<()> {
        let mut put_off = self.put_off.lock().unwrap_or_else(PoisonError::into_inner);
        for (offset, data) in &*put_off {
            self.write_through(*offset, data)?;
        }
        put_off.clear();
        Ok(())
    }

    /// Lays what was put off over what was read.
    fn overlay(&self, offset: u64, out: &mut [u8]) {
        let put_off = self.put_off.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, data) in &*put_off {
            let (first, last) = (offset.max(*at), (offset + out.len() as u64).min(HEADER_BYTES));
            let last = last.min(at + data.len() as u64);
            if first < last {
                let (from, to) = ((first - at) as usize, (last - at) as usize);
                let (out_from, out_to) = ((first - offset) as usize, (last - offset) as usize);
                out[out_from..out_to].copy_from_slice(&data[from..to]);
            }
        }
    }
}

fn open_to_read(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(no_follow()).open(path)
}

/// Whether a file that cannot be opened to write may perhaps be opened to read.
pub(super) fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

impl StorageBackend for SwitchedFile {
    fn len(&self) -> Result<u64, io::Error> {
        self.switch.check()?;
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.switch.check()?;
        #[cfg(test)]
        self.switch.faults.on_read(self.only_checked)?;
        self.file.read(offset, out)?;
        if offset < HEADER_BYTES {
            self.overlay(offset, out);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.switch.check()?;
        self.must_take_writes()?;
        self.settle()?;
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.check(&self.file)?;
        self.file.set_len(len)?;
        *left = Left::of(&self.file)?;
        Ok(())
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.switch.check()?;
        if self.puts_off() {
            return Ok(());
        }
        self.settle()?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        if self.puts_off() && offset + data.len() as u64 <= HEADER_BYTES {
            let mut put_off = self.put_off.lock().unwrap_or_else(PoisonError::into_inner);
            put_off.retain(|(at, held)| (*at, held.len()) != (offset, data.len()));
            put_off.push((offset, data.to_vec()));
            return Ok(());
        }
        self.settle()?;
        self.write_through(offset, data)
    }

    // Locks are released also when the file was abandoned.
    fn close(&self) -> Result<(), io::Error> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        if self.unlocked { Ok(true) } else { self.file.try_lock_range(start, end) }
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        if self.unlocked { Ok(true) } else { self.file.try_lock_shared_range(start, end) }
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        if self.unlocked { Ok(()) } else { self.file.lock_range(start, end) }
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        if self.unlocked { Ok(()) } else { self.file.lock_shared_range(start, end) }
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        if self.unlocked { Ok(()) } else { self.file.unlock_range(start, end) }
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        if self.unlocked { Ok(false) } else { self.file.query_lock_range(start, end) }
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
    /// Files open to read only.
    ReadOnly,
}

/// Sets the mood of the files of a directory.
#[cfg(test)]
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    mood: Arc<AtomicU8>,
    /// While this is locked, a check of a whole file does not get on.
    pub(super) check_gate: Arc<Mutex<()>>,
    /// Whether a check of a whole file has begun.
    pub(super) check_begun: Arc<AtomicBool>,
}

#[cfg(test)]
impl Faults {
    pub(super) fn set(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::SeqCst);
    }

    fn is(&self, mood: Mood) -> bool {
        self.mood.load(Ordering::SeqCst) == mood as u8
    }

    fn on_open(&self, opened: io::Result<File>) -> io::Result<File> {
        if self.is(Mood::ReadOnly) { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { opened }
    }

    fn on_read(&self, is_check: bool) -> io::Result<()> {
        if is_check {
            self.check_begun.store(true, Ordering::SeqCst);
            drop(self.check_gate.lock().unwrap_or_else(PoisonError::into_inner));
        }
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
