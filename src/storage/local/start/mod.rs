//! The start: from a directory to an open file.
//!
//! | found | what the start does |
//! | --- | --- |
//! | directory or files that other users could have written | nothing; an error that says what to do (`trust.rs`) |
//! | no file | makes one under a new data key |
//! | a file whose data key a configured key unwraps | opens it to read; nothing is written |
//! | a file whose data key no configured key unwraps | leaves it where it is: [`Slot::Closed`]. Nothing of it is read. It is set aside when there is something to store |
//! | a file of the former format | copies it into one of this format (`former.rs`) |
//! | a file of an unknown format, or a damaged one | sets it aside and makes an empty one |
//!
//! A file is created under another name and renamed when it is complete, so a kill at any moment
//! leaves either the old file or the new one.

pub(crate) mod adoption;
pub(crate) mod directory;
mod former;
pub(crate) mod key_file;
pub(crate) mod trust;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use super::copy::{self, Fresh, Publication};
use super::file::{Fault, FaultKind, OpenFile, Slot};
use super::format::header::{FileKind, PAGE_BYTES};
use super::{LocalStoreError, SetAside, SetAsideReason};
use crate::sealing::{KeyRing, OpenError};
use directory::{Directory, no_follow};

/// The state in which a start found the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Opening {
    /// An intact file.
    Found,
    /// A file under a key that is not configured.
    Closed,
    /// No file: an empty one was created.
    Made,
    /// An unusable file: it was set aside, and an empty one was created.
    Replaced(SetAside),
}

/// Opens the file of a directory, or creates one.
pub(crate) fn open(
    directory: &Directory,
    ring: &KeyRing,
) -> Result<(Slot, Opening), LocalStoreError> {
    directory.check_trust()?;
    let opening =
        |fault: Fault| LocalStoreError::Open { path: directory.database(), source: fault.into() };
    let path = directory.database();
    if !path.try_exists().map_err(|error| opening(error.into()))? {
        let made = make(directory, ring).map_err(opening)?;
        return Ok((Slot::Open(made), Opening::Made));
    }
    let fault = match open_found(directory, ring) {
        Ok(slot @ Slot::Open(_)) => return Ok((slot, Opening::Found)),
        Ok(slot) => return Ok((slot, Opening::Closed)),
        Err(fault) => fault,
    };
    let reason = match fault.kind {
        FaultKind::Damaged | FaultKind::Handle => SetAsideReason::Damaged,
        FaultKind::OtherFormat => SetAsideReason::OtherFormat,
        FaultKind::Io => return Err(opening(fault)),
    };
    let (file, path) = copy::renew(directory, ring, reason, None).map_err(opening)?;
    let aside = SetAside { path, reason, cause: fault.to_string() };
    Ok((Slot::Open(file), Opening::Replaced(aside)))
}

/// Opens the existing file.
fn open_found(directory: &Directory, ring: &KeyRing) -> Result<Slot, Fault> {
    let header = match FileKind::read(&first_page(directory)?) {
        FileKind::Current(header) => header,
        FileKind::Former => return former::convert(directory, ring),
        FileKind::Other(format) => {
            let text = format!("the file has format {format}, which this program does not know");
            return Err(Fault::new(FaultKind::OtherFormat, text));
        }
        FileKind::Unknown => return Err(Fault::damaged("the file has no header")),
    };
    match header.unwrap(ring) {
        Ok(key) => OpenFile::open_to_read(directory, key).map(Slot::Open),
        Err(OpenError::UnknownKey) => Ok(Slot::Closed),
        Err(error @ (OpenError::Format | OpenError::Forged)) => {
            Err(Fault::damaged(format!("the header of the file: {error}")))
        }
    }
}

fn first_page(directory: &Directory) -> std::io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(no_follow()).open(directory.database())?;
    let mut page = Vec::with_capacity(PAGE_BYTES);
    file.take(PAGE_BYTES as u64).read_to_end(&mut page)?;
    Ok(page)
}

fn make(directory: &Directory, ring: &KeyRing) -> Result<OpenFile, Fault> {
    Ok(Fresh::begin(directory, ring)?.publish(directory, Publication::First)?.0)
}
