//! The streams of each relay to LaunchDarkly.

use super::{Event, Flags, To};
use crate::environments::simulated::difference;
use crate::model::{ChangeSet, ErrorKind};
use crate::simulation::Fleet;
use crate::simulation::flags::launchdarkly::{LAG_MAX, Message, shown};
use crate::simulation::flags::relay::{Cause, Stream};
use crate::source::{FlagMessageError, SourceEvent};
use crate::upstream::StreamFailure;

impl Flags {
    pub(super) fn open_stream(&mut self, to: To) -> u64 {
        self.streams += 1;
        let stream = self.streams;
        if let Some(process) = self.process(to) {
            process.streams.insert(stream, Stream::default());
        }
        let after = self.time.rng.u64(5..300);
        self.time.plan(after, Event::Connect(to, stream));
        stream
    }

    pub(super) fn connect(&mut self, to: To, stream: u64) {
        let can_connect = self.launchdarkly.is_up && !self.relays[to.0].is_cut_off;
        let put = self.launchdarkly.put();
        let again = self.time.rng.u64(500..20_000);
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
            self.time.plan(0, Event::Lost(to, stream, connection, true));
            self.time.plan(again, Event::Connect(to, stream));
        }
    }

    /// Sends a message over a stream, behind those that are on their way.
    pub(super) fn send(&mut self, to: To, stream: u64, message: Message) {
        let (now, lag) = (self.time.now, self.time.rng.u64(..LAG_MAX));
        let Some(process) = self.process(to) else { return };
        let Some(state) = process.streams.get_mut(&stream).filter(|it| it.is_open) else { return };
        if state.is_stalled {
            return state.held.push(message);
        }
        let arrival = (now + lag).max(state.last_arrival);
        state.last_arrival = arrival;
        let connection = state.connection;
        self.time.plan(arrival - now, Event::Arrive(to, stream, connection, message));
    }

    pub(super) fn send_to_all(&mut self, message: &Message) {
        for relay in 0..self.relays.len() {
            let to = self.to(relay);
            let Some(process) = self.process(to) else { continue };
            let streams: Vec<u64> = process.streams.keys().copied().collect();
            for stream in streams {
                self.send(to, stream, message.clone());
            }
        }
    }

    pub(super) fn heartbeats(&mut self) {
        self.send_to_all(&Message::Heartbeat);
        let pause = self.time.rng.u64(3_000..9_000);
        self.time.plan(pause, Event::Heartbeats);
    }

    pub(super) fn change(&mut self) {
        if !self.is_calm() {
            self.change_one();
            self.time.plan_around(self.scenario.change_every, Event::Change);
        }
    }

    pub(super) fn change_one(&mut self) {
        let (key, item) = self.launchdarkly.change(&mut self.time.rng);
        let sign = if item.is_tombstone() { "-" } else { "" };
        self.note(|_| format!("LaunchDarkly: {}{sign}{}", key.key, item.version));
        self.send_to_all(&Message::Change(key, item));
    }

    pub(super) fn arrive(&mut self, to: To, stream: u64, connection: u64, message: Message) {
        let name = self.relays[to.0].name;
        let wall = self.time.wall();
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
        let is_put = matches!(event, SourceEvent::Everything { .. });
        let cause = if is_put { Cause::Put } else { Cause::Change };
        let effects = process.serving.on_source(which, event, found, wall);
        if !text.is_empty() {
            self.note(|_| text);
        }
        self.carry_out(to, effects, cause);
    }

    pub(super) fn lose(&mut self, to: To, stream: u64, connection: u64, is_failure: bool) {
        let wall = self.time.wall();
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
        self.carry_out(to, effects, Cause::Store);
    }

    /// Ends a connection; what is under way over it is lost. Another one is made later.
    pub(super) fn cut(&mut self, to: To, stream: u64) {
        let (notice, again) = (self.time.rng.u64(1..2_000), self.time.rng.u64(2_000..10_000));
        let Some(process) = self.process(to) else { return };
        let Some(state) = process.streams.get_mut(&stream).filter(|it| it.is_open) else { return };
        (state.is_open, state.is_stalled) = (false, false);
        state.held.clear();
        let connection = state.connection;
        self.time.plan(notice, Event::Lost(to, stream, connection, true));
        self.time.plan(again, Event::Connect(to, stream));
    }

    pub(super) fn cut_all(&mut self, relay: usize) {
        let to = self.to(relay);
        let Some(process) = self.process(to) else { return };
        let streams: Vec<u64> = process.streams.keys().copied().collect();
        streams.into_iter().for_each(|stream| self.cut(to, stream));
    }
}
