//! The header page: the format of the file, and its wrapped data key.
//!
//! The header is written once, when the file is made. The wrapping authenticates magic and format,
//! so a wrapped key from another kind of record does not open here.

use crate::sealing::{KeyId, KeyRing, OpenError, Place, SealingKey, WRAPPED_KEY_BYTES};

use super::fields::{take, take_array, take_u32};

/// Length of the header page. The database begins after it.
pub(crate) const PAGE_BYTES: usize = 4096;

/// The format that this program writes. Format 1 had no header page (`start/former.rs`).
const FORMAT: u32 = 2;
const MAGIC: [u8; 8] = *b"PLTSTORE";
/// Magic and format, which the wrapping authenticates.
const LEAD_BYTES: usize = MAGIC.len() + 4;
/// The first bytes of an embedded database without a header page.
const DATABASE_MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";

const SPACE: &str = "local/data key";

/// The kind of a file, by its first bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// A file of this format.
    Current(Header),
    /// A file of format 1.
    Former,
    /// A file of a format that this program does not know.
    Other(u32),
    /// Not a file of this program, or damaged.
    Unknown,
}

/// A header that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    wrapped: [u8; WRAPPED_KEY_BYTES],
}

/// A data key and the key that it is wrapped under.
pub(crate) struct DataKey {
    pub(crate) key: SealingKey,
    pub(crate) under: KeyId,
}

impl FileKind {
    /// Reads the first bytes of a file; at most a page is used.
    pub(crate) fn read(page: &[u8]) -> Self {
        if page.starts_with(DATABASE_MAGIC) {
            return Self::Former;
        }
        let rest = &mut &page[..page.len().min(PAGE_BYTES)];
        if take(rest, MAGIC.len()) != Some(&MAGIC) {
            return Self::Unknown;
        }
        match (take_u32(rest), take_array(rest)) {
            (Some(FORMAT), Some(wrapped)) => Self::Current(Header { wrapped }),
            (Some(other), _) if other != FORMAT => Self::Other(other),
            (_, _) => Self::Unknown,
        }
    }
}

impl Header {
    /// Makes a data key, wraps it, and returns it with the header page that contains it.
    pub(crate) fn make(wrapping: &SealingKey) -> (DataKey, Vec<u8>) {
        let lead = lead();
        let (key, wrapped) = wrapping.wrap_new_key(Place { namespace: SPACE, name: &lead });
        let mut page = vec![0; PAGE_BYTES];
        page[..LEAD_BYTES].copy_from_slice(&lead);
        page[LEAD_BYTES..LEAD_BYTES + wrapped.len()].copy_from_slice(&wrapped);
        (DataKey { key, under: wrapping.id() }, page)
    }

    /// Unwraps the data key.
    pub(crate) fn unwrap(&self, ring: &KeyRing) -> Result<DataKey, OpenError> {
        let place = Place { namespace: SPACE, name: &lead() };
        let (key, under) = ring.unwrap_key(place, &self.wrapped)?;
        Ok(DataKey { key, under })
    }
}

fn lead() -> [u8; LEAD_BYTES] {
    let mut lead = [0; LEAD_BYTES];
    lead[..MAGIC.len()].copy_from_slice(&MAGIC);
    lead[MAGIC.len()..].copy_from_slice(&FORMAT.to_le_bytes());
    lead
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(secret: &str) -> KeyRing {
        KeyRing::new(SealingKey::derive(secret), [])
    }

    fn header(page: &[u8]) -> Header {
        match FileKind::read(page) {
            FileKind::Current(header) => header,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn gives_the_data_key_to_the_ring_that_wrapped_it_only() {
        let (made, page) = Header::make(ring("one").current());
        let read = header(&page).unwrap(&ring("one")).unwrap();
        assert_eq!((read.key.id(), read.under), (made.key.id(), ring("one").current().id()));
        let refused = header(&page).unwrap(&ring("two")).err();
        assert_eq!(refused, Some(OpenError::UnknownKey), "another installation's file");
        let again = Header::make(ring("one").current()).0;
        assert_ne!(again.key.id(), made.key.id(), "each file has a key of its own");
    }

    #[test]
    fn every_altered_byte_is_noticed() {
        let (_, page) = Header::make(ring("one").current());
        for at in 0..LEAD_BYTES + WRAPPED_KEY_BYTES {
            let mut altered = page.clone();
            altered[at] ^= 1;
            let opens = match FileKind::read(&altered) {
                FileKind::Current(header) => header.unwrap(&ring("one")).is_ok(),
                FileKind::Former | FileKind::Other(_) | FileKind::Unknown => false,
            };
            assert!(!opens, "byte {at}");
        }
    }

    #[test]
    fn other_files_are_told_apart() {
        let (_, page) = Header::make(ring("one").current());
        let mut newer = page.clone();
        newer[8] = 3;
        assert_eq!(FileKind::read(&newer), FileKind::Other(3));
        assert_eq!(FileKind::read(DATABASE_MAGIC), FileKind::Former);
        for end in 0..LEAD_BYTES + WRAPPED_KEY_BYTES {
            assert_eq!(FileKind::read(&page[..end]), FileKind::Unknown, "cut to {end}");
        }
    }
}
