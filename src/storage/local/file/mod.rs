//! The embedded database, and the handling of its faults.
//!
//! Every call into the database goes through [`guarded`]: damage may cause an error or a panic, and
//! both leave this module only as a [`Fault`].
//!
//! The guard against damage: reading a damaged file is safe this way, and every record
//! authenticates itself. Writing to a damaged file is not safe (a panic may occur while another one
//! unwinds, which ends the process). So an existing file is checked completely against the
//! database's checksums before the first write to it. That takes half a millisecond per megabyte,
//! and a start that only reads does not need it. The check uses its own handle, so reads continue
//! meanwhile. After every failure the file is copied (`copy.rs`).
//!
//! This module does not know the meaning of the records.

pub(crate) mod backend;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock};

use redb::{
    Builder, Database, Durability, ReadOnlyTable, ReadableDatabase, Table, TableDefinition,
    WriteTransaction,
};

use super::format::header::{DataKey, Header, PAGE_BYTES};
use super::format::names::{NAMED_KEY_BYTES, PART_KEY_BYTES};
use super::start::directory::Directory;
use crate::sealing::{KeyId, KeyRing, NAME_BYTES, SealingKey};
use backend::{Backend, Switch};

/// Markers of sets.
const SETS: TableDefinition<'static, &[u8; NAME_BYTES], &[u8]> = TableDefinition::new("sets");
/// Parts of sets.
const PARTS: TableDefinition<'static, &[u8; PART_KEY_BYTES], &[u8]> = TableDefinition::new("parts");
/// Named records.
const NAMED: TableDefinition<'static, &[u8; NAMED_KEY_BYTES], &[u8]> =
    TableDefinition::new("named");

/// Memory that the database may use for pages. A start reads every page once and a commit uses few
/// of them, so a larger cache has no benefit (benches/local_store).
const CACHE_BYTES: usize = 1024 * 1024;

/// The offset in a file at which the database begins: after the header page.
pub(crate) const DATABASE_START: u64 = PAGE_BYTES as u64;

/// The kind of a fault, as far as the store can act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// The file is damaged, or the code that reads it reached an impossible state.
    Damaged,
    /// The file is intact, but of a format that this program does not know.
    OtherFormat,
    /// The operating system reported an error: no space, no permission, a failing disk.
    Io,
    /// This handle is unusable; the file may be intact.
    Handle,
}

/// An error or a panic of the database.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    text: String,
}

impl Fault {
    pub(crate) fn new(kind: FaultKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    pub(crate) fn damaged(text: impl Into<String>) -> Self {
        Self::new(FaultKind::Damaged, text)
    }

    /// The fault that there is no file at the moment.
    pub(crate) fn no_file() -> Self {
        Self::new(FaultKind::Io, "there is no open file")
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        // A page number beyond the end of the file causes a read past the end.
        let past = matches!(error.kind(), UnexpectedEof | InvalidData | InvalidInput);
        let kind = if past { FaultKind::Damaged } else { FaultKind::Io };
        Self::new(kind, error.to_string())
    }
}

impl From<redb::Error> for Fault {
    fn from(error: redb::Error) -> Self {
        use redb::Error::{
            DatabaseClosed, Io, LockPoisoned, PreviousIo, TransactionPoisoned, UpgradeRequired,
        };
        let text = error.to_string();
        if let Io(io) = error {
            return Self { text, ..Self::from(io) };
        }
        let kind = if matches!(error, UpgradeRequired(_)) {
            FaultKind::OtherFormat
        } else if matches!(
            error,
            PreviousIo | DatabaseClosed | TransactionPoisoned | LockPoisoned(_)
        ) {
            FaultKind::Handle
        } else {
            // Wrong tables, types or pages: not the file that this module made.
            FaultKind::Damaged
        };
        Self::new(kind, text)
    }
}

/// Runs work on the database; turns a panic into a fault.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, Fault> {
    // Unfinished state is in the transaction, which is dropped, and in the database's handle, which
    // is opened again after a fault.
    catch_unwind(AssertUnwindSafe(work)).map_or_else(
        |panic| {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("unknown panic");
            Err(Fault::damaged(format!("the database panicked: {text}")))
        },
        |result| result.map_err(Fault::from),
    )
}

/// The tables of one write transaction, and the data key.
pub(crate) struct Tables<'txn> {
    pub(crate) sets: Table<'txn, &'static [u8; NAME_BYTES], &'static [u8]>,
    pub(crate) parts: Table<'txn, &'static [u8; PART_KEY_BYTES], &'static [u8]>,
    pub(crate) named: Table<'txn, &'static [u8; NAMED_KEY_BYTES], &'static [u8]>,
    pub(crate) keys: &'txn KeyRing,
}

