//! Complete sets in the file: reads them, and updates them to their owner's content.
//!
//! A set is divided into parts of some 16 KiB by a hash of the item's key, and each part is one
//! sealed record: a start reads few large records instead of many small ones, and a change of one
//! item writes one part and the marker. The marker lists every part by its tag (`marker.rs`).
//!
//! This module does not decide when sets are written, and does not know the meaning of items.

use std::collections::BTreeSet;
use std::time::SystemTime;

use redb::ReadableTable;

use crate::sealing::{KeyRing, OVERHEAD_BYTES, OpenError, Place, tag_of};
use crate::storage::local::file::{Reading, Tables};

use super::marker::{Marker, NO_PART, Tag};
use super::names::{Name, PART_KEY_BYTES, bounds, part_key, part_of, set_name};

/// Plaintext size of the parts into which a set is divided when it is stored anew. Larger parts
/// make a start slightly faster and each change of one item more expensive (benches/local_store).
const PART_BYTES: u64 = 12 * 1024;
/// A set is divided anew when its parts have become this many times larger or smaller on average.
const PART_DRIFT: u64 = 4;
/// Largest number of parts of a set: bounds the marker at 256 KiB.
const PARTS_MAX: u64 = 16 * 1024;
/// Parts that are encoded at a time, which bounds the memory of storing a large set.
const WINDOW: u32 = 128;

const MARKER_SPACE: &str = "local/sets";
const PART_SPACE: &str = "local/parts";

/// The current items of a set. The store encodes them when it writes.
pub trait Content: Send + Sync + 'static {
    /// Number of items.
    fn items(&self) -> u64;

    /// Encoded size of all items, in bytes.
    fn encoded_bytes(&self) -> u64;

    /// Encodes items. For each, `buffer_of` gets the item's slot, a hash of its key that never
    /// changes, and returns the index of the buffer to which the item is appended, or `None` if the
    /// item is not wanted.
    fn encode(&self, buffer_of: &dyn Fn(u64) -> Option<usize>, buffers: &mut [Vec<u8>]);
}

/// The result of reading a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetRead {
    /// Nothing is stored under this ID.
    Absent,
    /// The file is sealed under a key that is not configured, so the set is not known.
    Unreadable,
    /// The marker of the set was altered, so the set is not known.
    Undecodable,
    /// A set, whose parts were passed to the caller.
    Found(FoundSet),
}

/// A set that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundSet {
    /// Number of items, by its marker.
    pub items: u64,
    /// The time at which its data was accepted.
    pub written_at: SystemTime,
    /// Number of parts that the marker lists but that do not exist.
    pub missing: u64,
    /// Number of parts that do not open, or are not the ones that the marker lists.
    pub undecodable: u64,
}

/// Reads a set. `part` gets the plaintext of each part that opens, in any order.
pub(crate) fn read(
    reading: &Reading<'_>,
    id: &str,
    part: &mut dyn FnMut(&[u8]),
) -> Result<SetRead, redb::Error> {
    let set = set_name(reading.keys.current(), id);
    let Some(sealed) = reading.sets.get(&set)? else { return Ok(SetRead::Absent) };
    let Ok(marker) = open_marker(reading.keys, &set, sealed.value()) else {
        return Ok(SetRead::Undecodable);
    };
    let mut undecodable = 0;
    let missing = read_parts(reading, &set, &marker, &mut |_, plaintext| match plaintext {
        Some(plaintext) => part(plaintext),
        None => undecodable += 1,
    })?;
    let Marker { items, written_at, .. } = marker;
    Ok(SetRead::Found(FoundSet { items, written_at, missing, undecodable }))
}

/// Reads the parts that a marker lists, each with its number, and `None` for one that does not
/// open. Returns the number of missing parts.
fn read_parts(
    reading: &Reading<'_>,
    set: &Name,
    marker: &Marker,
    part: &mut dyn FnMut(u32, Option<&[u8]>),
) -> Result<u64, redb::Error> {
    let (first, last) = bounds::<PART_KEY_BYTES>(set);
    let mut plaintext = Vec::new();
    let mut missing = marker.tags.iter().filter(|tag| **tag != NO_PART).count() as u64;
    let mut next = 0;
    for entry in reading.parts.range::<&[u8; PART_KEY_BYTES]>(&first..=&last)? {
        let (name, sealed) = entry?;
        let (name, sealed) = (name.value(), sealed.value());
        let number = part_of(name);
        if number < next {
            return Err(redb::Error::Corrupted("keys do not ascend".to_owned()));
        }
        next = number.saturating_add(1);
        // Parts after the marker's last one belong to no state, so they are ignored.
        let Some(tag) = marker.tags.get(number as usize).filter(|tag| **tag != NO_PART) else {
            continue;
        };
        missing -= 1;
        let place = Place { namespace: PART_SPACE, name };
        let opens = tag_of(sealed) == Some(*tag)
            && reading.keys.open_into(place, sealed, &mut plaintext).is_ok();
        part(number, opens.then_some(&plaintext[..]));
    }
    Ok(missing)
}

