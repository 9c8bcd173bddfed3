//! Offline mode: environments and their flags from an archive file in ld-relay's format.
//!
//! | module | purpose |
//! | --- | --- |
//! | `members` | reads the members of an archive in memory, within bounds |
//! | `contents` | verifies the checksum, and decodes the members |
//! | `state` | decides what follows from an archive: which environments, keys and flags change |
//! | `look` | decides when the file is read |
//! | `file` | the file: its stamp, its content, and events when it changes |
//!
//! Nothing is unpacked to disk, so no path in an archive matters, and no keys are left behind.

mod contents;
pub mod file;
mod look;
mod members;
mod state;

#[cfg(test)]
mod test_support;

use std::io;

pub use contents::Archive;
pub use look::{Look, Stamp, Todo};
pub use state::{ArchiveState, News};

/// Largest member of an archive in bytes (ld-relay v8).
const MEMBER_BYTES_MAX: u64 = 200 << 20;

/// Largest archive in bytes, unpacked. A small file can unpack to any size.
const UNPACKED_BYTES_MAX: u64 = 1 << 30;

/// Most members that are kept: two for each environment.
const MEMBERS_MAX: usize = 20_000;

/// Reason why an archive cannot be used. What was read before stays in use.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file cannot be opened or read.
    #[error("it cannot be read")]
    Unreadable(#[source] io::Error),
    /// The file has another format, or is cut off.
    #[error("it is not a complete tar archive, with or without gzip")]
    NotTar(#[source] io::Error),
    /// One member is too large.
    #[error("its member {0} is larger than {max} MiB", max = MEMBER_BYTES_MAX >> 20)]
    LargeMember(String),
    /// There are too many members.
    #[error("it has more than {MEMBERS_MAX} members")]
    ManyMembers,
    /// There is no checksum.
    #[error("it has no member {}", contents::CHECKSUM)]
    NoChecksum,
    /// The checksum is that of other members.
    #[error(
        "its checksum is that of other members: it is damaged, or it was read while it was being \
         written"
    )]
    WrongChecksum,
    /// A member is missing that belongs to an environment.
    #[error("it has no member {0}")]
    NoData(String),
}
