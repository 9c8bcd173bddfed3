//! What fails, and how it heals.

use super::{Event, Flags, To};
use crate::flagstore::layout;
use crate::model::Item;
use crate::simulation::Fleet;
use crate::simulation::flags::launchdarkly::{LAG_MAX, Message, key};
use crate::simulation::flags::relay::{Cause, LOCAL_LOSS, Relay, Stream, sdk_key};
use crate::simulation::scenario::Millis;
use crate::storage::StoreError;

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// LaunchDarkly cannot be reached by anybody, for a while.
    Outage,
    /// One relay cannot reach LaunchDarkly, for a while.
    CutOff,
    /// A stream delivers nothing for a while, then everything at once.
    Stall,
    /// A stream is lost and comes back.
    Reconnect,
    /// A stream brings data that cannot be used.
    Malformed,
    /// LaunchDarkly designates another SDK key.
    Rotation,
    /// A relay is killed, and started again.
    Kill,
    /// A relay is killed and starts on another machine, without its local store.
    Replace,
    /// The database cannot be reached, for a while.
    Away,
    /// It restarts with its data.
    Restart,
    /// It loses everything.
    Wipe,
    /// It loses a few rows.
    Evict,
    /// It goes back to what it held some time ago.
    OldDump,
    /// It takes no writes, for a while.
    Full,
    /// Another program writes a row that is not what LaunchDarkly says.
    StrangeRow,
    /// Another program writes a marker that tells nothing.
    ForeignMarker,
    /// The store is handed the flags of another environment: two have one prefix, or had.
    ForeignSet,
    /// Another program writes a row that cannot be decoded.
    Undecodable,
}

/// All of them.
pub const ALL: [Fault; 18] = [
    Fault::Outage,
    Fault::CutOff,
    Fault::Stall,
    Fault::Reconnect,
    Fault::Malformed,
    Fault::Rotation,
    Fault::Kill,
    Fault::Replace,
    Fault::Away,
    Fault::Restart,
    Fault::Wipe,
    Fault::Evict,
    Fault::OldDump,
    Fault::Full,
    Fault::StrangeRow,
    Fault::ForeignMarker,
    Fault::ForeignSet,
    Fault::Undecodable,
];

/// The longest that one fault lasts.
const LASTS_MAX: Millis = 90_000;

impl Flags {
    pub(super) fn fault(&mut self) {
        if self.is_calm() {
            return;
        }
        self.time.plan_around(self.scenario.fault_every, Event::Fault);
        let fault = self.scenario.faults[self.time.rng.usize(..self.scenario.faults.len())];
        let relay = self.time.rng.usize(..self.relays.len());
        let to = self.to(relay);
        self.note(|it| format!("{fault:?} ({})", it.relays[relay].name));
        if self.time.rng.bool() {
            self.database.dump();
        }
        let lasts = self.time.rng.u64(500..LASTS_MAX);
        match fault {
            Fault::Outage => {
                self.launchdarkly.is_up = false;
                (0..self.relays.len()).for_each(|relay| self.cut_all(relay));
            }
            Fault::CutOff => {
                self.relays[relay].is_cut_off = true;
                self.cut_all(relay);
            }
            Fault::Stall => self.each_stream(to, |stream| stream.is_stalled = true),
            Fault::Reconnect => self.cut_all(relay),
            Fault::Malformed => {
                let streams = self.streams_of(to);
                streams.into_iter().for_each(|stream| self.send(to, stream, Message::Junk));
            }
            Fault::Rotation => self.rotate(relay),
            Fault::Kill | Fault::Replace => self.kill(relay, fault == Fault::Replace),
            Fault::Away => self.database.is_away = true,
            Fault::Restart => {
                self.database.content.server += 1;
                self.reconnect_database();
            }
            Fault::Wipe => {
                self.database.wipe();
                if self.time.rng.bool() {
                    self.reconnect_database();
                } else {
                    self.database.content.server -= 1;
                }
            }
            // A relay lowers the marker's counts before it removes rows. What is lost in these
            // milliseconds is missed only after that.
            Fault::Evict if self.relays.iter().any(Relay::is_visiting) => {}
            Fault::Evict => self.evict(),
            Fault::OldDump => {
                let random = self.time.rng.usize(..8);
                self.go_back(random);
            }
            Fault::Full => self.database.content.refuses_writes = true,
            Fault::StrangeRow => self.strange_row(),
            Fault::ForeignMarker => {
                if self.database.content.marker.is_some() {
                    // If all were alike, a relay's write under one of them that arrives seconds late
                    // would meet the next one.
                    let marker = format!("foreign {}", self.time.now);
                    self.database.content.marker = Some(marker.into());
                }
            }
            Fault::ForeignSet => self.database.hand_over(),
            Fault::Undecodable => {
                let name = ["a", "S", "c"][self.time.rng.usize(..3)];
                if let Some(row) = self.database.content.rows.get_mut(&key(name)) {
                    *row = "{".into();
                }
            }
        }
        self.time.plan(lasts, Event::Heal(fault, relay));
    }

