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
use super::trust::{self, Kind, NotTrusted};
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
    /// Creates the directory if need be and takes its lock. Fails if the directory, the lock or the
    /// database is not trusted.
    pub(super) fn hold(path: &Path) -> Result<Self, LocalStoreError> {
        let failed = |source| LocalStoreError::Directory { path: path.to_owned(), source };
        make_directory(path).map_err(failed)?;
        check_trust(path)?;
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
        // Left by a process that was killed while it made a database.
        let _ = fs::remove_file(path.join(NEW_FILE_NAME));
        Ok(Self {
            path: path.to_owned(),
            lock: held,
            #[cfg(test)]
            faults: super::backend::Faults::default(),
        })
    }

    /// The directory's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Fails unless the directory and the files in it that are about to be used are trusted.
    pub(super) fn check_trust(&self) -> Result<(), LocalStoreError> {
        check_trust(&self.path)
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
        self.sync()
    }

    /// Makes the names in the directory durable.
    pub(super) fn sync(&self) -> io::Result<()> {
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

    /// True if there are files that were set aside.
    pub(super) fn has_set_aside(&self) -> bool {
        !self.aside().is_empty()
    }

    /// Removes the files that were set aside.
    pub(super) fn remove_set_aside(&self) -> io::Result<()> {
        self.aside().iter().try_for_each(|(_, path)| match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        })
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

/// Opens a file to read and write that only its owner may use, making it if need be. A link is not
/// followed, and the mode of a file that has a second name elsewhere is not changed.
pub(super) fn private_file(path: &Path) -> io::Result<File> {
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
        // A file that was restored or copied by hand. On a file system without modes it stays.
        let _ = file.set_permissions(fs::Permissions::from_mode(FILE_MODE));
    }
    Ok(file)
}

/// Flags of an open that fails on a link and does not wait on a pipe.
pub(super) fn no_follow() -> i32 {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    flags.bits() as i32
}

/// Whether others than the owner may use a file or directory.
pub(super) fn is_open_to_others(path: &Path) -> bool {
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
            // Only root can give files away; `trust::judge` is tested for all users.
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
