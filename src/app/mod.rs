//! The composition root: from a configuration to a running relay.
//!
//! Everything is connected here and nowhere else: the choice of the database is made once, by a
//! `match`; the three sources of environments feed one channel; the parts know each other only
//! through channels and watches.

mod database;
mod keys;
mod limits;
mod local;
mod status;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Uri;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::database::{KeeperEnds, SharedCache, SharedDatabase};
use crate::autoconfig::cache::keeper::{Keeper, KeeperSettings, Wanted};
use crate::autoconfig::cache::local_tier::LocalTier;
use crate::autoconfig::cache::report::SharedReport;
use crate::autoconfig::specs::SpecSettings;
use crate::autoconfig::startup_race::Tier;
use crate::autoconfig::stream_manager::{
    AutoConfigStatus, AutoConfigStreams, Channels, PATH, QUERY, StreamManager,
};
use crate::config::{AutoConfigSection, Config, ProxyLogin};
use crate::environments::{
    LoadQueue, Registry, RunnerSettings, Strangers, Supervisor, SupervisorSettings,
};
use crate::flagstore::LocalFlagsState;
use crate::model::{AutoConfigKey, EnvironmentChange, ListState};
use crate::server::{BindError, Drain, Listener, Server};
use crate::tasks::TaskGroup;
use crate::upstream::{
    BaseUrl, FlagStreams, HttpClient, HttpClientSettings, ProxySettings, SettingsError,
    StreamTimings, UrlError,
};

/// Batches of environment changes that may wait for the supervisor. It never waits itself, so
/// one would do; a few let autoconfig go on while a large batch is taken in.
const CHANGE_BATCHES_MAX: usize = 8;

/// Results of cache reads that may wait for the stream manager.
const CACHE_RESULTS_MAX: usize = 4;

/// How long parts may take to end, once clients are gone.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// How long the last bytes of responses may take when the grace period is over.
const LAST_BYTES_GRACE: Duration = Duration::from_millis(500);

