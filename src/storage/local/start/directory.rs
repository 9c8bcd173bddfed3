//! The store's directory: its permissions, its lock, and the files that were set aside.
//!
//! One process holds the directory at a time, by a lock on a separate file, so the lock stays while
//! the database file is closed, renamed or created again. The lock ends with the process, however
//! it ends.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use super::trust::{self, Kind, NotTrusted};
use crate::model::hex;
use crate::sealing::{KeyRing, SealingKey};
#[cfg(test)]
use crate::storage::local::faults::Faults;
use crate::storage::local::{LocalStoreError, SetAsideReason};

/// The database.
pub(crate) const FILE_NAME: &str = "pilotlight.redb";
/// The database while it is created; under another name, so that no incomplete file is ever found.
const NEW_FILE_NAME: &str = "pilotlight.redb.new";
const LOCK_NAME: &str = "pilotlight.lock";

/// Number of files set aside that are kept for inspection: the last one and the one before it. More
/// would fill the disk of a machine that damages its files.
const SET_ASIDE_MAX: usize = 2;

/// Only the owner may read and write.
const FILE_MODE: u32 = 0o600;
/// Only the owner may enter.
const DIRECTORY_MODE: u32 = 0o700;
/// The permissions of users other than the owner.
const OTHERS: u32 = 0o077;

/// A directory that this process holds.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    /// `None` on file systems without locks, and on read-only ones without a lock file.
    lock: Option<File>,
    /// Faults of the database's files.
    #[cfg(test)]
    pub(crate) faults: Faults,
}

impl Directory {
    /// Creates the directory if necessary and takes its lock. Fails if the directory, the lock or
    /// the database is not trusted.
    pub(crate) fn hold(path: &Path) -> Result<Self, LocalStoreError> {
        let failed = |source| LocalStoreError::Directory { path: path.to_owned(), source };
        make_directory(path).map_err(failed)?;
        check_trust(path)?;
        let lock_path = path.join(LOCK_NAME);
        let lock = match private_file(&lock_path) {
            Ok(lock) => Some(lock),
            // Existing files can still be read, and locked if the lock file exists.
            Err(error) if is_read_only(&error) => File::open(lock_path).ok(),
            Err(error) => return Err(failed(error)),
        };
        let held = match lock.as_ref().map_or(Ok(()), File::try_lock) {
            Ok(()) => lock,
            Err(TryLockError::WouldBlock) => {
                return Err(LocalStoreError::InUse { path: path.to_owned() });
            }
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => None,
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        };
        // Left by a process that was killed while it created a database.
        let _ = fs::remove_file(path.join(NEW_FILE_NAME));
        Ok(Self {
            path: path.to_owned(),
            lock: held,
            #[cfg(test)]
            faults: Faults::default(),
        })
    }

    /// The directory's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Fails unless the directory and the files in it that will be used are trusted.
    pub(crate) fn check_trust(&self) -> Result<(), LocalStoreError> {
        check_trust(&self.path)
    }

    /// True if the lock and the database still exist. They may be removed while they are open, and
    /// then all written data is lost with the process.
    pub(crate) fn is_in_place(&self) -> bool {
        self.is_lock_in_place() && self.database().try_exists().unwrap_or(true)
    }

    fn is_lock_in_place(&self) -> bool {
        let Some(lock) = &self.lock else { return true };
        let identity = |data: fs::Metadata| (data.dev(), data.ino());
        match fs::metadata(self.path.join(LOCK_NAME)).map(identity) {
            Ok(found) => lock.metadata().map(identity).is_ok_and(|held| held == found),
            Err(error) => {
                !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
            }
        }
    }

    /// Creates the directory again if necessary, and takes the lock in it.
    pub(crate) fn hold_again(&mut self) -> Result<(), LocalStoreError> {
        if !self.is_lock_in_place() {
            self.lock = Self::hold(&self.path)?.lock;
        }
        Ok(())
    }

