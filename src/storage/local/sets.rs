//! Complete sets in the file: reading one, and making the file hold what its owner holds.
//!
//! A set is cut into parts of some 16 KiB by a hash of the item's key, and each part is one sealed
//! record: a start reads few large records instead of many small ones, and a change of one item
//! writes one part and the marker. The marker names every part by its tag (`marker.rs`).
//!
//! This module does not decide when something is written and knows nothing of what items are.

use std::collections::BTreeSet;
use std::time::SystemTime;

use redb::{ReadableDatabase, ReadableTable};

use crate::sealing::{KeyId, KeyRing, OVERHEAD_BYTES, OpenError, Place, tag_of};

use super::Skipped;
use super::database::{OpenFile, PARTS, SETS, Tables};
use super::marker::{Marker, NO_PART};
use super::names::{
    PART_KEY_BYTES, Prefix, SET_KEY_BYTES, bounds, owner_of, part_key, part_of, set_key, set_prefix,
};

/// Plaintext of a part that a set is cut into when it is stored anew. Larger parts make a start
/// little faster and each change of one item dearer (benches/local_store).
const PART_BYTES: u64 = 12 * 1024;
/// A set is cut anew when its parts have become this many times larger or smaller on average.
const PART_DRIFT: u64 = 4;
/// Most parts of a set: bounds the marker at 256 KiB.
const PARTS_MAX: u64 = 16 * 1024;
/// Parts that are encoded at a time, which bounds the memory of storing a large set.
const WINDOW: u32 = 128;

const MARKER_SPACE: &str = "local/sets";
pub(super) const PART_SPACE: &str = "local/parts";

/// What a set holds, as its owner has it now. The store asks for it when it writes.
pub trait Content: Send + Sync + 'static {
    /// Number of items.
    fn items(&self) -> u64;

    /// Bytes that all items have together when encoded.
    fn encoded_bytes(&self) -> u64;

    /// Encodes items. For each, `buffer_of` is asked with the item's slot, a hash of its key that
    /// is the same at all times, and tells which of `buffers` the item is appended to; `None`: the
    /// item is not wanted.
    fn encode(&self, buffer_of: &dyn Fn(u64) -> Option<usize>, buffers: &mut [Vec<u8>]);
}

/// How a stored set looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetRead {
    /// Nothing is stored under this ID.
    Absent,
    /// Something is stored, all of it under keys that the ring does not hold.
    Unreadable {
        /// The keys.
        keys: Vec<KeyId>,
    },
    /// A set whose marker was altered: nothing is known of it.
    Undecodable,
    /// A set; its parts have been handed out.
    Found(FoundSet),
}

/// What was found of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundSet {
    /// Items that the set has, by its marker.
    pub items: u64,
    /// When its data was accepted.
    pub written_at: SystemTime,
    /// Grows with each change of the set.
    pub sequence: u64,
    /// Parts that the marker names and that are not there.
    pub missing: u64,
    /// Parts that are there and do not open, or are not the ones that the marker names.
    pub undecodable: u64,
}

impl SetRead {
    /// Whether the file does not hold what was once stored in it.
    pub(super) fn shows_damage(&self) -> bool {
        match self {
            Self::Absent | Self::Unreadable { .. } => false,
            Self::Undecodable => true,
            Self::Found(found) => found.missing + found.undecodable > 0,
        }
    }
}

/// Reads a set. `part` gets the plaintext of each part that opens, in no order.
pub(super) fn read(
    open: &OpenFile,
    ring: &KeyRing,
    id: &str,
    part: &mut dyn FnMut(&[u8]),
) -> Result<SetRead, redb::Error> {
    let set = set_prefix(&open.salt, id);
    let reading = open.database.begin_read()?;
    let sets = reading.open_table(SETS)?;
    let markers = Markers::of(&sets, ring, &set)?;
    let Some((key, marker)) = markers.newest() else {
        return Ok(match (markers.undecodable, markers.unknown.is_empty()) {
            (0, true) => SetRead::Absent,
            (0, false) => SetRead::Unreadable { keys: markers.unknown },
            (_, _) => SetRead::Undecodable,
        });
    };
    let parts = reading.open_table(PARTS)?;
    let (first, last) = bounds::<PART_KEY_BYTES>(&set_key(&set, *key));
    let mut plaintext = Vec::new();
    let mut missing = marker.tags.iter().filter(|tag| **tag != NO_PART).count() as u64;
    let mut undecodable = 0;
    let mut next = 0;
    for entry in parts.range::<&[u8; PART_KEY_BYTES]>(&first..=&last)? {
        let (name, sealed) = entry?;
        let (name, sealed) = (name.value(), sealed.value());
        let number = part_of(name);
        if number < next {
            return Err(redb::Error::Corrupted("keys do not ascend".to_owned()));
        }
        next = number.saturating_add(1);
        // Parts behind the marker's last one belong to no state; they are not missed either.
        let Some(tag) = marker.tags.get(number as usize).filter(|tag| **tag != NO_PART) else {
            continue;
        };
        missing -= 1;
        let place = Place { namespace: PART_SPACE, name };
        if tag_of(sealed) == Some(*tag) && ring.open_into(place, sealed, &mut plaintext).is_ok() {
            part(&plaintext);
        } else {
            undecodable += 1;
        }
    }
    Ok(SetRead::Found(FoundSet {
        items: marker.items,
        written_at: marker.written_at,
        sequence: marker.sequence,
        missing,
        undecodable,
    }))
}

