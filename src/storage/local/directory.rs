//! The store's directory: who may look into it, who holds it, and where damaged files go.
//!
//! One process holds the directory at a time, by a lock on a file of its own: the lock stays while
//! the database file is closed, renamed or made anew. The lock goes with the process, however
//! it ends.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::backend::{Switch, is_read_only};
use super::{LocalStoreError, SetAsideReason};

/// The database.
pub(super) const FILE_NAME: &str = "pilotlight.redb";
/// The database while it is made; a name of its own, so that no half-made file is ever found.
const NEW_FILE_NAME: &str = "pilotlight.redb.new";
const LOCK_NAME: &str = "pilotlight.lock";

/// How many files that were set aside are kept, for somebody to look at: the last one and the one
/// before it. More would fill the disk of a machine that damages its files.
const SET_ASIDE_MAX: usize = 2;

/// Only the owner reads and writes.
const FILE_MODE: u32 = 0o600;
/// Only the owner enters.
const DIRECTORY_MODE: u32 = 0o700;
/// What others than the owner may do.
const OTHERS: u32 = 0o077;

/// A directory that this process holds.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    /// `None` on file systems without locks, and on those that take no writes and have none yet;
    /// the database's own lock is left then.
    lock: Option<File>,
    /// Lets the database's files fail on command.
    #[cfg(test)]
    pub(super) faults: super::backend::Faults,
}

impl Directory {
    /// Creates the directory if need be and takes its lock.
    pub(super) fn hold(path: &Path) -> Result<Self, LocalStoreError> {
        let failed = |source| LocalStoreError::Directory { path: path.to_owned(), source };
        make_directory(path).map_err(failed)?;
        let lock_path = path.join(LOCK_NAME);
        let lock = match private_file(&lock_path) {
            Ok(lock) => Some(lock),
            // What is there can still be read, and locked if the lock was ever made.
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
        Ok(Self {
            path: path.to_owned(),
            lock: held,
            #[cfg(test)]
            faults: super::backend::Faults::default(),
        })
    }

    /// Whether the lock and the database are still where they were made. Somebody may remove them
    /// while they are open, and then everything that is written is lost with the process.
    pub(super) fn is_in_place(&self) -> bool {
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

    /// Makes the directory again if need be, and takes the lock that is there.
    pub(super) fn hold_again(&mut self) -> Result<(), LocalStoreError> {
        if !self.is_lock_in_place() {
            self.lock = Self::hold(&self.path)?.lock;
        }
        Ok(())
    }

    /// A switch for a database that is about to be opened.
    pub(super) fn switch(&self) -> Switch {
        Switch::new(
            #[cfg(test)]
            self.faults.clone(),
        )
    }

    /// The database file.
    pub(super) fn database(&self) -> PathBuf {
        self.path.join(FILE_NAME)
    }

    /// Where a new database is made, empty.
    pub(super) fn new_database(&self) -> io::Result<PathBuf> {
        let path = self.path.join(NEW_FILE_NAME);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(path),
        }
    }

    /// Gives a database that was made its final name, also after a power loss.
    pub(super) fn publish(&self, made: &Path) -> io::Result<()> {
        fs::rename(made, self.database())?;
        File::open(&self.path)?.sync_all()
    }

    /// Whether others than the owner can enter the directory.
    pub(super) fn is_open_to_others(&self) -> bool {
        is_open_to_others(&self.path)
    }

    /// Renames the database to a name that says why and when, and keeps the newest of such files.
    pub(super) fn set_aside(&self, reason: SetAsideReason) -> io::Result<PathBuf> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let earlier = self.aside();
        // Also in order if the clock stands still or goes back.
        let stamp = earlier.last().map_or(now, |(last, _)| now.max(last.saturating_add(1)));
        let path = self.path.join(format!("{}{stamp}", aside_prefix(reason)));
        fs::rename(self.database(), &path)?;
        // Best effort: what cannot be removed stays.
        let surplus = (earlier.len() + 1).saturating_sub(SET_ASIDE_MAX);
        for (_, path) in &earlier[..surplus] {
            let _ = fs::remove_file(path);
        }
        Ok(path)
    }

    /// The files that were set aside, the oldest first.
    fn aside(&self) -> Vec<(u128, PathBuf)> {
        let Ok(entries) = fs::read_dir(&self.path) else { return Vec::new() };
        let mut found: Vec<(u128, PathBuf)> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                Some((aside_stamp(entry.file_name().to_str()?)?, entry.path()))
            })
            .collect();
        found.sort();
        found
    }
}

fn aside_prefix(reason: SetAsideReason) -> String {
    let word = match reason {
        SetAsideReason::Damaged => "damaged",
        SetAsideReason::OtherFormat => "other-format",
    };
    format!("{FILE_NAME}.{word}-")
}

fn aside_stamp(name: &str) -> Option<u128> {
    [SetAsideReason::Damaged, SetAsideReason::OtherFormat]
        .into_iter()
        .find_map(|reason| name.strip_prefix(&aside_prefix(reason))?.parse().ok())
}

/// Makes a directory that only its owner may enter, if it is not there.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path)
}

/// Opens a file to read and write that only its owner may use, making it if need be.
pub(super) fn private_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path)?;
    if file.metadata()?.permissions().mode() & OTHERS != 0 {
        // A file that was restored or copied by hand. On a file system without modes it stays.
        let _ = file.set_permissions(fs::Permissions::from_mode(FILE_MODE));
    }
    Ok(file)
}

/// Whether others than the owner may use a file or directory.
pub(super) fn is_open_to_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|data| data.permissions().mode() & OTHERS != 0)
}

#[cfg(test)]
mod tests {
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
        let mut names = Vec::new();
        for round in 0..5 {
            fs::write(directory.database(), format!("{round}")).unwrap();
            let reason = [SetAsideReason::Damaged, SetAsideReason::OtherFormat][round % 2];
            names.push(directory.set_aside(reason).unwrap());
            assert!(!directory.database().exists());
        }
        assert!(names[4].to_str().unwrap().contains("pilotlight.redb.damaged-"));
        assert!(names[3].to_str().unwrap().contains("pilotlight.redb.other-format-"));
        let kept: Vec<bool> = names.iter().map(|name| name.exists()).collect();
        assert_eq!(kept, [false, false, false, true, true]);
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