/// How often the end of all streams is looked for while leaving.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// Why the relay cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken, or the address is not of this machine.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The outbound proxy or a CA file cannot be used.
    #[error("outbound connections cannot be set up")]
    Outbound(#[source] SettingsError),
    /// An upstream address cannot be used.
    #[error("{option} is not usable as an upstream address")]
    Upstream {
        /// The option.
        option: &'static str,
        /// Why.
        #[source]
        cause: UrlError,
    },
    /// The shared database cannot be used as it is configured.
    #[error("the shared database cannot be used")]
    Database(#[source] database::DatabaseError),
    /// The configuration asks for a part that this binary was built without.
    #[error("this binary was built without {0}")]
    NotCompiled(&'static str),
}

/// A relay that is bound and whose parts are running.
#[derive(Debug)]
pub struct App {
    address: SocketAddr,
    registry: Arc<Registry>,
    drain: Arc<Drain>,
    local: watch::Receiver<LocalFlagsState>,
    /// The listener, in a group of its own: it ends last but one.
    front: TaskGroup,
    /// Everything behind it.
    parts: TaskGroup,
    graceful_shutdown: Duration,
    shutdown_delay: Duration,
}

/// Whether clients may still come once the relay has been told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// For `shutdownDelay`: load balancers take some time to learn that the relay is going.
    OpenAWhile,
    /// Not once the last stream has ended.
    Closed,
}

impl App {
    /// Binds the port and starts everything. Waits for nothing: the relay serves as soon as its
    /// data is there, from wherever.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        let listener = Listener::bind(config.main.bind_address, config.main.port)?;
        let cancel = CancellationToken::new();
        let mut parts = TaskGroup::new(&cancel);
        let client = HttpClient::new(&http_settings(config)).map_err(StartError::Outbound)?;
        let stream_base = base_url("streamUri", &config.main.stream_uri)?;

        let secrets = keys::Secrets::from_config(&config.autoconfig);
        let (secrets_sender, secrets) = watch::channel(secrets);
        let local = local::open(&config.local_store, secrets.clone(), &mut parts);
        let database = config.database.as_ref().map(SharedDatabase::new).transpose()?;
        let registry = Arc::new(Registry::default());
        let (changes_sender, changes) = mpsc::channel(CHANGE_BATCHES_MAX);
        let supervisor = Supervisor::new(
            SupervisorSettings {
                runner: RunnerSettings {
                    upstream: FlagStreams::new(
                        client.clone(),
                        stream_base.clone(),
                        StreamTimings::default(),
                    ),
                    local: local.flags.clone(),
                    shared: database.as_ref().map(|database| database.flags.clone()),
                    heartbeat: config.main.heartbeat_interval,
                    load_queue: LoadQueue::new(cores()),
                },
                sweep_interval: config.main.expired_credential_cleanup_interval,
                strangers: match config.autoconfig.key {
                    Some(_) => Strangers::Forgotten,
                    None => Strangers::Kept,
                },
            },
            registry.clone(),
            changes,
        );
        parts.spawn("environments", |cancel| supervisor.run(cancel));

        let mut sources = status::StatusSources {
            autoconfig: None,
            tiers: Vec::new(),
            local: local.flags.clone(),
            local_problem: local.problem.clone(),
        };
        match &config.autoconfig.key {
            Some(_) => {
                let url = stream_base
                    .join(PATH, Some(QUERY))
                    .map_err(|cause| StartError::Upstream { option: "streamUri", cause })?;
                let streams = AutoConfigStreams { client, url, timings: StreamTimings::default() };
                let changes = changes_sender;
                let wiring = Wiring { config, secrets, local: &local, database, changes };
                wiring.autoconfig(streams, &mut parts, &mut sources);
            }
            None => {
                manual(config, &changes_sender, &mut parts);
                if let Some(database) = database {
                    database.start(None, &mut parts);
                }
            }
        }
        watch_secret_files(&config.autoconfig, secrets_sender, &mut parts);

        let drain = Arc::new(Drain::default());
        let server = Arc::new(Server::new(
            registry.clone(),
            limits::server_settings(config),
            drain.clone(),
            sources.members(),
        ));
        let address = listener.address().unwrap_or_else(|_| SocketAddr::from(([0; 4], 0)));
        let mut front = TaskGroup::new(&CancellationToken::new());
        front.spawn("listener", |cancel| listener.serve(server, cancel));
        let local = local.flags;
        Ok(Self {
            address,
            registry,
            drain,
            local,
            front,
            parts,
            graceful_shutdown: config.main.graceful_shutdown_timeout,
            shutdown_delay: config.main.shutdown_delay,
        })
    }

    /// Where the relay listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it serves.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Waits until a part ends that should run for ever: a defect.
    pub async fn broken(&mut self) -> &'static str {
        let ended = tokio::select! {
            Some(ended) = self.parts.ended() => ended,
            Some(ended) = self.front.ended() => ended,
            else => return "everything",
        };
        match ended {
            Ok(name) => name,
            Err(error) => {
                tracing::error!(%error, "a part of the relay broke");
                "a part"
            }
        }
    }

    /// Leaves in order: not ready, streams end spread over the grace period, what was accepted is
    /// stored.
    pub async fn stop(self, door: Door) {
        let grace = self.graceful_shutdown;
        let delay = match door {
            Door::OpenAWhile => self.shutdown_delay.min(grace),
            Door::Closed => Duration::ZERO,
        };
        tracing::info!(
            ?grace,
            ?delay,
            "shutting down; connections are accepted during the delay, streams end spread over \
             the grace period"
        );
        let now = Instant::now();
        self.drain.begin(now, grace, delay);
        self.wake_streams();
        let (open_until, until) = (now + delay, now + grace);
        let is_done = |now| self.open_streams() == 0 && now >= open_until;
        while Instant::now() < until && !is_done(Instant::now()) {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        let left = self.open_streams();
        if left > 0 {
            tracing::warn!(left, "streams were still open at the end of the grace period");
        }
        // Answers that are being sent may go on for the rest of the grace period.
        let rest = until.saturating_duration_since(Instant::now());
        self.front.shutdown(rest.max(LAST_BYTES_GRACE)).await;
        self.parts.shutdown(SHUTDOWN_GRACE).await;
        let local = self.local.borrow().clone();
        if let LocalFlagsState::Open(local) = local
            && !local.store().close(SHUTDOWN_GRACE).await
        {
            tracing::warn!("the local store did not take everything in time");
        }
    }

    fn wake_streams(&self) {
        for environment in self.registry.environments().iter() {
            environment.hub.wake();
        }
    }

    fn open_streams(&self) -> usize {
        self.registry.environments().iter().map(|environment| environment.hub.streams()).sum()
    }
}

