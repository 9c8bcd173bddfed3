//! The task of one environment: takes what stores and upstream say, decides what is served, and
//! hands on what is to be persisted. The only writer of the environment's state.
//!
//! Announce first, persist after: clients hear of a change before any store does.

mod stored;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::difference::{Difference, difference};
use super::environment::Environment;
use super::load_queue::LoadQueue;
use super::stored_data::{Source, StoredData, Trust};

pub(super) use self::stored::set_id;
use self::stored::{Patience, Stored};
use crate::flagstore::{
    DataSetId, LocalFlags, LocalFlagsState, OpenShared, SharedFlags, SharedRead, SharedStores,
};
use crate::model::{DataSet, ErrorKind, Item, ItemKey, Origin, SdkKey};
use crate::streams::{Change, Snapshot};
use crate::tasks::{TaskGroup, beside};
use crate::upstream::flag_messages::{FlagMessage, FlagMessageError, decode};
use crate::upstream::{EventStream, FlagStreams, RestartReason, StreamEvent};

/// How long the keeper of a shared store may take for its last write.
const KEEPER_GRACE: Duration = Duration::from_secs(3);

/// Events up to this size are decoded on a thread of the runtime: that takes about a millisecond.
const DECODED_ON_THE_SPOT_BYTES_MAX: usize = 256 * 1024;

/// What all environments' tasks have in common.
#[derive(Clone, Debug)]
pub struct RunnerSettings {
    /// Opens upstream connections.
    pub upstream: FlagStreams,
    /// The embedded store, which is opened while environments already start.
    pub local: watch::Receiver<LocalFlagsState>,
    /// The stores that are shared with other relays and SDKs, if there are any.
    pub shared: Option<SharedStores>,
    /// Pause between heartbeats to clients; `None` sends none.
    pub heartbeat: Option<Duration>,
    /// Which of the stores count while LaunchDarkly has not answered.
    pub trust: Trust,
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
    /// Whether that connection still stands.
    live: bool,
}

pub(super) struct Runner {
    environment: Arc<Environment>,
    settings: RunnerSettings,
    /// The SDK key that LaunchDarkly designates.
    designated: watch::Receiver<SdkKey>,
    /// Name of its data set in stores.
    set_id: DataSetId,
    /// The embedded store, once it is open.
    local: Option<LocalFlags>,
    /// The store that is shared with others.
    shared: Option<SharedFlags>,
    /// What the stores have said, and what of it is served until LaunchDarkly answers.
    stored_data: StoredData,
    current: Upstream,
    /// Replaces `current` with its first put: the old connection and its data stay until then.
    next: Option<Upstream>,
}

/// All reasons to wake.
enum Wake {
    Stop,
    KeyChanged,
    Stored(Stored),
    Shared(Option<SharedRead>),
    Current(Option<StreamEvent>),
    Next(Option<StreamEvent>),
    Heartbeat,
}

impl Runner {
    pub(super) fn new(
        environment: Arc<Environment>,
        settings: RunnerSettings,
        mut designated: watch::Receiver<SdkKey>,
    ) -> Self {
        let set_id = set_id(&environment);
        let stored_data = StoredData::new(settings.trust, [Source::Local]);
        let anchor = designated.borrow_and_update().clone();
        let stream = settings.upstream.open(&anchor, &environment.reference.filter);
        Self {
            environment,
            settings,
            designated,
            set_id,
            local: None,
            shared: None,
            stored_data,
            current: Upstream { stream, anchor, ignore_up_to: 0, confirmed: 0, live: false },
            next: None,
        }
    }

