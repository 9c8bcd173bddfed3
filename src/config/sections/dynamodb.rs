//! `[DynamoDB]`.

use std::time::Duration;

use ::http::Uri;

use crate::config::env_vars as var;
use crate::config::reader::{Names, Reader};
use crate::config::values::{self, LocalTtl};

use super::database::{Switched, health_check_interval, local_ttl, warn_of_idle_variables};

pub(in crate::config) const SECTION: &str = "DynamoDB";
pub(in crate::config) const TABLE: Names = Names::both("tableName", var::DYNAMODB_TABLE);

/// `[DynamoDB]`. Region and credentials come from where AWS's tools take them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynamoDbConfig {
    /// The global table; `None` if each environment has its own.
    pub table: Option<String>,
    /// Another endpoint than AWS's.
    pub endpoint: Option<Uri>,
    /// How long data read from it is served from memory.
    pub local_ttl: LocalTtl,
    /// How often it is checked; `None` is never.
    pub health_check_interval: Option<Duration>,
}

/// Reads the section.
pub(super) fn read(reader: &mut Reader<'_>) -> Switched<DynamoDbConfig> {
    let mut section = reader.section(SECTION);
    let is_enabled = section.boolean(Names::both("enabled", var::USE_DYNAMODB));
    if is_enabled != Some(true) {
        if is_enabled.is_none() {
            warn_of_idle_variables(&mut section, &[TABLE], var::USE_DYNAMODB);
        }
        section.ignore_variables();
    }
    let config = DynamoDbConfig {
        table: section.text(TABLE),
        endpoint: section.parsed(Names::both("url", var::DYNAMODB_URL), values::http_url),
        local_ttl: local_ttl(&mut section),
        health_check_interval: health_check_interval(
            &mut section,
            var::DYNAMODB_HEALTH_CHECK_INTERVAL,
        ),
    };
    if is_enabled == Some(true) { Switched::On(config) } else { Switched::Off }
}
