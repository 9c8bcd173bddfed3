//! Decides which batch is sent when, and what becomes of those that cannot be sent. Pure.
//!
//! Each destination has a line of its own, so that a refused key holds up nobody else. A line that
//! fails is tried again with growing pauses, by one batch at a time; meanwhile its batches go to the
//! spool, from which they come back once LaunchDarkly takes events again. Without a spool they stay
//! in memory, within the budget.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::batch::Batch;
use super::outcome::Outcome;
use super::post::Destination;

/// Most requests to LaunchDarkly at a time, in all and of one line.
const SENDING_MAX: usize = 16;
const LINE_SENDING_MAX: usize = 4;

/// Shortest time between two requests of a line that works off what waited: 20 batches a second.
const DRAIN_PAUSE: Duration = Duration::from_millis(50);

/// Pauses after failures in a row.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Pauses while LaunchDarkly refuses the key. A new key ends them.
const REFUSED_PAUSE_MIN: Duration = Duration::from_secs(30);
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(600);

/// Pause after the spool could not be read.
const SPOOL_PAUSE: Duration = Duration::from_secs(30);

/// Attempts of a batch that LaunchDarkly calls invalid (400): a broken proxy answers so as well.
const INVALID_MAX: u32 = 2;

/// Bytes that a batch takes beside its events, roughly.
const OVERHEAD_BYTES: usize = 256;

/// A stored part of a line.
pub type SegmentId = u64;

/// Something to be done. In this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send this batch, and tell how it went.
    Send(Batch),
    /// Write these batches, which are older than what was written before, or newer.
    Spool(Destination, Vec<Batch>),
    /// Read the oldest segment of this line.
    Load(Destination),
    /// Everything in this segment is sent.
    Delete(SegmentId),
    /// This batch is lost.
    Lose(Batch, Loss),
    /// Split this batch, which is too large for LaunchDarkly, and add the parts.
    Split(Batch),
}

/// Why a batch is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// LaunchDarkly calls it invalid.
    Invalid,
    /// It is a single event, and too large for LaunchDarkly.
    TooLarge,
    /// There was no room for it.
    NoRoom,
}

/// Whether LaunchDarkly takes the events of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It does.
    Well,
    /// It cannot be reached, or is out of order.
    Failing,
    /// It refuses the credential, with this status.
    Refused(u16),
}

/// All lines.
#[derive(Debug)]
pub struct Lines {
    lines: BTreeMap<Destination, Line>,
    has_spool: bool,
    /// Largest number of bytes in memory.
    bytes_max: usize,
    bytes: usize,
    sending: usize,
}

#[derive(Debug)]
struct Line {
    condition: Condition,
    /// Failures in a row.
    failures: u32,
    /// Nothing is sent before this.
    not_before: Option<Instant>,
    sending: usize,
    /// Requests that may be open at a time.
    sending_max: usize,
    /// Batches in memory only.
    fresh: VecDeque<Batch>,
    /// A segment of the spool.
    loaded: Option<Loaded>,
    /// True while a segment is being read.
    is_loading: bool,
    /// True if the spool may hold more.
    has_spooled: bool,
}

#[derive(Debug)]
struct Loaded {
    segment: SegmentId,
    waiting: VecDeque<Batch>,
    /// Batches of it that are being sent.
    sending: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            condition: Condition::Well,
            failures: 0,
            not_before: None,
            sending: 0,
            sending_max: LINE_SENDING_MAX,
            fresh: VecDeque::new(),
            loaded: None,
            is_loading: false,
            has_spooled: false,
        }
    }
}

impl Line {
    fn is_idle(&self) -> bool {
        self.sending == 0
            && self.fresh.is_empty()
            && self.loaded.is_none()
            && !self.is_loading
            && !self.has_spooled
            && self.condition == Condition::Well
    }

    /// The next batch.
    fn take(&mut self) -> Option<Batch> {
        if let Some(loaded) = &mut self.loaded
            && let Some(batch) = loaded.waiting.pop_front()
        {
            loaded.sending += 1;
            return Some(batch);
        }
        // What is in the spool is older.
        if self.has_spooled || self.is_loading {
            return None;
        }
        self.fresh.pop_front()
    }

    fn has_waiting(&self) -> bool {
        let loaded = self.loaded.as_ref().is_some_and(|it| !it.waiting.is_empty());
        loaded || (!self.fresh.is_empty() && !self.has_spooled && !self.is_loading)
    }
}

impl Lines {
    /// Lines without batches and without a spool.
    pub fn new(bytes_max: usize) -> Self {
        Self { lines: BTreeMap::new(), has_spool: false, bytes_max, bytes: 0, sending: 0 }
    }

