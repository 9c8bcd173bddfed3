//! Parses bytes into events, by the rules of the HTML standard's chapter on server-sent events.
//!
//! The parser takes chunks of any size and returns one finding at a time. It does not decode
//! payloads, does not reconnect and does not read a clock. An event that was not ended by an empty
//! line is never returned, so a connection that breaks in the middle of an event leaves nothing
//! behind.
//!
//! Memory is bounded by [`Limits`], and the payload is copied once: as soon as a line is known to
//! be a `data` line its bytes go from the chunk to the event's own buffer.

use bytes::Bytes;

/// The name of an event that does not name itself.
const DEFAULT_NAME: &str = "message";
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";
/// Bytes that are checked together in the search for a line end.
const SCAN_BYTES: usize = 32;

/// One event, complete.
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    /// Value of the `event` field, `message` if there was none.
    pub name: String,
    /// The payload as it was sent, its lines joined by LF. Not checked to be UTF-8.
    pub data: Bytes,
    /// Value of an `id` field of this event; an empty one resets the ID.
    pub id: Option<String>,
}

/// Shows the size of the content and not the content: it may hold keys and flags.
impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Event")
            .field("name", &self.name)
            .field("data", &format_args!("{} bytes", self.data.len()))
            .field("id", &self.id)
            .finish()
    }
}

/// A finding of the parser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// An event.
    Event(Event),
    /// A comment line, which shows that the server is alive.
    Comment,
    /// The server asks to wait so many milliseconds before reconnecting. Applies from the end of
    /// its line, even within an event that never ends.
    Retry(u64),
}

/// Limits on what one stream makes the parser hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest line that is no payload (field names, event names, IDs, comments), in bytes.
    pub line_bytes_max: usize,
    /// Largest payload of one event, in bytes. The buffer may reach twice as much while it grows.
    pub event_bytes_max: usize,
}

/// Reason why a stream cannot be parsed further. The parser returns the same error from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A line that is no payload exceeded its limit.
    #[error("a line of the event stream is longer than {limit_bytes} bytes")]
    LineTooLong {
        /// The limit.
        limit_bytes: usize,
    },
    /// The payload of an event exceeded its limit.
    #[error("an event is larger than {limit_bytes} bytes")]
    EventTooLarge {
        /// The limit.
        limit_bytes: usize,
    },
}

/// A field whose value is kept until the line ends.
#[derive(Clone, Copy, Debug)]
enum Field {
    Event,
    Id,
    Retry,
}

/// Position of the parser in a line.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// So many bytes of a byte order mark were seen at the start of the stream.
    Start(usize),
    /// In a field's name, which is collected in `line`.
    Name,
    /// Right after a colon, where one space is ignored.
    Colon(AfterColon),
    /// In the value after it.
    Value(AfterColon),
}

/// Use of the bytes after a colon.
#[derive(Clone, Copy, Debug)]
enum AfterColon {
    /// They go into the event's payload.
    Data,
    /// They are collected in `line`.
    Keep(Field),
    /// They are dropped: a comment.
    Comment,
    /// They are dropped: a field that the standard does not know.
    Unknown,
}

/// The state of one stream.
pub struct Parser {
    limits: Limits,
    place: Place,
    /// A CR ended the last line: an LF that follows belongs to it.
    after_cr: bool,
    /// Field name or value of the current line; never payload.
    line: Vec<u8>,
    /// Length of the current line if it is no payload.
    line_bytes: usize,
    name: String,
    id: Option<String>,
    data: Vec<u8>,
    /// True if the current event has a `data` line; without one it is no event.
    has_data: bool,
    last_event_id: String,
    failure: Option<ParseError>,
}

/// Shows the size of what was read and not what was read.
impl std::fmt::Debug for Parser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parser")
            .field("line", &format_args!("{} bytes", self.line.len()))
            .field("data", &format_args!("{} bytes", self.data.len()))
            .finish_non_exhaustive()
    }
}

