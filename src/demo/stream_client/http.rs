//! The part of HTTP/1.1 that a reader of streams needs, without a socket.
//!
//! Invariant: the body decoder returns every byte of the payload once, in order, however the input
//! is divided.

use super::StreamClientError;

/// Largest response head. LaunchDarkly's and the relay's are below 1 KiB.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Longest line of a chunk size with its extensions, and longest trailer line.
const CHUNK_LINE_BYTES_MAX: usize = 1024;

/// The head of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResponseHead {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
}

impl ResponseHead {
    /// Parses a head once it is complete: the head and its number of bytes.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, StreamClientError> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
            return match bytes.len() {
                ..=HEAD_BYTES_MAX => Ok(None),
                _ => Err(StreamClientError::Malformed { what: "the head is too long" }),
            };
        };
        let text = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = text.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.strip_prefix("HTTP/1.1 ").or(line.strip_prefix("HTTP/1.0 ")))
            .and_then(|rest| rest.get(..3))
            .and_then(|code| code.parse().ok())
            .ok_or(StreamClientError::Malformed { what: "there is no status line" })?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Ok(Some((Self { status, headers }, end + 4)))
    }

    /// A header by its name in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(held, _)| held == name).map(|(_, value)| value.as_str())
    }

    /// The decoder for the body that follows.
    pub(super) fn body(&self) -> BodyDecoder {
        let chunked = self
            .header("transfer-encoding")
            .is_some_and(|value| value.to_ascii_lowercase().ends_with("chunked"));
        let length = self.header("content-length").and_then(|value| value.parse().ok());
        BodyDecoder(match (chunked, length) {
            (true, _) => Framing::Chunked(Chunk::Size { size: 0, digits: 0 }),
            (false, Some(left)) => Framing::Length { left },
            (false, None) => Framing::UntilClosed,
        })
    }
}

/// Decodes the transfer coding of a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyDecoder(Framing);

#[derive(Clone, Copy, Debug)]
enum Framing {
    Chunked(Chunk),
    Length { left: u64 },
    UntilClosed,
}

/// The position of the next byte in the chunked coding.
#[derive(Clone, Copy, Debug)]
enum Chunk {
    Size {
        size: u64,
        digits: u8,
    },
    /// Extensions after the size, up to the line feed.
    Extension {
        size: u64,
        length: usize,
    },
    Data {
        left: u64,
    },
    /// The line end after the data.
    DataEnd,
    /// Trailer lines; an empty one ends the body.
    Trailer {
        length: usize,
    },
    Done,
}

impl BodyDecoder {
    /// The next piece of payload in `input`, which is advanced behind it. `None` when the input is
    /// used up.
    pub(super) fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
    ) -> Result<Option<&'a [u8]>, StreamClientError> {
        match &mut self.0 {
            Framing::UntilClosed => Ok(take(input, u64::MAX)),
            Framing::Length { left } => {
                let piece = take(input, *left);
                *left -= piece.map_or(0, <[u8]>::len) as u64;
                Ok(piece)
            }
            Framing::Chunked(chunk) => chunk.next(input),
        }
    }

    /// True if the body has ended; `closed` is true if the connection has.
    pub(super) fn is_complete(&self, closed: bool) -> bool {
        match self.0 {
            Framing::Chunked(Chunk::Done) | Framing::Length { left: 0 } => true,
            Framing::Chunked(_) | Framing::Length { .. } => false,
            Framing::UntilClosed => closed,
        }
    }
}

impl Chunk {
    fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, StreamClientError> {
        loop {
            if let Self::Data { left } = self {
                let piece = take(input, *left);
                *left -= piece.map_or(0, <[u8]>::len) as u64;
                if *left == 0 {
                    *self = Self::DataEnd;
                }
                return Ok(piece);
            }
            let Some((&byte, rest)) = input.split_first() else { return Ok(None) };
            *input = rest;
            *self = self.after(byte)?;
        }
    }

