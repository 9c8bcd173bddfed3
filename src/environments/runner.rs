//! The task of one environment: takes what stores and upstream say, decides what is served, and
//! hands on what is to be persisted. The only writer of the environment's state.
//!
//! Announce first, persist after: clients hear of a change before any store does.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::environment::Environment;
use super::load_queue::LoadQueue;
use super::same_content::same_content;
use crate::flagstore::{DataSetId, LocalFlags, LocalFlagsState, ReadOutcome};
use crate::model::{DataSet, EnvironmentRef, ErrorKind, Item, ItemKey, Origin, SdkKey};
use crate::streams::{Change, Snapshot};
use crate::telemetry::Chain;
use crate::upstream::flag_messages::{FlagMessage, decode};
use crate::upstream::{EventStream, FlagStreams, RestartReason, StreamEvent};

/// What all environments' tasks have in common.
#[derive(Clone, Debug)]
pub struct RunnerSettings {
    /// Opens upstream connections.
    pub upstream: FlagStreams,
    /// The embedded store, which is opened while environments already start.
    pub local: watch::Receiver<LocalFlagsState>,
    /// Pause between heartbeats to clients; `None` sends none.
    pub heartbeat: Option<Duration>,
    /// Who reads its stored data next.
    pub load_queue: Arc<LoadQueue>,
}

/// One upstream connection and the messages of it that no longer count.
struct Upstream {
    stream: EventStream,
    anchor: SdkKey,
    /// Events of connections up to this one are from a connection that was given up.
    ignore_up_to: u64,
    /// The newest connection that brought a put; 0 before the first. What comes over a later one
    /// before its put does not yet show that the data is live.
    confirmed: u64,
}

pub(super) struct Runner {
    environment: Arc<Environment>,
    settings: RunnerSettings,
    /// The SDK key that LaunchDarkly designates.
    designated: watch::Receiver<SdkKey>,
    /// Told when data comes in under another key than before.
    anchor_moved: Arc<Notify>,
    /// Name of its data set in stores.
    set_id: DataSetId,
    /// The embedded store, once it is open.
    local: Option<LocalFlags>,
    current: Upstream,
    /// Replaces `current` with its first put: the old connection and its data stay until then.
    next: Option<Upstream>,
}

/// All reasons to wake.
enum Wake {
    Stop,
    KeyChanged,
    Stored(Stored),
    Current(Option<StreamEvent>),
    Next(Option<StreamEvent>),
    Heartbeat,
}

impl Runner {
    pub(super) fn new(
        environment: Arc<Environment>,
        settings: RunnerSettings,
        mut designated: watch::Receiver<SdkKey>,
        anchor_moved: Arc<Notify>,
    ) -> Self {
        let set_id = set_id(&environment);
        let anchor = designated.borrow_and_update().clone();
        let stream = settings.upstream.open(&anchor, &environment.reference.filter);
        Self {
            environment,
            settings,
            designated,
            anchor_moved,
            set_id,
            local: None,
            current: Upstream { stream, anchor, ignore_up_to: 0, confirmed: 0 },
            next: None,
        }
    }

