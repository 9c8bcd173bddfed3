//! Checks across sections. Each problem has the place of an option that the operator can change.
//!
//! Most of the rules are those of ld-relay v8; the others say so. An invalid value counts as set,
//! so that a mistake is reported once and not again as a missing option.

use std::collections::{BTreeMap, BTreeSet};

use super::Config;
use super::problems::Place;
use super::reader::Reader;
use super::sections::autoconfig::{ID_PLACEHOLDER, of_environments};
use super::sections::database::DatabaseKind;
use super::table::{Row, autoconfig, dynamodb, environment, filters, offline};

/// Checks a configuration, and the databases that are switched on.
pub(super) fn check(reader: &mut Reader<'_>, config: &Config, databases: &[DatabaseKind]) {
    let facts = Facts::gather(reader, config);
    check_modes(reader, &facts);
    check_offline(reader, &facts);
    check_filters(reader, &facts);
    warn_of_equal_keys(reader, config);
    // ld-relay v8: several databases are one problem, and none of them is checked further.
    match databases {
        [] => check_without_database(reader, config),
        [database] => {
            if *database == DatabaseKind::DynamoDb {
                check_table(reader, &facts);
            }
            check_placeholder(reader, &facts, *database);
            check_prefixes(reader, &facts, *database);
            warn_of_equal_prefixes(reader, config, *database);
        }
        [_, _, ..] => {}
    }
}

/// The parts that are switched on, even by an invalid value.
struct Facts<'c> {
    config: &'c Config,
    autoconfig: bool,
    offline: bool,
    /// The names of all environments.
    environments: BTreeSet<String>,
    /// The project keys of all filters.
    filters: BTreeSet<String>,
}

impl<'c> Facts<'c> {
    fn gather(reader: &mut Reader<'_>, config: &'c Config) -> Self {
        let section = reader.global();
        Self {
            config,
            autoconfig: section.is_set(&autoconfig::AUTO_CONFIG_KEY)
                || section.is_set(&autoconfig::AUTO_CONFIG_KEY_FILE),
            offline: section.is_set(&offline::FILE_DATA_SOURCE),
            environments: reader.names_of(&environment::LD_ENV_),
            filters: reader.names_of(&filters::LD_FILTER_KEYS_),
        }
    }
}

/// Requires exactly one of autoconfig, offline mode and environments in the configuration.
fn check_modes(reader: &mut Reader<'_>, facts: &Facts<'_>) {
    let others: Vec<&str> = [
        (facts.offline, "[OfflineMode] fileDataSource"),
        (!facts.environments.is_empty(), "[Environment] sections or LD_ENV_ variables"),
        (
            facts.autoconfig && !facts.filters.is_empty(),
            "[Filters] sections or LD_FILTER_KEYS_ variables",
        ),
    ]
    .into_iter()
    .filter_map(|(is_on, what)| is_on.then_some(what))
    .collect();
    let is_incomplete = reader.is_incomplete;
    let mut section = reader.global();
    if facts.autoconfig {
        if !others.is_empty() {
            let what = format!("an autoconfig key is set together with {}", others.join(", "));
            let [key, file]: [&Row; 2] =
                [&autoconfig::AUTO_CONFIG_KEY, &autoconfig::AUTO_CONFIG_KEY_FILE];
            let key = if section.is_set(file) { file } else { key };
            section.problem(key, what, Some("one of them"));
        }
        return;
    }
    if facts.offline && !facts.environments.is_empty() {
        let what = "is set together with [Environment] sections or LD_ENV_ variables";
        section.problem(&offline::FILE_DATA_SOURCE, what, Some("one of them"));
    }
    for row in of_environments(autoconfig::ROWS) {
        section.forbid(row, "is set, but there is no autoconfig key (AUTO_CONFIG_KEY)", None);
    }
    if others.is_empty() && !is_incomplete {
        let what = "there is nothing to serve; set an autoconfig key ([AutoConfig] key or \
                    AUTO_CONFIG_KEY), environments ([Environment \"name\"] sdkKey or \
                    LD_ENV_name), or an archive ([OfflineMode] fileDataSource or FILE_DATA_SOURCE)";
        reader.problem(Place::Configuration, what, None);
    }
}

/// Forbids the other options of offline mode without its archive.
fn check_offline(reader: &mut Reader<'_>, facts: &Facts<'_>) {
    if facts.offline {
        return;
    }
    let interval: &Row = &offline::FILE_DATA_SOURCE_MONITORING_INTERVAL;
    for row in of_environments(offline::ROWS).chain([interval]) {
        let what = "is set, but there is no fileDataSource (FILE_DATA_SOURCE)";
        reader.global().forbid(row, what, None);
    }
}

/// If there are filters, every environment needs a project, and every filter a project that has an
/// environment.
fn check_filters(reader: &mut Reader<'_>, facts: &Facts<'_>) {
    if facts.filters.is_empty() || facts.autoconfig {
        return;
    }
    for name in &facts.environments {
        let what = "is missing; every environment needs it if there are filters";
        reader.named(name).require(&environment::LD_PROJ_KEY_, what);
    }
    // An environment that could not be read may be the one that names the project.
    let environments = &facts.config.environments;
    if environments.len() < facts.environments.len() {
        return;
    }
    for project in &facts.filters {
        if !environments.values().any(|it| it.project_key == *project) {
            let what = "there is no environment with this projKey";
            reader.named(project).problem(&filters::LD_FILTER_KEYS_, what, None);
        }
    }
}

