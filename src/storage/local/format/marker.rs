//! The marker of a set: the list of the parts of a complete set.
//!
//! It lists the tag of every part. A part that opens but has another tag is older or newer than the
//! marker, so a set is never a mixture of two states.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::sealing::TAG_BYTES;

use super::fields::{put_text, take_array, take_text, take_u8, take_u32, take_u64};

/// The tag of a sealed record.
pub(crate) type Tag = [u8; TAG_BYTES];

/// First byte of a marker's plaintext.
const FORMAT: u8 = 2;

/// Tag of a part that contains no item and is not stored.
pub(crate) const NO_PART: Tag = [0; TAG_BYTES];

/// The description of a stored set, without its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    /// The set's ID as plain text: names in the file are hashes.
    pub(crate) id: String,
    /// Number of items in all parts.
    pub(crate) items: u64,
    /// Bytes of all items, encoded.
    pub(crate) bytes: u64,
    /// The time at which the data was accepted.
    pub(crate) written_at: SystemTime,
    /// The tags of the parts in the order of their numbers.
    pub(crate) tags: Vec<Tag>,
}

impl Marker {
    /// The marker's plaintext.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let since = self.written_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut out = Vec::with_capacity(64 + self.id.len() + self.tags.len() * TAG_BYTES);
        out.push(FORMAT);
        put_text(&mut out, &self.id);
        out.extend_from_slice(&self.items.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&(since.as_millis() as u64).to_le_bytes());
        out.extend_from_slice(&(self.tags.len() as u32).to_le_bytes());
        out.extend(self.tags.iter().flatten());
        out
    }

    /// Reads a plaintext; `None` if it is not that of a marker.
    pub(crate) fn decode(plaintext: &[u8]) -> Option<Self> {
        let rest = &mut &plaintext[..];
        if take_u8(rest)? != FORMAT {
            return None;
        }
        let id = take_text(rest)?.to_owned();
        let (items, bytes) = (take_u64(rest)?, take_u64(rest)?);
        let written_at = take_time(rest)?;
        let tags = take_tags(rest)?;
        Some(Self { id, items, bytes, written_at, tags })
    }
}

/// The next eight bytes as a time.
pub(crate) fn take_time(rest: &mut &[u8]) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(take_u64(rest)?))
}

/// The tags at the end of the plaintext of a marker.
pub(crate) fn take_tags(rest: &mut &[u8]) -> Option<Vec<Tag>> {
    let count = usize::try_from(take_u32(rest)?).ok()?;
    if rest.len() != count.checked_mul(TAG_BYTES)? {
        return None;
    }
    let mut tags = Vec::with_capacity(count);
    while !rest.is_empty() {
        tags.push(take_array(rest)?);
    }
    Some(tags)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn marker(parts: usize) -> Marker {
        Marker {
            id: "environment".to_owned(),
            items: 12,
            bytes: 3456,
            written_at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            tags: (0..parts).map(|n| [n as u8; TAG_BYTES]).collect(),
        }
    }

    #[test]
    fn survives_the_round_trip_and_no_cut() {
        for parts in [0, 1, 84] {
            let encoded = marker(parts).encode();
            assert_eq!(Marker::decode(&encoded), Some(marker(parts)));
            for end in 0..encoded.len() {
                assert_eq!(Marker::decode(&encoded[..end]), None, "cut to {end}");
            }
        }
        let mut other_format = marker(1).encode();
        other_format[0] = 1;
        assert_eq!(Marker::decode(&other_format), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Marker::decode(&bytes);
        }
    }
}
