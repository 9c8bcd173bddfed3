//! The event queue, and how events reach the cores and effects leave them.

mod checks;
mod faults;
mod keeping;
mod streams;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use super::database::Database;
use super::launchdarkly::{LaunchDarkly, Message};
use super::relay::{Cause, Process, Relay, instant, wall};
use super::scenario::{Fault, Millis, Scenario};
use crate::environments::simulated::{
    Answer as StoredAnswer, Effects, LocalOrder, SharedOrder, StoredSet, UpstreamOrder, Which,
    answer_of_shared,
};
use crate::flagstore::marker::Identity;
use crate::flagstore::simulated::{Answer, Call, Content};
use crate::flagstore::{SharedRead, Timing};
use crate::model::Origin;
use crate::replica::Moment;
use crate::storage::StoreError;

const CHECK: Duration = Duration::from_secs(30);
const REREAD: Duration = Duration::from_secs(15);

/// Time to heal after the faults: more than a periodic comparison needs.
const HEALING: Millis = 700_000;

/// Time at rest, during which the relays may do little.
const REST: Millis = 300_000;

/// Most calls of one relay in a minute, whatever fails.
const CALLS_A_MINUTE_MAX: usize = 500;

/// Most calls of one relay while it rests: a look every 22 seconds, and what it confirms.
const CALLS_AT_REST_MAX: u64 = 45;

/// What lies ahead.
#[derive(Debug)]
enum Event {
    Start(usize),
    Change,
    Fault,
    /// A fault ends.
    Heal(Fault, usize),
    Heartbeats,
    Connect(To, u64),
    Arrive(To, u64, u64, Message),
    Lost(To, u64, u64, bool),
    Local(To),
    Read(To, SharedRead),
    Wake(To),
    Waited(To),
    Execute(To, u64, Call, Reply),
    /// The rest of a read, which began when this was stored.
    ReadOn(To, u64, Content, Reply),
    Answered(To, u64, Result<Answer, StoreError>),
    DatabaseConnected(To),
}

/// A process of a relay: its number, and which of its incarnations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct To(usize, u64);

/// What becomes of the answer to a call.
#[derive(Clone, Copy, Debug)]
enum Reply {
    After(Millis),
    /// It is lost, after so many rows of an upsert were written.
    Lost(usize),
}

/// One fleet.
#[derive(Debug)]
pub struct World {
    scenario: Scenario,
    rng: Rng,
    base: Instant,
    now: Millis,
    sequence: u64,
    queue: BinaryHeap<Reverse<(Millis, u64)>>,
    events: BTreeMap<u64, Event>,
    launchdarkly: LaunchDarkly,
    database: Database,
    relays: Vec<Relay>,
    identity: Identity,
    streams: u64,
    is_traced: bool,
    trace: Vec<String>,
    problem: Option<String>,
}

impl World {
    pub fn new(scenario: Scenario, is_traced: bool) -> Self {
        let names = 'A'..='Z';
        let relays =
            names.zip(&scenario.local_stores).map(|(name, local)| Relay::new(name, *local));
        Self {
            rng: Rng::with_seed(scenario.seed ^ 0x5eed),
            base: Instant::now(),
            now: 0,
            sequence: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            launchdarkly: LaunchDarkly::new(),
            database: Database::new(scenario.database),
            relays: relays.collect(),
            identity: Identity { environment: "e".into(), filter: "".into() },
            streams: 0,
            is_traced,
            trace: Vec::new(),
            problem: None,
            scenario,
        }
    }

    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    pub fn trace(&self) -> &[String] {
        &self.trace
    }

