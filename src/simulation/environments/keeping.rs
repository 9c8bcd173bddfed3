//! The tasks of the two tiers, and what becomes of their calls.

use std::time::Duration;

use super::database::Rows;
use super::relay::{Answer, Call, Doing, Keeper};
use super::{CALLS_A_MINUTE_MAX, Environments, Event, Reply, To};
use crate::autoconfig::cache::simulated::Effect;
use crate::autoconfig::cache::{local_tier, shared_tier};
use crate::autoconfig::startup_race::Tier;
use crate::replica::Step;
use crate::simulation::scenario::Millis;
use crate::storage::StoreError;

impl Environments {
    pub(super) fn keeper(&mut self, to: To, tier: Tier) -> Option<&mut Keeper> {
        self.process(to)?.copies.get_mut(&tier)
    }

    pub(super) fn keep(&mut self, to: To, tier: Tier) {
        let at = self.time.at();
        let name = self.relays[to.0].name;
        let Some(keeper) = self.keeper(to, tier).filter(|it| it.doing == Doing::Resting) else {
            return;
        };
        if keeper.take_news() || keeper.epoch != keeper.copy.seen_epoch() {
            keeper.copy.told(keeper.epoch, &at);
        }
        match keeper.copy.next() {
            Some(due) if due <= at.now => {
                let step = keeper.copy.begin(keeper.epoch, &at);
                self.step(to, tier, step);
            }
            Some(due) => {
                let after = self.time.until(due);
                self.time.plan(after, Event::Wake(to, tier));
            }
            None => self.time.wrong(format!("{name}: no visit of the {tier} lies ahead")),
        }
    }

    pub(super) fn step(&mut self, to: To, tier: Tier, step: Step<Call>) {
        let Some(keeper) = self.keeper(to, tier) else { return };
        for effect in keeper.copy.effects() {
            if let Effect::Read(outcome) = effect {
                let after = self.time.rng.u64(..20);
                self.time.plan(after, Event::Told(to, tier, outcome));
            }
        }
        let Some(keeper) = self.keeper(to, tier) else { return };
        match step {
            Step::Rest => {
                keeper.doing = Doing::Resting;
                // What was told meanwhile is looked at in its own turn.
                self.time.plan(0, Event::Wake(to, tier));
            }
            Step::Wait(pause) => {
                keeper.doing = Doing::Waiting;
                self.time.plan(pause.as_millis() as Millis, Event::Waited(to, tier));
            }
            Step::Call(call) => self.call(to, tier, call),
        }
    }

    fn call(&mut self, to: To, tier: Tier, call: Call) {
        let now = self.time.now;
        let (there, back) = (self.time.rng.u64(1..40), self.time.rng.u64(1..40));
        let is_bad = tier == Tier::Shared
            && !self.is_calm()
            && self.time.rng.u64(..100) < self.scenario.bad_calls;
        let fate = if is_bad { self.time.rng.u8(1..6) } else { 0 };
        let slow = self.time.rng.u64(1_000..20_000);
        let Some(keeper) = self.keeper(to, tier) else { return };
        keeper.calls += 1;
        keeper.busy.retain(|at| at + 60_000 > now);
        keeper.busy.push(now);
        let (number, busy) = (keeper.calls, keeper.busy.len());
        keeper.doing = Doing::Calling(number);
        if busy > CALLS_A_MINUTE_MAX {
            return self.time.wrong(format!("{busy} calls in a minute"));
        }
        let timed_out = || StoreError::TimedOut { budget: Duration::from_secs(1) };
        let execute = |call, reply| Event::Execute(to, tier, number, call, reply);
        match fate {
            // It never reaches the database.
            1 => {
                let error = StoreError::Unreachable("reset".into());
                self.time.plan(there, Event::Answered(to, tier, number, Err(error)));
            }
            // It is carried out, in part where that can be, and the answer is lost.
            2 => {
                let rows = self.time.rng.usize(..6);
                self.time.plan(there, execute(call, Reply::Lost(rows)));
                self.time.plan(1_000, Event::Answered(to, tier, number, Err(timed_out())));
            }
            // It is carried out long after it was given up.
            3 => {
                self.time.plan(slow, execute(call, Reply::Lost(usize::MAX)));
                self.time.plan(1_000, Event::Answered(to, tier, number, Err(timed_out())));
            }
            // It is carried out twice.
            4 => {
                self.time.plan(there, execute(call.clone(), Reply::After(back)));
                self.time.plan(slow, execute(call, Reply::Lost(usize::MAX)));
            }
            // It is slow.
            5 => self.time.plan(slow / 20, execute(call, Reply::After(back))),
            _ => self.time.plan(there, execute(call, Reply::After(back))),
        }
    }