/// The markers that stand under one set's name.
struct Markers {
    opened: Vec<(KeyId, Marker)>,
    unknown: Vec<KeyId>,
    undecodable: usize,
}

impl Markers {
    fn of(
        sets: &impl ReadableTable<&'static [u8; SET_KEY_BYTES], &'static [u8]>,
        ring: &KeyRing,
        set: &Prefix,
    ) -> Result<Self, redb::Error> {
        let mut markers = Self { opened: Vec::new(), unknown: Vec::new(), undecodable: 0 };
        let (first, last) = bounds::<SET_KEY_BYTES>(set);
        for entry in sets.range::<&[u8; SET_KEY_BYTES]>(&first..=&last)? {
            let (name, sealed) = entry?;
            let (name, sealed) = (name.value(), sealed.value());
            match open_marker(ring, name, sealed) {
                Ok(marker) => markers.opened.push((owner_of(name), marker)),
                Err(OpenError::UnknownKey) => markers.unknown.push(owner_of(name)),
                Err(OpenError::Format | OpenError::Forged) => markers.undecodable += 1,
            }
        }
        Ok(markers)
    }

    fn newest(&self) -> Option<&(KeyId, Marker)> {
        self.opened.iter().max_by_key(|(_, marker)| marker.age())
    }

    fn under(&self, key: KeyId) -> Option<&Marker> {
        self.opened.iter().find(|(owner, _)| *owner == key).map(|(_, marker)| marker)
    }

    /// The sequence of a change at that time that follows on all that was stored. Not below the
    /// time in milliseconds, so that it is also above what stands there under unknown keys.
    fn next_sequence(&self, written_at: SystemTime) -> u64 {
        let since = written_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let after = self.newest().map_or(0, |(_, marker)| marker.sequence.saturating_add(1));
        after.max(since.as_millis() as u64)
    }
}

/// Opens a marker; the key of the ring that it names must have sealed it.
pub(super) fn open_marker(
    ring: &KeyRing,
    name: &[u8; SET_KEY_BYTES],
    sealed: &[u8],
) -> Result<Marker, OpenError> {
    if !ring.holds(owner_of(name)) {
        return Err(OpenError::UnknownKey);
    }
    let (plaintext, _) = ring.open(Place { namespace: MARKER_SPACE, name }, sealed)?;
    Marker::decode(&plaintext).ok_or(OpenError::Format)
}

/// The markers in the file: sets that can be read, by their IDs; and what cannot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Inventory {
    /// IDs of sets that have a readable marker, each once.
    pub(super) ids: Vec<String>,
    /// Sets that have a marker under a key of the ring other than the sealing one.
    pub(super) under_old_keys: Vec<Prefix>,
    /// Keys that the ring does not hold and that markers stand under.
    pub(super) unknown_keys: BTreeSet<KeyId>,
    /// Markers that do not open, by reason.
    pub(super) skipped: Skipped,
}

/// Reads all markers.
pub(super) fn inventory(open: &OpenFile, ring: &KeyRing) -> Result<Inventory, redb::Error> {
    let mut found = Inventory::default();
    let reading = open.database.begin_read()?;
    for entry in reading.open_table(SETS)?.iter()? {
        let (name, sealed) = entry?;
        let name = name.value();
        match open_marker(ring, name, sealed.value()) {
            Ok(marker) => {
                found.ids.push(marker.id);
                if owner_of(name) != ring.current().id() {
                    found.under_old_keys.push(super::names::prefix_of(name));
                }
            }
            Err(error) => {
                found.skipped.count(error);
                if error == OpenError::UnknownKey {
                    found.unknown_keys.insert(owner_of(name));
                }
            }
        }
    }
    found.ids.sort_unstable();
    found.ids.dedup();
    found.under_old_keys.dedup();
    Ok(found)
}

