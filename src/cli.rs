//! The command line: turns arguments into a [`Command`]. Reads no file, prints nothing, does not
//! exit.
//!
//! Without a subcommand, the flags and their syntax are those of ld-relay v8: one or two dashes, a
//! value after `=` or as the next word, booleans as `--flag` or `--flag=false`. The last of several
//! equal flags wins, and the first word that is not a flag ends them. Subcommands exist only here
//! and come first; an argument that they do not know is an error.

use std::ffi::OsString;
use std::path::PathBuf;

use strsim::osa_distance;

use crate::config::{ConfigFile, ConfigSource, DEFAULT_FILE};

/// Success.
pub const EXIT_OK: u8 = 0;
/// The configuration cannot be used, or the relay could not start.
pub const EXIT_FAILED: u8 = 1;
/// The command line is invalid. ld-relay v8 exits with 1 here; 64 distinguishes wrong arguments
/// from a failed start (docs/differences.md).
pub const EXIT_USAGE: u8 = 64;

/// The text that `--help` prints, and that follows a usage error.
pub const USAGE: &str = "\
Usage: pilotlight [flags]                run the relay
       pilotlight check-config [flags]   check the configuration, print it, and exit
       pilotlight demo                   demonstrate a cold start during an outage; needs no account
       pilotlight health [--url URL]     check whether a running relay is alive
       pilotlight ready [--url URL]      check whether a running relay is ready
       pilotlight status [--url URL]     show what a running relay serves, and from where
       pilotlight generate-key           print a new random key for cacheEncryptionKey

Flags:
  --config PATH          read the configuration file PATH; it must exist
  --allow-missing-file   continue without the configuration file if it does not exist
  --from-env             read environment variables; they take precedence over the file
  --url URL              address of the running relay, for health, ready and status; the default is
                         http://BIND_ADDRESS:PORT from these variables, else http://127.0.0.1:8030
  --version              print the version and exit
  --help, -h             print this page and exit

Without --config and --from-env, the relay reads /etc/ld-relay.conf. With --from-env and without
--config, it reads no file.

Exit codes: 0 success; 1 the configuration is invalid, the relay could not start or had to stop, or
health, ready or status failed; 64 the command line is invalid.
";

/// The command that the arguments name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Run the relay.
    Serve {
        /// The sources of the configuration.
        source: ConfigSource,
        /// Words after the flags. ld-relay v8 ignores them, so they only cause a warning.
        ignored: Vec<OsString>,
    },
    /// Check the configuration and print it.
    CheckConfig(ConfigSource),
    /// Run the demo, with a fake LaunchDarkly.
    Demo,
    /// Ask a running relay whether it is alive.
    Health {
        /// Its address; `None` takes it from the variables.
        url: Option<String>,
    },
    /// Ask a running relay whether it is ready.
    Ready {
        /// Its address; `None` takes it from the variables.
        url: Option<String>,
    },
    /// Print the overview of a running relay.
    Status {
        /// Its address; `None` takes it from the variables.
        url: Option<String>,
    },
    /// Print a new random key.
    GenerateKey,
    /// Print the version.
    Version,
    /// Print [`USAGE`].
    Help,
}

