//! One relay: a process that comes and goes, its local store, and a client that stays connected.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::database::base_lost;
use super::launchdarkly::{LaunchDarkly, Message, shown};
use crate::environments::Trust;
use crate::environments::simulated::{
    Announcement, EnvironmentStatus, Serving, Store, Told, Which,
};
use crate::flagstore::marker::Identity;
use crate::flagstore::simulated::{FlagVisits, SharedReport, channel};
use crate::flagstore::{SharedFlags, StoreFacts, Timing};
use crate::model::{DataSet, ItemKey, SdkKey};
use crate::replica::{Moment, Replica, Visits};
use crate::simulation::calls::{Calls, Doing};
use crate::simulation::scenario::Millis;
use crate::storage::Health;

/// Writes of the local store that a kill may lose.
pub const LOCAL_LOSS: Millis = 250;

#[derive(Debug)]
pub struct Relay {
    pub name: char,
    pub has_local: bool,
    /// What was written into the local store, and when.
    pub disk: Vec<(Millis, Arc<DataSet>)>,
    pub process: Option<Process>,
    /// Grows with each process: what was meant for a former one is dropped.
    pub incarnation: u64,
    /// Cannot reach LaunchDarkly.
    pub is_cut_off: bool,
    /// The designated SDK key.
    pub key: u64,
}

#[derive(Debug)]
pub struct Process {
    pub serving: Serving,
    pub flags: SharedFlags,
    pub replica: Replica<FlagVisits>,
    pub calls: Calls,
    /// Something was told to the keeper.
    pub is_told: bool,
    /// False between two connections to the database.
    pub has_database: bool,
    pub client: Client,
    pub streams: BTreeMap<u64, Stream>,
    pub current: u64,
    pub next: Option<u64>,
    /// Connections to the database so far.
    pub epoch: u64,
    _health: watch::Sender<Health>,
}

/// A stream to LaunchDarkly and those that take its place under the same key.
#[derive(Debug, Default)]
pub struct Stream {
    /// Connections so far.
    pub connection: u64,
    pub is_open: bool,
    pub is_stalled: bool,
    /// What waits behind a stall.
    pub held: Vec<Message>,
    pub last_arrival: Millis,
}

impl Process {
    pub fn start(key: u64, identity: &Identity, timing: Timing, at: &Moment) -> Self {
        let health = watch::Sender::new(Health::connected_at(at.now));
        let report = SharedReport::new(StoreFacts::default(), health.subscribe());
        let (flags, orders) = channel(report);
        let visits = FlagVisits::new(Some(identity.clone()), orders);
        let status = EnvironmentStatus::initializing(at.wall);
        let stores = [Store::Local, Store::Shared];
        Self {
            serving: Serving::new(sdk_key(key), Trust::All, stores, None, status),
            flags,
            replica: Replica::new(visits, timing, at),
            calls: Calls::none(),
            is_told: false,
            has_database: true,
            client: Client::default(),
            streams: BTreeMap::new(),
            current: 0,
            next: None,
            epoch: 0,
            _health: health,
        }
    }

    /// Which connection of the serving core a stream is.
    pub fn which(&self, stream: u64) -> Option<Which> {
        if stream == self.current {
            Some(Which::Current)
        } else {
            (Some(stream) == self.next).then_some(Which::Next)
        }
    }

    /// Whether what is served is what LaunchDarkly says.
    pub fn is_live(&mut self) -> bool {
        self.replica.visits().waiting().live
    }
}

pub fn sdk_key(number: u64) -> SdkKey {
    SdkKey::new(format!("key-{number}").as_str())
}

/// Why something is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// LaunchDarkly sent everything.
    Put,
    /// It sent a change.
    Change,
    /// A store had it.
    Store,
}

/// A client that was connected since the relay served anything.
#[derive(Debug, Default)]
pub struct Client {
    /// What it holds, deletions included.
    held: Option<DataSet>,
    /// Everything that it holds was said by LaunchDarkly to this relay.
    is_said: bool,
}

impl Client {
    pub fn held(&self) -> Option<&DataSet> {
        self.held.as_ref()
    }

    /// Takes what it is told; returns what is wrong with it. `status` tells what the relay says is
    /// missing, or may be.
    pub fn take(
        &mut self,
        announcement: &Announcement,
        launchdarkly: &LaunchDarkly,
        status: &EnvironmentStatus,
        cause: Cause,
    ) -> Result<(), String> {
        let served = &announcement.snapshot.data;
        let is_named = |key: &ItemKey| status.is_presumed || status.missing_items.contains(key);
        if let Some(lost) = base_lost(served).find(|key| !is_named(key)) {
            return Err(format!("{lost} is missing and not named: {}", shown(served)));
        }
        let is_said = cause == Cause::Put || (cause == Cause::Change && self.is_said);
        if is_said && !launchdarkly.ever_held(served) {
            return Err(format!("LaunchDarkly never said {}", shown(served)));
        }
        // Data from stores may be ahead of a stream that has just begun; nothing else goes back.
        if let Some(held) = self.held.as_ref().filter(|_| self.is_said || cause == Cause::Store) {
            let older = held.iter().find(|(kind, key, item)| {
                let served = served.collection(*kind).get(key);
                served.is_some_and(|served| served.version < item.version)
            });
            if let Some((_, key, item)) = older {
                return Err(format!("{key} goes back from version {}", item.version));
            }
        }
        self.is_said = match cause {
            Cause::Put => true,
            Cause::Change => self.is_said,
            Cause::Store => false,
        };
        match &announcement.told {
            Told::Everything => {
                let mut held = DataSet::default();
                for (kind, key, item) in served.iter() {
                    held.upsert(&ItemKey { kind, key: key.clone() }, item.clone());
                }
                self.held = Some(held);
            }
            Told::Changes(changes) => {
                let Some(held) = &mut self.held else {
                    return Err("changes before everything".to_owned());
                };
                for (key, item) in changes.iter() {
                    // SDKs ignore what is not newer.
                    if !held.upsert(key, item.clone()) {
                        return Err(format!("the client ignores {key} at {}", item.version));
                    }
                }
            }
            Told::Nothing => {}
        }
        match &self.held {
            Some(held) if shown(held) == shown(served) => Ok(()),
            Some(held) => {
                Err(format!("the client holds {}, served is {}", shown(held), shown(served)))
            }
            None => Err("the client was told nothing".to_owned()),
        }
    }
}

impl Relay {
    pub fn new(name: char, has_local: bool) -> Self {
        Self {
            name,
            has_local,
            disk: Vec::new(),
            process: None,
            incarnation: 0,
            is_cut_off: false,
            key: 1,
        }
    }

    /// Whether a visit to the shared store is under way.
    pub fn is_visiting(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.calls.doing != Doing::Resting)
    }

    /// The process ends without warning.
    pub fn kill(&mut self, now: Millis, lost: Millis) {
        self.process = None;
        self.incarnation += 1;
        self.disk.retain(|(written, _)| *written + lost <= now);
    }

    /// What the local store holds, and when it was written.
    pub fn stored(&self) -> Option<&(Millis, Arc<DataSet>)> {
        self.disk.last()
    }
}
