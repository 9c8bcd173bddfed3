//! Adoption of a store that was written before a key was configured.
//!
//! A relay without an encryption key and without an autoconfig key wraps the data key of its store
//! under the key file in its directory. Once a key is configured, the key file opens nothing, with
//! one exception: at the start, such a store is copied under the configured key, and the key file
//! is removed.
//!
//! The exception is safe enough because directory and files passed `trust.rs`, so only this user or
//! root can have created them; the key file is readable only by this user; and the store contains
//! only flags, so no SDK key and no environment ever comes from it.

use std::path::PathBuf;

use super::directory::{Directory, has_aside};
use super::key_file::{KeyFile, KeyFileError, KeyFileWarning};
use crate::sealing::KeyRing;
use crate::storage::local::copy::copy_all;
use crate::storage::local::file::{DATABASE_START, Fault, OpenFile, Slot, check_file};
use crate::storage::local::format::named::AllNamed;
use crate::storage::local::format::sets;
use crate::storage::local::{LocalStoreError, SetAsideReason};

/// The treatment of a key file that was found although a key is configured.
#[derive(Debug)]
pub enum Adoption {
    /// The flags that the key file opened are sealed under the configured key. The key file was
    /// removed.
    Adopted {
        /// Number of data sets.
        sets: usize,
    },
    /// The key file opened nothing. It was removed.
    KeyFileRemoved,
    /// Nothing was done: the key file was kept, and data that it opens is not read.
    Refused(AdoptionRefused),
}

/// The reason why a store is not adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptionRefused {
    /// The key file cannot be used.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// Other users can read the key file.
    #[error("users other than its owner can read the key file {}", path.display())]
    OpenToOthers {
        /// The key file.
        path: PathBuf,
    },
    /// The directory contains a file under a second key: it was used since a key was configured.
    #[error("the directory also holds a store that is sealed under another key")]
    OtherKeys,
    /// The store contains a list of environments, which a relay without a key never writes.
    #[error("the store holds a list of environments, which no relay without a key writes")]
    Environments,
    /// The store could not be read or written.
    #[error("the store could not be sealed under the configured key")]
    Failed(#[source] LocalStoreError),
}

impl From<Fault> for AdoptionRefused {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault.into())
    }
}

/// Adopts the file of a directory, if there is a key file and all conditions hold. `opened` is the
/// file opened with the configured keys. `None` without a key file.
pub(crate) fn adopt(
    opened: Slot,
    directory: &Directory,
    ring: &KeyRing,
) -> (Slot, Option<Adoption>) {
    let file = match KeyFile::read(directory.path()) {
        Ok(Some(file)) => file,
        Ok(None) => return (opened, None),
        Err(error) => return (opened, Some(Adoption::Refused(error.into()))),
    };
    let former = match opened {
        Slot::Open(_) | Slot::Empty => Ok(None),
        Slot::Closed => former(directory, file),
    };
    let adopted = match former {
        Ok(Some(former)) => copy(directory, ring, &former).map(Some),
        Ok(None) => Ok(None),
        Err(refused) => Err(refused),
    };
    let (slot, sets) = match adopted {
        Ok(Some((copy, sets))) => (Slot::Open(copy), Some(sets)),
        Ok(None) => (opened, None),
        Err(refused) => return (opened, Some(Adoption::Refused(refused))),
    };
    let adoption = match (KeyFile::remove(directory.path()), sets) {
        (Ok(()), Some(sets)) => Adoption::Adopted { sets },
        (Ok(()), None) => Adoption::KeyFileRemoved,
        (Err(error), _) => Adoption::Refused(error.into()),
    };
    (slot, Some(adoption))
}

/// Opens a file that no configured key opens with the key file. `None` if that does not open it
/// either.
fn former(directory: &Directory, file: KeyFile) -> Result<Option<OpenFile>, AdoptionRefused> {
    let Slot::Open(former) = super::open_found(directory, &KeyRing::new(file.key, []))? else {
        return Ok(None);
    };
    if !former.read(AllNamed::read)?.state.is_empty() {
        return Err(AdoptionRefused::Environments);
    }
    if has_aside(directory.path(), Some(SetAsideReason::OtherKey)) {
        return Err(AdoptionRefused::OtherKeys);
    }
    match file.warning {
        Some(KeyFileWarning::OpenToOthers { path }) => Err(AdoptionRefused::OpenToOthers { path }),
        None => Ok(Some(former)),
    }
}

fn copy(
    directory: &Directory,
    ring: &KeyRing,
    former: &OpenFile,
) -> Result<(OpenFile, usize), AdoptionRefused> {
    check_file(directory, DATABASE_START)?;
    let copy = copy_all(directory, ring, former)?;
    let sets = copy.read(sets::markers)?.len();
    Ok((copy, sets))
}
