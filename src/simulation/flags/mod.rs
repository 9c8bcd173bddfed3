//! The flags of one environment: the serving core and the core that keeps the shared flag store.

mod checks;
mod database;
mod faults;
mod keeping;
mod launchdarkly;
mod relay;
mod streams;

use std::time::Duration;

use self::database::Database;
use self::faults::Fault;
use self::launchdarkly::{LaunchDarkly, Message};
use self::relay::{Cause, Process, Relay};
use super::Fleet;
use super::calls::{Reply, To};
use super::scenario::Scenario;
use super::timeline::{Timeline, wall};
use crate::environments::simulated::{
    Answer as StoredAnswer, Effects, LocalOrder, SharedOrder, StoredSet, UpstreamOrder, Which,
    answer_of_shared,
};
use crate::flagstore::marker::Identity;
use crate::flagstore::simulated::{Answer, Call, Content};
use crate::flagstore::{SharedRead, Timing};
use crate::model::Origin;
use crate::storage::StoreError;

const CHECK: Duration = Duration::from_secs(30);
const REREAD: Duration = Duration::from_secs(15);

/// What lies ahead.
#[derive(Debug)]
pub enum Event {
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

/// One fleet.
#[derive(Debug)]
pub struct Flags {
    scenario: Scenario<Fault>,
    time: Timeline<Event>,
    launchdarkly: LaunchDarkly,
    database: Database,
    relays: Vec<Relay>,
    identity: Identity,
    streams: u64,
}

impl Fleet for Flags {
    type Event = Event;
    type Fault = Fault;

    const NAME: &'static str = "flags";

    /// A look every 22 seconds, and what it confirms.
    const CALLS_AT_REST_MAX: u64 = 45;

    fn new(seed: u64, is_traced: bool) -> Self {
        let scenario = Scenario::draw(seed, &faults::ALL);
        Self {
            time: Timeline::new(seed ^ 0x5eed, is_traced),
            launchdarkly: LaunchDarkly::new(),
            database: Database::new(scenario.is_row_by_row),
            relays: scenario.relays(Relay::new),
            identity: Identity { environment: "e".into(), filter: "".into() },
            streams: 0,
            scenario,
        }
    }

    fn scenario(&self) -> &Scenario<Fault> {
        &self.scenario
    }

    fn time(&self) -> &Timeline<Event> {
        &self.time
    }

    fn time_mut(&mut self) -> &mut Timeline<Event> {
        &mut self.time
    }

    fn begin(&mut self) {
        let recurring = [Event::Heartbeats, Event::Change, Event::Fault];
        self.scenario.begin(&mut self.time, Event::Start, recurring);
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
                let at = self.time.at();
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
                process.has_database = true;
                self.keep(to);
            }
        }
    }

    fn heal_everything(&mut self) {
        self.end_all_faults();
    }

    fn change_something(&mut self) {
        self.change_one();
    }

    fn lose_something(&mut self) -> Result<(), String> {
        match self.time.rng.u8(..4) {
            0 => {
                self.database.content.marker = None;
                self.note(|_| "the marker is lost".to_owned());
            }
            1 => {
                // Connections come back, perhaps while a change is being written.
                self.database.dump();
                for _ in 0..2 {
                    self.change_one();
                    let pause = self.time.rng.u64(..3_000);
                    self.play_until(self.time.now + pause)?;
                }
                self.go_back(0);
            }
            _ => self.evict(),
        }
        Ok(())
    }

    fn check_rest(&mut self) -> Result<(), String> {
        self.judge_rest()
    }

    fn calls(&self) -> Vec<u64> {
        let calls = |relay: &Relay| relay.process.as_ref().map_or(0, |process| process.calls.made);
        self.relays.iter().map(calls).collect()
    }
}

impl Flags {
    fn process(&mut self, to: To) -> Option<&mut Process> {
        let relay = &mut self.relays[to.0];
        (relay.incarnation == to.1).then_some(relay.process.as_mut()).flatten()
    }

    fn to(&self, relay: usize) -> To {
        To(relay, self.relays[relay].incarnation)
    }

    fn start(&mut self, relay: usize) {
        if self.relays[relay].process.is_some() {
            return;
        }
        let at = self.time.at();
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
            let slow = if self.time.rng.u8(..10) == 0 { 5_000 } else { 30 };
            let after = self.time.rng.u64(1..slow);
            self.time.plan(after, Event::Local(to));
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
        let (now, instant) = (self.time.now, self.time.instant());
        let Effects { announce, local, shared, upstream } = effects;
        let Self { relays, launchdarkly, .. } = self;
        let relay = &mut relays[to.0];
        let Some(process) = relay.process.as_mut() else { return };
        if let Some(announcement) = announce {
            let status = process.serving.status();
            let told = process.client.take(&announcement, launchdarkly, status, cause);
            if let Err(problem) = told {
                let problem = format!("{}: {problem}", relay.name);
                return self.time.wrong(problem);
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
