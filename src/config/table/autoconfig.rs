//! `[AutoConfig]`: environments that LaunchDarkly names, and the cache of them.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::values::{CacheAdopt, CacheFormat};
use crate::model::{AutoConfigKey, Password};

use super::kind;
use super::row::{AnyOption, Opt, both};

options! { "AutoConfig",
    /// Key of the relay's configuration in LaunchDarkly.
    AUTO_CONFIG_KEY: AutoConfigKey =
        both("key", &kind::AUTO_CONFIG_KEY).or_file(&AUTO_CONFIG_KEY_FILE);
    /// File that contains it.
    AUTO_CONFIG_KEY_FILE: PathBuf = both("keyFile", &kind::PATH);
    /// Stores the list of environments in the shared database too, under this name. Requires
    /// Redis, DynamoDB with a global table, or Consul. The local store keeps the list even
    /// without this option.
    AUTO_CONFIG_CACHE_KEY: Option<String> =
        both("cacheKey", &kind::TRIMMED).unset_means("no shared cache");
    /// Key that encrypts the local store and the shared cache; any text, for example one that
    /// `pilotlight generate-key` prints. A weak key causes a warning.
    AUTO_CONFIG_CACHE_ENCRYPTION_KEY: Password = both("cacheEncryptionKey", &kind::PASSWORD)
        .unset_means("the autoconfig key, or a random key in `local.key`")
        .or_file(&AUTO_CONFIG_CACHE_ENCRYPTION_KEY_FILE);
    /// File that contains it.
    AUTO_CONFIG_CACHE_ENCRYPTION_KEY_FILE: PathBuf = both("cacheEncryptionKeyFile", &kind::PATH);
    /// Keys that can still decrypt older records, until the relay has encrypted them with the
    /// current key.
    AUTO_CONFIG_CACHE_PREVIOUS_ENCRYPTION_KEYS: Vec<Password> =
        both("cachePreviousEncryptionKeys", &kind::PASSWORDS)
            .or_file(&AUTO_CONFIG_CACHE_PREVIOUS_ENCRYPTION_KEYS_FILE);
    /// File that contains them, one per line or separated by commas.
    AUTO_CONFIG_CACHE_PREVIOUS_ENCRYPTION_KEYS_FILE: PathBuf =
        both("cachePreviousEncryptionKeysFile", &kind::PATH);
    /// Format in which the relay writes shared records: `sealed`, Pilotlight's own format
    /// (encrypted and authenticated), or `ld-relay`, for fleets that also run ld-relay. Both
    /// formats are read.
    AUTO_CONFIG_CACHE_FORMAT: CacheFormat =
        both("cacheFormat", &kind::CACHE_FORMAT).default("sealed");
    /// Use of ld-relay's records in the shared cache where the relay expects sealed ones. `once`:
    /// only if neither the local store nor the shared cache contains sealed records. `always`:
    /// whenever no sealed manifest can be read. Each use is logged as a warning, because the age of
    /// such records is unknown. With `cacheFormat = ld-relay` this option has no effect.
    AUTO_CONFIG_CACHE_ADOPT: CacheAdopt = both("cacheAdopt", &kind::CACHE_ADOPT).default("once");
    /// The relay does not use cached environments that LaunchDarkly confirmed longer ago than
    /// this, or whose age is unknown; 0: no limit.
    AUTO_CONFIG_CACHE_MAX_AGE: Option<Duration> =
        both("cacheMaxAge", &kind::DURATION_OR_OFF).unset_means("no limit");
    /// Prefix of each environment's keys in the shared database; `$CID` is replaced by the
    /// environment's client-side ID.
    ENV_DATASTORE_PREFIX: String = both("envDatastorePrefix", &kind::TEXT);
    /// DynamoDB table of each environment; `$CID` is replaced in the same way.
    ENV_DATASTORE_TABLE_NAME: String = both("envDatastoreTableName", &kind::TEXT);
    /// Origins of web pages that may read the answers.
    ENV_ALLOWED_ORIGIN: Vec<String> = both("envAllowedOrigin", &kind::LIST)
        .unset_means("every origin")
        .warn(kind::warn_of_blanks);
    /// Additional request headers that browsers may send.
    ENV_ALLOWED_HEADER: Vec<String> =
        both("envAllowedHeader", &kind::LIST).warn(kind::warn_of_blanks);
}
