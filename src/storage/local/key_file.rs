//! The key of last resort (design D33): with neither an encryption key nor an autoconfig key the
//! store is sealed under a random key in a file beside it.
//!
//! That protects a copy of the database without the key file, and nothing else: whoever reads the
//! directory has both. The file is made once and never changed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::sealing::{KeyRing, SealingKey};

use super::directory::is_open_to_others;

const FILE_NAME: &str = "local.key";
/// Random bytes of a key, written as twice as many hexadecimal digits.
const KEY_BYTES: usize = 32;

/// Why there is no key file to use.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read or made.
    #[error("the key file {} cannot be used", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The file is not one that this program made. What was sealed under the key that it held is
    /// lost; once it is removed, a new one is made.
    #[error("the key file {} does not hold a key", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The operating system gives no random bytes to make a key of.
    #[error("the operating system gives no random bytes")]
    NoRandomness,
}

/// What is wrong with a key file that is used all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyFileWarning {
    /// Others than the owner may read it.
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
    /// What an operator should be told.
    pub warning: Option<KeyFileWarning>,
}

impl KeyFile {
    /// Reads the key file of a store's directory, if there is one.
    pub fn read(directory: &Path) -> Result<Option<Self>, KeyFileError> {
        let path = directory.join(FILE_NAME);
        let text = match fs::read_to_string(&path) {
            Ok(text) => Zeroizing::new(text),
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

    /// Reads the key file, and makes it if there is none. The store's directory is made too.
    pub fn read_or_make(directory: &Path) -> Result<Self, KeyFileError> {
        if let Some(found) = Self::read(directory)? {
            return Ok(found);
        }
        let path = directory.join(FILE_NAME);
        make(directory, &path)?;
        // Read back: what counts is what is in the file, also if another process was faster.
        Self::read(directory)?.ok_or(KeyFileError::Malformed { path })
    }
}

/// The keys for the store in a directory: those that were configured, the first one sealing, and
/// the key file's. Without a configured key the key file's seals, and is made if need be;
/// otherwise it only opens what was sealed before a key was configured.
///
/// A key file that cannot be read is an error only where it is needed.
pub fn ring_with_key_file(
    directory: &Path,
    configured: impl IntoIterator<Item = SealingKey>,
) -> Result<(KeyRing, Option<KeyFileWarning>), KeyFileError> {
    let mut configured = configured.into_iter();
    match configured.next() {
        Some(current) => {
            let file = KeyFile::read(directory).ok().flatten();
            let (key, warning) = file.map(|file| (file.key, file.warning)).unzip();
            Ok((KeyRing::new(current, configured.chain(key)), warning.flatten()))
        }
        None => {
            let file = KeyFile::read_or_make(directory)?;
            Ok((KeyRing::new(file.key, []), file.warning))
        }
    }
}

/// Makes the file whole or not at all, and leaves one alone that is already there.
fn make(directory: &Path, path: &Path) -> Result<(), KeyFileError> {
    let failed = |source| KeyFileError::Io { path: path.to_owned(), source };
    super::directory::make_directory(directory).map_err(failed)?;
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
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let error = KeyFile::read_or_make(parent.path()).unwrap_err();
        assert!(matches!(error, KeyFileError::Io { .. }), "{error:?}");
    }

    #[test]
    fn the_ring_holds_it_last_or_alone() {
        let parent = tempfile::tempdir().unwrap();
        let one = SealingKey::derive("one");
        let (ring, _) = ring_with_key_file(parent.path(), [one.clone()]).unwrap();
        assert_eq!(ring.keys().len(), 1, "no file is made where a key is configured");

        let (ring, _) = ring_with_key_file(parent.path(), []).unwrap();
        let file = id(ring.current());
        let (ring, _) =
            ring_with_key_file(parent.path(), [one.clone(), SealingKey::derive("two")]).unwrap();
        assert_eq!(id(ring.current()), id(&one));
        assert!(ring.keys().len() == 3 && ring.holds(file));

        fs::write(parent.path().join(FILE_NAME), "nonsense").unwrap();
        assert_eq!(ring_with_key_file(parent.path(), [one]).unwrap().0.keys().len(), 1);
        assert!(ring_with_key_file(parent.path(), []).is_err());
    }
}