    /// Uses a spool, which holds batches of these destinations from an earlier run.
    pub fn open_spool(&mut self, destinations: impl IntoIterator<Item = Destination>) {
        self.has_spool = true;
        for destination in destinations {
            self.lines.entry(destination).or_default().has_spooled = true;
        }
    }

    /// True while a request is open.
    pub fn is_sending(&self) -> bool {
        self.sending > 0
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a batch.
    pub fn add(&mut self, batch: Batch) -> Vec<Effect> {
        let destination = batch.destination.clone();
        let line = self.lines.entry(destination.clone()).or_default();
        if self.has_spool && (line.condition != Condition::Well || line.has_spooled) {
            line.has_spooled = true;
            return vec![Effect::Spool(destination, vec![batch])];
        }
        self.keep(batch)
    }

    /// Keeps a batch in memory, if there is room; else it goes to the spool with all that waits in
    /// its line.
    fn keep(&mut self, batch: Batch) -> Vec<Effect> {
        let line = self.lines.entry(batch.destination.clone()).or_default();
        let bytes = size(&batch);
        if self.bytes + bytes <= self.bytes_max {
            self.bytes += bytes;
            line.fresh.push_back(batch);
            return Vec::new();
        }
        if !self.has_spool {
            return vec![Effect::Lose(batch, Loss::NoRoom)];
        }
        let destination = batch.destination.clone();
        let mut batches = self.unload(&destination);
        batches.push(batch);
        vec![Effect::Spool(destination, batches)]
    }

    /// Takes what is in memory only out of a line that has a spool.
    fn unload(&mut self, destination: &Destination) -> Vec<Batch> {
        let Some(line) = self.lines.get_mut(destination) else { return Vec::new() };
        line.has_spooled = true;
        let batches: Vec<Batch> = line.fresh.drain(..).collect();
        self.bytes -= batches.iter().map(size).sum::<usize>();
        batches
    }

    /// Takes batches that the spool could not write.
    pub fn not_spooled(&mut self, batches: Vec<Batch>) -> Vec<Effect> {
        let mut effects = Vec::new();
        for batch in batches {
            let bytes = size(&batch);
            if self.bytes + bytes > self.bytes_max {
                effects.push(Effect::Lose(batch, Loss::NoRoom));
                continue;
            }
            self.bytes += bytes;
            let line = self.lines.entry(batch.destination.clone()).or_default();
            line.fresh.push_back(batch);
        }
        effects
    }

    /// Takes the oldest segment of a line; `None` if the spool holds none.
    pub fn loaded(&mut self, destination: &Destination, found: Option<(SegmentId, Vec<Batch>)>) {
        let Some(line) = self.lines.get_mut(destination) else { return };
        line.is_loading = false;
        match found {
            Some((segment, batches)) => {
                self.bytes += batches.iter().map(size).sum::<usize>();
                line.loaded = Some(Loaded { segment, waiting: batches.into(), sending: 0 });
            }
            None => line.has_spooled = false,
        }
    }

    /// Notes that the spool could not be read.
    pub fn not_loaded(&mut self, destination: &Destination, now: Instant) {
        if let Some(line) = self.lines.get_mut(destination) {
            line.is_loading = false;
            line.not_before = Some(now + SPOOL_PAUSE);
        }
    }

    /// What is to be done now.
    pub fn next(&mut self, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut is_any_loaded =
            self.lines.values().any(|line| line.loaded.is_some() || line.is_loading);
        for (destination, line) in &mut self.lines {
            if let Some(loaded) = &line.loaded
                && loaded.waiting.is_empty()
                && loaded.sending == 0
            {
                effects.push(Effect::Delete(loaded.segment));
                line.loaded = None;
            }
            let is_paused = line.not_before.is_some_and(|at| now < at);
            let may_load = line.loaded.is_none() && line.has_spooled && !line.is_loading;
            // One segment is always in memory: otherwise what is full might stay full.
            let has_room = self.bytes < self.bytes_max || !is_any_loaded;
            if may_load && !is_paused && has_room {
                (line.is_loading, is_any_loaded) = (true, true);
                effects.push(Effect::Load(destination.clone()));
            }
            while self.sending < SENDING_MAX
                && line.sending < line.sending_max
                && line.not_before.is_none_or(|at| now >= at)
                && let Some(batch) = line.take()
            {
                line.sending += 1;
                self.sending += 1;
                line.not_before = line.loaded.is_some().then(|| now + DRAIN_PAUSE);
                effects.push(Effect::Send(batch));
            }
        }
        self.lines.retain(|_, line| !line.is_idle());
        effects
    }

    /// Time at which something may be to be done although nothing happens. What could be done before
    /// `now` was done by [`Self::next`], or waits for something else.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let is_waiting = |line: &&Line| line.has_waiting() || line.has_spooled;
        let due = self.lines.values().filter(is_waiting).filter_map(|line| line.not_before);
        due.filter(|at| *at > now).min()
    }

