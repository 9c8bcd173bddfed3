//! The integration tests: one binary, a module a subject.

mod local_store_damage;
mod local_store_kill;
mod local_store_support;