/// What connects autoconfig with the rest.
struct Wiring<'a> {
    config: &'a Config,
    secrets: watch::Receiver<keys::Secrets>,
    local: &'a local::Local,
    database: Option<SharedDatabase>,
    changes: mpsc::Sender<Vec<EnvironmentChange>>,
}

impl Wiring<'_> {
    fn autoconfig(
        self,
        streams: AutoConfigStreams,
        parts: &mut TaskGroup,
        sources: &mut status::StatusSources,
    ) {
        let section = &self.config.autoconfig;
        let Some(cache_keys) = self.secrets.borrow().cache_keys() else { return };
        let (cache_keys_sender, cache_keys) = watch::channel(cache_keys);
        let key = self.secrets.borrow().autoconfig.clone().unwrap_or(AutoConfigKey::new(""));
        let (key_sender, key) = watch::channel(key);
        parts.spawn("keys", |cancel| {
            follow_secrets(self.secrets, key_sender, cache_keys_sender, cancel)
        });

        let (wanted_sender, wanted) = watch::channel::<Option<Wanted>>(None);
        let (results_sender, results) = mpsc::channel(CACHE_RESULTS_MAX);
        let writer = writer_name();
        let mut tiers = Vec::new();
        if !self.local.is_off {
            tiers.push(Tier::Local);
            let report = SharedReport::default();
            sources.tiers.push(("local", report.clone()));
            let settings = keeper_settings(section, Tier::Local, None);
            let mut flags = self.local.flags.clone();
            let (keys, wanted, results) =
                (cache_keys.clone(), wanted.clone(), results_sender.clone());
            let writer = writer.clone();
            parts.spawn("local cache", move |cancel| async move {
                if LocalFlagsState::opened(&mut flags).await.is_none() {
                    local::tell_absent(&results, &report).await;
                }
                let local = tokio::select! {
                    () = cancel.cancelled() => return,
                    local = LocalFlagsState::opened_at_last(&mut flags) => local,
                };
                let access = LocalTier::new(local.store().clone(), &writer, keys);
                Keeper::new(settings, access, wanted, results, report).run(cancel).await;
            });
        }
        if let (Some(database), Some(config)) = (self.database, &self.config.database) {
            let cache = section.cache_key.as_deref().map(|cache_key| {
                tiers.push(Tier::Shared);
                let report = SharedReport::default();
                sources.tiers.push(("shared", report.clone()));
                let check = database::check_interval(config);
                let settings = keeper_settings(section, Tier::Shared, check);
                let format = section.cache_format;
                let shared = SharedCache { cache_key, format, writer: &writer, keys: cache_keys };
                (shared, KeeperEnds { settings, wanted, results: results_sender, report })
            });
            database.start(cache, parts);
        }
        let status = AutoConfigStatus::new(SystemTime::now());
        sources.autoconfig = Some(status.clone());
        let channels = Channels {
            changes: self.changes,
            cache_results: results,
            wanted: wanted_sender,
            key,
            status,
        };
        let manager = StreamManager::new(streams, spec_settings(section), &tiers, channels);
        parts.spawn("autoconfig", |cancel| manager.run(cancel));
    }
}

