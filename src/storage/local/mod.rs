//! The embedded store: one ACID file of sealed records in a directory of its own (design D7).
//!
//! It holds two things. *Sets* are complete or not there: all parts and a marker that names them,
//! written in one transaction, told to the store as the newest snapshot and what changed in it.
//! *Named records* stand for themselves and are written by changes that are acknowledged.
//!
//! One thread writes. Everything that waits goes into the next transaction, which begins at most
//! [`COMMIT_DELAY`] after the first change, so a kill loses at most a quarter of a second (design
//! promise 4). Callers never wait for the disk: what cannot be written stays waiting, as
//! references to data that is served anyway, and is tried again.
//!
//! It does not log: what its owner should say is in [`Opened`], [`LocalStoreStatus`] and the
//! results. It does not know what the records mean.
//!
//! The invariant: what a read calls complete is exactly what was stored for that set, at one
//! moment. Damage of any kind shows as missing or undecodable parts, or as an error, and never as
//! other data nor as a panic. (An older copy of the whole file is a sound file: putting one in its
//! place is not noticed.)
//!
//! The first write to a file that was found waits for a check of all its checksums, some 100 ms
//! for 200 MB; see `database.rs`.

mod adoption;
mod backend;
mod batch;
mod database;
mod directory;
pub(crate) mod fields;
mod key_file;
mod keys_on_disk;
mod marker;
mod named;
mod names;
mod pending;
mod rewrite;
mod sets;
mod shared;
#[cfg(test)]
mod tests;
mod trust;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{oneshot, watch};

use crate::backoff::Backoff;
use crate::sealing::{KeyRing, OpenError};

use super::Cause;
use database::{Fault, FaultKind, Holder, Opening};
use directory::Directory;
use named::{Change, Others};
use pending::{Dirty, NamedWork, SetWork};
use sets::Unknown;
use shared::Shared;

pub use adoption::Adoption;
pub use key_file::{KeyFile, KeyFileError, KeyFileWarning};
pub use named::NamedRecords;
pub use sets::{Content, SetRead};
pub use trust::NotTrusted;

/// How long changes are collected before they are written together. With the commit itself this
/// stays far below the 250 ms of design promise 4; shorter would only mean more commits.
pub const COMMIT_DELAY: Duration = Duration::from_millis(50);

/// Time after which a transaction takes on no further large set, so that small changes that come
/// meanwhile are not kept waiting. One set is always written whole.
const TRANSACTION_TIME: Duration = Duration::from_millis(50);

/// Bytes after which a transaction takes on no further large set: a slow disk takes some 100 ms
/// to make them durable.
const TRANSACTION_BYTES: u64 = 8 * 1024 * 1024;

/// Pauses after failures: soon at first, as most failures pass; at most 30 s (design D23).
const RETRY: Backoff = Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(30) };

/// Pause before records under older keys are sealed anew: the start comes first.
const RESEAL_DELAY: Duration = Duration::from_secs(5);

/// Times of a store; tests shorten them.
#[derive(Clone, Copy, Debug)]
struct Timing {
    commit_delay: Duration,
    transaction_time: Duration,
    retry: Backoff,
    reseal_delay: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            commit_delay: COMMIT_DELAY,
            transaction_time: TRANSACTION_TIME,
            retry: RETRY,
            reseal_delay: RESEAL_DELAY,
        }
    }
}

/// Why the store could not be opened, or a call could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum LocalStoreError {
    /// Another process, or another store of this one, holds the directory.
    #[error("another process uses the local store in {}", path.display())]
    InUse {
        /// The directory or file.
        path: PathBuf,
    },
    /// The directory cannot be made or entered.
    #[error("the directory of the local store, {}, cannot be used", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The directory or a file in it could have been written by another user (design D41).
    #[error("the local store is not used")]
    NotTrusted(#[source] NotTrusted),
    /// The file can neither be opened nor made.
    #[error("the local store {} cannot be opened", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Cause,
    },
    /// The file is damaged where this call read. The store sets it aside as soon as there is
    /// something to store.
    #[error("the local store is damaged")]
    Damaged(#[source] Cause),
    /// The disk failed this call; the change that it was about is not stored.
    #[error("the local store cannot use its disk")]
    Disk(#[source] Cause),
    /// The store failed before and has not recovered yet, or was closed.
    #[error("the local store is not available at the moment")]
    Unavailable,
    /// Too much waits to be written.
    #[error("too many changes wait for the local store")]
    Overloaded,
}

impl From<Fault> for LocalStoreError {
    fn from(fault: Fault) -> Self {
        match fault.kind {
            FaultKind::Damaged | FaultKind::Changed | FaultKind::OtherFormat => {
                Self::Damaged(fault.into())
            }
            FaultKind::Io | FaultKind::InUse => Self::Disk(fault.into()),
            FaultKind::Handle => Self::Unavailable,
        }
    }
}

/// Why a file was set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetAsideReason {
    /// It cannot be read.
    Damaged,
    /// It was written by another version of this program, in a format that this one does not know.
    OtherFormat,
}

