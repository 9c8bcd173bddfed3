//! Opens the embedded store while everything else starts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::keys::Secrets;
use crate::autoconfig::cache::report::{ReadState, SharedReport};
use crate::autoconfig::record_set::CachedSet;
use crate::autoconfig::startup_race::{CacheOutcome, Tier};
use crate::config::LocalStoreDirectory;
use crate::events::SpoolPlace;
use crate::flagstore::{LocalFlags, LocalFlagsState};
use crate::sealing::KeyRing;
use crate::storage::local::{
    Adoption, KeyFileError, KeyFileWarning, LocalStore, LocalStoreError, LocalStoreStatus, Opened,
    SetAsideReason,
};
use crate::tasks::TaskGroup;
use crate::telemetry::Chain;

/// Pause between attempts to open a store that cannot be used. The process that holds it may exit,
/// and a disk may become writable.
const REOPEN_INTERVAL: Duration = Duration::from_secs(5);

/// Completes the sentence "the local store …".
const UNREADABLE: &str = "is sealed under a key that is not configured";

/// The embedded store, as soon as it is open.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) flags: watch::Receiver<LocalFlagsState>,
    /// The reason why the store cannot be opened, if it cannot.
    pub(super) problem: watch::Receiver<Option<String>>,
    /// Its directory and keys, once it is open: events are kept beside it.
    pub(super) place: watch::Receiver<Option<SpoolPlace>>,
    /// True if the configuration turns it off.
    pub(super) is_off: bool,
}

/// Starts to open the store.
pub(super) fn open(
    config: &LocalStoreDirectory,
    secrets: watch::Receiver<Secrets>,
    parts: &mut TaskGroup,
) -> Local {
    let directories = config.candidates().to_vec();
    let explicit = matches!(config, LocalStoreDirectory::Explicit(_));
    let is_off = *config == LocalStoreDirectory::Off;
    let first = if is_off { LocalFlagsState::Off } else { LocalFlagsState::Opening };
    let (flags_sender, flags) = watch::channel(first);
    let (problem_sender, problem) = watch::channel(None);
    let (place_sender, place) = watch::channel(None);
    if !is_off {
        let opening = Opening {
            directories,
            explicit,
            flags: flags_sender,
            problem: problem_sender,
            place: place_sender,
        };
        parts.spawn("local store", |cancel| async move {
            tokio::select! {
                () = cancel.cancelled() => return,
                following = opening.run(secrets) => following.run(&cancel).await,
            }
            cancel.cancelled().await;
        });
    }
    Local { flags, problem, place, is_off }
}

/// Tries to open the store until that succeeds.
struct Opening {
    directories: Vec<PathBuf>,
    explicit: bool,
    flags: watch::Sender<LocalFlagsState>,
    problem: watch::Sender<Option<String>>,
    place: watch::Sender<Option<SpoolPlace>>,
}

impl Opening {
    async fn run(self, secrets: watch::Receiver<Secrets>) -> Following {
        loop {
            let (directories, now) = (self.directories.clone(), secrets.borrow().clone());
            let opening = tokio::task::spawn_blocking(move || first_usable(&directories, &now));
            let opened = opening.await.unwrap_or_else(|error| {
                let problem = Chain(&error).to_string();
                Err(Unusable { problem, is_unwritable: false, is_absent: false })
            });
            match opened {
                Ok(Usable { directory, ring, opened, passed_over }) => {
                    if let Some(problem) = passed_over {
                        tracing::error!(
                            problem,
                            directory = %directory.display(),
                            "a directory that comes first for the local store is not used; using \
                             the next one"
                        );
                    }
                    note(&opened, &directory);
                    let store = opened.store;
                    self.problem.send_replace(None);
                    self.flags.send_replace(LocalFlagsState::Open(LocalFlags::new(store.clone())));
                    let following =
                        Following { store, directory, ring, secrets, place: self.place };
                    following.tell_place();
                    return following;
                }
                Err(problem) => self.failed(problem),
            }
            tokio::time::sleep(REOPEN_INTERVAL).await;
        }
    }

    /// Logs a problem once, however long it lasts.
    fn failed(&self, unusable: Unusable) {
        let Unusable { problem, is_unwritable, is_absent } = unusable;
        if self.problem.borrow().as_ref() == Some(&problem) {
            return;
        }
        if is_unwritable && !self.explicit {
            tracing::warn!(
                problem,
                "running without a local store, because no directory for it can be written: a \
                 restart while LaunchDarkly is away depends on the shared database; set \
                 LOCAL_STORE_DIR to a directory that can be written, or to off if this is intended"
            );
        } else {
            tracing::error!(
                problem,
                "running without a local store: a restart while LaunchDarkly is away depends on \
                 the shared database; the local store is tried again every 5 s"
            );
        }
        self.problem.send_replace(Some(problem));
        self.flags.send_replace(match is_absent {
            true => LocalFlagsState::Absent,
            false => LocalFlagsState::Unavailable,
        });
    }
}

