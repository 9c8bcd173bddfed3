//! Log lines: errors to standard error, all else to standard output, as text or JSON.

use std::io;

use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::writer::MakeWriterExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, fmt};

use super::one_line::OneLine;

/// The form of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line (ld-relay v8: `LOG_FORMAT=json`).
    Json,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// Each connection and message, no payloads.
    Debug,
    /// State changes an operator expects.
    #[default]
    Info,
    /// What is unexpected and survived.
    Warn,
    /// What a human must act on.
    Error,
    /// Nothing.
    None,
}

/// How to log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoggingSettings {
    /// How much.
    pub level: LogLevel,
    /// In which form.
    pub format: LogFormat,
}

/// Starts logging for the whole process; fails if somebody did before.
pub fn init(settings: LoggingSettings) -> Result<(), TryInitError> {
    let writer = OneLine(io::stderr.with_max_level(Level::ERROR).or_else(io::stdout));
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match settings.format {
        LogFormat::Text => Box::new(fmt::layer().with_writer(writer).with_ansi(false)),
        LogFormat::Json => Box::new(fmt::layer().json().flatten_event(true).with_writer(writer)),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter(settings.level))).try_init()
}

/// Libraries may put payloads or headers into their finest lines, so they are held at info
/// whatever the level.
fn filter(level: LogLevel) -> Targets {
    let (ours, theirs) = match level {
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::INFO),
        LogLevel::Info => (LevelFilter::INFO, LevelFilter::WARN),
        LogLevel::Warn => (LevelFilter::WARN, LevelFilter::WARN),
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
        LogLevel::None => (LevelFilter::OFF, LevelFilter::OFF),
    };
    Targets::new().with_default(theirs).with_target("pilotlight", ours)
}
