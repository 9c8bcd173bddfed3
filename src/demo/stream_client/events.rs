//! Splits lines into events, in as little code as an SDK does.
//!
//! Keeps a limited number of bytes of an event's data and counts the rest, so that a fleet of
//! clients can receive large payloads without holding them.
//!
//! Invariant: between events, at the start of a line, no buffer is held; an idle client needs none.

use std::collections::VecDeque;

use bytes::Bytes;

/// Largest length of names of fields and events that any SDK knows; the rest is dropped.
const FIELD_NAME_BYTES_MAX: usize = 256;

/// One event of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamEvent {
    /// Its name; `message` if the stream gave none.
    pub name: String,
    /// Its data, or as much of it as the client keeps.
    pub data: Bytes,
    /// The size of the data as it was sent.
    pub data_bytes: usize,
}

impl StreamEvent {
    /// True if the data was kept completely.
    pub fn is_whole(&self) -> bool {
        self.data.len() == self.data_bytes
    }
}

/// An item of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamItem {
    /// An event.
    Event(StreamEvent),
    /// A comment line: a heartbeat.
    Comment,
}

/// Splits a stream into items.
#[derive(Debug)]
pub(super) struct Splitter {
    data_kept_bytes: usize,
    /// The line so far: the complete field name, and as much data as is kept.
    line: Vec<u8>,
    line_bytes: usize,
    name: String,
    data: Vec<u8>,
    data_bytes: usize,
    has_data: bool,
    /// True after a carriage return, to which a line feed would belong.
    after_carriage_return: bool,
}

impl Splitter {
    /// A splitter that keeps at most this number of bytes of each event's data.
    pub(super) fn new(data_kept_bytes: usize) -> Self {
        Self {
            data_kept_bytes,
            line: Vec::new(),
            line_bytes: 0,
            name: String::new(),
            data: Vec::new(),
            data_bytes: 0,
            has_data: false,
            after_carriage_return: false,
        }
    }

    /// Takes the next bytes of the stream.
    pub(super) fn push(&mut self, mut bytes: &[u8], items: &mut VecDeque<StreamItem>) {
        while let Some(&first) = bytes.first() {
            if std::mem::take(&mut self.after_carriage_return) && first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = line_end(bytes) else {
                self.extend_line(bytes);
                return;
            };
            self.extend_line(&bytes[..end]);
            self.after_carriage_return = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.end_line(items);
        }
    }

    fn extend_line(&mut self, bytes: &[u8]) {
        self.line_bytes += bytes.len();
        let kept = self.data_kept_bytes.saturating_add(FIELD_NAME_BYTES_MAX);
        let room = kept.saturating_sub(self.line.len()).min(bytes.len());
        self.line.extend_from_slice(&bytes[..room]);
    }

    fn end_line(&mut self, items: &mut VecDeque<StreamItem>) {
        // Taken, not cleared: an idle client must not hold the buffer of its largest line.
        let line = std::mem::take(&mut self.line);
        let line_bytes = std::mem::take(&mut self.line_bytes);
        if line_bytes == 0 {
            self.end_event(items);
            return;
        }
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        let mut start = (colon + 1).min(line.len());
        if line.get(start) == Some(&b' ') {
            start += 1;
        }
        let value_bytes = line_bytes - start;
        match &line[..colon] {
            b"" => items.push_back(StreamItem::Comment),
            b"event" => self.name = String::from_utf8_lossy(&line[start..]).into_owned(),
            b"data" => self.extend_data(line, start, value_bytes),
            _ => {}
        }
    }

    fn extend_data(&mut self, mut line: Vec<u8>, start: usize, value_bytes: usize) {
        if self.has_data {
            self.data_bytes += 1;
            if self.data.len() < self.data_kept_bytes {
                self.data.push(b'\n');
            }
        } else if self.data.is_empty() {
            // Most events have one data line: its buffer becomes the event's.
            line.drain(..start);
            line.truncate(self.data_kept_bytes);
            self.data = line;
            self.data_bytes = value_bytes;
            self.has_data = true;
            return;
        }
        let room = self.data_kept_bytes.saturating_sub(self.data.len());
        let kept = &line[start..];
        self.data.extend_from_slice(&kept[..kept.len().min(room)]);
        self.data_bytes += value_bytes;
    }

