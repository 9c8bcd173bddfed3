//! Options whose values are a few words.

use super::{Invalid, quoted};

/// A value that is one of a few words, in any case of letters.
pub trait Word: Copy + PartialEq + 'static {
    /// The name of the type, after an article: `a log level`.
    const WHAT: &'static str;
    /// The words. Several may mean the same; the first of them is shown.
    const WORDS: &'static [(&'static str, Self)];
}

/// The value that a word stands for.
pub fn word<T: Word>(text: &str) -> Result<T, Invalid> {
    match T::WORDS.iter().find(|(word, _)| text.eq_ignore_ascii_case(word)) {
        Some((_, value)) => Ok(*value),
        None => {
            let allowed: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
            Err(Invalid::new(format!("{} is not {}", quoted(text), T::WHAT), allowed.join(", ")))
        }
    }
}

/// The word for a value.
pub fn as_word<T: Word>(value: T) -> &'static str {
    T::WORDS.iter().find(|(_, of_word)| *of_word == value).map_or("", |(word, _)| word)
}

/// The lowest level that is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// State changes that an operator expects.
    Info,
    /// Unexpected events with which the relay continues.
    Warn,
    /// Events that require action by the operator.
    Error,
    /// Nothing.
    None,
}

impl Word for LogLevel {
    const WHAT: &'static str = "a log level";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("debug", Self::Debug),
        ("info", Self::Info),
        ("warn", Self::Warn),
        ("error", Self::Error),
        ("none", Self::None),
    ];
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsVersion(&'static str);

impl Word for TlsVersion {
    const WHAT: &'static str = "a TLS version";
    const WORDS: &'static [(&'static str, Self)] =
        &[("1.0", Self("1.0")), ("1.1", Self("1.1")), ("1.2", Self("1.2")), ("1.3", Self("1.3"))];
}

/// Format in which records of the shared cache are written. Both formats are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheFormat {
    /// Pilotlight's own format: sealed, bound to its place, with a manifest.
    #[default]
    Sealed,
    /// The format that ld-relay reads, for fleets that run both.
    LdRelay,
}

impl Word for CacheFormat {
    const WHAT: &'static str = "a format";
    const WORDS: &'static [(&'static str, Self)] =
        &[("sealed", Self::Sealed), ("ld-relay", Self::LdRelay)];
}

/// Rule for using ld-relay's records in the shared cache where sealed ones are expected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheAdopt {
    /// Only where neither tier of the cache ever held sealed records.
    #[default]
    Once,
    /// Whenever no sealed manifest can be read.
    Always,
    /// Never.
    Never,
}

impl Word for CacheAdopt {
    const WHAT: &'static str = "a value of cacheAdopt";
    const WORDS: &'static [(&'static str, Self)] =
        &[("once", Self::Once), ("always", Self::Always), ("never", Self::Never)];
}

/// The topology of the Redis servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisMode {
    /// One server.
    Standalone,
    /// A master that sentinels watch.
    Sentinel,
    /// A cluster.
    Cluster,
}

impl Word for RedisMode {
    const WHAT: &'static str = "a mode";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("standalone", Self::Standalone),
        ("sentinel", Self::Sentinel),
        ("cluster", Self::Cluster),
    ];
}

/// The store that a complete local set takes precedence over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreferOver {
    /// The shared flag store.
    SharedStore,
    /// None.
    Off,
}

impl Word for PreferOver {
    const WHAT: &'static str = "a store";
    const WORDS: &'static [(&'static str, Self)] =
        &[("sharedStore", Self::SharedStore), ("off", Self::Off)];
}
