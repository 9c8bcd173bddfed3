//! The composition root: from a configuration to a running relay.
//!
//! Everything is connected here and nowhere else: the choice of the database is made once, by a
//! `match`; all sources of environments feed one channel; the parts know each other only through
//! channels and watches.

mod database;
mod events;
mod keys;
mod limits;
mod local;
mod manual;
mod offline;
mod prepared;
mod status;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::database::{SharedCache, SharedDatabase};
use self::prepared::Prepared;
pub use self::prepared::{StartError, StartErrors, check};
use crate::autoconfig::cache::keeper::{self, KeeperEnds, KeeperSettings, LocalPlace};
use crate::autoconfig::cache::orders::CacheOrders;
use crate::autoconfig::cache::report::{ReadState, SharedReport, TierReport};
use crate::autoconfig::specs::SpecSettings;
use crate::autoconfig::startup_race::Tier;
use crate::autoconfig::state::Policy;
use crate::autoconfig::stream_manager::{
    AutoConfigStatus, AutoConfigStreams, Channels, StreamManager,
};
use crate::config::{AutoConfigSection, Config};
use crate::environments::{
    LoadQueue, Orphans, Registry, RunnerSettings, Supervisor, SupervisorSettings, Trust,
};
use crate::flagstore::LocalFlagsState;
use crate::goals::GoalsProxy;
use crate::model::{AutoConfigKey, EnvironmentChange, hex};
use crate::server::{Drain, Listener, Server};
use crate::source::{ArchivedSets, Fdv1Streams, Sources};
use crate::tasks::{TaskGroup, supervised};
use crate::telemetry::Rounded;
use crate::upstream::StreamTimings;

/// Batches of environment changes that may wait for the supervisor. The supervisor never blocks, so
/// one would do; a few let autoconfig continue while a large batch is applied.
const CHANGE_BATCHES_MAX: usize = 8;

/// Results of cache reads that may wait for the stream manager.
const CACHE_RESULTS_MAX: usize = 4;

/// Time that the parts have to end, once clients are gone.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Time that the last bytes of responses have when the grace period is over.
const LAST_BYTES_GRACE: Duration = Duration::from_millis(500);

/// Interval at which a shutdown checks whether all streams have ended.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// Name of the autoconfig cache's tier in the local store.
const LOCAL_TIER: &str = "local";

/// A relay that is bound and whose parts are running.
#[derive(Debug)]
pub struct App {
    /// `None` where nothing is served.
    address: Option<SocketAddr>,
    registry: Arc<Registry>,
    drain: Arc<Drain>,
    local: watch::Receiver<LocalFlagsState>,
    /// The listener, in a group of its own: it ends before the other parts.
    front: TaskGroup,
    /// All other parts.
    parts: TaskGroup,
    graceful_shutdown: Duration,
    /// Reports of the autoconfig cache's tiers.
    tiers: Vec<(&'static str, SharedReport)>,
    shutdown_delay: Duration,
}

/// The treatment of new clients once the relay has been told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Accepted for `shutdownDelay`: load balancers take some time to notice the shutdown.
    OpenAWhile,
    /// Accepted until the last stream has ended.
    Closed,
}

