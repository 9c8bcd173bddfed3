//! Writing the file anew, so that nothing stays in it that a retired key opens: neither records nor
//! pages that nothing refers to any more.
//!
//! A new file is filled beside the old one, a portion at a time, and takes its name at the end. The
//! old file is read and written as before meanwhile; what changes in it is copied again. A record
//! under an older key of the ring is sealed under the current one on its way. Records under keys
//! that the ring does not hold are copied as they are: live data may still replace them.
//!
//! A kill at any moment leaves the old file or the new one, and each is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use redb::{ReadableDatabase, ReadableTable};

use crate::sealing::{KeyId, KeyRing, OpenError, Place, TAG_BYTES, tag_of};

use super::database::{Fault, Holder, NAMED, OpenFile, PARTS, SETS, Tables, guarded};
use super::directory::Directory;
use super::marker::{Marker, NO_PART};
use super::names::{
    NAMED_KEY_BYTES, PART_KEY_BYTES, Prefix, SET_KEY_BYTES, Salt, bounds, owner_of, part_key,
    part_of, prefix_of, set_key,
};
use super::sets::{self, PART_SPACE, open_marker, sealed_marker};
use super::{TRANSACTION_BYTES, named};

/// Records of one table with their names.
type Records<const N: usize> = Vec<([u8; N], Vec<u8>)>;

/// The markers of one set as they were copied: two states of a set never have the same.
type SetState = Vec<(KeyId, [u8; TAG_BYTES])>;

/// The named records as they were copied.
type NamedState = Vec<([u8; NAMED_KEY_BYTES], [u8; TAG_BYTES])>;

/// A new file that is being filled. It is removed again unless it takes the old one's place.
#[derive(Debug)]
pub(super) struct Rewrite {
    path: PathBuf,
    file: Option<OpenFile>,
    sets: BTreeMap<Prefix, SetState>,
    named: Option<NamedState>,
}

/// What one step copies.
pub(super) struct Portion {
    gone: Vec<Prefix>,
    sets: Vec<CopiedSet>,
    named: Option<(NamedState, Records<NAMED_KEY_BYTES>)>,
    bytes: u64,
    /// True if the new file holds everything once it holds this.
    is_last: bool,
}

impl Portion {
    /// True if the new file may take the old one's place once it holds this. A large portion must
    /// be followed by another one: it took so long that changes may have come meanwhile.
    pub(super) fn completes(&self) -> bool {
        self.is_last && self.bytes <= TRANSACTION_BYTES
    }

    fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.sets.is_empty() && self.named.is_none()
    }

    /// The keys under which the copied records are.
    fn under(&self) -> BTreeSet<KeyId> {
        let sets = self.sets.iter().flat_map(|set| &set.markers).map(|(name, _)| owner_of(name));
        let named = self.named.iter().flat_map(|(_, records)| records);
        sets.chain(named.map(|(name, _)| owner_of(name))).collect()
    }
}

struct CopiedSet {
    set: Prefix,
    state: SetState,
    markers: Records<SET_KEY_BYTES>,
    parts: Records<PART_KEY_BYTES>,
}

impl CopiedSet {
    fn bytes(&self) -> u64 {
        let markers = self.markers.iter().map(|(_, sealed)| sealed.len());
        let parts = self.parts.iter().map(|(_, sealed)| sealed.len());
        markers.chain(parts).sum::<usize>() as u64
    }
}

impl Rewrite {
    /// Makes the new file. It keeps the salt, so that copied records open in it.
    pub(super) fn begin(directory: &Directory, salt: Salt) -> Result<Self, Fault> {
        let path = directory.new_database().map_err(|error| Fault::from(redb::Error::Io(error)))?;
        match OpenFile::make(directory, &path, salt, BTreeSet::new()) {
            Ok(file) => Ok(Self { path, file: Some(file), sets: BTreeMap::new(), named: None }),
            Err(fault) => {
                let _ = std::fs::remove_file(&path);
                Err(fault)
            }
        }
    }

    /// Reads what the new file does not hold yet, up to a limit.
    pub(super) fn gather(&self, old: &OpenFile, ring: &KeyRing) -> Result<Portion, redb::Error> {
        let reading = old.database.begin_read()?;
        let parts = reading.open_table(PARTS)?;
        let mut all: BTreeMap<Prefix, Records<SET_KEY_BYTES>> = BTreeMap::new();
        for entry in reading.open_table(SETS)?.iter()? {
            let (name, sealed) = entry?;
            let marker = (*name.value(), sealed.value().to_vec());
            all.entry(prefix_of(&marker.0)).or_default().push(marker);
        }
        let gone = self.sets.keys().filter(|set| !all.contains_key(*set)).copied().collect();
        let mut portion = Portion { gone, sets: Vec::new(), named: None, bytes: 0, is_last: true };
        for (set, markers) in all {
            let state = state_of(&markers);
            if self.sets.get(&set) == Some(&state) {
                continue;
            }
            if portion.bytes > TRANSACTION_BYTES {
                portion.is_last = false;
                return Ok(portion);
            }
            let copied = copy_set(set, state, markers, &parts, ring)?;
            portion.bytes += copied.bytes();
            portion.sets.push(copied);
        }
        let mut records: Records<NAMED_KEY_BYTES> = Vec::new();
        for entry in reading.open_table(NAMED)?.iter()? {
            let (name, sealed) = entry?;
            records.push((*name.value(), sealed.value().to_vec()));
        }
        let state: NamedState = records.iter().map(|(name, sealed)| (*name, tag(sealed))).collect();
        if self.named.as_ref() != Some(&state) {
            portion.bytes += records.iter().map(|(_, sealed)| sealed.len() as u64).sum::<u64>();
            portion.named = Some((state, named::resealed(records, ring)));
        }
        Ok(portion)
    }