    /// Consumes one byte of framing. Carriage returns are ignored: only line feeds end lines.
    fn after(self, byte: u8) -> Result<Self, StreamClientError> {
        let malformed = |what| Err(StreamClientError::Malformed { what });
        Ok(match (self, byte) {
            (Self::Size { digits: 0, .. }, b'\n' | b'\r' | b';') => {
                return malformed("a chunk has no size");
            }
            (Self::Size { size, .. }, b'\n') => Self::after_size(size),
            (Self::Size { size, .. }, b'\r' | b';' | b' ') => Self::Extension { size, length: 0 },
            (Self::Size { size, digits }, byte) => match (char::from(byte).to_digit(16), digits) {
                (Some(digit), ..15) => {
                    Self::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
                }
                _ => return malformed("a chunk size is not a number"),
            },
            (Self::Extension { size, .. }, b'\n') => Self::after_size(size),
            (Self::Extension { length, .. } | Self::Trailer { length }, _)
                if length > CHUNK_LINE_BYTES_MAX =>
            {
                return malformed("a chunk line is too long");
            }
            (Self::Extension { size, length }, _) => Self::Extension { size, length: length + 1 },
            (Self::DataEnd, b'\r') => Self::DataEnd,
            (Self::DataEnd, b'\n') => Self::Size { size: 0, digits: 0 },
            (Self::DataEnd, _) => return malformed("a chunk is longer than its size"),
            (Self::Trailer { length: 0 }, b'\n') => Self::Done,
            (Self::Trailer { .. }, b'\n') => Self::Trailer { length: 0 },
            (Self::Trailer { length }, b'\r') => Self::Trailer { length },
            (Self::Trailer { length }, _) => Self::Trailer { length: length + 1 },
            (Self::Done, _) => return malformed("bytes follow the end of the body"),
            (Self::Data { .. }, _) => self,
        })
    }

    fn after_size(size: u64) -> Self {
        if size == 0 { Self::Trailer { length: 0 } } else { Self::Data { left: size } }
    }
}

/// Splits off at most this number of bytes; `None` if there are none.
fn take<'a>(input: &mut &'a [u8], max: u64) -> Option<&'a [u8]> {
    let (piece, rest) = input.split_at(input.len().min(usize::try_from(max).unwrap_or(usize::MAX)));
    *input = rest;
    (!piece.is_empty()).then_some(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(head: &str, wire: &str, payload: &str, complete: bool) {
        let (head, used) = ResponseHead::parse(head.as_bytes()).unwrap().unwrap();
        assert_eq!(head.status, 200);
        assert!(used > 0);
        for portion in 1..=wire.len() {
            let mut decoder = head.body();
            let mut seen = Vec::new();
            for mut bytes in wire.as_bytes().chunks(portion) {
                while let Some(piece) = decoder.next(&mut bytes).unwrap() {
                    seen.extend_from_slice(piece);
                }
            }
            assert_eq!(String::from_utf8_lossy(&seen), payload, "by {portion}");
            assert_eq!(decoder.is_complete(false), complete, "by {portion}");
        }
    }

    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

    #[test]
    fn bodies_are_the_same_by_any_portion() {
        check(CHUNKED, "3\r\nabc\r\n", "abc", false);
        check(
            CHUNKED,
            "3\r\nabc\r\n1A; x=y\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n",
            "abcabcdefghijklmnopqrstuvwxyz",
            true,
        );
        check(CHUNKED, "1\nx\n0\nTrailer: t\n\n", "x", true);
        check("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", "abcd", "abcd", true);
        check("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", "abcd", "abcd", false);
        check("HTTP/1.0 200 OK\r\n\r\n", "abcd", "abcd", false);
    }

    #[test]
    fn broken_framing_is_an_error() {
        let long = format!("1;{}\r\n", "x".repeat(CHUNK_LINE_BYTES_MAX + 2));
        for wire in ["zz\r\n", "\r\n", "2\r\nabc", "1234567890abcdef\r\n", &long, "0\r\n\r\nx"] {
            let (head, _) = ResponseHead::parse(CHUNKED.as_bytes()).unwrap().unwrap();
            let mut decoder = head.body();
            let mut bytes = wire.as_bytes();
            let ended = loop {
                match decoder.next(&mut bytes) {
                    Ok(Some(_)) => {}
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            assert!(matches!(ended, Err(StreamClientError::Malformed { .. })), "{wire}: {ended:?}");
        }
    }

    #[test]
    fn heads_are_read_when_they_are_whole() {
        assert_eq!(ResponseHead::parse(b"HTTP/1.1 200 OK\r\nA: b\r\n").unwrap(), None);
        let (head, used) =
            ResponseHead::parse(b"HTTP/1.1 503 \r\nRetry-After: 7 \r\n\r\nrest").unwrap().unwrap();
        assert_eq!((head.status, used), (503, 34));
        assert_eq!(head.header("retry-after"), Some("7"));
        for bad in [&b"SSH-2.0\r\n\r\n"[..], b"HTTP/1.1 2x\r\n\r\n", &[b'x'; HEAD_BYTES_MAX + 1]] {
            let parsed = ResponseHead::parse(bad);
            assert!(matches!(parsed, Err(StreamClientError::Malformed { .. })), "{parsed:?}");
        }
    }
}
