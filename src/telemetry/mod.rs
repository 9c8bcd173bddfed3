//! Logging: set-up, and error chains in one line.

mod chain;
mod logging;

pub use chain::Chain;
pub use logging::{LogFormat, LogLevel, LoggingSettings, init};
