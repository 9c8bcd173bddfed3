//! Which shared database: the one `match` over the configuration.
#![cfg_attr(
    not(any(feature = "redis", feature = "dynamodb", feature = "consul")),
    allow(
        dead_code,
        unreachable_code,
        unused_imports,
        unused_variables,
        clippy::needless_pass_by_value,
        reason = "built without any database, this module can only say so"
    )
)]

use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::StartError;
use crate::autoconfig::cache::Backend;
use crate::autoconfig::cache::codec::CacheKeys;
use crate::autoconfig::cache::keeper::{Keeper, KeeperSettings, Wanted};
use crate::autoconfig::cache::report::SharedReport;
use crate::autoconfig::cache::shared_access::SharedAccess;
use crate::autoconfig::cache::shared_tier::{self, NAMESPACE_SUFFIX, SharedTier};
use crate::autoconfig::record_set::CachedSet;
use crate::autoconfig::startup_race::{CacheOutcome, Tier};
use crate::config::{CacheFormat, Database};
use crate::storage::{Budgets, Dialer, FailFast};
use crate::tasks::TaskGroup;

/// Why the shared database cannot be used as it is configured.
pub(super) type DatabaseError = crate::storage::Cause;

/// What the shared cache is about.
pub(super) struct SharedCache<'a> {
    pub(super) cache_key: &'a str,
    pub(super) format: CacheFormat,
    pub(super) writer: &'a str,
    pub(super) keys: watch::Receiver<CacheKeys>,
}

/// What connects its keeper with the rest.
pub(super) struct KeeperEnds {
    pub(super) settings: KeeperSettings,
    pub(super) wanted: watch::Receiver<Option<Wanted>>,
    pub(super) results: mpsc::Sender<(Tier, CacheOutcome<CachedSet>)>,
    pub(super) report: SharedReport,
}

/// How often the database is looked at for lost content.
pub(super) fn check_interval(database: &Database) -> Option<Duration> {
    match database {
        Database::Redis(settings) => settings.health_check_interval,
        Database::Consul(settings) => settings.health_check_interval,
        Database::DynamoDb(settings) => settings.health_check_interval,
    }
}

impl SharedCache<'_> {
    /// Starts the keeper of the shared tier, and the probe of its database.
    pub(super) fn keep(
        self,
        database: &Database,
        ends: KeeperEnds,
        parts: &mut TaskGroup,
    ) -> Result<(), StartError> {
        match database {
            #[cfg(feature = "redis")]
            Database::Redis(settings) => {
                let store = redis::store(settings)?;
                let rows = |namespace: String| {
                    crate::autoconfig::cache::RedisCache::new(store.clone(), namespace)
                };
                self.start(&store, rows, ends, parts);
            }
            #[cfg(not(feature = "redis"))]
            Database::Redis(_) => return Err(StartError::NotCompiled("Redis")),
            #[cfg(feature = "dynamodb")]
            Database::DynamoDb(settings) => {
                let (store, table) = dynamodb::store(settings);
                let rows = |namespace: String| {
                    let table = table.clone();
                    crate::autoconfig::cache::DynamoDbCache::new(store.clone(), table, namespace)
                };
                self.start(&store, rows, ends, parts);
            }
            #[cfg(not(feature = "dynamodb"))]
            Database::DynamoDb(_) => return Err(StartError::NotCompiled("DynamoDB")),
            #[cfg(feature = "consul")]
            Database::Consul(settings) => {
                let store = consul::store(settings)?;
                let rows = |namespace: String| {
                    crate::autoconfig::cache::ConsulCache::new(store.clone(), &namespace)
                };
                self.start(&store, rows, ends, parts);
            }
            #[cfg(not(feature = "consul"))]
            Database::Consul(_) => return Err(StartError::NotCompiled("Consul")),
        }
        Ok(())
    }

    fn start<D: Dialer, B: Backend>(
        self,
        store: &FailFast<D>,
        rows: impl Fn(String) -> B,
        ends: KeeperEnds,
        parts: &mut TaskGroup,
    ) {
        let tier = SharedTier::new(
            rows(format!("{}{NAMESPACE_SUFFIX}", self.cache_key)),
            rows(self.cache_key.to_owned()),
            self.cache_key,
            match self.format {
                CacheFormat::Sealed => shared_tier::CacheFormat::Sealed,
                CacheFormat::LdRelay => shared_tier::CacheFormat::LdRelay,
            },
            self.writer,
        );
        let access = SharedAccess::new(tier, self.keys, store.watch_health());
        let keeper = Keeper::new(ends.settings, access, ends.wanted, ends.results, ends.report);
        parts.spawn("shared cache", |cancel| keeper.run(cancel));
        parts.spawn("database probe", |cancel| store.clone().run_probe(cancel));
    }
}

