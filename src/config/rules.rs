//! Checks across sections. Each problem stands at an option the operator can change.
//!
//! ld-relay v8 makes most of them; where it differs the rule says so. An option that could not be
//! understood counts as set, so that a mistake is reported once and not again by its absence.

use std::collections::BTreeMap;

use super::Config;
use super::problems::Place;
use super::reader::Reader;
use super::sections::autoconfig::{ID_PLACEHOLDER, of_environments};
use super::sections::database::DatabaseKind;
use super::table::{Row, autoconfig, dynamodb, environment, filters, offline};

/// Checks a configuration, together with the databases that are switched on.
pub(super) fn check(reader: &mut Reader<'_>, config: &Config, databases: &[DatabaseKind]) {
    let facts = Facts::gather(reader);
    check_modes(reader, &facts);
    check_filters(reader, config, &facts);
    warn_of_equal_keys(reader, config);
    // ld-relay v8: with several databases nothing more is said of any of them.
    match databases {
        [] => check_without_database(reader, config),
        [database] => {
            check_cache(reader, config, *database);
            check_table(reader, &facts, *database);
            check_placeholder(reader, config, &facts, *database);
            check_prefixes(reader, config, &facts, *database);
            warn_of_equal_prefixes(reader, config, *database);
        }
        [_, _, ..] => {}
    }
}

/// What is switched on, whether or not it could be understood.
struct Facts {
    autoconfig: bool,
    offline: bool,
    /// The names of all environments.
    environments: Vec<String>,
    /// The project keys of all filters.
    filters: Vec<String>,
}

impl Facts {
    fn gather(reader: &mut Reader<'_>) -> Self {
        let section = reader.global();
        let autoconfig = section.is_set(&autoconfig::KEY) || section.is_set(&autoconfig::KEY_FILE);
        let offline = section.is_set(&offline::FILE_DATA_SOURCE);
        let environments = reader.names_of(&environment::SDK_KEY);
        let filters = reader.names_of(&filters::KEYS);
        Self {
            autoconfig,
            offline,
            environments: environments.into_iter().collect(),
            filters: filters.into_iter().collect(),
        }
    }
}

/// Exactly one of autoconfig, offline mode and environments in the configuration.
fn check_modes(reader: &mut Reader<'_>, facts: &Facts) {
    let mut others = Vec::new();
    if facts.offline {
        others.push("[OfflineMode] fileDataSource");
    }
    if !facts.environments.is_empty() {
        others.push("[Environment] sections or LD_ENV_ variables");
    }
    if facts.autoconfig && !facts.filters.is_empty() {
        others.push("[Filters] sections or LD_FILTER_KEYS_ variables");
    }
    if facts.autoconfig {
        if !others.is_empty() {
            let what = format!("an autoconfig key is set together with {}", others.join(", "));
            let mut section = reader.global();
            let by_file = section.is_set(&autoconfig::KEY_FILE);
            let key: &Row = if by_file { &autoconfig::KEY_FILE } else { &autoconfig::KEY };
            section.problem(key, what, Some("one of them"));
        }
        return;
    }
    if facts.offline && !facts.environments.is_empty() {
        let what = "is set together with [Environment] sections or LD_ENV_ variables";
        reader.global().problem(&offline::FILE_DATA_SOURCE, what, Some("one of them"));
    }
    let mut section = reader.global();
    for row in of_environments(autoconfig::ROWS) {
        if section.is_set(row) {
            let what = "is set, but there is no autoconfig key (AUTO_CONFIG_KEY)";
            section.problem(row, what, None);
        }
    }
    let interval: &Row = &offline::FILE_DATA_SOURCE_MONITORING_INTERVAL;
    for row in of_environments(offline::ROWS).chain([interval]) {
        if !facts.offline && section.is_set(row) {
            let what = "is set, but there is no fileDataSource (FILE_DATA_SOURCE)";
            section.problem(row, what, None);
        }
    }
    if others.is_empty() && !reader.is_incomplete {
        let what = "there is nothing to serve; set an autoconfig key ([AutoConfig] key or \
                    AUTO_CONFIG_KEY), or environments ([Environment \"name\"] sdkKey or LD_ENV_name)";
        reader.problem(Place::Configuration, what, None);
    }
}

/// Every environment belongs to a project once there are filters, and every filter to one that
/// has an environment.
fn check_filters(reader: &mut Reader<'_>, config: &Config, facts: &Facts) {
    if facts.filters.is_empty() || facts.autoconfig {
        return;
    }
    for name in &facts.environments {
        let mut section = reader.named(name);
        if !section.is_set(&environment::PROJ_KEY) {
            let what = "is missing; every environment needs it if there are filters";
            section.problem(&environment::PROJ_KEY, what, None);
        }
    }
    // An environment that could not be read may be the one that names the project.
    if config.environments.len() < facts.environments.len() {
        return;
    }
    for project in &facts.filters {
        if !config.environments.values().any(|it| it.project_key == *project) {
            let what = "there is no environment with this projKey";
            reader.named(project).problem(&filters::KEYS, what, None);
        }
    }
}

/// Two environments with one key: a client of one would be given the other's flags.
fn warn_of_equal_keys(reader: &mut Reader<'_>, config: &Config) {
    let mut by_key: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, environment) in &config.environments {
        let key = environment.sdk_key.value.expose();
        if let Some(first) = by_key.insert(key, name) {
            let what = format!(
                "is the same key as that of the environment {first:?}; clients with this key get \
                 the flags of only one of them"
            );
            reader.named(name).warning(&environment::SDK_KEY, what);
        }
    }
}

