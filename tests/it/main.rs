//! The integration tests: one binary, a module a subject.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod local_store_damage;
mod local_store_kill;
mod local_store_support;
