//! Trust in files on the disk: an attacker who can write the directory of the store,
//! or a file in it, must not decide what the relay serves.
//!
//! The decision is [`judge`], a pure function of a file's metadata and the user of this process. A
//! file that is not trusted is not read, not written, and its mode is not changed.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Permission bits that let the group or all users write.
const WRITE_BY_OTHERS: u32 = 0o022;

/// The reason why a directory or file is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// A symbolic link: its owner chooses its target.
    #[error("it is a symbolic link; configure the path that it leads to, or remove the link")]
    Link,
    /// Not the expected directory or regular file.
    #[error(
        "it cannot be used, because it is not the directory or the regular file that belongs \
         there; remove it"
    )]
    WrongKind,
    /// It belongs to another user, who can change it at any time.
    #[error(
        "it belongs to user {owner}, but Pilotlight runs as user {user}; change its owner, or \
         configure a directory that does not exist yet, which Pilotlight then creates"
    )]
    ForeignOwner {
        /// Its owner.
        owner: u32,
        /// The user that runs this process.
        user: u32,
    },
    /// Other users can write it.
    #[error(
        "users other than its owner can write it (mode {mode:03o}); take that right away (chmod \
         go-w), or configure a directory that does not exist yet, which Pilotlight then creates"
    )]
    WritableByOthers {
        /// Its permission bits.
        mode: u32,
    },
}

/// A path that is not trusted, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is not trusted: {why}", path.display())]
pub struct NotTrusted {
    /// The directory or file.
    pub path: PathBuf,
    /// The reason.
    pub why: Distrust,
}

/// The kind of a directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
    Link,
    Other,
}

/// The metadata on which trust depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) kind: Kind,
    pub(crate) owner: u32,
    /// Permission bits.
    pub(crate) mode: u32,
}

impl From<&Metadata> for Facts {
    fn from(data: &Metadata) -> Self {
        let kind = match data.file_type() {
            it if it.is_symlink() => Kind::Link,
            it if it.is_dir() => Kind::Directory,
            it if it.is_file() => Kind::File,
            _ => Kind::Other,
        };
        Self { kind, owner: data.uid(), mode: data.mode() & 0o7777 }
    }
}

/// Decides whether an entry of the wanted kind is trusted by this user.
pub(crate) fn judge(facts: Facts, wanted: Kind, user: u32) -> Result<(), Distrust> {
    if facts.kind == Kind::Link {
        return Err(Distrust::Link);
    }
    if facts.kind != wanted {
        return Err(Distrust::WrongKind);
    }
    if facts.owner != user {
        return Err(Distrust::ForeignOwner { owner: facts.owner, user });
    }
    if facts.mode & WRITE_BY_OTHERS != 0 {
        return Err(Distrust::WritableByOthers { mode: facts.mode });
    }
    Ok(())
}

/// Judges the entry at a path by its own metadata, not by those of a link's target. An entry that
/// does not exist is an error of the kind `NotFound`.
pub(crate) fn check(path: &Path, wanted: Kind) -> io::Result<Result<(), NotTrusted>> {
    // With a slash at the end, the system would follow a link.
    let path: PathBuf = path.components().collect();
    let facts = Facts::from(&fs::symlink_metadata(&path)?);
    let user = rustix::process::geteuid().as_raw();
    Ok(judge(facts, wanted, user).map_err(|why| NotTrusted { path, why }))
}

/// Judges the entry at a path; a missing entry is trusted.
pub(crate) fn check_if_there(path: &Path, wanted: Kind) -> io::Result<Result<(), NotTrusted>> {
    match check(path, wanted) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ok(())),
        checked => checked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_entries_of_the_own_user_that_nobody_else_can_write_are_trusted() {
        let check = |kind, owner, mode, expected| {
            let wanted = if kind == Kind::Directory { Kind::Directory } else { Kind::File };
            assert_eq!(judge(Facts { kind, owner, mode }, wanted, 1000), expected, "{mode:o}");
        };
        for kind in [Kind::Directory, Kind::File] {
            for mode in [0o600, 0o644, 0o700, 0o755, 0o500, 0o1755, 0o2750] {
                check(kind, 1000, mode, Ok(()));
            }
            for mode in [0o620, 0o602, 0o666, 0o770, 0o777, 0o1777, 0o2775] {
                check(kind, 1000, mode, Err(Distrust::WritableByOthers { mode }));
            }
            for owner in [0, 1001, 65534] {
                let foreign = Distrust::ForeignOwner { owner, user: 1000 };
                check(kind, owner, 0o700, Err(foreign));
            }
        }
        check(Kind::Link, 1000, 0o777, Err(Distrust::Link));
        check(Kind::Link, 0, 0o777, Err(Distrust::Link));
        check(Kind::Other, 1000, 0o600, Err(Distrust::WrongKind));
        let directory = Facts { kind: Kind::Directory, owner: 0, mode: 0o700 };
        assert_eq!(judge(directory, Kind::File, 0), Err(Distrust::WrongKind));
        assert_eq!(judge(directory, Kind::Directory, 0), Ok(()), "root has no other rule");
    }

    #[test]
    fn the_entry_itself_is_judged_and_not_what_it_leads_to() {
        let parent = tempfile::tempdir().unwrap();
        let (real, link) = (parent.path().join("real"), parent.path().join("link"));
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert_eq!(check(&real, Kind::Directory).unwrap(), Ok(()));
        for path in [link.clone(), link.join("."), parent.path().join("link/")] {
            let judged = check(&path, Kind::Directory).unwrap();
            assert_eq!(judged, Err(NotTrusted { path: link.clone(), why: Distrust::Link }));
        }
        let missing = parent.path().join("missing");
        assert_eq!(check_if_there(&missing, Kind::File).unwrap(), Ok(()));
        assert!(check(&missing, Kind::File).is_err());
    }
}