/// The keys that markers stand under.
pub(super) fn owners(open: &OpenFile) -> Result<BTreeSet<KeyId>, redb::Error> {
    let reading = open.database.begin_read()?;
    let table = reading.open_table(SETS)?;
    table.iter()?.map(|entry| Ok(owner_of(entry?.0.value()))).collect()
}

/// Which part of `count` parts a slot belongs to.
fn part_for(slot: u64, count: u32) -> u32 {
    ((u128::from(slot) * u128::from(count)) >> 64) as u32
}

/// How many parts a set of that size is cut into, given how many it has now.
fn part_count(bytes: u64, now: Option<usize>) -> u32 {
    let best = bytes.div_ceil(PART_BYTES).clamp(1, PARTS_MAX);
    match now.map(|now| now as u64) {
        Some(now) if now > 0 && now <= best * PART_DRIFT && best <= now * PART_DRIFT => now as u32,
        Some(_) | None => best as u32,
    }
}

/// What is to be stored of a set.
#[derive(Clone, Copy)]
pub(super) struct Writing<'a> {
    pub(super) salt: &'a super::names::Salt,
    pub(super) ring: &'a KeyRing,
    pub(super) id: &'a str,
    pub(super) content: &'a dyn Content,
    pub(super) written_at: SystemTime,
}

/// Whether data that nobody here can read may be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// What is stored replaces it.
    Remove,
    /// It may be newer than what is stored.
    Keep,
}

/// Makes the file hold the content and nothing else under the set's ID. Parts that are there
/// already and open to what they should be are not written again.
///
/// Returns how many bytes were sealed.
pub(super) fn store_all(
    tables: &mut Tables<'_>,
    writing: &Writing<'_>,
    unknown: Unknown,
) -> Result<u64, redb::Error> {
    let set = set_prefix(writing.salt, writing.id);
    let key = writing.ring.current().id();
    let markers = Markers::of(&tables.sets, writing.ring, &set)?;
    let held = markers.under(key);
    let count = part_count(writing.content.encoded_bytes(), held.map(|marker| marker.tags.len()));
    let held = held.filter(|marker| marker.tags.len() == count as usize);
    if held.is_none() {
        remove_parts(tables, &set_key(&set, key))?;
    }
    let mut tags = held.map_or_else(|| vec![NO_PART; count as usize], |marker| marker.tags.clone());
    let mut written = 0;
    for first in (0..count).step_by(WINDOW as usize) {
        let wanted: Vec<u32> = (first..count.min(first + WINDOW)).collect();
        written += store_parts(tables, writing, &set, &mut tags, &wanted)?;
    }
    let marker = Marker {
        id: writing.id.to_owned(),
        items: writing.content.items(),
        written_at: writing.written_at,
        sequence: markers.next_sequence(writing.written_at),
        tags,
    };
    store_marker(tables, writing.ring, &set, &marker)?;
    remove_other_keys(tables, writing.ring, &set, unknown)?;
    Ok(written)
}

/// Brings the parts of some slots up to date. Only for a set whose other parts are known to hold
/// what the content holds; gives `None`, and changes nothing, if it is not stored like that.
pub(super) fn store_slots(
    tables: &mut Tables<'_>,
    writing: &Writing<'_>,
    slots: impl IntoIterator<Item = u64>,
) -> Result<Option<u64>, redb::Error> {
    let set = set_prefix(writing.salt, writing.id);
    let markers = Markers::of(&tables.sets, writing.ring, &set)?;
    let Some(held) = markers.under(writing.ring.current().id()) else { return Ok(None) };
    let count = held.tags.len();
    if count == 0 || part_count(writing.content.encoded_bytes(), Some(count)) as usize != count {
        return Ok(None);
    }
    let mut wanted: Vec<u32> = slots.into_iter().map(|slot| part_for(slot, count as u32)).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut tags = held.tags.clone();
    let mut written = 0;
    for window in wanted.chunks(WINDOW as usize) {
        written += store_parts(tables, writing, &set, &mut tags, window)?;
    }
    let marker = Marker {
        id: writing.id.to_owned(),
        items: writing.content.items(),
        written_at: writing.written_at,
        sequence: markers.next_sequence(writing.written_at),
        tags,
    };
    store_marker(tables, writing.ring, &set, &marker)?;
    Ok(Some(written))
}

