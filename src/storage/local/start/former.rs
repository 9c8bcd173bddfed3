//! The former format: every record sealed under a key of the ring, no header page.
//!
//! A file of this kind is copied into one of the current format when it is first opened, and then
//! removed. It is only read here. This file can be deleted when no version that wrote the format is
//! in use; [`FileKind::Former`](super::FileKind::Former) is then an unknown format.

use std::collections::BTreeMap;

use redb::{ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};
use sha2::{Digest, Sha256};

use super::{Directory, Fresh, Publication};
use crate::sealing::{KeyRing, OpenError, Place, tag_of};
use crate::storage::local::SetAsideReason;
use crate::storage::local::copy::PORTION_BYTES;
use crate::storage::local::file::{Fault, FaultKind, Slot, SwitchedDatabase, check_file, guarded};
use crate::storage::local::format::fields::{take_text, take_u8, take_u64};
use crate::storage::local::format::marker::{Marker, NO_PART, take_tags, take_time};
use crate::storage::local::format::named::{AllNamed, NamedRecord};
use crate::storage::local::format::sets::WholeSet;

const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
/// Set (16), key ID (8).
const SETS: TableDefinition<'static, &[u8; 24], &[u8]> = TableDefinition::new("sets");
/// Set (16), key ID (8), number (4).
const PARTS: TableDefinition<'static, &[u8; 28], &[u8]> = TableDefinition::new("parts");
/// Space (16), key ID (8), hash of the name (16).
const NAMED: TableDefinition<'static, &[u8; 40], &[u8]> = TableDefinition::new("named");

/// The only space of named records that was used. Its name in the file is a hash.
const SPACE: &str = "autoconfig";

/// The newest marker of each set that opens.
type Newest = BTreeMap<[u8; 16], (u64, [u8; 24], Marker)>;

/// Copies the file into one of the current format, which replaces it, and opens that. A file from
/// which no record opens is kept unchanged. Records that do not open are not copied.
pub(super) fn convert(directory: &Directory, ring: &KeyRing) -> Result<Slot, Fault> {
    let database = SwitchedDatabase::open_to_read(directory, &directory.database(), 0)?;
    let file = FormerFile::open(&database)?;
    let mut closed = 0;
    let sets = guarded(|| file.newest_markers(ring, &mut closed))?;
    let named = guarded(|| file.named(ring, &mut closed))?;
    if sets.is_empty() && named.records.is_empty() && closed > 0 {
        return Ok(Slot::Closed);
    }
    let fresh = Fresh::begin(directory, ring)?;
    fresh.put(&[], Some(&named))?;
    let (mut portion, mut bytes) = (Vec::new(), 0);
    for (_, name, marker) in sets.into_values() {
        let set = guarded(|| file.set(ring, &name, marker))?;
        bytes += set.bytes();
        portion.push(set);
        if bytes > PORTION_BYTES {
            fresh.put(&portion, None)?;
            (portion, bytes) = (Vec::new(), 0);
        }
    }
    fresh.put(&portion, None)?;
    // A file that fails its checksums may contain records that were not found, so it is kept.
    let publication = match check_file(directory, 0) {
        Ok(()) => Publication::Replace,
        Err(_) => Publication::SetAside { reason: SetAsideReason::Damaged, ring },
    };
    Ok(Slot::Open(fresh.publish(directory, publication)?.0))
}

struct FormerFile {
    sets: ReadOnlyTable<&'static [u8; 24], &'static [u8]>,
    parts: ReadOnlyTable<&'static [u8; 28], &'static [u8]>,
    named: ReadOnlyTable<&'static [u8; 40], &'static [u8]>,
    salt: Vec<u8>,
}

impl FormerFile {
    fn open(database: &SwitchedDatabase) -> Result<Self, Fault> {
        let (file, format) = guarded(|| {
            let reading = database.get().begin_read()?;
            let meta = reading.open_table(META)?;
            let record = |name| -> Result<Vec<u8>, redb::Error> {
                Ok(meta.get(name)?.map(|record| record.value().to_vec()).unwrap_or_default())
            };
            let file = Self {
                sets: reading.open_table(SETS)?,
                parts: reading.open_table(PARTS)?,
                named: reading.open_table(NAMED)?,
                salt: record("salt")?,
            };
            Ok((file, record("format")?))
        })?;
        match (<[u8; 4]>::try_from(format).map(u32::from_le_bytes), file.salt.len()) {
            (Ok(1), 16) => Ok(file),
            (Ok(1), _) => Err(Fault::damaged("the file has no salt")),
            (Ok(other), _) => {
                let text = format!("the file has format {other}, which this program does not know");
                Err(Fault::new(FaultKind::OtherFormat, text))
            }
            (Err(_), _) => Err(Fault::damaged("the file has no format record")),
        }
    }

