//! `[DynamoDB]`.

use std::path::PathBuf;
use std::time::Duration;

use http::Uri;

use crate::config::values::LocalTtl;

use super::kind;
use super::row::{AnyOption, Opt, both, switch, variable};

options! { "DynamoDB",
    /// Enables DynamoDB.
    USE_DYNAMODB: bool = switch("enabled");
    /// The global table; required unless each environment has its own, and always required for
    /// the autoconfig cache.
    DYNAMODB_TABLE: String =
        both("tableName", &kind::TEXT).unset_means("one table for each environment");
    /// AWS region.
    AWS_REGION: String =
        variable(&kind::TEXT).unset_means("from the profile or the machine").of_process().shared();
    /// AWS region, if `AWS_REGION` is not set.
    AWS_DEFAULT_REGION: String = variable(&kind::TEXT).of_process().shared();
    /// File of AWS profiles.
    AWS_CONFIG_FILE: PathBuf =
        variable(&kind::PATH).unset_means("`~/.aws/config`").of_process().shared();
    /// File of AWS credentials.
    AWS_SHARED_CREDENTIALS_FILE: PathBuf =
        variable(&kind::PATH).unset_means("`~/.aws/credentials`").of_process().shared();
    /// Another endpoint.
    DYNAMODB_URL: Uri = both("url", &kind::ADDRESS)
        .unset_means("the endpoint of AWS")
        .mistaken(
            &["DYNAMODB_ADDR", "DYNAMODB_ADDRESS", "DYNAMODB_ENDPOINT"],
            "the address of DynamoDB is set by DYNAMODB_URL, together with USE_DYNAMODB=true",
        );
    /// As for Redis.
    DYNAMODB_HEALTH_CHECK_INTERVAL: Option<Duration> =
        both("healthCheckInterval", &kind::DURATION_OR_OFF).default("30s");
    /// As for Redis.
    CACHE_TTL: LocalTtl = both("localTtl", &kind::LOCAL_TTL).default("30s");
}
