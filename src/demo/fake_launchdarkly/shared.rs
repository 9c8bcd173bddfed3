//! The one place where the service's state, its connections and its streams meet.
//!
//! One lock guards all of it: a stream that begins is shown the state and entered into the list
//! of streams in the same moment, so no change falls between its `put` and its first `patch`.
//! Nothing waits while the lock is held.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_util::sync::CancellationToken;

use super::super::kept_port::KeptPort;
use super::super::shaped_io::Shape;
use super::faults::{FaultId, FaultTable, LastRequest, Opening, Verdict};
use super::request_log::{RequestLog, RequestRecord};
use super::world::World;
use super::{DataScope, FakeError, FakeSettings, StreamSelector, wire};
use crate::model::Password;

/// Events that wait for one stream. A client that reads less is cut off, as LaunchDarkly does;
/// large enough for a test that changes every flag of an environment in one go.
const STREAM_QUEUE_MAX: usize = 16_384;

/// What is shared by the handles, the accept loop, the connections and the streams.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) port: KeptPort,
    inner: Mutex<Inner>,
    /// Something changed that a waiting caller may look for.
    changed: Notify,
    /// The storms in force may have changed. One permit: there is one storm task.
    pub(super) storms_changed: Notify,
}

/// Everything behind the lock.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) world: World,
    pub(super) faults: FaultTable,
    pub(super) log: RequestLog,
    connections: BTreeMap<u64, Connection>,
    streams: BTreeMap<u64, Stream>,
    heartbeat: Option<Duration>,
    /// Connections accepted while the service is being stopped are dropped.
    stopped: bool,
    next_id: u64,
}

/// One accepted connection.
#[derive(Debug)]
struct Connection {
    shape: Shape,
    /// Ends the connection at once.
    cut: CancellationToken,
    /// Path and key of the last request.
    request: Option<(String, Password)>,
    /// The counted black hole that holds it.
    held_by: Option<FaultId>,
}

/// One open stream.
#[derive(Debug)]
struct Stream {
    connection: u64,
    kind: StreamKind,
    key: Password,
    /// A silent stream gets neither events nor heartbeats.
    silent: bool,
    outbox: mpsc::Sender<Message>,
}

/// What a stream carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StreamKind {
    Autoconfig,
    Flags(DataScope),
}

/// What is handed to the body of a stream.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// Bytes to send.
    Bytes(Bytes),
    /// A new heartbeat interval.
    Heartbeat(Option<Duration>),
}

/// What a stream needs to begin.
#[derive(Debug)]
pub(super) struct OpenedStream {
    pub(super) id: u64,
    pub(super) messages: mpsc::Receiver<Message>,
    pub(super) heartbeat: Option<Duration>,
}

impl Shared {
    pub(super) fn new(port: KeptPort, settings: &FakeSettings) -> Self {
        let mut world = World::default();
        world.add_autoconfig_key(&settings.autoconfig_key);
        let inner = Inner {
            world,
            faults: FaultTable::default(),
            log: RequestLog::default(),
            connections: BTreeMap::new(),
            streams: BTreeMap::new(),
            heartbeat: settings.heartbeat,
            stopped: false,
            next_id: 0,
        };
        let inner = Mutex::new(inner);
        Self { port, inner, changed: Notify::new(), storms_changed: Notify::new() }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Looks at or changes the state, and lets waiting callers look again.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        let result = act(&mut self.lock());
        self.changed.notify_waiters();
        result
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `look` finds something. `describe` tells what was there instead.
    pub(super) async fn wait<T>(
        &self,
        what: &str,
        within: Duration,
        look: impl Fn(&Inner) -> Option<T>,
        describe: impl Fn(&Inner) -> String,
    ) -> Result<T, FakeError> {
        let found = async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                // Enabled before looking: a change in between is not missed.
                changed.as_mut().enable();
                if let Some(found) = look(&self.lock()) {
                    return found;
                }
                changed.await;
            }
        };
        tokio::time::timeout(within, found).await.map_err(|_elapsed| FakeError::TimedOut {
            what: what.to_owned(),
            within,
            seen: describe(&self.lock()),
        })
    }
}

impl Inner {
    pub(super) fn set_stopped(&mut self, stopped: bool) {
        self.stopped = stopped;
    }

    /// Enters a connection; `None` while the service is stopped.
    pub(super) fn add_connection(&mut self) -> Option<(u64, Shape, CancellationToken)> {
        if self.stopped {
            return None;
        }
        let (shape, cut) = (Shape::default(), CancellationToken::new());
        shape.set_frozen(self.faults.freezes(None));
        let id = self.take_id();
        let connection =
            Connection { shape: shape.clone(), cut: cut.clone(), request: None, held_by: None };
        self.connections.insert(id, connection);
        Some((id, shape, cut))
    }

    pub(super) fn remove_connection(&mut self, id: u64) {
        self.connections.remove(&id);
    }

    /// The remote control of a connection.
    pub(super) fn shape_of(&self, id: u64) -> Option<Shape> {
        self.connections.get(&id).map(|connection| connection.shape.clone())
    }

