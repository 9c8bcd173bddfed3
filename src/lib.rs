//! Pilotlight: a relay for LaunchDarkly SDKs that serves through an outage.
//!
//! The modules in reading order, from what is said to what is done:
//!
//! * [`cli`], [`config`]: what the operator asked for.
//! * [`model`]: the nouns: credentials, environments, flag data.
//! * [`sse`]: Server-Sent Events.
//! * [`upstream`]: everything that dials LaunchDarkly.
//! * [`source`]: what brings an environment's flags.
//! * [`autoconfig`]: which environments exist, and their encrypted cache.
//! * [`flagstore`]: where an environment's flags rest.
//! * [`streams`]: what SDKs receive, encoded once.
//! * [`environments`]: one room per environment.
//! * [`server`]: HTTP towards SDKs.
//! * [`storage`]: databases, the embedded one among them, knowing nothing of flags.
//! * [`sealing`], [`backoff`], [`tasks`], [`telemetry`]: encryption at rest, delays, owned tasks,
//!   log lines.
//! * [`app`], [`commands`]: everything connected, and the commands of the program.
#![cfg_attr(
    test,
    allow(
        missing_docs,
        clippy::needless_pass_by_value,
        clippy::wildcard_enum_match_arm,
        reason = "a test's helpers take what reads best, and name only the outcome they expect"
    )
)]

pub mod app;
pub mod autoconfig;
pub mod backoff;
pub mod cli;
pub mod commands;
pub mod config;
#[cfg(feature = "demo")]
pub mod demo;
pub mod environments;
pub mod flagstore;
pub mod model;
pub mod sealing;
pub mod server;
pub mod source;
pub mod sse;
pub mod storage;
pub mod streams;
pub mod tasks;
pub mod telemetry;
pub mod upstream;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
