//! The one integration binary: a module a feature, `support` for what they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::needless_pass_by_value,
    clippy::wildcard_enum_match_arm,
    reason = "a test that fails may panic"
)]

mod autoconfig;
mod check_config;
mod client_sdks;
mod cold_start;
mod command_line;
mod demo;
mod flag_backends;
mod live_secrets;
mod local_store_damage;
mod local_store_kill;
mod local_store_support;
mod log_lines;
mod offline;
mod planted_store;
mod relay_kill;
mod rungs;
mod sdk_drivers;
mod sdk_outage;
mod server;
#[macro_use]
mod shared_cache;
mod flag_stores;
mod secrets;
mod tables;
mod upstream_faults;