/// Stores the parts of these numbers (ascending), where the file does not hold them already.
fn store_parts(
    tables: &mut Tables<'_>,
    writing: &Writing<'_>,
    set: &Prefix,
    tags: &mut [[u8; crate::sealing::TAG_BYTES]],
    wanted: &[u32],
) -> Result<u64, redb::Error> {
    let count = tags.len() as u32;
    let mut buffers = vec![Vec::new(); wanted.len()];
    writing.content.encode(&|slot| wanted.binary_search(&part_for(slot, count)).ok(), &mut buffers);
    let key = writing.ring.current();
    let mut held = Vec::new();
    let mut written = 0;
    for (&number, plaintext) in wanted.iter().zip(&buffers) {
        let tag = &mut tags[number as usize];
        let name = part_key(set, key.id(), number);
        if plaintext.is_empty() {
            tables.parts.remove(&name)?;
            *tag = NO_PART;
            continue;
        }
        let place = Place { namespace: PART_SPACE, name: &name };
        if *tag != NO_PART {
            let sealed = tables.parts.get(&name)?;
            let sealed = sealed.as_ref().map(|sealed| sealed.value()).unwrap_or_default();
            if tag_of(sealed) != Some(*tag) {
                return Err(redb::Error::Corrupted("a part is not what its set says".to_owned()));
            }
            if sealed.len() == plaintext.len() + OVERHEAD_BYTES
                && writing.ring.open_into(place, sealed, &mut held).is_ok()
                && held == *plaintext
            {
                continue;
            }
        }
        let sealed = key.seal(place, plaintext);
        *tag = tag_of(&sealed).unwrap_or(NO_PART);
        written += sealed.len() as u64;
        tables.parts.insert(&name, sealed.as_slice())?;
    }
    Ok(written)
}

fn store_marker(
    tables: &mut Tables<'_>,
    ring: &KeyRing,
    set: &Prefix,
    marker: &Marker,
) -> Result<(), redb::Error> {
    let (name, sealed) = sealed_marker(ring, set, marker);
    tables.sets.insert(&name, sealed.as_slice())?;
    Ok(())
}

/// A marker under the current key, with its name.
pub(super) fn sealed_marker(
    ring: &KeyRing,
    set: &Prefix,
    marker: &Marker,
) -> ([u8; SET_KEY_BYTES], Vec<u8>) {
    let name = set_key(set, ring.current().id());
    let place = Place { namespace: MARKER_SPACE, name: &name };
    let sealed = ring.current().seal(place, &marker.encode());
    (name, sealed)
}

/// Removes all that is stored under a set's ID.
pub(super) fn remove(tables: &mut Tables<'_>, set: &Prefix) -> Result<(), redb::Error> {
    let (first, last) = bounds::<SET_KEY_BYTES>(set);
    tables.sets.retain_in::<&[u8; SET_KEY_BYTES], _>(&first..=&last, |_, _| false)?;
    remove_parts(tables, set)
}

/// Removes all sets but these.
pub(super) fn retain(tables: &mut Tables<'_>, kept: &[Prefix]) -> Result<(), redb::Error> {
    let mut others = Vec::new();
    for entry in tables.sets.iter()? {
        let set = super::names::prefix_of(entry?.0.value());
        if !kept.contains(&set) && others.last() != Some(&set) {
            others.push(set);
        }
    }
    others.iter().try_for_each(|set| remove(tables, set))
}

fn remove_parts(tables: &mut Tables<'_>, start: &[u8]) -> Result<(), redb::Error> {
    let (first, last) = bounds::<PART_KEY_BYTES>(start);
    tables.parts.retain_in::<&[u8; PART_KEY_BYTES], _>(&first..=&last, |_, _| false)?;
    Ok(())
}

/// Removes what a set has under other keys than the sealing one.
fn remove_other_keys(
    tables: &mut Tables<'_>,
    ring: &KeyRing,
    set: &Prefix,
    unknown: Unknown,
) -> Result<(), redb::Error> {
    let current = ring.current().id();
    let goes = |key: KeyId| key != current && (unknown == Unknown::Remove || ring.holds(key));
    let (first, last) = bounds::<SET_KEY_BYTES>(set);
    let mut owners = Vec::new();
    for entry in tables.sets.range::<&[u8; SET_KEY_BYTES]>(&first..=&last)? {
        let owner = owner_of(entry?.0.value());
        if goes(owner) {
            owners.push(owner);
        }
    }
    for owner in owners {
        let name = set_key(set, owner);
        tables.sets.remove(&name)?;
        remove_parts(tables, &name)?;
    }
    Ok(())
}
