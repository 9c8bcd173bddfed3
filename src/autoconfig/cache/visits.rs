//! Visits to one tier of the cache. Pure.
//!
//! Until the stream has delivered, a visit reads the tier, reports its content to the manager, and
//! adds records of the other tier. From then on it makes the tier hold the accepted records.

mod telling;

use std::sync::Arc;

use tokio::sync::watch;

pub use self::telling::Effect;
pub(super) use self::telling::Notice;
use super::orders::{Source, Wanted};
use super::report::{ReadState, SharedReport};
use super::tier::{CacheTier, Part, Purpose, Written};
use crate::autoconfig::record_set::{CachedSet, SetOrigin};
use crate::autoconfig::startup_race::Tier;
use crate::replica::{Due, End, Moment, Progress, Reason, Then, Visits, Waiting};
use crate::storage::StoreError;

/// Settings for keeping a tier.
#[derive(Clone, Debug)]
pub struct KeeperSettings {
    /// The tier.
    pub tier: Tier,
    /// Cached environments older than this are refused.
    pub age_max: Option<std::time::Duration>,
    /// Pause between looks for lost content; `None` looks when something suggests it, and when
    /// the age of the set is to be confirmed.
    pub check_interval: Option<std::time::Duration>,
}

/// The visits to one tier, and what is known of it.
#[derive(Debug)]
pub struct RecordVisits<T> {
    settings: KeeperSettings,
    tier: T,
    wanted: watch::Receiver<Option<Wanted>>,
    /// True while the last wanted records are not written yet.
    is_pending: bool,
    report: SharedReport,
    /// Content of the tier, as far as it could be read.
    held: Option<CachedSet>,
    visit: Visit,
    /// True while a reported failure of writes is not over.
    complained: bool,
    effects: Vec<Effect>,
}

/// One visit.
#[derive(Debug, Default)]
struct Visit {
    /// The records to be written, if there are any.
    wanted: Option<Wanted>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Resting,
    Reading(Purpose),
    Writing,
}

impl<T: CacheTier> RecordVisits<T> {
    /// Visits that read until there are wanted records, and then write those.
    pub fn new(
        settings: KeeperSettings,
        tier: T,
        mut wanted: watch::Receiver<Option<Wanted>>,
        report: SharedReport,
    ) -> Self {
        let is_pending = wanted.borrow_and_update().is_some();
        Self {
            settings,
            tier,
            wanted,
            is_pending,
            report,
            held: None,
            visit: Visit::default(),
            complained: false,
            effects: Vec::new(),
        }
    }

    fn is_from_stream(&self) -> bool {
        self.wanted.borrow().as_ref().is_some_and(Wanted::is_from_stream)
    }

    /// Reports that records of LaunchDarkly wait, also those that came during a visit.
    fn tell_pending(&self) {
        if self.waiting().put && self.is_from_stream() {
            self.report.update(|report| report.write_pending = true);
        }
    }

    /// True if the wanted records are to be written to the tier.
    fn has_news(&self, wanted: &Wanted) -> bool {
        match (&wanted.source, self.settings.tier, &self.held) {
            (Source::Stream, _, _) => true,
            (Source::Tiers(_), _, None) => false,
            // Its age may be confirmed too, and nothing is read for it. Records of ours are not
            // replaced by ld-relay's.
            (Source::Tiers(known), Tier::Local, Some(held)) => {
                known.origin == SetOrigin::Own
                    || held.origin == SetOrigin::Adopted
                    || held.records.environments.is_empty()
            }
            (Source::Tiers(known), Tier::Shared, Some(held)) => {
                known.origin == SetOrigin::Own && held.lacks(&wanted.records)
            }
        }
    }

    /// Purpose of the visit's read; `None` if it has nothing to do.
    fn purpose(&self, due: Due) -> Option<Purpose> {
        let Some(wanted) = &self.visit.wanted else { return self.reread(due) };
        if wanted.is_from_stream() {
            // The shared tier is repaired only by a relay whose stream is live.
            let may_repair = self.settings.tier == Tier::Local || wanted.live;
            return (self.is_pending || may_repair).then_some(Purpose::Write);
        }
        let reread = self.reread(due);
        let is_put = due == Due::Compare(Reason::Put);
        if self.is_pending && self.held.is_some() && (is_put || reread.is_none()) {
            return self.has_news(wanted).then_some(Purpose::Write);
        }
        reread
    }

    fn reread(&self, due: Due) -> Option<Purpose> {
        // No other process writes to the tier of this machine. But it may have been replaced, or
        // more of it may open with other keys.
        let is_disturbed = matches!(due, Due::Verify | Due::Compare(Reason::Reconnected));
        let is_known = self.settings.tier == Tier::Local
            && self.report.get().read == ReadState::Loaded
            && !is_disturbed;
        (!is_known).then_some(Purpose::Tell)
    }

    fn after_read(
        &mut self,
        part: Part<T::Call, Option<super::judge::Reading>>,
        at: &Moment,
    ) -> Progress<T::Call> {
        let reading = match part {
            Part::Call(call) => return Progress::Call(call),
            Part::Done(reading) => reading,
            Part::Overtaken => return self.end(Then::Overtaken(Reason::MarkerChanged)),
        };
        if let Some(reading) = reading {
            self.tell_reading(reading, at);
        }
        let Some(wanted) = self.visit.wanted.clone().filter(|wanted| self.has_news(wanted)) else {
            self.is_pending = false;
            return self.end(Then::Nothing);
        };
        self.visit.phase = Phase::Writing;
        let wanted = confirmed(self.with_held(wanted), at);
        let part = self.tier.write(&wanted, at);
        self.visit.wanted = Some(wanted);
        self.after_write(part, at)
    }

