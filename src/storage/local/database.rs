//! The embedded database: opening, the format record, and a fence around its faults.
//!
//! Every call into the database goes through [`guarded`]: damage may show as an error or as a
//! panic, and neither leaves this module but as a [`Fault`]. Reading a damaged file is safe behind
//! that fence, writing to it is not (a panic may come while another one unwinds, which ends the
//! process). So a file that was found is checked from end to end before the first write to it,
//! which takes half a millisecond per megabyte, and no start that only reads pays for it.
//!
//! Nothing here knows what the records mean.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use redb::{
    Builder, Database, Durability, ReadableDatabase, Table, TableDefinition, TableHandle,
    WriteTransaction,
};

use super::backend::{ChangedByOthers, Switch, SwitchedFile};
use super::directory::Directory;
use super::names::{NAMED_KEY_BYTES, PART_KEY_BYTES, SET_KEY_BYTES, Salt};
use super::{LocalStoreError, SetAside, SetAsideReason};

const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
/// Markers of sets.
pub(super) const SETS: TableDefinition<'static, &[u8; SET_KEY_BYTES], &[u8]> =
    TableDefinition::new("sets");
/// Parts of sets.
pub(super) const PARTS: TableDefinition<'static, &[u8; PART_KEY_BYTES], &[u8]> =
    TableDefinition::new("parts");
/// Records that stand for themselves.
pub(super) const NAMED: TableDefinition<'static, &[u8; NAMED_KEY_BYTES], &[u8]> =
    TableDefinition::new("named");

/// Format of the tables and of the records in them. A file of another format is set aside.
const FORMAT: u32 = 1;
const FORMAT_RECORD: &str = "format";
const SALT_RECORD: &str = "salt";

/// Memory the database may use for pages. A start reads every page once and a commit touches few
/// of them, so a larger cache costs memory and wins nothing (benches/local_store).
const CACHE_BYTES: usize = 1024 * 1024;

/// What went wrong in the database, as far as the store can act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// The file is damaged, or the code that reads it came to believe the impossible.
    Damaged,
    /// Somebody else wrote to the file: it may even be sound, and yet not hold what was stored.
    Changed,
    /// The file is sound, but of a format this program does not know.
    OtherFormat,
    /// The operating system refused: no space, no permission, a failing disk.
    Io,
    /// This handle is of no use any more; the file may be sound.
    Handle,
    /// Another process has the file open.
    InUse,
}

/// An error or a panic of the database.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct Fault {
    pub(super) kind: FaultKind,
    text: String,
}

impl Fault {
    pub(super) fn new(kind: FaultKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

impl From<redb::Error> for Fault {
    fn from(error: redb::Error) -> Self {
        use redb::Error::{
            DatabaseAlreadyOpen, DatabaseClosed, Io, LockPoisoned, PreviousIo, TransactionPoisoned,
            UpgradeRequired,
        };
        use std::io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
        let kind = if matches!(error, DatabaseAlreadyOpen) {
            FaultKind::InUse
        } else if matches!(error, UpgradeRequired(_)) {
            FaultKind::OtherFormat
        } else if let Io(io) = &error {
            // A page number that points behind the end of the file shows as a read past it.
            let past = matches!(io.kind(), UnexpectedEof | InvalidData | InvalidInput);
            if io.get_ref().is_some_and(|inner| inner.is::<ChangedByOthers>()) {
                FaultKind::Changed
            } else if past {
                FaultKind::Damaged
            } else {
                FaultKind::Io
            }
        } else if matches!(
            error,
            PreviousIo | DatabaseClosed | TransactionPoisoned | LockPoisoned(_)
        ) {
            FaultKind::Handle
        } else {
            // Wrong tables, wrong types, wrong pages: not the file this module made.
            FaultKind::Damaged
        };
        Self::new(kind, error.to_string())
    }
}

/// Runs work on the database; a panic becomes a fault like any other.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, Fault> {
    // What the work leaves half done lives in the transaction, which goes with it, and in the
    // database's handle, which is opened anew after a fault.
    catch_unwind(AssertUnwindSafe(work)).map_or_else(
        |panic| {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("unknown panic");
            Err(Fault::new(FaultKind::Damaged, format!("the database panicked: {text}")))
        },
        |result| result.map_err(Fault::from),
    )
}

/// The tables of one write transaction.
pub(super) struct Tables<'txn> {
    pub(super) sets: Table<'txn, &'static [u8; SET_KEY_BYTES], &'static [u8]>,
    pub(super) parts: Table<'txn, &'static [u8; PART_KEY_BYTES], &'static [u8]>,
    pub(super) named: Table<'txn, &'static [u8; NAMED_KEY_BYTES], &'static [u8]>,
}

