//! One relay: its list of environments, the two tiers of its cache, and its stream.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::launchdarkly::{Message, Versions};
use crate::autoconfig::adoption::Adopt;
use crate::autoconfig::cache::codec::CacheKeys;
use crate::autoconfig::cache::keeper::KeeperSettings;
use crate::autoconfig::cache::ld_relay_format::LdRelayKeys;
use crate::autoconfig::cache::local_tier::LocalTier;
use crate::autoconfig::cache::memory::MemoryDisk;
use crate::autoconfig::cache::orders::{CacheOrders, Wanted};
use crate::autoconfig::cache::report::SharedReport;
use crate::autoconfig::cache::shared_tier::{CacheFormat, SharedTier};
use crate::autoconfig::cache::simulated::{Effect, RecordVisits, judge_local};
use crate::autoconfig::cache::tier::CacheTier;
use crate::autoconfig::cache::{local_tier, shared_tier};
use crate::autoconfig::record_set::CachedSet;
use crate::autoconfig::specs::SpecSettings;
use crate::autoconfig::startup_race::{CacheOutcome, Tier};
use crate::autoconfig::state::{Connection, Policy, State};
use crate::model::{EnvironmentChange, ListState};
use crate::replica::{Moment, Replica, Step, Timing, Visits};
use crate::sealing::{KeyRing, SealingKey};
use crate::simulation::calls::Calls;
use crate::simulation::scenario::Millis;
use crate::storage::StoreError;
use crate::storage::local::LocalStoreStatus;

const CACHE_KEY: &str = "cache";

/// Where the rows of the cache stand.
pub const NAMESPACE: &str = "shared/cache.pilotlight";

const CHECK: Duration = Duration::from_secs(30);
const REREAD: Duration = Duration::from_secs(15);

/// How long the list stays authoritative after the stream was lost.
const AUTHORITY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Relay {
    pub name: char,
    pub has_local: bool,
    /// What the local store held, and since when.
    pub disk: Vec<(Millis, MemoryDisk)>,
    pub process: Option<Process>,
    /// When the next process can open the local store: a process that ends may still hold it.
    pub opens_at: Millis,
    /// Grows with each process: what was meant for a former one is dropped.
    pub incarnation: u64,
    /// Cannot reach LaunchDarkly.
    pub is_cut_off: bool,
    /// Its next connection begins with a put that holds one environment that cannot be used.
    pub is_next_put_flawed: bool,
}

#[derive(Debug)]
pub struct Process {
    pub state: State,
    pub orders: CacheOrders,
    pub copies: BTreeMap<Tier, Keeper>,
    pub local_status: watch::Sender<LocalStoreStatus>,
    _keys: watch::Sender<CacheKeys>,
    /// What runs, as told.
    pub running: Versions,
    pub list: ListState,
    /// Whether LaunchDarkly has sent the list to this process.
    pub is_told: bool,
    /// What an earlier process knew as removed, once the local store has told.
    pub removed: Versions,
    pub was_sent_empty_put: bool,
    pub stream: Stream,
}

/// The stream and those that take its place.
#[derive(Debug, Default)]
pub struct Stream {
    pub connection: Option<Connection>,
    /// Connections so far.
    pub connections: u64,
    /// Grows when another connection is planned: of several only the last is made.
    pub attempt: u64,
    pub is_stalled: bool,
    /// The connection has ended, and the relay does not know it yet.
    pub is_cut: bool,
    /// What waits behind a stall.
    pub held: Vec<Message>,
    pub last_arrival: Millis,
}

/// The task of one tier.
#[derive(Debug)]
pub struct Keeper {
    pub copy: Box<dyn Copy>,
    pub calls: Calls,
    orders: watch::Receiver<Option<Wanted>>,
    /// Connections to the place so far.
    pub epoch: u64,
    pub report: SharedReport,
}

#[derive(Clone, Debug)]
pub enum Call {
    Local(local_tier::Call),
    Shared(shared_tier::Call),
}

#[derive(Debug)]
pub enum Answer {
    Local(local_tier::Answer),
    Shared(shared_tier::Answer),
}

/// The core of one tier, whichever it is.
pub trait Copy: std::fmt::Debug {
    fn told(&mut self, epoch: u64, at: &Moment);
    fn seen_epoch(&self) -> u64;
    fn next(&self) -> Option<Instant>;
    fn begin(&mut self, epoch: u64, at: &Moment) -> Step<Call>;
    fn waited(&mut self, epoch: u64, at: &Moment) -> Step<Call>;
    fn answered(
        &mut self,
        answer: Result<Answer, StoreError>,
        epoch: u64,
        at: &Moment,
    ) -> Step<Call>;
    fn effects(&mut self) -> Vec<Effect>;
}

trait Wired: CacheTier<Call: Send, Answer: Send> + std::fmt::Debug {
    fn call(call: Self::Call) -> Call;
    fn answer(answer: Answer) -> Self::Answer;
}

impl Wired for LocalTier {
    fn call(call: local_tier::Call) -> Call {
        Call::Local(call)
    }

    fn answer(answer: Answer) -> local_tier::Answer {
        match answer {
            Answer::Local(answer) => answer,
            Answer::Shared(_) => unreachable!("of another tier"),
        }
    }
}

impl Wired for SharedTier {
    fn call(call: shared_tier::Call) -> Call {
        Call::Shared(call)
    }

    fn answer(answer: Answer) -> shared_tier::Answer {
        match answer {
            Answer::Shared(answer) => answer,
            Answer::Local(_) => unreachable!("of another tier"),
        }
    }
}

impl<T: Wired> Copy for Replica<RecordVisits<T>> {
    fn told(&mut self, epoch: u64, at: &Moment) {
        self.told(epoch, at);
    }

