use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { line_bytes_max: 64, event_bytes_max: 256 };

/// Findings in the chunks, and the error that ended them, if there is one.
fn parse<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Parsed>, Option<ParseError>) {
    let mut parser = Parser::new(LIMITS);
    let mut found = Vec::new();
    for mut chunk in chunks {
        loop {
            match parser.read(&mut chunk) {
                Ok(Some(parsed)) => found.push(parsed),
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
        assert!(chunk.is_empty(), "what is not used up would be lost");
    }
    (found, None)
}

fn event(name: &str, data: &str) -> Parsed {
    Parsed::Event(Event {
        name: name.to_owned(),
        data: Bytes::copy_from_slice(data.as_bytes()),
        id: None,
    })
}

fn event_with_id(name: &str, data: &str, id: &str) -> Parsed {
    Parsed::Event(Event {
        name: name.to_owned(),
        data: Bytes::copy_from_slice(data.as_bytes()),
        id: Some(id.to_owned()),
    })
}

/// Checks that the stream gives these findings: whole, byte by byte, and with every line end
/// written in each of the three ways.
#[track_caller]
fn check(stream: &[u8], expected: &[Parsed]) {
    let plain = !stream.contains(&b'\r');
    let ends: &[&[u8]] = if plain { &[b"\n", b"\r", b"\r\n"] } else { &[b"\n"] };
    for end in ends {
        let stream = stream.split(|byte| *byte == b'\n').collect::<Vec<_>>().join(*end);
        let shown = String::from_utf8_lossy(&stream).into_owned();
        let (found, error) = parse([&stream[..]]);
        assert_eq!((found.as_slice(), error), (expected, None), "whole {shown:?}");
        let (found, error) = parse(stream.chunks(1));
        assert_eq!((found.as_slice(), error), (expected, None), "byte by byte {shown:?}");
    }
}

#[test]
fn fields_make_events() {
    check(b"event: put\ndata: {}\n\n", &[event("put", "{}")]);
    check(b"data: {}\nevent: put\n\n", &[event("put", "{}")]);
    check(b"data: a\n\ndata: b\n\n", &[event("message", "a"), event("message", "b")]);
    check(b"event: put\nevent: patch\ndata: a\n\n", &[event("patch", "a")]);
    check(b"event: put\nevent\ndata: a\n\n", &[event("message", "a")]);
    check(b"event:\ndata: a\n\n", &[event("message", "a")]);
    check(b"event: put\n\ndata: a\n\n", &[event("message", "a")]);
}

#[test]
fn one_space_behind_the_colon_does_not_count() {
    check(b"data:a\n\n", &[event("message", "a")]);
    check(b"data:  a\n\n", &[event("message", " a")]);
    check(b"event:  put\ndata:  \n\n", &[event(" put", " ")]);
    check(b"data:\ta\n\n", &[event("message", "\ta")]);
    check(b"data: a: b:c\n\n", &[event("message", "a: b:c")]);
}

#[test]
fn lines_of_data_are_joined() {
    check(b"data: a\ndata: b\ndata\ndata:c\n\n", &[event("message", "a\nb\n\nc")]);
    check(b"data: a\nevent: put\n:\ndata: b\n\n", &[Parsed::Comment, event("put", "a\nb")]);
    check(b"data\n\n", &[event("message", "")]);
    check(b"data:\n\n", &[event("message", "")]);
    check(b"data\ndata\n\n", &[event("message", "\n")]);
}

#[test]
fn without_data_there_is_no_event() {
    check(b"event: put\n\n", &[]);
    check(b"\n\n\n", &[]);
    check(b"id: 1\n\n", &[]);
    check(b"event: put\n\ndata: a\n\n", &[event("message", "a")]);
}

#[test]
fn an_event_that_does_not_end_is_discarded() {
    check(b"event: put\ndata: {}\n", &[]);
    check(b"event: put\ndata: {}", &[]);
    check(b"data: a\n\ndata: b\n", &[event("message", "a")]);
}

#[test]
fn comments_and_unknown_fields_are_no_payload() {
    check(b":\n", &[Parsed::Comment]);
    check(b": keep alive\n\n", &[Parsed::Comment]);
    check(b"::data: a\n\n", &[Parsed::Comment]);
    check(b"cat: a\ncat\n data: b\ndata : c\nDATA: d\n\n", &[]);
    check(b"datadata: a\ndat: b\ndata: c\n\n", &[event("message", "c")]);
}

#[test]
fn ids_stand_in_their_event() {
    check(b"id: 7\ndata: a\n\n", &[event_with_id("message", "a", "7")]);
    check(b"id\ndata: a\n\n", &[event_with_id("message", "a", "")]);
    check(b"id: 7\nid: 8\0\ndata: a\n\n", &[event_with_id("message", "a", "7")]);
    check(b"id: \0\ndata: a\n\n", &[event("message", "a")]);
    check(
        b"id: 7\ndata: a\n\ndata: b\n\n",
        &[event_with_id("message", "a", "7"), event("message", "b")],
    );
}

#[test]
fn the_last_id_survives_a_restart_and_nothing_else_does() {
    let mut parser = Parser::new(LIMITS);
    let mut check = |mut stream: &[u8], found: usize, last: &str| {
        let mut count = 0;
        while parser.read(&mut stream).expect("well-formed").is_some() {
            count += 1;
        }
        assert_eq!((count, parser.last_event_id()), (found, last));
        parser.restart();
    };
    check(b"id: 7\nevent: put\ndata: a", 0, "");
    check(b"data: b\n\n", 1, "");
    check(b"id: 7\n\nid: 8\n", 0, "7");
    check(b"data: b\n\nid", 1, "7");
    check(b"\xEF\xBB\xBFdata: b\n\n", 1, "7");
    check(b"id\n\n", 0, "");
}

#[test]
fn retry_lines_count_at_once() {
    check(b"retry: 500\n", &[Parsed::Retry(500)]);
    check(b"retry:0\n\n", &[Parsed::Retry(0)]);
    check(b"data: a\nretry: 7\n\n", &[Parsed::Retry(7), event("message", "a")]);
    check(b"retry: 99999999999999999999\n", &[Parsed::Retry(u64::MAX)]);
    check(b"retry\nretry:\nretry: 1s\nretry: -1\nretry:  1\n", &[]);
}

#[test]
fn a_byte_order_mark_counts_only_at_the_start() {
    check(b"\xEF\xBB\xBFdata: a\n\n", &[event("message", "a")]);
    check(b"\xEF\xBB\xBF\ndata: a\n\n", &[event("message", "a")]);
    check(b"\xEF\xBB\xBF\xEF\xBB\xBFdata: a\n\n", &[]);
    check(b"\xEF\xBBdata: a\ndata: b\n\n", &[event("message", "b")]);
    check(b"\xEF\xBB\ndata: b\n\n", &[event("message", "b")]);
    check(b"data: a\n\n\xEF\xBB\xBFdata: b\n\n", &[event("message", "a")]);
}

#[test]
fn line_ends_may_be_mixed() {
    check(b"data: a\rdata: b\r\ndata: c\n\r", &[event("message", "a\nb\nc")]);
    check(b"data: a\r\n\r\ndata: b\r\n\r\n", &[event("message", "a"), event("message", "b")]);
    check(b"data: a\r\r\n\n", &[event("message", "a")]);
    check(b"\r\n\r\ndata: a\n\n", &[event("message", "a")]);
}

#[test]
fn an_event_ended_by_cr_does_not_wait_for_what_follows() {
    let mut parser = Parser::new(LIMITS);
    assert_eq!(parser.read(&mut &b"data: a\r\n\r"[..]), Ok(Some(event("message", "a"))));
    assert_eq!(parser.read(&mut &b"\ndata: b\r"[..]), Ok(None));
    assert_eq!(parser.read(&mut &b"\n"[..]), Ok(None));
    assert_eq!(parser.read(&mut &b"\n"[..]), Ok(Some(event("message", "b"))));
}

#[test]
fn payload_bytes_are_kept_and_names_are_made_readable() {
    let (found, _) = parse([&b"event: p\xFF\ndata: \xFF\0\xC3\n\n"[..]]);
    let expected =
        Event { name: "p\u{FFFD}".to_owned(), data: Bytes::from_static(b"\xFF\0\xC3"), id: None };
    assert_eq!(found, [Parsed::Event(expected)]);
}

#[test]
fn what_passes_a_limit_ends_the_stream() {
    const LONG: ParseError = ParseError::LineTooLong { limit_bytes: 64 };
    const LARGE: ParseError = ParseError::EventTooLarge { limit_bytes: 256 };
    let check = |parts: &[(&str, usize)], expected: Option<ParseError>| {
        let stream: String = parts.iter().map(|(text, times)| text.repeat(*times)).collect();
        assert_eq!(parse([stream.as_bytes()]).1, expected, "{stream}");
        assert_eq!(parse(stream.as_bytes().chunks(1)).1, expected, "{stream}");
    };
    check(&[("x", 64)], None);
    check(&[("x", 65)], Some(LONG));
    check(&[(":", 64), ("\n", 1)], None);
    check(&[(":", 65)], Some(LONG));
    check(&[("event:", 1), ("x", 58)], None);
    check(&[("event:", 1), ("x", 59)], Some(LONG));
    check(&[("cat:", 1), ("x", 61)], Some(LONG));
    check(&[("id:", 1), ("x", 62)], Some(LONG));
    check(&[("event: put\n", 100), (":\n", 100)], None);
    check(&[("data: ", 1), ("x", 256), ("\n\n", 1)], None);
    check(&[("data: ", 1), ("x", 257)], Some(LARGE));
    check(&[("data: x\n", 128)], None);
    check(&[("data: x\n", 129)], Some(LARGE));
    check(&[("data\n", 257)], None);
    check(&[("data\n", 258)], Some(LARGE));
    check(&[("data: ", 1), ("x", 256), ("\n\n", 1), ("data: ", 1), ("x", 256)], None);
}

#[test]
fn a_failed_parser_stays_failed_and_holds_nothing() {
    let mut parser = Parser::new(LIMITS);
    let large = [b"data: ", &[b'x'; 300][..]].concat();
    let failure = ParseError::EventTooLarge { limit_bytes: 256 };
    assert_eq!(parser.read(&mut &large[..]), Err(failure));
    assert_eq!(parser.read(&mut &b"\n\ndata: a\n\n"[..]), Err(failure));
    assert_eq!(held_bytes(&parser), 0);
    parser.restart();
    assert_eq!(parser.read(&mut &b"data: a\n\n"[..]), Ok(Some(event("message", "a"))));
}

#[test]
fn line_ends_are_found_wherever_they_stand() {
    for length in 0..100 {
        for at in 0..length {
            for end in [b'\r', b'\n'] {
                let mut bytes = vec![b'x'; length];
                bytes[at] = end;
                bytes[length - 1] = b'\n';
                assert_eq!(find_line_end(&bytes), Some(at));
            }
        }
        assert_eq!(find_line_end(&vec![b'x'; length]), None);
    }
}

fn held_bytes(parser: &Parser) -> usize {
    let id = parser.id.as_ref().map_or(0, String::capacity);
    parser.line.capacity()
        + parser.name.capacity()
        + id
        + parser.data.capacity()
        + parser.last_event_id.capacity()
}

/// Pieces of which streams are made, so that random ones have events in them.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(&b"data"[..]),
        Just(&b"data: "[..]),
        Just(&b"event: put"[..]),
        Just(&b"id: 1"[..]),
        Just(&b"retry: 10"[..]),
        Just(&b":"[..]),
        Just(&b" "[..]),
        Just(&b"\n"[..]),
        Just(&b"\r"[..]),
        Just(&b"\r\n"[..]),
        Just(&b"\n\n"[..]),
        Just(&b"\0"[..]),
        Just(&b"\xEF\xBB\xBF"[..]),
        Just(&b"payload of some length that is not short"[..]),
    ];
    let piece = prop_oneof![8 => piece.prop_map(<[u8]>::to_vec), 1 => vec(any::<u8>(), 0..20)];
    vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same(stream in stream(), cuts in vec(any::<prop::sample::Index>(), 0..20)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let chunks = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]);
        prop_assert_eq!(parse(chunks), parse([&stream[..]]));
    }

    #[test]
    fn any_bytes_are_survived_in_bounded_memory(chunks in vec(vec(any::<u8>(), 0..50), 0..50)) {
        let mut parser = Parser::new(LIMITS);
        for chunk in &chunks {
            let mut input = &chunk[..];
            while let Ok(Some(_)) = parser.read(&mut input) {}
            // Buffers double, and invalid bytes of a name grow threefold when made readable.
            prop_assert!(held_bytes(&parser) <= 2 * 256 + 2 * 64 + 3 * 3 * 64);
        }
    }

    #[test]
    fn streams_are_survived_in_bounded_memory(stream in stream()) {
        let mut parser = Parser::new(LIMITS);
        for mut chunk in stream.chunks(7) {
            while let Ok(Some(_)) = parser.read(&mut chunk) {}
            prop_assert!(held_bytes(&parser) <= 2 * 256 + 2 * 64 + 3 * 3 * 64);
        }
    }
}
