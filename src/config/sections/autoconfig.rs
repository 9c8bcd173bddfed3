//! `[AutoConfig]`: environments that LaunchDarkly lists, and the cache of that list.

use std::time::Duration;

use crate::config::reader::Reader;
use crate::config::secrets::{SecretSource, WeakKey};
use crate::config::table::{AnyOption, Row, autoconfig as table, offline};
use crate::config::values::{CacheAdopt, CacheFormat};
use crate::model::{AutoConfigKey, Password};

/// Placeholder for the environment's ID in a prefix or table name.
pub(in crate::config) const ID_PLACEHOLDER: &str = "$CID";

/// `[AutoConfig]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AutoConfigSection {
    /// The key that opens the autoconfig stream; `None` means manual configuration.
    pub key: Option<SecretSource<AutoConfigKey>>,
    /// Namespace of the shared cache, without blanks around it; `None` means no shared cache. Set
    /// only together with a key.
    pub cache_key: Option<String>,
    /// Seals the local store and the shared cache; `None` means the autoconfig key.
    pub cache_encryption_key: Option<SecretSource<Password>>,
    /// Keys that only decrypt.
    pub cache_previous_encryption_keys: Option<SecretSource<Vec<Password>>>,
    /// Format in which shared records are written.
    pub cache_format: CacheFormat,
    /// Rule for using ld-relay's records where sealed ones are expected.
    pub cache_adopt: CacheAdopt,
    /// Age above which cached environments are refused; `None` means no limit.
    pub cache_max_age: Option<Duration>,
    /// Defaults of each environment, in offline mode as well.
    pub environments: EnvironmentDefaults,
}

/// Settings of all environments that the configuration does not name.
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
}

/// The rows with the defaults of environments, in `[AutoConfig]` or `[OfflineMode]`.
pub(in crate::config) fn of_environments(
    rows: &'static [&'static dyn AnyOption],
) -> impl Iterator<Item = &'static Row> {
    let rows = rows.iter().map(|option| option.row());
    rows.filter(|row| row.option.is_some_and(|name| name.starts_with("env")))
}

/// Reads the section, and the option that switches offline mode on.
///
/// ld-relay v8: the variables that both sections share belong to the one in use, and to autoconfig
/// if both or none are.
pub(super) fn read(reader: &mut Reader<'_>) -> AutoConfigSection {
    let mut section = reader.global();
    let key = section.secret(&table::AUTO_CONFIG_KEY);
    let has_key =
        section.is_set(&table::AUTO_CONFIG_KEY) || section.is_set(&table::AUTO_CONFIG_KEY_FILE);
    let is_offline = section.read(&offline::FILE_DATA_SOURCE).is_some() && !has_key;
    let idle = if is_offline { table::ROWS } else { offline::ROWS };
    section.reader.turn_off(of_environments(idle));
    if !has_key {
        let manual = "not set; the environments are listed below";
        section.show(&table::AUTO_CONFIG_KEY, Some(manual.to_owned()));
    }
    let cache_key = section.read(&table::AUTO_CONFIG_CACHE_KEY).flatten();
    if cache_key.is_some() && !has_key {
        section.warning(&table::AUTO_CONFIG_CACHE_KEY, "has no effect without an autoconfig key");
    }
    let encryption_key = section.secret(&table::AUTO_CONFIG_CACHE_ENCRYPTION_KEY).and_then(trimmed);
    if let Some(source) = &encryption_key
        && let Some(weakness) = WeakKey::find(source.value.expose())
    {
        let row: &Row = match source.file {
            Some(_) => &table::AUTO_CONFIG_CACHE_ENCRYPTION_KEY_FILE,
            None => &table::AUTO_CONFIG_CACHE_ENCRYPTION_KEY,
        };
        section.warning(row, weakness.to_string());
    }
    let previous_keys = section.secret(&table::AUTO_CONFIG_CACHE_PREVIOUS_ENCRYPTION_KEYS);
    let (prefix, table_name, origins, headers) = match is_offline {
        false => (
            &table::ENV_DATASTORE_PREFIX,
            &table::ENV_DATASTORE_TABLE_NAME,
            &table::ENV_ALLOWED_ORIGIN,
            &table::ENV_ALLOWED_HEADER,
        ),
        true => (
            &offline::ENV_DATASTORE_PREFIX,
            &offline::ENV_DATASTORE_TABLE_NAME,
            &offline::ENV_ALLOWED_ORIGIN,
            &offline::ENV_ALLOWED_HEADER,
        ),
    };
    AutoConfigSection {
        key,
        cache_key: cache_key.filter(|_| has_key),
        cache_encryption_key: encryption_key,
        cache_previous_encryption_keys: previous_keys.filter(|keys| !keys.value.is_empty()),
        cache_format: section.value(&table::AUTO_CONFIG_CACHE_FORMAT),
        cache_adopt: section.value(&table::AUTO_CONFIG_CACHE_ADOPT),
        cache_max_age: section.read(&table::AUTO_CONFIG_CACHE_MAX_AGE).flatten(),
        environments: EnvironmentDefaults {
            store_prefix: section.read(prefix).unwrap_or_default(),
            store_table: section.read(table_name).unwrap_or_default(),
            allowed_origins: section.read(origins).unwrap_or_default(),
            allowed_headers: section.read(headers).unwrap_or_default(),
        },
    }
}

/// ld-relay v8: blanks around the encryption key are removed; a blank key means none.
fn trimmed(source: SecretSource<Password>) -> Option<SecretSource<Password>> {
    let SecretSource { value, file } = source;
    let text = value.expose().trim();
    (!text.is_empty()).then(|| SecretSource { value: Password::new(text), file })
}
