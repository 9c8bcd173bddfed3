//! The one integration binary: a module a feature, `support` for what they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::needless_pass_by_value,
    clippy::wildcard_enum_match_arm,
    reason = "a test that fails may panic"
)]

mod autoconfig;
mod cache_backends;
mod cold_start;
mod sdk_drivers;
mod support;
mod upstream_faults;
