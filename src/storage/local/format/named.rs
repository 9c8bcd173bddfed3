//! Independent records, by name, in spaces: the autoconfig cache keeps its records here. The owner
//! of a space decides whether it is complete.
//!
//! A record's name in the file is a keyed hash; the plaintext begins with the plain space and name.

use redb::ReadableTable;

use crate::sealing::{KeyRing, OpenError, Place, tag_of};
use crate::storage::local::Skipped;
use crate::storage::local::file::{Reading, Tables};

use super::fields::{put_text, take_text, take_u8};
use super::marker::Tag;
use super::names::{NAMED_KEY_BYTES, bounds, named_key, space_name};

const SPACE: &str = "local/named";
/// First byte of a record's plaintext.
const FORMAT: u8 = 2;

/// A record that was read.
#[derive(Clone, PartialEq, Eq)]
pub struct NamedRecord {
    /// Its name.
    pub name: String,
    /// The bytes that were stored under it.
    pub value: Vec<u8>,
}

/// Values may contain credentials, so only their length is shown.
impl std::fmt::Debug for NamedRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NamedRecord({}, {} bytes)", self.name, self.value.len())
    }
}

/// The records of one space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedRecords {
    /// Records that opened, in the order of names.
    pub records: Vec<NamedRecord>,
    /// Records that did not open, by reason.
    pub skipped: Skipped,
}

pub(crate) fn encode(space: &str, name: &str, value: &[u8]) -> Vec<u8> {
    let mut plaintext = Vec::with_capacity(9 + space.len() + name.len() + value.len());
    plaintext.push(FORMAT);
    put_text(&mut plaintext, space);
    put_text(&mut plaintext, name);
    plaintext.extend_from_slice(value);
    plaintext
}

/// Reads a plaintext into a space and its record; `None` if it is not that of a named record.
pub(crate) fn decode(plaintext: &[u8]) -> Option<(String, NamedRecord)> {
    let rest = &mut &plaintext[..];
    if take_u8(rest)? != FORMAT {
        return None;
    }
    let (space, name) = (take_text(rest)?.to_owned(), take_text(rest)?.to_owned());
    Some((space, NamedRecord { name, value: rest.to_vec() }))
}

fn open(
    keys: &KeyRing,
    name: &[u8; NAMED_KEY_BYTES],
    sealed: &[u8],
) -> Result<(String, NamedRecord), OpenError> {
    let (plaintext, _) = keys.open(Place { namespace: SPACE, name }, sealed)?;
    decode(&plaintext).ok_or(OpenError::Format)
}

/// Reads all records of a space.
pub(crate) fn read(reading: &Reading<'_>, space: &str) -> Result<NamedRecords, redb::Error> {
    let (first, last) = bounds::<NAMED_KEY_BYTES>(&space_name(reading.keys.current(), space));
    let mut found = NamedRecords::default();
    for entry in reading.named.range::<&[u8; NAMED_KEY_BYTES]>(&first..=&last)? {
        let (name, sealed) = entry?;
        match open(reading.keys, name.value(), sealed.value()) {
            Ok((_, record)) => found.records.push(record),
            Err(error) => found.skipped.count(error),
        }
    }
    found.records.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// The decrypted named records of all spaces, to be copied into another file.
#[derive(Default)]
pub(crate) struct AllNamed {
    pub(crate) records: Vec<(String, NamedRecord)>,
    /// Tags of all records in the file, also of those that do not open; unique for each state.
    pub(crate) state: Vec<Option<Tag>>,
}

impl AllNamed {
    pub(crate) fn read(reading: &Reading<'_>) -> Result<Self, redb::Error> {
        let mut all = Self::default();
        for entry in reading.named.iter()? {
            let (name, sealed) = entry?;
            all.records.extend(open(reading.keys, name.value(), sealed.value()).ok());
            all.state.push(tag_of(sealed.value()));
        }
        Ok(all)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.records.iter().map(|(_, record)| record.value.len() as u64).sum()
    }

    /// Stores these records and removes all others.
    pub(crate) fn store(&self, tables: &mut Tables<'_>) -> Result<(), redb::Error> {
        tables.named.retain(|_, _| false)?;
        let put = |(space, record): &(String, NamedRecord)| {
            put(tables, space, &record.name, &record.value)
        };
        self.records.iter().try_for_each(put)
    }
}

/// The treatment of the records of the space that a change does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Others {
    Keep,
    Remove,
}

/// One change of a space.
pub(crate) struct Change {
    pub(crate) space: &'static str,
    pub(crate) puts: Vec<(String, Vec<u8>)>,
    pub(crate) deletes: Vec<String>,
    pub(crate) others: Others,
}

impl Change {
    /// Bytes of memory that the change holds.
    pub(crate) fn bytes(&self) -> usize {
        let puts: usize = self.puts.iter().map(|(name, value)| name.len() + value.len()).sum();
        puts + self.deletes.iter().map(String::len).sum::<usize>()
    }
}

/// Carries out a change.
pub(crate) fn store(tables: &mut Tables<'_>, change: &Change) -> Result<(), redb::Error> {
    if change.others == Others::Remove {
        let space = space_name(tables.keys.current(), change.space);
        let (first, last) = bounds::<NAMED_KEY_BYTES>(&space);
        tables.named.retain_in::<&[u8; NAMED_KEY_BYTES], _>(&first..=&last, |_, _| false)?;
    }
    for name in &change.deletes {
        tables.named.remove(&named_key(tables.keys.current(), change.space, name))?;
    }
    change.puts.iter().try_for_each(|(name, value)| put(tables, change.space, name, value))
}

fn put(tables: &mut Tables<'_>, space: &str, name: &str, value: &[u8]) -> Result<(), redb::Error> {
    let key = tables.keys.current();
    let stored = named_key(key, space, name);
    let place = Place { namespace: SPACE, name: &stored };
    let sealed = key.seal(place, &encode(space, name, value));
    tables.named.insert(&stored, sealed.as_slice())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn survives_the_round_trip() {
        let record = NamedRecord { name: "name".to_owned(), value: b"value".to_vec() };
        let encoded = encode("space", &record.name, &record.value);
        assert_eq!(decode(&encoded), Some(("space".to_owned(), record)));
        for end in 0..encoded.len() - 5 {
            assert_eq!(decode(&encoded[..end]), None, "cut to {end}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