    /// Plays until everything is at rest.
    pub fn run(&mut self) -> Result<(), String> {
        for relay in 0..self.relays.len() {
            let start = self.rng.u64(..2_000);
            self.plan(start, Event::Start(relay));
        }
        self.plan(0, Event::Heartbeats);
        self.plan_around(self.scenario.change_every, Event::Change);
        self.plan_around(self.scenario.fault_every, Event::Fault);
        self.play_until(self.scenario.faults_until)?;
        self.heal_everything();
        self.play_until(self.now + HEALING)?;
        self.check_rest()?;
        let before = self.calls();
        self.play_until(self.now + REST)?;
        self.check_rest()?;
        for (relay, (before, after)) in self.relays.iter().zip(before.into_iter().zip(self.calls()))
        {
            if after - before > CALLS_AT_REST_MAX {
                return Err(format!("{} makes {} calls at rest", relay.name, after - before));
            }
        }
        Ok(())
    }

    fn calls(&self) -> Vec<u64> {
        let calls = |relay: &Relay| relay.process.as_ref().map_or(0, |process| process.calls);
        self.relays.iter().map(calls).collect()
    }

    fn is_calm(&self) -> bool {
        self.now >= self.scenario.faults_until
    }

    fn play_until(&mut self, end: Millis) -> Result<(), String> {
        while let Some(Reverse((at, sequence))) = self.queue.peek().copied() {
            if at > end {
                break;
            }
            self.queue.pop();
            self.now = at;
            if let Some(event) = self.events.remove(&sequence) {
                self.happen(event);
            }
            if let Some(problem) = self.problem.take() {
                return Err(problem);
            }
        }
        self.now = end;
        Ok(())
    }