    /// Takes the outcome of an attempt. Returns the condition of the line if it has changed, and
    /// what follows. `random` is from 0 to 1.
    pub fn done(
        &mut self,
        batch: Batch,
        outcome: Outcome,
        now: Instant,
        random: f64,
    ) -> (Option<Condition>, Vec<Effect>) {
        let destination = batch.destination.clone();
        let mut effects = Vec::new();
        self.sending = self.sending.saturating_sub(1);
        let line = self.lines.entry(destination.clone()).or_default();
        line.sending = line.sending.saturating_sub(1);
        let is_loaded = batch.is_spooled;
        if let Some(loaded) = line.loaded.as_mut().filter(|_| is_loaded) {
            loaded.sending = loaded.sending.saturating_sub(1);
        }
        let condition = match &outcome {
            Outcome::Delivered | Outcome::TooLarge | Outcome::Invalid => Condition::Well,
            Outcome::Failed { .. } => Condition::Failing,
            Outcome::Refused(status) => Condition::Refused(*status),
        };
        let news = (condition != line.condition).then_some(condition);
        line.condition = condition;
        if condition == Condition::Well {
            line.failures = 0;
            line.sending_max = (line.sending_max + 1).min(LINE_SENDING_MAX);
        } else {
            line.failures = line.failures.saturating_add(1);
            line.sending_max = 1;
            line.not_before = Some(now + pause(line.failures, &outcome, random));
        }
        let bytes = size(&batch);
        let again = match outcome {
            Outcome::Delivered => None,
            Outcome::TooLarge if batch.count > 1 => {
                effects.push(Effect::Split(batch));
                None
            }
            Outcome::TooLarge => {
                effects.push(Effect::Lose(batch, Loss::TooLarge));
                None
            }
            Outcome::Invalid if batch.invalid + 1 >= INVALID_MAX => {
                effects.push(Effect::Lose(batch, Loss::Invalid));
                None
            }
            Outcome::Invalid => {
                line.not_before = Some(now + PAUSE_MIN);
                Some(Batch { invalid: batch.invalid + 1, ..batch })
            }
            Outcome::Failed { .. } | Outcome::Refused(_) => Some(batch),
        };
        let Some(batch) = again else {
            self.bytes -= bytes;
            return (news, effects);
        };
        match line.loaded.as_mut().filter(|_| is_loaded) {
            Some(loaded) => loaded.waiting.push_front(batch),
            None => line.fresh.push_front(batch),
        }
        if self.has_spool && condition != Condition::Well && !is_loaded {
            let batches = self.unload(&destination);
            effects.push(Effect::Spool(destination, batches));
        }
        (news, effects)
    }

    /// Notes that a credential has changed: what was refused may be accepted.
    pub fn credential_changed(&mut self, destination: &Destination) {
        if let Some(line) = self.lines.get_mut(destination)
            && matches!(line.condition, Condition::Refused(_))
        {
            line.not_before = None;
        }
    }

    /// Takes everything that is in memory only: the process ends.
    pub fn rest(&mut self) -> Vec<(Destination, Vec<Batch>)> {
        let all: Vec<Destination> = self.lines.keys().cloned().collect();
        let rest = all.into_iter().map(|destination| {
            let batches = self.unload(&destination);
            (destination, batches)
        });
        rest.filter(|(_, batches)| !batches.is_empty()).collect()
    }
}

/// Bytes that a batch takes in memory.
fn size(batch: &Batch) -> usize {
    batch.gzip.len() + OVERHEAD_BYTES
}

/// Pause after so many failures in a row, spread so that relays do not come back together.
fn pause(failures: u32, outcome: &Outcome, random: f64) -> Duration {
    let (min, max, demanded) = match outcome {
        Outcome::Refused(_) => (REFUSED_PAUSE_MIN, REFUSED_PAUSE_MAX, None),
        Outcome::Failed { retry_after } => (PAUSE_MIN, PAUSE_MAX, *retry_after),
        Outcome::Delivered | Outcome::TooLarge | Outcome::Invalid => (PAUSE_MIN, PAUSE_MIN, None),
    };
    let doubled = min.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(max);
    let spread = doubled.mul_f64(0.5 + random / 2.0);
    demanded.map_or(spread, |demanded| demanded.min(REFUSED_PAUSE_MAX).max(spread))
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;