/// The reason why the command line is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// There is no such flag, or not for this subcommand.
    #[error("unknown flag {0}")]
    UnknownFlag(String),
    /// Dashes without a name after them.
    #[error("{0} is not a flag")]
    BadFlag(String),
    /// A flag that needs a value has none.
    #[error("{0} needs a value")]
    MissingValue(&'static str),
    /// The value of a boolean flag is not a boolean.
    #[error("{flag} must be true or false, not {value:?}")]
    NotBoolean {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
    },
    /// A subcommand comes after flags, where ld-relay would ignore it.
    #[error("the command {0} must come before all flags")]
    NotFirst(&'static str),
    /// The first word is neither a flag nor a subcommand. ld-relay v8 ignores it and everything
    /// after it.
    #[error("unknown command {word:?}{}", meant(*suggestion))]
    UnknownCommand {
        /// The word.
        word: String,
        /// The subcommand that is probably meant.
        suggestion: Option<&'static str>,
    },
    /// An argument that the subcommand does not take.
    #[error("unexpected argument {0:?}")]
    UnexpectedWord(String),
    /// A flag that is not Unicode.
    #[error("a flag is not UTF-8 text; pass the path as a separate argument")]
    NotUnicode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subcommand {
    Demo,
    CheckConfig,
    Health,
    Ready,
    Status,
    GenerateKey,
}

impl Subcommand {
    const ALL: [Self; 6] =
        [Self::Demo, Self::CheckConfig, Self::Health, Self::Ready, Self::Status, Self::GenerateKey];

    fn name(self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::CheckConfig => "check-config",
            Self::Health => "health",
            Self::Ready => "ready",
            Self::Status => "status",
            Self::GenerateKey => "generate-key",
        }
    }

    fn flags(self) -> &'static [Flag] {
        match self {
            Self::Demo | Self::GenerateKey => &[Flag::Help],
            Self::CheckConfig => &CONFIG_FLAGS,
            Self::Health | Self::Ready | Self::Status => &[Flag::Url, Flag::Help],
        }
    }

    fn of(word: Option<&OsString>) -> Option<Self> {
        Self::ALL.into_iter().find(|it| word.is_some_and(|word| word == it.name()))
    }
}

/// Parses the arguments, without the program's name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let words: Vec<OsString> = arguments.into_iter().collect();
    let Some(subcommand) = Subcommand::of(words.first()) else {
        return match words.first() {
            Some(word) if word == "-" || !word.as_encoded_bytes().starts_with(b"-") => {
                Err(unknown_command(word))
            }
            Some(_) | None => parse_serve(&words),
        };
    };
    let flags = Flags::parse(&words[1..], subcommand.flags())?;
    if flags.asks_for_help {
        return Ok(Command::Help);
    }
    if let Some(word) = flags.words.first() {
        return Err(UsageError::UnexpectedWord(word.to_string_lossy().into_owned()));
    }
    let url = flags.url.clone();
    Ok(match subcommand {
        Subcommand::Demo => Command::Demo,
        Subcommand::CheckConfig if flags.asks_for_version => Command::Version,
        Subcommand::CheckConfig => Command::CheckConfig(flags.source()),
        Subcommand::Health => Command::Health { url },
        Subcommand::Ready => Command::Ready { url },
        Subcommand::Status => Command::Status { url },
        Subcommand::GenerateKey => Command::GenerateKey,
    })
}

fn unknown_command(word: &OsString) -> UsageError {
    let word = word.to_string_lossy().into_owned();
    let lower = word.to_lowercase();
    let is_meant =
        |command: &str| command.starts_with(&lower) || osa_distance(&lower, command) <= 2;
    let suggestion = match lower.as_str() {
        "serve" | "start" | "run" | "relay" => Some("to run the relay, pass flags only"),
        "version" | "help" => Some("use --version or --help"),
        "validate" | "verify" | "config" | "check" | "test" => Some(MEANT_CHECK_CONFIG),
        _ => SUGGESTIONS.iter().find(|it| is_meant(it.0)).map(|it| it.1),
    };
    UsageError::UnknownCommand { word, suggestion }
}

const MEANT_CHECK_CONFIG: &str = "did you mean check-config?";

/// Suggestions for words that look like a subcommand.
const SUGGESTIONS: [(&str, &str); 5] = [
    ("check-config", MEANT_CHECK_CONFIG),
    ("demo", "did you mean demo?"),
    ("health", "did you mean health?"),
    ("ready", "did you mean ready?"),
    ("status", "did you mean status?"),
];

fn meant(suggestion: Option<&'static str>) -> String {
    suggestion.map_or_else(String::new, |text| format!("; {text}"))
}

