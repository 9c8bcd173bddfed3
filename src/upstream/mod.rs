//! Everything that dials LaunchDarkly.

pub mod flag_messages;
