//! The task of one tier of the cache: reads it while the stream is not live, and keeps it equal
//! to what was accepted once it is.
//!
//! Nothing here is on the path of events: what is wanted arrives over a watch, of which only the
//! newest value counts, so that a slow database costs neither memory nor order.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::report::{ReadState, SharedReport};
use super::shared_tier::{Reading, Written};
use crate::autoconfig::record_set::{CachedSet, RecordSet};
use crate::autoconfig::startup_race::{CacheOutcome, Tier};
use crate::backoff::Backoff;
use crate::telemetry::Chain;

/// Bound on one read or write of a whole tier; single calls have budgets of their own below it.
const PASS_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause before a failed read or write is tried again.
const RETRY: Backoff = Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(15) };

/// Pause between reads of a tier that answered, while the stream is not live: a peer may have
/// written something newer.
const REREAD: Duration = Duration::from_secs(15);

/// Pause before the second look at records that are not ours (design D28).
const SECOND_LOOK: Duration = Duration::from_secs(5);

/// What a tier must be able to do. Implemented for the shared database and for the local store.
pub trait TierAccess: Send + 'static {
    /// Reads the environments.
    fn read(&mut self) -> impl Future<Output = Result<Reading, TierError>> + Send;

    /// Makes the tier hold the records, as confirmed at a moment.
    fn write(&mut self, wanted: &Wanted)
    -> impl Future<Output = Result<Written, TierError>> + Send;

    /// Whether a second look at the tier is due some seconds after the last write.
    fn needs_second_look(&self) -> bool;

    /// Waits until something suggests that the tier has lost its content or must be sealed anew:
    /// a new connection to the database, a changed key. Must be cancel-safe.
    fn disturbed(&mut self) -> impl Future<Output = ()> + Send;
}

/// Why a tier could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct TierError(#[from] pub Box<dyn std::error::Error + Send + Sync>);

/// What the tier shall hold.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The accepted records.
    pub records: Arc<RecordSet>,
    /// When LaunchDarkly last confirmed them.
    pub confirmed_at: SystemTime,
    /// Whether the stream is live. Repairs wait for that; accepted changes do not.
    pub live: bool,
}