    /// The database file.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join(FILE_NAME)
    }

    /// The path for a new database; an existing file there is removed.
    pub(crate) fn new_database(&self) -> io::Result<PathBuf> {
        let path = self.path.join(NEW_FILE_NAME);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(path),
        }
    }

    /// Gives a new database its final name, replacing any other one.
    pub(crate) fn publish(&self, made: &Path) -> io::Result<()> {
        fs::rename(made, self.database())?;
        // The new file is already in use, so a failure would come too late. It only means that the
        // old file may return after a power loss.
        let _ = File::open(&self.path).and_then(|directory| directory.sync_all());
        Ok(())
    }

    /// True if users other than the owner can enter the directory.
    pub(crate) fn is_open_to_others(&self) -> bool {
        is_open_to_others(&self.path)
    }

    /// Gives the database a second name (or renames it, where the file system has no second names)
    /// with the reason and the time of setting it aside. Keeps the newest of such files. The name
    /// ends with a mark of the configured keys, which [`remove_aside`](Self::remove_aside)
    /// compares.
    pub(crate) fn set_aside(&self, reason: SetAsideReason, ring: &KeyRing) -> io::Result<PathBuf> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let earlier = aside_in(&self.path);
        // Ascending even if the clock stands still or goes back.
        let stamp = earlier.last().map_or(now, |last| now.max(last.stamp.saturating_add(1)));
        let name = format!("{FILE_NAME}.{}-{stamp}-{}", word(reason), ring_mark(ring));
        let path = self.path.join(name);
        fs::hard_link(self.database(), &path).or_else(|_| fs::rename(self.database(), &path))?;
        // Best effort: files that cannot be removed stay.
        let surplus = (earlier.len() + 1).saturating_sub(SET_ASIDE_MAX);
        for aside in &earlier[..surplus] {
            let _ = fs::remove_file(&aside.path);
        }
        Ok(path)
    }

    /// Removes files that were set aside. Returns true if there were any.
    pub(crate) fn remove_aside(&self, which: Removal<'_>) -> io::Result<bool> {
        let mut removed = false;
        for aside in aside_in(&self.path) {
            let goes = match which {
                Removal::All => true,
                Removal::OtherKeys => aside.reason == SetAsideReason::OtherKey,
                Removal::KeysChanged(ring) => {
                    aside.reason != SetAsideReason::OtherKey && aside.mark != ring_mark(ring)
                }
            };
            if goes {
                match fs::remove_file(&aside.path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => removed = true,
                }
            }
        }
        Ok(removed)
    }
}

/// True if a directory contains files that were set aside, for this reason or, with `None`, for
/// any.
pub(crate) fn has_aside(directory: &Path, reason: Option<SetAsideReason>) -> bool {
    aside_in(directory).iter().any(|aside| reason.is_none_or(|reason| aside.reason == reason))
}

/// The files of a directory that were set aside, the oldest first.
fn aside_in(directory: &Path) -> Vec<Aside> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut found: Vec<Aside> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Aside::of(entry.file_name().to_str()?, entry.path())
        })
        .collect();
    found.sort_unstable_by_key(|aside| aside.stamp);
    found
}

/// A selection of files that were set aside, to be removed.
#[derive(Clone, Copy)]
pub(crate) enum Removal<'a> {
    All,
    /// Those that were sealed under a key that was not configured.
    OtherKeys,
    /// All others, if the configured keys have changed since: a key that is no longer configured
    /// may open them.
    KeysChanged(&'a KeyRing),
}

/// A file that was set aside, described by its name.
struct Aside {
    stamp: u128,
    reason: SetAsideReason,
    mark: String,
    path: PathBuf,
}

impl Aside {
    fn of(name: &str, path: PathBuf) -> Option<Self> {
        let rest = name.strip_prefix(FILE_NAME)?.strip_prefix('.')?;
        let reason = REASONS.into_iter().find(|reason| rest.starts_with(word(*reason)))?;
        let rest = rest.strip_prefix(word(reason))?.strip_prefix('-')?;
        // Earlier versions wrote no mark.
        let (stamp, mark) = rest.split_once('-').unwrap_or((rest, ""));
        Some(Self { stamp: stamp.parse().ok()?, reason, mark: mark.to_owned(), path })
    }
}