fn check_without_database(reader: &mut Reader<'_>, config: &Config) {
    if config.autoconfig.cache_key.is_some() {
        let what = "is set, but there is no shared database for the cache";
        let allowed = "one of [Redis], [DynamoDB] and [Consul]; the local store needs no cacheKey";
        let mut section = reader.global();
        section.problem(&autoconfig::CACHE_KEY, what, Some(allowed));
    }
}

/// ld-relay v8: the cache has no table but the global one. Unlike there, Consul can hold it (design
/// D35).
fn check_cache(reader: &mut Reader<'_>, config: &Config, database: DatabaseKind) {
    let has_table = reader.global().is_set(&dynamodb::TABLE_NAME);
    if config.autoconfig.cache_key.is_some() && database == DatabaseKind::DynamoDb && !has_table {
        let what = "is missing; the autoconfig cache needs a global table";
        reader.global().problem(&dynamodb::TABLE_NAME, what, None);
    }
}

/// Every environment has a table, its own or the global one.
fn check_table(reader: &mut Reader<'_>, facts: &Facts, database: DatabaseKind) {
    let has_table = reader.global().is_set(&dynamodb::TABLE_NAME);
    if database != DatabaseKind::DynamoDb || has_table {
        return;
    }
    let section = reader.global();
    let by_template = section.is_set(&autoconfig::ENV_DATASTORE_TABLE_NAME)
        || section.is_set(&offline::ENV_DATASTORE_TABLE_NAME);
    if (facts.autoconfig || facts.offline) && !by_template {
        let what = "is missing, and there is no envDatastoreTableName either";
        reader.global().problem(&dynamodb::TABLE_NAME, what, None);
    }
    for name in &facts.environments {
        let mut section = reader.named(name);
        if !section.is_set(&environment::TABLE_NAME) {
            let what = "is missing, and there is no global table either";
            section.problem(&environment::TABLE_NAME, what, None);
        }
    }
}

/// Environments of autoconfig share the database, so something must keep them apart.
fn check_placeholder(
    reader: &mut Reader<'_>,
    config: &Config,
    facts: &Facts,
    database: DatabaseKind,
) {
    let defaults = &config.autoconfig.environments;
    let by_prefix = defaults.store_prefix_template().contains(ID_PLACEHOLDER);
    let by_table = database == DatabaseKind::DynamoDb
        && defaults.store_table_template().contains(ID_PLACEHOLDER);
    if facts.autoconfig && !by_prefix && !by_table {
        let allowed = match database {
            DatabaseKind::DynamoDb => "ld-$CID, here or in envDatastoreTableName",
            DatabaseKind::Redis | DatabaseKind::Consul => "ld-$CID",
        };
        let what = format!(
            "must contain {ID_PLACEHOLDER}, so that the environments do not overwrite each other in \
             {database}"
        );
        let mut section = reader.global();
        section.problem(&autoconfig::ENV_DATASTORE_PREFIX, what, Some(allowed));
    }
}

/// Two environments at one place replace each other's flags again and again. ld-relay v8 starts
/// with them, so this is no error.
fn warn_of_equal_prefixes(reader: &mut Reader<'_>, config: &Config, database: DatabaseKind) {
    let mut by_place: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for (name, environment) in &config.environments {
        let table = match database {
            DatabaseKind::DynamoDb => &*environment.store_table,
            DatabaseKind::Redis | DatabaseKind::Consul => "",
        };
        let place = (&*environment.store_prefix, table);
        if place == ("", "") {
            continue;
        }
        if let Some(first) = by_place.insert(place, name) {
            let what = format!(
                "is the same place in {database} as that of the environment {first:?}; they replace \
                 each other's flags there again and again"
            );
            reader.named(name).warning(&environment::PREFIX, what);
        }
    }
}

/// At most one environment may use the store's default prefix and table.
fn check_prefixes(reader: &mut Reader<'_>, config: &Config, facts: &Facts, database: DatabaseKind) {
    let needed: (&[&Row], &str) = match database {
        DatabaseKind::DynamoDb => {
            (&[&environment::PREFIX, &environment::TABLE_NAME], "a prefix or tableName of its own")
        }
        DatabaseKind::Redis | DatabaseKind::Consul => {
            (&[&environment::PREFIX], "a prefix of its own")
        }
    };
    let mut bare = Vec::new();
    for name in &facts.environments {
        let section = reader.named(name);
        if !needed.0.iter().any(|row| section.is_set(row)) {
            bare.push(name);
        }
    }
    for name in &bare {
        let mut section = reader.named(name);
        if bare.len() > 1 {
            let what = format!(
                "{} environments use the default prefix in {database} and would overwrite each other",
                bare.len()
            );
            section.problem(&environment::PREFIX, what, Some(needed.1));
        } else {
            let what = "is not set, so the default prefix is used";
            section.warning(&environment::PREFIX, what);
        }
        let has_filters = config
            .environments
            .get(*name)
            .is_some_and(|environment| config.filters.contains_key(&environment.project_key));
        if has_filters {
            let what = "is not set, although there are filters; the filtered and the unfiltered data of the \
                        environment would overwrite each other";
            section.warning(&environment::PREFIX, what);
        }
    }
}
