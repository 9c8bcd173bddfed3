//! The kinds of values: parsing, and showing to people.

use std::fmt::Display;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use crate::config::secrets::{HeaderToken, SecretKind};
use crate::config::values::{
    self, CacheAdopt, CacheFormat, ConsulAddress, Invalid, LocalTtl, LogFormat, LogLevel,
    PortOrLink, PreferOver, RedisMode, TlsVersion, Word, Written, quoted,
};
use crate::model::{AutoConfigKey, MobileKey, Password, RedactedUrl, SdkKey};

/// A kind of values.
pub struct Kind<T: 'static> {
    name: Name,
    /// Parses a text that is not empty.
    pub parse: fn(&str) -> Result<T, Invalid>,
    /// The value for people, without secrets; `None` if it means the same as no value.
    pub show: fn(&T) -> Option<String>,
    /// Rule for several values of one option.
    pub combine: Combine,
}

enum Name {
    /// The name of a type.
    Type(&'static str),
    /// The words that are allowed.
    Words(fn() -> Vec<&'static str>),
}

/// Rule for several values of one option.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Combine {
    /// The last one applies; an empty one means that the option is not set.
    Last,
    /// A boolean: the last one applies, a name without a value means `true`, and an empty variable
    /// changes nothing.
    Switch,
    /// All are joined into one list.
    Joined,
}

impl<T> Kind<T> {
    const fn new(
        name: &'static str,
        parse: fn(&str) -> Result<T, Invalid>,
        show: fn(&T) -> Option<String>,
    ) -> Self {
        Self { name: Name::Type(name), parse, show, combine: Combine::Last }
    }

    const fn joined(mut self) -> Self {
        self.combine = Combine::Joined;
        self
    }