/// Hands changed secrets on to those who use them.
async fn follow_secrets(
    mut secrets: watch::Receiver<keys::Secrets>,
    key: watch::Sender<AutoConfigKey>,
    cache_keys: watch::Sender<crate::autoconfig::cache::codec::CacheKeys>,
    cancel: CancellationToken,
) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            changed = secrets.changed() => if changed.is_err() {
                // Nobody watches files, so nothing can change.
                return cancel.cancelled().await;
            }
        }
        let now = secrets.borrow_and_update().clone();
        if let Some(keys) = now.cache_keys() {
            tracing::info!("keys of the cache were read anew");
            cache_keys.send_replace(keys);
        }
        if let Some(new) = now.autoconfig {
            key.send_if_modified(|known| {
                let changed = *known != new;
                *known = new;
                changed
            });
        }
    }
}

fn watch_secret_files(
    section: &AutoConfigSection,
    secrets: watch::Sender<keys::Secrets>,
    parts: &mut TaskGroup,
) {
    let files = keys::SecretFiles::from_config(section);
    if !files.is_empty() {
        parts.spawn("secret files", |cancel| files.watch(secrets, cancel));
    }
}

/// Manual environments: an authoritative list from the start.
fn manual(config: &Config, changes: &mpsc::Sender<Vec<EnvironmentChange>>, parts: &mut TaskGroup) {
    let mut batch: Vec<EnvironmentChange> = config
        .manual_environments()
        .into_iter()
        .map(|spec| EnvironmentChange::Upsert(Arc::new(spec)))
        .collect();
    batch.push(EnvironmentChange::List(ListState::Authoritative));
    let changes = changes.clone();
    parts.spawn("manual environments", |cancel| async move {
        // Fails only when the process is ending.
        let _ = changes.send(batch).await;
        cancel.cancelled().await;
    });
}

fn keeper_settings(
    section: &AutoConfigSection,
    tier: Tier,
    check_interval: Option<Duration>,
) -> KeeperSettings {
    KeeperSettings { tier, age_max: section.cache_max_age, check_interval }
}

fn spec_settings(section: &AutoConfigSection) -> SpecSettings {
    let defaults = &section.environments;
    SpecSettings {
        store_prefix: defaults.store_prefix_template().to_owned(),
        store_table: defaults.store_table_template().to_owned(),
        allowed_origins: defaults.allowed_origins.clone().into(),
        allowed_headers: defaults.allowed_headers.clone().into(),
    }
}

fn http_settings(config: &Config) -> HttpClientSettings {
    let proxy = &config.proxy;
    let (user, password) = match &proxy.login {
        ProxyLogin::FromUrl | ProxyLogin::Ntlm { .. } => (None, None),
        ProxyLogin::Basic { user, password } => {
            (Some(user.clone()), password.as_ref().map(|source| source.value.clone()))
        }
    };
    HttpClientSettings {
        proxy: ProxySettings {
            url: proxy.url.clone(),
            user,
            password,
            http_proxy: proxy.from_variables.http.clone(),
            https_proxy: proxy.from_variables.https.clone(),
            no_proxy: proxy.from_variables.no_proxy.clone(),
        },
        ca_files: proxy.ca_cert_files.clone(),
    }
}

fn base_url(option: &'static str, uri: &Uri) -> Result<BaseUrl, StartError> {
    BaseUrl::parse(&uri.to_string()).map_err(|cause| StartError::Upstream { option, cause })
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

/// A random name of this process, for manifests.
fn writer_name() -> String {
    let mut bytes = [0; 8];
    // A name that is not random only makes a manifest less telling.
    let _ = getrandom::fill(&mut bytes);
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
