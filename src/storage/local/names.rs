//! Names of records in the file: fixed-width keys of its tables.
//!
//! | table | key |
//! | --- | --- |
//! | sets | set (16), key ID (8) |
//! | parts | set (16), key ID (8), number of the part (4) |
//! | named | space (16), key ID (8), keyed hash of the name (16) |
//!
//! Sets and spaces are named by a hash with the file's own salt, not by a key of the ring: so
//! what an unknown key sealed is still found under the set it belongs to, and can be told apart
//! from a set that was never stored. All other names stand behind the ID of the key they are
//! sealed under: one key's records about a set are one range.

use sha2::{Digest, Sha256};

use crate::sealing::{KEY_ID_BYTES, KeyId, NAME_BYTES};

/// Random bytes of one file. Makes names of two files incomparable, and a record that was copied
/// from one file into another unopenable.
pub(super) type Salt = [u8; 16];

/// Name of a set or of a space, in this file only.
pub(super) type Prefix = [u8; 16];

const PREFIX_BYTES: usize = 16;
/// A prefix and the ID of a key.
const OWNER_BYTES: usize = PREFIX_BYTES + KEY_ID_BYTES;
/// Key of the table of sets.
pub(super) const SET_KEY_BYTES: usize = OWNER_BYTES;
/// Key of the table of parts.
pub(super) const PART_KEY_BYTES: usize = OWNER_BYTES + 4;
/// Key of the table of named records.
pub(super) const NAMED_KEY_BYTES: usize = OWNER_BYTES + NAME_BYTES;

/// The name of a set in the file with this salt.
pub(super) fn set_prefix(salt: &Salt, id: &str) -> Prefix {
    hashed(salt, b"set", id)
}

/// The name of a space of named records in the file with this salt.
pub(super) fn space_prefix(salt: &Salt, space: &str) -> Prefix {
    hashed(salt, b"space", space)
}

fn hashed(salt: &Salt, kind: &[u8], text: &str) -> Prefix {
    let mut hash = Sha256::new();
    hash.update(salt);
    hash.update((kind.len() as u64).to_be_bytes());
    hash.update(kind);
    hash.update(text.as_bytes());
    let digest = hash.finalize();
    let mut prefix = [0; PREFIX_BYTES];
    prefix.copy_from_slice(&digest[..PREFIX_BYTES]);
    prefix
}

/// The key of a set's marker under one sealing key.
pub(super) fn set_key(set: &Prefix, key: KeyId) -> [u8; SET_KEY_BYTES] {
    joined([&set[..], key.as_bytes(), &[]])
}

/// The key of one part of a set.
pub(super) fn part_key(set: &Prefix, key: KeyId, part: u32) -> [u8; PART_KEY_BYTES] {
    joined([&set[..], key.as_bytes(), &part.to_be_bytes()])
}

/// The key of a named record.
pub(super) fn named_key(
    space: &Prefix,
    key: KeyId,
    name: &[u8; NAME_BYTES],
) -> [u8; NAMED_KEY_BYTES] {
    joined([&space[..], key.as_bytes(), name])
}

fn joined<const N: usize>(pieces: [&[u8]; 3]) -> [u8; N] {
    let mut key = [0; N];
    let mut at = 0;
    for piece in pieces {
        key[at..at + piece.len()].copy_from_slice(piece);
        at += piece.len();
    }
    key
}

/// The set or space a table's key belongs to.
pub(super) fn prefix_of<const N: usize>(key: &[u8; N]) -> Prefix {
    *key.first_chunk().expect("every key begins with a prefix")
}

/// The sealing key a table's key names.
pub(super) fn owner_of<const N: usize>(key: &[u8; N]) -> KeyId {
    KeyId::from_bytes(*key[PREFIX_BYTES..].first_chunk().expect("a key ID follows the prefix"))
}

/// The number of the part that a key of that table names.
pub(super) fn part_of(key: &[u8; PART_KEY_BYTES]) -> u32 {
    u32::from_be_bytes(*key.last_chunk().expect("the key ends with the number"))
}

/// First and last possible key that begins with `start`.
pub(super) fn bounds<const N: usize>(start: &[u8]) -> ([u8; N], [u8; N]) {
    let (mut first, mut last) = ([0; N], [0xff; N]);
    first[..start.len()].copy_from_slice(start);
    last[..start.len()].copy_from_slice(start);
    (first, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hold_what_they_were_made_of() {
        let key = KeyId::from_bytes(*b"keyident");
        let set = set_prefix(&[7; 16], "env");
        let part = part_key(&set, key, 0x0102_0304);
        assert_eq!(prefix_of(&part), set);
        assert_eq!(owner_of(&part), key);
        assert_eq!(part_of(&part), 0x0102_0304);
        let marker = set_key(&set, key);
        let (first, last) = bounds::<PART_KEY_BYTES>(&marker);
        assert!(first <= part && part <= last);
        assert_eq!(named_key(&set, key, &[9; 16])[24..], [9; 16]);
    }

    #[test]
    fn prefixes_depend_on_salt_kind_and_text() {
        let name = set_prefix(&[1; 16], "a");
        assert_ne!(name, set_prefix(&[2; 16], "a"));
        assert_ne!(name, set_prefix(&[1; 16], "b"));
        assert_ne!(name, space_prefix(&[1; 16], "a"));
    }
}
