//! `[DynamoDB]`.

use std::path::Path;
use std::time::Duration;

use ::http::Uri;

use crate::config::env_vars as var;
use crate::config::reader::{Names, Reader};
use crate::config::values::{self, LocalTtl};

use super::database::{Switched, health_check_interval, local_ttl, warn_of_idle_variables};

pub(in crate::config) const SECTION: &str = "DynamoDB";
const ENABLED: Names = Names::both("enabled", var::USE_DYNAMODB);
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
    let is_enabled = section.boolean(ENABLED);
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
    if is_enabled != Some(true) {
        return Switched::Off;
    }
    warn_of_missing_region(reader);
    Switched::On(config)
}

/// The region may also come from the machine, which is not asked here: so this is no problem.
fn warn_of_missing_region(reader: &mut Reader<'_>) {
    let has_region = [var::AWS_REGION, var::AWS_DEFAULT_REGION]
        .iter()
        .any(|name| reader.process_variable(name).is_some());
    if has_region {
        return;
    }
    let home = reader.process_variable(var::HOME);
    let profiles =
        [(var::AWS_CONFIG_FILE, "config"), (var::AWS_SHARED_CREDENTIALS_FILE, "credentials")];
    for (variable, name) in profiles {
        let by_variable = reader.process_variable(variable);
        let path = by_variable.or_else(|| Some(format!("{}/.aws/{name}", home.as_ref()?)));
        if path.is_some_and(|path| reader.files().read(Path::new(&path)).is_ok()) {
            return;
        }
    }
    let place = reader.section(SECTION).place(ENABLED);
    let what = "no AWS region is set; set AWS_REGION. Without it, DynamoDB can be used only on a \
                machine of EC2, whose metadata service tells the region";
    reader.warning(place, what);
}