    /// Runs until it is told to stop, or until a connection's task breaks: then everything is to
    /// be started anew.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let mut stored = std::pin::pin!(read_stored(
            self.settings.local.clone(),
            self.set_id.clone(),
            self.settings.load_queue.clone(),
            self.environment.clone(),
        ));
        let mut stored_awaited = true;
        let mut heartbeat = self.settings.heartbeat.map(|pause| {
            let mut ticks = tokio::time::interval_at(Instant::now() + pause, pause);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        loop {
            let wake = tokio::select! {
                biased;
                () = cancel.cancelled() => Wake::Stop,
                Ok(()) = self.designated.changed() => Wake::KeyChanged,
                outcome = &mut stored, if stored_awaited => Wake::Stored(outcome),
                () = tick(&mut heartbeat) => Wake::Heartbeat,
                // Last, because upstream may flood them.
                wake = upstream_event(&mut self.current, &mut self.next) => wake,
            };
            match wake {
                Wake::Stop => break,
                Wake::KeyChanged => {
                    let anchor = self.designated.borrow_and_update().clone();
                    self.rotate(anchor);
                }
                Wake::Stored(found) => {
                    stored_awaited = false;
                    self.on_stored(found);
                    self.environment.set_loaded();
                }
                Wake::Current(Some(event)) => self.on_current(event),
                Wake::Next(Some(event)) => self.on_next(event),
                Wake::Current(None) | Wake::Next(None) => {
                    tracing::error!("task of the flag stream ended");
                    return;
                }
                Wake::Heartbeat => self.environment.hub.heartbeat(),
            }
        }
        self.environment.update_status(|status| status.connection.on_close(SystemTime::now()));
    }

    /// The embedded store answered: serve what it holds unless something better is being served.
    fn on_stored(&mut self, stored: Stored) {
        let Some(local) = stored.local else { return };
        let served = self.environment.hub.snapshot();
        let problem = match stored.outcome {
            Ok(ReadOutcome::Complete(set)) => {
                if served.is_none() {
                    tracing::info!(
                        items = set.data.len(),
                        written_at = ?set.written_at,
                        "serving flags from the local store until LaunchDarkly answers"
                    );
                    let data = Arc::new(set.data);
                    local.adopted(&self.set_id, &data, set.written_at);
                    let snapshot = Snapshot::new(data, Origin::LocalStore, set.written_at);
                    self.environment.hub.replace(Arc::new(snapshot));
                }
                None
            }
            Ok(ReadOutcome::Absent) => None,
            Ok(ReadOutcome::Incomplete(found)) => Some(format!(
                "{} of {} stored items are missing, {} cannot be read",
                found.missing, found.items, found.undecodable
            )),
            Ok(ReadOutcome::Unreadable { .. }) => {
                Some("the stored flags are sealed under a key that is not configured".to_owned())
            }
            Err(problem) => Some(problem),
        };
        if let Some(problem) = &problem {
            tracing::warn!(problem, "stored flags of this environment cannot be served");
        }
        self.environment.update_status(|status| status.stored_data_problem = problem);
        // What arrived from upstream before the store was open is still to be stored.
        if let Some(served) = served {
            local.replaced(&self.set_id, served.data.clone());
        }
        self.local = Some(local);
    }

    fn open(&self, anchor: SdkKey) -> Upstream {
        let filter = &self.environment.reference.filter;
        let stream = self.settings.upstream.open(&anchor, filter);
        Upstream { stream, anchor, ignore_up_to: 0, confirmed: 0 }
    }

    /// A new designated key: open its connection beside the old one.
    fn rotate(&mut self, anchor: SdkKey) {
        if anchor == self.current.anchor {
            self.next = None;
        } else if self.next.as_ref().is_none_or(|next| next.anchor != anchor) {
            tracing::info!(
                "SDK key changed; the old upstream connection stays until the new one is live"
            );
            self.next = Some(self.open(anchor));
        }
    }

    fn on_current(&mut self, event: StreamEvent) {
        let Some((connection, message)) = self.read(event, Which::Current) else { return };
        match message {
            Ok(message) => self.apply(connection, message),
            Err(()) => restart_malformed(&mut self.current, connection),
        }
    }

    fn on_next(&mut self, event: StreamEvent) {
        let Some((connection, message)) = self.read(event, Which::Next) else { return };
        match message {
            Ok(message @ FlagMessage::Put(_)) => {
                if let Some(next) = self.next.take() {
                    self.current = next;
                    tracing::info!("upstream connection under the new SDK key is live");
                }
                self.apply(connection, message);
            }
            // Before its put a connection has nothing to say.
            Ok(FlagMessage::Upsert(..) | FlagMessage::Ignored) => {}
            Err(()) => {
                if let Some(next) = &mut self.next {
                    restart_malformed(next, connection);
                }
            }
        }
    }

    /// Takes note of what a stream event means for the status, and decodes what it carries.
    ///
    /// The status is that of the connection which the data comes from. Of the next one only the
    /// errors are told, so that an operator sees why it does not take over.
    fn read(&mut self, event: StreamEvent, which: Which) -> Option<(u64, Result<FlagMessage, ()>)> {
        let now = SystemTime::now();
        let upstream = match which {
            Which::Current => &self.current,
            Which::Next => self.next.as_ref()?,
        };
        let failed = |kind, code| {
            self.environment.update_status(|status| match which {
                Which::Current => status.connection.on_failure(kind, code, now),
                Which::Next => status.connection.on_side_failure(kind, code, now),
            });
        };
        match event {
            StreamEvent::Event { connection, event } if connection > upstream.ignore_up_to => {
                match decode(&event.name, &event.data) {
                    Ok(message) => Some((connection, Ok(message))),
                    Err(error) => {
                        tracing::error!(
                            %error,
                            "LaunchDarkly sent flag data that cannot be used; what is served stays, \
                             and the stream is opened again"
                        );
                        failed(ErrorKind::InvalidData, None);
                        Some((connection, Err(())))
                    }
                }
            }
            StreamEvent::Closed { failure: Some(failure), .. } => {
                failed(failure.kind, failure.status);
                None
            }
            StreamEvent::Closed { failure: None, .. } => {
                if let Which::Current = which {
                    self.environment.update_status(|status| status.connection.on_interruption(now));
                }
                None
            }
            StreamEvent::Event { .. }
            | StreamEvent::Opened { .. }
            | StreamEvent::Comment { .. } => None,
        }
    }

    fn apply(&mut self, connection: u64, message: FlagMessage) {
        match message {
            FlagMessage::Put(data) => {
                self.current.confirmed = connection;
                self.put(data);
            }
            FlagMessage::Upsert(key, item) => self.upsert(&key, item),
            FlagMessage::Ignored => {}
        }
        if self.current.confirmed == connection {
            self.environment.update_status(|status| status.connection.on_valid(SystemTime::now()));
        }
    }

    fn put(&mut self, data: DataSet) {
        let hub = &self.environment.hub;
        let before = hub.snapshot();
        let held = before.as_ref().map_or(0, |before| before.data.live_len());
        if data.live_len() == 0 && held > 0 {
            tracing::error!(
                held,
                "LaunchDarkly sent an empty set of flags for an environment that had some; it is \
                 applied. If this is not intended, check the environment in LaunchDarkly"
            );
        }
        let now = SystemTime::now();
        let data = Arc::new(data);
        let same = before.as_ref().is_some_and(|before| same_content(&before.data, &data));
        // The store is given what is served from here on: if its file is lost it takes the data
        // from there again.
        let served = match before {
            Some(before) if same && before.data == data => {
                hub.confirm(Arc::new(before.confirmed(Origin::Live, now)));
                before.data.clone()
            }
            Some(_) if same => {
                hub.confirm(Arc::new(Snapshot::new(data.clone(), Origin::Live, now)));
                data
            }
            Some(_) | None => {
                hub.replace(Arc::new(Snapshot::new(data.clone(), Origin::Live, now)));
                data
            }
        };
        self.environment.set_loaded();
        if let Some(local) = &self.local {
            local.replaced(&self.set_id, served);
        }
        if self.environment.set_anchor_in_use(&self.current.anchor) {
            self.anchor_moved.notify_one();
        }
    }

    fn upsert(&mut self, key: &ItemKey, item: Item) {
        let hub = &self.environment.hub;
        let Some(before) = hub.snapshot() else {
            tracing::debug!(%key, "change before any complete data set; the next put has it");
            return;
        };
        let item = Arc::new(item);
        let mut data = (*before.data).clone();
        if before.origin == Origin::Live {
            if !data.upsert(key, item.clone()) {
                tracing::debug!(%key, version = item.version, "change is not newer; ignored");
                return;
            }
        } else {
            // What came from a store is provisional: the first live word counts.
            data.collection_mut(key.kind).insert(key.key.clone(), item.clone());
        }
        let data = Arc::new(data);
        let as_of = match before.origin {
            Origin::Live => SystemTime::now(),
            // One change says nothing about the rest.
            Origin::LocalStore | Origin::SharedStore => before.as_of,
        };
        let snapshot = Snapshot::new(data.clone(), before.origin, as_of);
        hub.change(Arc::new(snapshot), Change::of(key, &item));
        if let Some(local) = &self.local {
            local.changed(&self.set_id, data, std::slice::from_ref(key));
        }
    }
}

