//! Owns the list of environments: starts and stops their tasks, and keeps the registry.
//!
//! It never waits for an environment. Additions, rotations and revocations take effect here and
//! in the registry at once; what takes time happens in the environment's own task.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::credentials::Credentials;
use super::environment::Environment;
use super::registry::Registry;
use super::runner::{Runner, RunnerSettings, set_id};
use crate::backoff::Backoff;
use crate::flagstore::LocalFlagsState;
use crate::model::{EnvironmentChange, EnvironmentRef, EnvironmentSpec, ListState, SdkKey};
use crate::tasks::KeyedTasks;
use crate::telemetry::Rounded;

/// Time limit for the tasks of environments to end: longer than each of them gives its shared store
/// for the last write, so that its outcome can be logged.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(4);

/// Pause before the task of an environment is started again after it stopped unexpectedly. The
/// cause may be in the data, and come again with the next connection.
const RESTART: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(60) };

/// Settings of the supervisor.
#[derive(Clone, Debug)]
pub struct SupervisorSettings {
    /// For each environment's task.
    pub runner: RunnerSettings,
    /// Pause between checks for expired keys (ld-relay v8: `expiredCredentialCleanupInterval`).
    pub sweep_interval: Duration,
    /// Treatment of stored data of environments that are not in the list.
    pub orphans: Orphans,
}

/// Treatment of stored data of environments that are not in the list: an earlier list had them, and
/// they were removed while this relay was not running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphans {
    /// Removed once the list is authoritative. For a list from LaunchDarkly.
    Forgotten,
    /// Kept. For a list that an operator writes by hand: a mistake in it must not cost the data.
    Kept,
}

/// The owner of the list.
#[derive(Debug)]
pub struct Supervisor {
    settings: SupervisorSettings,
    registry: Arc<Registry>,
    changes: mpsc::Receiver<Vec<EnvironmentChange>>,
    running: BTreeMap<EnvironmentRef, Running>,
    /// Tasks that were told to stop, with tokens that are cancelled when they have stopped.
    leaving: BTreeMap<EnvironmentRef, CancellationToken>,
    credentials: Credentials,
    list: ListState,
    /// True until stored data of orphans was removed.
    has_orphans: bool,
}

#[derive(Debug)]
struct Running {
    environment: Arc<Environment>,
    /// Tells its task which SDK key is designated. A watch, so that a slow task still gets the
    /// newest key.
    designated: watch::Sender<SdkKey>,
    /// Cancelled when its task has ended.
    ended: CancellationToken,
    /// Number of times that its task stopped unexpectedly.
    breaks: u32,
}

/// Condition under which the task of an environment begins.
enum Begin {
    AtOnce,
    /// An environment never has more than one task, so that its stored data has one writer.
    AfterEndOf(CancellationToken),
    After(Duration),
}

impl Supervisor {
    /// Creates a supervisor that follows these changes.
    pub fn new(
        settings: SupervisorSettings,
        registry: Arc<Registry>,
        changes: mpsc::Receiver<Vec<EnvironmentChange>>,
    ) -> Self {
        Self {
            has_orphans: settings.orphans == Orphans::Forgotten,
            settings,
            registry,
            changes,
            running: BTreeMap::new(),
            leaving: BTreeMap::new(),
            credentials: Credentials::default(),
            list: ListState::Unknown,
        }
    }

