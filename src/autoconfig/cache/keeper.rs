//! The task of one tier of the cache: reads it until the stream has delivered, adds what the other
//! tier knew, and keeps it equal to what was accepted once the stream has delivered.
//!
//! Nothing here is on the path of events: what is wanted arrives over a watch, of which only the
//! newest value counts, so that a slow database costs neither memory nor order.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::codec::Skipped;
use super::judge::Reading;
use super::report::{ReadState, SharedReport};
use super::schedule::{Due, RETRY, STREAM_LAG, Schedule, jittered};
use super::shared_tier::Written;
use crate::autoconfig::record_set::{CachedSet, RecordSet, SetOrigin};
use crate::autoconfig::startup_race::{CacheOutcome, Tier};
use crate::telemetry::{Chain, Rounded};

/// Bound on one read or write of a whole tier; single calls have budgets of their own below it.
const PASS_TIMEOUT: Duration = Duration::from_secs(30);

/// Bound on the last write before the end of the process.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause between reads of the shared tier while the stream is not live: a peer may have written
/// something newer.
const REREAD: Duration = Duration::from_secs(15);

/// What a tier must be able to do. Implemented for the shared database and for the local store.
pub trait TierAccess: Send + 'static {
    /// Reads the environments.
    fn read(&mut self) -> impl Future<Output = Result<Reading, TierError>> + Send;

    /// Makes the tier hold the records, as confirmed at a moment.
    fn write(&mut self, wanted: &Wanted)
    -> impl Future<Output = Result<Written, TierError>> + Send;

    /// Since when the oldest of the records waits for a second look that are not what was wanted
    /// at the last write; `None` without any.
    fn doubts_since(&self) -> Option<Instant>;

    /// Waits until something suggests that the tier has lost its content or must be sealed anew:
    /// a new connection to the database, a changed key. Tells of each such thing once. Must be
    /// cancel-safe.
    fn disturbed(&mut self) -> impl Future<Output = ()> + Send;
}

/// Why a tier could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct TierError(#[from] pub Box<dyn std::error::Error + Send + Sync>);

/// Where the knowledge comes from that a tier shall hold.
#[derive(Clone, Debug)]
pub enum Source {
    /// From the stream: what LaunchDarkly said.
    Stream,
    /// From all tiers together, before the stream has delivered: what one tier knows is added to
    /// the other, so that the next start does not depend on both (design D50).
    Tiers(Arc<CachedSet>),
}

/// What the tier shall hold.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The accepted records.
    pub records: Arc<RecordSet>,
    /// When LaunchDarkly last confirmed them, if that is known.
    pub confirmed_at: Option<SystemTime>,
    /// Where they come from.
    pub source: Source,
    /// Whether the stream is live. Repairs of what relays share wait for that.
    pub live: bool,
    /// When the stream last delivered anything. Whoever stored something else than these records
    /// well before that moment, and still does, knows no better than this relay.
    pub heard_at: Instant,
}

impl Wanted {
    /// What all tiers together know.
    pub fn learnt(known: Arc<CachedSet>, now: Instant) -> Self {
        Self {
            records: Arc::new(known.records.clone()),
            confirmed_at: known.confirmed_at(),
            source: Source::Tiers(known),
            live: false,
            heard_at: now,
        }
    }

    fn is_from_stream(&self) -> bool {
        matches!(self.source, Source::Stream)
    }

    /// Whether these are ld-relay's records that LaunchDarkly has not confirmed.
    pub(super) fn is_adopted(&self) -> bool {
        matches!(&self.source, Source::Tiers(known) if known.origin == SetOrigin::Adopted)
    }
}

/// How a tier is kept.
#[derive(Clone, Debug)]
pub struct KeeperSettings {
    /// Which tier this is.
    pub tier: Tier,
    /// Cached environments older than this are refused.
    pub age_max: Option<Duration>,
    /// Pause between looks for lost content; `None` looks when something suggests it, and when
    /// the age of the set is to be confirmed.
    pub check_interval: Option<Duration>,
}

/// The task of one tier.
#[derive(Debug)]
pub struct Keeper<A> {
    settings: KeeperSettings,
    access: A,
    wanted: watch::Receiver<Option<Wanted>>,
    results: mpsc::Sender<(Tier, CacheOutcome<CachedSet>)>,
    report: SharedReport,
    /// What the tier holds, as far as it could be read.
    held: Option<CachedSet>,
}