/// A store that could be opened.
struct Usable {
    directory: PathBuf,
    ring: KeyRing,
    opened: Opened,
    /// The problems of directories that come first; `None` if they merely cannot be written.
    passed_over: Option<String>,
}

/// No store could be opened.
#[derive(Debug, PartialEq, Eq)]
struct Unusable {
    problem: String,
    /// True if the only problem is that no directory can be written, as in a container with a
    /// read-only root.
    is_unwritable: bool,
    /// True if, in addition, no directory holds a store. A directory that cannot be read may hold
    /// one.
    is_absent: bool,
}

/// The reason why one directory cannot be used.
#[derive(Debug, thiserror::Error)]
enum OpenFailure {
    #[error(transparent)]
    Key(#[from] KeyFileError),
    #[error(transparent)]
    Store(#[from] LocalStoreError),
}

impl OpenFailure {
    fn is_unwritable(&self) -> bool {
        use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        let (Self::Key(KeyFileError::Io { source, .. })
        | Self::Store(LocalStoreError::Directory { source, .. })) = self
        else {
            return false;
        };
        matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem)
    }
}

/// Opens the store in the first directory where that works.
fn first_usable(directories: &[PathBuf], secrets: &Secrets) -> Result<Usable, Unusable> {
    let mut problems = Vec::new();
    let mut is_unwritable = true;
    for directory in directories {
        match open_in(directory, secrets) {
            Ok((ring, opened)) => {
                let passed_over = (!is_unwritable).then(|| problems.join("; "));
                return Ok(Usable { directory: directory.clone(), ring, opened, passed_over });
            }
            Err(failure) => {
                is_unwritable &= failure.is_unwritable();
                problems.push(Chain(&failure).to_string());
            }
        }
    }
    if problems.is_empty() {
        problems.push("no directory for it is known; set LOCAL_STORE_DIR".to_owned());
    }
    let holds_none = |directory: &PathBuf| matches!(LocalStore::exists_in(directory), Ok(false));
    let is_absent = is_unwritable && directories.iter().all(holds_none);
    Err(Unusable { problem: problems.join("; "), is_unwritable, is_absent })
}

fn open_in(directory: &Path, secrets: &Secrets) -> Result<(KeyRing, Opened), OpenFailure> {
    let (ring, warning) = secrets.local_ring(directory)?;
    if let Some(KeyFileWarning::OpenToOthers { path }) = warning {
        tracing::warn!(
            file = %path.display(),
            "users other than its owner can read the key of the local store; set its mode to 0600"
        );
    }
    let opened = if secrets.has_sealing_key() {
        LocalStore::open_and_adopt(directory, ring.clone())?
    } else {
        LocalStore::open(directory, ring.clone())?
    };
    Ok((ring, opened))
}

fn note(opened: &Opened, directory: &Path) {
    tracing::info!(directory = %directory.display(), "local store open");
    if opened.open_to_others {
        tracing::warn!(
            directory = %directory.display(),
            "others than this user can enter the directory of the local store; mode 0700 is better"
        );
    }
    if let Some(adoption) = &opened.adoption {
        note_adoption(adoption, directory);
    }
    if opened.store.status().unreadable {
        tracing::error!(
            directory = %directory.display(),
            "the local store {UNREADABLE}; nothing in it is used. If it belongs to this relay, add \
             its key to AUTO_CONFIG_CACHE_PREVIOUS_ENCRYPTION_KEYS. When there is data to store, the \
             file is set aside and a new one is made"
        );
    }
    if let Some(aside) = &opened.set_aside {
        let why = match aside.reason {
            SetAsideReason::Damaged => "is damaged",
            SetAsideReason::OtherFormat => "was written by another version",
            SetAsideReason::OtherKey => UNREADABLE,
        };
        tracing::error!(
            cause = aside.cause,
            set_aside = %aside.path.display(),
            "the local store {why}; it was set aside and an empty one is used"
        );
    }
}

/// Logs what became of a key file that was found although a key is configured.
fn note_adoption(adoption: &Adoption, directory: &Path) {
    let directory = directory.display();
    match adoption {
        Adoption::Adopted { sets } => tracing::warn!(
            %directory,
            sets,
            "the local store was written before an encryption key or AUTO_CONFIG_KEY was \
             configured; its flags were adopted and sealed under the configured key, and local.key \
             was removed. This happens once: if you did not add a key just now, somebody has \
             placed a store there; remove the directory"
        ),
        Adoption::KeyFileRemoved => tracing::warn!(
            %directory,
            "removed local.key, which opened nothing in the local store: a key is configured"
        ),
        Adoption::Refused(why) => tracing::error!(
            %directory,
            reason = %Chain(why),
            "the local store has a local.key although a key is configured; what that file opens is \
             not used. Remove local.key; if you did not place it there, remove the directory"
        ),
    }
}

/// Passes changed keys to the store, and logs each of its problems once.
struct Following {
    store: LocalStore,
    directory: PathBuf,
    ring: KeyRing,
    secrets: watch::Receiver<Secrets>,
    place: watch::Sender<Option<SpoolPlace>>,
}

impl Following {
    fn tell_place(&self) {
        let place = SpoolPlace { directory: self.directory.clone(), ring: self.ring.clone() };
        self.place.send_replace(Some(place));
    }

