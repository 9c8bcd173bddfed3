//! The task of autoconfig: one loop that owns the stream, passes its messages and the content of
//! the caches to [`State`], and carries out the decisions.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, Uri};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cache::orders::CacheOrders;
use super::messages::{Message, decode};
use super::record_set::CachedSet;
use super::specs::SpecSettings;
use super::startup_race::{CacheOutcome, Tier};
use super::state::{Connection, Policy, Reaction, State, StreamStep};
use crate::model::{AutoConfigKey, ConnectionStatus, EnvironmentChange, ErrorKind};
use crate::tasks::until;
use crate::telemetry::{At, Chain, Rounded};
use crate::upstream::{
    EventStream, HttpClient, RestartReason, STREAM_LIMITS, StreamEvent, StreamFailure,
    StreamRequest, StreamTimings,
};

/// Path and query of the stream. Version 2 of the protocol knows payload filters (ld-relay v8).
pub const PATH: &str = "/relay_auto_config";
/// See [`PATH`].
pub const QUERY: &str = "rpacProtocolVersion=2";

/// Pause before the stream is opened again after its task stopped unexpectedly, which is a defect
/// of the relay: it may happen again at once.
const BROKEN_TASK_PAUSE: Duration = Duration::from_secs(5);

/// Opens autoconfig streams.
#[derive(Clone, Debug)]
pub struct AutoConfigStreams {
    /// Makes the connections.
    pub client: HttpClient,
    /// The stream's URL.
    pub url: Uri,
    /// Times of the stream.
    pub timings: StreamTimings,
}

impl AutoConfigStreams {
    fn open(&self, key: &AutoConfigKey) -> EventStream {
        let request = StreamRequest {
            stream: "autoconfig",
            url: self.url.clone(),
            authorization: key.into(),
            headers: HeaderMap::new(),
            limits: STREAM_LIMITS,
        };
        EventStream::open(self.client.clone(), request, self.timings)
    }
}

/// The status of the stream, written by the manager and read by requests.
#[derive(Clone, Debug)]
pub struct AutoConfigStatus(Arc<Mutex<ConnectionStatus>>);

impl AutoConfigStatus {
    /// The status before anything has happened.
    pub fn new(now: SystemTime) -> Self {
        Self(Arc::new(Mutex::new(ConnectionStatus::initializing(now))))
    }

