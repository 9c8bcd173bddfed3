//! The task of one environment: passes events of sources and stores to the serving core, and
//! carries out the effects. The only writer of the environment's state.
//!
//! It decides nothing. Clients get a change before any store does.

mod stored;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::difference::{Difference, difference};
use super::environment::Environment;
use super::load_queue::LoadQueue;
use super::serving::{Effects, LocalOrder, Serving, SharedOrder, Told, UpstreamOrder, Which};
use super::stored_data::{Answer, Store, Trust};

pub use self::stored::answer_of_shared;
pub(super) use self::stored::set_id;
use self::stored::{Patience, Stored, answer_of_local};
use crate::flagstore::{
    DataSetId, LocalFlags, LocalFlagsState, OpenShared, SharedFlags, SharedRead, SharedStores,
};
use crate::model::SdkKey;
use crate::source::{Received, Source, SourceEvent, Sources};
use crate::tasks::{TaskGroup, beside_if};

/// Time limit for the last write of a shared store's keeper.
const KEEPER_GRACE: Duration = Duration::from_secs(3);

/// Data sets of up to so many bytes are compared on a thread of the runtime: that takes about a
/// millisecond.
const COMPARED_ON_THE_SPOT_BYTES_MAX: usize = 256 * 1024;

/// Settings that all environments' tasks share.
#[derive(Clone, Debug)]
pub struct RunnerSettings {
    /// Opens the sources of flags.
    pub sources: Sources,
    /// The embedded store, which is opened while environments already start.
    pub local: watch::Receiver<LocalFlagsState>,
    /// The stores that are shared with other relays and SDKs, if there are any.
    pub shared: Option<SharedStores>,
    /// Pause between heartbeats to clients; `None` sends none.
    pub heartbeat: Option<Duration>,
    /// Stores that count while LaunchDarkly has not answered.
    pub trust: Trust,
    /// Queue for reading stored data.
    pub load_queue: Arc<LoadQueue>,
}

pub(super) struct Runner {
    environment: Arc<Environment>,
    settings: RunnerSettings,
    /// The SDK key that LaunchDarkly designates.
    designated: watch::Receiver<SdkKey>,
    /// Name of its data set in stores.
    set_id: DataSetId,
    /// The core that decides what is served and what follows from events.
    serving: Serving,
    /// The embedded store, once it is open.
    local: Option<LocalFlags>,
    /// The store that is shared with others.
    shared: Option<SharedFlags>,
    /// The connections that the core calls current and next.
    current: Source,
    next: Option<Source>,
}

/// All reasons to wake.
enum Wake {
    Stop,
    KeyChanged,
    Stored(Stored),
    Shared(Option<SharedRead>),
    Source(Which, Option<Received>),
    Heartbeat,
}

impl Runner {
    pub(super) fn new(
        environment: Arc<Environment>,
        settings: RunnerSettings,
        mut designated: watch::Receiver<SdkKey>,
    ) -> Self {
        let set_id = set_id(&environment);
        let key = designated.borrow_and_update().clone();
        let current = settings.sources.open(&key, &environment.reference);
        let stores =
            [Store::Local].into_iter().chain(settings.shared.is_some().then_some(Store::Shared));
        let (served, status) = (environment.hub.snapshot(), environment.status());
        let serving = Serving::new(key, settings.trust, stores, served, status);
        Self {
            environment,
            settings,
            designated,
            set_id,
            serving,
            local: None,
            shared: None,
            current,
            next: None,
        }
    }

