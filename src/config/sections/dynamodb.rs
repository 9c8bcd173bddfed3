//! `[DynamoDB]`.

use std::path::Path;
use std::time::Duration;

use ::http::Uri;

use crate::config::reader::Reader;
use crate::config::table::{Row, dynamodb as table, local_store};
use crate::config::values::LocalTtl;

use super::database::turn_off;

/// `[DynamoDB]`. Region and credentials come from the same places as for AWS's tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynamoDbConfig {
    /// The global table; `None` if each environment has its own.
    pub table: Option<String>,
    /// The endpoint, if it is not AWS's.
    pub endpoint: Option<Uri>,
    /// Time for which data read from it is served from memory.
    pub local_ttl: LocalTtl,
    /// Interval of checks; `None` means never.
    pub health_check_interval: Option<Duration>,
}

/// Reads the section. Returns true if DynamoDB is on, and its settings.
pub(super) fn read(reader: &mut Reader<'_>) -> (bool, Option<DynamoDbConfig>) {
    let mut section = reader.global();
    let is_enabled = section.value(&table::USE_DYNAMODB);
    if !is_enabled {
        let is_said =
            section.is_in_file(&table::USE_DYNAMODB) || section.is_variable(&table::USE_DYNAMODB);
        let switch = table::USE_DYNAMODB.variable.filter(|_| !is_said);
        turn_off(&mut section, table::ROWS, &[&table::DYNAMODB_TABLE], switch);
    }
    let config = DynamoDbConfig {
        table: section.read(&table::DYNAMODB_TABLE),
        endpoint: section.read(&table::DYNAMODB_URL),
        local_ttl: section.value(&table::CACHE_TTL),
        health_check_interval: section.value(&table::DYNAMODB_HEALTH_CHECK_INTERVAL),
    };
    if is_enabled {
        warn_of_missing_region(reader);
    }
    (is_enabled, Some(config))
}

/// Warns of a missing region. It is no problem, because the machine may know it, which is not
/// checked here.
fn warn_of_missing_region(reader: &mut Reader<'_>) {
    let variable = |row: &Row| row.variable.and_then(|name| reader.process_variable(name));
    let home = variable(&local_store::HOME);
    let in_home = |name: &str| home.as_ref().map(|home| format!("{home}/.aws/{name}"));
    let files = [
        variable(&table::AWS_CONFIG_FILE).or_else(|| in_home("config")),
        variable(&table::AWS_SHARED_CREDENTIALS_FILE).or_else(|| in_home("credentials")),
    ];
    let is_readable = |path: String| reader.files().read(Path::new(&path)).is_ok();
    let has_region = [&table::AWS_REGION, &table::AWS_DEFAULT_REGION]
        .iter()
        .any(|region| variable(region).is_some());
    if !has_region && !files.into_iter().flatten().any(is_readable) {
        let what = "no AWS region is set; set AWS_REGION. Without it, DynamoDB can be used only on \
                    a machine of EC2, whose metadata service tells the region";
        reader.global().warning(&table::USE_DYNAMODB, what);
    }
}
