//! `[OfflineMode]`: environments and flags from an archive file.

use std::path::PathBuf;
use std::time::Duration;

use super::kind;
use super::row::{AnyOption, Opt, both};

options! { "OfflineMode",
    /// Archive of environments and flags, `.tar.gz` or `.tar`. The relay connects to LaunchDarkly
    /// neither for flags nor for events.
    FILE_DATA_SOURCE: PathBuf =
        both("fileDataSource", &kind::PATH);
    /// How often the relay checks the archive for changes. Events of the file system make it check
    /// at once, where there are any.
    FILE_DATA_SOURCE_MONITORING_INTERVAL: Duration =
        both("fileDataSourceMonitoringInterval", &kind::INTERVAL).default("1s");
    /// As in `[AutoConfig]`.
    ENV_DATASTORE_PREFIX: String = both("envDatastorePrefix", &kind::TEXT);
    /// As in `[AutoConfig]`.
    ENV_DATASTORE_TABLE_NAME: String = both("envDatastoreTableName", &kind::TEXT);
    /// As in `[AutoConfig]`.
    ENV_ALLOWED_ORIGIN: Vec<String> = both("envAllowedOrigin", &kind::LIST)
        .unset_means("every origin")
        .warn(kind::warn_of_blanks);
    /// As in `[AutoConfig]`.
    ENV_ALLOWED_HEADER: Vec<String> =
        both("envAllowedHeader", &kind::LIST).warn(kind::warn_of_blanks);
}
