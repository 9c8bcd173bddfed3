//! The content of the file. No code here opens a file, waits or starts a task.
//!
//! ```text
//! file    = header page (4096 bytes), embedded database
//! header  = magic (8), format (4), data key wrapped under a key of the ring (72), zeros
//!
//! table   key                                       sealed value
//! sets    name of set (16)                          marker of the set
//! parts   name of set (16), number (4)              items of the set, see flagstore::encoding
//! named   name of space (16), name of record (16)   space, name, value
//! ```
//!
//! Names are keyed hashes. Names and values are made with the data key, which is random and belongs
//! to this one file. So a record that is copied to another place or into another file does not
//! open, and no record opens without the header.

pub(crate) mod fields;
pub(crate) mod header;
pub(crate) mod marker;
pub(crate) mod named;
pub(crate) mod names;
pub(crate) mod sets;
