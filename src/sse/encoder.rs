//! Encodes events as bytes, in exactly the form that ld-relay sends.
//!
//! An event is `event: <name>`, one `data: ` line for each line of the payload, and an empty
//! line; never an `id:`. It does not decide what is sent or when. What it writes is always one
//! well-formed event: no payload can end it early or start another one.

use bytes::Bytes;

use super::parser::{find_line_end, is_line_end};

const EVENT_FIELD: &[u8] = b"event: ";
const DATA_FIELD: &[u8] = b"data: ";

/// Encodes one event.
pub fn encode(name: &str, data: &[u8]) -> Bytes {
    let mut writer = EventWriter::new(name, data.len());
    writer.push(data);
    writer.finish()
}

/// Encodes one event whose payload is put together from many slices, in one buffer.
pub struct EventWriter {
    buffer: Vec<u8>,
    /// The last byte of the payload was a CR: an LF that follows belongs to the same line end.
    after_cr: bool,
}

/// Shows the size of the content and not the content.
impl std::fmt::Debug for EventWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventWriter")
            .field("buffer", &format_args!("{} bytes", self.buffer.len()))
            .finish_non_exhaustive()
    }
}

impl EventWriter {
    /// Starts an event. Line ends in `name` are left out, because they would end the field.
    ///
    /// With the exact length of the payload in `data_bytes` nothing is copied twice, as long as
    /// the payload is one line, which JSON from LaunchDarkly is.
    pub fn new(name: &str, data_bytes: usize) -> Self {
        let frame_bytes = EVENT_FIELD.len() + name.len() + DATA_FIELD.len() + 3;
        let mut buffer = Vec::with_capacity(frame_bytes + data_bytes);
        buffer.extend_from_slice(EVENT_FIELD);
        buffer.extend(name.bytes().filter(|byte| !is_line_end(*byte)));
        buffer.push(b'\n');
        buffer.extend_from_slice(DATA_FIELD);
        Self { buffer, after_cr: false }
    }

    /// Adds a slice of the payload. A CR, LF or CRLF, also one that is split between two slices,
    /// starts a new `data: ` line.
    pub fn push(&mut self, slice: &[u8]) {
        let mut rest = match slice {
            [] => return,
            [b'\n', rest @ ..] if self.after_cr => rest,
            _ => slice,
        };
        self.after_cr = false;
        while let Some(at) = find_line_end(rest) {
            self.buffer.extend_from_slice(&rest[..at]);
            self.buffer.push(b'\n');
            self.buffer.extend_from_slice(DATA_FIELD);
            let end_bytes = if rest[at..].starts_with(b"\r\n") { 2 } else { 1 };
            self.after_cr = rest[at..] == *b"\r";
            rest = &rest[at + end_bytes..];
        }
        self.buffer.extend_from_slice(rest);
    }

    /// Ends the event.
    pub fn finish(mut self) -> Bytes {
        self.buffer.extend_from_slice(b"\n\n");
        Bytes::from(self.buffer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::sse::{Event, Limits, Parsed, Parser};

    fn parse_one(encoded: &[u8]) -> Option<Event> {
        let mut parser = Parser::new(Limits { line_bytes_max: 1_000, event_bytes_max: 100_000 });
        let mut input = encoded;
        let parsed = parser.read(&mut input).expect("our own events are well-formed")?;
        assert_eq!(parser.read(&mut input), Ok(None), "one event and nothing else");
        match parsed {
            Parsed::Event(event) => Some(event),
            Parsed::Comment | Parsed::Retry(_) => None,
        }
    }

    #[test]
    fn events_have_the_form_of_ld_relay() {
        let check = |name: &str, data: &str, expected: &str| {
            assert_eq!(encode(name, data.as_bytes()), expected, "{name} {data:?}");
        };
        check("put", r#"{"path":"/"}"#, "event: put\ndata: {\"path\":\"/\"}\n\n");
        check("ping", " ", "event: ping\ndata:  \n\n");
        check("put", "", "event: put\ndata: \n\n");
        check("put", "a\nb\rc\r\nd", "event: put\ndata: a\ndata: b\ndata: c\ndata: d\n\n");
        check("put", "a\n", "event: put\ndata: a\ndata: \n\n");
        check("put", "\n\r\r\n", "event: put\ndata: \ndata: \ndata: \ndata: \n\n");
        check("pu\nt\r", "a", "event: put\ndata: a\n\n");
        check("ping", " ", "event: ping\ndata:  \n\n");
    }

    #[test]
    fn line_ends_split_between_slices_count_once() {
        let check = |slices: &[&str], expected: &str| {
            let mut writer = EventWriter::new("put", 0);
            slices.iter().for_each(|slice| writer.push(slice.as_bytes()));
            assert_eq!(writer.finish(), expected, "{slices:?}");
        };
        check(&["a\r", "\nb"], "event: put\ndata: a\ndata: b\n\n");
        check(&["a\r", "", "\nb"], "event: put\ndata: a\ndata: b\n\n");
        check(&["a\r", "\n\nb"], "event: put\ndata: a\ndata: \ndata: b\n\n");
        check(&["a\r", "b\n", "\n"], "event: put\ndata: a\ndata: b\ndata: \ndata: \n\n");
        check(&["a\r\n", "\nb"], "event: put\ndata: a\ndata: \ndata: b\n\n");
    }

    #[test]
    fn a_payload_of_known_length_is_built_in_one_buffer() {
        let payload = vec![b'x'; 1_000_000];
        let mut writer = EventWriter::new("put", payload.len());
        let before = writer.buffer.as_ptr();
        payload.chunks(1_000).for_each(|slice| writer.push(slice));
        let encoded = writer.finish();
        assert_eq!(encoded.as_ptr(), before);
        assert_eq!(encoded.len(), "event: put\ndata: \n\n".len() + payload.len());
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_parsed_back(
            name in "[a-z/]{1,12}",
            slices in vec(vec(prop_oneof![Just(b'\r'), Just(b'\n'), any::<u8>()], 0..20), 0..8),
        ) {
            let mut writer = EventWriter::new(&name, 0);
            slices.iter().for_each(|slice| writer.push(slice));
            let whole = slices.concat();
            let encoded = writer.finish();
            prop_assert_eq!(&encoded, &encode(&name, &whole), "slicing changes nothing");

            let mut expected = Vec::new();
            let mut bytes = whole.iter().copied().peekable();
            while let Some(byte) = bytes.next() {
                if byte == b'\r' {
                    bytes.next_if_eq(&b'\n');
                    expected.push(b'\n');
                } else {
                    expected.push(byte);
                }
            }
            let event = parse_one(&encoded).expect("an event");
            prop_assert_eq!(event.name, name);
            prop_assert_eq!(&event.data[..], &expected[..]);
        }
    }
}
