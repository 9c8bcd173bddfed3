//! Pilotlight: a relay for LaunchDarkly SDKs that serves through an outage.
//!
//! The modules in reading order:
//!
//! * [`cli`], [`config`]: the command line and the configuration.
//! * [`model`]: the data types of the domain: credentials, environments, flag data.
//! * [`evaluation`]: the values of flags for a context.
//! * [`sse`]: Server-Sent Events.
//! * [`upstream`]: all connections to LaunchDarkly.
//! * [`source`]: the sources of an environment's flags.
//! * [`autoconfig`]: the list of environments, and its encrypted cache.
//! * [`flagstore`]: stores of an environment's flags.
//! * [`replica`]: keeps a copy in a shared database equal to what is wanted.
//! * [`streams`]: distribution of flags to SDKs, encoded once.
//! * [`environments`]: the running environments.
//! * [`server`]: HTTP for SDKs.
//! * [`storage`]: database clients and the embedded store, which know nothing about flags.
//! * [`sealing`], [`backoff`], [`tasks`], [`telemetry`]: encryption of stored data, retry delays,
//!   tasks with owners, logging.
//! * [`app`], [`commands`]: the connection of all parts, and the commands of the program.
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
mod archive;
mod autoconfig;
mod backoff;
mod cli;
mod commands;
mod config;
#[cfg(feature = "demo")]
mod demo;
mod environments;
mod evaluation;
mod events;
mod flagstore;
mod goals;
mod model;
mod overview;
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