    /// Adds what the local tier holds to the records of all tiers: the manager may not have heard
    /// of it yet.
    fn with_held(&self, wanted: Wanted) -> Wanted {
        match (&wanted.source, self.settings.tier, &self.held) {
            (Source::Tiers(known), Tier::Local, Some(held)) if held.origin == known.origin => {
                let known = known.merged_with(held);
                let (records, confirmed_at) = (known.records.clone(), known.confirmed_at());
                let (records, source) = (Arc::new(records), Source::Tiers(Arc::new(known)));
                Wanted { records, source, confirmed_at, ..wanted }
            }
            (Source::Tiers(_) | Source::Stream, _, _) => wanted,
        }
    }

    fn after_write(&mut self, part: Part<T::Call, Written>, at: &Moment) -> Progress<T::Call> {
        match part {
            Part::Call(call) => Progress::Call(call),
            Part::Overtaken => self.end(Then::Overtaken(Reason::MarkerChanged)),
            Part::Done(written) => {
                self.is_pending = false;
                if let Some(Source::Tiers(known)) =
                    self.visit.wanted.as_ref().map(|wanted| &wanted.source)
                {
                    self.held = Some((**known).clone());
                }
                self.tell_written(written, at);
                self.end(Then::Nothing)
            }
        }
    }

    fn end(&mut self, then: Then) -> Progress<T::Call> {
        self.visit.phase = Phase::Resting;
        let live = self.waiting().live;
        Progress::End(End::Compared { live, doubts: live && self.tier.has_doubts(), then })
    }
}

/// Confirms accepted records at this moment, if the stream is live.
fn confirmed(mut wanted: Wanted, at: &Moment) -> Wanted {
    if wanted.live {
        wanted.confirmed_at = Some(at.wall);
    }
    wanted
}

impl<T: CacheTier> Visits for RecordVisits<T> {
    type Call = T::Call;
    type Answer = T::Answer;
    type Effect = Effect;

    fn waiting(&self) -> Waiting {
        let has_changed = self.wanted.has_changed().unwrap_or(false);
        let live = match self.settings.tier {
            // No other process writes to it, so it may be written at any time.
            Tier::Local => self.is_from_stream(),
            Tier::Shared => {
                let wanted = self.wanted.borrow();
                wanted.as_ref().is_some_and(|it| it.is_from_stream() && it.live)
            }
        };
        Waiting { put: self.is_pending || has_changed, dirty: false, live }
    }

    fn may_write(&self) -> bool {
        // A relay that is not live adds only what is newer than anything stored.
        true
    }

    fn is_second_look_ripe(&self, at: &Moment) -> bool {
        let wanted = self.wanted.borrow();
        let live = wanted.as_ref().filter(|wanted| wanted.live);
        live.is_some_and(|wanted| self.tier.are_doubts_ripe(wanted.heard, at))
    }

    fn not_live(&mut self) {}

    fn begin(&mut self, due: Due, at: &Moment) -> Progress<T::Call> {
        self.is_pending |= self.wanted.has_changed().unwrap_or(false);
        let wanted = self.wanted.borrow_and_update().clone();
        self.visit = Visit { wanted, ..Visit::default() };
        let Some(purpose) = self.purpose(due) else {
            self.is_pending = false;
            return Progress::End(End::Unasked { live: self.waiting().live });
        };
        self.tell_pending();
        self.visit.phase = Phase::Reading(purpose);
        let part = self.tier.read(purpose);
        self.after_read(part, at)
    }

    fn answered(&mut self, answer: T::Answer, at: &Moment) -> Progress<T::Call> {
        match self.visit.phase {
            Phase::Writing => {
                let part = self.tier.write_on(answer, at);
                self.after_write(part, at)
            }
            Phase::Reading(_) | Phase::Resting => {
                let part = self.tier.read_on(answer, at);
                self.after_read(part, at)
            }
        }
    }

    fn waited(&mut self, _at: &Moment) -> Progress<T::Call> {
        self.end(Then::Nothing)
    }

    fn ended(&mut self, _in_doubt: bool, _at: &Moment) {}

    fn failed(&mut self, _due: Due, error: &StoreError, _at: &Moment) -> bool {
        self.tier.failed();
        match self.visit.phase {
            Phase::Reading(Purpose::Tell) => self.tell_failed_read(error),
            Phase::Reading(Purpose::Write) | Phase::Writing | Phase::Resting => {
                self.is_pending = true;
                self.tell_failed_write(error);
            }
        }
        self.visit.phase = Phase::Resting;
        false
    }

    fn report(&mut self, _in_doubt: bool) {
        self.tell_pending();
    }

    fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    fn is_much(&self, _answer: Option<&T::Answer>) -> bool {
        // Some thousand records at most, and sealed text is opened in microseconds.
        false
    }
}

#[cfg(test)]
#[path = "visits_tests.rs"]
mod tests;