impl<A: TierAccess> Keeper<A> {
    /// A keeper that reads for `results` until something is wanted, and then writes that.
    pub fn new(
        settings: KeeperSettings,
        access: A,
        wanted: watch::Receiver<Option<Wanted>>,
        results: mpsc::Sender<(Tier, CacheOutcome<CachedSet>)>,
        report: SharedReport,
    ) -> Self {
        Self { settings, access, wanted, results, report, held: None }
    }

    /// Runs until it is told to stop.
    pub async fn run(mut self, cancel: CancellationToken) {
        // What has arrived is written even if the end comes at the same moment.
        tokio::select! {
            biased;
            () = self.read_until_wanted() => {}
            () = cancel.cancelled() => return,
        }
        self.write_what_is_wanted(cancel).await;
    }

    /// Reads again and again until the stream has delivered. Dropped at any await without harm:
    /// a write that is cut off is repeated with what the stream has delivered.
    async fn read_until_wanted(&mut self) {
        let mut wanted = self.wanted.clone();
        let reading = async {
            let mut failures = 0;
            loop {
                failures = if self.read_once().await { 0 } else { failures + 1 };
                let is_loaded = self.report.get().read == ReadState::Loaded;
                let pause = match (failures, self.settings.tier) {
                    (1.., _) => Some(RETRY.delay(failures, fastrand::f64())),
                    // Nobody else writes to it.
                    (0, Tier::Local) if is_loaded => None,
                    (0, Tier::Local | Tier::Shared) => Some(jittered(REREAD, fastrand::f64())),
                };
                let mut next = pause.map(|pause| Instant::now() + pause);
                self.wanted.mark_changed();
                loop {
                    tokio::select! {
                        biased;
                        Ok(()) = self.wanted.changed() => {
                            if !self.learn().await {
                                next = Some(Instant::now() + jittered(REREAD, fastrand::f64()));
                            }
                        }
                        () = self.access.disturbed() => break,
                        () = sleep_until_if(next) => break,
                    }
                }
            }
        };
        tokio::select! {
            () = reading => {}
            _ = wanted.wait_for(|wanted| wanted.as_ref().is_some_and(Wanted::is_from_stream)) => {}
        }
    }

    /// Adds what the other tier knows. Returns whether that is done, or need not be done.
    async fn learn(&mut self) -> bool {
        let Some(wanted) = self.wanted.borrow_and_update().clone() else { return true };
        let (Source::Tiers(known), Some(held)) = (&wanted.source, &self.held) else { return true };
        let has_news = match self.settings.tier {
            // Its age may be confirmed too, and nothing is read for it.
            Tier::Local => true,
            Tier::Shared => known.origin == SetOrigin::Own && held.lacks(&wanted.records),
        };
        if !has_news {
            return true;
        }
        let known = known.clone();
        match self.write_once(&wanted).await {
            Ok(()) => {
                self.held = Some((*known).clone());
                true
            }
            Err(error) => {
                self.write_failed(error, false);
                false
            }
        }
    }

    /// Reads the tier and reports. Returns whether it answered.
    async fn read_once(&mut self) -> bool {
        let reading = match tokio::time::timeout(PASS_TIMEOUT, self.access.read()).await {
            Ok(Ok(reading)) => reading,
            Ok(Err(error)) => {
                let error = Chain(&error).to_string();
                return self.read_failed(error).await;
            }
            Err(_) => return self.read_failed("it did not answer in time".to_owned()).await,
        };
        self.held = match &reading.outcome {
            CacheOutcome::Loaded(set) => Some(set.clone()),
            CacheOutcome::Empty => Some(CachedSet::default()),
            CacheOutcome::Unavailable | CacheOutcome::Unreadable => None,
        };
        let (outcome, state) = self.judge(reading.outcome);
        self.tell(state, reading.skipped);
        self.report.update(|report| {
            report.read = state;
            report.skipped = reading.skipped;
            report.error = None;
            let set = match &outcome {
                CacheOutcome::Loaded(set) => Some(set),
                CacheOutcome::Empty | CacheOutcome::Unavailable | CacheOutcome::Unreadable => None,
            };
            report.stamp = set.and_then(|set| set.stamp);
            report.complete = set.is_some_and(|set| set.complete);
            report.records = set.map_or(0, |set| set.records.len());
        });
        // The manager outlives its keepers except at the very end.
        let _ = self.results.send((self.settings.tier, outcome)).await;
        true
    }