    async fn run(mut self, cancel: &CancellationToken) {
        let mut status = self.store.subscribe();
        // The file that was set aside at the start was logged then.
        let set_aside = status.borrow().set_aside.clone();
        let mut before = LocalStoreStatus { set_aside, ..LocalStoreStatus::default() };
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                Ok(()) = self.secrets.changed() => self.exchange_keys(),
                Ok(()) = status.changed() => {
                    let now = status.borrow_and_update().clone();
                    self.on_status(&before, &now);
                    before = now;
                }
                else => return,
            }
        }
    }

    fn exchange_keys(&mut self) {
        let secrets = self.secrets.borrow_and_update().clone();
        match secrets.local_ring(&self.directory) {
            Ok((ring, _)) => {
                self.ring = ring;
                self.store.set_ring(self.ring.clone());
                self.tell_place();
            }
            Err(error) => tracing::error!(
                error = %Chain(&error),
                "the local store keeps its former key"
            ),
        }
    }

    fn on_status(&mut self, before: &LocalStoreStatus, now: &LocalStoreStatus) {
        match (&before.problem, &now.problem) {
            (None, Some(problem)) => tracing::error!(
                problem = problem.text,
                pending = now.pending,
                "the local store cannot be written; trying again in the background"
            ),
            (Some(_), None) => tracing::info!("the local store is written again"),
            (Some(_), Some(_)) | (None, None) => {}
        }
        self.on_copy(before, now);
        if now.replaced > before.replaced {
            self.on_replaced(before, now);
            self.look_after_key_file();
        }
    }

    /// Logs why the file in use was replaced.
    fn on_replaced(&self, before: &LocalStoreStatus, now: &LocalStoreStatus) {
        let directory = self.directory.display();
        let aside = now.set_aside.as_ref().filter(|_| now.set_aside != before.set_aside);
        match aside.map(|aside| (aside, aside.reason)) {
            Some((aside, SetAsideReason::OtherKey)) => tracing::warn!(
                set_aside = %aside.path.display(),
                "the local store {UNREADABLE}; it was set aside, because there is data to store"
            ),
            Some((aside, SetAsideReason::Damaged | SetAsideReason::OtherFormat)) => {
                tracing::error!(
                    cause = aside.cause,
                    set_aside = %aside.path.display(),
                    "the local store was damaged while in use; it was set aside, and is written anew \
                     from what can be read of it and from memory"
                )
            }
            None if before.unreadable && now.to_reseal.is_some() => tracing::info!(
                %directory,
                "the local store is used: it opens with the configured keys, or was made anew"
            ),
            None => tracing::error!(
                %directory,
                "the file of the local store was removed while in use; it is written anew from \
                 memory"
            ),
        }
    }

    /// Logs the progress of copying the file under a new key.
    fn on_copy(&self, before: &LocalStoreStatus, now: &LocalStoreStatus) {
        let directory = self.directory.display();
        if let Some(problem) = &now.copy_problem
            && now.copy_problem != before.copy_problem
        {
            tracing::warn!(
                %directory,
                problem,
                "the local store could not be copied under the new key; the file can still be \
                 opened with the former key; next attempt in 1m"
            );
        }
        if now.to_reseal == Some(0) && before.to_reseal.is_some_and(|left| left > 0) {
            tracing::info!(
                %directory,
                "the local store was copied under the new key; it holds nothing that a former key \
                 opens"
            );
        }
        if let (Some(aside), None) = (&before.set_aside, &now.set_aside) {
            tracing::info!(
                file = %aside.path.display(),
                "removed files of the local store that were set aside"
            );
        }
    }

    /// Makes the key file again if it was removed with the store. What is stored by
    /// now is sealed under the old key; it is sealed again under the new one.
    fn look_after_key_file(&mut self) {
        match self.secrets.borrow().local_ring(&self.directory) {
            Ok((fresh, _)) if fresh.current().id() != self.ring.current().id() => {
                let former = fresh.keys().iter().chain(self.ring.keys()).cloned();
                self.ring = KeyRing::new(fresh.current().clone(), former);
                self.store.set_ring(self.ring.clone());
                self.tell_place();
            }
            Ok(_) => {}
            Err(error) => tracing::error!(
                error = %Chain(&error),
                "the key file of the local store cannot be made again"
            ),
        }
    }
}

/// Reports that the tier cannot be read for now, because there is no store (`is_absent`) or it
/// cannot be opened. A store that cannot be opened may hold records.
pub(super) async fn report_closed(
    is_absent: bool,
    results: &mpsc::Sender<(Tier, CacheOutcome<CachedSet>)>,
    report: &SharedReport,
) {
    report.update(|report| {
        report.read = ReadState::Unavailable;
        report.error = Some("there is no local store".to_owned());
    });
    let outcome = if is_absent { CacheOutcome::Empty } else { CacheOutcome::Unavailable };
    // Fails only during shutdown: the manager outlives this task.
    let _ = results.send((Tier::Local, outcome)).await;
}