    /// A row that differs from what LaunchDarkly says.
    fn strange_row(&mut self) {
        if !self.database.is_listed() {
            return;
        }
        let name = ["a", "S", "c", "z"][self.time.rng.usize(..4)];
        let version = self.time.rng.u64(1..200);
        let json = format!(r#"{{"key":"{name}","version":{version},"strange":true}}"#);
        let key = key(name);
        let row = layout::row(&key, &Item::live(version, json));
        self.note(|_| format!("another program writes {name}{version}"));
        self.database.content.rows.insert(key, row.json);
    }

    fn rotate(&mut self, relay: usize) {
        self.relays[relay].key += 1;
        let (to, key) = (self.to(relay), self.relays[relay].key);
        let Some(process) = self.process(to) else { return };
        let effects = process.serving.on_designated(sdk_key(key));
        self.carry_out(to, effects, Cause::Store);
    }

    fn kill(&mut self, relay: usize, is_replaced: bool) {
        let lost = self.time.rng.u64(..LOCAL_LOSS);
        self.relays[relay].kill(self.time.now, lost);
        if is_replaced {
            self.relays[relay].disk.clear();
        }
        let pause = self.time.rng.u64(10..30_000);
        self.time.plan(pause, Event::Start(relay));
    }

    /// All relays have a new connection to the database soon.
    /// Ends all connections to the database, with what is under way over them: no call that began
    /// before it went back is carried out after that.
    fn disconnect_database(&mut self) {
        for relay in 0..self.relays.len() {
            let to = self.to(relay);
            if let Some(process) = self.process(to) {
                process.has_database = false;
            }
        }
        for event in self.time.take_back(|it| matches!(it, Event::Execute(..))) {
            if let Event::Execute(to, number, ..) = event {
                self.time.plan(1, Event::Answered(to, number, Err(disconnected())));
            }
        }
    }

    fn reconnect_database(&mut self) {
        for relay in 0..self.relays.len() {
            let (to, after) = (self.to(relay), self.time.rng.u64(..800));
            self.time.plan(after, Event::DatabaseConnected(to));
        }
    }

    fn streams_of(&mut self, to: To) -> Vec<u64> {
        let streams = self.process(to).map(|process| process.streams.keys().copied().collect());
        streams.unwrap_or_default()
    }

    fn each_stream(&mut self, to: To, change: impl Fn(&mut Stream)) {
        if let Some(process) = self.process(to) {
            process.streams.values_mut().filter(|stream| stream.is_open).for_each(change);
        }
    }

    /// The database is restarted with an old state.
    pub(super) fn go_back(&mut self, random: usize) {
        if self.database.go_back(random) {
            self.note(|it| format!("the database is | {}", it.database.shown()));
            self.disconnect_database();
            self.reconnect_database();
        }
    }

    /// A row vanishes.
    pub(super) fn evict(&mut self) {
        let random = self.time.rng.usize(..100);
        if let Some(victim) = self.database.evict(random) {
            self.note(|_| format!("{victim} is lost"));
        }
    }

    pub(super) fn heal(&mut self, fault: Fault, relay: usize) {
        match fault {
            Fault::Outage => self.launchdarkly.is_up = true,
            Fault::CutOff => self.relays[relay].is_cut_off = false,
            Fault::Stall => self.release(relay),
            Fault::Away if self.database.is_away => {
                self.database.is_away = false;
                self.note(|_| "the database is back".to_owned());
                self.reconnect_database();
            }
            Fault::Full => self.database.content.refuses_writes = false,
            Fault::Away
            | Fault::Reconnect
            | Fault::Malformed
            | Fault::Rotation
            | Fault::Kill
            | Fault::Replace
            | Fault::Restart
            | Fault::Wipe
            | Fault::Evict
            | Fault::OldDump
            | Fault::StrangeRow
            | Fault::ForeignMarker
            | Fault::ForeignSet
            | Fault::Undecodable => {}
        }
    }

    /// What waits behind a stall arrives at once.
    fn release(&mut self, relay: usize) {
        let to = self.to(relay);
        for stream in self.streams_of(to) {
            let now = self.time.now;
            let Some(process) = self.process(to) else { return };
            let Some(state) = process.streams.get_mut(&stream) else { continue };
            if !std::mem::take(&mut state.is_stalled) {
                continue;
            }
            let after = state.last_arrival.saturating_sub(now);
            let (held, connection) = (std::mem::take(&mut state.held), state.connection);
            state.last_arrival = now + after;
            for message in held {
                self.time.plan(after, Event::Arrive(to, stream, connection, message));
            }
        }
    }

    /// All faults end.
    pub(super) fn end_all_faults(&mut self) {
        self.note(|_| "everything heals".to_owned());
        let all = [Fault::Outage, Fault::Away, Fault::Full];
        all.into_iter().for_each(|fault| self.heal(fault, 0));
        for relay in 0..self.relays.len() {
            self.heal(Fault::CutOff, relay);
            self.heal(Fault::Stall, relay);
            let after = self.time.rng.u64(..LAG_MAX);
            self.time.plan(after, Event::Start(relay));
        }
    }
}

/// The error of a call over a connection that ended.
pub(super) fn disconnected() -> StoreError {
    StoreError::Unreachable("reset".into())
}
