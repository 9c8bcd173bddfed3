//! The list of environments: the autoconfig stream and its encrypted cache.

pub mod adoption;
pub mod cache;
pub mod fields;
pub mod messages;
pub mod ordering;
pub mod record_set;
pub mod records;
pub mod specs;
pub mod startup_race;
pub mod state;
pub mod stream_manager;