    /// Logs a request, decides about it, and shapes its connection accordingly.
    pub(super) fn admit(&mut self, id: u64, record: RequestRecord, key: &str) -> Verdict {
        let verdict = self.faults.verdict(&record.path, key);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.request = Some((record.path.clone(), Password::new(key)));
            connection.held_by = verdict.black_hole();
            connection.shape.set_rate(verdict.bytes_per_second);
            connection.shape.set_bytes_left(verdict.cut_after);
            connection.refreeze(&self.faults);
        }
        self.log.note(record);
        verdict
    }

    /// Freezes and thaws connections after the faults changed.
    pub(super) fn refreeze(&mut self) {
        for connection in self.connections.values() {
            connection.refreeze(&self.faults);
        }
    }

    /// Cuts all connections that are struck, as seen by their last request (path and key).
    pub(super) fn cut_where(&mut self, struck: impl Fn(LastRequest<'_>) -> bool) {
        for connection in self.connections.values() {
            if struck(connection.last_request()) {
                connection.cut.cancel();
            }
        }
    }

    pub(super) fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// Begins a stream: enters it and shows it the state as the verdict wants it.
    pub(super) fn open_stream(
        &mut self,
        connection: u64,
        kind: StreamKind,
        key: &str,
        verdict: &Verdict,
    ) -> OpenedStream {
        let put = match &verdict.opening {
            Opening::Put => Some(self.put_of(&kind)),
            Opening::PutData(data) => Some(wire::event("put", data)),
            Opening::Nothing | Opening::Silence => None,
        };
        let silent = verdict.opening == Opening::Silence;
        let (outbox, messages) = mpsc::channel(STREAM_QUEUE_MAX);
        let preamble = (!verdict.preamble.is_empty()).then(|| verdict.preamble.clone());
        for bytes in preamble.into_iter().chain(put) {
            outbox.try_send(Message::Bytes(bytes)).expect("a new queue has room for two messages");
        }
        let id = self.take_id();
        let key = Password::new(key);
        self.streams.insert(id, Stream { connection, kind, key, silent, outbox });
        let heartbeat = if silent { None } else { self.heartbeat };
        OpenedStream { id, messages, heartbeat }
    }

    /// The `put` that shows all there is.
    pub(super) fn put_of(&self, kind: &StreamKind) -> Bytes {
        match kind {
            StreamKind::Autoconfig => self.world.autoconfig_put(),
            StreamKind::Flags(scope) => self.world.flags_put(scope),
        }
    }

    /// Sends the bytes to the selected streams; returns how many took them.
    pub(super) fn publish(&mut self, selector: &StreamSelector, bytes: &Bytes) -> usize {
        self.tell(selector, &Message::Bytes(bytes.clone()))
    }

    pub(super) fn set_heartbeat(&mut self, heartbeat: Option<Duration>) {
        self.heartbeat = heartbeat;
        self.tell(&StreamSelector::All, &Message::Heartbeat(heartbeat));
    }

    fn tell(&mut self, selector: &StreamSelector, message: &Message) -> usize {
        let mut told = 0;
        self.streams.retain(|_, stream| {
            if stream.silent || !stream.is_selected_by(selector) {
                return true;
            }
            match stream.outbox.try_send(message.clone()) {
                Ok(()) => {
                    told += 1;
                    true
                }
                // Too slow, or gone: the stream ends when its queue is drained.
                Err(TrySendError::Full(_) | TrySendError::Closed(_)) => false,
            }
        });
        told
    }

    /// Ends the selected streams in order, after what is queued; returns their number.
    pub(super) fn close_streams(&mut self, selector: &StreamSelector) -> usize {
        let before = self.streams.len();
        self.streams.retain(|_, stream| !stream.is_selected_by(selector));
        before - self.streams.len()
    }

    /// Cuts the connections of the selected streams; returns their number.
    pub(super) fn cut_streams(&mut self, selector: &StreamSelector) -> usize {
        let mut cut = 0;
        self.streams.retain(|_, stream| {
            let selected = stream.is_selected_by(selector);
            if selected {
                cut += 1;
                if let Some(connection) = self.connections.get(&stream.connection) {
                    connection.cut.cancel();
                }
            }
            !selected
        });
        cut
    }

    pub(super) fn remove_stream(&mut self, id: u64) {
        self.streams.remove(&id);
    }

    pub(super) fn stream_count(&self, selector: &StreamSelector) -> usize {
        self.streams.values().filter(|stream| stream.is_selected_by(selector)).count()
    }

    fn take_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

impl Connection {
    fn last_request(&self) -> LastRequest<'_> {
        self.request.as_ref().map(|(path, key)| (path.as_str(), key.expose()))
    }

    fn refreeze(&self, faults: &FaultTable) {
        let held = self.held_by.is_some_and(|fault| faults.contains(fault));
        self.shape.set_frozen(held || faults.freezes(self.last_request()));
    }
}

impl Stream {
    fn is_selected_by(&self, selector: &StreamSelector) -> bool {
        match selector {
            StreamSelector::All => true,
            StreamSelector::Autoconfig => self.kind == StreamKind::Autoconfig,
            StreamSelector::AllFlags => self.kind != StreamKind::Autoconfig,
            StreamSelector::Flags(wanted) => match &self.kind {
                StreamKind::Autoconfig => false,
                StreamKind::Flags(scope) => scope == wanted,
            },
            StreamSelector::Key(key) => self.key == *key,
        }
    }
}