    /// Runs until it is cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut tasks = KeyedTasks::new(&cancel);
        let mut sweep = tokio::time::interval(self.settings.sweep_interval);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                Some(changes) = self.changes.recv() => self.apply(changes, &mut tasks),
                (reference, error) = tasks.ended() => self.on_ended(&reference, error, &mut tasks),
                _ = sweep.tick() => self.sweep(SystemTime::now()),
            }
        }
        for running in self.running.values() {
            running.environment.hub.close();
        }
        if !tasks.shutdown(SHUTDOWN_GRACE).await {
            tracing::warn!("some environments did not stop in time and were cut off");
        }
    }

    fn apply(&mut self, changes: Vec<EnvironmentChange>, tasks: &mut KeyedTasks<EnvironmentRef>) {
        self.leaving.retain(|_, ended| !ended.is_cancelled());
        // The state of the list after all changes decides what happens to removed environments.
        for change in &changes {
            if let EnvironmentChange::List(list) = change {
                self.list = *list;
            }
        }
        let mut removed = Vec::new();
        for change in changes {
            match change {
                EnvironmentChange::Upsert(spec) => self.upsert(spec, tasks),
                EnvironmentChange::Remove(reference) => {
                    if let Some(running) = self.running.remove(&reference) {
                        // A newer cached list is no proof that it is gone for good.
                        if self.list == ListState::Authoritative {
                            running.environment.doom();
                        }
                        self.leaving.insert(reference.clone(), running.ended);
                        removed.push(running.environment);
                    }
                    tasks.stop(&reference);
                }
                EnvironmentChange::List(_) => {}
            }
        }
        // The table first, then the streams: a client that reconnects at once must be refused.
        self.rebuild(SystemTime::now());
        for environment in removed {
            tracing::info!(environment = %environment.reference, "environment removed");
            environment.hub.close();
        }
        self.forget_orphans();
    }

    /// Removes the stored data of environments that are not in the list, once.
    fn forget_orphans(&mut self) {
        if !self.has_orphans || self.list != ListState::Authoritative {
            return;
        }
        if let LocalFlagsState::Open(local) = &*self.settings.runner.local.borrow() {
            let environments = self.running.values().map(|running| &running.environment);
            let known: Vec<_> = environments.map(|environment| set_id(environment)).collect();
            local.retain(&known);
            self.has_orphans = false;
        }
    }

    fn upsert(&mut self, spec: Arc<EnvironmentSpec>, tasks: &mut KeyedTasks<EnvironmentRef>) {
        match self.running.get(&spec.reference) {
            Some(running) => {
                let anchor = spec.credentials.anchor.clone();
                running.environment.set_spec(spec);
                running.designated.send_if_modified(|known| {
                    let rotated = *known != anchor;
                    *known = anchor;
                    rotated
                });
            }
            None => {
                tracing::info!(environment = %spec.reference, "environment added");
                let environment = Arc::new(Environment::new(spec, SystemTime::now()));
                let former = self.leaving.get(&environment.reference);
                let begin = former.cloned().map_or(Begin::AtOnce, Begin::AfterEndOf);
                self.start(environment, begin, 0, tasks);
            }
        }
    }

    fn start(
        &mut self,
        environment: Arc<Environment>,
        begin: Begin,
        breaks: u32,
        tasks: &mut KeyedTasks<EnvironmentRef>,
    ) {
        let reference = environment.reference.clone();
        let (designated, receiver) = watch::channel(environment.spec().credentials.anchor.clone());
        let ended = CancellationToken::new();
        let span = tracing::info_span!(
            "environment",
            id = %reference.environment,
            filter = reference.filter.as_str()
        );
        let task = EnvironmentTask {
            environment: environment.clone(),
            settings: self.settings.runner.clone(),
            designated: receiver,
            begin,
            _ended: ended.clone().drop_guard(),
        };
        tasks.spawn(reference.clone(), span, |cancel| task.run(cancel));
        self.running.insert(reference, Running { environment, designated, ended, breaks });
    }

    /// Restarts a task that stopped unexpectedly, which is a defect. Its served data stays.
    fn on_ended(
        &mut self,
        reference: &EnvironmentRef,
        error: Option<tokio::task::JoinError>,
        tasks: &mut KeyedTasks<EnvironmentRef>,
    ) {
        let error = error.map_or_else(|| "it returned".to_owned(), |error| error.to_string());
        let Some(running) = self.running.get(reference) else { return };
        let breaks = running.breaks.saturating_add(1);
        let pause = RESTART.delay(breaks, fastrand::f64());
        tracing::error!(environment = %reference, error, pause = %Rounded(pause), "task of the environment ended; starting it anew");
        self.start(running.environment.clone(), Begin::After(pause), breaks, tasks);
    }

    /// Drops expired keys, and stored data that could not be removed before.
    fn sweep(&mut self, now: SystemTime) {
        self.forget_orphans();
        if self.credentials.has_expired(now) {
            self.rebuild(now);
        }
    }

    /// Computes the table of credentials again, and ends the streams of those that left it.
    fn rebuild(&mut self, now: SystemTime) {
        let environments = self.running.values().map(|running| running.environment.clone());
        let (table, revoked) = self.credentials.rebuild(self.list, &environments.collect(), now);
        self.registry.swap(table);
        for (owner, lease) in revoked {
            lease.revoke();
            if let Some(running) = self.running.get(&owner) {
                running.environment.hub.wake();
            }
        }
    }
}

/// The task of one environment, from the wait for its start to the removal of its stored data.
struct EnvironmentTask {
    environment: Arc<Environment>,
    settings: RunnerSettings,
    designated: watch::Receiver<SdkKey>,
    begin: Begin,
    /// Tells the next task of the same environment that this one is over, however it ends.
    _ended: DropGuard,
}

impl EnvironmentTask {
    async fn run(self, cancel: CancellationToken) {
        let Self { environment, settings, designated, begin, _ended } = self;
        begin.reached(&cancel).await;
        if !cancel.is_cancelled() {
            let settings = settings.clone();
            let runner = Runner::new(environment.clone(), settings, designated);
            runner.run(cancel).await;
        }
        if environment.is_doomed()
            && let LocalFlagsState::Open(local) = &*settings.local.borrow()
        {
            local.removed(&set_id(&environment));
        }
    }
}

impl Begin {
    async fn reached(self, cancel: &CancellationToken) {
        match self {
            Self::AtOnce => {}
            // It was told to stop and ends soon, so the token need not be checked.
            Self::AfterEndOf(former) => former.cancelled().await,
            Self::After(pause) => {
                // Either outcome is fine: the token is checked next.
                let _ = tokio::time::timeout(pause, cancel.cancelled()).await;
            }
        }
    }
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