#[derive(Clone, Copy)]
enum Which {
    Current,
    Next,
}

fn restart_malformed(upstream: &mut Upstream, connection: u64) {
    upstream.ignore_up_to = connection;
    upstream.stream.restart(connection, RestartReason::Malformed);
}

/// The next event of either connection. Not biased: neither keeps the other waiting for ever.
async fn upstream_event(current: &mut Upstream, next: &mut Option<Upstream>) -> Wake {
    let next = async {
        match next {
            Some(upstream) => upstream.stream.recv().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        event = current.stream.recv() => Wake::Current(event),
        event = next => Wake::Next(event),
    }
}

async fn tick(ticks: &mut Option<tokio::time::Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// What the embedded store had to say.
struct Stored {
    /// The store; `None` if there is none.
    local: Option<LocalFlags>,
    outcome: Result<ReadOutcome, String>,
}

/// Waits for the embedded store and reads the data set on a blocking thread.
async fn read_stored(
    mut local: watch::Receiver<LocalFlagsState>,
    set_id: DataSetId,
    queue: Arc<LoadQueue>,
    environment: Arc<Environment>,
) -> Stored {
    let Some(local) = LocalFlagsState::opened(&mut local).await else {
        return Stored { local: None, outcome: Ok(ReadOutcome::Absent) };
    };
    let _turn = queue.turn(move || environment.is_awaited()).await;
    let reader = local.clone();
    let read = tokio::task::spawn_blocking(move || reader.read_set(&set_id)).await;
    let outcome = match read {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(error)) => Err(Chain(&error).to_string()),
        Err(error) => Err(Chain(&error).to_string()),
    };
    Stored { local: Some(local), outcome }
}

/// The name of the environment's data set in stores.
///
/// With an environment ID that is the name. A manual environment without one is named after a
/// hash of its SDK key, because the configured name may be given to another environment while
/// the relay is down, and its stored flags must not be served for that one.
pub(super) fn set_id(environment: &Environment) -> DataSetId {
    use sha2::{Digest, Sha256};
    let spec = environment.spec();
    let environment = match &spec.credentials.environment_id {
        Some(id) => id.as_str().into(),
        None => {
            let digest = Sha256::digest(spec.credentials.anchor.expose().as_bytes());
            let hex: String = digest[..16].iter().map(|b| format!("{b:02x}")).collect();
            format!("key:{hex}").into()
        }
    };
    DataSetId::new(&EnvironmentRef { environment, filter: spec.reference.filter.clone() })
}
