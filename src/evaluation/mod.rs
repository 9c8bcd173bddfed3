//! Evaluation of flags for a context: what client-side SDKs receive.
//!
//! ```text
//! JSON of a flag or segment -> Flag, Segment      parsed once, tolerant as LaunchDarkly's Go SDK
//! JSON from an SDK          -> Context            a user, a context of a kind, or several
//! Evaluator::evaluate(flag) -> Detail             variation, reason, what is to be tracked
//! write_result              -> one member of the answer's JSON
//! ```
//!
//! Everything is decided by the arguments: no clock, no I/O. Flags and segments come from a
//! [`Lookup`]. Work is bounded for any data: each prerequisite and each segment is decided once for
//! a context, and chains of them are followed to a depth of [`DEPTH_MAX`](evaluator::DEPTH_MAX).
//!
//! The rules are those of LaunchDarkly's Go SDK, which ld-relay uses.

mod bucket;
mod clause;
mod context;
mod context_json;
mod evaluator;
#[cfg(test)]
mod evaluator_tests;
mod flag;
mod key_set;
#[cfg(test)]
mod oracle_tests;
mod pattern;
mod reason;
mod reference;
mod result_json;
mod segment;
mod timestamp;
mod tolerant;
mod version;

pub use context::Context;
pub use context_json::ContextError;
pub use evaluator::{Evaluator, Lookup, NoBigSegments};
pub use flag::{Audience, Flag};
pub use result_json::write_result;
pub use segment::Segment;
