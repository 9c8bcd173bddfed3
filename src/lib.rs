//! Pilotlight: a relay for LaunchDarkly SDKs that serves through an outage.
//!
//! The modules in reading order, from what is said to what is done:
//!
//! * [`model`]: the nouns: credentials, environments, flag data.
//! * [`cli`], [`config`]: what the operator asked for, by flags, file and variables.
//! * [`backoff`], [`tasks`], [`sealing`]: delays, owned tasks, encryption at rest.
#![cfg_attr(test, allow(missing_docs))]

pub mod autoconfig;
pub mod backoff;
pub mod cli;
pub mod config;
pub mod model;
pub mod sealing;
pub mod storage;
pub mod tasks;
