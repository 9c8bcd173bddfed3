//! Any text as method, path and query of a request: nothing panics, and a path that is moved stands
//! where it is moved to.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pilotlight::testing::server::decoding::{query, routed};

fuzz_target!(|text: &str| {
    let mut words = text.splitn(3, ' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if let Some((first, second)) = routed(method, path) {
        assert_eq!(routed(method, path), Some((first, second.clone())), "it says the same twice");
        assert!(!second.is_some_and(|it| it.starts_with("Moved")), "moved in a circle: {path}");
    }
    let text = words.next().unwrap_or_default();
    let (value, whole) = query(text, "filter");
    assert!(value.len() <= whole.len() * 3 + 3);
});