    /// Tells an operator of what is new about a tier that was read.
    fn tell(&self, state: ReadState, skipped: Skipped) {
        let before = self.report.get();
        if skipped.total() > 0 && before.skipped != skipped {
            tracing::warn!(
                tier = %self.settings.tier,
                sealed_under_unknown_keys = skipped.unknown_key,
                altered = skipped.forged,
                undecodable = skipped.undecodable,
                "records of the autoconfig cache cannot be used and are left out"
            );
        }
        if skipped.rolled_back > before.skipped.rolled_back {
            tracing::warn!(
                tier = %self.settings.tier,
                records = skipped.rolled_back,
                "the autoconfig cache holds records that are older than its manifest says: they \
                 were put back, and are not used. Their keys get 503 until LaunchDarkly answers. \
                 Check who can write to this store"
            );
        }
        if before.read == state {
            return;
        }
        match state {
            ReadState::Unreadable if skipped.total() == 0 => tracing::warn!(
                tier = %self.settings.tier,
                "the file of the local store was set aside, so it is not known which environments \
                 were stored in it; keys get 503 until LaunchDarkly or the shared cache tells"
            ),
            ReadState::Unreadable => tracing::error!(
                tier = %self.settings.tier,
                "the autoconfig cache holds records, but none opens with the keys that are \
                 configured; if the key was changed, list the former one in \
                 cachePreviousEncryptionKeys"
            ),
            ReadState::TooOld => tracing::warn!(
                tier = %self.settings.tier,
                max = %self.settings.age_max.map_or_else(|| "none".to_owned(), |max| Rounded(max).to_string()),
                "cached environments are older than cacheMaxAge allows, or their age is not \
                 known; they are not used"
            ),
            ReadState::Reading | ReadState::Loaded | ReadState::Empty | ReadState::Unavailable => {}
        }
    }

    async fn read_failed(&mut self, error: String) -> bool {
        if self.report.get().read != ReadState::Unavailable {
            tracing::warn!(
                tier = %self.settings.tier,
                error,
                "the autoconfig cache cannot be read; trying again in the background"
            );
        }
        self.report.update(|report| {
            report.read = ReadState::Unavailable;
            report.error = Some(error);
        });
        let _ = self.results.send((self.settings.tier, CacheOutcome::Unavailable)).await;
        false
    }

    /// Refuses what is too old, or may be.
    fn judge(&self, outcome: CacheOutcome<CachedSet>) -> (CacheOutcome<CachedSet>, ReadState) {
        match outcome {
            CacheOutcome::Loaded(mut set) => {
                let had_any = !set.records.environments.is_empty();
                if let Some(max) = self.settings.age_max {
                    for name in std::mem::take(&mut set.unvouched) {
                        set.complete = false;
                        set.records.remove(&name);
                    }
                    let is_young = set.confirmed_at().is_some_and(|at| {
                        // By a clock ahead of ours it was written in the future: young.
                        at.elapsed().map_or(true, |age| age <= max)
                    });
                    let is_left = !had_any || !set.records.environments.is_empty();
                    if !is_young || !is_left {
                        return (CacheOutcome::Unavailable, ReadState::TooOld);
                    }
                }
                let state = if had_any { ReadState::Loaded } else { ReadState::Empty };
                (CacheOutcome::Loaded(set), state)
            }
            CacheOutcome::Empty => (CacheOutcome::Empty, ReadState::Empty),
            CacheOutcome::Unavailable => (CacheOutcome::Unavailable, ReadState::Unavailable),
            CacheOutcome::Unreadable => (CacheOutcome::Unreadable, ReadState::Unreadable),
        }
    }

