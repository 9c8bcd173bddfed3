//! The task of each relay's shared store, and what becomes of its calls.

use std::time::Duration;

use super::checks::{shown_answer, shown_call};
use super::{CALLS_A_MINUTE_MAX, Event, Flags, Reply, To};
use crate::flagstore::simulated::{Answer, Call, Content, Effect};
use crate::replica::{Step, Visits};
use crate::simulation::flags::relay::Keeper;
use crate::simulation::scenario::Millis;
use crate::storage::StoreError;

impl Flags {
    pub(super) fn keep(&mut self, to: To) {
        let at = self.time.at();
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
                let after = self.time.until(due);
                self.time.plan(after, Event::Wake(to));
            }
            None => self.time.wrong(format!("{}: no visit lies ahead", self.relays[to.0].name)),
        }
    }

    pub(super) fn step(&mut self, to: To, step: Step<Call>) {
        let Some(process) = self.process(to) else { return };
        for effect in process.replica.visits().effects() {
            if let Effect::Read(read) = effect {
                let after = self.time.rng.u64(..20);
                self.time.plan(after, Event::Read(to, read));
            }
        }
        let Some(process) = self.process(to) else { return };
        match step {
            Step::Rest => {
                process.keeper = Keeper::Resting;
                // What was told meanwhile is looked at in its own turn.
                self.time.plan(0, Event::Wake(to));
            }
            Step::Wait(pause) => {
                process.keeper = Keeper::Waiting;
                self.time.plan(pause.as_millis() as Millis, Event::Waited(to));
            }
            Step::Call(call) => self.call(to, call),
        }
    }

    pub(super) fn call(&mut self, to: To, call: Call) {
        let now = self.time.now;
        let (there, back) = (self.time.rng.u64(1..40), self.time.rng.u64(1..40));
        let is_bad = !self.is_calm() && self.time.rng.u64(..100) < self.scenario.bad_calls;
        let fate = if is_bad { self.time.rng.u8(1..6) } else { 0 };
        let slow = self.time.rng.u64(1_000..20_000);
        let Some(process) = self.process(to) else { return };
        process.calls += 1;
        process.busy.retain(|at| at + 60_000 > now);
        process.busy.push(now);
        let (number, busy) = (process.calls, process.busy.len());
        process.keeper = Keeper::Calling(number);
        if busy > CALLS_A_MINUTE_MAX {
            return self.time.wrong(format!("{} calls in a minute", busy));
        }
        let timed_out = || StoreError::TimedOut { budget: Duration::from_secs(1) };
        match fate {
            // It never reaches the database.
            1 => {
                let error = StoreError::Unreachable("reset".into());
                self.time.plan(there, Event::Answered(to, number, Err(error)));
            }
            // It is carried out, in part where that can be, and the answer is lost.
            2 => {
                let rows = self.time.rng.usize(..6);
                self.time.plan(there, Event::Execute(to, number, call, Reply::Lost(rows)));
                self.time.plan(1_000, Event::Answered(to, number, Err(timed_out())));
            }
            // It is carried out long after it was given up.
            3 => {
                self.time.plan(slow, Event::Execute(to, number, call, Reply::Lost(usize::MAX)));
                self.time.plan(1_000, Event::Answered(to, number, Err(timed_out())));
            }
            // It is carried out twice.
            4 => {
                let again = call.clone();
                self.time.plan(there, Event::Execute(to, number, call, Reply::After(back)));
                self.time.plan(slow, Event::Execute(to, number, again, Reply::Lost(usize::MAX)));
            }
            // It is slow.
            5 => {
                let slow = slow / 20;
                self.time.plan(slow, Event::Execute(to, number, call, Reply::After(back)));
            }
            _ => self.time.plan(there, Event::Execute(to, number, call, Reply::After(back))),
        }
    }

    pub(super) fn execute(&mut self, to: To, number: u64, mut call: Call, reply: Reply) {
        if let (Reply::Lost(max), Call::Upsert { rows, .. }, true) =
            (reply, &mut call, self.scenario.is_row_by_row)
        {
            rows.truncate(max);
        }
        if matches!(call, Call::Read) && self.scenario.is_row_by_row {
            let lasts = self.time.rng.u64(1..60);
            let content = self.database.content.clone();
            return self.time.plan(lasts, Event::ReadOn(to, number, content, reply));
        }
        let is_write = !matches!(call, Call::Read | Call::Look);
        let before = is_write.then(|| self.database.content.clone());
        let text = if self.time.is_traced() { shown_call(&call) } else { String::new() };
        let answer = self.database.carry_out(call);
        self.note(|it| {
            let name = it.relays[to.0].name;
            format!("{name} {text} {} | {}", shown_answer(&answer), it.database.shown())
        });
        if let Some(before) = before.filter(|_| answer.is_ok()) {
            self.check_write(&before);
        }
        self.reply(to, number, answer, reply);
    }

    pub(super) fn read_on(&mut self, to: To, number: u64, before: &Content, reply: Reply) {
        let random = self.time.rng.usize(..4);
        let answer = self.database.carry_out(Call::Read);
        let answer = answer.map(|_| Answer::Read(self.database.torn(before, random)));
        self.note(|it| format!("{} has read | {}", it.relays[to.0].name, it.database.shown()));
        self.reply(to, number, answer, reply);
    }

    fn reply(&mut self, to: To, number: u64, answer: Result<Answer, StoreError>, reply: Reply) {
        if let Some(process) = self.process(to).filter(|_| answer.is_ok()) {
            process.epoch = process.epoch.max(1);
        }
        if let Reply::After(back) = reply {
            self.time.plan(back, Event::Answered(to, number, answer));
        }
    }

    pub(super) fn answered(&mut self, to: To, number: u64, answer: Result<Answer, StoreError>) {
        let at = self.time.at();
        let Some(process) = self.process(to) else { return };
        if process.keeper != Keeper::Calling(number) {
            // It comes after the call was given up.
            return;
        }
        let step = process.replica.answered(answer, process.epoch, &at);
        self.step(to, step);
    }
}
