//! The key file: without an encryption key and without an autoconfig key, the store is
//! sealed under a random key in a file in its directory.
//!
//! That protects only a copy of the database without the key file: a user who can read the
//! directory has both. The file is created once and never changed. If a key is configured, the key
//! file is used for one purpose only, see `adoption.rs`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::sealing::SealingKey;

use super::directory::{is_open_to_others, no_follow};
use super::trust::{self, Kind, NotTrusted};

const FILE_NAME: &str = "local.key";
/// Random bytes of a key, written as twice as many hexadecimal digits.
const KEY_BYTES: usize = 32;

/// Largest number of bytes that are read from a file: more than a key has.
const FILE_BYTES_MAX: u64 = 4096;

/// The reason why the key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read or created.
    #[error("the key file {} cannot be used", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The file was not created by this program. Data that was sealed under its former key is lost;
    /// once the file is removed, a new one is created.
    #[error("the key file {} does not hold a key", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The directory or the file could have been written by another user.
    #[error("the key file of the local store is not used")]
    NotTrusted(#[source] NotTrusted),
    /// The operating system provides no random bytes for a key.
    #[error("the operating system gives no random bytes")]
    NoRandomness,
}

/// A problem of a key file that is used nevertheless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyFileWarning {
    /// Users other than the owner may read it.
    OpenToOthers {
        /// The file.
        path: PathBuf,
    },
}

/// A key that was read from its file.
#[derive(Clone, Debug)]
pub struct KeyFile {
    /// The key.
    pub key: SealingKey,
    /// A warning for the operator.
    pub warning: Option<KeyFileWarning>,
}

impl KeyFile {
    /// Reads the key file of a store's directory, if there is one.
    pub fn read(directory: &Path) -> Result<Option<Self>, KeyFileError> {
        let path = directory.join(FILE_NAME);
        for (path, kind) in [(directory, Kind::Directory), (path.as_path(), Kind::File)] {
            trust::check_if_there(path, kind)
                .map_err(|source| KeyFileError::Io { path: path.to_owned(), source })?
                .map_err(KeyFileError::NotTrusted)?;
        }
        let text = match read_text(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(KeyFileError::Malformed { path });
            }
            Err(source) => return Err(KeyFileError::Io { path, source }),
        };
        let digits = text.trim_end();
        if digits.len() != 2 * KEY_BYTES || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(KeyFileError::Malformed { path });
        }
        let key = SealingKey::derive(digits);
        let warning = is_open_to_others(&path).then_some(KeyFileWarning::OpenToOthers { path });
        Ok(Some(Self { key, warning }))
    }

    /// Reads the key file, and creates it and the store's directory if they do not exist.
    pub fn read_or_make(directory: &Path) -> Result<Self, KeyFileError> {
        if let Some(found) = Self::read(directory)? {
            return Ok(found);
        }
        let path = directory.join(FILE_NAME);
        make(directory, &path)?;
        // Read back: the content of the file decides, even if another process created it first.
        Self::read(directory)?.ok_or(KeyFileError::Malformed { path })
    }

    /// Removes the key file of a store's directory, durably.
    pub(crate) fn remove(directory: &Path) -> Result<(), KeyFileError> {
        let path = directory.join(FILE_NAME);
        fs::remove_file(&path)
            .and_then(|()| File::open(directory)?.sync_all())
            .map_err(|source| KeyFileError::Io { path, source })
    }
}

