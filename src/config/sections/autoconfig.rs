//! `[AutoConfig]`: environments that LaunchDarkly names, and the cache of them.

use std::time::Duration;

use crate::config::env_vars as var;
use crate::config::reader::{Names, Reader, SectionReader};
use crate::config::secrets::{SecretSource, WeakKey};
use crate::config::values::{self, Invalid};
use crate::model::{AutoConfigKey, Password};

use super::offline::{self, OfflineConfig};

pub(in crate::config) const SECTION: &str = "AutoConfig";
pub(in crate::config) const KEY: Names = Names::both("key", var::AUTO_CONFIG_KEY);
pub(in crate::config) const KEY_FILE: Names = Names::both("keyFile", var::AUTO_CONFIG_KEY_FILE);
const ENCRYPTION_KEY: Names =
    Names::both("cacheEncryptionKey", var::AUTO_CONFIG_CACHE_ENCRYPTION_KEY);
const ENCRYPTION_KEY_FILE: Names =
    Names::both("cacheEncryptionKeyFile", var::AUTO_CONFIG_CACHE_ENCRYPTION_KEY_FILE);
pub(in crate::config) const CACHE_KEY: Names = Names::both("cacheKey", var::AUTO_CONFIG_CACHE_KEY);
pub(in crate::config) const STORE_PREFIX: Names =
    Names::both("envDatastorePrefix", var::ENV_DATASTORE_PREFIX);
pub(in crate::config) const STORE_TABLE: Names =
    Names::both("envDatastoreTableName", var::ENV_DATASTORE_TABLE_NAME);
const ALLOWED_ORIGIN: Names = Names::both("envAllowedOrigin", var::ENV_ALLOWED_ORIGIN);
const ALLOWED_HEADER: Names = Names::both("envAllowedHeader", var::ENV_ALLOWED_HEADER);

/// The options that make no sense unless something else than the configuration names the
/// environments.
pub(in crate::config) const OF_ENVIRONMENTS: [Names; 4] =
    [STORE_PREFIX, STORE_TABLE, ALLOWED_ORIGIN, ALLOWED_HEADER];

/// What stands for the environment's ID in a prefix or table name.
pub(in crate::config) const ID_PLACEHOLDER: &str = "$CID";

/// `[AutoConfig]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AutoConfigSection {
    /// The key that opens the autoconfig stream; `None` is manual configuration.
    pub key: Option<SecretSource<AutoConfigKey>>,
    /// Namespace of the shared cache, without blanks around it; `None` is no shared cache. Set
    /// only together with a key.
    pub cache_key: Option<String>,
    /// Seals what is cached, here and in the shared cache; `None` is the autoconfig key.
    pub cache_encryption_key: Option<SecretSource<Password>>,
    /// Keys that only decrypt.
    pub cache_previous_encryption_keys: Option<SecretSource<Vec<Password>>>,
    /// How shared records are written.
    pub cache_format: CacheFormat,
    /// Whether ld-relay's records may be used where sealed ones are expected.
    pub cache_adopt: CacheAdopt,
    /// Older cached environments are refused; `None` is no limit.
    pub cache_max_age: Option<Duration>,
    /// What holds for each environment.
    pub environments: EnvironmentDefaults,
}

/// How shared records are written. Both forms are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheFormat {
    /// Our own: sealed, bound to its place, with a manifest.
    #[default]
    Sealed,
    /// The one ld-relay reads, for fleets of both.
    LdRelay,
}

impl CacheFormat {
    /// The word in configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::LdRelay => "ld-relay",
        }
    }
}

/// Whether ld-relay's records in the shared cache may be used where sealed ones are expected.
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

impl CacheAdopt {
    /// The word in configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

/// What is said once for all environments that the configuration does not name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvironmentDefaults {
    store_prefix: String,
    store_table: String,
    /// CORS origins; empty allows every origin.
    pub allowed_origins: Vec<String>,
    /// Additional CORS request headers.
    pub allowed_headers: Vec<String>,
}

impl EnvironmentDefaults {
    /// The prefix with the placeholder in it.
    pub fn store_prefix_template(&self) -> &str {
        &self.store_prefix
    }

    /// The table name with the placeholder in it.
    pub fn store_table_template(&self) -> &str {
        &self.store_table
    }

