//! Server-Sent Events, sans-io: bytes in and events out ([`parser`]), events in and bytes out
//! ([`encoder`]).
//!
//! Nothing here opens a connection, waits or logs. The payload of an event is bytes as they were
//! sent: whether they are UTF-8 or JSON is for the reader of the event to say.

pub mod encoder;
pub mod parser;

pub use encoder::{EventWriter, encode};
pub use parser::{Event, Limits, ParseError, Parsed, Parser};
