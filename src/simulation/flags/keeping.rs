//! The task of each relay's shared store, and what becomes of its calls.

use super::checks::{shown_answer, shown_call};
use super::faults::disconnected;
use super::{Event, Flags, Reply, To};
use crate::flagstore::simulated::{Answer, Call, Content, Effect};
use crate::replica::{Step, Visits};
use crate::simulation::Fleet;
use crate::simulation::calls::{Doing, Fate};
use crate::simulation::scenario::Millis;
use crate::storage::StoreError;

impl Flags {
    pub(super) fn keep(&mut self, to: To) {
        let at = self.time.at();
        let Some(process) = self.process(to) else { return };
        if process.calls.doing != Doing::Resting {
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
                process.calls.doing = Doing::Resting;
                // What was told meanwhile is looked at in its own turn.
                self.time.plan(0, Event::Wake(to));
            }
            Step::Wait(pause) => {
                process.calls.doing = Doing::Waiting;
                self.time.plan(pause.as_millis() as Millis, Event::Waited(to));
            }
            Step::Call(call) => self.call(to, call),
        }
    }

    pub(super) fn call(&mut self, to: To, call: Call) {
        let bad_calls = (!self.is_calm()).then_some(self.scenario.bad_calls);
        let fate = Fate::draw(&mut self.time.rng, bad_calls);
        let now = self.time.now;
        let Some(process) = self.process(to) else { return };
        let number = match process.calls.begin(now) {
            Ok(number) => number,
            Err(problem) => return self.time.wrong(problem),
        };
        for (after, reply) in fate.executions {
            self.time.plan(after, Event::Execute(to, number, call.clone(), reply));
        }
        if let Some((after, error)) = fate.failure {
            self.time.plan(after, Event::Answered(to, number, Err(error)));
        }
    }

    pub(super) fn execute(&mut self, to: To, number: u64, mut call: Call, reply: Reply) {
        if let (Reply::Lost(max), Call::Upsert { rows, .. }, true) =
            (reply, &mut call, self.scenario.is_row_by_row)
        {
            rows.truncate(max);
        }
        if self.process(to).is_some_and(|process| !process.has_database) {
            return self.reply(to, number, Err(disconnected()), reply);
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
        if process.calls.doing != Doing::Calling(number) {
            // It comes after the call was given up.
            return;
        }
        let step = process.replica.answered(answer, process.epoch, &at);
        self.step(to, step);
    }
}
