//! `[Environment "name"]` and `[Filters "project"]`: environments that the configuration names.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::env_vars as var;
use crate::config::problems::Place;
use crate::config::reader::{Names, Reader, SectionReader};
use crate::config::secrets::SecretSource;
use crate::config::values::{self, LogLevel};
use crate::model::{EnvironmentId, FilterKey, MobileKey, SdkKey};

pub(in crate::config) const SECTION: &str = "Environment";
pub(in crate::config) const FILTERS: &str = "Filters";
pub(in crate::config) const SDK_KEY: Names = Names::both("sdkKey", var::LD_ENV_);
const SDK_KEY_FILE: Names = Names::option("sdkKeyFile");
pub(in crate::config) const PREFIX: Names = Names::both("prefix", var::LD_PREFIX_);
pub(in crate::config) const TABLE: Names = Names::both("tableName", var::LD_TABLE_NAME_);
pub(in crate::config) const PROJECT: Names = Names::both("projKey", var::LD_PROJ_KEY_);
pub(in crate::config) const FILTER_KEYS: Names = Names::both("keys", var::LD_FILTER_KEYS_);

/// Families of variables that say something of an environment without making it.
pub(in crate::config) const FAMILIES: [&str; 10] = [
    var::LD_MOBILE_KEY_,
    var::LD_CLIENT_SIDE_ID_,
    var::LD_SECURE_MODE_,
    var::LD_PREFIX_,
    var::LD_TABLE_NAME_,
    var::LD_ALLOWED_ORIGIN_,
    var::LD_ALLOWED_HEADER_,
    var::LD_LOG_LEVEL_,
    var::LD_TTL_,
    var::LD_PROJ_KEY_,
];

/// `[Environment "name"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentConfig {
    /// The key of server-side SDKs, with which the relay connects as well.
    pub sdk_key: SecretSource<SdkKey>,
    /// The key of mobile SDKs.
    pub mobile_key: Option<SecretSource<MobileKey>>,
    /// The client-side ID.
    pub environment_id: Option<EnvironmentId>,
    /// Whether client-side evaluation demands a hash.
    pub secure_mode: bool,
    /// Prefix of its keys in a shared store; empty is the store's default.
    pub store_prefix: String,
    /// Its own DynamoDB table; empty is the global one.
    pub store_table: String,
    /// CORS origins; empty allows every origin.
    pub allowed_origins: Vec<String>,
    /// Additional CORS request headers.
    pub allowed_headers: Vec<String>,
    /// How much is logged about it.
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
    // One that nobody named makes the options known when there is no environment.
    read_one(&mut reader.named_section(SECTION, ""), level);
    if reader.family(var::LD_ENV_).iter().any(String::is_empty) {
        let place = Place::Variable(var::LD_ENV_.to_owned());
        let what = "the name of the environment is missing after LD_ENV_";
        reader.problem(place, what, Some("LD_ENV_name"));
    }
    let mut environments = BTreeMap::new();
    for name in reader.names_of(SECTION, var::LD_ENV_) {
        report_retired(reader, &name);
        let is_incomplete = reader.is_incomplete;
        let mut section = reader.named_section(SECTION, &name);
        let environment = read_one(&mut section, level);
        if !(section.is_set(SDK_KEY) || section.is_set(SDK_KEY_FILE) || is_incomplete) {
            section.problem(SDK_KEY, "is missing; each environment needs an SDK key", None);
        }
        environments.extend(environment.map(|environment| (name, environment)));
    }
    environments
}

fn read_one(section: &mut SectionReader<'_, '_>, level: LogLevel) -> Option<EnvironmentConfig> {
    // ld-relay v8: two fields of its own that its file reader takes; without effect here.
    section.switch(Names::option("offline"));
    section.text(Names::option("filterKey"));
    let sdk_key = section.secret(SDK_KEY, SDK_KEY_FILE);
    let mobile_key = section
        .secret(Names::both("mobileKey", var::LD_MOBILE_KEY_), Names::option("mobileKeyFile"));
    let mut text = |option, variable| section.text(Names::both(option, variable));
    let environment_id = text("envId", var::LD_CLIENT_SIDE_ID_).map(EnvironmentId::new);
    let store_prefix = section.text(PREFIX).unwrap_or_default();
    let store_table = section.text(TABLE).unwrap_or_default();
    let project_key = section.text(PROJECT).unwrap_or_default();
    let mut list = |option, variable| section.literal_list(Names::both(option, variable));
    let allowed_origins = list("allowedOrigin", var::LD_ALLOWED_ORIGIN_);
    let allowed_headers = list("allowedHeader", var::LD_ALLOWED_HEADER_);
    let secure_mode = section.switch(Names::both("secureMode", var::LD_SECURE_MODE_));
    let log_level = section.parsed(Names::both("logLevel", var::LD_LOG_LEVEL_), values::log_level);
    let ttl = section.parsed(Names::both("ttl", var::LD_TTL_), values::duration);
    Some(EnvironmentConfig {
        sdk_key: sdk_key?,
        mobile_key,
        environment_id,
        secure_mode,
        store_prefix,
        store_table,
        allowed_origins,
        allowed_headers,
        log_level: log_level.unwrap_or(level),
        ttl: ttl.unwrap_or_default(),
        project_key,
    })
}

/// ld-relay v8: a variable that was removed is an error, if its environment exists.
fn report_retired(reader: &mut Reader<'_>, name: &str) {
    let retired = format!("{}{name}", var::LD_TTL_MINUTES_);
    // `LD_TTL_MINUTES_a` is also the `ttl` of an environment `MINUTES_a`.
    let is_ttl = reader.names_of(SECTION, var::LD_ENV_).contains(&format!("MINUTES_{name}"));
    if !is_ttl && reader.variable(&retired).is_some_and(|value| !value.is_empty()) {
        let instead = format!("{}{name}", var::LD_TTL_);
        let what =
            format!("ld-relay 6 removed this variable; use {instead} with a unit, such as 5m");
        reader.problem(Place::Variable(retired), what, None);
    }
}

/// Reads the filter keys by project. ld-relay v8: blanks around them do not count.
pub(super) fn read_filters(reader: &mut Reader<'_>) -> BTreeMap<String, Vec<FilterKey>> {
    reader.named_section(FILTERS, "").list(FILTER_KEYS);
    let mut filters = BTreeMap::new();
    for project in reader.names_of(FILTERS, var::LD_FILTER_KEYS_) {
        let mut section = reader.named_section(FILTERS, &project);
        let keys = section.list(FILTER_KEYS);
        if keys.is_empty() {
            section.problem(FILTER_KEYS, "the list of filters is empty", None);
        } else if keys.iter().any(|key| key.trim().is_empty()) {
            section.problem(FILTER_KEYS, "an item of the list of filters is empty", None);
        }
        filters.insert(project, keys.iter().map(|key| FilterKey::new(key.trim())).collect());
    }
    filters
}
