//! Pilotlight against real peers: one binary, a module for each subject.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    missing_docs,
    reason = "a test that fails may panic and print"
)]

mod cache_backends;
mod support;
