//! The embedded store: one ACID file of sealed records in its own directory.
//!
//! It contains two things. *Sets* are complete or absent: all parts and a marker that lists them
//! are written in one transaction; callers pass the newest snapshot and its changes. *Named
//! records* are independent and are written by changes that are acknowledged.
//!
//! | module | purpose |
//! | --- | --- |
//! | `format` | the content of the file: header page, tables, records |
//! | `file` | the embedded database, open to read or to write, and the guard against damage |
//! | `start` | finds and opens the file of a directory: trust, keys, adoption, the former format |
//! | `writer` | the one thread that writes, and the changes that wait for it |
//! | `copy` | copies a file under a new data key: rotation, compaction, repair |
//!
//! All pending changes go into the next transaction, which begins at most
//! [`COMMIT_DELAY`](writer::COMMIT_DELAY) after the first change, so a kill loses at most a quarter
//! of a second (design promise 4). Callers never wait for the disk: changes that cannot be written
//! stay pending, as references to data that is served anyway, and are tried again.
//!
//! It does not log: messages for its owner are in [`Opened`], [`LocalStoreStatus`] and the results.
//! It does not know the meaning of the records.
//!
//! Invariant: a set that a read reports as complete is exactly the set that was stored at one
//! moment. Damage of any kind appears as missing or undecodable parts, or as an error, and never as
//! other data or as a panic. (An older copy of the whole file is an intact file: replacing the file
//! by one is not noticed.)

mod copy;
#[cfg(test)]
mod faults;
mod file;
mod format;
mod report;
mod start;
#[cfg(test)]
mod tests;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{oneshot, watch};

use crate::sealing::KeyRing;

use format::named::{self, Change, Others};
use format::sets;
use start::Opening;
use start::adoption;
use start::directory::{self, Directory};
use writer::Timing;
use writer::pending::{Dirty, NamedWork, SetWork};
use writer::shared::Shared;

pub(crate) use format::fields;
#[cfg(test)]
pub use format::named::NamedRecord;
pub use format::named::NamedRecords;
pub use format::sets::{Content, SetRead};
pub use report::{LocalStoreError, LocalStoreStatus, Problem, SetAside, SetAsideReason, Skipped};
pub use start::adoption::Adoption;
pub use start::key_file::{KeyFile, KeyFileError, KeyFileWarning};

/// Parsing of arbitrary bytes as a file's header and as plaintexts of records (fuzz targets).
pub mod decoding;

/// Identifies a set. The text does not appear in the file unencrypted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetId(Arc<str>);

impl SetId {
    /// Wraps the ID's text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The ID's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A store that was opened, with messages for its owner.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: LocalStore,
    /// The file that was found and could not be used.
    pub set_aside: Option<SetAside>,
    /// True if users other than the owner can enter the directory. The records are sealed, so this
    /// causes a warning, not a refusal.
    pub open_to_others: bool,
    /// The treatment of a key file that was found although a key is configured.
    pub adoption: Option<Adoption>,
}

/// The treatment of a key file when a store is opened.
#[derive(Clone, Copy, Debug)]
enum KeyFileUse {
    Ignore,
    Adopt,
}

/// The embedded store; clones are handles to the same one. [`close`](Self::close) closes it. If the
/// last handle is dropped without that, the thread writes the pending changes and ends by itself.
/// The store does not create a removed directory again.
#[derive(Clone, Debug)]
pub struct LocalStore {
    shared: Arc<Shared>,
    _last: Arc<StopOnDrop>,
}

#[derive(Debug)]
struct StopOnDrop(Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop_unwatched();
    }
}

impl LocalStore {
    /// Opens the store in a directory, creating both if necessary. Takes milliseconds, and blocks:
    /// not for a runtime's thread.
    pub fn open(directory: &Path, ring: KeyRing) -> Result<Opened, LocalStoreError> {
        let directory = Directory::hold(directory)?;
        Self::open_in(directory, ring, Timing::default(), KeyFileUse::Ignore)
    }

    /// Like [`open`](Self::open), for a ring of configured keys: if the directory has a key file,
    /// the store that was written before a key was configured is adopted.
    pub fn open_and_adopt(directory: &Path, ring: KeyRing) -> Result<Opened, LocalStoreError> {
        let directory = Directory::hold(directory)?;
        Self::open_in(directory, ring, Timing::default(), KeyFileUse::Adopt)
    }

    /// True if the directory contains the file of a store; an error if it cannot be read.
    pub fn exists_in(directory: &Path) -> std::io::Result<bool> {
        directory.join(directory::FILE_NAME).try_exists()
    }

    fn open_in(
        directory: Directory,
        ring: KeyRing,
        timing: Timing,
        key_file: KeyFileUse,
    ) -> Result<Opened, LocalStoreError> {
        let (slot, opening) = start::open(&directory, &ring)?;
        let (slot, adoption) = match key_file {
            KeyFileUse::Adopt => adoption::adopt(slot, &directory, &ring),
            KeyFileUse::Ignore => (slot, None),
        };
        let set_aside = match opening {
            Opening::Found | Opening::Made | Opening::Closed => None,
            Opening::Replaced(set_aside) => Some(set_aside),
        };
        let open_to_others = directory.is_open_to_others();
        let path = directory.database();
        let at = directory.path().to_owned();
        let shared = Arc::new(Shared::new(at, slot, ring, set_aside.clone()));
        writer::start(directory, shared.clone(), timing)
            .map_err(|error| LocalStoreError::Open { path, source: error.into() })?;
        let store = Self { _last: Arc::new(StopOnDrop(shared.clone())), shared };
        Ok(Opened { store, set_aside, open_to_others, adoption })
    }

