//! The one integration binary: a module a feature, `support` for what they share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::needless_pass_by_value,
    clippy::wildcard_enum_match_arm,
    reason = "a test that fails may panic"
)]

mod autoconfig;
#[cfg(any(feature = "redis", feature = "dynamodb", feature = "consul"))]
mod cache_backends;
mod check_config;
mod cold_start;
mod command_line;
mod demo;
#[cfg(any(feature = "redis", feature = "dynamodb", feature = "consul"))]
mod flag_backends;
#[cfg(all(feature = "redis", feature = "dynamodb", feature = "consul"))]
mod live_secrets;
mod local_store_damage;
mod local_store_kill;
mod local_store_support;
mod log_lines;
#[cfg(all(feature = "redis", feature = "dynamodb", feature = "consul"))]
mod planted_store;
mod relay_kill;
mod rungs;
mod sdk_drivers;
mod sdk_outage;
mod server;
#[cfg(all(feature = "redis", feature = "dynamodb", feature = "consul"))]
#[macro_use]
mod shared_cache;
#[cfg(all(feature = "redis", feature = "dynamodb", feature = "consul"))]
mod flag_stores;
#[cfg(all(feature = "redis", feature = "dynamodb", feature = "consul"))]
mod secrets;
mod support;
mod upstream_faults;
