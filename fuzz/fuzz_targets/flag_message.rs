//! Any bytes as a message of an environment's stream: the decoder does not panic, and an item that
//! is taken over is a part of the very bytes that came, at the version that they name.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pilotlight::testing::flagstore::layout::head;
use pilotlight::testing::source::decoding::items;

fuzz_target!(|bytes: &[u8]| {
    let Some((event, data)) = bytes.split_first() else { return };
    let event = ["put", "patch", "delete", "other"][usize::from(*event) % 4];
    let data = Bytes::copy_from_slice(data);
    let Some(items) = items(event, &data) else { return };
    for (key, item) in items {
        let Some(json) = &item.json else {
            assert!(item.is_tombstone(), "{key}");
            continue;
        };
        let (start, end) = (data.as_ptr() as usize, data.as_ptr() as usize + data.len());
        let at = json.as_ptr() as usize;
        assert!(at >= start && at + json.len() <= end, "{key} was copied");
        let found = head(json).expect("what is taken over can be read where it is stored");
        assert_eq!((found.version, found.deleted), (item.version, item.is_tombstone()), "{key}");
    }
});