fn parse_serve(words: &[OsString]) -> Result<Command, UsageError> {
    let flags = Flags::parse(words, &CONFIG_FLAGS)?;
    if flags.asks_for_help {
        return Ok(Command::Help);
    }
    if flags.asks_for_version {
        return Ok(Command::Version);
    }
    // A subcommand is recognized only as the first word.
    if let Some(subcommand) = Subcommand::of(flags.words.first()) {
        return Err(UsageError::NotFirst(subcommand.name()));
    }
    Ok(Command::Serve { source: flags.source(), ignored: flags.words })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flag {
    Config,
    AllowMissingFile,
    FromEnv,
    Version,
    Url,
    Help,
}

/// The flags of ld-relay.
const CONFIG_FLAGS: [Flag; 5] =
    [Flag::Config, Flag::AllowMissingFile, Flag::FromEnv, Flag::Version, Flag::Help];

impl Flag {
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Config => &["config"],
            Self::AllowMissingFile => &["allow-missing-file"],
            Self::FromEnv => &["from-env"],
            Self::Version => &["version"],
            Self::Url => &["url"],
            Self::Help => &["help", "h"],
        }
    }

    fn shown(self) -> &'static str {
        match self {
            Self::Config => "--config",
            Self::AllowMissingFile => "--allow-missing-file",
            Self::FromEnv => "--from-env",
            Self::Version => "--version",
            Self::Url => "--url",
            Self::Help => "--help",
        }
    }
}

#[derive(Default)]
struct Flags {
    config: PathBuf,
    may_be_missing: bool,
    from_env: bool,
    asks_for_version: bool,
    asks_for_help: bool,
    url: Option<String>,
    /// The words after the flags.
    words: Vec<OsString>,
}

impl Flags {
    fn parse(words: &[OsString], known: &[Flag]) -> Result<Self, UsageError> {
        let mut flags = Self::default();
        let mut rest = words.iter();
        while let Some(word) = rest.as_slice().first() {
            if !word.as_encoded_bytes().starts_with(b"-") || word == "-" {
                break;
            }
            rest.next();
            if word == "--" {
                break;
            }
            let text = word.to_str().ok_or(UsageError::NotUnicode)?;
            let (flag, value) = recognise(text, known)?;
            if flag == Flag::Help {
                // Go's flag parser stops here, whatever follows.
                return Ok(Self { asks_for_help: true, ..Self::default() });
            }
            flags.set(flag, value, &mut rest)?;
        }
        flags.words = rest.cloned().collect();
        Ok(flags)
    }

    fn set(
        &mut self,
        flag: Flag,
        value: Option<&str>,
        rest: &mut std::slice::Iter<'_, OsString>,
    ) -> Result<(), UsageError> {
        let mut with_value = || match value {
            Some(value) => Ok(OsString::from(value)),
            None => rest.next().cloned().ok_or(UsageError::MissingValue(flag.shown())),
        };
        match flag {
            Flag::Config => self.config = with_value()?.into(),
            Flag::Url => {
                let url = with_value()?.into_string().map_err(|_| UsageError::NotUnicode)?;
                self.url = Some(url).filter(|url| !url.is_empty());
            }
            Flag::AllowMissingFile => self.may_be_missing = boolean(flag, value)?,
            Flag::FromEnv => self.from_env = boolean(flag, value)?,
            Flag::Version => self.asks_for_version = boolean(flag, value)?,
            Flag::Help => self.asks_for_help = true,
        }
        Ok(())
    }

    /// ld-relay v8: the default file is read only without `--config` and `--from-env`.
    fn source(&self) -> ConfigSource {
        let is_default = self.config.as_os_str().is_empty();
        let path = if is_default { PathBuf::from(DEFAULT_FILE) } else { self.config.clone() };
        let file = ConfigFile { path, may_be_missing: self.may_be_missing };
        let file = (!is_default || !self.from_env).then_some(file);
        ConfigSource { file, from_env: self.from_env }
    }
}

/// The flag that a word is, and the value after its `=`.
fn recognise<'a>(word: &'a str, known: &[Flag]) -> Result<(Flag, Option<&'a str>), UsageError> {
    let bare = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).unwrap_or(word);
    let (name, value) = match bare.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (bare, None),
    };
    if name.is_empty() || name.starts_with('-') {
        return Err(UsageError::BadFlag(word.to_owned()));
    }
    let flag = known.iter().find(|flag| flag.names().contains(&name));
    // The value is left out of the message: it may be a secret in the wrong place.
    let flag = flag.ok_or_else(|| UsageError::UnknownFlag(format!("--{name}")))?;
    Ok((*flag, value))
}

/// Parses the values that Go accepts for a boolean flag.
fn boolean(flag: Flag, value: Option<&str>) -> Result<bool, UsageError> {
    match value {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(value) => Err(UsageError::NotBoolean { flag: flag.shown(), value: value.to_owned() }),
    }
}

#[cfg(test)]
mod tests;
