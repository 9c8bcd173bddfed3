//! Which environments exist: the autoconfig stream and its encrypted cache.

pub mod cache;