    /// Reads the four options, of which the variables belong to one section at a time.
    pub(super) fn read(section: &mut SectionReader<'_, '_>, owns_variables: bool) -> Self {
        let own = |names: Names| if owns_variables { names } else { file_only(names) };
        Self {
            store_prefix: section.text(own(STORE_PREFIX)).unwrap_or_default(),
            store_table: section.text(own(STORE_TABLE)).unwrap_or_default(),
            allowed_origins: section.literal_list(own(ALLOWED_ORIGIN)),
            allowed_headers: section.literal_list(own(ALLOWED_HEADER)),
        }
    }
}

fn file_only(names: Names) -> Names {
    Names { variable: None, ..names }
}

/// The two ways in which environments are named by something else than the configuration.
pub(super) struct Modes {
    pub(super) autoconfig: AutoConfigSection,
    pub(super) offline: Option<OfflineConfig>,
}

impl Modes {
    /// Reads both sections. ld-relay v8: the variables they share belong to the one that is in
    /// use, and to autoconfig if both or none are.
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let mut section = reader.section(SECTION);
        let key = section.secret(KEY, KEY_FILE);
        let has_key = section.is_set(KEY) || section.is_set(KEY_FILE);
        let archive = offline::read_archive(reader);
        let offline_owns_variables = archive.is_some() && !has_key;
        Self {
            autoconfig: read(reader, key, has_key, !offline_owns_variables),
            offline: offline::read(reader, archive, offline_owns_variables),
        }
    }
}

fn read(
    reader: &mut Reader<'_>,
    key: Option<SecretSource<AutoConfigKey>>,
    has_key: bool,
    owns_variables: bool,
) -> AutoConfigSection {
    let mut section = reader.section(SECTION);
    let cache_key = section.parsed(CACHE_KEY, values::trimmed_text).flatten();
    if cache_key.is_some() && !has_key {
        section.warning(CACHE_KEY, "has no effect without an autoconfig key");
    }
    let encryption_key = section.secret(ENCRYPTION_KEY, ENCRYPTION_KEY_FILE).and_then(trimmed);
    if let Some(source) = &encryption_key
        && let Some(weakness) = WeakKey::find(source.value.expose())
    {
        let names = if source.file.is_some() { ENCRYPTION_KEY_FILE } else { ENCRYPTION_KEY };
        section.warning(names, weakness.to_string());
    }
    let previous_keys = section.secret_list(
        Names::both("cachePreviousEncryptionKeys", var::AUTO_CONFIG_CACHE_PREVIOUS_ENCRYPTION_KEYS),
        Names::both(
            "cachePreviousEncryptionKeysFile",
            var::AUTO_CONFIG_CACHE_PREVIOUS_ENCRYPTION_KEYS_FILE,
        ),
    );
    let format = Names::both("cacheFormat", var::AUTO_CONFIG_CACHE_FORMAT);
    let adopt = Names::both("cacheAdopt", var::AUTO_CONFIG_CACHE_ADOPT);
    let max_age = Names::both("cacheMaxAge", var::AUTO_CONFIG_CACHE_MAX_AGE);
    AutoConfigSection {
        key,
        cache_key: cache_key.filter(|_| has_key),
        cache_encryption_key: encryption_key,
        cache_previous_encryption_keys: previous_keys,
        cache_format: section.parsed(format, cache_format).unwrap_or_default(),
        cache_adopt: section.parsed(adopt, cache_adopt).unwrap_or_default(),
        cache_max_age: section.parsed(max_age, values::duration_or_off).flatten(),
        environments: EnvironmentDefaults::read(&mut section, owns_variables),
    }
}

/// ld-relay v8: blanks around the encryption key do not count, a blank one is none.
fn trimmed(source: SecretSource<Password>) -> Option<SecretSource<Password>> {
    let SecretSource { value, file } = source;
    let text = value.expose().trim();
    (!text.is_empty()).then(|| SecretSource { value: Password::new(text), file })
}

fn cache_format(text: &str) -> Result<CacheFormat, Invalid> {
    [CacheFormat::Sealed, CacheFormat::LdRelay]
        .into_iter()
        .find(|format| text.eq_ignore_ascii_case(format.as_str()))
        .ok_or_else(|| Invalid::is_not(text, "a format", "sealed, ld-relay"))
}

fn cache_adopt(text: &str) -> Result<CacheAdopt, Invalid> {
    [CacheAdopt::Once, CacheAdopt::Always, CacheAdopt::Never]
        .into_iter()
        .find(|adopt| text.eq_ignore_ascii_case(adopt.as_str()))
        .ok_or_else(|| Invalid::is_not(text, "a value of cacheAdopt", "once, always, never"))
}
