//! `[Environment "name"]` and `[Filters "project"]`: environments that the configuration names.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::values::LogLevel;
use crate::model::{MobileKey, SdkKey};

use super::kind;
use super::row::{AnyOption, Opt, both, in_file, switch, variable};

options! { "Environment",
    /// SDK key; required.
    LD_ENV_: SdkKey = both("sdkKey", &kind::SDK_KEY)
        .or_file(&SDK_KEY_FILE)
        .mistaken_beginnings(&["LD_SDK_KEY_"]);
    /// File that contains it.
    SDK_KEY_FILE: PathBuf = in_file("sdkKeyFile", &kind::PATH);
    /// Mobile key.
    LD_MOBILE_KEY_: MobileKey = both("mobileKey", &kind::MOBILE_KEY)
        .or_file(&MOBILE_KEY_FILE)
        .mistaken_beginnings(&["LD_MOBILE_"]);
    /// File that contains it.
    MOBILE_KEY_FILE: PathBuf = in_file("mobileKeyFile", &kind::PATH);
    /// Client-side ID.
    LD_CLIENT_SIDE_ID_: String = both("envId", &kind::TEXT).mistaken_beginnings(&["LD_CLIENT_ID_"]);
    /// Browsers must prove with a hash that their server allows them to ask for a context.
    LD_SECURE_MODE_: bool = switch("secureMode");
    /// Prefix of its keys in the shared database. Without it, Redis and Consul use `launchdarkly`,
    /// and DynamoDB no prefix. With a database, at most one environment may be without a prefix;
    /// with DynamoDB, its own table also suffices.
    LD_PREFIX_: String = both("prefix", &kind::TEXT);
    /// The environment's own DynamoDB table, instead of the global one.
    LD_TABLE_NAME_: String = both("tableName", &kind::TEXT);
    /// Origins of web pages that may read the answers.
    LD_ALLOWED_ORIGIN_: Vec<String> = both("allowedOrigin", &kind::LIST)
        .unset_means("every origin")
        .warn(kind::warn_of_blanks);
    /// Additional request headers that browsers may send.
    LD_ALLOWED_HEADER_: Vec<String> =
        both("allowedHeader", &kind::LIST).warn(kind::warn_of_blanks);
    /// Log level of this environment; until it is implemented, `[Main] logLevel` applies.
    LD_LOG_LEVEL_: LogLevel =
        both("logLevel", &kind::LOG_LEVEL).unset_means("that of `[Main]`").not_yet();
    /// How long HTTP caches may keep the answers to PHP SDKs (`Expires` header).
    LD_TTL_: Duration = both("ttl", &kind::DURATION).default("0");
    /// ld-relay 6 removed this variable; use `LD_TTL_<NAME>` with a unit, such as 5m.
    LD_TTL_MINUTES_: String = variable(&kind::TEXT).retired();
    /// Key of its project; required for every environment if there are filters.
    LD_PROJ_KEY_: String = both("projKey", &kind::TEXT);
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
        LD_FILTER_KEYS_: Vec<String> = both("keys", &kind::FILTERS);
    }
}
