//! Any bytes in the place of a row, a marker or a part of the local store: the decoders do not
//! panic, an item that is served says what its row said, and it is read back when it is stored.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pilotlight::testing::flagstore::Decoded;
use pilotlight::testing::flagstore::layout::{StoredHead, head, head_beside, item, row};
use pilotlight::testing::flagstore::marker::Marker;
use pilotlight::testing::model::{ItemKey, ItemKind};

/// Bytes of the version beside a row: longer than the longest whole number.
const VERSION_BYTES_MAX: usize = 24;

fn check_item(found: StoredHead, json: &Bytes) {
    let served = item(found, json);
    assert_eq!((served.version, served.is_tombstone()), (found.version, found.deleted));
    if let Some(json) = &served.json {
        let again = head(json).expect("what is served can be read");
        assert!(!found.respell || !again.respell, "what is served is spelt as it is meant");
    }
    for kind in ItemKind::ALL {
        let stored = row(&ItemKey::new(kind, "key"), &served);
        assert_eq!(stored.version, found.version);
        let again = head(&stored.json).expect("what is stored can be read");
        assert_eq!(again.deleted, found.deleted);
        assert!(!found.deleted || again.version == found.version);
    }
}

fn check_marker(value: Bytes) {
    for revision in [0, 7] {
        let found = Marker::read(value.clone(), revision);
        assert!(found.is_same_set(&found));
        assert!(found.note.is_none() || found.unsettled.is_none(), "it vouches or it does not");
        let note = found.note.clone().unwrap_or_default();
        let renewed = Marker::read(note.value(Some(&found)), revision);
        assert_eq!(renewed.note, Some(note), "what is written is read");
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut decoded = Decoded::default();
    decoded.part(bytes);
    let is_malformed = decoded.malformed > 0;
    assert!(!is_malformed || decoded.into_data().is_empty(), "all items of a part or none");

    let Some((cut, rest)) = bytes.split_first() else { return };
    let cut = usize::from(*cut) % (VERSION_BYTES_MAX + 1);
    let (version, json) = rest.split_at(cut.min(rest.len()));
    let json = Bytes::copy_from_slice(json);
    let heads = [head(&json), head_beside(&json, std::str::from_utf8(version).ok())];
    for found in heads.into_iter().flatten() {
        check_item(found, &json);
    }
    check_marker(json);
});
