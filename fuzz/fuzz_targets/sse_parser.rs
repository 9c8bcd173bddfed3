//! Any bytes in any cut: the parser does not panic, keeps its bounds, finds the same events as in
//! one piece, and reads back what the encoder makes of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pilotlight::testing::sse::{Limits, ParseError, Parsed, Parser, encode};

const LIMITS: Limits = Limits { line_bytes_max: 256, event_bytes_max: 1024 };
/// A byte of a name that is not UTF-8 becomes three.
const WIDE: Limits = Limits { line_bytes_max: 3 * 256, event_bytes_max: 1024 };

fn parse<'a>(
    limits: Limits,
    chunks: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Parsed>, Option<ParseError>) {
    let mut parser = Parser::new(limits);
    let mut found = Vec::new();
    for mut chunk in chunks {
        loop {
            match parser.read(&mut chunk) {
                Ok(Some(parsed)) => found.push(parsed),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(parser.read(&mut chunk), Err(error), "a failed parser stays failed");
                    return (found, Some(error));
                }
            }
        }
        assert!(chunk.is_empty(), "what is not used up would be lost");
    }
    (found, None)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, stream)) = bytes.split_first() else { return };
    let whole = parse(LIMITS, std::iter::once(stream));
    assert_eq!(parse(LIMITS, stream.chunks(usize::from(*cut) + 1)), whole);
    for parsed in whole.0 {
        let Parsed::Event(event) = parsed else { continue };
        assert!(event.data.len() <= LIMITS.event_bytes_max);
        assert!(!event.data.contains(&b'\r'));
        let encoded = encode(&event.name, &event.data);
        let again = parse(WIDE, std::iter::once(&encoded[..])).0;
        let [Parsed::Event(read_back)] = again.as_slice() else { panic!("one event") };
        assert_eq!((&read_back.name, &read_back.data), (&event.name, &event.data));
    }
});
