//! Server-Sent Events, sans-io: bytes in and events out ([`parser`]), events in and bytes out
//! ([`encoder`]).
//!
//! Nothing here opens a connection, waits or logs. The payload of an event is bytes as they were
//! sent: its reader checks whether they are UTF-8 or JSON.

pub mod encoder;
pub mod parser;

pub use encoder::{EventWriter, encode};
pub use parser::{Event, Limits, ParseError, Parsed, Parser};
