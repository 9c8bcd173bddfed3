//! The tasks of the two tiers, and what becomes of their calls.

use super::database::Rows;
use super::relay::{Answer, Call, Keeper};
use super::{Environments, Event, Reply, To};
use crate::autoconfig::cache::simulated::Effect;
use crate::autoconfig::cache::{local_tier, shared_tier};
use crate::autoconfig::startup_race::Tier;
use crate::replica::Step;
use crate::simulation::Fleet;
use crate::simulation::calls::{Doing, Fate};
use crate::simulation::scenario::Millis;
use crate::storage::StoreError;

impl Environments {
    pub(super) fn keeper(&mut self, to: To, tier: Tier) -> Option<&mut Keeper> {
        self.process(to)?.copies.get_mut(&tier)
    }

    pub(super) fn keep(&mut self, to: To, tier: Tier) {
        let at = self.time.at();
        let name = self.relays[to.0].name;
        let Some(keeper) = self.keeper(to, tier).filter(|it| it.calls.doing == Doing::Resting)
        else {
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
                keeper.calls.doing = Doing::Resting;
                // What was told meanwhile is looked at in its own turn.
                self.time.plan(0, Event::Wake(to, tier));
            }
            Step::Wait(pause) => {
                keeper.calls.doing = Doing::Waiting;
                self.time.plan(pause.as_millis() as Millis, Event::Waited(to, tier));
            }
            Step::Call(call) => self.call(to, tier, call),
        }
    }

    fn call(&mut self, to: To, tier: Tier, call: Call) {
        // The file of the local store answers well.
        let is_remote = tier == Tier::Shared;
        let bad_calls = (is_remote && !self.is_calm()).then_some(self.scenario.bad_calls);
        let fate = Fate::draw(&mut self.time.rng, bad_calls);
        let now = self.time.now;
        let opens_at = if is_remote { now } else { self.relays[to.0].opens_at };
        let held = opens_at.saturating_sub(now);
        let Some(keeper) = self.keeper(to, tier) else { return };
        let number = match keeper.calls.begin(now) {
            Ok(number) => number,
            Err(problem) => return self.time.wrong(problem),
        };
        for (after, reply) in fate.executions {
            self.time.plan(held + after, Event::Execute(to, tier, number, call.clone(), reply));
        }
        if let Some((after, error)) = fate.failure {
            self.time.plan(after, Event::Answered(to, tier, number, Err(error)));
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
                    let stored = self.relays[to.0].stored();
                    self.check_removals(&stored);
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
        if keeper.calls.doing != Doing::Calling(number) {
            // It comes after the call was given up.
            return;
        }
        let step = keeper.copy.answered(answer, keeper.epoch, &at);
        self.step(to, tier, step);
    }
}