impl<'txn> Tables<'txn> {
    fn open(transaction: &'txn WriteTransaction, keys: &'txn KeyRing) -> Result<Self, redb::Error> {
        Ok(Self {
            sets: transaction.open_table(SETS)?,
            parts: transaction.open_table(PARTS)?,
            named: transaction.open_table(NAMED)?,
            keys,
        })
    }
}

/// The tables at one moment, for reading, and the data key.
pub(crate) struct Reading<'file> {
    pub(crate) sets: ReadOnlyTable<&'static [u8; NAME_BYTES], &'static [u8]>,
    pub(crate) parts: ReadOnlyTable<&'static [u8; PART_KEY_BYTES], &'static [u8]>,
    pub(crate) named: ReadOnlyTable<&'static [u8; NAMED_KEY_BYTES], &'static [u8]>,
    pub(crate) keys: &'file KeyRing,
}

/// A database behind a switch. It is abandoned when it is dropped.
#[derive(Debug)]
pub(crate) struct SwitchedDatabase {
    /// `None` only while it is dropped.
    database: Option<Database>,
    switch: Switch,
}

impl SwitchedDatabase {
    /// Opens the database in a file to read it.
    pub(crate) fn open_to_read(
        directory: &Directory,
        path: &Path,
        start: u64,
    ) -> Result<Self, Fault> {
        let switch = Switch::default();
        Self::of(Backend::open_to_read(directory, path, start, switch.clone())?, switch)
    }

    fn of(backend: Backend, switch: Switch) -> Result<Self, Fault> {
        let opened = guarded(|| {
            Ok(Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(backend)?)
        });
        let database = Some(opened.inspect_err(|_| switch.cut())?);
        Ok(Self { database, switch })
    }

    pub(crate) fn get(&self) -> &Database {
        self.database.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for SwitchedDatabase {
    fn drop(&mut self) {
        self.switch.cut();
        let database = self.database.take();
        let _ = guarded(|| {
            drop(database);
            Ok(())
        });
    }
}

/// An open file.
#[derive(Debug)]
pub(crate) struct OpenFile {
    database: SwitchedDatabase,
    /// The data key.
    keys: KeyRing,
    /// The ID of the ring's key under which the data key is wrapped.
    under: KeyId,
    /// Set for a file that was checked and may be written.
    written: Option<Written>,
}

/// The state of a file after the last commit.
#[derive(Debug)]
struct Written {
    file: File,
    left: Mutex<(u64, Vec<u8>)>,
}

impl Written {
    fn of(file: File) -> std::io::Result<Self> {
        let left = Mutex::new(Self::look(&file)?);
        Ok(Self { file, left })
    }

    /// Length and both header pages of a file; every commit changes the database's header page.
    fn look(file: &File) -> std::io::Result<(u64, Vec<u8>)> {
        let mut pages = vec![0; 2 * PAGE_BYTES];
        let length = file.metadata()?.len();
        pages.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        file.read_exact_at(&mut pages, 0)?;
        Ok((length, pages))
    }

    /// Fails if another process wrote to the file: the database keeps pages in memory, so it may
    /// not notice and would continue to write to a file that cannot be opened any more.
    fn check(&self) -> Result<(), Fault> {
        if Self::look(&self.file)? == *self.left.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(());
        }
        Err(Fault::damaged("somebody else has changed the file while it was in use"))
    }

    fn note(&self) -> std::io::Result<()> {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = Self::look(&self.file)?;
        Ok(())
    }
}

impl OpenFile {
    /// Makes an empty file at this path, which no other process uses yet.
    pub(crate) fn make(
        directory: &Directory,
        path: &Path,
        wrapping: &SealingKey,
    ) -> Result<Self, Fault> {
        let (key, page) = Header::make(wrapping);
        let file = super::start::directory::private_file(path)?;
        file.write_all_at(&page, 0)?;
        drop(file);
        let made = Self::open_to_write(directory, path, KeyRing::new(key.key, []), key.under)?;
        made.commit(|_| Ok(()))?;
        Ok(made)
    }

    /// Opens an existing file to read it.
    pub(crate) fn open_to_read(directory: &Directory, key: DataKey) -> Result<Self, Fault> {
        let path = directory.database();
        let database = SwitchedDatabase::open_to_read(directory, &path, DATABASE_START)?;
        let keys = KeyRing::new(key.key, []);
        let open = Self { database, keys, under: key.under, written: None };
        open.read(|_| Ok(()))?;
        Ok(open)
    }

