//! Pilotlight: a relay for LaunchDarkly SDKs that serves through an outage.
//!
//! The modules in reading order, from what is said to what is done:
//!
//! * [`model`]: the nouns: credentials, environments, flag data.
//! * [`sse`]: Server-Sent Events.
//! * [`upstream`]: everything that dials LaunchDarkly.
//! * [`backoff`], [`tasks`], [`sealing`]: delays, owned tasks, encryption at rest.
#![cfg_attr(test, allow(missing_docs))]

pub mod autoconfig;
pub mod backoff;
#[cfg(feature = "demo")]
pub mod demo;
pub mod model;
pub mod sealing;
pub mod sse;
pub mod storage;
pub mod streams;
pub mod tasks;
pub mod upstream;
