//! The encrypted cache of autoconfig records.

mod backend;

pub use backend::{Backend, Row, Swap, Swapped};
