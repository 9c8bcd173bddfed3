//! Opens the embedded store beside everything else that starts.

use std::path::{Path, PathBuf};

use tokio::sync::{mpsc, watch};

use super::keys::Secrets;
use crate::autoconfig::cache::report::{ReadState, SharedReport};
use crate::autoconfig::record_set::CachedSet;
use crate::autoconfig::startup_race::{CacheOutcome, Tier};
use crate::config::LocalStoreConfig;
use crate::flagstore::{LocalFlags, LocalFlagsState};
use crate::storage::local::{KeyFileWarning, LocalStore, Opened, SetAsideReason};
use crate::tasks::TaskGroup;
use crate::telemetry::Chain;

/// The embedded store, as soon as it is open.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) flags: watch::Receiver<LocalFlagsState>,
    /// Why there is none, although there should be.
    pub(super) problem: watch::Receiver<Option<String>>,
    /// Whether it is off by configuration.
    pub(super) is_off: bool,
}

/// Starts to open the store.
pub(super) fn open(
    config: &LocalStoreConfig,
    secrets: watch::Receiver<Secrets>,
    parts: &mut TaskGroup,
) -> Local {
    let (directories, explicit) = match config {
        LocalStoreConfig::Off => (Vec::new(), false),
        LocalStoreConfig::Explicit(directory) => (vec![directory.clone()], true),
        LocalStoreConfig::FirstUsable(candidates) => (candidates.clone(), false),
    };
    let is_off = *config == LocalStoreConfig::Off;
    let first = if is_off { LocalFlagsState::Off } else { LocalFlagsState::Opening };
    let (flags_sender, flags) = watch::channel(first);
    let (problem_sender, problem) = watch::channel(None);
    if !is_off {
        parts.spawn("local store", move |cancel| async move {
            let now = secrets.borrow().clone();
            let opening = tokio::task::spawn_blocking(move || first_usable(&directories, &now));
            let opened = opening.await.unwrap_or_else(|error| Err(Chain(&error).to_string()));
            match opened {
                Ok((directory, opened)) => {
                    note(&opened, &directory);
                    let store = opened.store;
                    flags_sender
                        .send_replace(LocalFlagsState::Open(LocalFlags::new(store.clone())));
                    follow(&store, &directory, secrets, &cancel).await;
                }
                Err(problem) => {
                    tracing::error!(
                        problem,
                        explicit,
                        "running without a local store: a restart during an outage will depend on \
                         shared stores"
                    );
                    problem_sender.send_replace(Some(problem));
                    flags_sender.send_replace(LocalFlagsState::Off);
                }
            }
            cancel.cancelled().await;
        });
    }
    Local { flags, problem, is_off }
}

/// Opens the store in the first directory where that works.
fn first_usable(directories: &[PathBuf], secrets: &Secrets) -> Result<(PathBuf, Opened), String> {
    let mut problems = Vec::new();
    for directory in directories {
        let opened = secrets
            .local_ring(directory)
            .map_err(|error| Chain(&error).to_string())
            .and_then(|(ring, warning)| {
                if let Some(warning) = warning {
                    let KeyFileWarning::OpenToOthers { path } = warning;
                    tracing::warn!(
                        file = %path.display(),
                        "others than this user may read the key of the local store; mode 0600 is better"
                    );
                }
                LocalStore::open(directory, ring).map_err(|error| Chain(&error).to_string())
            });
        match opened {
            Ok(opened) => return Ok((directory.clone(), opened)),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() {
        problems.push("no directory for it is known; set LOCAL_STORE_DIR".to_owned());
    }
    Err(problems.join("; "))
}

fn note(opened: &Opened, directory: &Path) {
    tracing::info!(directory = %directory.display(), "local store open");
    if opened.open_to_others {
        tracing::warn!(
            directory = %directory.display(),
            "others than this user can enter the directory of the local store; mode 0700 is better"
        );
    }
    if let Some(aside) = &opened.set_aside {
        let why = match aside.reason {
            SetAsideReason::Damaged => "is damaged",
            SetAsideReason::OtherFormat => "was written by another version",
        };
        tracing::error!(
            cause = aside.cause,
            set_aside = %aside.path.display(),
            "the local store {why}; it was set aside and an empty one is used"
        );
    }
}

/// Exchanges the store's keys when they change, and tells of its troubles once each.
async fn follow(
    store: &LocalStore,
    directory: &Path,
    mut secrets: watch::Receiver<Secrets>,
    cancel: &tokio_util::sync::CancellationToken,
) {
    let mut status = store.subscribe();
    let mut troubled = false;
    let mut replaced = 0;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            Ok(()) = secrets.changed() => {
                let now = secrets.borrow_and_update().clone();
                match now.local_ring(directory) {
                    Ok((ring, _)) => store.set_ring(ring),
                    Err(error) => tracing::error!(
                        error = %Chain(&error),
                        "the local store keeps its former key"
                    ),
                }
            }
            Ok(()) = status.changed() => {
                let now = status.borrow_and_update().clone();
                match &now.problem {
                    Some(problem) if !troubled => tracing::error!(
                        problem = problem.text,
                        pending = now.pending,
                        "the local store cannot be written; trying again in the background"
                    ),
                    None if troubled => tracing::info!("the local store is written again"),
                    Some(_) | None => {}
                }
                troubled = now.problem.is_some();
                if now.replaced > replaced {
                    replaced = now.replaced;
                    tracing::error!(
                        set_aside = ?now.set_aside.as_ref().map(|aside| aside.path.display().to_string()),
                        "the local store was damaged while in use; it was set aside and is written \
                         anew from memory"
                    );
                }
            }
            else => return,
        }
    }
}

/// Tells the race that this tier holds nothing, because there is no store.
pub(super) async fn tell_absent(
    results: &mpsc::Sender<(Tier, CacheOutcome<CachedSet>)>,
    report: &SharedReport,
) {
    report.update(|report| {
        report.read = ReadState::Unavailable;
        report.error = Some("there is no local store".to_owned());
    });
    let _ = results.send((Tier::Local, CacheOutcome::Unavailable)).await;
}