/// A file that was set aside, and replaced by an empty one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Where it is now.
    pub path: PathBuf,
    /// Why, for decisions.
    pub reason: SetAsideReason,
    /// Why, for the log.
    pub cause: String,
}

/// Records that were met and not opened, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Not of this format.
    pub format: u64,
    /// Sealed under a key that is not configured.
    pub unknown_key: u64,
    /// Altered, cut, or moved from another place.
    pub forged: u64,
}

impl Skipped {
    /// All together.
    pub fn total(&self) -> u64 {
        self.format + self.unknown_key + self.forged
    }

    fn count(&mut self, error: OpenError) {
        match error {
            OpenError::Format => self.format += 1,
            OpenError::UnknownKey => self.unknown_key += 1,
            OpenError::Forged => self.forged += 1,
        }
    }

    fn add(&mut self, other: Self) {
        self.format += other.format;
        self.unknown_key += other.unknown_key;
        self.forged += other.forged;
    }
}

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

/// A failure of the writer that is not over yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What went wrong, causes included.
    pub text: String,
    /// When it was last seen.
    pub at: SystemTime,
    /// Failures in a row.
    pub failures: u32,
}

/// How the store does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalStoreStatus {
    /// Whether there is a file to read from.
    pub available: bool,
    /// Sets and named changes that are not stored yet.
    pub pending: usize,
    /// When something was last stored.
    pub last_commit: Option<SystemTime>,
    /// What keeps the store from storing, while it does.
    pub problem: Option<Problem>,
    /// How often the file was replaced by an empty one while the store ran. Sets are then stored
    /// again from memory; owners of named records must write theirs again.
    pub replaced: u64,
    /// The file that was set aside last.
    pub set_aside: Option<SetAside>,
    /// Records that reads met and did not open.
    pub skipped: Skipped,
    /// Sets that stand under keys that are not configured.
    pub unreadable_sets: u64,
    /// Sets and named records that are still to be sealed anew under the current key, and one more
    /// until the file is free of everything that older keys opened; `None` while they were not
    /// counted since the start or since the keys changed.
    pub to_reseal: Option<usize>,
    /// Why the file could not be written anew after a change of keys; it is tried again.
    pub rewrite_problem: Option<String>,
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
        let holder = Holder::default();
        let set_aside = match holder.open(&directory, &ring)? {
            Opening::Found | Opening::Made => None,
            Opening::Replaced(set_aside) => Some(set_aside),
        };
        let adoption = match key_file {
            KeyFileUse::Adopt => adoption::adopt(&holder, &directory, &ring),
            KeyFileUse::Ignore => None,
        };
        let open_to_others = directory.is_open_to_others();
        let path = directory.database();
        let shared = Arc::new(Shared::new(holder, ring, set_aside.clone()));
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
        let ring = self.shared.ring();
        let read = self.shared.read(|open| sets::read(open, &ring, id.as_str(), part))?;
        let mut skipped = Skipped::default();
        match &read {
            SetRead::Absent => {}
            SetRead::Unreadable { keys } => skipped.unknown_key = keys.len() as u64,
            SetRead::Undecodable => skipped.forged = 1,
            SetRead::Found(found) => skipped.forged = found.undecodable,
        }
        self.shared.skipped(skipped);
        if read.shows_damage() {
            let text = "a set is not complete although sets are only ever stored whole";
            self.shared.damaged(Fault::new(FaultKind::Damaged, text));
        }
        Ok(read)
    }

    /// The sets that have a readable marker. Blocks.
    pub fn stored_sets(&self) -> Result<Vec<SetId>, LocalStoreError> {
        let ring = self.shared.ring();
        let found = self.shared.read(|open| sets::inventory(open, &ring))?;
        Ok(found.ids.into_iter().map(SetId::new).collect())
    }

    /// The set holds this and nothing else, whatever was stored before: live data that replaces
    /// also what nobody here can read.
    pub fn replace_set(&self, id: &SetId, content: Arc<dyn Content>) {
        let dirty = Dirty::All(Unknown::Remove);
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

    /// All sets but these are forgotten, also those that nobody here can read. Only for a caller
    /// who knows the list of sets with authority.
    pub fn retain_sets(&self, kept: &[SetId]) {
        self.shared.retain(kept.to_vec());
    }

    /// All named records of a space. Blocks.
    pub fn read_named(&self, space: &str) -> Result<NamedRecords, LocalStoreError> {
        let ring = self.shared.ring();
        let read = self.shared.read(|open| named::read_all(open, &ring, space))?;
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
    /// that nobody here can read.
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

    /// Exchanges the keys, live. What stands under a key of the new ring other than its current one
    /// is sealed anew in the background, and the file is written anew.
    pub fn set_ring(&self, ring: KeyRing) {
        self.shared.set_ring(ring);
    }

    /// True if a file was set aside, so that what was stored in it is not known.
    pub fn has_set_aside(&self) -> bool {
        self.shared.read(|open| Ok(!open.keys().aside.is_empty())).unwrap_or(true)
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