fn read_text(path: &Path) -> io::Result<Zeroizing<String>> {
    let file = File::options().read(true).custom_flags(no_follow()).open(path)?;
    let mut text = Zeroizing::new(String::new());
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Creates the file completely or not at all, and does not change an existing one.
fn make(directory: &Path, path: &Path) -> Result<(), KeyFileError> {
    let failed = |source| KeyFileError::Io { path: path.to_owned(), source };
    super::directory::make_directory(directory).map_err(failed)?;
    trust::check(directory, Kind::Directory).map_err(failed)?.map_err(KeyFileError::NotTrusted)?;
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    getrandom::fill(&mut *key).map_err(|_| KeyFileError::NoRandomness)?;
    let mut text = Zeroizing::new(String::with_capacity(2 * KEY_BYTES + 1));
    for byte in key.iter() {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(nibble.into(), 16).unwrap_or('0'));
        }
    }
    text.push('\n');
    let draft = directory.join(format!("{FILE_NAME}.{:016x}", fastrand::u64(..)));
    let write = || {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        match fs::hard_link(&draft, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    };
    let written = write();
    let _ = fs::remove_file(&draft);
    written.and_then(|()| File::open(directory)?.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn id(key: &SealingKey) -> crate::sealing::KeyId {
        key.id()
    }

    #[test]
    fn is_made_once_private_and_then_read() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("store");
        assert!(KeyFile::read(&directory).unwrap().is_none());
        let made = KeyFile::read_or_make(&directory).unwrap();
        assert_eq!(made.warning, None);
        let again = KeyFile::read_or_make(&directory).unwrap();
        assert_eq!(id(&made.key), id(&again.key));
        let names: Vec<_> = fs::read_dir(&directory).unwrap().map(|e| e.unwrap()).collect();
        assert_eq!(names.len(), 1, "no draft is left: {names:?}");
        let mode = names[0].metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let other = tempfile::tempdir().unwrap();
        let other = KeyFile::read_or_make(other.path()).unwrap();
        assert_ne!(id(&made.key), id(&other.key));
    }

    #[test]
    fn of_two_makers_one_wins() {
        let parent = tempfile::tempdir().unwrap();
        let keys: Vec<_> = std::thread::scope(|scope| {
            let make = || id(&KeyFile::read_or_make(parent.path()).unwrap().key);
            let makers: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
    }

    #[test]
    fn what_is_wrong_with_it_is_told() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join(FILE_NAME);
        KeyFile::read_or_make(parent.path()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let warning = KeyFile::read(parent.path()).unwrap().unwrap().warning;
        assert_eq!(warning, Some(KeyFileWarning::OpenToOthers { path: path.clone() }));
        for text in [&b""[..], b"0123", &[b'z'; 64], b"\xff\xfe"] {
            fs::write(&path, text).unwrap();
            let error = KeyFile::read_or_make(parent.path()).unwrap_err();
            assert!(matches!(error, KeyFileError::Malformed { .. }), "{error:?}");
        }
        fs::write(&path, "0".repeat(10_000)).unwrap();
        let error = KeyFile::read_or_make(parent.path()).unwrap_err();
        assert!(matches!(error, KeyFileError::Malformed { .. }), "{error:?}");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = KeyFile::read_or_make(parent.path()).unwrap_err();
        assert!(matches!(error, KeyFileError::NotTrusted(_)), "{error:?}");
    }

    #[test]
    fn a_key_that_another_user_could_have_written_is_not_used() {
        use super::super::trust::Distrust;

        let refused = |spoil: &dyn Fn(&Path)| {
            let parent = tempfile::tempdir().unwrap();
            let directory = parent.path().join("store");
            KeyFile::read_or_make(&directory).unwrap();
            spoil(&directory);
            let error = KeyFile::read_or_make(&directory).unwrap_err();
            let KeyFileError::NotTrusted(reason) = error else { panic!("{error:?}") };
            reason.why
        };
        let open = |path: &Path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o722)).unwrap();
        };
        let writable = Distrust::WritableByOthers { mode: 0o722 };
        assert_eq!(refused(&|directory| open(directory)), writable);
        assert_eq!(refused(&|directory| open(&directory.join(FILE_NAME))), writable);
        let linked = refused(&|directory| {
            let (path, elsewhere) = (directory.join(FILE_NAME), directory.join("elsewhere"));
            fs::rename(&path, &elsewhere).unwrap();
            std::os::unix::fs::symlink(elsewhere, path).unwrap();
        });
        assert_eq!(linked, Distrust::Link);
    }
}
