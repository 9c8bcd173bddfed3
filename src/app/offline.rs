//! Offline mode: environments and flags from an archive, and nothing from LaunchDarkly.
//!
//! What the archive says of environments is kept in the local store, as their flags are: a relay
//! that finds the archive damaged when it starts serves what it knew before.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::local::Local;
use crate::archive::file::{self, FolderEvents};
use crate::archive::{Archive, ArchiveError, ArchiveState, Look, News, Stamp, Todo};
use crate::autoconfig::records::{self, EnvironmentRecord, Record};
use crate::autoconfig::specs::SpecSettings;
use crate::config::OfflineConfig;
use crate::flagstore::{LocalFlags, LocalFlagsState};
use crate::model::EnvironmentChange;
use crate::source::ArchivedSets;
use crate::storage::local::LocalStore;
use crate::tasks::{TaskGroup, beside, until};
use crate::telemetry::{Chain, Rounded};

/// Space of the local store for the descriptions of environments.
const SPACE: &str = "offline/environments";

/// Shortest time between two looks at the file, however many events there are in its folder.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Pause before the descriptions are written again after a failure.
const KEEP_AGAIN: Duration = Duration::from_secs(10);

/// The archive at the start.
pub(super) type First = Result<(Stamp, Archive), ArchiveError>;

/// The state of the archive, for `/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ArchiveReport {
    /// Time of the last change that is served, in the file system's words.
    pub(super) read: Option<Stamp>,
    /// Why the file cannot be used, if it cannot.
    pub(super) problem: Option<String>,
    /// Environments in the file that cannot be used.
    pub(super) unusable: Vec<String>,
}

/// The connections of the task to the other parts.
pub(super) struct Ends {
    pub(super) sets: watch::Sender<Arc<ArchivedSets>>,
    pub(super) changes: mpsc::Sender<Vec<EnvironmentChange>>,
    pub(super) report: watch::Sender<ArchiveReport>,
}

/// Starts the task that follows the archive, and the one that keeps its descriptions.
pub(super) fn start(
    config: &OfflineConfig,
    settings: SpecSettings,
    first: First,
    ends: Ends,
    local: &Local,
    parts: &mut TaskGroup,
) {
    let (kept_sender, kept) = watch::channel(None);
    let offline = Offline {
        path: config.file.clone(),
        state: ArchiveState::new(settings),
        look: Look::default(),
        ends,
        kept: kept_sender,
        told: None,
    };
    let interval = config.monitoring_interval;
    let flags = local.flags.clone();
    parts.spawn("archive", move |cancel| offline.run(first, interval, flags, cancel));
    let flags = local.flags.clone();
    parts.spawn("archive's environments", move |cancel| async move {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = keep(kept, flags) => {}
        }
    });
}

struct Offline {
    path: PathBuf,
    state: ArchiveState,
    look: Look,
    ends: Ends,
    /// The descriptions that the local store is to hold.
    kept: watch::Sender<Option<Descriptions>>,
    /// The problem that was logged last, which lasts.
    told: Option<String>,
}

/// Names and contents of records.
type Descriptions = Arc<Vec<(String, Vec<u8>)>>;

impl Offline {
    async fn run(
        mut self,
        first: First,
        interval: Duration,
        mut local: watch::Receiver<LocalFlagsState>,
        cancel: CancellationToken,
    ) {
        match first {
            Ok((stamp, archive)) => {
                if !archive.is_whole() {
                    // What it lacks stays as an earlier run knew it.
                    self.recall(&mut local).await;
                }
                self.take(stamp, archive).await;
            }
            Err(error) => {
                self.tell(&Chain(&error).to_string());
                if !self.recall(&mut local).await {
                    tracing::error!(
                        "nothing is known of an earlier archive either; SDKs get 503 until the \
                         archive can be read"
                    );
                }
            }
        }
        let mut events = FolderEvents::of(&self.path)
            .inspect_err(|error| {
                let pause = Rounded(interval);
                tracing::warn!(
                    error = %Chain(error),
                    "no events of the archive's folder; the archive is looked at every {pause}"
                );
            })
            .ok();
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = ticks.tick() => {}
                () = next(&mut events) => {}
                () = until(self.look.due()) => {}
            }
            self.look().await;
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Looks at the file, and reads it if it changed.
    async fn look(&mut self) {
        let path = self.path.clone();
        let found = beside(move || file::stamp(&path)).await;
        let problem = found.as_ref().err().map(|error| Chain(error).to_string());
        let found = found.ok();
        match self.look.at(found, Instant::now()) {
            Todo::Nothing => {}
            Todo::TellMissing => self.tell(&problem.unwrap_or_default()),
            Todo::Read { tell_failure } => {
                let path = self.path.clone();
                match beside(move || file::read(&path)).await {
                    Ok((stamp, archive)) => self.take(stamp, archive).await,
                    Err(error) => {
                        if let Some(stamp) = found {
                            self.look.read(stamp, false, Instant::now());
                        }
                        if tell_failure {
                            self.tell(&Chain(&error).to_string());
                        }
                    }
                }
            }
        }
    }