const REASONS: [SetAsideReason; 3] =
    [SetAsideReason::Damaged, SetAsideReason::OtherFormat, SetAsideReason::OtherKey];

fn word(reason: SetAsideReason) -> &'static str {
    match reason {
        SetAsideReason::Damaged => "damaged",
        SetAsideReason::OtherFormat => "other-format",
        SetAsideReason::OtherKey => "other-key",
    }
}

/// A short hash of the IDs of all configured keys.
fn ring_mark(ring: &KeyRing) -> String {
    let mut ids: Vec<_> = ring.keys().iter().map(SealingKey::id).collect();
    ids.sort_unstable();
    let mut hash = Sha256::new();
    ids.iter().for_each(|id| hash.update(id.as_bytes()));
    hex(&hash.finalize()[..4])
}

/// Creates a directory that only its owner may enter, if it does not exist.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)
}

/// Fails unless the directory, its lock and its database are trusted, as far as they exist.
fn check_trust(directory: &Path) -> Result<(), LocalStoreError> {
    let failed = |source| LocalStoreError::Directory { path: directory.to_owned(), source };
    trust::check(directory, Kind::Directory).map_err(failed)??;
    for name in [LOCK_NAME, FILE_NAME] {
        trust::check_if_there(&directory.join(name), Kind::File).map_err(failed)??;
    }
    Ok(())
}

impl From<NotTrusted> for LocalStoreError {
    fn from(reason: NotTrusted) -> Self {
        Self::NotTrusted(reason)
    }
}

/// Opens a file for reading and writing that only its owner may use, creating it if necessary. A
/// link is not followed, and the mode of a file with a second name elsewhere is not changed.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .custom_flags(no_follow())
        .open(path)?;
    let data = file.metadata()?;
    if data.permissions().mode() & OTHERS != 0 && data.nlink() == 1 {
        // A file that an operator restored or copied. On a file system without modes it stays.
        let _ = file.set_permissions(fs::Permissions::from_mode(FILE_MODE));
    }
    Ok(file)
}

/// True if a file that cannot be opened for writing may still be opened for reading.
fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

/// Flags of an open that fails on a link and does not wait on a pipe.
pub(crate) fn no_follow() -> i32 {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    flags.bits() as i32
}

/// True if users other than the owner may use a file or directory.
pub(crate) fn is_open_to_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|data| data.permissions().mode() & OTHERS != 0)
}

#[cfg(test)]
mod tests {
    use super::super::trust::Distrust;
    use super::*;

