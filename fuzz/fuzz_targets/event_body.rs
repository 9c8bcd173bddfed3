//! Any bytes as the body of a request with events: nothing panics, what is forwarded is an array of
//! the same events, and a summary is JSON.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pilotlight::testing::events::decoding;
use serde_json::value::RawValue;

fuzz_target!(|bytes: &[u8]| {
    let Some((forwarded, summaries)) = decoding::body(&Bytes::copy_from_slice(bytes)) else {
        return;
    };
    // Not as values: a number may be too large for one, and is forwarded all the same.
    let texts = |json: &[u8]| -> Vec<String> {
        let events: Vec<&RawValue> = serde_json::from_slice(json).expect("an array");
        events.into_iter().map(|event| event.get().to_owned()).collect()
    };
    let array = [b"[", &*forwarded, b"]"].concat();
    assert_eq!(texts(bytes), texts(&array));
    for summary in summaries {
        texts(&summary);
    }
});