    /// The status at this moment.
    pub fn get(&self) -> ConnectionStatus {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, change: impl FnOnce(&mut ConnectionStatus)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// The ends of the channels that connect the manager with other tasks.
#[derive(Debug)]
pub struct Channels {
    /// Steps for the environments.
    pub changes: mpsc::Sender<Vec<EnvironmentChange>>,
    /// Content of the tiers of the cache.
    pub cache_results: mpsc::Receiver<(Tier, CacheOutcome<CachedSet>)>,
    /// The records that the tiers of the cache should hold.
    pub orders: CacheOrders,
    /// The autoconfig key, which may change.
    pub key: watch::Receiver<AutoConfigKey>,
    /// Read by `/status`.
    pub status: AutoConfigStatus,
}

/// Owns the autoconfig stream.
#[derive(Debug)]
pub struct StreamManager {
    streams: AutoConfigStreams,
    channels: Channels,
    state: State,
    /// The stream; `None` while it is deliberately closed.
    stream: Option<EventStream>,
    /// Time at which the stream is opened again.
    reopen_at: Option<Instant>,
    /// The current connection, by the stream's own number and by the manager's, which goes on when
    /// the stream is replaced.
    connection: Option<(u64, Connection)>,
    connections: u64,
    /// Messages of the stream's connections up to this number are ignored.
    ignore_up_to: u64,
    /// True once an unknown event on this connection was logged.
    told_unknown: bool,
    /// True once this connection has delivered something that could be used.
    has_delivered: bool,
}

/// All reasons to wake.
enum Wake {
    Stop,
    Cache(Tier, CacheOutcome<CachedSet>),
    Stream(Option<StreamEvent>),
    KeyChanged,
    Reopen,
    Lapse,
}

impl StreamManager {
    /// A manager that waits for these tiers of the cache.
    pub fn new(
        streams: AutoConfigStreams,
        settings: SpecSettings,
        tiers: &[Tier],
        policy: Policy,
        channels: Channels,
    ) -> Self {
        Self {
            streams,
            channels,
            state: State::new(settings, tiers, policy),
            stream: None,
            reopen_at: None,
            connection: None,
            connections: 0,
            ignore_up_to: 0,
            told_unknown: false,
            has_delivered: false,
        }
    }

    /// Runs until it is cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        self.open();
        loop {
            let wake = tokio::select! {
                biased;
                () = cancel.cancelled() => Wake::Stop,
                Ok(()) = self.channels.key.changed() => Wake::KeyChanged,
                // Before the stream, which upstream may flood; a cache answers now and then.
                Some((tier, outcome)) = self.channels.cache_results.recv() => {
                    Wake::Cache(tier, outcome)
                }
                event = next_event(&mut self.stream) => Wake::Stream(event),
                () = until(self.reopen_at) => Wake::Reopen,
                () = until(self.state.lapse_at()) => Wake::Lapse,
            };
            match wake {
                Wake::Stop => break,
                Wake::Cache(tier, outcome) => self.on_cache(tier, outcome).await,
                Wake::Stream(Some(event)) => self.on_stream(event).await,
                Wake::Stream(None) => {
                    tracing::error!(
                        pause = %Rounded(BROKEN_TASK_PAUSE),
                        "task of the autoconfig stream ended; opening it anew"
                    );
                    self.close_until(Instant::now() + BROKEN_TASK_PAUSE);
                }
                Wake::KeyChanged => {
                    tracing::info!("autoconfig key changed; opening the stream anew");
                    self.open();
                }
                Wake::Reopen => self.open(),
                Wake::Lapse => {
                    let reaction = self.state.on_time(Instant::now());
                    self.carry_out(reaction).await;
                }
            }
        }
        self.channels.status.update(|status| status.on_close(SystemTime::now()));
    }

    fn open(&mut self) {
        self.disconnected(None);
        let key = self.channels.key.borrow_and_update().clone();
        self.stream = Some(self.streams.open(&key));
        self.reopen_at = None;
        self.ignore_up_to = 0;
    }

    /// Gives the stream up until that moment.
    fn close_until(&mut self, reopen_at: Instant) {
        self.disconnected(None);
        self.stream = None;
        self.reopen_at = Some(reopen_at);
    }

    /// Notes that the connection is lost: the list is no longer confirmed.
    fn disconnected(&mut self, failure: Option<StreamFailure>) {
        self.connection = None;
        self.state.on_disconnected(Instant::now());
        let now = SystemTime::now();
        self.channels.status.update(|status| match failure {
            Some(failure) => status.on_failure(failure.kind, failure.status, now),
            None => status.on_interruption(now),
        });
        self.channels.orders.not_live(now);
    }

    async fn on_cache(&mut self, tier: Tier, outcome: CacheOutcome<CachedSet>) {
        let found = match &outcome {
            CacheOutcome::Loaded(set) => {
                Some((set.records.environments.len(), set.complete, set.confirmed_at()))
            }
            CacheOutcome::Empty | CacheOutcome::Unavailable | CacheOutcome::Unreadable => None,
        };
        let reaction = self.state.on_cache(tier, outcome);
        if let Some((environments, complete, confirmed_at)) = found
            && !reaction.changes.is_empty()
        {
            tracing::info!(
                %tier,
                environments,
                complete,
                confirmed_at = %At(confirmed_at),
                "running the environments of the autoconfig cache until LaunchDarkly answers"
            );
        }
        self.carry_out(reaction).await;
    }

    async fn on_stream(&mut self, event: StreamEvent) {
        if let StreamEvent::Event { .. } | StreamEvent::Comment { .. } = &event {
            self.channels.orders.heard(Instant::now());
        }
        match event {
            StreamEvent::Opened { connection, .. } => {
                self.connections += 1;
                let opened = Connection { number: self.connections, opened_at: Instant::now() };
                self.connection = Some((connection, opened));
                self.told_unknown = false;
                self.has_delivered = false;
            }
            StreamEvent::Event { connection, event } if connection > self.ignore_up_to => {
                self.on_event(connection, &event).await;
            }
            // A heartbeat confirms what was delivered.
            StreamEvent::Comment { connection } if connection > self.ignore_up_to => {
                if self.has_delivered {
                    self.channels.status.update(|status| status.on_valid(SystemTime::now()));
                }
            }
            StreamEvent::Event { .. } | StreamEvent::Comment { .. } => {}
            StreamEvent::Closed { failure, .. } => self.disconnected(failure),
        }
    }

    async fn on_event(&mut self, number: u64, event: &crate::sse::Event) {
        let Some((_, connection)) = self.connection.filter(|(open, _)| *open == number) else {
            return;
        };
        let message = match decode(&event.name, &event.data) {
            Ok(message) => message,
            Err(error) => {
                tracing::error!(
                    error = %Chain(&error),
                    "LaunchDarkly sent an autoconfig message that cannot be used; what is known \
                     stays, and the stream is opened again"
                );
                let reaction = self.state.on_undecodable();
                self.carry_out(reaction).await;
                return self.restart_malformed(number);
            }
        };
        self.note(&message);
        let is_usable = is_usable(&message);
        let reaction = self.state.on_message(connection, message, Instant::now());
        let step = reaction.stream;
        if is_usable && step != Some(StreamStep::RestartMalformed) {
            self.has_delivered = true;
            self.channels.status.update(|status| status.on_valid(SystemTime::now()));
        }
        self.carry_out(reaction).await;
        match step {
            Some(StreamStep::RestartMalformed) => self.restart_malformed(number),
            Some(StreamStep::Reconnect) => {
                self.ignore_up_to = number;
                if let Some(stream) = &self.stream {
                    stream.restart(number, RestartReason::Requested);
                }
            }
            Some(StreamStep::ConfirmAt(at)) => self.close_until(at),
            None => {}
        }
    }

    fn restart_malformed(&mut self, number: u64) {
        self.ignore_up_to = number;
        self.channels.status.update(|status| {
            status.on_failure(ErrorKind::InvalidData, None, SystemTime::now());
        });
        if let Some(stream) = &self.stream {
            stream.restart(number, RestartReason::Malformed);
        }
    }

    async fn carry_out(&mut self, reaction: Reaction) {
        if !reaction.changes.is_empty() {
            // Fails only when the process is ending.
            let _ = self.channels.changes.send(reaction.changes).await;
        }
        if let Some(known) = reaction.learnt {
            self.channels.orders.learnt(known, Instant::now());
        }
        if let Some(records) = reaction.persist {
            self.channels.orders.accepted(records, Instant::now(), SystemTime::now());
        }
    }

    /// Logs a message for the operator.
    fn note(&mut self, message: &Message) {
        match message {
            Message::Put(put) => tracing::info!(
                environments = put.environments.len(),
                filters = put.filters.len(),
                "LaunchDarkly sent the list of environments"
            ),
            Message::PatchEnvironment(id, _) => {
                tracing::info!(environment = id, "LaunchDarkly changed an environment");
            }
            Message::DeleteEnvironment(id, _) => {
                tracing::info!(environment = id, "LaunchDarkly deleted an environment");
            }
            Message::PatchFilter(id, _) => {
                tracing::info!(filter = id, "LaunchDarkly changed a filter");
            }
            Message::DeleteFilter(id, _) => {
                tracing::info!(filter = id, "LaunchDarkly deleted a filter");
            }
            Message::Reconnect => {
                tracing::info!("LaunchDarkly asks for a new autoconfig connection");
            }
            Message::PutElsewhere => tracing::info!("autoconfig put for an unknown path ignored"),
            // Once for each connection: a newer LaunchDarkly may send it often.
            Message::UnknownEvent(name) if !self.told_unknown => {
                self.told_unknown = true;
                tracing::warn!(name, "unknown autoconfig event ignored; others are not told of");
            }
            Message::UnknownEvent(name) => {
                tracing::debug!(name, "unknown autoconfig event ignored")
            }
            Message::UnknownItem(path) => {
                tracing::debug!(path, "change of an unknown kind of item ignored");
            }
        }
    }
}

/// True if a message says something about environments or filters. Unknown events and requests to
/// reconnect show that a server answers, not that the list is valid.
fn is_usable(message: &Message) -> bool {
    match message {
        Message::Put(_)
        | Message::PatchEnvironment(_, Ok(_))
        | Message::PatchFilter(..)
        | Message::DeleteEnvironment(..)
        | Message::DeleteFilter(..) => true,
        Message::PatchEnvironment(_, Err(_))
        | Message::Reconnect
        | Message::PutElsewhere
        | Message::UnknownEvent(_)
        | Message::UnknownItem(_) => false,
    }
}

async fn next_event(stream: &mut Option<EventStream>) -> Option<StreamEvent> {
    match stream {
        Some(stream) => stream.recv().await,
        None => std::future::pending().await,
    }
}