    /// The allowed values, as docs/configuration.md names them.
    pub fn name(&self) -> String {
        match self.name {
            Name::Type(name) => name.to_owned(),
            Name::Words(words) => format!("`{}`", words().join("`, `")),
        }
    }
}

impl<T: Display> Kind<T> {
    /// A kind whose values are shown with `Display`.
    pub const fn plain(name: &'static str, parse: fn(&str) -> Result<T, Invalid>) -> Self {
        Self::new(name, parse, |value| Some(value.to_string()))
    }
}

impl<T: Word> Kind<T> {
    /// A kind with a few allowed words.
    pub const fn words() -> Self {
        Self {
            name: Name::Words(|| T::WORDS.iter().map(|(word, _)| *word).collect()),
            parse: values::word,
            show: |value| Some(values::as_word(*value).to_owned()),
            combine: Combine::Last,
        }
    }
}

impl<T: SecretKind> Kind<T> {
    /// A kind of secret. No error holds any part of its text.
    const fn secret(name: &'static str, show: fn(&T) -> Option<String>) -> Self {
        let parse = |text: &str| T::from_text(text).map_err(Invalid::secret);
        Self::new(name, parse, show)
    }
}

pub static TEXT: Kind<String> = Kind::plain("text", |text| Ok(text.to_owned()));
pub static LOWER_CASE: Kind<String> = Kind::plain("text", |text| Ok(text.to_lowercase()));
pub static TRIMMED: Kind<Option<String>> =
    Kind::new("text", |text| Ok(values::trimmed_text(text)), Option::<String>::clone);
pub static PATH: Kind<PathBuf> =
    Kind::new("path", |path| Ok(path.into()), |path| Some(path.display().to_string()));
pub static SWITCH: Kind<bool> =
    Kind { combine: Combine::Switch, ..Kind::plain("boolean", values::boolean_in_file) };
pub static NUMBER: Kind<i64> = Kind::plain("number", values::integer);
pub static NUMBER_OR_HEX: Kind<i64> = Kind::plain("number", values::integer_or_hex);
pub static COUNT: Kind<u32> = Kind::plain("number", values::count);
pub static POSITIVE: Kind<u64> = Kind::plain("number", values::positive);
pub static SIZE: Kind<u64> = Kind::plain("size", values::byte_size);
pub static PORT: Kind<u16> = Kind::plain("1 to 65535", values::port);
pub static IP_ADDRESS: Kind<IpAddr> = Kind::plain("IP address", values::bind_address);
pub static ADDRESS: Kind<Uri> = Kind::plain("address", values::http_url);

pub static LOG_LEVEL: Kind<LogLevel> = Kind::words();
/// ld-relay v8: every text other than `json` means text.
pub static LOG_FORMAT: Kind<LogFormat> = Kind::new(
    "`json` (case-insensitive) or any other text",
    |text| {
        let is_json = text.eq_ignore_ascii_case("json");
        Ok(if is_json { LogFormat::Json } else { LogFormat::Text })
    },
    |format| Some(if *format == LogFormat::Json { "json" } else { "text" }.to_owned()),
);
pub static TLS_VERSION: Kind<TlsVersion> = Kind::words();
pub static CACHE_FORMAT: Kind<CacheFormat> = Kind::words();
pub static CACHE_ADOPT: Kind<CacheAdopt> = Kind::words();
pub static REDIS_MODE: Kind<RedisMode> = Kind::words();
pub static PREFER_OVER: Kind<PreferOver> = Kind::words();
pub static DIRECTORY: Kind<String> = Kind::plain("path, or `off`", |text| Ok(text.to_owned()));
/// Zero means no limit.
pub static LIMIT: Kind<u64> = Kind::plain("number", values::limit);
/// ld-relay v9: checked only if OpenTelemetry is on, see `sections::metrics`.
pub static PROTOCOL: Kind<String> =
    Kind::plain("`grpc`, `http`, `http/protobuf`, `http/json`", |text| Ok(text.to_owned()));
/// ld-relay v9: only `none` turns a signal off; with every other value it is sent by OTLP.
pub static EXPORTER: Kind<String> = Kind::new(
    "`otlp`, `none`",
    |text| Ok(text.to_owned()),
    |word| {
        let is_none = word.trim().eq_ignore_ascii_case("none");
        Some(if is_none { "none" } else { "otlp" }.to_owned())
    },
);

pub static DURATION: Kind<Duration> = Kind::new("duration", values::duration, show_duration);
/// Values below zero mean zero.
pub static DURATION_FROM_ZERO: Kind<Duration> =
    Kind::new("duration", values::duration_from_zero, show_duration);
/// Zero and values below it mean *off*.
pub static DURATION_OR_OFF: Kind<Option<Duration>> =
    Kind::new("duration", values::duration_or_off, |duration| show_duration(duration.as_ref()?));
pub static INTERVAL: Kind<Duration> =
    Kind::new("duration, 100ms or more", values::interval_of_100ms, show_duration);
pub static LOCAL_TTL: Kind<LocalTtl> = Kind::plain("duration", values::local_ttl);

/// Items including the blanks around them.
pub static LIST: Kind<Vec<String>> = list("list");
pub static FILTERS: Kind<Vec<String>> = list("list; spaces around items are ignored");
pub static TAGS: Kind<Vec<String>> = list("list of `name:value`");
/// Shown by the section, without passwords.
pub static REDIS_URLS: Kind<Vec<String>> =
    Kind::new("URLs, separated by commas", |text| Ok(items(text)), |_| None).joined();

pub static REDIS_URL: Kind<RedactedUrl> = Kind::new(
    "`redis://`, `rediss://`, `valkey://`, `valkeys://`, `unix://`",
    values::redis_url,
    |url| Some(url.redacted()),
);
pub static HOST_NAME: Kind<String> = Kind::plain("host", values::host_name);
pub static PORT_OR_LINK: Kind<PortOrLink> = Kind::plain("1 to 65535", values::port_or_link);
pub static CONSUL_ADDRESS: Kind<ConsulAddress> =
    Kind::new("host, optionally with a port", values::consul_address, |address| {
        Some(address.uri.to_string())
    });
pub static PROXY_URL: Kind<RedactedUrl> =
    Kind::new("`http://`, `https://`", values::proxy_url, |url| Some(url.redacted()));

pub static AUTO_CONFIG_KEY: Kind<AutoConfigKey> = Kind::secret("secret", |key| tail(key.expose()));
pub static SDK_KEY: Kind<SdkKey> = Kind::secret("secret", |key| tail(key.expose()));
pub static MOBILE_KEY: Kind<MobileKey> = Kind::secret("secret", |key| tail(key.expose()));
pub static PASSWORD: Kind<Password> = Kind::secret("secret", |_| Some("set".to_owned()));
pub static HEADER_TOKEN: Kind<HeaderToken> = Kind::secret("secret", |_| Some("set".to_owned()));
pub static PASSWORDS: Kind<Vec<Password>> = Kind::new(
    "secrets, separated by commas",
    |text| Ok(Vec::from_text(text).unwrap_or_default()),
    |keys| (!keys.is_empty()).then(|| format!("{} set", keys.len())),
)
.joined();

const fn list(name: &'static str) -> Kind<Vec<String>> {
    Kind::new(name, |text| Ok(items(text)), |items| Some(items.join(", "))).joined()
}

/// ld-relay v8: nothing around an item is trimmed.
fn items(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

fn show_duration(duration: &Duration) -> Option<String> {
    Some(Written(*duration).to_string())
}

/// The last four characters of a long key, which LaunchDarkly's own pages show as well; no
/// character of a short one.
fn tail(text: &str) -> Option<String> {
    let count = text.chars().count();
    let end: String = text.chars().skip(count.saturating_sub(4)).collect();
    Some(if count > 8 { format!("…{end}") } else { "set".to_owned() })
}

/// Warning for lists in which an item with blanks around it is allowed but matches nothing.
#[expect(clippy::ptr_arg, reason = "rows hold functions of their values")]
pub fn warn_of_blanks(items: &Vec<String>) -> Option<String> {
    let is_odd = items.iter().any(|item| item.trim() != item || item.is_empty());
    let what = "an item of the list is empty or has spaces around it; spaces are part of the item, \
                as in ld-relay";
    is_odd.then(|| what.to_owned())
}

/// Warning for exporters that do not exist.
#[expect(clippy::ptr_arg, reason = "rows hold functions of their values")]
pub fn warn_of_other_exporters(word: &String) -> Option<String> {
    let word = word.trim();
    let is_known = ["none", "otlp"].iter().any(|known| word.eq_ignore_ascii_case(known));
    (!is_known).then(|| format!("{} is not supported; otlp is used", quoted(word)))
}