    /// Runs until it is told to stop, or until a connection's task breaks: then everything is to
    /// be started anew.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let mut stored = std::pin::pin!(self.read_stored(Patience::UntilKnown));
        let mut stored_awaited = true;
        let mut tasks = TaskGroup::new(&cancel);
        let mut reads = self.open_shared(&mut tasks);
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
                read = next_read(&mut reads) => Wake::Shared(read),
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
                    stored_awaited = found.local.is_none();
                    self.on_stored(found);
                    if stored_awaited {
                        stored.set(self.read_stored(Patience::ForEver));
                    }
                }
                Wake::Shared(Some(read)) => self.on_shared(read),
                Wake::Shared(None) => {
                    // Its panic was logged where it happened.
                    tracing::error!("the task that keeps the shared flag store stopped");
                    return;
                }
                Wake::Current(Some(event)) => {
                    let decoded = self.decoded(&event).await;
                    self.on_current(&event, decoded);
                }
                Wake::Next(Some(event)) => {
                    let decoded = self.decoded(&event).await;
                    self.on_next(&event, decoded);
                }
                Wake::Current(None) | Wake::Next(None) => {
                    tracing::error!("task of the flag stream ended");
                    return;
                }
                Wake::Heartbeat => self.environment.hub.heartbeat(),
            }
        }
        self.environment.update_status(|status| status.connection.on_close(SystemTime::now()));
        if let (Some(shared), true) = (&self.shared, self.environment.is_doomed()) {
            shared.forget();
        }
        tasks.shutdown(KEEPER_GRACE).await;
    }

    /// Opens the shared store, whose keeper runs in a task of its own.
    fn open_shared(&mut self, tasks: &mut TaskGroup) -> Option<mpsc::Receiver<SharedRead>> {
        let OpenShared { flags, reads, run } =
            self.settings.shared.as_ref()?.open(&self.environment.spec());
        tasks.spawn("shared flag store", run);
        self.environment.set_shared(flags.clone());
        self.shared = Some(flags);
        self.stored_data.expect(Source::Shared);
        Some(reads)
    }

    fn open(&self, anchor: SdkKey) -> Upstream {
        let filter = &self.environment.reference.filter;
        let stream = self.settings.upstream.open(&anchor, filter);
        Upstream { stream, anchor, ignore_up_to: 0, confirmed: 0, live: false }
    }

    /// A new designated key: open its connection beside the old one.
    fn rotate(&mut self, anchor: SdkKey) {
        if anchor == self.current.anchor {
            self.next = None;
        } else if self.next.as_ref().is_none_or(|next| next.anchor != anchor) {
            tracing::info!(
                "SDK key changed; clients with the old one are refused, and the old upstream \
                 connection brings the data until the new one is live"
            );
            self.next = Some(self.open(anchor));
        }
    }

    /// Decodes what an event carries, and compares a put with what is served; beside the runtime's
    /// threads if it is large.
    async fn decoded(&self, event: &StreamEvent) -> Option<Decoded> {
        let StreamEvent::Event { event, .. } = event else { return None };
        let (name, data) = (event.name.clone(), event.data.clone());
        let before = self.environment.hub.snapshot();
        let is_large = data.len() > DECODED_ON_THE_SPOT_BYTES_MAX;
        let decode = move || {
            let message = decode(&name, &data);
            let difference = match (&message, before) {
                (Ok(FlagMessage::Put(set)), Some(before)) => Some(difference(&before.data, set)),
                (Ok(_) | Err(_), _) => None,
            };
            Decoded { message, difference }
        };
        Some(if is_large { beside(decode).await } else { decode() })
    }

    fn on_current(&mut self, event: &StreamEvent, decoded: Option<Decoded>) {
        match (event, &self.shared) {
            (StreamEvent::Closed { .. }, _) => self.not_live(),
            (StreamEvent::Event { .. } | StreamEvent::Comment { .. }, Some(shared)) => {
                shared.heard(Instant::now());
            }
            (_, None) | (StreamEvent::Opened { .. }, Some(_)) => {}
        }
        let Some((connection, message)) = self.read(event, decoded, Which::Current) else {
            return;
        };
        match message {
            Ok((message, difference)) => self.apply(connection, message, difference),
            Err(()) => {
                restart_malformed(&mut self.current, connection);
                self.not_live();
            }
        }
    }

    /// What is served is no longer what LaunchDarkly says at this moment.
    fn not_live(&mut self) {
        self.current.live = false;
        if let Some(shared) = &self.shared {
            shared.not_live();
        }
    }

    fn on_next(&mut self, event: &StreamEvent, decoded: Option<Decoded>) {
        let Some((connection, message)) = self.read(event, decoded, Which::Next) else { return };
        match message {
            Ok((message @ FlagMessage::Put(_), difference)) => {
                if let Some(next) = self.next.take() {
                    self.current = next;
                    tracing::info!("upstream connection under the new SDK key is live");
                }
                self.apply(connection, message, difference);
            }
            // Before its put a connection has nothing to say.
            Ok((FlagMessage::Upsert(..) | FlagMessage::Ignored, _)) => {}
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
    fn read(
        &mut self,
        event: &StreamEvent,
        decoded: Option<Decoded>,
        which: Which,
    ) -> Option<(u64, Told)> {
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
        match *event {
            StreamEvent::Event { connection, .. } if connection > upstream.ignore_up_to => {
                let Decoded { message, difference } = decoded?;
                match message {
                    Ok(message) => Some((connection, Ok((message, difference)))),
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
            StreamEvent::Closed { failure: Some(ref failure), .. } => {
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

    fn apply(&mut self, connection: u64, message: FlagMessage, difference: Option<Difference>) {
        match message {
            FlagMessage::Put(data) => {
                self.current.confirmed = connection;
                self.current.live = true;
                self.put(data, difference);
            }
            FlagMessage::Upsert(key, item) => self.upsert(&key, item),
            FlagMessage::Ignored => {}
        }
        if self.current.confirmed == connection {
            self.environment.update_status(|status| status.connection.on_valid(SystemTime::now()));
        }
    }

    fn put(&mut self, data: DataSet, difference: Option<Difference>) {
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
        let snapshot =
            |data: &Arc<DataSet>| Arc::new(Snapshot::new(data.clone(), Origin::Live, now));
        // The stores are given what is served from here on: if one is lost it takes the data from
        // there again.
        let served = match (before, difference) {
            (Some(before), Some(Difference::Nothing)) if before.data == data => {
                hub.confirm(Arc::new(before.confirmed(Origin::Live, now)));
                before.data.clone()
            }
            (Some(_), Some(Difference::Nothing)) => {
                hub.confirm(snapshot(&data));
                data
            }
            (Some(_), Some(Difference::Changes(changes))) => {
                let changes = changes.iter().map(|(key, item)| Change::of(key, item));
                hub.changes(snapshot(&data), changes);
                data
            }
            (Some(_), Some(Difference::Everything) | None) | (None, _) => {
                hub.replace(snapshot(&data));
                data
            }
        };
        self.environment.set_loaded();
        self.stored_data.on_live();
        self.report_items();
        if let Some(shared) = &self.shared {
            shared.put(served.clone(), Instant::now());
        }
        if let Some(local) = &self.local {
            local.replaced(&self.set_id, served);
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
            Origin::Live => Some(SystemTime::now()),
            // One change says nothing about the rest.
            Origin::LocalStore | Origin::SharedStore => before.as_of,
        };
        let snapshot = Snapshot::new(data.clone(), before.origin, as_of);
        hub.change(Arc::new(snapshot), Change::of(key, &item));
        if let (Some(shared), true) = (&self.shared, self.current.live) {
            shared.changed(data.clone(), key);
        }
        if let Some(local) = &self.local {
            local.changed(&self.set_id, data, std::slice::from_ref(key));
        }
    }
}

/// What an event carries.
struct Decoded {
    message: Result<FlagMessage, FlagMessageError>,
    /// How a put differs from what is served, if anything is.
    difference: Option<Difference>,
}

/// What an event says: a message, and for a put its difference; an error if it is malformed.
type Told = Result<(FlagMessage, Option<Difference>), ()>;

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

/// The next reading of the shared store; `None` if its task stopped unexpectedly.
async fn next_read(reads: &mut Option<mpsc::Receiver<SharedRead>>) -> Option<SharedRead> {
    match reads {
        Some(reads) => reads.recv().await,
        None => std::future::pending().await,
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
