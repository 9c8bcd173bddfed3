//! Opens the shared database that the configuration names. Only this module matches on its kind.
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

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::StartError;
use crate::autoconfig::adoption::Adopt;
use crate::autoconfig::cache::Backend;
use crate::autoconfig::cache::codec::CacheKeys;
use crate::autoconfig::cache::keeper::{self, KeeperEnds, SharedPlace};
use crate::autoconfig::cache::shared_tier::{self, NAMESPACE_SUFFIX, SharedTier};
use crate::config::{CacheAdopt, CacheFormat, Database, LocalTtl};
use crate::flagstore::backend::FlagBackend;
use crate::flagstore::{DatabaseFacts, SharedStores, StoreFacts, Timing};
use crate::model::EnvironmentSpec;
use crate::storage::{Budgets, Dialer, FailFast, Health};
use crate::tasks::{TaskGroup, supervised};

/// Pause between readings of flag stores while upstream is not live, if neither `localTtl` nor
/// `healthCheckInterval` sets one.
const REREAD_WITHOUT_CHECK: Duration = Duration::from_secs(30);

/// The shortest such pause.
const REREAD_MIN: Duration = Duration::from_secs(1);

/// The reason why the shared database cannot be used as it is configured.
pub(super) type DatabaseError = crate::storage::Cause;

/// Settings of the shared cache.
pub(super) struct SharedCache<'a> {
    pub(super) cache_key: &'a str,
    pub(super) format: CacheFormat,
    pub(super) adopt: Adopt,
    pub(super) writer: &'a str,
    pub(super) keys: watch::Receiver<CacheKeys>,
}

/// The rule for ld-relay's records in the shared cache.
pub(super) fn adopt(rule: CacheAdopt) -> Adopt {
    match rule {
        CacheAdopt::Once => Adopt::Once,
        CacheAdopt::Always => Adopt::Always,
        CacheAdopt::Never => Adopt::Never,
    }
}

/// Interval between checks of the database for lost data.
pub(super) fn check_interval(database: &Database) -> Option<Duration> {
    match database {
        Database::Redis(settings) => settings.health_check_interval,
        Database::Consul(settings) => settings.health_check_interval,
        Database::DynamoDb(settings) => settings.health_check_interval,
    }
}

/// The shared database, with the parts of the relay that use it. It is dialled on first use.
pub(super) struct SharedDatabase {
    /// Holds flags for SDKs and other relays.
    pub(super) flags: SharedStores,
    keep_cache: KeepCache,
    tasks: Vec<Task>,
}

