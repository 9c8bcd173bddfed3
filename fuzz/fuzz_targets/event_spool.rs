//! Any bytes as a segment of the event spool: nothing panics, and nothing opens that was not sealed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pilotlight::testing::events::decoding;
use pilotlight::testing::sealing::{KeyRing, SealingKey};

fuzz_target!(|bytes: &[u8]| {
    let ring = KeyRing::new(SealingKey::derive("a key of the fuzz target"), []);
    assert_eq!(decoding::segment(bytes, &ring), 0);
});