    fn newest_markers(&self, ring: &KeyRing, closed: &mut u64) -> Result<Newest, redb::Error> {
        let mut newest = Newest::new();
        for entry in self.sets.iter()? {
            let (name, sealed) = entry?;
            let name = *name.value();
            let opened = ring.open(Place { namespace: "local/sets", name: &name }, sealed.value());
            let plaintext = match opened {
                Ok((plaintext, _)) => plaintext,
                Err(error) => {
                    *closed += u64::from(error == OpenError::UnknownKey);
                    continue;
                }
            };
            let Some((sequence, marker)) = decode_marker(&plaintext) else { continue };
            let set = *name.first_chunk().expect("the key begins with the set");
            if newest.get(&set).is_none_or(|(held, _, _)| *held < sequence) {
                newest.insert(set, (sequence, name, marker));
            }
        }
        Ok(newest)
    }

    fn set(
        &self,
        ring: &KeyRing,
        name: &[u8; 24],
        marker: Marker,
    ) -> Result<WholeSet, redb::Error> {
        let (mut first, mut last) = ([0; 28], [0xff; 28]);
        first[..24].copy_from_slice(name);
        last[..24].copy_from_slice(name);
        let mut set = WholeSet { marker, parts: Vec::new() };
        for entry in self.parts.range::<&[u8; 28]>(&first..=&last)? {
            let (name, sealed) = entry?;
            let (name, sealed) = (name.value(), sealed.value());
            let number = u32::from_be_bytes(*name.last_chunk().expect("it ends with the number"));
            let tag = set.marker.tags.get(number as usize).filter(|tag| **tag != NO_PART);
            if tag.is_none() || tag_of(sealed) != tag.copied() {
                continue;
            }
            if let Ok((plaintext, _)) = ring.open(Place { namespace: "local/parts", name }, sealed)
            {
                set.marker.bytes += plaintext.len() as u64;
                set.parts.push((number, plaintext));
            }
        }
        Ok(set)
    }

    /// Of several records with one name, the one under the first key of the ring is used.
    fn named(&self, ring: &KeyRing, closed: &mut u64) -> Result<AllNamed, redb::Error> {
        let mut hash = Sha256::new();
        hash.update(&self.salt);
        hash.update(5_u64.to_be_bytes());
        hash.update(b"space");
        hash.update(SPACE);
        let space = hash.finalize();
        let mut found: BTreeMap<String, (usize, Vec<u8>)> = BTreeMap::new();
        for entry in self.named.iter()? {
            let (name, sealed) = entry?;
            let name = name.value();
            let opened = ring.open(Place { namespace: "local/named", name }, sealed.value());
            let (plaintext, under) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    *closed += u64::from(error == OpenError::UnknownKey);
                    continue;
                }
            };
            let rest = &mut &plaintext[..];
            if name[..16] != space[..16] || take_u8(rest) != Some(1) {
                continue;
            }
            let Some(name) = take_text(rest) else { continue };
            let rank = ring.keys().iter().position(|key| key.id() == under).unwrap_or(usize::MAX);
            if found.get(name).is_none_or(|(held, _)| rank < *held) {
                found.insert(name.to_owned(), (rank, rest.to_vec()));
            }
        }
        let record = |(name, (_, value))| (SPACE.to_owned(), NamedRecord { name, value });
        Ok(AllNamed { records: found.into_iter().map(record).collect(), ..AllNamed::default() })
    }
}

/// Reads a marker and its sequence number, which increased with each change of the set.
fn decode_marker(plaintext: &[u8]) -> Option<(u64, Marker)> {
    let rest = &mut &plaintext[..];
    if take_u8(rest)? != 1 {
        return None;
    }
    let (id, items) = (take_text(rest)?.to_owned(), take_u64(rest)?);
    let (written_at, sequence) = (take_time(rest)?, take_u64(rest)?);
    let tags = take_tags(rest)?;
    Some((sequence, Marker { id, items, bytes: 0, written_at, tags }))
}