    /// Runs until it is cancelled, or until a connection's task stops unexpectedly: then the caller
    /// starts everything again.
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
        let depends_on_key = self.settings.sources.depend_on_key();
        loop {
            let wake = tokio::select! {
                biased;
                () = cancel.cancelled() => Wake::Stop,
                Ok(()) = self.designated.changed(), if depends_on_key => Wake::KeyChanged,
                outcome = &mut stored, if stored_awaited => Wake::Stored(outcome),
                read = next_read(&mut reads) => Wake::Shared(read),
                () = tick(&mut heartbeat) => Wake::Heartbeat,
                // Last, because upstream may send without pause.
                wake = source_event(&mut self.current, &mut self.next) => wake,
            };
            let effects = match wake {
                Wake::Stop => break,
                Wake::KeyChanged => {
                    let key = self.designated.borrow_and_update().clone();
                    self.serving.on_designated(key)
                }
                Wake::Stored(found) => {
                    stored_awaited = found.local.is_none();
                    if stored_awaited {
                        stored.set(self.read_stored(Patience::ForEver));
                    }
                    self.on_stored(found)
                }
                Wake::Shared(Some(read)) => self.serving.on_shared_store(answer_of_shared(read)),
                Wake::Shared(None) => {
                    // Its panic was logged where it happened.
                    tracing::error!("the task that keeps the shared flag store stopped");
                    return;
                }
                Wake::Source(which, Some(received)) => {
                    let event = received.decoded().await;
                    let (event, difference) = self.compared(event).await;
                    self.serving.on_source(which, event, difference, SystemTime::now())
                }
                Wake::Source(_, None) => {
                    tracing::error!("task of the flag stream ended");
                    return;
                }
                Wake::Heartbeat => {
                    self.environment.hub.heartbeat();
                    continue;
                }
            };
            self.carry_out(effects);
        }
        self.serving.on_stop(SystemTime::now());
        self.environment.set_status(self.serving.status());
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
        Some(reads)
    }

    fn on_stored(&mut self, stored: Stored) -> Effects {
        let Some(local) = stored.local else {
            let answer = if stored.outcome.is_ok() { Answer::Nothing } else { Answer::Unread };
            return self.serving.on_no_local_store(answer);
        };
        self.local = Some(local);
        let (answer, problem) = answer_of_local(stored.outcome);
        self.serving.on_local_store(answer, problem)
    }

    /// Compares a data set with what is served; on a blocking thread if it is large.
    async fn compared(&self, event: SourceEvent) -> (SourceEvent, Option<Difference>) {
        let (connection, data, served) = match (event, self.serving.served()) {
            (SourceEvent::Everything { connection, data }, Some(served)) => {
                (connection, data, served.data.clone())
            }
            (event, _) => return (event, None),
        };
        let is_large = data.json_bytes() > COMPARED_ON_THE_SPOT_BYTES_MAX;
        let compare = move || {
            let found = difference(&served, &data);
            (data, found)
        };
        let (data, found) = beside_if(is_large, compare).await;
        (SourceEvent::Everything { connection, data }, Some(found))
    }

    fn carry_out(&mut self, effects: Effects) {
        let Effects { announce, local, shared, upstream } = effects;
        let environment = &self.environment;
        if let Some(announcement) = announce {
            let (hub, snapshot) = (&environment.hub, announcement.snapshot);
            match announcement.told {
                Told::Nothing => hub.confirm(snapshot),
                Told::Changes(changes) => hub.change(snapshot, changes),
                Told::Everything => hub.replace(snapshot),
            }
        }
        if self.serving.is_loaded() {
            environment.set_loaded();
        }
        environment.set_status(self.serving.status());
        if let Some(keeper) = &self.shared {
            shared.into_iter().for_each(|order| tell_shared(keeper, order));
        }
        if let (Some(store), Some(order)) = (&self.local, local) {
            match order {
                LocalOrder::Replace(data) => store.replaced(&self.set_id, data),
                LocalOrder::Change(data, keys) => store.changed(&self.set_id, data, &keys),
                LocalOrder::Adopt(data, written_at) => {
                    store.adopted(&self.set_id, &data, written_at);
                }
            }
        }
        match upstream {
            Some(UpstreamOrder::OpenNext(key)) => {
                self.next = Some(self.settings.sources.open(&key, &environment.reference));
            }
            Some(UpstreamOrder::DropNext) => self.next = None,
            Some(UpstreamOrder::PromoteNext) => {
                if let Some(next) = self.next.take() {
                    self.current = next;
                }
            }
            Some(UpstreamOrder::RestartMalformed(which, connection)) => {
                let stream = match which {
                    Which::Current => Some(&self.current),
                    Which::Next => self.next.as_ref(),
                };
                stream.into_iter().for_each(|stream| stream.restart_malformed(connection));
            }
            None => {}
        }
    }
}

fn tell_shared(keeper: &SharedFlags, order: SharedOrder) {
    match order {
        SharedOrder::Put(data) => keeper.put(data, Instant::now()),
        SharedOrder::Changed(data, keys) => keeper.changed(data, keys),
        SharedOrder::Served { data, is_partial } => keeper.served(data, is_partial),
        SharedOrder::Heard => keeper.heard(Instant::now()),
        SharedOrder::NotLive => keeper.not_live(),
    }
}

/// The next event of either connection. Not biased, so that neither starves the other.
async fn source_event(current: &mut Source, next: &mut Option<Source>) -> Wake {
    let next = async {
        match next {
            Some(stream) => stream.recv().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        event = current.recv() => Wake::Source(Which::Current, event),
        event = next => Wake::Source(Which::Next, event),
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
