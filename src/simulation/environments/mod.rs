//! The list of environments: the autoconfig core and the cores that keep the two tiers of its
//! cache.

mod checks;
mod database;
mod faults;
mod keeping;
mod launchdarkly;
mod relay;
mod streams;

use self::database::{Database, Rows};
use self::faults::Fault;
use self::launchdarkly::{LaunchDarkly, Message};
use self::relay::{Answer, Call, Process, Relay};
use super::Fleet;
use super::calls::{Reply, To};
use super::scenario::Scenario;
use super::timeline::Timeline;
use crate::autoconfig::record_set::CachedSet;
use crate::autoconfig::startup_race::{CacheOutcome, Tier};
use crate::autoconfig::state::Reaction;
use crate::storage::StoreError;

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
    Arrive(To, u64, Message),
    Lost(To, u64),
    /// The list may cease to be authoritative.
    Lapse(To),
    Told(To, Tier, CacheOutcome<CachedSet>),
    Wake(To, Tier),
    Waited(To, Tier),
    Execute(To, Tier, u64, Call, Reply),
    /// The rest of a read, which began when there were these rows.
    ReadOn(To, u64, Rows, Reply),
    Answered(To, Tier, u64, Result<Answer, StoreError>),
    DatabaseConnected(To),
}

/// One fleet.
#[derive(Debug)]
pub struct Environments {
    scenario: Scenario<Fault>,
    time: Timeline<Event>,
    launchdarkly: LaunchDarkly,
    database: Database,
    relays: Vec<Relay>,
}

impl Fleet for Environments {
    type Event = Event;
    type Fault = Fault;

    const NAME: &'static str = "environments";

    /// One look every 30 seconds, and what it confirms.
    const CALLS_AT_REST_MAX: u64 = 30;

    fn new(seed: u64, is_traced: bool) -> Self {
        let scenario = Scenario::draw(seed, &faults::ALL);
        Self {
            time: Timeline::new(seed ^ 0x5eed, is_traced),
            launchdarkly: LaunchDarkly::new(),
            database: Database::new(),
            relays: scenario.relays(Relay::new),
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
            Event::Connect(to, attempt) => self.connect(to, attempt),
            Event::Arrive(to, connection, message) => self.arrive(to, connection, &message),
            Event::Lost(to, connection) => self.lose(to, connection),
            Event::Lapse(to) => {
                let now = self.time.instant();
                let Some(process) = self.process(to) else { return };
                let reaction = process.state.on_time(now);
                self.carry_out(to, reaction);
            }
            Event::Told(to, tier, outcome) => self.told(to, tier, outcome),
            Event::Wake(to, tier) => self.keep(to, tier),
            Event::Waited(to, tier) => {
                let at = self.time.at();
                let Some(keeper) = self.keeper(to, tier) else { return };
                let step = keeper.copy.waited(keeper.epoch, &at);
                self.step(to, tier, step);
            }
            Event::Execute(to, tier, number, call, reply) => {
                self.execute(to, tier, number, call, reply);
            }
            Event::ReadOn(to, number, before, reply) => self.read_on(to, number, &before, reply),
            Event::Answered(to, tier, number, answer) => self.answered(to, tier, number, answer),
            Event::DatabaseConnected(to) => {
                let is_away = self.database.is_away;
                if let Some(keeper) = self.keeper(to, Tier::Shared).filter(|_| !is_away) {
                    keeper.epoch += 1;
                    self.keep(to, Tier::Shared);
                }
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
        let random = self.time.rng.usize(..100);
        self.database.evict(random);
        Ok(())
    }

    fn check_rest(&mut self) -> Result<(), String> {
        self.judge_rest()
    }

    fn calls(&self) -> Vec<u64> {
        let processes = self.relays.iter().filter_map(|relay| relay.process.as_ref());
        processes.flat_map(|process| process.copies.values().map(|it| it.calls.made)).collect()
    }
}

impl Environments {
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
        let process = Process::start(&self.relays[relay], &at);
        let tiers: Vec<Tier> = process.copies.keys().copied().collect();
        self.relays[relay].process = Some(process);
        let to = self.to(relay);
        self.note(|it| format!("{} starts", it.relays[relay].name));
        self.plan_connection(to, 5..300);
        tiers.into_iter().for_each(|tier| self.keep(to, tier));
    }

    /// A tier told the manager what it holds.
    fn told(&mut self, to: To, tier: Tier, outcome: CacheOutcome<CachedSet>) {
        let stored = (tier == Tier::Local).then(|| self.relays[to.0].stored());
        let name = self.relays[to.0].name;
        let Some(process) = self.process(to) else { return };
        if let Some(CacheOutcome::Loaded(set)) = stored
            && !process.is_told
        {
            let gone = set.records.gone.iter().filter_map(|(name, gone)| {
                Some((name.strip_prefix("env:")?.to_owned(), gone.version))
            });
            process.removed = gone.collect();
        }
        let reaction = process.state.on_cache(tier, outcome);
        self.note(|_| format!("{name} learns what the {tier} holds"));
        self.carry_out(to, reaction);
    }

    fn carry_out(&mut self, to: To, reaction: Reaction) {
        let at = self.time.at();
        let Some(process) = self.process(to) else { return };
        let Reaction { changes, learnt, persist, stream } = reaction;
        let has_changed = !changes.is_empty();
        process.run(changes);
        if let Some(known) = learnt {
            process.orders.learnt(known, at.now);
        }
        if let Some(records) = persist {
            process.orders.accepted(records, at.now, at.wall);
        }
        if let Some(step) = stream {
            self.follow(to, step);
        }
        if has_changed {
            self.note(|it| it.shown_relay(to.0));
        }
        self.check_relay(to);
        for tier in [Tier::Local, Tier::Shared] {
            self.keep(to, tier);
        }
    }
}
