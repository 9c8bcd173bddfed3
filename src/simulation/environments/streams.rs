//! The stream of each relay to LaunchDarkly.

use std::ops::Range;

use super::launchdarkly::Message;
use super::{Environments, Event, To};
use crate::autoconfig::messages::decode;
use crate::autoconfig::state::{Connection, StreamStep};
use crate::simulation::Fleet;
use crate::simulation::scenario::Millis;

/// The longest that a message is under way.
pub const LAG_MAX: Millis = 1_900;

impl Environments {
    /// Another connection is made after so long.
    pub(super) fn plan_connection(&mut self, to: To, after: Range<Millis>) {
        let after = self.time.rng.u64(after);
        let Some(process) = self.process(to) else { return };
        process.stream.attempt += 1;
        let attempt = process.stream.attempt;
        self.time.plan(after, Event::Connect(to, attempt));
    }

    pub(super) fn connect(&mut self, to: To, attempt: u64) {
        let can_connect = self.launchdarkly.is_up && !self.relays[to.0].is_cut_off;
        let opened_at = self.time.instant();
        let is_flawed = can_connect && std::mem::take(&mut self.relays[to.0].is_next_put_flawed);
        let put = if is_flawed {
            self.launchdarkly.flawed_put(&mut self.time.rng)
        } else {
            self.launchdarkly.put()
        };
        let Some(process) = self.process(to) else { return };
        let stream = &mut process.stream;
        if stream.attempt != attempt || stream.connection.is_some() {
            return;
        }
        if can_connect {
            stream.connections += 1;
            stream.connection = Some(Connection { number: stream.connections, opened_at });
            (stream.is_stalled, stream.is_cut, stream.last_arrival) = (false, false, 0);
            stream.held.clear();
            self.send(to, put);
        } else {
            self.disconnected(to);
            self.plan_connection(to, 500..20_000);
        }
    }

    /// Sends a message over the stream, behind those that are on their way.
    pub(super) fn send(&mut self, to: To, message: Message) {
        let (now, lag) = (self.time.now, self.time.rng.u64(..LAG_MAX));
        let Some(process) = self.process(to) else { return };
        let stream = &mut process.stream;
        let Some(connection) = stream.connection else { return };
        if stream.is_cut {
            return;
        }
        if stream.is_stalled {
            return stream.held.push(message);
        }
        let arrival = (now + lag).max(stream.last_arrival);
        stream.last_arrival = arrival;
        self.time.plan(arrival - now, Event::Arrive(to, connection.number, message));
    }

    pub(super) fn send_to_all(&mut self, message: &Message) {
        for relay in 0..self.relays.len() {
            self.send(self.to(relay), message.clone());
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
        let message = self.launchdarkly.change(&mut self.time.rng);
        self.note(|it| {
            let truth = super::launchdarkly::shown(&it.launchdarkly.truth);
            format!("LaunchDarkly: {truth}")
        });
        self.send_to_all(&message);
    }

    pub(super) fn arrive(&mut self, to: To, connection: u64, message: &Message) {
        let now = self.time.instant();
        let name = self.relays[to.0].name;
        let Some(process) = self.process(to) else { return };
        let Some(connection) = process.stream.connection.filter(|it| it.number == connection)
        else {
            return;
        };
        process.orders.heard(now);
        let Message::Event(event, data) = message else { return };
        let text = data.to_string();
        let decoded = decode(event, text.as_bytes());
        let reaction = match decoded {
            Ok(message) => process.state.on_message(connection, message, now),
            Err(_) => process.state.on_undecodable(),
        };
        process.is_told |= reaction.persist.is_some();
        self.note(|_| format!("{name} <- {event} {text}"));
        self.carry_out(to, reaction);
    }

    pub(super) fn follow(&mut self, to: To, step: StreamStep) {
        let now = self.time.instant();
        let after = match step {
            StreamStep::RestartMalformed => 1_000..10_000,
            StreamStep::Reconnect => 5..1_000,
            StreamStep::ConfirmAt(at) => {
                let after = at.saturating_duration_since(now).as_millis() as Millis + 1;
                after..after + 500
            }
        };
        self.disconnected(to);
        self.plan_connection(to, after);
    }

    /// The relay knows that its connection is gone.
    fn disconnected(&mut self, to: To) {
        let (now, wall) = (self.time.instant(), self.time.wall());
        let Some(process) = self.process(to) else { return };
        process.stream.connection = None;
        process.state.on_disconnected(now);
        process.orders.not_live(wall);
        if let Some(at) = process.state.lapse_at() {
            let after = self.time.until(at);
            self.time.plan(after, Event::Lapse(to));
        }
    }

    pub(super) fn lose(&mut self, to: To, connection: u64) {
        let name = self.relays[to.0].name;
        let Some(process) = self.process(to) else { return };
        if process.stream.connection.is_none_or(|it| it.number != connection) {
            return;
        }
        self.note(|_| format!("{name} lost LaunchDarkly"));
        self.disconnected(to);
        self.plan_connection(to, 500..10_000);
    }

    /// Ends the connection; what is under way over it is lost.
    pub(super) fn cut(&mut self, relay: usize) {
        let to = self.to(relay);
        let notice = self.time.rng.u64(1..2_000);
        let Some(process) = self.process(to) else { return };
        let stream = &mut process.stream;
        let Some(connection) = stream.connection else { return };
        stream.is_cut = true;
        stream.held.clear();
        self.time.plan(notice, Event::Lost(to, connection.number));
    }

    /// What waits behind a stall arrives at once.
    pub(super) fn release(&mut self, relay: usize) {
        let (to, now) = (self.to(relay), self.time.now);
        let Some(process) = self.process(to) else { return };
        let stream = &mut process.stream;
        if !std::mem::take(&mut stream.is_stalled) {
            return;
        }
        let held = std::mem::take(&mut stream.held);
        let after = stream.last_arrival.saturating_sub(now);
        let Some(connection) = stream.connection else { return };
        for message in held {
            self.time.plan(after, Event::Arrive(to, connection.number, message));
        }
    }
}