type KeepCache = Box<dyn FnOnce(SharedCache<'_>, KeeperEnds, &mut TaskGroup)>;
/// Starts a task of the database itself.
type Task = Box<dyn FnOnce(&mut TaskGroup)>;

impl SharedDatabase {
    /// The configured database.
    pub(super) fn new(database: &Database) -> Result<Self, StartError> {
        let timing = timing(database);
        match database {
            #[cfg(feature = "redis")]
            Database::Redis(config) => redis::open(config, timing),
            #[cfg(not(feature = "redis"))]
            Database::Redis(_) => Err(StartError::NotCompiled("Redis")),
            #[cfg(feature = "dynamodb")]
            Database::DynamoDb(config) => Ok(dynamodb::open(config, timing)),
            #[cfg(not(feature = "dynamodb"))]
            Database::DynamoDb(_) => Err(StartError::NotCompiled("DynamoDB")),
            #[cfg(feature = "consul")]
            Database::Consul(config) => consul::open(config, timing),
            #[cfg(not(feature = "consul"))]
            Database::Consul(_) => Err(StartError::NotCompiled("Consul")),
        }
    }

    /// `rows` makes the autoconfig cache of a namespace, `flags` the flag store of an environment.
    fn of<D: Dialer, B: Backend, F: FlagBackend>(
        store: FailFast<D>,
        timing: Timing,
        rows: impl Fn(String) -> B + Send + Sync + 'static,
        flags: impl Fn(&EnvironmentSpec) -> (StoreFacts, F) + Send + Sync + 'static,
    ) -> Self {
        let health = store.watch_health();
        Self {
            flags: SharedStores::new(timing, health.clone(), flags),
            keep_cache: Box::new(move |cache, ends, parts| cache.keep(rows, health, ends, parts)),
            tasks: vec![Box::new(|parts| {
                parts.spawn("database probe", |stop| store.run_probe(stop));
            })],
        }
    }

    /// Starts the tasks of the database, and the keeper of the shared cache if there is one.
    pub(super) fn start(self, cache: Option<(SharedCache<'_>, KeeperEnds)>, parts: &mut TaskGroup) {
        if let Some((cache, ends)) = cache {
            (self.keep_cache)(cache, ends, parts);
        }
        for start in self.tasks {
            start(parts);
        }
    }
}

/// Intervals between visits to the flag stores.
fn timing(database: &Database) -> Timing {
    let ttl = match database {
        Database::Redis(config) => config.local_ttl,
        Database::Consul(config) => config.local_ttl,
        Database::DynamoDb(config) => config.local_ttl,
    };
    let check = check_interval(database);
    // Design D1: if negative, at the interval of the health check; if 0, every second.
    let reread = match ttl {
        LocalTtl::Never => check.unwrap_or(REREAD_WITHOUT_CHECK),
        LocalTtl::Off => REREAD_MIN,
        LocalTtl::For(ttl) => ttl.max(REREAD_MIN),
    };
    Timing { check, reread }
}

impl SharedCache<'_> {
    fn keep<B: Backend>(
        self,
        rows: impl Fn(String) -> B + Send + Sync + 'static,
        health: watch::Receiver<Health>,
        ends: KeeperEnds,
        parts: &mut TaskGroup,
    ) {
        let format = match self.format {
            CacheFormat::Sealed => shared_tier::CacheFormat::Sealed,
            CacheFormat::LdRelay => shared_tier::CacheFormat::LdRelay,
        };
        let (cache_key, writer) = (self.cache_key.to_owned(), self.writer.to_owned());
        let (keys, rules) = (self.keys, (format, self.adopt));
        let keep = move |cancel| {
            let tier = SharedTier::new(&cache_key, rules, &writer, keys.clone());
            let place = SharedPlace::new(
                rows(format!("{cache_key}{NAMESPACE_SUFFIX}")),
                rows(cache_key.clone()),
                health.clone(),
                keys.clone(),
            );
            keeper::keep(tier, place, ends.clone(), cancel)
        };
        parts.spawn("shared cache", |cancel| supervised("shared cache", cancel, keep));
    }
}

/// The error for a database that cannot be used as it is configured.
#[cfg(any(feature = "redis", feature = "consul"))]
fn unusable(section: &'static str, cause: impl Into<DatabaseError>) -> StartError {
    StartError::Database { section, cause: cause.into() }
}

/// The TLS settings of a database; an error if a file cannot be used.
#[cfg(any(feature = "redis", feature = "consul"))]
fn tls(
    section: &'static str,
    settings: &crate::config::DatabaseTls,
) -> Result<crate::storage::tls::TlsSettings, StartError> {
    let settings = crate::storage::tls::TlsSettings {
        ca_file: settings.ca_file.clone(),
        client_certificate: settings.client_certificate.as_ref().map(|files| {
            crate::storage::tls::ClientCertificate {
                certificate_file: files.certificate_file.clone(),
                key_file: files.key_file.clone(),
            }
        }),
    };
    settings.check().map_err(|error| unusable(section, error))?;
    Ok(settings)
}

#[cfg(feature = "redis")]
mod redis {
    use std::path::PathBuf;

    use tokio_util::sync::CancellationToken;

    use super::super::keys::{Problems, look_ticks, read};
    use super::{
        Arc, Budgets, DatabaseFacts, Dialer, FailFast, SharedDatabase, StartError, StoreFacts,
        Timing,
    };
    use crate::autoconfig::cache::RecordTable;
    use crate::config::{RedisConfig, RedisServers, SecretSource};
    use crate::flagstore::table::{FlagTable, Naming};
    use crate::model::{Password, RedactedUrl};
    use crate::storage::Meter;
    use crate::storage::redis::{
        ClusterSettings, EvictionWatch, Login, RedisDialer, RedisSettings, RedisStore, RedisTable,
        RedisTopology, RedisUrlError, SentinelSettings,
    };
    use crate::telemetry::Chain;

    pub(super) fn open(config: &RedisConfig, timing: Timing) -> Result<SharedDatabase, StartError> {
        let topology = topology(config)?;
        let store: RedisStore = FailFast::new("redis", RedisDialer::new(topology), budgets(config));
        let servers: Vec<String> =
            config.servers.urls().iter().map(RedactedUrl::redacted).collect();
        let eviction = EvictionWatch::new(store.clone(), timing.check);
        let database = Arc::new(DatabaseFacts {
            kind: "redis",
            server: Some(servers.join(",")),
            evicts: Some(eviction.warning()),
        });
        let password_store = store.clone();
        let (cache, flags) = (store.clone(), store.clone());
        let mut shared = SharedDatabase::of(
            store,
            timing,
            move |namespace| RecordTable::new(RedisTable::new(cache.clone()), namespace),
            move |spec| {
                let (table, prefix) = (RedisTable::new(flags.clone()), &spec.store_prefix);
                let flags = FlagTable::new(table, Naming::REDIS, prefix);
                let prefix = Some(Naming::REDIS.prefix(prefix).to_owned());
                (StoreFacts { database: database.clone(), prefix, table: None }, flags)
            },
        );
        shared.tasks.push(Box::new(|parts| {
            parts.spawn("database eviction policy", |stop| eviction.run(stop));
        }));
        if let Some(SecretSource { value, file: Some(file) }) = &config.password {
            let follower = PasswordFollower {
                store: password_store,
                config: config.clone(),
                file: file.clone(),
                used: value.clone(),
            };
            shared.tasks.push(Box::new(|parts| {
                parts.spawn("redis password", |stop| follower.run(stop));
            }));
        }
        Ok(shared)
    }

    /// Switches to a new password from its file as soon as Redis accepts it. Until
    /// then, open connections stay and new ones use the former password, so the file and the server
    /// may be changed in any order.
    struct PasswordFollower {
        store: RedisStore,
        config: RedisConfig,
        file: PathBuf,
        /// The password for new connections.
        used: Password,
    }

    impl PasswordFollower {
        async fn run(mut self, stop: CancellationToken) {
            let mut ticks = look_ticks();
            let mut problems = Problems::default();
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                let mut found = Vec::new();
                let read: Option<Password> = read(Some(&self.file), &mut found).await;
                if let Some(new) = read.filter(|new| *new != self.used) {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        refusal = self.try_password(new) => found.extend(refusal),
                    }
                }
                problems.update(found);
            }
        }

        /// Connects once with a password. If Redis accepts it, all connections are replaced by ones
        /// that use it; if Redis refuses it, returns the reason.
        async fn try_password(&mut self, new: Password) -> Option<String> {
            self.config.password =
                Some(SecretSource { value: new.clone(), file: Some(self.file.clone()) });
            // The settings were valid at the start.
            let topology = topology(&self.config).ok()?;
            let dialer = RedisDialer::new(topology);
            let budget = self.store.budgets().call;
            match tokio::time::timeout(budget, dialer.dial(&Meter::default())).await {
                Ok(Ok(_)) => {
                    self.store.dialer().replace_password(Some(new.clone()));
                    self.store.reconnect();
                    self.used = new;
                    tracing::info!(file = %self.file.display(), "the Redis password was exchanged");
                    None
                }
                Ok(Err(error)) if !error.is_transient() => Some(format!(
                    "the password in {} is refused by Redis: {}",
                    self.file.display(),
                    Chain(&error)
                )),
                // Redis is unreachable, so the password is neither accepted nor refused.
                Ok(Err(_)) | Err(_) => None,
            }
        }
    }

    /// A call's budget includes connecting, so it is the sum of both options.
    fn budgets(config: &RedisConfig) -> Budgets {
        let usual = Budgets::default();
        let connect = config.connect_timeout.unwrap_or_default();
        let read = config.read_timeout.unwrap_or(usual.call);
        Budgets { call: connect + read, bulk: connect + read.max(usual.bulk) }
    }

    const SECTION: &str = "[Redis]";

    fn topology(config: &RedisConfig) -> Result<RedisTopology, StartError> {
        let tls = super::tls(SECTION, &config.tls)?;
        let bad_url = |error: RedisUrlError| super::unusable(SECTION, error);
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
                let mut server = RedisSettings::from_url(url).map_err(bad_url)?;
                if config.servers.use_tls() {
                    server = server.with_tls(tls);
                }
                let mut login = server.login();
                sign(&mut login);
                RedisTopology::Standalone(server.with_login(login))
            }
            RedisServers::Sentinel { master, sentinels } => {
                let settings = SentinelSettings::from_urls(master, sentinels);
                let mut settings = settings.map_err(bad_url)?.with_tls(&tls);
                sign(&mut settings.login);
                RedisTopology::Sentinel(settings)
            }
            RedisServers::Cluster(seeds) => {
                let settings = ClusterSettings::from_urls(seeds).map_err(bad_url)?;
                let mut settings = settings.with_tls(&tls);
                sign(&mut settings.login);
                RedisTopology::Cluster(settings)
            }
        })
    }
}