impl App {
    /// Binds the port and starts everything. Waits for nothing: the relay serves as soon as it has
    /// data from any source. With `exitAlways` nothing is served and no port is opened (ld-relay
    /// v8).
    pub fn start(config: &Config) -> Result<Self, StartErrors> {
        let prepared = Prepared::new(config)?.check_archive(config)?;
        let Prepared { client, addresses, database, archive } = prepared;
        let listener = if config.main.exit_always {
            None
        } else {
            let bound = Listener::bind(config.main.bind_address, config.main.port);
            Some(bound.map_err(StartError::from)?)
        };
        let cancel = CancellationToken::new();
        let mut parts = TaskGroup::new(&cancel);

        let secrets = keys::Secrets::from_config(&config.autoconfig);
        let (secrets_sender, secrets) = watch::channel(secrets);
        let local = local::open(&config.local_store.directory, secrets.clone(), &mut parts);
        let registry = Arc::new(Registry::default());
        let (sets_sender, sets) = watch::channel(Arc::<ArchivedSets>::default());
        let (changes_sender, changes) = mpsc::channel(CHANGE_BATCHES_MAX);
        let supervisor = Supervisor::new(
            SupervisorSettings {
                runner: RunnerSettings {
                    sources: match archive {
                        Some(_) => Sources::Archive(sets),
                        None => Sources::LaunchDarkly(Arc::new(Fdv1Streams::new(
                            client.clone(),
                            addresses.stream_base,
                            StreamTimings::default(),
                        ))),
                    },
                    local: local.flags.clone(),
                    shared: database.as_ref().map(|database| database.flags.clone()),
                    heartbeat: config.main.heartbeat_interval,
                    trust: match config.local_store.is_preferred_over_shared {
                        true => Trust::LocalFirst,
                        false => Trust::All,
                    },
                    load_queue: LoadQueue::new(cores()),
                },
                sweep_interval: config.main.expired_credential_cleanup_interval,
                orphans: match (&config.autoconfig.key, &config.offline) {
                    (None, None) => Orphans::Kept,
                    (Some(_), _) | (None, Some(_)) => Orphans::Forgotten,
                },
            },
            registry.clone(),
            changes,
        );
        parts.spawn("environments", |cancel| supervisor.run(cancel));

        let goals = archive.is_none().then(|| {
            let (goals, fetcher) = GoalsProxy::new(client.clone(), addresses.client_side_base);
            parts.spawn("goals", |cancel| fetcher.run(cancel));
            goals
        });
        let events = (config.events.send && archive.is_none()).then(|| {
            let place = local.place.clone();
            let (client, registry) = (client.clone(), registry.clone());
            let parts_of = events::Parts {
                config: &config.events,
                client,
                base: addresses.events_base,
                registry,
                place,
            };
            events::start(parts_of, &mut parts)
        });
        let (events, events_report) = events.unzip();
        let mut sources = status::StatusSources {
            events: events_report,
            autoconfig: None,
            archive: None,
            tiers: Vec::new(),
            local: local.flags.clone(),
            local_problem: local.problem.clone(),
        };
        match (&config.autoconfig.key, &config.offline, archive) {
            (Some(_), _, _) => {
                let url = addresses.autoconfig_url;
                let streams = AutoConfigStreams { client, url, timings: StreamTimings::default() };
                let changes = changes_sender;
                let wiring = Wiring { config, secrets, local: &local, database, changes };
                wiring.autoconfig(streams, &mut parts, &mut sources);
            }
            (None, Some(offline), Some(first)) => {
                let (report_sender, report) = watch::channel(offline::ArchiveReport::default());
                sources.archive = Some(report);
                let ends = offline::Ends {
                    sets: sets_sender,
                    changes: changes_sender,
                    report: report_sender,
                };
                let settings = spec_settings(&config.autoconfig);
                offline::start(offline, settings, first, ends, &local, &mut parts);
                if let Some(database) = database {
                    database.start(None, &mut parts);
                }
            }
            (None, _, _) => {
                manual::start(config, &changes_sender, &mut parts);
                if let Some(database) = database {
                    database.start(None, &mut parts);
                }
            }
        }
        watch_secret_files(&config.autoconfig, secrets_sender, &mut parts);

        let tiers = sources.tiers.clone();
        let drain = Arc::new(Drain::default());
        let server = Arc::new(Server::new(
            registry.clone(),
            limits::server_settings(config),
            drain.clone(),
            sources.members(),
            goals,
            events,
        ));
        let address = listener.as_ref().and_then(|listener| listener.address().ok());
        let mut front = TaskGroup::new(&CancellationToken::new());
        if let Some(listener) = listener {
            front.spawn("listener", |cancel| listener.serve(server, cancel));
        }
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
            tiers,
        })
    }

    /// The address on which the relay listens; `None` if it serves nothing.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The environments that the relay serves.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Names the data from LaunchDarkly that is not stored yet.
    pub fn unwritten(&self) -> Vec<String> {
        let environments = self.registry.environments();
        let flags = environments
            .iter()
            .filter(|environment| !environment.is_stored())
            .map(|environment| format!("flags of environment {}", environment.reference));
        let is_written = |name: &str, report: &TierReport| {
            // A local store that another relay holds, or that cannot be opened on this machine, is
            // no reason to wait.
            (name == LOCAL_TIER && report.read == ReadState::Unavailable)
                || (!report.write_pending && report.last_write.is_some())
        };
        let tiers = self.tiers.iter().filter(|(name, report)| !is_written(name, &report.get()));
        flags.chain(tiers.map(|(name, _)| format!("the {name} autoconfig cache"))).collect()
    }

    /// Waits until a part stops unexpectedly, which is a defect, and names it.
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

    /// Shuts down in order: reports not ready, ends the streams spread over the grace period,
    /// stores what was accepted.
    pub async fn stop(self, door: Door) {
        let grace = self.graceful_shutdown;
        let delay = match door {
            Door::OpenAWhile => self.shutdown_delay.min(grace),
            Door::Closed => Duration::ZERO,
        };
        tracing::info!(
            grace = %Rounded(grace),
            delay = %Rounded(delay),
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

/// The connections between autoconfig and the other parts.
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

        let orders = CacheOrders::default();
        let (results_sender, results) = mpsc::channel(CACHE_RESULTS_MAX);
        let writer = writer_name();
        let mut tiers = Vec::new();
        if !self.local.is_off {
            tiers.push(Tier::Local);
            let report = SharedReport::default();
            sources.tiers.push((LOCAL_TIER, report.clone()));
            let ends = KeeperEnds {
                settings: keeper_settings(section, Tier::Local, None),
                wanted: orders.subscribe(),
                results: results_sender.clone(),
                report,
            };
            let mut flags = self.local.flags.clone();
            let (keys, writer) = (cache_keys.clone(), writer.clone());
            parts.spawn("local cache", move |cancel| async move {
                if LocalFlagsState::opened(&mut flags).await.is_none() {
                    let is_absent = matches!(*flags.borrow(), LocalFlagsState::Absent);
                    local::report_closed(is_absent, &ends.results, &ends.report).await;
                }
                let local = tokio::select! {
                    () = cancel.cancelled() => return,
                    local = LocalFlagsState::opened_at_last(&mut flags) => local,
                };
                supervised("local cache", cancel, |cancel| {
                    let place = LocalPlace::new(local.store().clone(), keys.clone());
                    keeper::keep(place.tier(&writer), place, ends.clone(), cancel)
                })
                .await;
            });
        }
        if let (Some(database), Some(config)) = (self.database, &self.config.database) {
            let cache = section.cache_key.as_deref().map(|cache_key| {
                tiers.push(Tier::Shared);
                let report = SharedReport::default();
                sources.tiers.push(("shared", report.clone()));
                let check = database::check_interval(config);
                let settings = keeper_settings(section, Tier::Shared, check);
                let shared = SharedCache {
                    cache_key,
                    format: section.cache_format,
                    adopt: database::adopt(section.cache_adopt),
                    writer: &writer,
                    keys: cache_keys,
                };
                let wanted = orders.subscribe();
                (shared, KeeperEnds { settings, wanted, results: results_sender, report })
            });
            database.start(cache, parts);
        }
        let status = AutoConfigStatus::new(SystemTime::now());
        sources.autoconfig = Some(status.clone());
        let channels =
            Channels { changes: self.changes, cache_results: results, orders, key, status };
        let authority = self.config.main.disconnected_status_time;
        let policy = Policy { adopt: database::adopt(section.cache_adopt), authority };
        let manager = StreamManager::new(streams, spec_settings(section), &tiers, policy, channels);
        parts.spawn("autoconfig", |cancel| manager.run(cancel));
    }
}

/// Passes changed secrets to the tasks that use them.
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
                // No task watches files, so no secret can change.
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

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

/// A random name of this process, for manifests.
fn writer_name() -> String {
    let mut bytes = [0; 8];
    // If this fails, the name is all zeros, which only makes manifests harder to tell apart.
    let _ = getrandom::fill(&mut bytes);
    hex(&bytes)
}
