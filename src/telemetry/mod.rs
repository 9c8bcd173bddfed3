//! Logging: set-up, records of one line each, error chains and times as people read them.

mod chain;
mod logging;
mod one_line;
mod times;

pub use chain::Chain;
pub use logging::{LogFormat, LogLevel, LoggingSettings, init};
pub use one_line::escaped;
pub use times::{At, Rounded};
