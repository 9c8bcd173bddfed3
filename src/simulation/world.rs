//! The event queue, and how events reach the cores and effects leave them.

mod checks;
mod faults;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use self::checks::{shown_answer, shown_call};
use super::database::Database;
use super::launchdarkly::{LAG_MAX, LaunchDarkly, Message, shown};
use super::relay::{Keeper, Process, Relay, Stream, instant, wall};
use super::scenario::{Fault, Kind, Millis, Scenario};
use crate::environments::simulated::{
    Answer as StoredAnswer, Effects, LocalOrder, SharedOrder, StoredSet, UpstreamOrder, Which,
    answer_of_shared, difference,
};
use crate::flagstore::marker::Identity;
use crate::flagstore::simulated::{Answer, Call, Effect};
use crate::flagstore::{SharedRead, Timing};
use crate::model::{ChangeSet, ErrorKind, Origin};
use crate::replica::{Moment, Step, Visits};
use crate::source::{FlagMessageError, SourceEvent};
use crate::storage::StoreError;
use crate::upstream::StreamFailure;

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
                self.carry_out(to, effects, false);
            }
            Event::Wake(to) => self.keep(to),
            Event::Waited(to) => {
                let at = self.at();
                let Some(process) = self.process(to) else { return };
                let step = process.replica.waited(process.epoch, &at);
                self.step(to, step);
            }
            Event::Execute(to, number, call, reply) => self.execute(to, number, call, reply),
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
            self.carry_out(to, effects, false);
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
        self.carry_out(to, effects, false);
    }

    // Streams.

    fn open_stream(&mut self, to: To) -> u64 {
        self.streams += 1;
        let stream = self.streams;
        if let Some(process) = self.process(to) {
            process.streams.insert(stream, Stream::default());
        }
        let after = self.rng.u64(5..300);
        self.plan(after, Event::Connect(to, stream));
        stream
    }

    fn connect(&mut self, to: To, stream: u64) {
        let can_connect = self.launchdarkly.is_up && !self.relays[to.0].is_cut_off;
        let put = self.launchdarkly.put();
        let again = self.rng.u64(500..20_000);
        let Some(process) = self.process(to) else { return };
        let Some(state) = process.streams.get_mut(&stream).filter(|it| !it.is_open) else {
            return;
        };
        if can_connect {
            state.connection += 1;
            state.is_open = true;
            self.send(to, stream, Message::Put(put));
        } else {
            let connection = state.connection;
            self.plan(0, Event::Lost(to, stream, connection, true));
            self.plan(again, Event::Connect(to, stream));
        }
    }

    /// Sends a message over a stream, behind those that are on their way.
    fn send(&mut self, to: To, stream: u64, message: Message) {
        let (now, lag) = (self.now, self.rng.u64(..LAG_MAX));
        let Some(process) = self.process(to) else { return };
        let Some(state) = process.streams.get_mut(&stream).filter(|it| it.is_open) else { return };
        if state.is_stalled {
            return state.held.push(message);
        }
        let arrival = (now + lag).max(state.last_arrival);
        state.last_arrival = arrival;
        let connection = state.connection;
        self.plan(arrival - now, Event::Arrive(to, stream, connection, message));
    }

    fn send_to_all(&mut self, message: &Message) {
        for relay in 0..self.relays.len() {
            let to = self.to(relay);
            let Some(process) = self.process(to) else { continue };
            let streams: Vec<u64> = process.streams.keys().copied().collect();
            for stream in streams {
                self.send(to, stream, message.clone());
            }
        }
    }

    fn heartbeats(&mut self) {
        self.send_to_all(&Message::Heartbeat);
        let pause = self.rng.u64(3_000..9_000);
        self.plan(pause, Event::Heartbeats);
    }

    fn change(&mut self) {
        if !self.is_calm() {
            let (key, item) = self.launchdarkly.change(&mut self.rng);
            let sign = if item.is_tombstone() { "-" } else { "" };
            self.note(|_| format!("LaunchDarkly: {}{sign}{}", key.key, item.version));
            self.send_to_all(&Message::Change(key, item));
            self.plan_around(self.scenario.change_every, Event::Change);
        }
    }

    fn arrive(&mut self, to: To, stream: u64, connection: u64, message: Message) {
        let name = self.relays[to.0].name;
        let wall = wall(self.now);
        let Some(process) = self.process(to) else { return };
        let Some(which) = process.which(stream) else { return };
        if process.streams.get(&stream).is_none_or(|it| it.connection != connection) {
            return;
        }
        let served = process.serving.served().map(|served| served.data.clone());
        let (event, found, text) = match message {
            Message::Put(data) => {
                let text = format!("{name} <- put {}", shown(&data));
                let found = served.map(|served| difference(&served, &data));
                (SourceEvent::Everything { connection, data }, found, text)
            }
            Message::Change(key, item) => {
                let sign = if item.is_tombstone() { "-" } else { "" };
                let text = format!("{name} <- {}{sign}{}", key.key, item.version);
                let changes = ChangeSet::one(key, item);
                (SourceEvent::Changes { connection, changes }, None, text)
            }
            Message::Heartbeat => (SourceEvent::Alive, None, String::new()),
            Message::Junk => {
                let error = FlagMessageError::sample();
                (SourceEvent::Malformed { connection, error }, None, format!("{name} <- junk"))
            }
        };
        let is_said = matches!(event, SourceEvent::Everything { .. });
        let effects = process.serving.on_source(which, event, found, wall);
        if !text.is_empty() {
            self.note(|_| text);
        }
        self.carry_out(to, effects, is_said);
    }

    fn lose(&mut self, to: To, stream: u64, connection: u64, is_failure: bool) {
        let wall = wall(self.now);
        let name = self.relays[to.0].name;
        let Some(process) = self.process(to) else { return };
        let Some(which) = process.which(stream) else { return };
        let failure = StreamFailure { kind: ErrorKind::NetworkError, status: None };
        let failure = is_failure.then_some(failure);
        let was_live = process.is_live();
        let event = SourceEvent::Lost { failure };
        if process.streams.get(&stream).is_none_or(|it| it.connection != connection) {
            return;
        }
        let effects = process.serving.on_source(which, event, None, wall);
        if was_live {
            self.note(|_| format!("{name} lost LaunchDarkly"));
        }
        self.carry_out(to, effects, false);
    }

    /// Ends a connection; what is under way over it is lost. Another one is made later.
    fn cut(&mut self, to: To, stream: u64) {
        let (notice, again) = (self.rng.u64(1..2_000), self.rng.u64(2_000..10_000));
        let Some(process) = self.process(to) else { return };
        let Some(state) = process.streams.get_mut(&stream).filter(|it| it.is_open) else { return };
        (state.is_open, state.is_stalled) = (false, false);
        state.held.clear();
        let connection = state.connection;
        self.plan(notice, Event::Lost(to, stream, connection, true));
        self.plan(again, Event::Connect(to, stream));
    }

    fn cut_all(&mut self, relay: usize) {
        let to = self.to(relay);
        let Some(process) = self.process(to) else { return };
        let streams: Vec<u64> = process.streams.keys().copied().collect();
        streams.into_iter().for_each(|stream| self.cut(to, stream));
    }

    // What the serving core wants done.

    fn carry_out(&mut self, to: To, effects: Effects, is_said: bool) {
        let (now, instant) = (self.now, instant(self.base, self.now));
        let Effects { announce, local, shared, upstream } = effects;
        let Self { relays, launchdarkly, .. } = self;
        let relay = &mut relays[to.0];
        let Some(process) = relay.process.as_mut() else { return };
        if let Some(announcement) = announce {
            let told = process.client.take(&announcement, launchdarkly, is_said);
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

    // The task of the shared store.

    fn keep(&mut self, to: To) {
        let at = self.at();
        let Some(process) = self.process(to) else { return };
        if process.keeper != Keeper::Resting {
            return;
        }
        if std::mem::take(&mut process.is_told) || process.epoch != process.replica.seen_epoch() {
            process.replica.told(process.epoch, &at);
        }
        match process.replica.next() {
            Some(due) if due <= at.now => {
                let step = process.replica.begin(process.epoch, &at);
                self.step(to, step);
            }
            Some(due) => {
                let after = (due - at.now).as_millis() as Millis + 1;
                self.plan(after, Event::Wake(to));
            }
            None => self.wrong(format!("{}: no visit lies ahead", self.relays[to.0].name)),
        }
    }

    fn step(&mut self, to: To, step: Step<Call>) {
        let Some(process) = self.process(to) else { return };
        for effect in process.replica.visits().effects() {
            if let Effect::Read(read) = effect {
                let after = self.rng.u64(..20);
                self.plan(after, Event::Read(to, read));
            }
        }
        let Some(process) = self.process(to) else { return };
        match step {
            Step::Rest => {
                process.keeper = Keeper::Resting;
                // What was told meanwhile is looked at in its own turn.
                self.plan(0, Event::Wake(to));
            }
            Step::Wait(pause) => {
                process.keeper = Keeper::Waiting;
                self.plan(pause.as_millis() as Millis, Event::Waited(to));
            }
            Step::Call(call) => self.call(to, call),
        }
    }

    fn call(&mut self, to: To, call: Call) {
        let now = self.now;
        let (there, back) = (self.rng.u64(1..40), self.rng.u64(1..40));
        let is_bad = !self.is_calm() && self.rng.u64(..100) < self.scenario.bad_calls;
        let fate = if is_bad { self.rng.u8(1..6) } else { 0 };
        let slow = self.rng.u64(1_000..20_000);
        let Some(process) = self.process(to) else { return };
        process.calls += 1;
        process.busy.retain(|at| at + 60_000 > now);
        process.busy.push(now);
        let (number, busy) = (process.calls, process.busy.len());
        process.keeper = Keeper::Calling(number);
        if busy > CALLS_A_MINUTE_MAX {
            return self.wrong(format!("{} calls in a minute", busy));
        }
        let timed_out = || StoreError::TimedOut { budget: Duration::from_secs(1) };
        match fate {
            // It never reaches the database.
            1 => {
                let error = StoreError::Unreachable("reset".into());
                self.plan(there, Event::Answered(to, number, Err(error)));
            }
            // It is carried out, in part where that can be, and the answer is lost.
            2 => {
                let rows = self.rng.usize(..6);
                self.plan(there, Event::Execute(to, number, call, Reply::Lost(rows)));
                self.plan(1_000, Event::Answered(to, number, Err(timed_out())));
            }
            // It is carried out long after it was given up.
            3 => {
                self.plan(slow, Event::Execute(to, number, call, Reply::Lost(usize::MAX)));
                self.plan(1_000, Event::Answered(to, number, Err(timed_out())));
            }
            // It is carried out twice.
            4 => {
                let again = call.clone();
                self.plan(there, Event::Execute(to, number, call, Reply::After(back)));
                self.plan(slow, Event::Execute(to, number, again, Reply::Lost(usize::MAX)));
            }
            // It is slow.
            5 => {
                let slow = slow / 20;
                self.plan(slow, Event::Execute(to, number, call, Reply::After(back)));
            }
            _ => self.plan(there, Event::Execute(to, number, call, Reply::After(back))),
        }
    }

    fn execute(&mut self, to: To, number: u64, mut call: Call, reply: Reply) {
        if let (Reply::Lost(max), Call::Upsert { rows, .. }, Kind::RowByRow) =
            (reply, &mut call, self.scenario.database)
        {
            rows.truncate(max);
        }
        let is_write = !matches!(call, Call::Read | Call::Look);
        let before = is_write.then(|| self.database.content.clone());
        let text = if self.is_traced { shown_call(&call) } else { String::new() };
        let answer = self.database.carry_out(call);
        self.note(|it| {
            let name = it.relays[to.0].name;
            format!("{name} {text} {} | {}", shown_answer(&answer), it.database.shown())
        });
        if let Some(before) = before.filter(|_| answer.is_ok()) {
            self.check_write(&before);
        }
        if let Some(process) = self.process(to).filter(|_| answer.is_ok()) {
            process.epoch = process.epoch.max(1);
        }
        if let Reply::After(back) = reply {
            self.plan(back, Event::Answered(to, number, answer));
        }
    }

    fn answered(&mut self, to: To, number: u64, answer: Result<Answer, StoreError>) {
        let at = self.at();
        let Some(process) = self.process(to) else { return };
        if process.keeper != Keeper::Calling(number) {
            // It comes after the call was given up.
            return;
        }
        let step = process.replica.answered(answer, process.epoch, &at);
        self.step(to, step);
    }
}