#[cfg(feature = "dynamodb")]
mod dynamodb {
    use super::{Arc, Budgets, DatabaseFacts, FailFast, SharedDatabase, StoreFacts, Timing};
    use crate::autoconfig::cache::RecordTable;
    use crate::config::DynamoDbConfig;
    use crate::flagstore::table::{FlagTable, Naming};
    use crate::storage::dynamodb::{DynamoDbDialer, DynamoDbSettings, DynamoDbTable, Form};

    pub(super) fn open(config: &DynamoDbConfig, timing: Timing) -> SharedDatabase {
        // Without a global table each environment has its own, and there is no autoconfig cache.
        let table = config.table.clone();
        let endpoint = config.endpoint.as_ref().map(ToString::to_string);
        let settings = DynamoDbSettings {
            endpoint: endpoint.clone(),
            probe_table: table.clone(),
            ..DynamoDbSettings::default()
        };
        let store = FailFast::new("dynamodb", DynamoDbDialer::new(settings), Budgets::default());
        let database = Arc::new(DatabaseFacts { kind: "dynamodb", server: endpoint, evicts: None });
        let table = table.unwrap_or_default();
        let (cache, cache_table, flags) = (store.clone(), table.clone(), store.clone());
        SharedDatabase::of(
            store,
            timing,
            move |namespace| {
                let table = DynamoDbTable::new(cache.clone(), &cache_table, Form::Binary);
                RecordTable::new(table, namespace)
            },
            move |spec| {
                let own = Some(&spec.store_table).filter(|table| !table.is_empty());
                let table = own.unwrap_or(&table).clone();
                let prefix = Some(spec.store_prefix.clone()).filter(|prefix| !prefix.is_empty());
                let rows = DynamoDbTable::new(flags.clone(), &table, Form::Text);
                let flags = FlagTable::new(rows, Naming::DYNAMODB, &spec.store_prefix);
                (StoreFacts { database: database.clone(), prefix, table: Some(table) }, flags)
            },
        )
    }
}

