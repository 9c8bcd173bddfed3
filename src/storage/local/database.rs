//! The embedded database: opening, the format record, and a fence around its faults.
//!
//! Every call into the database goes through [`guarded`]: damage may show as an error or as a
//! panic, and neither leaves this module but as a [`Fault`]. Reading a damaged file is safe behind
//! that fence, writing to it is not (a panic may come while another one unwinds, which ends the
//! process). So a file that was found is checked from end to end before the first write to it,
//! which takes half a millisecond per megabyte, and no start that only reads pays for it. The check
//! uses a handle of its own, so reads go on meanwhile.
//!
//! Nothing here knows what the records mean.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock};

use redb::{
    Builder, Database, Durability, ReadableDatabase, Table, TableDefinition, TableHandle,
    WriteTransaction,
};

use super::backend::{ChangedByOthers, Switch, SwitchedFile};
use super::directory::Directory;
use super::keys_on_disk::{KeysOnDisk, key_list, read_key_list};
use super::names::{NAMED_KEY_BYTES, PART_KEY_BYTES, SET_KEY_BYTES, Salt};
use super::{LocalStoreError, SetAside, SetAsideReason};
use crate::sealing::{KeyId, KeyRing};

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
/// IDs of all keys under which something was sealed since the file was made: its free pages may
/// still hold that.
const SEALED_UNDER_RECORD: &str = "sealed-under";
/// IDs of all keys that opened records when the files that were set aside came to be.
const ASIDE_UNDER_RECORD: &str = "aside-under";

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
    keys: Mutex<KeysOnDisk>,
    switch: Switch,
    /// Whether all of the file is known to be sound.
    checked: bool,
}

impl OpenFile {
    /// Makes an empty file at this path, which no other process looks at yet.
    pub(super) fn make(
        directory: &Directory,
        path: &Path,
        salt: Salt,
        aside: BTreeSet<KeyId>,
    ) -> Result<Self, Fault> {
        let switch = directory.switch();
        switch.allow_writes();
        let database = open_file(&switch, path)?;
        let keys = KeysOnDisk { sealed: Some(BTreeSet::new()), aside };
        if let Err(fault) = write_meta(&database, salt, &keys) {
            abandon(database, &switch);
            return Err(fault);
        }
        Ok(Self { database, salt, keys: Mutex::new(keys), switch, checked: true })
    }