impl Parser {
    /// A parser for a new stream.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            place: Place::Start(0),
            after_cr: false,
            line: Vec::new(),
            line_bytes: 0,
            name: String::new(),
            id: None,
            data: Vec::new(),
            has_data: false,
            last_event_id: String::new(),
            failure: None,
        }
    }

    /// Forgets everything but the last event's ID: the next bytes are those of a new connection.
    pub fn restart(&mut self) {
        let last_event_id = std::mem::take(&mut self.last_event_id);
        *self = Self { last_event_id, ..Self::new(self.limits) };
    }

    /// Value for the `Last-Event-ID` header; empty if the server never sent an ID.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// Reads from the front of `input` up to the next finding and moves `input` past it.
    ///
    /// `None`: the input is used up and more is needed.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Parsed>, ParseError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        while !input.is_empty() {
            match self.step(input) {
                Ok(None) => {}
                Ok(Some(parsed)) => return Ok(Some(parsed)),
                Err(failure) => {
                    *self = Self { failure: Some(failure), ..Self::new(self.limits) };
                    return Err(failure);
                }
            }
        }
        Ok(None)
    }

    /// Consumes at least one byte of the input, or moves to a place that will.
    fn step(&mut self, input: &mut &[u8]) -> Result<Option<Parsed>, ParseError> {
        if std::mem::take(&mut self.after_cr)
            && let [b'\n', rest @ ..] = *input
        {
            *input = rest;
            return Ok(None);
        }
        match self.place {
            Place::Start(matched) => {
                self.byte_order_mark(matched, input);
                Ok(None)
            }
            Place::Name => self.name(input),
            Place::Colon(after) => {
                if let [b' ', rest @ ..] = *input {
                    *input = rest;
                }
                self.place = Place::Value(after);
                Ok(None)
            }
            Place::Value(after) => self.value(after, input),
        }
    }

    fn byte_order_mark(&mut self, matched: usize, input: &mut &[u8]) {
        if input.first() == BYTE_ORDER_MARK.get(matched) {
            *input = &input[1..];
            self.place = Place::Start(matched + 1);
            if matched + 1 < BYTE_ORDER_MARK.len() {
                return;
            }
        } else {
            // The bytes that looked like the mark were the beginning of a field's name.
            self.line.extend_from_slice(&BYTE_ORDER_MARK[..matched]);
            self.line_bytes = matched;
        }
        self.place = Place::Name;
    }

    fn name(&mut self, input: &mut &[u8]) -> Result<Option<Parsed>, ParseError> {
        let end = input.iter().position(|byte| *byte == b':' || is_line_end(*byte));
        let taken = take(end, input);
        self.count(taken)?;
        self.line.extend_from_slice(taken);
        let Some(&stop) = input.first().filter(|_| end.is_some()) else { return Ok(None) };
        if stop != b':' {
            return self.end_of_line(input, None);
        }
        *input = &input[1..];
        let after = match self.line.as_slice() {
            b"" => AfterColon::Comment,
            b"data" => AfterColon::Data,
            b"event" => AfterColon::Keep(Field::Event),
            b"id" => AfterColon::Keep(Field::Id),
            b"retry" => AfterColon::Keep(Field::Retry),
            _ => AfterColon::Unknown,
        };
        self.line.clear();
        match after {
            AfterColon::Data => self.start_data_line()?,
            AfterColon::Keep(_) | AfterColon::Comment | AfterColon::Unknown => self.count(b":")?,
        }
        self.place = Place::Colon(after);
        Ok(None)
    }

    fn value(
        &mut self,
        after: AfterColon,
        input: &mut &[u8],
    ) -> Result<Option<Parsed>, ParseError> {
        let end = find_line_end(input);
        let taken = take(end, input);
        match after {
            AfterColon::Data => self.append_data(taken)?,
            AfterColon::Keep(_) => {
                self.count(taken)?;
                self.line.extend_from_slice(taken);
            }
            AfterColon::Comment | AfterColon::Unknown => self.count(taken)?,
        }
        if end.is_some() { self.end_of_line(input, Some(after)) } else { Ok(None) }
    }

    /// Consumes the line end at the front of the input and acts on the line. `after` is the field
    /// of a line with a colon; without one the line is a field name alone, or empty.
    fn end_of_line(
        &mut self,
        input: &mut &[u8],
        after: Option<AfterColon>,
    ) -> Result<Option<Parsed>, ParseError> {
        self.after_cr = input.first() == Some(&b'\r');
        *input = &input[1..];
        let parsed = match after {
            None => match self.line.as_slice() {
                b"" => self.end_of_event(),
                b"data" => {
                    self.start_data_line()?;
                    None
                }
                b"event" => self.keep(Field::Event, &[]),
                b"id" => self.keep(Field::Id, &[]),
                _ => None,
            },
            Some(AfterColon::Data | AfterColon::Unknown) => None,
            Some(AfterColon::Comment) => Some(Parsed::Comment),
            Some(AfterColon::Keep(field)) => {
                let value = std::mem::take(&mut self.line);
                self.keep(field, &value)
            }
        };
        self.line.clear();
        self.line_bytes = 0;
        self.place = Place::Name;
        Ok(parsed)
    }

    fn keep(&mut self, field: Field, value: &[u8]) -> Option<Parsed> {
        match field {
            Field::Event => self.name = String::from_utf8_lossy(value).into_owned(),
            // The standard: an ID with NUL is ignored.
            Field::Id if value.contains(&0) => {}
            Field::Id => self.id = Some(String::from_utf8_lossy(value).into_owned()),
            Field::Retry => return retry(value),
        }
        None
    }

    fn start_data_line(&mut self) -> Result<(), ParseError> {
        if std::mem::replace(&mut self.has_data, true) {
            self.append_data(b"\n")?;
        }
        Ok(())
    }

    fn append_data(&mut self, bytes: &[u8]) -> Result<(), ParseError> {
        let limit_bytes = self.limits.event_bytes_max;
        if bytes.len() > limit_bytes.saturating_sub(self.data.len()) {
            return Err(ParseError::EventTooLarge { limit_bytes });
        }
        self.data.extend_from_slice(bytes);
        Ok(())
    }

    /// Counts bytes of a line that is no payload.
    fn count(&mut self, bytes: &[u8]) -> Result<(), ParseError> {
        let limit_bytes = self.limits.line_bytes_max;
        self.line_bytes = self.line_bytes.saturating_add(bytes.len());
        if self.line_bytes > limit_bytes {
            return Err(ParseError::LineTooLong { limit_bytes });
        }
        Ok(())
    }

    fn end_of_event(&mut self) -> Option<Parsed> {
        let mut name = std::mem::take(&mut self.name);
        let id = self.id.take();
        let mut data = std::mem::take(&mut self.data);
        if let Some(id) = &id {
            self.last_event_id.clone_from(id);
        }
        if !std::mem::replace(&mut self.has_data, false) {
            return None;
        }
        if name.is_empty() {
            DEFAULT_NAME.clone_into(&mut name);
        }
        // The spare capacity of a large buffer would stay for as long as any part of it is held.
        data.shrink_to_fit();
        Some(Parsed::Event(Event { name, data: Bytes::from(data), id }))
    }
}