    async fn write_what_is_wanted(&mut self, cancel: CancellationToken) {
        let mut schedule = Schedule::new(self.settings.check_interval, Instant::now());
        let mut complained = false;
        self.wanted.mark_changed();
        loop {
            let (due_at, due) = schedule.next();
            let due = tokio::select! {
                biased;
                () = cancel.cancelled() => return self.last_write(schedule.is_dirty()).await,
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    schedule.hurry(Instant::now());
                    Due::Write
                }
                () = self.access.disturbed() => {
                    if schedule.is_dirty() {
                        schedule.hurry(Instant::now());
                    }
                    Due::Check
                }
                () = tokio::time::sleep_until(due_at) => due,
            };
            let Some(wanted) = self.wanted.borrow_and_update().clone() else { continue };
            if !schedule.is_dirty() && !self.is_time_to(due, &wanted) {
                schedule.skipped(Instant::now(), fastrand::f64(), due);
                continue;
            }
            if schedule.is_dirty() {
                self.report.update(|report| report.write_pending = true);
            }
            match self.write_once(&confirmed(wanted)).await {
                Ok(()) => {
                    complained = false;
                    let doubts = self.access.doubts_since().is_some();
                    schedule.succeeded(Instant::now(), fastrand::f64(), doubts);
                }
                Err(error) => {
                    self.write_failed(error, complained);
                    complained = true;
                    schedule.failed(Instant::now(), fastrand::f64());
                }
            }
        }
    }

    /// Whether a visit without anything new is in order. What relays share is repaired only by
    /// one that knows what is true at this moment (design D26), and only if its stream has shown
    /// for long enough since the first look that it is not stuck. The tier of this machine is nobody else's.
    fn is_time_to(&self, due: Due, wanted: &Wanted) -> bool {
        match (self.settings.tier, due) {
            (Tier::Local, Due::Write | Due::Check | Due::SecondLook) => true,
            (Tier::Shared, Due::Write | Due::Check) => wanted.live,
            (Tier::Shared, Due::SecondLook) => {
                let since = self.access.doubts_since();
                wanted.live && since.is_some_and(|since| wanted.heard_at >= since + STREAM_LAG)
            }
        }
    }

    /// Writes once more before the end, within a bound.
    async fn last_write(&mut self, dirty: bool) {
        let is_news = self.wanted.has_changed().unwrap_or(false);
        let wanted = self.wanted.borrow().clone();
        if (dirty || is_news)
            && let Some(wanted) = wanted
            && let Ok(Err(error)) =
                tokio::time::timeout(LAST_WRITE_TIMEOUT, self.write_once(&confirmed(wanted))).await
        {
            self.write_failed(error, false);
        }
    }

    async fn write_once(&mut self, wanted: &Wanted) -> Result<(), String> {
        match tokio::time::timeout(PASS_TIMEOUT, self.access.write(wanted)).await {
            Ok(Ok(written)) => {
                self.written(written);
                Ok(())
            }
            Ok(Err(error)) => Err(Chain(&error).to_string()),
            Err(_) => Err("it did not answer in time".to_owned()),
        }
    }

    fn write_failed(&self, error: String, complained: bool) {
        if !complained {
            tracing::warn!(
                tier = %self.settings.tier,
                error,
                "accepted environments could not be written to the autoconfig cache; trying again \
                 in the background"
            );
        }
        self.report.update(|report| {
            report.read = ReadState::Unavailable;
            // What the tier lacks is not known.
            report.write_pending = true;
            report.error = Some(error);
        });
    }

    fn written(&self, written: Written) {
        let before = self.report.get();
        if written.too_large != before.too_large && !written.too_large.is_empty() {
            tracing::error!(
                tier = %self.settings.tier,
                records = written.too_large.join(", "),
                "these records are larger than the database allows and are not cached there"
            );
        }
        if before.error.is_some() {
            tracing::info!(tier = %self.settings.tier, "autoconfig cache is written again");
        }
        tracing::debug!(tier = %self.settings.tier, rows = written.rows, "autoconfig cache is up to date");
        self.report.update(|report| {
            report.read = if written.records > 0 { ReadState::Loaded } else { ReadState::Empty };
            report.skipped = written.skipped;
            report.stamp = written.stamp;
            report.complete = written.complete;
            report.records = written.records;
            report.write_pending = false;
            report.last_write = Some(SystemTime::now());
            report.too_large = written.too_large;
            report.error = None;
        });
    }
}

/// While the stream is live, what was accepted is confirmed at every moment.
fn confirmed(mut wanted: Wanted) -> Wanted {
    if wanted.live {
        wanted.confirmed_at = Some(SystemTime::now());
    }
    wanted
}

async fn sleep_until_if(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