/// Opens a marker.
fn open_marker(keys: &KeyRing, set: &Name, sealed: &[u8]) -> Result<Marker, OpenError> {
    let (plaintext, _) = keys.open(Place { namespace: MARKER_SPACE, name: set }, sealed)?;
    Marker::decode(&plaintext).ok_or(OpenError::Format)
}

/// A marker with its own tag.
type TaggedMarker = (Option<Tag>, Marker);

/// Opens all markers; those that do not open are left out. Each comes with its own tag, which
/// differs for any two states of a set.
pub(crate) fn markers(reading: &Reading<'_>) -> Result<Vec<TaggedMarker>, redb::Error> {
    let mut found = Vec::new();
    for entry in reading.sets.iter()? {
        let (name, sealed) = entry?;
        if let Ok(marker) = open_marker(reading.keys, name.value(), sealed.value()) {
            found.push((tag_of(sealed.value()), marker));
        }
    }
    found.sort_unstable_by(|(_, one), (_, other)| one.id.cmp(&other.id));
    Ok(found)
}

/// A decrypted set, to be copied into another file. The tags of its marker are those of the file
/// that it comes from.
pub(crate) struct WholeSet {
    pub(crate) marker: Marker,
    /// Parts that opened, with their numbers.
    pub(crate) parts: Vec<(u32, Vec<u8>)>,
}

impl WholeSet {
    /// Reads the set of a marker.
    pub(crate) fn read(reading: &Reading<'_>, marker: Marker) -> Result<Self, redb::Error> {
        let set = set_name(reading.keys.current(), &marker.id);
        let mut parts = Vec::new();
        read_parts(reading, &set, &marker, &mut |number, plaintext| {
            parts.extend(plaintext.map(|plaintext| (number, plaintext.to_vec())));
        })?;
        Ok(Self { marker, parts })
    }

    /// True if all parts opened.
    pub(crate) fn is_complete(&self) -> bool {
        self.parts.len() == self.marker.tags.iter().filter(|tag| **tag != NO_PART).count()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.parts.iter().map(|(_, plaintext)| plaintext.len() as u64).sum()
    }

    /// Stores the set. Parts that did not open are missing afterwards too: no part has their tags.
    pub(crate) fn store(&self, tables: &mut Tables<'_>) -> Result<(), redb::Error> {
        let set = set_name(tables.keys.current(), &self.marker.id);
        remove_parts(tables, &set)?;
        let mut tags = self.marker.tags.clone();
        for (number, plaintext) in &self.parts {
            let name = part_key(&set, *number);
            let place = Place { namespace: PART_SPACE, name: &name };
            let sealed = tables.keys.current().seal(place, plaintext);
            if let Some(tag) = tags.get_mut(*number as usize) {
                *tag = tag_of(&sealed).unwrap_or(NO_PART);
            }
            tables.parts.insert(&name, sealed.as_slice())?;
        }
        store_marker(tables, &set, &Marker { tags, ..self.marker.clone() })
    }
}

/// The part, of `count` parts, to which a slot belongs.
fn part_for(slot: u64, count: u32) -> u32 {
    ((u128::from(slot) * u128::from(count)) >> 64) as u32
}

/// The number of parts for a set of this size; `now` is its current number.
fn part_count(bytes: u64, now: Option<usize>) -> u32 {
    let best = bytes.div_ceil(PART_BYTES).clamp(1, PARTS_MAX);
    match now.map(|now| now as u64) {
        Some(now) if now > 0 && now <= best * PART_DRIFT && best <= now * PART_DRIFT => now as u32,
        Some(_) | None => best as u32,
    }
}

/// The content of a set to be stored.
#[derive(Clone, Copy)]
pub(crate) struct Writing<'a> {
    pub(crate) id: &'a str,
    pub(crate) content: &'a dyn Content,
    pub(crate) written_at: SystemTime,
}

impl Writing<'_> {
    fn marker(&self, tags: Vec<Tag>) -> Marker {
        Marker {
            id: self.id.to_owned(),
            items: self.content.items(),
            bytes: self.content.encoded_bytes(),
            written_at: self.written_at,
            tags,
        }
    }
}

/// The marker of a set, if the file contains one that opens.
fn held_marker(tables: &Tables<'_>, set: &Name) -> Result<Option<Marker>, redb::Error> {
    let sealed = tables.sets.get(set)?;
    Ok(sealed.and_then(|sealed| open_marker(tables.keys, set, sealed.value()).ok()))
}

