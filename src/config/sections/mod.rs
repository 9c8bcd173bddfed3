//! One module for each section of the configuration, or for a few that belong together.
//!
//! A section module owns the typed struct, fills it from the rows of the table, and checks its own
//! options. Checks that concern several sections are in [`super::rules`].

pub(super) mod autoconfig;
pub(super) mod concurrency;
pub(super) mod consul;
pub(super) mod database;
pub(super) mod dynamodb;
pub(super) mod environments;
pub(super) mod events;
pub(super) mod http;
pub(super) mod local_store;
pub(super) mod main;
mod metrics;
pub(super) mod offline;
pub(super) mod proxy;
pub(super) mod redis;

use super::Config;
use super::reader::Reader;
use database::DatabaseKind;

/// The configuration, and what the rules need in addition.
pub(super) struct Read {
    pub(super) config: Config,
    /// Every database that is switched on, although only one may be.
    pub(super) databases: Vec<DatabaseKind>,
}

/// Reads all sections.
pub(super) fn read(reader: &mut Reader<'_>) -> Read {
    let main = main::read(reader);
    let autoconfig = autoconfig::read(reader);
    let offline = offline::read(reader);
    let environments = environments::read(reader, main.log_level);
    let filters = environments::read_filters(reader);
    let databases = database::read(reader);
    metrics::read(reader);
    let config = Config {
        main,
        autoconfig,
        offline,
        environments,
        filters,
        database: databases.chosen,
        local_store: local_store::read(reader),
        proxy: proxy::read(reader),
        concurrency: concurrency::read(reader),
        http: http::read(reader),
        events: events::read(reader),
    };
    Read { config, databases: databases.enabled }
}
