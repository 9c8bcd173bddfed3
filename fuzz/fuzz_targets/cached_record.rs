//! Any bytes as a record of the autoconfig cache, and as its manifest: the decoders do not panic, and
//! what they take is the same after it was written again. Sealed rows that nobody sealed do not open.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pilotlight::testing::autoconfig::cache::{Codec, Manifest, Row};
use pilotlight::testing::autoconfig::records::{Record, decode, encode_environment, encode_filter};
use pilotlight::testing::sealing::{KeyRing, SealingKey};

fn written(record: &Record) -> String {
    match record {
        Record::Environment { record, .. } => encode_environment(record),
        Record::Filter(record) => encode_filter(record),
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = decode(bytes) {
        let text = written(&record);
        let again = decode(text.as_bytes()).expect("what is written is read");
        assert_eq!(written(&again), text);
    }
    if let Some(manifest) = std::str::from_utf8(bytes).ok().and_then(Manifest::decode) {
        assert_eq!(Manifest::decode(&manifest.encode()), Some(manifest));
    }
    let codec = Codec::sealed(&KeyRing::new(SealingKey::derive("fuzz"), []), "shared/fuzz");
    let row = Row { name: "n".to_owned(), value: Bytes::copy_from_slice(bytes), revision: 0 };
    assert!(codec.open(&row).is_err());
});