/// Stores exactly the content under the set's ID. Stored parts that already have the right content
/// are not written again.
///
/// Returns the number of bytes that were sealed.
pub(crate) fn store_all(
    tables: &mut Tables<'_>,
    writing: &Writing<'_>,
) -> Result<u64, redb::Error> {
    let set = set_name(tables.keys.current(), writing.id);
    let held = held_marker(tables, &set)?;
    let held_count = held.as_ref().map(|marker| marker.tags.len());
    let count = part_count(writing.content.encoded_bytes(), held_count);
    let held = held.filter(|marker| marker.tags.len() == count as usize);
    if held.is_none() {
        remove_parts(tables, &set)?;
    }
    let mut tags = held.map_or_else(|| vec![NO_PART; count as usize], |marker| marker.tags);
    let mut written = 0;
    for first in (0..count).step_by(WINDOW as usize) {
        let wanted: Vec<u32> = (first..count.min(first + WINDOW)).collect();
        written += store_parts(tables, writing, &set, &mut tags, &wanted)?;
    }
    store_marker(tables, &set, &writing.marker(tags))?;
    Ok(written)
}

/// Updates the parts of some slots. Only for a set whose other parts are known to be up to date;
/// returns `None`, and changes nothing, if it is not stored like that.
pub(crate) fn store_slots(
    tables: &mut Tables<'_>,
    writing: &Writing<'_>,
    slots: impl IntoIterator<Item = u64>,
) -> Result<Option<u64>, redb::Error> {
    let set = set_name(tables.keys.current(), writing.id);
    let Some(held) = held_marker(tables, &set)? else { return Ok(None) };
    let mut tags = held.tags;
    let count = tags.len();
    if count == 0 || part_count(writing.content.encoded_bytes(), Some(count)) as usize != count {
        return Ok(None);
    }
    let mut wanted: Vec<u32> = slots.into_iter().map(|slot| part_for(slot, count as u32)).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut written = 0;
    for window in wanted.chunks(WINDOW as usize) {
        written += store_parts(tables, writing, &set, &mut tags, window)?;
    }
    store_marker(tables, &set, &writing.marker(tags))?;
    Ok(Some(written))
}

/// Stores the parts with these numbers (ascending), unless the file already contains them.
fn store_parts(
    tables: &mut Tables<'_>,
    writing: &Writing<'_>,
    set: &Name,
    tags: &mut [Tag],
    wanted: &[u32],
) -> Result<u64, redb::Error> {
    let count = tags.len() as u32;
    let mut buffers = vec![Vec::new(); wanted.len()];
    writing.content.encode(&|slot| wanted.binary_search(&part_for(slot, count)).ok(), &mut buffers);
    let mut held = Vec::new();
    let mut written = 0;
    for (&number, plaintext) in wanted.iter().zip(&buffers) {
        let tag = &mut tags[number as usize];
        let name = part_key(set, number);
        if plaintext.is_empty() {
            tables.parts.remove(&name)?;
            *tag = NO_PART;
            continue;
        }
        let place = Place { namespace: PART_SPACE, name: &name };
        let is_held = tables.parts.get(&name)?.is_some_and(|sealed| {
            let sealed = sealed.value();
            sealed.len() == plaintext.len() + OVERHEAD_BYTES
                && tag_of(sealed) == Some(*tag)
                && tables.keys.open_into(place, sealed, &mut held).is_ok()
                && held == *plaintext
        });
        if is_held {
            continue;
        }
        let sealed = tables.keys.current().seal(place, plaintext);
        *tag = tag_of(&sealed).unwrap_or(NO_PART);
        written += sealed.len() as u64;
        tables.parts.insert(&name, sealed.as_slice())?;
    }
    Ok(written)
}

fn store_marker(tables: &mut Tables<'_>, set: &Name, marker: &Marker) -> Result<(), redb::Error> {
    let place = Place { namespace: MARKER_SPACE, name: set };
    let sealed = tables.keys.current().seal(place, &marker.encode());
    tables.sets.insert(set, sealed.as_slice())?;
    Ok(())
}

/// Removes everything that is stored under a set's ID.
pub(crate) fn remove(tables: &mut Tables<'_>, id: &str) -> Result<(), redb::Error> {
    let set = set_name(tables.keys.current(), id);
    remove_named(tables, &set)
}

fn remove_named(tables: &mut Tables<'_>, set: &Name) -> Result<(), redb::Error> {
    tables.sets.remove(set)?;
    remove_parts(tables, set)
}

/// Removes all sets except these.
pub(crate) fn retain<'a>(
    tables: &mut Tables<'_>,
    kept: impl Iterator<Item = &'a str>,
) -> Result<(), redb::Error> {
    let kept: BTreeSet<Name> = kept.map(|id| set_name(tables.keys.current(), id)).collect();
    let mut others = Vec::new();
    for entry in tables.sets.iter()? {
        others.extend(Some(*entry?.0.value()).filter(|set| !kept.contains(set)));
    }
    others.iter().try_for_each(|set| remove_named(tables, set))
}

fn remove_parts(tables: &mut Tables<'_>, set: &Name) -> Result<(), redb::Error> {
    let (first, last) = bounds::<PART_KEY_BYTES>(set);
    tables.parts.retain_in::<&[u8; PART_KEY_BYTES], _>(&first..=&last, |_, _| false)?;
    Ok(())
}
