//! Adoption of a store that was written before a key was configured (design D41).
//!
//! A relay without an encryption key and without an autoconfig key seals its store under the key
//! file beside it. Once a key is configured, the key file opens nothing. The one exception is here:
//! at the start, the flags of such a store are sealed under the configured key, the file is written
//! anew, and the key file is removed.
//!
//! What makes the exception safe enough: directory and files passed `trust.rs`, so only the user
//! that runs (or root) can have put them there; the key file is readable by that user alone; the
//! store holds flags and nothing else, so no SDK key and no environment ever comes from it; and it
//! holds nothing under another key, so it is not a store that already went through this.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::sealing::{KeyId, KeyRing};

use super::database::{Fault, Holder};
use super::directory::Directory;
use super::key_file::{KeyFile, KeyFileError};
use super::rewrite::Rewrite;
use super::{LocalStoreError, named, sets};

/// The result of meeting a key file although a key is configured.
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
    /// Nothing was done: the key file is still there, and what it opens is not read.
    Refused(AdoptionRefused),
}

/// Why a store is not adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptionRefused {
    /// The key file cannot be used.
    #[error(transparent)]
    KeyFile(KeyFileError),
    /// Other users can read the key file.
    #[error("users other than its owner can read the key file {}", path.display())]
    OpenToOthers {
        /// The key file.
        path: PathBuf,
    },
    /// The store holds records under a second key: it was in use since a key was configured.
    #[error("the store also holds records that are sealed under other keys")]
    OtherKeys,
    /// The store holds a list of environments, which a relay without a key never writes.
    #[error("the store holds a list of environments, which no relay without a key writes")]
    Environments,
    /// The store could not be read or written.
    #[error("the store could not be sealed under the configured key")]
    Failed(#[source] LocalStoreError),
}

/// What is to be done about a key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Remove,
    Adopt,
    RefuseOtherKeys,
    RefuseEnvironments,
}

/// Decides by the keys under which flags and named records stand.
fn decide(file: KeyId, sets: &BTreeSet<KeyId>, named: &BTreeSet<KeyId>) -> Decision {
    if named.contains(&file) {
        Decision::RefuseEnvironments
    } else if !sets.contains(&file) {
        Decision::Remove
    } else if sets.len() > 1 || !named.is_empty() {
        Decision::RefuseOtherKeys
    } else {
        Decision::Adopt
    }
}

/// Adopts the open store, if there is a key file and all conditions hold. `None` without a key
/// file.
pub(super) fn adopt(holder: &Holder, directory: &Directory, ring: &KeyRing) -> Option<Adoption> {
    let file = match KeyFile::read(directory.path()) {
        Ok(file) => file?,
        Err(error) => return Some(Adoption::Refused(AdoptionRefused::KeyFile(error))),
    };
    Some(match try_adopt(holder, directory, ring, file) {
        Ok(adoption) => adoption,
        Err(refused) => Adoption::Refused(refused),
    })
}

fn try_adopt(
    holder: &Holder,
    directory: &Directory,
    ring: &KeyRing,
    file: KeyFile,
) -> Result<Adoption, AdoptionRefused> {
    let failed = |fault: Fault| AdoptionRefused::Failed(fault.into());
    let keys = holder
        .with(|open| Ok((sets::owners(open)?, named::owners(open)?, open.salt)))
        .ok_or(AdoptionRefused::Failed(LocalStoreError::Unavailable))?;
    let (sets, named, salt) = keys.map_err(failed)?;
    let adopted = match decide(file.key.id(), &sets, &named) {
        Decision::RefuseOtherKeys => return Err(AdoptionRefused::OtherKeys),
        Decision::RefuseEnvironments => return Err(AdoptionRefused::Environments),
        Decision::Remove => None,
        Decision::Adopt => {
            if let Some(warning) = file.warning {
                let super::KeyFileWarning::OpenToOthers { path } = warning;
                return Err(AdoptionRefused::OpenToOthers { path });
            }
            let both = KeyRing::new(ring.current().clone(), [file.key]);
            Some(rewrite(holder, directory, &both, salt).map_err(failed)?)
        }
    };
    KeyFile::remove(directory.path()).map_err(AdoptionRefused::KeyFile)?;
    Ok(adopted.map_or(Adoption::KeyFileRemoved, |sets| Adoption::Adopted { sets }))
}

/// Writes the file anew under the first key of the ring. Returns how many data sets it holds.
fn rewrite(
    holder: &Holder,
    directory: &Directory,
    ring: &KeyRing,
    salt: super::names::Salt,
) -> Result<usize, Fault> {
    let io = |error: std::io::Error| Fault::from(redb::Error::Io(error));
    let mut rewrite = Rewrite::begin(directory, salt)?;
    loop {
        let gathered = holder.with(|open| rewrite.gather(open, ring));
        let portion = gathered.unwrap_or_else(|| Err(super::writer::no_file()))?;
        let completes = portion.completes();
        rewrite.apply(portion)?;
        if completes {
            rewrite.finish(holder, directory).map_err(io)?;
            break;
        }
    }
    let found = holder.with(|open| sets::inventory(open, ring));
    Ok(found.unwrap_or_else(|| Err(super::writer::no_file()))?.ids.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_flags_under_the_key_file_alone_are_adopted() {
        let id = |text: &str| KeyId::from_bytes(*text.as_bytes().first_chunk().unwrap());
        let (file, other) = (id("key-file"), id("anotherk"));
        let check = |sets: &[KeyId], named: &[KeyId], expected: Decision| {
            let set = |keys: &[KeyId]| keys.iter().copied().collect();
            assert_eq!(decide(file, &set(sets), &set(named)), expected, "{sets:?} {named:?}");
        };
        check(&[], &[], Decision::Remove);
        check(&[other], &[], Decision::Remove);
        check(&[other], &[other], Decision::Remove);
        check(&[file], &[], Decision::Adopt);
        check(&[file, other], &[], Decision::RefuseOtherKeys);
        check(&[file], &[other], Decision::RefuseOtherKeys);
        check(&[file], &[file], Decision::RefuseEnvironments);
        check(&[], &[file], Decision::RefuseEnvironments);
        check(&[other], &[file, other], Decision::RefuseEnvironments);
    }
}
