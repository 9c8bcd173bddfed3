//! Names of records: fixed-width keys of the file's tables, derived with the file's data key.

use crate::sealing::{NAME_BYTES, SealingKey};

/// Name of a set or of a space, in this file only.
pub(crate) type Name = [u8; NAME_BYTES];

/// Key of the table of parts: name of the set, number of the part.
pub(crate) const PART_KEY_BYTES: usize = NAME_BYTES + 4;
/// Key of the table of named records: name of the space, name of the record.
pub(crate) const NAMED_KEY_BYTES: usize = NAME_BYTES + NAME_BYTES;

/// The name of a set.
pub(crate) fn set_name(key: &SealingKey, id: &str) -> Name {
    key.name(&[b"set", id.as_bytes()])
}

/// The name of a space of named records.
pub(crate) fn space_name(key: &SealingKey, space: &str) -> Name {
    key.name(&[b"space", space.as_bytes()])
}

/// The key of one part of a set.
pub(crate) fn part_key(set: &Name, part: u32) -> [u8; PART_KEY_BYTES] {
    joined(set, &part.to_be_bytes())
}

/// The key of a named record.
pub(crate) fn named_key(key: &SealingKey, space: &str, name: &str) -> [u8; NAMED_KEY_BYTES] {
    joined(&space_name(key, space), &key.name(&[b"record", space.as_bytes(), name.as_bytes()]))
}

fn joined<const N: usize>(first: &Name, second: &[u8]) -> [u8; N] {
    let mut key = [0; N];
    key[..NAME_BYTES].copy_from_slice(first);
    key[NAME_BYTES..].copy_from_slice(second);
    key
}

/// The number of the part that a key of the table of parts names.
pub(crate) fn part_of(key: &[u8; PART_KEY_BYTES]) -> u32 {
    u32::from_be_bytes(*key.last_chunk().expect("the key ends with the number"))
}

/// The first and the last possible key that begins with `start`.
pub(crate) fn bounds<const N: usize>(start: &Name) -> ([u8; N], [u8; N]) {
    let (mut first, mut last) = ([0; N], [0xff; N]);
    first[..NAME_BYTES].copy_from_slice(start);
    last[..NAME_BYTES].copy_from_slice(start);
    (first, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hold_what_they_were_made_of() {
        let key = SealingKey::derive("data key");
        let set = set_name(&key, "env");
        let part = part_key(&set, 0x0102_0304);
        assert_eq!(part[..NAME_BYTES], set);
        assert_eq!(part_of(&part), 0x0102_0304);
        let (first, last) = bounds::<PART_KEY_BYTES>(&set);
        assert!(first <= part && part <= last);
        let (first, last) = bounds::<NAMED_KEY_BYTES>(&space_name(&key, "space"));
        let named = named_key(&key, "space", "name");
        assert!(first <= named && named <= last);
    }

    #[test]
    fn names_depend_on_key_kind_and_text() {
        let (key, other) = (SealingKey::derive("a"), SealingKey::derive("b"));
        let name = set_name(&key, "a");
        assert_ne!(name, set_name(&other, "a"));
        assert_ne!(name, set_name(&key, "b"));
        assert_ne!(name, space_name(&key, "a"));
    }
}