    /// The keys whose records may be in the directory.
    pub(super) fn keys(&self) -> KeysOnDisk {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn abandon(open: Option<Self>) {
        if let Some(Self { database, switch, .. }) = open {
            abandon(database, &switch);
        }
    }

    /// Carries out all of `work` durably, or nothing of it. Only for a file that was checked.
    /// `under` are the keys that seal what the work writes.
    pub(super) fn commit<T>(
        &self,
        under: &BTreeSet<KeyId>,
        work: impl FnOnce(&mut Tables<'_>) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        // Saves the allocator with each commit: a file that was not closed opens in a millisecond
        // instead of being read three times over.
        transaction.set_quick_repair(true);
        let result = work(&mut Tables::open(&transaction)?)?;
        let mut keys = self.keys();
        // A file that does not say which keys it has seen goes on so until it is written anew.
        let sealed = keys.sealed.as_mut().filter(|sealed| !sealed.is_superset(under));
        if let Some(sealed) = sealed {
            sealed.extend(under);
            transaction
                .open_table(META)?
                .insert(SEALED_UNDER_RECORD, key_list(sealed).as_slice())?;
        }
        transaction.commit()?;
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = keys;
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

/// Reads a file from end to end through a handle of its own.
fn check_file(directory: &Directory) -> Result<(), Fault> {
    let switch = directory.switch();
    let mut database = guarded(|| {
        let file = SwitchedFile::open_to_check(&directory.database(), switch.clone())?;
        Ok(Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(file)?)
    })?;
    let sound = guarded(|| Ok(database.check_integrity()?));
    abandon(database, &switch);
    // A repair would leave an earlier state, or one that nobody thought of.
    if sound? {
        Ok(())
    } else {
        Err(Fault::new(FaultKind::Damaged, "the file fails its checksums"))
    }
}

/// Opens the database of a directory; makes one where there is none. `ring` holds the keys that
/// may open what is in files that were set aside.
fn open_or_make(directory: &Directory, ring: &KeyRing) -> Result<(OpenFile, Opening), Fault> {
    let path = directory.database();
    let io = |error: std::io::Error| Fault::from(redb::Error::Io(error));
    if path.try_exists().map_err(io)? {
        let switch = directory.switch();
        let database = open_file(&switch, &path)?;
        return match read_meta(&database) {
            Ok((salt, keys)) => {
                let keys = Mutex::new(keys);
                let open = OpenFile { database, salt, keys, switch, checked: false };
                Ok((open, Opening::Found))
            }
            Err(fault) => {
                abandon(database, &switch);
                Err(fault)
            }
        };
    }
    let new = directory.new_database().map_err(io)?;
    let aside = if directory.has_set_aside() {
        ring.keys().iter().map(crate::sealing::SealingKey::id).collect()
    } else {
        BTreeSet::new()
    };
    let open = OpenFile::make(directory, &new, random_salt()?, aside)?;
    match directory.publish(&new) {
        Ok(()) => Ok((open, Opening::Made)),
        Err(error) => {
            OpenFile::abandon(Some(open));
            Err(io(error))
        }
    }
}

/// Reads what the file says of itself.
fn read_meta(database: &Database) -> Result<(Salt, KeysOnDisk), Fault> {
    let [format, salt, sealed, aside] = guarded(|| {
        let reading = database.begin_read()?;
        let has_meta = reading.list_tables()?.any(|table| table.name() == META.name());
        if !has_meta {
            return Ok([const { None }; 4]);
        }
        let meta = reading.open_table(META)?;
        let record = |name| -> Result<Option<Vec<u8>>, redb::Error> {
            Ok(meta.get(name)?.map(|record| record.value().to_vec()))
        };
        Ok([
            record(FORMAT_RECORD)?,
            record(SALT_RECORD)?,
            record(SEALED_UNDER_RECORD)?,
            record(ASIDE_UNDER_RECORD)?,
        ])
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
    let salt = salt.ok_or_else(|| Fault::new(FaultKind::Damaged, "the file has no salt"))?;
    let keys = KeysOnDisk {
        sealed: sealed.map(|list| read_key_list(&list)),
        aside: aside.map(|list| read_key_list(&list)).unwrap_or_default(),
    };
    Ok((salt, keys))
}

fn random_salt() -> Result<Salt, Fault> {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt)
        .map_err(|_| Fault::new(FaultKind::Io, "the operating system gives no random bytes"))?;
    Ok(salt)
}

/// Makes a new file one of this format.
fn write_meta(database: &Database, salt: Salt, keys: &KeysOnDisk) -> Result<(), Fault> {
    guarded(|| {
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.set_quick_repair(true);
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert(FORMAT_RECORD, FORMAT.to_le_bytes().as_slice())?;
            meta.insert(SALT_RECORD, salt.as_slice())?;
            if let Some(sealed) = &keys.sealed {
                meta.insert(SEALED_UNDER_RECORD, key_list(sealed).as_slice())?;
            }
            meta.insert(ASIDE_UNDER_RECORD, key_list(&keys.aside).as_slice())?;
            Tables::open(&transaction)?;
        }
        transaction.commit()?;
        Ok(())
    })
}

/// The database of a store for as long as the store lives: readers share it, the writer exchanges
/// it.
#[derive(Debug, Default)]
pub(super) struct Holder(RwLock<Option<OpenFile>>);

impl Holder {
    /// Opens the directory's database. One that is damaged or of another format is set aside, and
    /// an empty one takes its place. One that is not trusted is not touched.
    pub(super) fn open(
        &self,
        directory: &Directory,
        ring: &KeyRing,
    ) -> Result<Opening, LocalStoreError> {
        let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
        OpenFile::abandon(slot.take());
        directory.check_trust()?;
        let fault = match open_or_make(directory, ring) {
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
        let (open, aside) = replace(directory, ring, reason, &fault)?;
        *slot = Some(open);
        Ok(Opening::Replaced(aside))
    }

    /// Sets the database aside, whatever it holds, and makes an empty one.
    pub(super) fn recreate(
        &self,
        directory: &Directory,
        ring: &KeyRing,
        fault: &Fault,
    ) -> Result<SetAside, LocalStoreError> {
        let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
        OpenFile::abandon(slot.take());
        let (open, aside) = replace(directory, ring, SetAsideReason::Damaged, fault)?;
        *slot = Some(open);
        Ok(aside)
    }

    /// Gives a file that was made at another path the database's name, and uses it from then on.
    pub(super) fn exchange(
        &self,
        directory: &Directory,
        made: &Path,
        open: OpenFile,
    ) -> std::io::Result<()> {
        let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = std::fs::rename(made, directory.database()) {
            OpenFile::abandon(Some(open));
            return Err(error);
        }
        OpenFile::abandon(slot.replace(open));
        drop(slot);
        directory.sync()
    }

    /// Gives up the database. Readers that come later are told that there is none.
    pub(super) fn close(&self) {
        OpenFile::abandon(self.0.write().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Makes sure that the database can be written to; `None` if there is none at the moment. Only
    /// for the thread that writes: nothing changes the file meanwhile.
    pub(super) fn check(&self, directory: &Directory) -> Option<Result<(), Fault>> {
        let is_checked = {
            let slot = self.0.read().unwrap_or_else(PoisonError::into_inner);
            slot.as_ref()?.checked
        };
        if !is_checked {
            if let Err(fault) = check_file(directory) {
                return Some(Err(fault));
            }
            let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
            let open = slot.as_mut()?;
            open.checked = true;
            open.switch.allow_writes();
        }
        Some(Ok(()))
    }

    /// The keys whose records may be in the directory; `None` if there is no file at the moment.
    pub(super) fn keys(&self) -> Option<KeysOnDisk> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(OpenFile::keys)
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
    ring: &KeyRing,
    reason: SetAsideReason,
    fault: &Fault,
) -> Result<(OpenFile, SetAside), LocalStoreError> {
    let path = match directory.set_aside(reason) {
        Ok(path) => path,
        // The file is gone already, for instance by the hand of an operator.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => directory.database(),
        Err(error) => return Err(opening(directory, Fault::from(redb::Error::Io(error)))),
    };
    let (open, _) = open_or_make(directory, ring).map_err(|fault| opening(directory, fault))?;
    Ok((open, SetAside { path, reason, cause: fault.to_string() }))
}

fn opening(directory: &Directory, fault: Fault) -> LocalStoreError {
    LocalStoreError::Open { path: directory.database(), source: fault.into() }
}
