//! The file as the embedded database sees it.
//!
//! Two things are different from a plain file.
//!
//! * A file that is only read is not written to. The database marks a file as in use when it opens
//!   it, and waits for the disk twice. Here the mark stays in memory. So a start does not wait for
//!   a slow disk, and reads from one that takes no writes. (Every file of ours bears the mark on
//!   the disk already, because none is ever closed.)
//! * A database is never closed but abandoned: it is cut off from its file, so that dropping it
//!   changes nothing there. Closing writes, and writing to a file that may be damaged can end the
//!   process. What was committed is safe, as it is after a kill, and the next open takes no longer.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
#[cfg(test)]
use std::sync::atomic::AtomicU8;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::StorageBackend;

use crate::storage::local::start::directory::{Directory, no_follow, private_file};

/// Length of the database's own header, which holds the mark.
const MARK_BYTES: u64 = 4096;

/// Cuts a database off from its file.
#[derive(Clone, Debug, Default)]
pub(super) struct Switch(Arc<AtomicBool>);

impl Switch {
    /// From here on every access to the file fails.
    pub(super) fn cut(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A file behind a switch.
#[derive(Debug)]
pub(super) struct Backend {
    file: File,
    /// The place in the file where the database begins.
    start: u64,
    switch: Switch,
    /// The database's own header, for a file that is only read.
    mark: Option<Mutex<Vec<u8>>>,
    #[cfg(test)]
    faults: Faults,
}

impl Backend {
    /// Opens a file to read it. Writes to the database's header go to memory, all others fail.
    pub(super) fn open_to_read(
        directory: &Directory,
        path: &Path,
        start: u64,
        switch: Switch,
    ) -> io::Result<Self> {
        let file = File::options().read(true).custom_flags(no_follow()).open(path)?;
        let length = file.metadata()?.len().saturating_sub(start).min(MARK_BYTES);
        let mut mark = vec![0; usize::try_from(length).unwrap_or(0)];
        file.read_exact_at(&mut mark, start)?;
        Ok(Self::of(directory, file, start, switch, Some(Mutex::new(mark))))
    }

    /// Opens a file to read and write it, and makes it if there is none.
    pub(super) fn open_to_write(
        directory: &Directory,
        path: &Path,
        start: u64,
        switch: Switch,
    ) -> io::Result<Self> {
        let file = private_file(path);
        #[cfg(test)]
        let file = directory.faults.on_open(file);
        Ok(Self::of(directory, file?, start, switch, None))
    }

    #[cfg_attr(not(test), expect(unused_variables, reason = "faults belong to tests"))]
    fn of(
        directory: &Directory,
        file: File,
        start: u64,
        switch: Switch,
        mark: Option<Mutex<Vec<u8>>>,
    ) -> Self {
        Self {
            file,
            start,
            switch,
            mark,
            #[cfg(test)]
            faults: directory.faults.clone(),
        }
    }

    /// The file itself.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    fn check(&self) -> io::Result<()> {
        if self.switch.0.load(Ordering::SeqCst) {
            return Err(io::Error::other("the file was abandoned"));
        }
        Ok(())
    }

    fn check_write(&self) -> io::Result<()> {
        self.check()?;
        if self.mark.is_some() {
            let text = "the database wants to repair the file";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        #[cfg(test)]
        self.faults.on_write()?;
        Ok(())
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.check()?;
        Ok(self.file.metadata()?.len().saturating_sub(self.start))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.check()?;
        #[cfg(test)]
        self.faults.on_read()?;
        self.file.read_exact_at(out, self.start + offset)?;
        if let Some(mark) = &self.mark
            && let Ok(offset) = usize::try_from(offset)
        {
            let mark = mark.lock().unwrap_or_else(PoisonError::into_inner);
            let held = mark.get(offset..).unwrap_or_default();
            let length = held.len().min(out.len());
            out[..length].copy_from_slice(&held[..length]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_write()?;
        self.file.set_len(self.start + len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        if self.mark.is_some() { Ok(()) } else { self.file.sync_data() }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if let Some(mark) = &self.mark {
            let mut mark = mark.lock().unwrap_or_else(PoisonError::into_inner);
            let first = usize::try_from(offset).unwrap_or(usize::MAX);
            let place = first.checked_add(data.len()).and_then(|last| mark.get_mut(first..last));
            if let Some(place) = place {
                place.copy_from_slice(data);
                return Ok(());
            }
        }
        self.check_write()?;
        self.file.write_all_at(data, self.start + offset)
    }
}

/// The behaviour of a file in tests.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mood {
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
pub(crate) struct Faults {
    mood: Arc<AtomicU8>,
    /// While this is locked, a check of a whole file does not get on.
    pub(crate) check_gate: Arc<Mutex<()>>,
    /// Whether a check of a whole file has begun.
    pub(crate) check_begun: Arc<AtomicBool>,
}

#[cfg(test)]
impl Faults {
    pub(crate) fn set(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::SeqCst);
    }

    fn is(&self, mood: Mood) -> bool {
        self.mood.load(Ordering::SeqCst) == mood as u8
    }

    fn on_open(&self, opened: io::Result<File>) -> io::Result<File> {
        if self.is(Mood::ReadOnly) { Err(io::ErrorKind::ReadOnlyFilesystem.into()) } else { opened }
    }

    /// Waits at the gate before a check of a whole file.
    pub(super) fn on_check(&self) {
        self.check_begun.store(true, Ordering::SeqCst);
        drop(self.check_gate.lock().unwrap_or_else(PoisonError::into_inner));
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