    /// Takes over what an archive says.
    async fn take(&mut self, stamp: Stamp, archive: Archive) {
        let Some(news) = self.state.on_archive(archive) else {
            self.look.read(stamp, false, Instant::now());
            self.tell("it has no environments, although there were some");
            return;
        };
        self.look.read(stamp, true, Instant::now());
        let News { sets, changes, changed_flags, problems } = news;
        for problem in &problems {
            tracing::error!(
                archive = %self.path.display(),
                environment = problem.environment,
                problem = problem.reason,
                "an environment of the archive cannot be used; {}",
                match problem.is_kept {
                    true => "it is served as it was before",
                    false => "SDKs with keys that the relay does not know get 503",
                }
            );
        }
        tracing::info!(
            archive = %self.path.display(),
            environments = sets.len(),
            changed_flags,
            "the archive was read"
        );
        self.told = None;
        self.ends.report.send_replace(ArchiveReport {
            read: Some(stamp),
            problem: None,
            unusable: problems.into_iter().map(|problem| problem.environment).collect(),
        });
        // The flags first, so that an environment finds its flags when it starts.
        self.ends.sets.send_replace(sets);
        self.change(changes).await;
        let descriptions = self
            .state
            .records()
            .map(|record| (record.id.clone(), records::encode_environment(record).into_bytes()));
        self.kept.send_replace(Some(Arc::new(descriptions.collect())));
    }

    async fn change(&self, changes: Vec<EnvironmentChange>) {
        // Fails only when the process is ending.
        let _ = self.ends.changes.send(changes).await;
    }

    /// Serves what an earlier run knew; false if that is nothing.
    async fn recall(&mut self, local: &mut watch::Receiver<LocalFlagsState>) -> bool {
        let records = match LocalFlagsState::opened(local).await {
            Some(local) => beside(move || recalled(&local)).await,
            None => Vec::new(),
        };
        if records.is_empty() {
            return false;
        }
        tracing::warn!(
            environments = records.len(),
            "serving the environments of an earlier archive until the archive can be read"
        );
        let changes = self.state.recall(records);
        self.change(changes).await;
        true
    }

    /// Logs why the archive cannot be used, once while that lasts.
    fn tell(&mut self, problem: &str) {
        if self.told.as_deref() == Some(problem) {
            return;
        }
        tracing::error!(
            archive = %self.path.display(),
            problem,
            "the archive cannot be used; what was read before stays in use"
        );
        self.told = Some(problem.to_owned());
        // What is served is no longer what the archive says: no other relay's database is corrected
        // by it.
        self.ends.sets.send_modify(|sets| {
            Arc::make_mut(sets).values_mut().for_each(|set| set.is_current = false);
        });
        self.ends.report.send_modify(|report| report.problem = Some(problem.to_owned()));
    }
}

async fn next(events: &mut Option<FolderEvents>) {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// The descriptions in the local store that can be read.
fn recalled(local: &LocalFlags) -> Vec<Arc<EnvironmentRecord>> {
    let found = match local.store().read_named(SPACE) {
        Ok(found) => found.records,
        Err(error) => {
            tracing::error!(error = %Chain(&error), "the local store cannot be read");
            return Vec::new();
        }
    };
    let decoded = found.into_iter().filter_map(|record| match records::decode(&record.value) {
        Ok(Record::Environment { record, .. }) => Some(Arc::new(record)),
        Ok(Record::Filter(_)) | Err(_) => None,
    });
    decoded.collect()
}

/// Writes the descriptions into the local store when they change.
async fn keep(
    mut kept: watch::Receiver<Option<Descriptions>>,
    mut local: watch::Receiver<LocalFlagsState>,
) {
    let local = LocalFlagsState::opened_at_last(&mut local).await;
    let mut written = None;
    loop {
        let wanted = kept.borrow_and_update().clone();
        if wanted != written
            && let Some(descriptions) = &wanted
        {
            let records = (**descriptions).clone();
            if let Err(error) = local.store().replace_named(SPACE, records).await {
                tracing::warn!(
                    error = %Chain(&error),
                    "the environments of the archive could not be stored; trying again"
                );
                tokio::time::sleep(KEEP_AGAIN).await;
                continue;
            }
            written = wanted;
        }
        if kept.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// True if a local store may hold what an earlier run knew.
pub(super) fn may_be_known(directories: &[PathBuf]) -> bool {
    directories.iter().any(|directory| LocalStore::exists_in(directory).unwrap_or(true))
}