/// Warns of two environments with one key: a client of one would receive the other's flags.
fn warn_of_equal_keys(reader: &mut Reader<'_>, config: &Config) {
    let mut by_key: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, environment) in &config.environments {
        let key = environment.sdk_key.value.expose();
        if let Some(first) = by_key.insert(key, name) {
            let what = format!(
                "is the same key as that of the environment {first:?}; clients with this key get \
                 the flags of only one of them"
            );
            reader.named(name).warning(&environment::LD_ENV_, what);
        }
    }
}

fn check_without_database(reader: &mut Reader<'_>, config: &Config) {
    if config.autoconfig.cache_key.is_some() {
        let what = "is set, but there is no shared database for the cache";
        let allowed = "one of [Redis], [DynamoDB] and [Consul]; the local store needs no cacheKey";
        reader.global().problem(&autoconfig::AUTO_CONFIG_CACHE_KEY, what, Some(allowed));
    }
}

/// DynamoDB: without the global table, every environment needs its own. ld-relay v8: the autoconfig
/// cache can use only the global table.
fn check_table(reader: &mut Reader<'_>, facts: &Facts<'_>) {
    let mut section = reader.global();
    if section.is_set(&dynamodb::DYNAMODB_TABLE) {
        return;
    }
    if facts.config.autoconfig.cache_key.is_some() {
        let what = "is missing; the autoconfig cache needs a global table";
        section.require(&dynamodb::DYNAMODB_TABLE, what);
    }
    let by_template = section.is_set(&autoconfig::ENV_DATASTORE_TABLE_NAME)
        || section.is_set(&offline::ENV_DATASTORE_TABLE_NAME);
    if (facts.autoconfig || facts.offline) && !by_template {
        let what = "is missing, and there is no envDatastoreTableName either";
        section.require(&dynamodb::DYNAMODB_TABLE, what);
    }
    for name in &facts.environments {
        let what = "is missing, and there is no global table either";
        reader.named(name).require(&environment::LD_TABLE_NAME_, what);
    }
}

/// Requires the placeholder in the prefix or table: environments of autoconfig share the database.
fn check_placeholder(reader: &mut Reader<'_>, facts: &Facts<'_>, database: DatabaseKind) {
    let defaults = &facts.config.autoconfig.environments;
    let by_prefix = defaults.store_prefix_template().contains(ID_PLACEHOLDER);
    let by_table = database == DatabaseKind::DynamoDb
        && defaults.store_table_template().contains(ID_PLACEHOLDER);
    if by_prefix || by_table {
        return;
    }
    if facts.offline && !facts.autoconfig {
        let what = format!(
            "does not contain {ID_PLACEHOLDER}; the environments of the archive overwrite each \
             other in {database} if there are several"
        );
        reader.global().warning(&offline::ENV_DATASTORE_PREFIX, what);
    }
    if facts.autoconfig {
        let allowed = match database {
            DatabaseKind::DynamoDb => "ld-$CID, here or in envDatastoreTableName",
            DatabaseKind::Redis | DatabaseKind::Consul => "ld-$CID",
        };
        let what = format!(
            "must contain {ID_PLACEHOLDER}, so that the environments do not overwrite each other in \
             {database}"
        );
        reader.global().problem(&autoconfig::ENV_DATASTORE_PREFIX, what, Some(allowed));
    }
}

/// Warns of two environments at one place, which overwrite each other's flags again and again.
/// ld-relay v8 starts with them, so this is no error.
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
            reader.named(name).warning(&environment::LD_PREFIX_, what);
        }
    }
}

/// Allows at most one environment to use the store's default prefix and table.
fn check_prefixes(reader: &mut Reader<'_>, facts: &Facts<'_>, database: DatabaseKind) {
    let (needed, allowed): (&[&Row], &str) = match database {
        DatabaseKind::DynamoDb => (
            &[&environment::LD_PREFIX_, &environment::LD_TABLE_NAME_],
            "a prefix or tableName of its own",
        ),
        DatabaseKind::Redis | DatabaseKind::Consul => {
            (&[&environment::LD_PREFIX_], "a prefix of its own")
        }
    };
    let mut bare = Vec::new();
    for name in &facts.environments {
        let section = reader.named(name);
        if !needed.iter().any(|row| section.is_set(row)) {
            bare.push(name);
        }
    }
    let config = facts.config;
    for name in &bare {
        let mut section = reader.named(name);
        let count = bare.len();
        if count > 1 {
            let what = format!(
                "{count} environments use the default prefix in {database} and would overwrite each \
                 other"
            );
            section.problem(&environment::LD_PREFIX_, what, Some(allowed));
        } else {
            let what = "is not set, so the default prefix is used";
            section.warning(&environment::LD_PREFIX_, what);
        }
        let environment = config.environments.get(*name);
        if environment.is_some_and(|it| config.filters.contains_key(&it.project_key)) {
            let what = "is not set, although there are filters; the filtered and the unfiltered data of \
                        the environment would overwrite each other";
            section.warning(&environment::LD_PREFIX_, what);
        }
    }
}