    #[test]
    fn is_private_and_held_once() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let held = Directory::hold(&path).unwrap();
        assert!(!held.is_open_to_others());
        assert!(matches!(Directory::hold(&path), Err(LocalStoreError::InUse { .. })));
        drop(held);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Directory::hold(&path).unwrap().is_open_to_others());
    }

    #[test]
    fn a_directory_that_was_removed_is_noticed_and_made_again() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a");
        let mut held = Directory::hold(&path).unwrap();
        fs::write(held.database(), "").unwrap();
        assert!(held.is_in_place());
        fs::remove_file(held.database()).unwrap();
        assert!(!held.is_in_place());
        held.hold_again().unwrap();
        fs::write(held.database(), "").unwrap();
        assert!(held.is_in_place());
        fs::remove_dir_all(&path).unwrap();
        assert!(!held.is_in_place());
        let other = Directory::hold(&path).unwrap();
        fs::write(other.database(), "").unwrap();
        assert!(!held.is_in_place(), "it is another one's");
        assert!(matches!(held.hold_again(), Err(LocalStoreError::InUse { .. })));
        drop(other);
        held.hold_again().unwrap();
        assert!(held.is_in_place() && !held.is_open_to_others());
        assert!(matches!(Directory::hold(&path), Err(LocalStoreError::InUse { .. })));
    }

    #[test]
    fn a_file_in_its_place_is_an_error() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("file");
        fs::write(&path, "text").unwrap();
        for path in [path.clone(), path.join("below")] {
            let error = Directory::hold(&path).unwrap_err();
            assert!(matches!(error, LocalStoreError::Directory { .. }), "{error:?}");
        }
    }

    #[test]
    fn only_the_newest_files_set_aside_stay() {
        let parent = tempfile::tempdir().unwrap();
        let directory = Directory::hold(parent.path()).unwrap();
        let ring = KeyRing::new(SealingKey::derive("key"), []);
        let mut names = Vec::new();
        for round in 0..5 {
            fs::write(directory.database(), format!("{round}")).unwrap();
            let reason = [SetAsideReason::Damaged, SetAsideReason::OtherFormat][round % 2];
            names.push(directory.set_aside(reason, &ring).unwrap());
            fs::remove_file(directory.database()).unwrap();
        }
        assert!(names[4].to_str().unwrap().contains("pilotlight.redb.damaged-"));
        assert!(names[3].to_str().unwrap().contains("pilotlight.redb.other-format-"));
        let kept: Vec<bool> = names.iter().map(|name| name.exists()).collect();
        assert_eq!(kept, [false, false, false, true, true]);
    }

    #[test]
    fn what_is_not_trusted_is_neither_used_nor_changed() {
        use std::os::unix::fs::{chown, symlink};

        let refused = |spoil: &dyn Fn(&Path)| {
            let parent = tempfile::tempdir().unwrap();
            let path = parent.path().join("store");
            drop(Directory::hold(&path).unwrap());
            fs::write(path.join(FILE_NAME), "").unwrap();
            fs::write(parent.path().join("target"), "text").unwrap();
            fs::set_permissions(parent.path().join("target"), mode(0o644)).unwrap();
            spoil(&path);
            let error = Directory::hold(&path).unwrap_err();
            let LocalStoreError::NotTrusted(reason) = error else { panic!("{error:?}") };
            let target = fs::metadata(parent.path().join("target")).unwrap();
            assert_eq!(target.permissions().mode() & 0o777, 0o644, "the target of a link stays");
            reason.why
        };
        fn mode(bits: u32) -> fs::Permissions {
            fs::Permissions::from_mode(bits)
        }
        for name in ["", FILE_NAME, LOCK_NAME] {
            let entry = |path: &Path| if name.is_empty() { path.into() } else { path.join(name) };
            let why = refused(&|path| fs::set_permissions(entry(path), mode(0o775)).unwrap());
            assert!(matches!(why, Distrust::WritableByOthers { mode: 0o775 }), "{name} {why:?}");
            let why = refused(&|path| {
                let target = path.with_file_name("target");
                let elsewhere = path.with_file_name("elsewhere");
                if name.is_empty() {
                    fs::rename(path, &elsewhere).unwrap();
                    symlink(elsewhere, path).unwrap();
                } else {
                    fs::remove_file(entry(path)).unwrap();
                    symlink(target, entry(path)).unwrap();
                }
            });
            assert_eq!(why, Distrust::Link, "{name}");
            // Only root can change the owner of files; `trust::judge` is tested for all users.
            if rustix::process::geteuid().is_root() {
                let why = refused(&|path| chown(entry(path), Some(4242), None).unwrap());
                assert_eq!(why, Distrust::ForeignOwner { owner: 4242, user: 0 }, "{name}");
            }
        }
    }

    #[test]
    fn a_database_that_a_killed_process_left_half_made_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join(NEW_FILE_NAME);
        fs::write(&left, "half").unwrap();
        let held = Directory::hold(parent.path()).unwrap();
        assert!(!left.exists());
        drop(held);
    }

    #[test]
    fn files_of_others_are_made_private() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("file");
        fs::write(&path, "text").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(is_open_to_others(&path));
        private_file(&path).unwrap();
        assert!(!is_open_to_others(&path));
    }
}