#[cfg(feature = "consul")]
mod consul {
    use super::{
        Arc, Budgets, DatabaseFacts, FailFast, SharedDatabase, StartError, StoreFacts, Timing,
    };
    use crate::autoconfig::cache::RecordTable;
    use crate::config::ConsulConfig;
    use crate::flagstore::table::{FlagTable, Naming};
    use crate::storage::consul::{ConsulDialer, ConsulSettings, ConsulTable, TokenSource};
    use crate::storage::net::Endpoint;

    const SECTION: &str = "[Consul]";

    pub(super) fn open(
        config: &ConsulConfig,
        timing: Timing,
    ) -> Result<SharedDatabase, StartError> {
        let address = config.address.to_string();
        let address = address.trim_end_matches('/');
        let mut settings = ConsulSettings::from_address(address)
            .map_err(|error| super::unusable(SECTION, error))?;
        if let Endpoint::Tcp { tls: Some(tls), .. } = &mut settings.endpoint {
            *tls = super::tls(SECTION, &config.tls)?;
        }
        if let Some(token) = &config.token {
            settings.token = match &token.file {
                Some(file) => {
                    TokenSource::File { path: file.clone(), last: Some(token.value.clone()) }
                }
                None => TokenSource::Fixed(token.value.clone()),
            };
        }
        let store = FailFast::new("consul", ConsulDialer::new(settings), Budgets::default());
        let server = config.address.authority().map(|authority| authority.host().to_owned());
        let database = Arc::new(DatabaseFacts { kind: "consul", server, evicts: None });
        let (cache, flags) = (store.clone(), store.clone());
        Ok(SharedDatabase::of(
            store,
            timing,
            move |namespace| RecordTable::new(ConsulTable::new(cache.clone()), namespace),
            move |spec| {
                let (table, prefix) = (ConsulTable::new(flags.clone()), &spec.store_prefix);
                let flags = FlagTable::new(table, Naming::CONSUL, prefix);
                let prefix = Some(Naming::CONSUL.prefix(prefix).to_owned());
                (StoreFacts { database: database.clone(), prefix, table: None }, flags)
            },
        ))
    }
}