    fn plan(&mut self, after: Millis, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now + after, self.sequence)));
        self.events.insert(self.sequence, event);
    }

    fn plan_around(&mut self, average: Millis, event: Event) {
        let after = self.rng.u64(1..=2 * average);
        self.plan(after, event);
    }

    fn at(&mut self) -> Moment {
        let random = self.rng.f64();
        Moment { now: instant(self.base, self.now), wall: wall(self.now), random }
    }

    /// Writes a line of the trace.
    fn note(&mut self, text: impl FnOnce(&Self) -> String) {
        if self.is_traced {
            let (seconds, millis) = (self.now / 1_000, self.now % 1_000);
            let line = format!("{seconds:>4}.{millis:03} {}", text(self));
            self.trace.push(line);
        }
    }

    fn wrong(&mut self, problem: String) {
        self.note(|_| format!("WRONG: {problem}"));
        self.problem.get_or_insert(problem);
    }

    fn process(&mut self, to: To) -> Option<&mut Process> {
        let relay = &mut self.relays[to.0];
        (relay.incarnation == to.1).then_some(relay.process.as_mut()).flatten()
    }

    fn to(&self, relay: usize) -> To {
        To(relay, self.relays[relay].incarnation)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Start(relay) => self.start(relay),
            Event::Change => self.change(),
            Event::Fault => self.fault(),
            Event::Heal(fault, relay) => self.heal(fault, relay),
            Event::Heartbeats => self.heartbeats(),
            Event::Connect(to, stream) => self.connect(to, stream),
            Event::Arrive(to, stream, connection, message) => {
                self.arrive(to, stream, connection, message);
            }
            Event::Lost(to, stream, connection, is_failure) => {
                self.lose(to, stream, connection, is_failure);
            }
            Event::Local(to) => self.answer_of_local(to),
            Event::Read(to, read) => {
                let Some(process) = self.process(to) else { return };
                let effects = process.serving.on_shared_store(answer_of_shared(read));
                self.carry_out(to, effects, Cause::Store);
            }
            Event::Wake(to) => self.keep(to),
            Event::Waited(to) => {
                let at = self.at();
                let Some(process) = self.process(to) else { return };
                let step = process.replica.waited(process.epoch, &at);
                self.step(to, step);
            }
            Event::Execute(to, number, call, reply) => self.execute(to, number, call, reply),
            Event::ReadOn(to, number, before, reply) => self.read_on(to, number, &before, reply),
            Event::Answered(to, number, answer) => self.answered(to, number, answer),
            Event::DatabaseConnected(to) => {
                let is_away = self.database.is_away;
                let Some(process) = self.process(to).filter(|_| !is_away) else { return };
                process.epoch += 1;
                self.keep(to);
            }
        }
    }

    fn start(&mut self, relay: usize) {
        if self.relays[relay].process.is_some() {
            return;
        }
        let at = self.at();
        let timing = Timing { check: Some(CHECK), reread: REREAD };
        let key = self.relays[relay].key;
        let process = Process::start(key, &self.identity, timing, &at);
        self.relays[relay].process = Some(process);
        let to = self.to(relay);
        self.note(|it| format!("{} starts", it.relays[relay].name));
        let stream = self.open_stream(to);
        if let Some(process) = self.process(to) {
            process.current = stream;
        }
        if self.relays[relay].has_local {
            let slow = if self.rng.u8(..10) == 0 { 5_000 } else { 30 };
            let after = self.rng.u64(1..slow);
            self.plan(after, Event::Local(to));
        } else if let Some(process) = self.process(to) {
            let effects = process.serving.on_no_local_store(StoredAnswer::Nothing);
            self.carry_out(to, effects, Cause::Store);
        }
        self.keep(to);
    }

    fn answer_of_local(&mut self, to: To) {
        let answer = match self.relays[to.0].stored() {
            Some((written, data)) => StoredAnswer::Set(StoredSet {
                data: data.clone(),
                origin: Origin::LocalStore,
                as_of: Some(wall(*written)),
                is_counted: true,
                undecodable: Vec::new(),
            }),
            None => StoredAnswer::Nothing,
        };
        let Some(process) = self.process(to) else { return };
        let effects = process.serving.on_local_store(answer, None);
        self.carry_out(to, effects, Cause::Store);
    }

    fn carry_out(&mut self, to: To, effects: Effects, cause: Cause) {
        let (now, instant) = (self.now, instant(self.base, self.now));
        let Effects { announce, local, shared, upstream } = effects;
        let Self { relays, launchdarkly, .. } = self;
        let relay = &mut relays[to.0];
        let Some(process) = relay.process.as_mut() else { return };
        if let Some(announcement) = announce {
            let status = process.serving.status();
            let told = process.client.take(&announcement, launchdarkly, status, cause);
            if let Err(problem) = told {
                let problem = format!("{}: {problem}", relay.name);
                return self.wrong(problem);
            }
        }
        for order in shared {
            match order {
                SharedOrder::Put(data) => process.flags.put(data, instant),
                SharedOrder::Changed(data, keys) => process.flags.changed(data, keys),
                SharedOrder::Served { data, is_partial } => process.flags.served(data, is_partial),
                SharedOrder::Heard => {
                    process.flags.heard(instant);
                    continue;
                }
                SharedOrder::NotLive => process.flags.not_live(),
            }
            process.is_told = true;
        }
        match local {
            Some(LocalOrder::Replace(data) | LocalOrder::Change(data, _)) => {
                relay.disk.push((now, data));
            }
            Some(LocalOrder::Adopt(..)) | None => {}
        }
        match upstream {
            Some(UpstreamOrder::OpenNext(_)) => {
                let stream = self.open_stream(to);
                if let Some(process) = self.process(to) {
                    process.next = Some(stream);
                }
            }
            Some(UpstreamOrder::DropNext) => {
                if let Some(stream) = process.next.take() {
                    process.streams.remove(&stream);
                }
            }
            Some(UpstreamOrder::PromoteNext) => {
                if let Some(stream) = process.next.take() {
                    process.streams.remove(&process.current);
                    process.current = stream;
                }
            }
            Some(UpstreamOrder::RestartMalformed(which, _)) => {
                let stream = match which {
                    Which::Current => Some(process.current),
                    Which::Next => process.next,
                };
                stream.into_iter().for_each(|stream| self.cut(to, stream));
            }
            None => {}
        }
        self.keep(to);
    }
}
