//! Keeps each log record on one line: names of environments, filters and error texts come from
//! outside, and a line break or a terminal's escape sequence in them could forge further records.
//! The same rule holds for lines on the terminal.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;

use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

/// Makes writers whose records are one line each.
#[derive(Clone, Copy, Debug)]
pub(super) struct OneLine<M>(pub(super) M);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for OneLine<M> {
    type Writer = LineWriter<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter(self.0.make_writer())
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Self::Writer {
        LineWriter(self.0.make_writer_for(metadata))
    }
}

/// Writes records. Each comes by one call, with the line break at its end.
#[derive(Debug)]
pub(super) struct LineWriter<W>(W);

impl<W: io::Write> io::Write for LineWriter<W> {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        self.write_all(record)?;
        Ok(record.len())
    }

    fn write_all(&mut self, record: &[u8]) -> io::Result<()> {
        match std::str::from_utf8(record) {
            Ok(text) if text.strip_suffix('\n').unwrap_or(text).contains(is_unsafe) => {
                self.0.write_all(one_line(text).as_bytes())
            }
            // The formatters write nothing else than text.
            Ok(_) | Err(_) => self.0.write_all(record),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The record with its unsafe characters escaped, but for the line break at its end.
fn one_line(record: &str) -> String {
    let (text, end) = match record.strip_suffix('\n') {
        Some(text) => (text, "\n"),
        None => (record, ""),
    };
    format!("{}{end}", escaped(text))
}

/// The text with its unsafe characters escaped, line breaks among them: fit for one line of a log
/// or a terminal.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) {
            // Writing into a string cannot fail. JSON reads this form as well.
            let _ = write!(line, "\\u{:04x}", u32::from(c));
        } else {
            line.push(c);
        }
    }
    Cow::Owned(line)
}

/// Control characters, line and paragraph separators, and marks that turn the direction of text.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_record_is_one_line() {
        let check = |record: &str, expected: &str| {
            let mut written = Vec::new();
            LineWriter(&mut written).write_all(record.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(written).unwrap(), expected, "{record:?}");
        };
        check("a good line: gr\u{fc}n\n", "a good line: gr\u{fc}n\n");
        check("name=a\nERROR forged\n", "name=a\\u000aERROR forged\n");
        check("a\r\u{1b}[31mred\u{7f}\u{85}\n", "a\\u000d\\u001b[31mred\\u007f\\u0085\n");
        check("a\u{2028}b\u{202e}c\n", "a\\u2028b\\u202ec\n");
        check("two ends\n\n", "two ends\\u000a\n");
        check("no end", "no end");
        check("", "");
    }

    #[test]
    fn an_escaped_text_has_no_line_break() {
        assert_eq!(escaped("a\n\u{1b}[2Kb\n"), "a\\u000a\\u001b[2Kb\\u000a");
        assert!(matches!(escaped("gr\u{fc}n"), Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_escaped_is_json_still() {
        let record = one_line("{\"name\":\"a\u{2028}b\"}\n");
        let value: serde_json::Value = serde_json::from_str(&record).unwrap();
        assert_eq!(value["name"], "a\u{2028}b");
    }
}