    fn seen_epoch(&self) -> u64 {
        self.seen_epoch()
    }

    fn next(&self) -> Option<Instant> {
        self.next()
    }

    fn begin(&mut self, epoch: u64, at: &Moment) -> Step<Call> {
        wire::<T>(self.begin(epoch, at))
    }

    fn waited(&mut self, epoch: u64, at: &Moment) -> Step<Call> {
        wire::<T>(self.waited(epoch, at))
    }

    fn answered(
        &mut self,
        answer: Result<Answer, StoreError>,
        epoch: u64,
        at: &Moment,
    ) -> Step<Call> {
        wire::<T>(self.answered(answer.map(T::answer), epoch, at))
    }

    fn effects(&mut self) -> Vec<Effect> {
        self.visits().effects()
    }
}

fn wire<T: Wired>(step: Step<T::Call>) -> Step<Call> {
    match step {
        Step::Call(call) => Step::Call(T::call(call)),
        Step::Wait(pause) => Step::Wait(pause),
        Step::Rest => Step::Rest,
    }
}

impl Keeper {
    fn new<T: Wired>(tier: Tier, place: T, orders: &CacheOrders, at: &Moment) -> Self {
        let check_interval = (tier == Tier::Shared).then_some(CHECK);
        let settings = KeeperSettings { tier, age_max: None, check_interval };
        let check = Some(check_interval.unwrap_or(Duration::from_secs(600)));
        let report = SharedReport::default();
        let visits = RecordVisits::new(settings, place, orders.subscribe(), report.clone());
        Self {
            copy: Box::new(Replica::new(visits, Timing { check, reread: REREAD }, at)),
            calls: Calls::none(),
            orders: orders.subscribe(),
            // A file is there from the beginning, a connection is made by the first visit.
            epoch: u64::from(tier == Tier::Local),
            report,
        }
    }

    /// Whether something was ordered since the last time.
    pub fn take_news(&mut self) -> bool {
        let has_changed = self.orders.has_changed().unwrap_or(false);
        self.orders.mark_unchanged();
        has_changed
    }
}

impl Process {
    pub fn start(relay: &Relay, at: &Moment) -> Self {
        let keys = watch::Sender::new(keys());
        let local_status = watch::Sender::new(LocalStoreStatus::default());
        let orders = CacheOrders::default();
        let writer = format!("{}{}", relay.name, relay.incarnation);
        let mut copies = BTreeMap::new();
        if relay.has_local {
            let place = LocalTier::new(&writer, local_status.subscribe());
            copies.insert(Tier::Local, Keeper::new(Tier::Local, place, &orders, at));
        }
        let format = (CacheFormat::Sealed, Adopt::Once);
        let place = SharedTier::new(CACHE_KEY, format, &writer, keys.subscribe());
        copies.insert(Tier::Shared, Keeper::new(Tier::Shared, place, &orders, at));
        let settings = SpecSettings {
            store_prefix: String::new(),
            store_table: String::new(),
            allowed_origins: [].into(),
            allowed_headers: [].into(),
        };
        let policy = Policy { adopt: Adopt::Once, authority: AUTHORITY };
        let tiers: Vec<Tier> = copies.keys().copied().collect();
        Self {
            state: State::new(settings, &tiers, policy),
            orders,
            copies,
            local_status,
            _keys: keys,
            running: Versions::new(),
            list: ListState::Unknown,
            is_told: false,
            removed: Versions::new(),
            was_sent_empty_put: false,
            stream: Stream::default(),
        }
    }

    /// Carries out what the core decided.
    pub fn run(&mut self, changes: Vec<EnvironmentChange>) {
        for change in changes {
            match change {
                EnvironmentChange::Upsert(spec) => {
                    let key = spec.credentials.anchor.expose();
                    let version = key.rsplit('-').next().and_then(|text| text.parse().ok());
                    let id = spec.reference.environment.to_string();
                    self.running.insert(id, version.unwrap_or(-1));
                }
                EnvironmentChange::Remove(reference) => {
                    self.running.remove(&*reference.environment);
                }
                EnvironmentChange::List(list) => self.list = list,
            }
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
            opens_at: 0,
            incarnation: 0,
            is_cut_off: false,
            is_next_put_flawed: false,
        }
    }

    /// The process ends without warning.
    pub fn kill(&mut self, now: Millis, lost: Millis) {
        self.process = None;
        self.incarnation += 1;
        self.disk.retain(|(written, _)| *written + lost <= now);
    }

    pub fn records(&self) -> MemoryDisk {
        self.disk.last().map(|(_, records)| records.clone()).unwrap_or_default()
    }

    pub fn write(&mut self, now: Millis, call: local_tier::Call) -> local_tier::Answer {
        let mut records = self.records();
        let answer = records.carry_out(call);
        if matches!(answer, local_tier::Answer::Stored) {
            self.disk.push((now, records));
        }
        answer
    }

    /// What the local store tells when it is opened.
    pub fn stored(&self) -> CacheOutcome<CachedSet> {
        judge_local(self.records().named()).outcome
    }
}

/// The keys of the cache.
pub fn keys() -> CacheKeys {
    let ring = KeyRing::new(SealingKey::derive("cache"), []);
    CacheKeys { ring, ld_relay: LdRelayKeys::derive("cache", []) }
}

/// The environments that a tier holds.
pub fn versions_of(outcome: &CacheOutcome<CachedSet>) -> Versions {
    match outcome {
        CacheOutcome::Loaded(set) => {
            let records = set.records.environments.iter();
            records.map(|(id, record)| (id.clone(), record.version)).collect()
        }
        CacheOutcome::Empty | CacheOutcome::Unavailable | CacheOutcome::Unreadable => {
            Versions::new()
        }
    }
}