impl<'txn> Tables<'txn> {
    fn open(transaction: &'txn WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            sets: transaction.open_table(SETS)?,
            parts: transaction.open_table(PARTS)?,
            named: transaction.open_table(NAMED)?,
        })
    }
}

/// An open database file.
#[derive(Debug)]
pub(super) struct OpenFile {
    /// The database.
    pub(super) database: Database,
    /// The file's salt.
    pub(super) salt: Salt,
    switch: Switch,
    /// Whether all of the file is known to be sound.
    checked: bool,
}

impl OpenFile {
    /// Makes sure that the file can be written to.
    fn check(&mut self) -> Result<(), Fault> {
        if self.checked {
            return Ok(());
        }
        // A repair would leave an earlier state, or one that nobody thought of.
        self.checked = guarded(|| Ok(self.database.check_integrity()?))?;
        if self.checked {
            self.switch.allow_writes();
            return Ok(());
        }
        Err(Fault::new(FaultKind::Damaged, "the file fails its checksums"))
    }

    fn abandon(open: Option<Self>) {
        if let Some(Self { database, switch, .. }) = open {
            abandon(database, &switch);
        }
    }

    /// Carries out all of `work` durably, or nothing of it. Only for a file that was checked.
    pub(super) fn commit<T>(
        &self,
        work: impl FnOnce(&mut Tables<'_>) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        // Saves the allocator with each commit: a file that was not closed opens in a millisecond
        // instead of being read three times over.
        transaction.set_quick_repair(true);
        let result = work(&mut Tables::open(&transaction)?)?;
        transaction.commit()?;
        Ok(result)
    }
}

/// Makes a database, or opens the one that is there.
fn open_file(switch: &Switch, path: &Path) -> Result<Database, Fault> {
    let opened = guarded(|| {
        let file = SwitchedFile::open(path, switch.clone())?;
        Ok(Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(file)?)
    });
    opened.inspect_err(|_| switch.cut())
}

/// Gives up a database without writing to it.
fn abandon(database: Database, switch: &Switch) {
    switch.cut();
    let _ = guarded(|| {
        drop(database);
        Ok(())
    });
}

/// What an open came upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// A sound file.
    Found,
    /// No file: the one that was made is empty.
    Made,
    /// A file that is of no use: it was set aside, and an empty one was made.
    Replaced(SetAside),
}

/// Opens the database of a directory; makes one where there is none.
fn open_or_make(directory: &Directory) -> Result<(OpenFile, Opening), Fault> {
    let path = directory.database();
    let io = |error: std::io::Error| Fault::from(redb::Error::Io(error));
    let switch = directory.switch();
    if path.try_exists().map_err(io)? {
        let database = open_file(&switch, &path)?;
        return match read_meta(&database) {
            Ok(salt) => Ok((OpenFile { database, salt, switch, checked: false }, Opening::Found)),
            Err(fault) => {
                abandon(database, &switch);
                Err(fault)
            }
        };
    }
    switch.allow_writes();
    let new = directory.new_database().map_err(io)?;
    let database = open_file(&switch, &new)?;
    let made = write_meta(&database).and_then(|salt| {
        directory.publish(&new).map_err(io)?;
        Ok(salt)
    });
    match made {
        Ok(salt) => Ok((OpenFile { database, salt, switch, checked: true }, Opening::Made)),
        Err(fault) => {
            abandon(database, &switch);
            Err(fault)
        }
    }
}

