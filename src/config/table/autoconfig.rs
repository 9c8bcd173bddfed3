//! `[AutoConfig]`: environments that LaunchDarkly names, and the cache of them.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::values::{CacheAdopt, CacheFormat};
use crate::model::{AutoConfigKey, Password};

use super::kind;
use super::row::{AnyOption, Opt, both};

options! { "AutoConfig",
    /// Key of the relay's configuration in LaunchDarkly.
    KEY: AutoConfigKey = both("key", "AUTO_CONFIG_KEY", &kind::AUTO_CONFIG_KEY).or_file(&KEY_FILE);
    /// File that contains it.
    KEY_FILE: PathBuf = both("keyFile", "AUTO_CONFIG_KEY_FILE", &kind::PATH);
    /// Stores the list of environments in the shared database too, under this name. Requires
    /// Redis, DynamoDB with a global table, or Consul. The local store keeps the list even
    /// without this option.
    CACHE_KEY: Option<String> =
        both("cacheKey", "AUTO_CONFIG_CACHE_KEY", &kind::TRIMMED).unset_means("no shared cache");
    /// Key that encrypts the local store and the shared cache; any text, for example one that
    /// `pilotlight generate-key` prints. A weak key causes a warning.
    CACHE_ENCRYPTION_KEY: Password =
        both("cacheEncryptionKey", "AUTO_CONFIG_CACHE_ENCRYPTION_KEY", &kind::PASSWORD)
            .unset_means("the autoconfig key, if there is one")
            .or_file(&CACHE_ENCRYPTION_KEY_FILE);
    /// File that contains it.
    CACHE_ENCRYPTION_KEY_FILE: PathBuf =
        both("cacheEncryptionKeyFile", "AUTO_CONFIG_CACHE_ENCRYPTION_KEY_FILE", &kind::PATH);
    /// Keys that can still decrypt older records, until the relay has encrypted them with the
    /// current key.
    CACHE_PREVIOUS_ENCRYPTION_KEYS: Vec<Password> = both(
        "cachePreviousEncryptionKeys",
        "AUTO_CONFIG_CACHE_PREVIOUS_ENCRYPTION_KEYS",
        &kind::PASSWORDS,
    )
    .or_file(&CACHE_PREVIOUS_ENCRYPTION_KEYS_FILE);
    /// File that contains them, one per line or separated by commas.
    CACHE_PREVIOUS_ENCRYPTION_KEYS_FILE: PathBuf = both(
        "cachePreviousEncryptionKeysFile",
        "AUTO_CONFIG_CACHE_PREVIOUS_ENCRYPTION_KEYS_FILE",
        &kind::PATH,
    );
    /// Format in which the relay writes shared records: `sealed`, Pilotlight's own format
    /// (encrypted and authenticated), or `ld-relay`, for fleets that also run ld-relay. Both
    /// formats are read.
    CACHE_FORMAT: CacheFormat =
        both("cacheFormat", "AUTO_CONFIG_CACHE_FORMAT", &kind::CACHE_FORMAT).default("sealed");
    /// Whether the relay uses records of ld-relay in the shared cache where it expects sealed
    /// ones. `once`: only if neither the local store nor the shared cache contains sealed
    /// records. `always`: whenever no sealed manifest can be read. Each use is logged as a
    /// warning, because the age of such records is unknown. With `cacheFormat = ld-relay` this
    /// option has no effect.
    CACHE_ADOPT: CacheAdopt =
        both("cacheAdopt", "AUTO_CONFIG_CACHE_ADOPT", &kind::CACHE_ADOPT).default("once");
    /// The relay does not use cached environments that LaunchDarkly confirmed longer ago than
    /// this, or whose age is unknown; 0: no limit.
    CACHE_MAX_AGE: Option<Duration> =
        both("cacheMaxAge", "AUTO_CONFIG_CACHE_MAX_AGE", &kind::DURATION_OR_OFF)
            .unset_means("no limit");
    /// Prefix of each environment's keys in the shared database; `$CID` is replaced by the
    /// environment's client-side ID.
    ENV_DATASTORE_PREFIX: String = both("envDatastorePrefix", "ENV_DATASTORE_PREFIX", &kind::TEXT);
    /// DynamoDB table of each environment; `$CID` is replaced in the same way.
    ENV_DATASTORE_TABLE_NAME: String =
        both("envDatastoreTableName", "ENV_DATASTORE_TABLE_NAME", &kind::TEXT);
    /// Origins of web pages that may read the answers.
    ENV_ALLOWED_ORIGIN: Vec<String> = both("envAllowedOrigin", "ENV_ALLOWED_ORIGIN", &kind::LIST)
        .unset_means("every origin")
        .warn(kind::warn_of_blanks)
        .not_yet();
    /// Additional request headers that browsers may send.
    ENV_ALLOWED_HEADER: Vec<String> = both("envAllowedHeader", "ENV_ALLOWED_HEADER", &kind::LIST)
        .warn(kind::warn_of_blanks)
        .not_yet();
}