    /// Stores a portion in the new file.
    pub(super) fn apply(&mut self, portion: Portion) -> Result<(), Fault> {
        let Some(file) = self.file.as_ref().filter(|_| !portion.is_empty()) else { return Ok(()) };
        guarded(|| file.commit(&portion.under(), |tables| store(tables, &portion)))?;
        for set in portion.gone {
            self.sets.remove(&set);
        }
        self.sets.extend(portion.sets.into_iter().map(|copied| (copied.set, copied.state)));
        if let Some((state, _)) = portion.named {
            self.named = Some(state);
        }
        Ok(())
    }

    /// Puts the new file in the place of the old one. Files that were set aside may hold anything
    /// that was ever sealed here, so they go.
    pub(super) fn finish(mut self, holder: &Holder, directory: &Directory) -> std::io::Result<()> {
        directory.remove_set_aside()?;
        match self.file.take() {
            Some(file) => holder.exchange(directory, &self.path, file),
            None => Ok(()),
        }
    }
}

impl Drop for Rewrite {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            OpenFile::abandon(Some(file));
            // What cannot be removed now is removed by the next rewrite or the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn store(tables: &mut Tables<'_>, portion: &Portion) -> Result<(), redb::Error> {
    for set in &portion.gone {
        sets::remove(tables, set)?;
    }
    for copied in &portion.sets {
        sets::remove(tables, &copied.set)?;
        for (name, sealed) in &copied.parts {
            tables.parts.insert(name, sealed.as_slice())?;
        }
        for (name, sealed) in &copied.markers {
            tables.sets.insert(name, sealed.as_slice())?;
        }
    }
    if let Some((_, records)) = &portion.named {
        tables.named.retain(|_, _| false)?;
        for (name, sealed) in records {
            tables.named.insert(name, sealed.as_slice())?;
        }
    }
    Ok(())
}

fn tag(sealed: &[u8]) -> [u8; TAG_BYTES] {
    tag_of(sealed).unwrap_or_default()
}

fn state_of(markers: &Records<SET_KEY_BYTES>) -> SetState {
    markers.iter().map(|(name, sealed)| (owner_of(name), tag(sealed))).collect()
}

/// Copies what stands under one set's name: its newest readable state under the current key, and
/// what the ring cannot open as it is. A damaged marker under an older key is left behind.
fn copy_set(
    set: Prefix,
    state: SetState,
    markers: Records<SET_KEY_BYTES>,
    parts: &impl ReadableTable<&'static [u8; PART_KEY_BYTES], &'static [u8]>,
    ring: &KeyRing,
) -> Result<CopiedSet, redb::Error> {
    let current = ring.current().id();
    let mut newest: Option<(KeyId, Marker)> = None;
    let mut kept = Vec::new();
    for (name, sealed) in markers {
        let owner = owner_of(&name);
        match open_marker(ring, &name, &sealed) {
            Ok(marker) => {
                if newest.as_ref().is_none_or(|(_, held)| held.age() < marker.age()) {
                    newest = Some((owner, marker));
                }
                if owner == current {
                    kept.push((name, sealed));
                }
            }
            Err(OpenError::UnknownKey) => kept.push((name, sealed)),
            Err(OpenError::Format | OpenError::Forged) if owner == current => {
                kept.push((name, sealed));
            }
            Err(OpenError::Format | OpenError::Forged) => {}
        }
    }
    let mut copied = CopiedSet { set, state, markers: Vec::new(), parts: Vec::new() };
    let older = newest.filter(|(owner, _)| *owner != current);
    if older.is_some() {
        kept.retain(|(name, _)| owner_of(name) != current);
    }
    for (name, sealed) in kept {
        let (first, last) = bounds::<PART_KEY_BYTES>(&name);
        for entry in parts.range::<&[u8; PART_KEY_BYTES]>(&first..=&last)? {
            let (name, sealed) = entry?;
            copied.parts.push((*name.value(), sealed.value().to_vec()));
        }
        copied.markers.push((name, sealed));
    }
    if let Some((owner, marker)) = older {
        reseal_set(&mut copied, owner, marker, parts, ring)?;
    }
    Ok(copied)
}

/// Seals a set that stands under an older key under the current one. Parts that are lost or damaged
/// are missing afterwards.
fn reseal_set(
    copied: &mut CopiedSet,
    owner: KeyId,
    marker: Marker,
    parts: &impl ReadableTable<&'static [u8; PART_KEY_BYTES], &'static [u8]>,
    ring: &KeyRing,
) -> Result<(), redb::Error> {
    let current = ring.current();
    let mut tags = marker.tags.clone();
    let mut plaintext = Vec::new();
    let (first, last) = bounds::<PART_KEY_BYTES>(&set_key(&copied.set, owner));
    for entry in parts.range::<&[u8; PART_KEY_BYTES]>(&first..=&last)? {
        let (name, sealed) = entry?;
        let (name, sealed) = (name.value(), sealed.value());
        let number = part_of(name);
        let held = tags.get_mut(number as usize).filter(|tag| **tag != NO_PART);
        let Some(held) = held.filter(|tag| tag_of(sealed) == Some(**tag)) else { continue };
        let place = Place { namespace: PART_SPACE, name };
        if ring.open_into(place, sealed, &mut plaintext).is_err() {
            continue;
        }
        let name = part_key(&copied.set, current.id(), number);
        let sealed = current.seal(Place { namespace: PART_SPACE, name: &name }, &plaintext);
        *held = tag(&sealed);
        copied.parts.push((name, sealed));
    }
    let moved = Marker { tags, sequence: marker.sequence.saturating_add(1), ..marker };
    copied.markers.push(sealed_marker(ring, &copied.set, &moved));
    Ok(())
}