    fn open_to_write(
        directory: &Directory,
        path: &Path,
        keys: KeyRing,
        under: KeyId,
    ) -> Result<Self, Fault> {
        let switch = Switch::default();
        let backend = Backend::open_to_write(directory, path, DATABASE_START, switch.clone())?;
        let file = backend.file().try_clone()?;
        let database = SwitchedDatabase::of(backend, switch)?;
        Ok(Self { database, keys, under, written: Some(Written::of(file)?) })
    }

    /// The ID of the ring's key under which the data key is wrapped.
    pub(crate) fn under(&self) -> KeyId {
        self.under
    }

    /// Reads the current state of the file.
    pub(crate) fn read<T>(
        &self,
        work: impl FnOnce(&Reading<'_>) -> Result<T, redb::Error>,
    ) -> Result<T, Fault> {
        guarded(|| {
            let reading = self.database.get().begin_read()?;
            work(&Reading {
                sets: reading.open_table(SETS)?,
                parts: reading.open_table(PARTS)?,
                named: reading.open_table(NAMED)?,
                keys: &self.keys,
            })
        })
    }

    /// Carries out `work` completely and durably, or not at all.
    pub(crate) fn commit<T>(
        &self,
        work: impl FnOnce(&mut Tables<'_>) -> Result<T, redb::Error>,
    ) -> Result<T, Fault> {
        let Some(written) = &self.written else {
            return Err(Fault::new(FaultKind::Handle, "the file is open to read only"));
        };
        written.check()?;
        let result = guarded(|| {
            let mut transaction = self.database.get().begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            // Saves the allocator state with each commit: a file that was not closed then opens in
            // a millisecond instead of being read three times.
            transaction.set_quick_repair(true);
            let result = work(&mut Tables::open(&transaction, &self.keys)?)?;
            transaction.commit()?;
            Ok(result)
        })?;
        written.note()?;
        Ok(result)
    }
}

/// Compares the complete file with the database's checksums, through its own handle.
pub(crate) fn check_file(directory: &Directory, start: u64) -> Result<(), Fault> {
    #[cfg(test)]
    directory.faults.on_check();
    let path = directory.database();
    let mut database = SwitchedDatabase::open_to_read(directory, &path, start)?;
    let sound = guarded(|| match &mut database.database {
        Some(database) => Ok(database.check_integrity()?),
        None => Ok(false),
    });
    // A repair by the database would result in an earlier state, or in one that never existed.
    if sound? { Ok(()) } else { Err(Fault::damaged("the file fails its checksums")) }
}

/// The file of a store at one moment.
#[derive(Debug, Default)]
pub(crate) enum Slot {
    /// There is no usable file.
    #[default]
    Empty,
    /// Its data key is wrapped under a key that is not in the ring.
    Closed,
    /// It is open.
    Open(OpenFile),
}

/// The file of a store while the store exists: readers share it, the writer replaces it.
#[derive(Debug, Default)]
pub(crate) struct Holder(RwLock<Slot>);

impl Holder {
    pub(crate) fn new(slot: Slot) -> Self {
        Self(RwLock::new(slot))
    }

    /// Gives up the file, and replaces it by another one while readers wait. After an error there
    /// is no file.
    pub(crate) fn exchange<T, E>(
        &self,
        open: impl FnOnce(Slot) -> Result<(Slot, T), E>,
    ) -> Result<T, E> {
        let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let (opened, result) = open(std::mem::take(&mut slot))?;
        *slot = opened;
        Ok(result)
    }

    /// Gives up the file. Later readers get an error.
    pub(crate) fn close(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Slot::Empty;
    }

    /// Runs `look` on the file.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&Slot) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs `look` on the file if it is open.
    pub(crate) fn with_open<T>(
        &self,
        look: impl FnOnce(&OpenFile) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.with(|slot| match slot {
            Slot::Open(open) => look(open),
            Slot::Empty | Slot::Closed => Err(Fault::no_file()),
        })
    }

    /// Ensures that the open file can be written. Only for the writer thread: no other thread
    /// changes the file meanwhile.
    pub(crate) fn make_writable(&self, directory: &Directory) -> Result<(), Fault> {
        let to_check = self.with_open(|open| {
            Ok(open.written.is_none().then(|| (open.keys.clone(), open.under)))
        })?;
        let Some((keys, under)) = to_check else { return Ok(()) };
        check_file(directory, DATABASE_START)?;
        let open = OpenFile::open_to_write(directory, &directory.database(), keys, under)?;
        self.exchange(|_| Ok((Slot::Open(open), ())))
    }
}
