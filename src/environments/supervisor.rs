//! Owns the list of environments: starts and stops their tasks, and keeps the registry.
//!
//! It never waits for an environment. Additions, rotations and revocations take effect here and
//! in the registry at once; what takes time happens in the environment's own task.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::environment::Environment;
use super::registry::{Access, Lease, Registry, Table};
use super::runner::{Runner, RunnerSettings, set_id};
use crate::flagstore::LocalFlagsState;
use crate::model::{
    Credential, EnvironmentChange, EnvironmentRef, EnvironmentSpec, FilterKey, ListState, SdkKey,
};
use crate::tasks::KeyedTasks;

/// How long the tasks of environments may take to end.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// What the supervisor needs.
#[derive(Clone, Debug)]
pub struct SupervisorSettings {
    /// For each environment's task.
    pub runner: RunnerSettings,
    /// Pause between looks for expired keys (ld-relay v8: `expiredCredentialCleanupInterval`).
    pub sweep_interval: Duration,
}

/// The owner of the list.
#[derive(Debug)]
pub struct Supervisor {
    settings: SupervisorSettings,
    registry: Arc<Registry>,
    changes: mpsc::Receiver<Vec<EnvironmentChange>>,
    running: BTreeMap<EnvironmentRef, Running>,
    leases: HashMap<(Credential, FilterKey), (EnvironmentRef, Arc<Lease>)>,
    list: ListState,
}

#[derive(Debug)]
struct Running {
    environment: Arc<Environment>,
    /// Tells its task which SDK key is designated. A watch: the task may be slow, the newest key
    /// is never lost.
    designated: watch::Sender<SdkKey>,
}

impl Supervisor {
    /// A supervisor of what the changes say.
    pub fn new(
        settings: SupervisorSettings,
        registry: Arc<Registry>,
        changes: mpsc::Receiver<Vec<EnvironmentChange>>,
    ) -> Self {
        Self {
            settings,
            registry,
            changes,
            running: BTreeMap::new(),
            leases: HashMap::new(),
            list: ListState::Unknown,
        }
    }

    /// Runs until it is told to stop.
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
                _ = sweep.tick() => self.rebuild(SystemTime::now()),
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
        let mut removed = Vec::new();
        for change in changes {
            match change {
                EnvironmentChange::Upsert(spec) => self.upsert(spec, tasks),
                EnvironmentChange::Remove(reference) => {
                    removed.extend(self.running.remove(&reference));
                    tasks.stop(&reference);
                }
                EnvironmentChange::List(list) => self.list = list,
            }
        }
        // The table first, then the streams: a client that reconnects at once must be refused.
        self.rebuild(SystemTime::now());
        for Running { environment, .. } in removed {
            tracing::info!(environment = %environment.reference, "environment removed");
            environment.hub.close();
            // A newer cached list is no proof that an environment is gone for good.
            if self.list == ListState::Authoritative
                && let LocalFlagsState::Open(local) = &*self.settings.runner.local.borrow()
            {
                local.removed(&set_id(&environment));
            }
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
                self.start(environment, tasks);
            }
        }
    }

    fn start(&mut self, environment: Arc<Environment>, tasks: &mut KeyedTasks<EnvironmentRef>) {
        let reference = environment.reference.clone();
        let (designated, receiver) = watch::channel(environment.spec().credentials.anchor.clone());
        let span = tracing::info_span!(
            "environment",
            id = %reference.environment,
            filter = reference.filter.as_str()
        );
        let runner = {
            let _entered = span.enter();
            Runner::new(environment.clone(), self.settings.runner.clone(), receiver)
        };
        tasks.spawn(reference.clone(), span, |cancel| runner.run(cancel));
        self.running.insert(reference, Running { environment, designated });
    }

    /// A task ended that nobody stopped: a defect. What it served stays, and it is started anew.
    fn on_ended(
        &mut self,
        reference: &EnvironmentRef,
        error: Option<tokio::task::JoinError>,
        tasks: &mut KeyedTasks<EnvironmentRef>,
    ) {
        let error = error.map_or_else(|| "it returned".to_owned(), |error| error.to_string());
        tracing::error!(environment = %reference, error, "task of the environment ended; starting it anew");
        if let Some(running) = self.running.get(reference) {
            self.start(running.environment.clone(), tasks);
        }
    }

    /// Computes the table of credentials anew, and ends the streams of those that left it.
    fn rebuild(&mut self, now: SystemTime) {
        let mut table = Table {
            list: self.list,
            environments: self
                .running
                .values()
                .map(|running| running.environment.clone())
                .collect(),
            by_credential: HashMap::new(),
        };
        let mut leases = HashMap::new();
        for (reference, running) in &self.running {
            for (credential, expiry) in accepted(&running.environment.spec(), now) {
                let views = table.by_credential.entry(credential.clone()).or_default();
                if views.iter().any(|(filter, _)| *filter == reference.filter) {
                    tracing::warn!(environment = %reference, "a key of this environment already opens another one");
                    continue;
                }
                let key = (credential, reference.filter.clone());
                // A credential that moved to another environment gets a new lease.
                let lease = match self.leases.get(&key) {
                    Some((owner, lease)) if owner == reference => lease.clone(),
                    Some(_) | None => Arc::default(),
                };
                let environment = running.environment.clone();
                let access = Access { environment, lease: Arc::clone(&lease), expiry };
                views.push((reference.filter.clone(), access));
                leases.insert(key, (reference.clone(), lease));
            }
        }
        self.registry.swap(table);
        let before = std::mem::replace(&mut self.leases, leases);
        for (key, (owner, lease)) in before {
            let stands = self.leases.get(&key).is_some_and(|(_, now)| Arc::ptr_eq(now, &lease));
            if !stands {
                lease.revoke();
                if let Some(running) = self.running.get(&owner) {
                    running.environment.hub.wake();
                }
            }
        }
    }
}

/// The credentials that open an environment at a moment.
fn accepted(spec: &EnvironmentSpec, now: SystemTime) -> Vec<(Credential, Option<SystemTime>)> {
    let keys = &spec.credentials;
    let sdk = keys.sdk_keys.iter().map(|key| (Credential::Sdk(key.value.clone()), key.expiry));
    let mobile =
        keys.mobile_keys.iter().map(|key| (Credential::Mobile(key.value.clone()), key.expiry));
    let id = keys.environment_id.iter().map(|id| (Credential::EnvironmentId(id.clone()), None));
    // Refused strictly after the moment of expiry (ld-relay v8).
    let valid = |(_, expiry): &(Credential, Option<SystemTime>)| expiry.is_none_or(|at| now <= at);
    sdk.chain(mobile).chain(id).filter(valid).collect()
}