    /// Reads a set; `part` gets the plaintext of each part that opens, in any order. The set is
    /// complete only if the result reports no missing or undecodable parts. Blocks.
    pub fn read_set(
        &self,
        id: &SetId,
        part: &mut dyn FnMut(&[u8]),
    ) -> Result<SetRead, LocalStoreError> {
        let read = self.shared.read(|reading| sets::read(reading, id.as_str(), part))?;
        let read = read.unwrap_or(SetRead::Unreadable);
        let (unknown_key, forged) = match &read {
            SetRead::Absent => (0, 0),
            SetRead::Unreadable => (1, 0),
            SetRead::Undecodable => (0, 1),
            SetRead::Found(found) => (0, found.undecodable),
        };
        self.shared.skipped(Skipped { format: 0, unknown_key, forged });
        Ok(read)
    }

    /// The sets that have a readable marker. Blocks.
    pub fn stored_sets(&self) -> Result<Vec<SetId>, LocalStoreError> {
        let found = self.shared.read(sets::markers)?.unwrap_or_default();
        Ok(found.into_iter().map(|(_, marker)| SetId::new(marker.id)).collect())
    }

    /// Replaces the content of the set.
    pub fn replace_set(&self, id: &SetId, content: Arc<dyn Content>) {
        let dirty = Dirty::All;
        let written_at = SystemTime::now();
        self.shared.add(id.clone(), SetWork::Store { content, dirty, written_at });
    }

    /// Changes the content of the set. It differs from that of the last call for this set only in
    /// the items of these slots. (If this is the first call for a set, everything is compared.)
    pub fn change_set(&self, id: &SetId, content: Arc<dyn Content>, slots: &[u64]) {
        let dirty = Dirty::Slots(slots.iter().copied().collect());
        let written_at = SystemTime::now();
        self.shared.add(id.clone(), SetWork::Store { content, dirty, written_at });
    }

    /// Registers a set that was read and is served from memory. Nothing is written, but if the file
    /// is lost while the process runs, the set is stored again from there.
    pub fn adopt_set(&self, id: &SetId, content: &Arc<dyn Content>, written_at: SystemTime) {
        self.shared.adopt(id, content, written_at);
    }

    /// Removes the set.
    pub fn remove_set(&self, id: &SetId) {
        self.shared.add(id.clone(), SetWork::Remove);
    }

    /// Removes all sets except these, and files that were set aside because they are sealed under a
    /// key that is not configured. Only for a caller with an authoritative list of sets.
    pub fn retain_sets(&self, kept: &[SetId]) {
        self.shared.retain(kept.to_vec());
    }

    /// All named records of a space. Blocks.
    pub fn read_named(&self, space: &str) -> Result<NamedRecords, LocalStoreError> {
        let read = self.shared.read(|reading| named::read(reading, space))?;
        // The number of records in an unreadable file is not known.
        let skipped = Skipped { unknown_key: 1, ..Skipped::default() };
        let read = read.unwrap_or(NamedRecords { records: Vec::new(), skipped });
        self.shared.skipped(read.skipped);
        Ok(read)
    }

    /// Changes named records of a space in one transaction. The change is durable when the future
    /// completes; after an error nothing was changed. It proceeds whether or not the future is
    /// awaited.
    pub fn write_named(
        &self,
        space: &'static str,
        puts: Vec<(String, Vec<u8>)>,
        deletes: Vec<String>,
    ) -> impl Future<Output = Result<(), LocalStoreError>> + Send + use<> {
        self.change_named(Change { space, puts, deletes, others: Others::Keep })
    }

    /// Like [`write_named`](Self::write_named), but also removes all other records of the space,
    /// even those that do not open.
    pub fn replace_named(
        &self,
        space: &'static str,
        puts: Vec<(String, Vec<u8>)>,
    ) -> impl Future<Output = Result<(), LocalStoreError>> + Send + use<> {
        self.change_named(Change { space, puts, deletes: Vec::new(), others: Others::Remove })
    }

    fn change_named(
        &self,
        change: Change,
    ) -> impl Future<Output = Result<(), LocalStoreError>> + Send + use<> {
        let (done, answer) = oneshot::channel();
        self.shared.add_named(NamedWork { change, done });
        async move { answer.await.unwrap_or(Err(LocalStoreError::Unavailable)) }
    }

    /// Replaces the keys while the store runs. A file whose data key is wrapped under another key
    /// than the current one is copied in the background. A file that no key opened is tried with
    /// the new ones.
    pub fn set_ring(&self, ring: KeyRing) {
        self.shared.set_ring(ring);
    }

    /// True if a file was set aside, so that its content is not known.
    pub fn has_set_aside(&self) -> bool {
        self.shared.has_set_aside()
    }

    /// The current status of the store.
    pub fn status(&self) -> LocalStoreStatus {
        self.shared.status()
    }

    /// Follows the status. Its `pending` is the number at the last commit or failure.
    pub fn subscribe(&self) -> watch::Receiver<LocalStoreStatus> {
        self.shared.subscribe()
    }

    /// Stores all pending changes at once. Returns true if all were stored within this time.
    pub async fn flush(&self, within: Duration) -> bool {
        let (done, answer) = oneshot::channel();
        self.shared.flush(done);
        matches!(tokio::time::timeout(within, answer).await, Ok(Ok(true)))
    }

    /// Stores the pending changes, closes the file and ends the thread. Later changes are dropped,
    /// later reads fail. Returns true if everything was stored and closed within this time;
    /// otherwise the thread continues by itself.
    pub async fn close(&self, within: Duration) -> bool {
        self.shared.stop();
        let ended = tokio::time::timeout(within, self.shared.until_ended()).await;
        ended.is_ok() && self.shared.status().pending == 0
    }
}
