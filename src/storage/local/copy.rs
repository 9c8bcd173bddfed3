//! The copy: a new file under a new data key, with the content of an older file.
//!
//! Rotation, compaction, repair and a change of format all work in the same way: fill a file under
//! another name, make it durable, rename it. Every record is opened under the old data key and
//! sealed under the new one, so no record that opens with the old key remains once the old file is
//! removed.
//!
//! | killed | found by the next start |
//! | --- | --- |
//! | while the new file is filled | the old file; the unfinished one is removed |
//! | after files that were set aside were removed | the old file |
//! | after the old file was set aside (repair) | the old file, and a second name of it |
//! | after the rename | the new file |
//!
//! In the background the copy proceeds in portions ([`struct@Copy`]). Meanwhile the old file is read
//! and written as before; changes in it are copied again. A repair copies everything that can still
//! be read at once ([`renew`]).

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::SetAsideReason;
use super::file::{Fault, OpenFile, Reading};
use super::format::marker::Tag;
use super::format::named::AllNamed;
use super::format::sets::{self, WholeSet};
use super::start::directory::{Directory, Removal};
use crate::sealing::KeyRing;

/// Bytes that one portion copies, or slightly more. Changes wait while it is copied.
pub(super) const PORTION_BYTES: u64 = 4 * 1024 * 1024;

/// Smallest length of a file that is copied to make it smaller, if it is [`SLACK`] times as long as
/// its content.
const COMPACT_BYTES_MIN: u64 = 8 * 1024 * 1024;
const SLACK: u64 = 4;

/// A file that is being filled. It is removed unless it is published.
#[derive(Debug)]
pub(crate) struct Fresh {
    path: PathBuf,
    file: Option<OpenFile>,
}

/// The treatment of the file that the new one replaces, and of files that were set aside.
#[derive(Clone, Copy)]
pub(crate) enum Publication<'a> {
    /// There is no such file.
    First,
    /// It is removed, and with it all files that were set aside: they may contain anything that was
    /// ever sealed here.
    Replace,
    /// It is set aside.
    SetAside { reason: SetAsideReason, ring: &'a KeyRing },
}

impl Fresh {
    /// Makes an empty file under a new data key.
    pub(crate) fn begin(directory: &Directory, ring: &KeyRing) -> Result<Self, Fault> {
        let mut fresh = Self { path: directory.new_database()?, file: None };
        fresh.file = Some(OpenFile::make(directory, &fresh.path, ring.current())?);
        Ok(fresh)
    }

    /// Stores a part of the content.
    pub(crate) fn put(&self, sets: &[WholeSet], named: Option<&AllNamed>) -> Result<(), Fault> {
        self.change(&[], sets, named)
    }

    fn salvage(&self, old: &OpenFile) -> Result<(), Fault> {
        for (_, marker) in old.read(sets::markers).unwrap_or_default() {
            match old.read(|reading| WholeSet::read(reading, marker)) {
                Ok(set) if set.is_complete() => self.put(&[set], None)?,
                Ok(_) | Err(_) => {}
            }
        }
        old.read(AllNamed::read).map_or(Ok(()), |named| self.put(&[], Some(&named)))
    }

    fn change(
        &self,
        gone: &[String],
        sets: &[WholeSet],
        named: Option<&AllNamed>,
    ) -> Result<(), Fault> {
        let file = self.file.as_ref().ok_or_else(Fault::no_file)?;
        file.commit(|tables| {
            gone.iter().try_for_each(|id| sets::remove(tables, id))?;
            sets.iter().try_for_each(|set| set.store(tables))?;
            named.map_or(Ok(()), |named| named.store(tables))
        })
    }

    /// Gives the file its name. Returns it, and the path of the replaced file if that was set
    /// aside.
    pub(crate) fn publish(
        mut self,
        directory: &Directory,
        publication: Publication<'_>,
    ) -> Result<(OpenFile, Option<PathBuf>), Fault> {
        let file = self.file.take().ok_or_else(Fault::no_file)?;
        let aside = match publication {
            Publication::First => None,
            // Before the rename: afterwards the next start would not know of them.
            Publication::Replace => directory.remove_aside(Removal::All).map(|_| None)?,
            Publication::SetAside { reason, ring } => match directory.set_aside(reason, ring) {
                Ok(path) => Some(path),
                // The file does not exist any more; for instance, an operator removed it.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(error.into()),
            },
        };
        directory.publish(&self.path)?;
        Ok((file, aside))
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // After it was published there is no file of this name. If it cannot be removed now, the
        // next copy or the next start removes it.
        drop(self.file.take());
        let _ = std::fs::remove_file(&self.path);
    }
}

