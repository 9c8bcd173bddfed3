//! The shared state of the service: its data, connections and streams.
//!
//! One lock guards all of it: a new stream receives its `put` and is added to the list of streams
//! in one step, so no change is lost between its `put` and its first `patch`. No code waits while
//! it holds the lock.

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

/// Events that wait for one stream. A client that reads more slowly is disconnected, as by
/// LaunchDarkly; large enough for a test that changes every flag of an environment at once.
const STREAM_QUEUE_MAX: usize = 16_384;

/// State shared by the handles, the accept loop, the connections and the streams.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) port: KeptPort,
    inner: Mutex<Inner>,
    /// Notified after each change, for waiting callers.
    changed: Notify,
    /// Notified when the active storms may have changed. One permit suffices for the one storm
    /// task.
    pub(super) storms_changed: Notify,
}

/// The state behind the lock.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) world: World,
    pub(super) faults: FaultTable,
    pub(super) log: RequestLog,
    connections: BTreeMap<u64, Connection>,
    streams: BTreeMap<u64, Stream>,
    heartbeat: Option<Duration>,
    /// True while the service is stopped; connections accepted then are dropped.
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
    /// The black hole with a count that holds it.
    held_by: Option<FaultId>,
}

/// One open stream.
#[derive(Debug)]
struct Stream {
    connection: u64,
    kind: StreamKind,
    key: Password,
    /// True for a stream that receives neither events nor heartbeats.
    silent: bool,
    outbox: mpsc::Sender<Message>,
}

/// The content of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StreamKind {
    Autoconfig,
    Flags(DataScope),
}

/// A message to the body of a stream.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// Bytes to send.
    Bytes(Bytes),
    /// A new heartbeat interval.
    Heartbeat(Option<Duration>),
}

/// The parts of a new stream.
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

    /// Reads or changes the state, and wakes waiting callers.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        let result = act(&mut self.lock());
        self.changed.notify_waiters();
        result
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `look` returns a value. `describe` describes the state for the error.
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
                // Enabled before the check: a change in between is not missed.
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

    /// Registers a connection; `None` while the service is stopped.
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

    /// The control of a connection.
    pub(super) fn shape_of(&self, id: u64) -> Option<Shape> {
        self.connections.get(&id).map(|connection| connection.shape.clone())
    }

    /// Logs a request, decides its treatment, and controls its connection accordingly.
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

    /// Cuts all connections for whose last request (path and key) `struck` is true.
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

    /// Begins a stream: registers it and queues the first events that the verdict asks for.
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

    /// The `put` with the whole state.
    pub(super) fn put_of(&self, kind: &StreamKind) -> Bytes {
        match kind {
            StreamKind::Autoconfig => self.world.autoconfig_put(),
            StreamKind::Flags(scope) => self.world.flags_put(scope),
        }
    }

    /// Sends the bytes to the selected streams; returns the number of streams that accepted them.
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
                // Too slow, or closed: the stream ends when its queue is drained.
                Err(TrySendError::Full(_) | TrySendError::Closed(_)) => false,
            }
        });
        told
    }

    /// Ends the selected streams normally, after what is queued; returns their number.
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
