//! What fails, and how it heals.

use bytes::Bytes;

use super::launchdarkly::{Message, empty_put};
use super::streams::LAG_MAX;
use super::{Environments, Event};
use crate::autoconfig::cache::memory::MemoryDisk;
use crate::autoconfig::startup_race::Tier;
use crate::simulation::Fleet;
use crate::simulation::scenario::Millis;

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
    Drop,
    /// LaunchDarkly asks for a new connection.
    Reconnect,
    /// A stream brings data that cannot be used.
    Malformed,
    /// A put holds one environment that cannot be used; it may be the first of a connection.
    FlawedPut,
    /// A put says by mistake that there is no environment.
    EmptyPut,
    /// A relay is killed, and started again.
    Kill,
    /// A relay is killed and starts on another machine, without its local store.
    Replace,
    /// Another file takes the place of a relay's local store while it runs.
    LocalLoss,
    /// The database cannot be reached, for a while.
    Away,
    /// It restarts with its data.
    Restart,
    /// It loses everything.
    Wipe,
    /// It loses a row.
    Evict,
    /// It goes back to what it held some time ago.
    OldDump,
    /// Somebody puts a single row back.
    OldRow,
    /// It takes no writes, for a while.
    Full,
    /// Another program writes a row that does not open.
    StrangeRow,
}

/// All of them.
pub const ALL: [Fault; 19] = [
    Fault::Outage,
    Fault::CutOff,
    Fault::Stall,
    Fault::Drop,
    Fault::Reconnect,
    Fault::Malformed,
    Fault::FlawedPut,
    Fault::EmptyPut,
    Fault::Kill,
    Fault::Replace,
    Fault::LocalLoss,
    Fault::Away,
    Fault::Restart,
    Fault::Wipe,
    Fault::Evict,
    Fault::OldDump,
    Fault::OldRow,
    Fault::Full,
    Fault::StrangeRow,
];

/// The longest that one fault lasts.
const LASTS_MAX: Millis = 90_000;

/// Writes of the local store that a kill may lose.
const LOCAL_LOSS: Millis = 250;

impl Environments {
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
        match fault {
            Fault::Outage => {
                self.launchdarkly.is_up = false;
                (0..self.relays.len()).for_each(|relay| self.cut(relay));
            }
            Fault::CutOff => {
                self.relays[relay].is_cut_off = true;
                self.cut(relay);
            }
            Fault::Stall => {
                if let Some(process) = self.process(to) {
                    process.stream.is_stalled = true;
                }
            }
            Fault::Drop => self.cut(relay),
            Fault::Reconnect => self.send(to, Message::Event("reconnect", serde_json::Value::Null)),
            Fault::Malformed => {
                let put = serde_json::json!({"path": "/", "data": 5});
                self.send(to, Message::Event("put", put));
            }
            Fault::FlawedPut if self.time.rng.bool() => {
                self.relays[relay].is_next_put_flawed = true;
                self.cut(relay);
            }
            Fault::FlawedPut => {
                let put = self.launchdarkly.flawed_put(&mut self.time.rng);
                self.send(to, put);
            }
            Fault::EmptyPut => self.send_empty_put(relay),
            Fault::Kill | Fault::Replace => self.kill(relay, fault == Fault::Replace),
            Fault::LocalLoss => self.lose_local_store(relay),
            Fault::Away
            | Fault::Restart
            | Fault::Wipe
            | Fault::Evict
            | Fault::OldDump
            | Fault::OldRow
            | Fault::Full
            | Fault::StrangeRow => self.database_fault(fault),
        }
        let lasts = self.time.rng.u64(500..LASTS_MAX);
        self.time.plan(lasts, Event::Heal(fault, relay));
    }

    fn database_fault(&mut self, fault: Fault) {
        let random = self.time.rng.usize(..100);
        match fault {
            Fault::Away => self.database.is_away = true,
            Fault::Restart => self.reconnect_database(),
            Fault::Wipe => {
                self.database.rows.clear();
                if self.time.rng.bool() {
                    self.reconnect_database();
                }
            }
            Fault::Evict => self.database.evict(random),
            Fault::OldDump => {
                if let Some(rows) = self.database.old(random).cloned() {
                    self.database.rows.clear();
                    rows.iter().for_each(|(name, row)| self.database.put(name, row.value.clone()));
                    self.reconnect_database();
                }
            }
            Fault::OldRow => {
                let row = self.database.old(random).and_then(|rows| {
                    let row = rows.iter().nth(random % rows.len().max(1))?;
                    Some((row.0.clone(), row.1.value.clone()))
                });
                if let Some((name, value)) = row {
                    self.database.put(&name, value);
                }
            }
            Fault::Full => self.database.refuses_writes = true,
            Fault::StrangeRow => {
                let name = match ["a", "c", "?"][random % 3] {
                    "?" => "strange".to_owned(),
                    id => self.database.row_name(id),
                };
                self.database.put(&name, Bytes::from_static(b"strange"));
            }
            _ => {}
        }
        self.note(|it| format!("the database is | {}", it.shown_database()));
    }

    /// Two of them within a short time would be a second word that confirms the first.
    fn send_empty_put(&mut self, relay: usize) {
        let to = self.to(relay);
        let Some(process) = self.process(to) else { return };
        if process.is_told && !std::mem::replace(&mut process.was_sent_empty_put, true) {
            self.send(to, empty_put());
        }
    }

    fn lose_local_store(&mut self, relay: usize) {
        let (to, now) = (self.to(relay), self.time.now);
        if self.process(to).is_none() || !self.relays[relay].has_local {
            return;
        }
        self.relays[relay].disk.push((now, MemoryDisk::default()));
        if let Some(process) = self.process(to) {
            process.local_status.send_modify(|status| status.replaced += 1);
        }
        if let Some(keeper) = self.keeper(to, Tier::Local) {
            keeper.epoch += 1;
        }
        self.keep(to, Tier::Local);
    }

    fn kill(&mut self, relay: usize, is_replaced: bool) {
        let lost = self.time.rng.u64(..LOCAL_LOSS);
        self.relays[relay].kill(self.time.now, lost);
        if is_replaced {
            self.relays[relay].disk.clear();
        }
        let held = if self.time.rng.u8(..4) == 0 { 30_000 } else { 0 };
        self.relays[relay].opens_at = self.time.now + self.time.rng.u64(..=held);
        let pause = self.time.rng.u64(10..30_000);
        self.time.plan(pause, Event::Start(relay));
    }

    /// All relays have a new connection to the database soon.
    fn reconnect_database(&mut self) {
        for relay in 0..self.relays.len() {
            let (to, after) = (self.to(relay), self.time.rng.u64(..800));
            self.time.plan(after, Event::DatabaseConnected(to));
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
            Fault::Full => self.database.refuses_writes = false,
            _ => {}
        }
    }

    /// All faults end.
    pub(super) fn end_all_faults(&mut self) {
        self.note(|_| "everything heals".to_owned());
        let all = [Fault::Outage, Fault::Away, Fault::Full];
        all.into_iter().for_each(|fault| self.heal(fault, 0));
        for relay in 0..self.relays.len() {
            self.relays[relay].is_next_put_flawed = false;
            self.heal(Fault::CutOff, relay);
            self.heal(Fault::Stall, relay);
            let after = self.time.rng.u64(..LAG_MAX);
            self.time.plan(after, Event::Start(relay));
        }
    }
}