/// Takes the input up to `end`, or all of it.
fn take<'a>(end: Option<usize>, input: &mut &'a [u8]) -> &'a [u8] {
    let (taken, rest) = input.split_at(end.unwrap_or(input.len()));
    *input = rest;
    taken
}

/// Reads a `retry` value. The standard: digits and nothing else. A number that is too large becomes
/// the largest one.
fn retry(value: &[u8]) -> Option<Parsed> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let millis = value.iter().fold(0u64, |number, digit| {
        number.saturating_mul(10).saturating_add(u64::from(digit - b'0'))
    });
    Some(Parsed::Retry(millis))
}

/// True if a byte ends a line.
pub(super) fn is_line_end(byte: u8) -> bool {
    byte == b'\n' || byte == b'\r'
}

/// Position of the first CR or LF. Payloads have tens of megabytes in one line, so the bytes are
/// checked in blocks, which the compiler turns into vector instructions.
pub(super) fn find_line_end(bytes: &[u8]) -> Option<usize> {
    let mut blocks = bytes.chunks_exact(SCAN_BYTES);
    let clean = blocks
        .by_ref()
        .take_while(|block| !block.iter().fold(false, |found, byte| found | is_line_end(*byte)))
        .count();
    let from = clean * SCAN_BYTES;
    bytes[from..].iter().position(|byte| is_line_end(*byte)).map(|at| from + at)
}

#[cfg(test)]
mod tests;
