//! `[Environment "name"]` and `[Filters "project"]`: environments that the configuration names.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::values::LogLevel;
use crate::model::{MobileKey, SdkKey};

use super::kind;
use super::row::{AnyOption, Opt, both, in_file, switch, variable};

options! { "Environment",
    /// SDK key; required.
    SDK_KEY: SdkKey = both("sdkKey", "LD_ENV_", &kind::SDK_KEY)
        .or_file(&SDK_KEY_FILE)
        .mistaken(&["LD_SDK_KEY_"], "");
    /// File that contains it.
    SDK_KEY_FILE: PathBuf = in_file("sdkKeyFile", &kind::PATH);
    /// Mobile key.
    MOBILE_KEY: MobileKey =
        both("mobileKey", "LD_MOBILE_KEY_", &kind::MOBILE_KEY)
            .or_file(&MOBILE_KEY_FILE)
            .mistaken(&["LD_MOBILE_"], "");
    /// File that contains it.
    MOBILE_KEY_FILE: PathBuf = in_file("mobileKeyFile", &kind::PATH);
    /// Client-side ID.
    ENV_ID: String =
        both("envId", "LD_CLIENT_SIDE_ID_", &kind::TEXT).mistaken(&["LD_CLIENT_ID_"], "");
    /// Whether client-side evaluation requires a hash.
    SECURE_MODE: bool = switch("secureMode", "LD_SECURE_MODE_").not_yet();
    /// Prefix of its keys in the shared database. Without it, Redis and Consul use `launchdarkly`,
    /// and DynamoDB no prefix. With a database, at most one environment may be without a prefix;
    /// with DynamoDB, its own table also suffices.
    PREFIX: String = both("prefix", "LD_PREFIX_", &kind::TEXT);
    /// The environment's own DynamoDB table, instead of the global one.
    TABLE_NAME: String = both("tableName", "LD_TABLE_NAME_", &kind::TEXT);
    /// Origins of web pages that may read the answers.
    ALLOWED_ORIGIN: Vec<String> = both("allowedOrigin", "LD_ALLOWED_ORIGIN_", &kind::LIST)
        .unset_means("every origin")
        .warn(kind::warn_of_blanks)
        .not_yet();
    /// Additional request headers that browsers may send.
    ALLOWED_HEADER: Vec<String> = both("allowedHeader", "LD_ALLOWED_HEADER_", &kind::LIST)
        .warn(kind::warn_of_blanks)
        .not_yet();
    /// Log level of this environment; until it is implemented, `[Main] logLevel` applies.
    LOG_LEVEL: LogLevel = both("logLevel", "LD_LOG_LEVEL_", &kind::LOG_LEVEL)
        .unset_means("that of `[Main]`")
        .not_yet();
    /// How long HTTP caches may keep the answers to PHP SDKs (`Expires` header).
    TTL: Duration = both("ttl", "LD_TTL_", &kind::DURATION).default("0");
    /// ld-relay 6 removed this variable; use `LD_TTL_<NAME>` with a unit, such as 5m.
    TTL_MINUTES_VARIABLE: String = variable("LD_TTL_MINUTES_", &kind::TEXT).retired();
    /// Key of its project; required for every environment if there are filters.
    PROJ_KEY: String = both("projKey", "LD_PROJ_KEY_", &kind::TEXT);
    /// It is internal to ld-relay.
    OFFLINE: bool = in_file("offline", &kind::SWITCH).never();
    /// It is internal to ld-relay; use `[Filters]`.
    FILTER_KEY: String = in_file("filterKey", &kind::TEXT).never();
    /// ld-relay 6 renamed this option to `ttl`; the value needs a unit, such as 5m.
    TTL_MINUTES: String = in_file("ttlMinutes", &kind::TEXT).retired();
    /// ld-relay 6 removed this option; use `sdkKey`.
    API_KEY: String = in_file("apiKey", &kind::TEXT).retired();
    /// ld-relay 6 removed this option; certificates are always verified. To trust another CA, use
    /// `[Proxy] caCertFiles`.
    INSECURE_SKIP_VERIFY: String = in_file("insecureSkipVerify", &kind::TEXT).retired();
}

/// `[Filters "project"]`.
pub mod filters {
    use super::*;

    options! { "Filters",
        /// Payload filters; each environment of the project is also served through each of them,
        /// with the prefix `prefix/filter` in the database.
        KEYS: Vec<String> = both("keys", "LD_FILTER_KEYS_", &kind::FILTERS);
    }
}
