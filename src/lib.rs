//! Pilotlight: a relay for LaunchDarkly SDKs that serves through an outage.
//!
//! The modules in reading order, from what is said to what is done:
//!
//! * [`model`]: the nouns: credentials, environments, flag data.
//! * [`backoff`], [`tasks`], [`sealing`]: delays, owned tasks, encryption at rest.
//! * [`storage`]: databases, the embedded one among them, knowing nothing of flags.
//! * [`flagstore`]: where an environment's flags rest.
#![cfg_attr(test, allow(missing_docs))]

pub mod autoconfig;
pub mod backoff;
pub mod flagstore;
pub mod model;
pub mod sealing;
pub mod storage;
pub mod tasks;
