//! `[Environment "name"]` and `[Filters "project"]`: environments that the configuration names.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::problems::Place;
use crate::config::reader::{Reader, Scope};
use crate::config::secrets::SecretSource;
use crate::config::table::{Effect, environment as table, filters};
use crate::config::values::LogLevel;
use crate::model::{EnvironmentId, FilterKey, MobileKey, SdkKey};

/// `[Environment "name"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentConfig {
    /// The key of server-side SDKs, with which the relay connects as well.
    pub sdk_key: SecretSource<SdkKey>,
    /// The key of mobile SDKs.
    pub mobile_key: Option<SecretSource<MobileKey>>,
    /// The client-side ID.
    pub environment_id: Option<EnvironmentId>,
    /// True if client-side evaluation requires a hash.
    pub secure_mode: bool,
    /// Prefix of its keys in a shared store; empty is the store's default.
    pub store_prefix: String,
    /// Its own DynamoDB table; empty is the global one.
    pub store_table: String,
    /// CORS origins; empty allows every origin.
    pub allowed_origins: Vec<String>,
    /// Additional CORS request headers.
    pub allowed_headers: Vec<String>,
    /// The log level of this environment.
    pub log_level: LogLevel,
    /// Cache lifetime for PHP polling; zero sends no `Expires`.
    pub ttl: Duration,
    /// Key of its project, which ties it to filters; empty if unknown.
    pub project_key: String,
}

/// Reads all environments by name. One without a usable SDK key is a problem and left out.
pub(super) fn read(
    reader: &mut Reader<'_>,
    level: LogLevel,
) -> BTreeMap<String, EnvironmentConfig> {
    let names = reader.names_of(&table::LD_ENV_);
    if let Some(family) = table::LD_ENV_.variable
        && reader.family(family).contains("")
    {
        let what = "the name of the environment is missing after LD_ENV_";
        reader.problem(Place::Variable(family.to_owned()), what, Some("LD_ENV_name"));
    }
    let mut environments = BTreeMap::new();
    for name in names {
        let is_incomplete = reader.is_incomplete;
        let mut section = reader.named(&name);
        let environment = read_one(&mut section, level);
        let has_key = section.is_set(&table::LD_ENV_) || section.is_set(&table::SDK_KEY_FILE);
        if !has_key && !is_incomplete {
            section.problem(&table::LD_ENV_, "is missing; each environment needs an SDK key", None);
        }
        environments.extend(environment.map(|environment| (name, environment)));
    }
    environments
}

fn read_one(section: &mut Scope<'_, '_>, level: LogLevel) -> Option<EnvironmentConfig> {
    let sdk_key = section.secret(&table::LD_ENV_);
    let mobile_key = section.secret(&table::LD_MOBILE_KEY_);
    let Some(sdk_key) = sdk_key else {
        // The other options are still checked for mistakes.
        let working = table::ROWS.iter().filter(|option| option.row().effect == Effect::Works);
        working.for_each(|option| option.judge(section));
        return None;
    };
    Some(EnvironmentConfig {
        sdk_key,
        mobile_key,
        environment_id: section.read(&table::LD_CLIENT_SIDE_ID_).map(EnvironmentId::new),
        secure_mode: section.value(&table::LD_SECURE_MODE_),
        store_prefix: section.read(&table::LD_PREFIX_).unwrap_or_default(),
        store_table: section.read(&table::LD_TABLE_NAME_).unwrap_or_default(),
        allowed_origins: section.read(&table::LD_ALLOWED_ORIGIN_).unwrap_or_default(),
        allowed_headers: section.read(&table::LD_ALLOWED_HEADER_).unwrap_or_default(),
        log_level: section.read(&table::LD_LOG_LEVEL_).unwrap_or(level),
        ttl: section.value(&table::LD_TTL_),
        project_key: section.read(&table::LD_PROJ_KEY_).unwrap_or_default(),
    })
}

/// Reads the filter keys by project. ld-relay v8: blanks around them are removed.
pub(super) fn read_filters(reader: &mut Reader<'_>) -> BTreeMap<String, Vec<FilterKey>> {
    let mut all = BTreeMap::new();
    for project in reader.names_of(&filters::LD_FILTER_KEYS_) {
        let mut section = reader.named(&project);
        let keys = section.read(&filters::LD_FILTER_KEYS_).unwrap_or_default();
        if keys.is_empty() {
            section.problem(&filters::LD_FILTER_KEYS_, "the list of filters is empty", None);
        } else if keys.iter().any(|key| key.trim().is_empty()) {
            section.problem(
                &filters::LD_FILTER_KEYS_,
                "an item of the list of filters is empty",
                None,
            );
        }
        all.insert(project, keys.iter().map(|key| FilterKey::new(key.trim())).collect());
    }
    all
}
