//! The file as the embedded database accesses it.
//!
//! It differs from a plain file in two ways.
//!
//! * A file that is only read is never written. The database marks a file as in use when it opens
//!   it, and waits for the disk twice. Here the mark stays in memory, so a start does not wait for
//!   a slow disk, and can read from a read-only one. (Every file of the store already has the mark
//!   on disk, because none is ever closed.)
//! * A database is never closed but abandoned: it is disconnected from its file, so that dropping
//!   it does not change the file. Closing writes, and writing to a file that may be damaged can end
//!   the process. Committed data is safe, as after a kill, and the next open takes no longer.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::StorageBackend;

#[cfg(test)]
use crate::storage::local::faults::Faults;
use crate::storage::local::start::directory::{Directory, no_follow, private_file};

/// Length of the database's own header, which holds the mark.
const MARK_BYTES: u64 = 4096;

/// Disconnects a database from its file.
#[derive(Clone, Debug, Default)]
pub(super) struct Switch(Arc<AtomicBool>);

impl Switch {
    /// From now on every access to the file fails.
    pub(super) fn cut(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A file behind a switch.
#[derive(Debug)]
pub(super) struct Backend {
    file: File,
    /// The offset in the file at which the database begins.
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

    /// Opens a file to read and write it, and creates it if it does not exist.
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