    pub(super) fn execute(&mut self, to: To, tier: Tier, number: u64, call: Call, reply: Reply) {
        match call {
            // A process that was killed writes nothing.
            Call::Local(call) if self.process(to).is_some() => {
                let now = self.time.now;
                let is_write = !matches!(call, local_tier::Call::Load);
                let answer = self.relays[to.0].write(now, call);
                if is_write {
                    self.note(|it| format!("{} stores", it.shown_relay(to.0)));
                }
                self.reply(to, tier, number, Ok(Answer::Local(answer)), reply);
            }
            Call::Local(_) => {}
            Call::Shared(call) => self.execute_shared(to, number, call, reply),
        }
    }

    fn execute_shared(&mut self, to: To, number: u64, mut call: shared_tier::Call, reply: Reply) {
        if let (Reply::Lost(max), shared_tier::Call::Swap(_, swaps)) = (reply, &mut call) {
            swaps.truncate(max);
        }
        if matches!(call, shared_tier::Call::Read(_)) {
            let lasts = self.time.rng.u64(1..60);
            let rows = self.database.rows.clone();
            // ld-relay's rows are never there.
            if matches!(call, shared_tier::Call::Read(shared_tier::CacheFormat::Sealed))
                && self.scenario.is_row_by_row
            {
                return self.time.plan(lasts, Event::ReadOn(to, number, rows, reply));
            }
        }
        let is_write = matches!(call, shared_tier::Call::Swap(..));
        let before = is_write.then(|| self.database.rows.clone());
        let answer = self.database.carry_out(call);
        if let Some(before) = before {
            self.note(|it| {
                let (name, database) = (it.relays[to.0].name, it.shown_database());
                match &answer {
                    Ok(shared_tier::Answer::Swapped(done)) => {
                        format!("{name} writes {done:?} | {database}")
                    }
                    Ok(shared_tier::Answer::Rows(_)) => String::new(),
                    Err(error) => format!("{name} writes: {error} | {database}"),
                }
            });
            if answer.is_ok() {
                self.check_write(&before);
            }
        }
        self.reply(to, Tier::Shared, number, answer.map(Answer::Shared), reply);
    }

    pub(super) fn read_on(&mut self, to: To, number: u64, before: &Rows, reply: Reply) {
        let random = self.time.rng.usize(..4);
        let read = shared_tier::Call::Read(shared_tier::CacheFormat::Sealed);
        let answer = self.database.carry_out(read);
        let answer = answer
            .map(|_| Answer::Shared(shared_tier::Answer::Rows(self.database.torn(before, random))));
        self.reply(to, Tier::Shared, number, answer, reply);
    }

    fn reply(
        &mut self,
        to: To,
        tier: Tier,
        number: u64,
        answer: Result<Answer, StoreError>,
        reply: Reply,
    ) {
        if let Some(keeper) = self.keeper(to, tier).filter(|_| answer.is_ok()) {
            keeper.epoch = keeper.epoch.max(1);
        }
        if let Reply::After(back) = reply {
            self.time.plan(back, Event::Answered(to, tier, number, answer));
        }
    }

    pub(super) fn answered(
        &mut self,
        to: To,
        tier: Tier,
        number: u64,
        answer: Result<Answer, StoreError>,
    ) {
        let at = self.time.at();
        let Some(keeper) = self.keeper(to, tier) else { return };
        if keeper.doing != Doing::Calling(number) {
            // It comes after the call was given up.
            return;
        }
        let step = keeper.copy.answered(answer, keeper.epoch, &at);
        self.step(to, tier, step);
    }
}