/// How a tier is kept.
#[derive(Clone, Debug)]
pub struct KeeperSettings {
    /// Which tier this is.
    pub tier: Tier,
    /// Cached environments older than this are refused.
    pub age_max: Option<Duration>,
    /// Pause between looks for lost content; `None` looks only when something suggests it.
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
        Self { settings, access, wanted, results, report }
    }

    /// Runs until it is told to stop.
    pub async fn run(mut self, cancel: CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = self.read_until_wanted() => {}
        }
        self.write_what_is_wanted(cancel).await;
    }

    /// Reads again and again until the stream has delivered. Dropped at any await without harm:
    /// it only reads.
    async fn read_until_wanted(&mut self) {
        let mut wanted = self.wanted.clone();
        let reading = async {
            let mut failures = 0;
            loop {
                failures = if self.read_once().await { 0 } else { failures + 1 };
                let pause =
                    if failures == 0 { REREAD } else { RETRY.delay(failures, fastrand::f64()) };
                tokio::time::sleep(pause).await;
            }
        };
        tokio::select! {
            () = reading => {}
            _ = wanted.wait_for(Option::is_some) => {}
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
        let (outcome, state) = self.judge(reading.outcome);
        let before = self.report.get();
        if reading.skipped.total() > 0 && before.skipped != reading.skipped {
            tracing::warn!(
                tier = ?self.settings.tier,
                sealed_under_unknown_keys = reading.skipped.unknown_key,
                altered = reading.skipped.forged,
                undecodable = reading.skipped.undecodable,
                "records of the autoconfig cache cannot be used and are left out"
            );
        }
        if state == ReadState::Unreadable && before.read != state {
            tracing::error!(
                tier = ?self.settings.tier,
                "the autoconfig cache holds records, but none opens with the keys that are \
                 configured; if the key was changed, list the former one in \
                 cachePreviousEncryptionKeys"
            );
        }
        self.report.update(|report| {
            report.read = state;
            report.skipped = reading.skipped;
            report.error = None;
            if let CacheOutcome::Loaded(set) = &outcome {
                report.stamp = set.stamp;
                report.complete = set.complete;
                report.records = set.records.len();
            }
        });
        // The manager outlives its keepers except at the very end.
        let _ = self.results.send((self.settings.tier, outcome)).await;
        true
    }

    async fn read_failed(&mut self, error: String) -> bool {
        if self.report.get().read != ReadState::Unavailable {
            tracing::warn!(
                tier = ?self.settings.tier,
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

    /// Refuses what is too old.
    fn judge(&self, outcome: CacheOutcome<CachedSet>) -> (CacheOutcome<CachedSet>, ReadState) {
        match outcome {
            CacheOutcome::Loaded(set) => {
                let age = set.stamp.and_then(|stamp| stamp.written_at.elapsed().ok());
                if let (Some(age), Some(max)) = (age, self.settings.age_max)
                    && age > max
                {
                    tracing::warn!(
                        tier = ?self.settings.tier,
                        ?age,
                        ?max,
                        "cached environments are older than cacheMaxAge allows and are not used"
                    );
                    return (CacheOutcome::Unavailable, ReadState::TooOld);
                }
                (CacheOutcome::Loaded(set), ReadState::Loaded)
            }
            CacheOutcome::Empty => (CacheOutcome::Empty, ReadState::Empty),
            CacheOutcome::Unavailable => (CacheOutcome::Unavailable, ReadState::Unavailable),
            CacheOutcome::Unreadable => (CacheOutcome::Unreadable, ReadState::Unreadable),
        }
    }

    async fn write_what_is_wanted(&mut self, cancel: CancellationToken) {
        let mut dirty = true;
        let mut failures = 0;
        self.wanted.mark_changed();
        loop {
            let retry = match (dirty, failures) {
                (true, 1..) => Some(RETRY.delay(failures, fastrand::f64())),
                (true, 0) => Some(Duration::ZERO),
                (false, _) if self.access.needs_second_look() => Some(SECOND_LOOK),
                (false, _) => None,
            };
            let repair = tokio::select! {
                biased;
                () = cancel.cancelled() => return self.last_write(dirty).await,
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    failures = 0;
                    false
                }
                () = sleep_if(retry) => false,
                () = self.access.disturbed() => true,
                () = sleep_if(self.settings.check_interval.map(jittered)) => true,
            };
            let Some(wanted) = self.wanted.borrow_and_update().clone() else { continue };
            // What was accepted is written even if the stream has died meanwhile; repairs are
            // made only by a relay that knows what is true at this moment (design D26).
            if repair && !wanted.live {
                continue;
            }
            self.report.update(|report| report.write_pending = true);
            let wanted = confirmed(wanted);
            dirty = !self.write_once(&wanted, failures).await;
            failures = if dirty { failures + 1 } else { 0 };
        }
    }

    /// Writes once more before the end, within a bound.
    async fn last_write(&mut self, dirty: bool) {
        let wanted = self.wanted.borrow().clone();
        if dirty && let Some(wanted) = wanted {
            let _ = tokio::time::timeout(Duration::from_secs(2), self.write_once(&wanted, 0)).await;
        }
    }

    async fn write_once(&mut self, wanted: &Wanted, failures: u32) -> bool {
        let error = match tokio::time::timeout(PASS_TIMEOUT, self.access.write(wanted)).await {
            Ok(Ok(written)) => {
                self.written(&written, wanted);
                return true;
            }
            Ok(Err(error)) => Chain(&error).to_string(),
            Err(_) => "it did not answer in time".to_owned(),
        };
        if failures == 0 {
            tracing::warn!(
                tier = ?self.settings.tier,
                error,
                "accepted environments could not be written to the autoconfig cache; trying again \
                 in the background"
            );
        }
        self.report.update(|report| report.error = Some(error));
        false
    }

    fn written(&self, written: &Written, wanted: &Wanted) {
        let before = self.report.get();
        if written.too_large != before.too_large && !written.too_large.is_empty() {
            tracing::error!(
                tier = ?self.settings.tier,
                records = ?written.too_large,
                "these records are larger than the database allows and are not cached there"
            );
        }
        if before.error.is_some() {
            tracing::info!(tier = ?self.settings.tier, "autoconfig cache is written again");
        }
        tracing::debug!(tier = ?self.settings.tier, rows = written.rows, "autoconfig cache is up to date");
        self.report.update(|report| {
            report.write_pending = false;
            report.last_write = Some(SystemTime::now());
            report.records = written.records;
            report.too_large.clone_from(&written.too_large);
            report.error = None;
            report.complete = true;
            if let Some(stamp) = &mut report.stamp {
                stamp.written_at = wanted.confirmed_at;
            }
        });
    }
}

/// While the stream is live, what was accepted is confirmed at every moment.
fn confirmed(mut wanted: Wanted) -> Wanted {
    if wanted.live {
        wanted.confirmed_at = SystemTime::now();
    }
    wanted
}

async fn sleep_if(pause: Option<Duration>) {
    match pause {
        Some(pause) if pause.is_zero() => {}
        Some(pause) => tokio::time::sleep_until(Instant::now() + pause).await,
        None => std::future::pending().await,
    }
}

/// Three quarters to five quarters of a pause, so that relays do not look all at once.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.75 + 0.5 * fastrand::f64())
}
