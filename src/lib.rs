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
//! * [`replica`]: keeps what relays share in a database equal to what is wanted.
//! * [`streams`]: what SDKs receive, encoded once.
//! * [`environments`]: one room per environment.
//! * [`server`]: HTTP towards SDKs.
//! * [`storage`]: databases, the embedded one among them, knowing nothing of flags.
//! * [`sealing`], [`backoff`], [`tasks`], [`telemetry`]: encryption at rest, delays, owned tasks,
//!   log lines.
//! * [`app`], [`commands`]: everything connected, and the commands of the program.
#![cfg_attr(
    not(all(feature = "redis", feature = "dynamodb", feature = "consul", feature = "demo")),
    allow(dead_code, unused_imports, reason = "what only a part that is left out would use")
)]
#![cfg_attr(
    test,
    allow(
        missing_docs,
        clippy::needless_pass_by_value,
        clippy::wildcard_enum_match_arm,
        reason = "a test's helpers take what reads best, and name only the outcome they expect"
    )
)]

mod app;
mod autoconfig;
mod backoff;
mod cli;
mod commands;
mod config;
#[cfg(feature = "demo")]
mod demo;
mod environments;
mod flagstore;
mod model;
mod replica;
mod sealing;
mod server;
#[cfg(test)]
mod simulation;
mod source;
mod sse;
mod storage;
mod streams;
mod tasks;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod upstream;

pub use commands::run;

/// The version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");
