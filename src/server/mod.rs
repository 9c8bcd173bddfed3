//! HTTP server for SDKs: finds the environment of a request and answers it.
//!
//! Nothing here names a database or dials LaunchDarkly; goals are asked of `goals`.

mod admission;
mod authorized_request;
mod body;
mod client_side;
mod compression;
mod connection;
mod cors;
mod crowd;
#[cfg(feature = "testing")]
pub mod decoding;
mod drain;
mod expectations;
mod handlers;
mod head_timer;
mod listener;
mod not_built;
mod pace;
mod ping_delay;
mod polling;
mod progress_io;
mod readiness;
mod refusals;
mod responses;
mod routes;
mod selection;
mod status;
mod status_page;
mod streaming;
#[cfg(test)]
mod test_support;
mod turns;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::HeaderMap;
use tokio::time::Instant;

pub use drain::Drain;
pub use listener::{BindError, Listener};
pub use status::{StatusMembers, connection_status};

use crate::environments::Registry;
use crate::events::Events;
use crate::goals::GoalsProxy;

/// Full payloads that may be on their way to clients at the same time. A payload is shared, so
/// this bounds the sockets that are being filled, not memory for copies.
pub const INITIAL_PAYLOADS_MAX: usize = 512;

/// Requests that may wait for their turn to receive a full payload.
pub const INITIAL_PAYLOADS_QUEUED_MAX: usize = 20_000;

/// Longest time that requests wait, after the start, for stores that are being read, before they
/// get 503. Long enough for a local store; an SDK that got 503 would come back after a second at
/// best.
const BOOT_HOLD: Duration = Duration::from_millis(1_000);

/// Settings of the server.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Streams are ended after this time, so that clients spread over the relays again; `None`:
    /// never.
    pub max_client_connection_time: Option<Duration>,
    /// Concurrent full payloads; `None`: not limited.
    pub initial_payloads: Option<InitialPayloads>,
    /// Time after which an interrupted environment counts as disconnected (ld-relay v8:
    /// `disconnectedStatusTime`).
    pub disconnected_after: Duration,
    /// Time after which one serving environment is enough to be ready.
    pub init_timeout: Duration,
    /// Files that this process may have open, connections included.
    pub open_files_max: usize,
    /// Longest delay of pings to client-side SDKs (ld-relay v9: `pingStreamJitterTime`); `None`:
    /// at once.
    pub ping_jitter: Option<Duration>,
    /// Largest body with a context (ld-relay v9: `maxClientRequestBodySize`).
    pub context_bytes_max: u64,
    /// Largest body with events, after decompression (ld-relay v8: `maxInboundPayloadSize`).
    pub event_bytes_max: u64,
    /// True if answers are compressed for clients that accept it (ld-relay v8: `enableCompression`).
    pub compresses: bool,
    /// True if there is a page for people at `/`.
    pub has_status_page: bool,
    /// True in offline mode, in which events go nowhere.
    pub is_offline: bool,
}

/// Bounds on full payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitialPayloads {
    /// Payloads on their way at the same time.
    pub concurrent_max: usize,
    /// Requests that wait for their turn; 0 refuses at once.
    pub queued_max: usize,
    /// Time for one payload, after which its connection ends (ld-relay v9: `sendTimeout`); `None`
    /// demands a minimum pace only.
    pub send_timeout: Option<Duration>,
}

impl Default for InitialPayloads {
    fn default() -> Self {
        Self {
            concurrent_max: INITIAL_PAYLOADS_MAX,
            queued_max: INITIAL_PAYLOADS_QUEUED_MAX,
            send_timeout: None,
        }
    }
}

/// State that all requests share.
#[derive(Debug)]
pub struct Server {
    registry: Arc<Registry>,
    settings: ServerSettings,
    drain: Arc<Drain>,
    status_page: status_page::StatusPage,
    readiness: readiness::Readiness,
    turns: Option<Arc<turns::Turns>>,
    /// Turns to evaluate many flags.
    evaluations: Arc<turns::Turns>,
    bodies: client_side::BodyBudget,
    /// `None` if nothing is compressed.
    compressors: Option<compression::Compressors>,
    /// `None` in offline mode.
    goals: Option<GoalsProxy>,
    /// `None` if events are not forwarded.
    events: Option<Events>,
    event_bodies: client_side::BodyBudget,
    not_built: not_built::Reports,
    refusals: Arc<refusals::Refusals>,
    started_at: Instant,
}

impl Server {
    /// Creates a server for the environments of a registry. `status_members` gives the members of
    /// `/status` other than the environments.
    pub fn new(
        registry: Arc<Registry>,
        settings: ServerSettings,
        drain: Arc<Drain>,
        status_members: StatusMembers,
        goals: Option<GoalsProxy>,
        events: Option<Events>,
    ) -> Self {
        let turns = settings.initial_payloads.map(turns::Turns::new).map(Arc::new);
        let refusals = Arc::new(refusals::Refusals::default());
        let sources = status::StatusSources {
            registry: registry.clone(),
            refusals: refusals.clone(),
            members: status_members,
            disconnected_after: settings.disconnected_after,
        };
        // Each keeps a processor busy.
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let evaluations =
            InitialPayloads { concurrent_max: processors, ..InitialPayloads::default() };
        Self {
            bodies: client_side::BodyBudget::new(settings.context_bytes_max),
            compressors: settings.compresses.then(|| compression::Compressors::new(processors)),
            goals,
            events,
            event_bodies: client_side::BodyBudget::new(settings.event_bytes_max),
            evaluations: Arc::new(turns::Turns::new(evaluations)),
            registry,
            settings,
            drain,
            status_page: status_page::StatusPage::new(sources),
            readiness: readiness::Readiness::default(),
            turns,
            not_built: not_built::Reports::default(),
            refusals,
            started_at: Instant::now(),
        }
    }

    /// A body in the form that a client accepts. `shared` keeps the compressed form for all
    /// clients that get the same.
    async fn encode(
        &self,
        request: &HeaderMap,
        body: Bytes,
        shared: Option<&OnceLock<Bytes>>,
    ) -> compression::Encoded {
        match &self.compressors {
            Some(compressors) => compressors.encode(request, body, shared).await,
            None => compression::Encoded::plain(body),
        }
    }

    /// Time until which requests may wait for stores that are being read.
    fn boot_hold_until(&self) -> Instant {
        self.started_at + BOOT_HOLD
    }

    fn now() -> SystemTime {
        SystemTime::now()
    }
}