    fn end_event(&mut self, items: &mut VecDeque<StreamItem>) {
        let name = std::mem::take(&mut self.name);
        let mut data = std::mem::take(&mut self.data);
        let data_bytes = std::mem::take(&mut self.data_bytes);
        if std::mem::take(&mut self.has_data) {
            data.shrink_to_fit();
            let name = if name.is_empty() { "message".to_owned() } else { name };
            items.push_back(StreamItem::Event(StreamEvent { name, data: data.into(), data_bytes }));
        }
    }
}

/// The end of the first line. Blocks without a line end are skipped as a whole, in a form that
/// compilers turn into vector instructions: data lines are long.
fn line_end(bytes: &[u8]) -> Option<usize> {
    const BLOCK_BYTES: usize = 32;
    let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let passed = bytes
        .chunks_exact(BLOCK_BYTES)
        .take_while(|block| !block.iter().fold(false, |found, byte| found | is_end(byte)))
        .count();
    let from = passed * BLOCK_BYTES;
    bytes[from..].iter().position(is_end).map(|at| from + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events as `name=data(size)`, comments as `:`.
    #[track_caller]
    fn check(kept: usize, stream: &str, expected: &[&str]) {
        for portion in 1..=stream.len() {
            let mut splitter = Splitter::new(kept);
            let mut items = VecDeque::new();
            for bytes in stream.as_bytes().chunks(portion) {
                splitter.push(bytes, &mut items);
            }
            let seen: Vec<_> = items
                .iter()
                .map(|item| match item {
                    StreamItem::Event(StreamEvent { name, data, data_bytes }) => {
                        format!("{name}={}({data_bytes})", String::from_utf8_lossy(data))
                    }
                    StreamItem::Comment => ":".to_owned(),
                })
                .collect();
            assert_eq!(seen, expected, "by {portion}");
        }
    }

    #[test]
    fn events_are_the_same_by_any_portion_and_line_end() {
        let stream =
            ":\nevent: put\ndata: {\"a\":1}\n\nretry: 5\nid: 7\n\nevent:patch\ndata:x\ndata: y\n\n";
        let expected = [":", "put={\"a\":1}(7)", "patch=x\ny(3)"];
        check(usize::MAX, stream, &expected);
        check(usize::MAX, &stream.replace('\n', "\r\n"), &expected);
        check(usize::MAX, &stream.replace('\n', "\r"), &expected);
    }

    #[test]
    fn odd_streams_are_read_as_the_standard_says() {
        check(usize::MAX, "data: only\n\n", &["message=only(4)"]);
        check(usize::MAX, "event: empty\n\ndata: next\n\n", &["message=next(4)"]);
        check(usize::MAX, "event: ping\ndata:  \n\n", &["ping= (1)"]);
        check(usize::MAX, "data\n\n", &["message=(0)"]);
        check(usize::MAX, "data\ndata: x\n\n", &["message=\nx(2)"]);
        check(usize::MAX, "event: put\ndata: unfinished\n", &[]);
        check(usize::MAX, "unknown: x\nnocolon\n:comment: x\n\n", &[":"]);
    }

    #[test]
    fn data_beyond_what_is_kept_is_counted() {
        check(4, "event: put\ndata: 0123456789\ndata: ab\n\n", &["put=0123(13)"]);
        check(0, "event: put\ndata: 0123456789\n\n", &["put=(10)"]);
        let long = format!("data: {}\n\n", "x".repeat(1000));
        check(2, &long, &["message=xx(1000)"]);
    }

    #[test]
    fn an_idle_splitter_holds_no_buffer() {
        let mut splitter = Splitter::new(usize::MAX);
        let mut items = VecDeque::new();
        splitter.push(b"event: put\ndata: 0123456789\n\n", &mut items);
        let held = (splitter.line.capacity(), splitter.data.capacity(), splitter.name.capacity());
        assert_eq!(held, (0, 0, 0));
    }
}
