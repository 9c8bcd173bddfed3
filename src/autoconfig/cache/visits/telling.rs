//! Reports of a visit: to the manager, to `/status`, and to the operator.

use std::time::Duration;

use super::RecordVisits;
use crate::autoconfig::cache::codec::Skipped;
use crate::autoconfig::cache::judge::Reading;
use crate::autoconfig::cache::report::ReadState;
use crate::autoconfig::cache::tier::{CacheTier, Written};
use crate::autoconfig::record_set::CachedSet;
use crate::autoconfig::startup_race::CacheOutcome;
use crate::replica::Moment;
use crate::storage::StoreError;
use crate::telemetry::Chain;

/// A report to others.
#[derive(Debug)]
pub enum Effect {
    /// The content of the tier, for the manager.
    Read(CacheOutcome<CachedSet>),
    /// A notice for the operator.
    Notice(Notice),
}

/// A notice for the operator.
#[derive(Debug)]
pub enum Notice {
    /// Records cannot be used.
    Skipped(Skipped),
    /// Records are older than their manifest says.
    RolledBack(usize),
    /// The file of the local store was set aside.
    SetAside,
    /// No record opens with the configured keys.
    WrongKeys,
    /// The records are older than `cacheMaxAge` allows.
    TooOld(Option<Duration>),
    /// The tier cannot be read.
    FailedRead(String),
    /// The tier cannot be written.
    FailedWrite(String),
    /// These records are too large for the database.
    TooLarge(Vec<String>),
    /// It is written again, after a failure.
    InUseAgain,
    /// It holds what it should; so many rows were changed.
    UpToDate { rows: usize },
}

impl<T: CacheTier> RecordVisits<T> {
    fn tell(&mut self, notice: Notice) {
        self.effects.push(Effect::Notice(notice));
    }

    /// Reports a reading of the tier.
    pub(super) fn tell_reading(&mut self, reading: Reading, at: &Moment) {
        let skipped = reading.skipped;
        let (outcome, state) = self.judge_age(reading.outcome, at);
        self.held = match &outcome {
            CacheOutcome::Loaded(set) => Some(set.clone()),
            CacheOutcome::Empty => Some(CachedSet::default()),
            // What is too old may be replaced by anything.
            CacheOutcome::Unavailable if state == ReadState::TooOld => Some(CachedSet::default()),
            CacheOutcome::Unavailable | CacheOutcome::Unreadable => None,
        };
        self.tell_state(state, skipped);
        self.report.update(|report| {
            report.read = state;
            report.skipped = skipped;
            report.error = None;
            let set = match &outcome {
                CacheOutcome::Loaded(set) => Some(set),
                CacheOutcome::Empty | CacheOutcome::Unavailable | CacheOutcome::Unreadable => None,
            };
            report.stamp = set.and_then(|set| set.stamp);
            report.complete = set.is_some_and(|set| set.complete);
            report.records = set.map_or(0, |set| set.records.len());
        });
        self.effects.push(Effect::Read(outcome));
    }

    /// Notifies the operator of news about a tier that was read.
    fn tell_state(&mut self, state: ReadState, skipped: Skipped) {
        let before = self.report.get();
        if skipped.total() > 0 && before.skipped != skipped {
            self.tell(Notice::Skipped(skipped));
        }
        if skipped.rolled_back > before.skipped.rolled_back {
            self.tell(Notice::RolledBack(skipped.rolled_back));
        }
        if before.read == state {
            return;
        }
        match state {
            ReadState::Unreadable if skipped.total() == 0 => self.tell(Notice::SetAside),
            ReadState::Unreadable => self.tell(Notice::WrongKeys),
            ReadState::TooOld => self.tell(Notice::TooOld(self.settings.age_max)),
            ReadState::Reading | ReadState::Loaded | ReadState::Empty | ReadState::Unavailable => {}
        }
    }

    /// Refuses records that are too old, or may be.
    fn judge_age(
        &self,
        outcome: CacheOutcome<CachedSet>,
        at: &Moment,
    ) -> (CacheOutcome<CachedSet>, ReadState) {
        let mut set = match outcome {
            CacheOutcome::Loaded(set) => set,
            CacheOutcome::Empty => return (CacheOutcome::Empty, ReadState::Empty),
            CacheOutcome::Unavailable => {
                return (CacheOutcome::Unavailable, ReadState::Unavailable);
            }
            CacheOutcome::Unreadable => return (CacheOutcome::Unreadable, ReadState::Unreadable),
        };
        let had_any = !set.records.environments.is_empty();
        if let Some(max) = self.settings.age_max {
            for name in std::mem::take(&mut set.unvouched) {
                set.complete = false;
                set.records.remove(&name);
            }
            let is_young = set.confirmed_at().is_some_and(|confirmed| {
                // A clock that is ahead of this one gives a time in the future: young.
                at.wall.duration_since(confirmed).map_or(true, |age| age <= max)
            });
            let is_left = !had_any || !set.records.environments.is_empty();
            if !is_young || !is_left {
                return (CacheOutcome::Unavailable, ReadState::TooOld);
            }
        }
        let state = match (had_any, set.missing.is_empty()) {
            (true, _) => ReadState::Loaded,
            (false, true) => ReadState::Empty,
            (false, false) => ReadState::Unreadable,
        };
        (CacheOutcome::Loaded(set), state)
    }

    pub(super) fn tell_failed_read(&mut self, error: &StoreError) {
        let error = Chain(error).to_string();
        if self.report.get().read != ReadState::Unavailable {
            self.tell(Notice::FailedRead(error.clone()));
        }
        self.report.update(|report| {
            report.read = ReadState::Unavailable;
            report.error = Some(error);
        });
        self.effects.push(Effect::Read(CacheOutcome::Unavailable));
    }

    pub(super) fn tell_failed_write(&mut self, error: &StoreError) {
        let error = Chain(error).to_string();
        if !std::mem::replace(&mut self.complained, true) {
            self.tell(Notice::FailedWrite(error.clone()));
        }
        self.report.update(|report| {
            report.read = ReadState::Unavailable;
            // It is not known which records the tier lacks.
            report.write_pending = true;
            report.error = Some(error);
        });
    }

    /// Reports a write, after which the tier holds what it should.
    pub(super) fn tell_written(&mut self, written: Written, at: &Moment) {
        let before = self.report.get();
        self.complained = false;
        if written.too_large != before.too_large && !written.too_large.is_empty() {
            self.tell(Notice::TooLarge(written.too_large.clone()));
        }
        if before.error.is_some() {
            self.tell(Notice::InUseAgain);
        }
        self.tell(Notice::UpToDate { rows: written.rows });
        self.report.update(|report| {
            report.read = if written.records > 0 { ReadState::Loaded } else { ReadState::Empty };
            report.skipped = written.skipped;
            report.stamp = written.stamp;
            report.complete = written.complete;
            report.records = written.records;
            report.write_pending = false;
            report.last_write = Some(at.wall);
            report.too_large = written.too_large;
            report.error = None;
        });
    }
}
