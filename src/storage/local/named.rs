//! Records that stand for themselves, by name, in spaces of their own: what the autoconfig cache
//! keeps here. Whether a space is complete is its owner's affair.
//!
//! A record's name in the file is a keyed hash; the plaintext begins with the name in clear.

use std::collections::{BTreeMap, BTreeSet};

use redb::{ReadableDatabase, ReadableTable};

use crate::sealing::{KeyId, KeyRing, OpenError, Place};

use super::Skipped;
use super::database::{NAMED, OpenFile, Tables};
use super::fields::{put_text, take_text, take_u8};
use super::names::{NAMED_KEY_BYTES, Salt, bounds, named_key, owner_of, prefix_of, space_prefix};

const SPACE: &str = "local/named";
/// First byte of a record's plaintext.
const FORMAT: u8 = 1;

/// A record that was read.
#[derive(Clone, PartialEq, Eq)]
pub struct NamedRecord {
    /// Its name.
    pub name: String,
    /// What was stored under it.
    pub value: Vec<u8>,
    /// The key it was sealed under.
    pub under: KeyId,
}

/// Values may hold credentials: only their length shows.
impl std::fmt::Debug for NamedRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NamedRecord({}, {} bytes, {:?})", self.name, self.value.len(), self.under)
    }
}

/// The records of one space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedRecords {
    /// What opened, in the order of names.
    pub records: Vec<NamedRecord>,
    /// What did not, by reason.
    pub skipped: Skipped,
}

impl NamedRecords {
    /// Whether something is stored here and nothing of it opens with the keys at hand.
    pub fn is_unreadable(&self) -> bool {
        self.records.is_empty() && self.skipped.total() > 0
    }
}

fn encode(name: &str, value: &[u8]) -> Vec<u8> {
    let mut plaintext = Vec::with_capacity(5 + name.len() + value.len());
    plaintext.push(FORMAT);
    put_text(&mut plaintext, name);
    plaintext.extend_from_slice(value);
    plaintext
}

fn decode(plaintext: &[u8]) -> Option<(&str, &[u8])> {
    let rest = &mut &plaintext[..];
    if take_u8(rest)? != FORMAT {
        return None;
    }
    let name = take_text(rest)?;
    Some((name, rest))
}

/// Reads all records of a space. If one name stands under several keys, the ring's first key wins.
pub(super) fn read_all(
    open: &OpenFile,
    ring: &KeyRing,
    space: &str,
) -> Result<NamedRecords, redb::Error> {
    let prefix = space_prefix(&open.salt, space);
    let (first, last) = bounds::<NAMED_KEY_BYTES>(&prefix);
    let reading = open.database.begin_read()?;
    let table = reading.open_table(NAMED)?;
    let mut found: BTreeMap<String, (usize, NamedRecord)> = BTreeMap::new();
    let mut skipped = Skipped::default();
    for entry in table.range::<&[u8; NAMED_KEY_BYTES]>(&first..=&last)? {
        let (name, sealed) = entry?;
        let (name, sealed) = (name.value(), sealed.value());
        let (plaintext, under) = match ring.open(Place { namespace: SPACE, name }, sealed) {
            Ok(opened) => opened,
            Err(error) => {
                skipped.count(error);
                continue;
            }
        };
        let Some((name, value)) = decode(&plaintext) else {
            skipped.count(OpenError::Format);
            continue;
        };
        let rank = ring.keys().iter().position(|key| key.id() == under).unwrap_or(usize::MAX);
        if found.get(name).is_none_or(|(held, _)| rank < *held) {
            let record = NamedRecord { name: name.to_owned(), value: value.to_vec(), under };
            found.insert(name.to_owned(), (rank, record));
        }
    }
    Ok(NamedRecords { records: found.into_values().map(|(_, record)| record).collect(), skipped })
}

/// What happens to the records of the space that are not named in a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    Keep,
    /// All go, also those that nobody here can read.
    Remove,
}

/// One change of a space.
pub(super) struct Change {
    pub(super) space: &'static str,
    pub(super) puts: Vec<(String, Vec<u8>)>,
    pub(super) deletes: Vec<String>,
    pub(super) others: Others,
}

impl Change {
    /// How much memory the change holds.
    pub(super) fn bytes(&self) -> usize {
        let puts: usize = self.puts.iter().map(|(name, value)| name.len() + value.len()).sum();
        puts + self.deletes.iter().map(String::len).sum::<usize>()
    }
}

/// Carries out a change.
pub(super) fn store(
    tables: &mut Tables<'_>,
    salt: &Salt,
    ring: &KeyRing,
    change: &Change,
) -> Result<(), redb::Error> {
    let space = space_prefix(salt, change.space);
    if change.others == Others::Remove {
        let (first, last) = bounds::<NAMED_KEY_BYTES>(&space);
        tables.named.retain_in::<&[u8; NAMED_KEY_BYTES], _>(&first..=&last, |_, _| false)?;
    }
    let named = change.puts.iter().map(|(name, _)| name);
    for name in named.chain(&change.deletes) {
        for key in ring.keys() {
            tables.named.remove(&named_key(&space, key.id(), &key.name(&[name.as_bytes()])))?;
        }
    }
    let key = ring.current();
    for (name, value) in &change.puts {
        let stored = named_key(&space, key.id(), &key.name(&[name.as_bytes()]));
        let place = Place { namespace: SPACE, name: &stored };
        tables.named.insert(&stored, key.seal(place, &encode(name, value)).as_slice())?;
    }
    Ok(())
}

/// Records with those under older keys of the ring sealed under the current one. Of several records
/// of one name, the one under the first key of the ring stays. Records that the ring cannot open
/// stay as they are, unless they are damaged ones under an older key.
pub(super) fn resealed(
    records: Vec<([u8; NAMED_KEY_BYTES], Vec<u8>)>,
    ring: &KeyRing,
) -> Vec<([u8; NAMED_KEY_BYTES], Vec<u8>)> {
    let key = ring.current();
    let is_older = |name: &_| owner_of(name) != key.id() && ring.holds(owner_of(name));
    let (older, kept): (Vec<_>, Vec<_>) = records.into_iter().partition(|(name, _)| is_older(name));
    let mut all: BTreeMap<_, _> = kept.into_iter().collect();
    for under in ring.keys() {
        for (old, sealed) in older.iter().filter(|(name, _)| owner_of(name) == under.id()) {
            let place = Place { namespace: SPACE, name: old };
            let Ok((plaintext, _)) = ring.open(place, sealed) else { continue };
            let Some((name, _)) = decode(&plaintext) else { continue };
            let new = named_key(&prefix_of(old), key.id(), &key.name(&[name.as_bytes()]));
            all.entry(new)
                .or_insert_with(|| key.seal(Place { namespace: SPACE, name: &new }, &plaintext));
        }
    }
    all.into_iter().collect()
}

/// The keys that records of all spaces stand under, each with the number of its records.
pub(super) fn counts(open: &OpenFile) -> Result<BTreeMap<KeyId, usize>, redb::Error> {
    let reading = open.database.begin_read()?;
    let table = reading.open_table(NAMED)?;
    let mut counts = BTreeMap::new();
    for entry in table.iter()? {
        *counts.entry(owner_of(entry?.0.value())).or_insert(0) += 1;
    }
    Ok(counts)
}

/// The keys that records of all spaces stand under.
pub(super) fn owners(open: &OpenFile) -> Result<BTreeSet<KeyId>, redb::Error> {
    Ok(counts(open)?.into_keys().collect())
}
