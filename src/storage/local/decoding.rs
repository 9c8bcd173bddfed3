use super::format::header::FileKind;
use super::format::marker::Marker;
use super::format::named;
use crate::sealing::{KeyRing, SealingKey};

/// Reads bytes as the first page of a file. Returns true if a ring that wrapped no key opens it.
pub fn header_opens(page: &[u8]) -> bool {
    match FileKind::read(page) {
        FileKind::Current(header) => {
            header.unwrap(&KeyRing::new(SealingKey::derive("fuzz"), [])).is_ok()
        }
        FileKind::Former | FileKind::Other(_) | FileKind::Unknown => false,
    }
}

/// Reads bytes as the plaintext of a marker. If they are one, returns it encoded again.
pub fn marker(plaintext: &[u8]) -> Option<Vec<u8>> {
    Marker::decode(plaintext).map(|marker| marker.encode())
}

/// Reads bytes as the plaintext of a named record. If they are one, returns it encoded again.
pub fn named_record(plaintext: &[u8]) -> Option<Vec<u8>> {
    let (space, record) = named::decode(plaintext)?;
    Some(named::encode(&space, &record.name, &record.value))
}
