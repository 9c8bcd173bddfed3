//! The embedded store: one ACID file of sealed records in a directory of its own (design D7, D40).
//!
//! It holds two things. *Sets* are complete or not there: all parts and a marker that lists them,
//! written in one transaction, given to the store as the newest snapshot and the changes in it.
//! *Named records* stand for themselves and are written by changes that are acknowledged.
//!
//! | room | purpose |
//! | --- | --- |
//! | `format` | the content of the file: header page, tables, records |
//! | `file` | the embedded database, open to read or to write, and the guard against damage |
//! | `start` | from a directory to an open file: trust, keys, adoption, the former format |
//! | `writer` | the one thread that writes, and what waits for it |
//! | `copy` | a fresh file under a fresh data key: rotation, compaction, repair |
//!
//! Everything that waits goes into the next transaction, which begins at most
//! [`COMMIT_DELAY`](writer::COMMIT_DELAY) after the first change, so a kill loses at most a quarter
//! of a second (design promise 4). Callers never wait for the disk: what cannot be written stays
//! waiting, as references to data that is served anyway, and is tried again.
//!
//! It does not log: what its owner should say is in [`Opened`], [`LocalStoreStatus`] and the
//! results. It does not know what the records mean.
//!
//! The invariant: what a read calls complete is exactly what was stored for that set, at one
//! moment. Damage of any kind shows as missing or undecodable parts, or as an error, and never as
//! other data nor as a panic. (An older copy of the whole file is a sound file: putting one in its
//! place is not noticed.)

mod copy;
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

/// Checks for arbitrary bytes in the place of a file's header and of the plaintexts of records
/// (fuzz targets).
pub mod decoding;

/// Names a set. The text does not appear in the file in clear.
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

/// A store that was opened, and what its owner should say about it.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: LocalStore,
    /// The file that was found and could not be used.
    pub set_aside: Option<SetAside>,
    /// Others than the owner can enter the directory. The records are sealed, so this is worth a
    /// warning, not a refusal.
    pub open_to_others: bool,
    /// What became of a key file that was there although a key is configured.
    pub adoption: Option<Adoption>,
}

/// What an open does about a key file.
#[derive(Clone, Copy, Debug)]
enum KeyFileUse {
    Ignore,
    Adopt,
}

/// The embedded store; clones are handles to the same one. It is closed by
/// [`close`](Self::close); when the last handle goes without that, the thread writes what waits
/// and ends, unwatched. It does not make a directory again that was removed.
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
    /// Opens the store in a directory, making both if need be. Takes milliseconds, and blocks: not
    /// for a runtime's thread.
    pub fn open(directory: &Path, ring: KeyRing) -> Result<Opened, LocalStoreError> {
        let directory = Directory::hold(directory)?;
        Self::open_in(directory, ring, Timing::default(), KeyFileUse::Ignore)
    }

    /// As [`open`](Self::open), for a ring of configured keys: if the directory has a key file, the
    /// store that was written before a key was configured is adopted (design D41).
    pub fn open_and_adopt(directory: &Path, ring: KeyRing) -> Result<Opened, LocalStoreError> {
        let directory = Directory::hold(directory)?;
        Self::open_in(directory, ring, Timing::default(), KeyFileUse::Adopt)
    }

    /// True if the directory holds the file of a store. An error if it cannot be looked into.
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

    /// Reads a set; `part` gets the plaintext of each part that opens, in no order. Only if the
    /// result says that nothing is missing or undecodable were that all. Blocks.
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

    /// The set holds this and nothing else, whatever was stored before.
    pub fn replace_set(&self, id: &SetId, content: Arc<dyn Content>) {
        let dirty = Dirty::All;
        let written_at = SystemTime::now();
        self.shared.add(id.clone(), SetWork::Store { content, dirty, written_at });
    }

    /// The set now holds this, which differs from what the last call for this set gave in the
    /// items of these slots only. (The first call for a set may be this one: everything is compared
    /// then.)
    pub fn change_set(&self, id: &SetId, content: Arc<dyn Content>, slots: &[u64]) {
        let dirty = Dirty::Slots(slots.iter().copied().collect());
        let written_at = SystemTime::now();
        self.shared.add(id.clone(), SetWork::Store { content, dirty, written_at });
    }

    /// The set is served from memory as it was read. Nothing is written, but if the file is lost
    /// while the process runs, it is stored again from there.
    pub fn adopt_set(&self, id: &SetId, content: &Arc<dyn Content>, written_at: SystemTime) {
        self.shared.adopt(id, content, written_at);
    }

    /// The set is forgotten.
    pub fn remove_set(&self, id: &SetId) {
        self.shared.add(id.clone(), SetWork::Remove);
    }

    /// All sets but these are forgotten, and with them files that were set aside because they are
    /// sealed under a key that is not configured. Only for a caller who knows the list of sets with
    /// authority.
    pub fn retain_sets(&self, kept: &[SetId]) {
        self.shared.retain(kept.to_vec());
    }

    /// All named records of a space. Blocks.
    pub fn read_named(&self, space: &str) -> Result<NamedRecords, LocalStoreError> {
        let read = self.shared.read(|reading| named::read(reading, space))?;
        // How many records an unreadable file holds is not known.
        let skipped = Skipped { unknown_key: 1, ..Skipped::default() };
        let read = read.unwrap_or(NamedRecords { records: Vec::new(), skipped });
        self.shared.skipped(read.skipped);
        Ok(read)
    }

    /// Changes named records of a space in one transaction. Done when the future says so, durably;
    /// after an error nothing was changed. The change goes ahead whether or not the future is
    /// awaited.
    pub fn write_named(
        &self,
        space: &'static str,
        puts: Vec<(String, Vec<u8>)>,
        deletes: Vec<String>,
    ) -> impl Future<Output = Result<(), LocalStoreError>> + Send + use<> {
        self.change_named(Change { space, puts, deletes, others: Others::Keep })
    }

    /// As [`write_named`](Self::write_named), and all other records of the space go, also those
    /// that do not open.
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

    /// Exchanges the keys, live. A file whose data key is wrapped under another key than the current
    /// one is copied in the background. A file that no key opened is tried with the new ones.
    pub fn set_ring(&self, ring: KeyRing) {
        self.shared.set_ring(ring);
    }

    /// True if a file was set aside, so that what was stored in it is not known.
    pub fn has_set_aside(&self) -> bool {
        self.shared.has_set_aside()
    }

    /// How the store does at this moment.
    pub fn status(&self) -> LocalStoreStatus {
        self.shared.status()
    }

    /// Follows the status. Its `pending` is the number at the last commit or failure.
    pub fn subscribe(&self) -> watch::Receiver<LocalStoreStatus> {
        self.shared.subscribe()
    }

    /// Stores at once what waits. Returns whether all of it was stored within that time.
    pub async fn flush(&self, within: Duration) -> bool {
        let (done, answer) = oneshot::channel();
        self.shared.flush(done);
        matches!(tokio::time::timeout(within, answer).await, Ok(Ok(true)))
    }

    /// Stores what waits, closes the file and ends the thread. Later changes are dropped, later
    /// reads fail. Returns whether everything was stored and closed within that time; the thread
    /// goes on by itself otherwise.
    pub async fn close(&self, within: Duration) -> bool {
        self.shared.stop();
        let ended = tokio::time::timeout(within, self.shared.until_ended()).await;
        ended.is_ok() && self.shared.status().pending == 0
    }
}
