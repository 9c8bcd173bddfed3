//! `[Http]`: answers to SDKs.

use crate::config::reader::Reader;
use crate::config::table::http as table;

/// `[Http]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// True if answers are compressed for clients that accept it.
    pub enable_compression: bool,
}

/// Reads the section.
pub(super) fn read(reader: &mut Reader<'_>) -> HttpConfig {
    HttpConfig { enable_compression: reader.global().value(&table::HTTP_ENABLE_COMPRESSION) }
}