/// Reads the format record and the salt.
fn read_meta(database: &Database) -> Result<Salt, Fault> {
    let (format, salt) = guarded(|| {
        let reading = database.begin_read()?;
        let has_meta = reading.list_tables()?.any(|table| table.name() == META.name());
        if !has_meta {
            return Ok((None, None));
        }
        let meta = reading.open_table(META)?;
        let format = meta.get(FORMAT_RECORD)?.map(|record| record.value().to_vec());
        let salt = meta.get(SALT_RECORD)?.map(|record| record.value().to_vec());
        Ok((format, salt))
    })?;
    let format = format.and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)));
    match format {
        Some(FORMAT) => {}
        Some(other) => {
            let text = format!("the file has format {other}, this program writes {FORMAT}");
            return Err(Fault::new(FaultKind::OtherFormat, text));
        }
        None => return Err(Fault::new(FaultKind::Damaged, "the file has no format record")),
    }
    let salt = salt.and_then(|bytes| bytes.try_into().ok());
    salt.ok_or_else(|| Fault::new(FaultKind::Damaged, "the file has no salt"))
}

/// Makes a new file one of this format.
fn write_meta(database: &Database) -> Result<Salt, Fault> {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt)
        .map_err(|_| Fault::new(FaultKind::Io, "the operating system gives no random bytes"))?;
    guarded(|| {
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.set_quick_repair(true);
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert(FORMAT_RECORD, FORMAT.to_le_bytes().as_slice())?;
            meta.insert(SALT_RECORD, salt.as_slice())?;
            Tables::open(&transaction)?;
        }
        transaction.commit()?;
        Ok(salt)
    })
}

/// The database of a store for as long as the store lives: readers share it, the writer exchanges
/// it.
#[derive(Debug, Default)]
pub(super) struct Holder(RwLock<Option<OpenFile>>);

impl Holder {
    /// Opens the directory's database. One that is damaged or of another format is set aside, and
    /// an empty one takes its place.
    pub(super) fn open(&self, directory: &Directory) -> Result<Opening, LocalStoreError> {
        let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
        OpenFile::abandon(slot.take());
        let fault = match open_or_make(directory) {
            Ok((open, opening)) => {
                *slot = Some(open);
                return Ok(opening);
            }
            Err(fault) => fault,
        };
        let reason = match fault.kind {
            FaultKind::Damaged | FaultKind::Changed | FaultKind::Handle => SetAsideReason::Damaged,
            FaultKind::OtherFormat => SetAsideReason::OtherFormat,
            FaultKind::InUse => return Err(LocalStoreError::InUse { path: directory.database() }),
            FaultKind::Io => return Err(opening(directory, fault)),
        };
        let (open, aside) = replace(directory, reason, &fault)?;
        *slot = Some(open);
        Ok(Opening::Replaced(aside))
    }

    /// Sets the database aside, whatever it holds, and makes an empty one.
    pub(super) fn recreate(
        &self,
        directory: &Directory,
        fault: &Fault,
    ) -> Result<SetAside, LocalStoreError> {
        let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
        OpenFile::abandon(slot.take());
        let (open, aside) = replace(directory, SetAsideReason::Damaged, fault)?;
        *slot = Some(open);
        Ok(aside)
    }

    /// Gives up the database. Readers that come later are told that there is none.
    pub(super) fn close(&self) {
        OpenFile::abandon(self.0.write().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Makes sure that the database can be written to; `None` if there is none at the moment.
    pub(super) fn check(&self) -> Option<Result<(), Fault>> {
        let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
        slot.as_mut().map(OpenFile::check)
    }

    /// Runs work on the database; `None` if there is none at the moment.
    pub(super) fn with<T>(
        &self,
        work: impl FnOnce(&OpenFile) -> Result<T, redb::Error>,
    ) -> Option<Result<T, Fault>> {
        let slot = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let open = slot.as_ref()?;
        Some(guarded(|| work(open)))
    }
}

fn replace(
    directory: &Directory,
    reason: SetAsideReason,
    fault: &Fault,
) -> Result<(OpenFile, SetAside), LocalStoreError> {
    let path = match directory.set_aside(reason) {
        Ok(path) => path,
        // The file is gone already, for instance by the hand of an operator.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => directory.database(),
        Err(error) => return Err(opening(directory, Fault::from(redb::Error::Io(error)))),
    };
    let (open, _) = open_or_make(directory).map_err(|fault| opening(directory, fault))?;
    Ok((open, SetAside { path, reason, cause: fault.to_string() }))
}

fn opening(directory: &Directory, fault: Fault) -> LocalStoreError {
    LocalStoreError::Open { path: directory.database(), source: fault.into() }
}
