//! Any bytes in the place of the local store's header page and of the plaintexts of its records:
//! nothing panics, no header opens that was not wrapped, and a record that is read is written as it
//! was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pilotlight::testing::storage::local::decoding::{header_opens, marker, named_record};

fuzz_target!(|bytes: &[u8]| {
    assert!(!header_opens(bytes));
    for written in [marker(bytes), named_record(bytes)].into_iter().flatten() {
        assert_eq!(written, bytes);
    }
});