#[cfg(any(feature = "redis", feature = "consul"))]
fn tls(settings: &crate::config::DatabaseTls) -> crate::storage::tls::TlsSettings {
    crate::storage::tls::TlsSettings {
        ca_file: settings.ca_file.clone(),
        client_certificate: settings.client_certificate.as_ref().map(|files| {
            crate::storage::tls::ClientCertificate {
                certificate_file: files.certificate_file.clone(),
                key_file: files.key_file.clone(),
            }
        }),
    }
}

#[cfg(feature = "redis")]
mod redis {
    use super::{Budgets, FailFast, StartError};
    use crate::config::{RedisConfig, RedisServers};
    use crate::storage::redis::{
        ClusterSettings, Login, RedisDialer, RedisSettings, RedisStore, RedisTopology,
        RedisUrlError, SentinelSettings,
    };

    pub(super) fn store(config: &RedisConfig) -> Result<RedisStore, StartError> {
        let topology = topology(config).map_err(|error| StartError::Database(error.into()))?;
        Ok(FailFast::new("redis", RedisDialer::new(topology), Budgets::default()))
    }

    fn topology(config: &RedisConfig) -> Result<RedisTopology, RedisUrlError> {
        let tls = super::tls(&config.tls);
        let sign = |login: &mut Login| {
            if config.username.is_some() {
                login.username.clone_from(&config.username);
            }
            if let Some(password) = &config.password {
                login.password = Some(password.value.clone());
            }
        };
        Ok(match &config.servers {
            RedisServers::Standalone(url) => {
                let mut server = RedisSettings::from_url(url)?;
                if config.servers.use_tls() {
                    server = server.with_tls(tls);
                }
                let mut login = server.login();
                sign(&mut login);
                RedisTopology::Standalone(server.with_login(login))
            }
            RedisServers::Sentinel { master, sentinels } => {
                let mut settings = SentinelSettings::from_urls(master, sentinels)?.with_tls(&tls);
                sign(&mut settings.login);
                RedisTopology::Sentinel(settings)
            }
            RedisServers::Cluster(seeds) => {
                let mut settings = ClusterSettings::from_urls(seeds)?.with_tls(&tls);
                sign(&mut settings.login);
                RedisTopology::Cluster(settings)
            }
        })
    }
}

#[cfg(feature = "dynamodb")]
mod dynamodb {
    use super::{Budgets, FailFast};
    use crate::config::DynamoDbConfig;
    use crate::storage::dynamodb::{DynamoDbDialer, DynamoDbSettings, DynamoDbStore};

    /// The store and its table. Configuration has made sure that the cache has a global table.
    pub(super) fn store(config: &DynamoDbConfig) -> (DynamoDbStore, String) {
        let table = config.table.clone().unwrap_or_default();
        let settings = DynamoDbSettings {
            endpoint: config.endpoint.as_ref().map(ToString::to_string),
            probe_table: Some(table.clone()),
            ..DynamoDbSettings::default()
        };
        (FailFast::new("dynamodb", DynamoDbDialer::new(settings), Budgets::default()), table)
    }
}

#[cfg(feature = "consul")]
mod consul {
    use super::{Budgets, FailFast, StartError};
    use crate::config::ConsulConfig;
    use crate::storage::consul::{ConsulDialer, ConsulSettings, ConsulStore, TokenSource};
    use crate::storage::net::Endpoint;

    pub(super) fn store(config: &ConsulConfig) -> Result<ConsulStore, StartError> {
        let address = config.address.to_string();
        let mut settings = ConsulSettings::from_address(address.trim_end_matches('/'))
            .map_err(|error| StartError::Database(error.into()))?;
        if let Endpoint::Tcp { tls: Some(tls), .. } = &mut settings.endpoint {
            *tls = super::tls(&config.tls);
        }
        if let Some(token) = &config.token {
            settings.token = match &token.file {
                Some(file) => TokenSource::File(file.clone()),
                None => TokenSource::Fixed(token.value.clone()),
            };
        }
        Ok(FailFast::new("consul", ConsulDialer::new(settings), Budgets::default()))
    }
}