/// True if the file's content is much smaller than the file.
pub(super) fn is_wasteful(reading: &Reading<'_>, length: u64) -> Result<bool, redb::Error> {
    if length < COMPACT_BYTES_MIN {
        return Ok(false);
    }
    let held: u64 = sets::markers(reading)?.iter().map(|(_, marker)| marker.bytes).sum();
    Ok(length / SLACK > held)
}

/// A copy in the background.
#[derive(Debug)]
pub(super) struct Copy {
    fresh: Fresh,
    /// The tag of the marker of each set that was copied.
    sets: BTreeMap<String, Option<Tag>>,
    /// The tags of the named records that were copied.
    named: Option<Vec<Option<Tag>>>,
}

/// The records that one step copies.
pub(super) struct Portion {
    gone: Vec<String>,
    sets: Vec<WholeSet>,
    states: Vec<(String, Option<Tag>)>,
    named: Option<AllNamed>,
    bytes: u64,
    /// True if the new file is complete with this portion.
    is_last: bool,
}

impl Portion {
    /// True if the new file may replace the old one after this portion. A large portion must be
    /// followed by another one: it took so long that there may be changes.
    pub(super) fn completes(&self) -> bool {
        self.is_last && self.bytes <= PORTION_BYTES
    }

    fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.sets.is_empty() && self.named.is_none()
    }
}

impl Copy {
    pub(super) fn begin(directory: &Directory, ring: &KeyRing) -> Result<Self, Fault> {
        let fresh = Fresh::begin(directory, ring)?;
        Ok(Self { fresh, sets: BTreeMap::new(), named: None })
    }

    /// Reads records that the new file does not contain yet, up to a limit.
    pub(super) fn gather(&self, reading: &Reading<'_>) -> Result<Portion, redb::Error> {
        let markers = sets::markers(reading)?;
        let is_there =
            |id: &str| markers.binary_search_by(|(_, marker)| (*marker.id).cmp(id)).is_ok();
        let gone = self.sets.keys().filter(|id| !is_there(id)).cloned().collect();
        let mut portion = Portion {
            gone,
            sets: Vec::new(),
            states: Vec::new(),
            named: None,
            bytes: 0,
            is_last: true,
        };
        for (tag, marker) in markers {
            if self.sets.get(&marker.id) == Some(&tag) {
                continue;
            }
            if portion.bytes > PORTION_BYTES {
                portion.is_last = false;
                return Ok(portion);
            }
            portion.states.push((marker.id.clone(), tag));
            let set = WholeSet::read(reading, marker)?;
            portion.bytes += set.bytes();
            portion.sets.push(set);
        }
        let named = AllNamed::read(reading)?;
        if self.named.as_ref() != Some(&named.state) {
            portion.bytes += named.bytes();
            portion.named = Some(named);
        }
        Ok(portion)
    }

    /// Stores a portion in the new file.
    pub(super) fn apply(&mut self, portion: Portion) -> Result<(), Fault> {
        if !portion.is_empty() {
            self.fresh.change(&portion.gone, &portion.sets, portion.named.as_ref())?;
        }
        for id in portion.gone {
            self.sets.remove(&id);
        }
        self.sets.extend(portion.states);
        self.named = portion.named.map(|named| named.state).or(self.named.take());
        Ok(())
    }

    /// Replaces the old file by the new one.
    pub(super) fn finish(self, directory: &Directory) -> Result<OpenFile, Fault> {
        Ok(self.fresh.publish(directory, Publication::Replace)?.0)
    }
}

/// Copies a complete file at once. Returns the new file, which has replaced the old one.
pub(super) fn copy_all(
    directory: &Directory,
    ring: &KeyRing,
    old: &OpenFile,
) -> Result<OpenFile, Fault> {
    let mut copy = Copy::begin(directory, ring)?;
    loop {
        let portion = old.read(|reading| copy.gather(reading))?;
        let is_last = portion.is_last;
        copy.apply(portion)?;
        if is_last {
            return copy.finish(directory);
        }
    }
}

/// Sets a file aside, and replaces it by a new one with the parts of the old one that can still be
/// read: complete sets, and named records that open.
pub(super) fn renew(
    directory: &Directory,
    ring: &KeyRing,
    reason: SetAsideReason,
    old: Option<&OpenFile>,
) -> Result<(OpenFile, PathBuf), Fault> {
    let fresh = Fresh::begin(directory, ring)?;
    if let Some(old) = old {
        fresh.salvage(old)?;
    }
    let (file, path) = fresh.publish(directory, Publication::SetAside { reason, ring })?;
    Ok((file, path.unwrap_or_else(|| directory.database())))
}
