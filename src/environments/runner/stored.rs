//! Data sets out of stores: reading them, and what they add to what is served. None of it is
//! written back anywhere (design D28).

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::Runner;
use crate::environments::environment::Environment;
use crate::environments::load_queue::LoadQueue;
use crate::flagstore::{DataSetId, LocalFlags, LocalFlagsState, ReadOutcome, SharedRead};
use crate::model::{DataSet, EnvironmentRef, ItemKey, Origin};
use crate::streams::{Change, Snapshot};
use crate::telemetry::{At, Chain};

/// Up to so many items out of a store are told to clients one by one; of more they get everything.
const PATCHES_MAX: usize = 32;

impl Runner {
    /// The embedded store answered: serve what it holds, unless LaunchDarkly has spoken. It holds
    /// what was said before, so nothing of it counts then, also if LaunchDarkly is gone again.
    pub(super) fn on_stored(&mut self, stored: Stored) {
        let Some(local) = stored.local else { return self.answered() };
        let served = self.environment.hub.snapshot();
        let live = served.filter(|served| served.origin == Origin::Live);
        let problem = match stored.outcome {
            Ok(ReadOutcome::Complete(set)) => {
                if live.is_none() {
                    let data = Arc::new(set.data);
                    local.adopted(&self.set_id, &data, set.written_at);
                    self.offer(&data, Origin::LocalStore, Some(set.written_at));
                }
                None
            }
            Ok(ReadOutcome::Absent) => None,
            Ok(ReadOutcome::Incomplete(found)) => {
                let problem = format!(
                    "{} of {} stored items are missing, {} cannot be read",
                    found.missing, found.items, found.undecodable
                );
                if live.is_none() {
                    self.offer_incomplete(&found.data);
                }
                Some(problem)
            }
            Ok(ReadOutcome::Unreadable { .. }) => {
                Some("the stored flags are sealed under a key that is not configured".to_owned())
            }
            Err(problem) => Some(problem),
        };
        if let Some(problem) = &problem {
            tracing::warn!(problem, "stored flags of this environment cannot be served");
        }
        self.environment.update_status(|status| status.stored_data_problem = problem);
        // What arrived from upstream before the store was open is still to be stored.
        if let Some(live) = live {
            local.replaced(&self.set_id, live.data.clone());
        }
        self.local = Some(local);
        self.answered();
    }

    /// Waits for the embedded store and reads the data set on a blocking thread.
    pub(super) fn read_stored(&self, patience: Patience) -> impl Future<Output = Stored> + use<> {
        read_stored(
            self.settings.local.clone(),
            patience,
            self.set_id.clone(),
            self.settings.load_queue.clone(),
            self.environment.clone(),
        )
    }

    /// The shared store was read while upstream was not live.
    pub(super) fn on_shared(&mut self, read: SharedRead) {
        match read {
            SharedRead::Complete(data) => {
                self.offer(&Arc::new(data), Origin::SharedStore, None);
            }
            SharedRead::Incomplete { data, .. } => self.offer_incomplete(&data),
            SharedRead::Absent | SharedRead::Failed(_) => {}
        }
        self.answered();
    }

    /// A store has answered. When all have, nobody needs to wait for stored data.
    fn answered(&mut self) {
        self.silent_stores = self.silent_stores.saturating_sub(1);
        if self.silent_stores == 0 {
            self.environment.set_loaded();
        }
    }

    /// A complete set out of a store: the first is served, later ones add what is newer in them
    /// (design D3, D29), until upstream is live.
    fn offer(&mut self, data: &Arc<DataSet>, origin: Origin, as_of: Option<SystemTime>) {
        if self.current.live {
            return;
        }
        let hub = &self.environment.hub;
        if hub.snapshot().is_some() {
            return self.add_newer(data);
        }
        tracing::info!(
            items = data.len(),
            origin = origin.as_str(),
            written_at = %At(as_of),
            "serving stored flags until LaunchDarkly answers"
        );
        hub.replace(Arc::new(Snapshot::new(data.clone(), origin, as_of)));
        if let Some(shared) = &self.shared {
            shared.served(data.clone());
        }
        self.environment.set_loaded();
        let leftovers = std::mem::take(&mut self.leftovers);
        self.add_newer(&leftovers);
    }

    /// What is there of an incomplete set counts as soon as there is something to add it to.
    fn offer_incomplete(&mut self, data: &DataSet) {
        if self.current.live {
            return;
        }
        if self.environment.hub.snapshot().is_some() {
            return self.add_newer(data);
        }
        for (kind, key, item) in data.iter() {
            self.leftovers.upsert(&ItemKey { kind, key: key.clone() }, item.clone());
        }
    }

    /// Adds to what is served what a store has newer. Nothing is written anywhere: it came from a
    /// store (design D28).
    fn add_newer(&self, stored: &DataSet) {
        let hub = &self.environment.hub;
        let Some(before) = hub.snapshot() else { return };
        // Also what is not known there (design D29).
        let news: Vec<_> = stored.newer_than(&before.data).collect();
        if news.is_empty() {
            return;
        }
        tracing::info!(items = news.len(), "a store holds newer flags; they are served");
        let mut data = (*before.data).clone();
        let snapshot = |data: &DataSet| {
            Arc::new(Snapshot::new(Arc::new(data.clone()), before.origin, before.as_of))
        };
        let as_patches = news.len() <= PATCHES_MAX;
        for (key, item) in news {
            data.upsert(&key, item.clone());
            if as_patches {
                hub.change(snapshot(&data), Change::of(&key, item));
            }
        }
        if !as_patches {
            hub.replace(snapshot(&data));
        }
        if let Some(shared) = &self.shared {
            shared.served(Arc::new(data));
        }
    }
}

/// What the embedded store had to say.
pub(super) struct Stored {
    /// The store; `None` if there is none for now.
    pub(super) local: Option<LocalFlags>,
    pub(super) outcome: Result<ReadOutcome, String>,
}

/// How long the embedded store is waited for.
#[derive(Clone, Copy)]
pub(super) enum Patience {
    /// Until it is known whether there is one.
    UntilKnown,
    /// Until there is one: another process may hold it still.
    ForEver,
}

async fn read_stored(
    mut local: watch::Receiver<LocalFlagsState>,
    patience: Patience,
    set_id: DataSetId,
    queue: Arc<LoadQueue>,
    environment: Arc<Environment>,
) -> Stored {
    let local = match patience {
        Patience::UntilKnown => LocalFlagsState::opened(&mut local).await,
        Patience::ForEver => Some(LocalFlagsState::opened_at_last(&mut local).await),
    };
    let Some(local) = local else {
        return Stored { local: None, outcome: Ok(ReadOutcome::Absent) };
    };
    let _turn = queue.turn(move || environment.is_awaited()).await;
    let reader = local.clone();
    let read = tokio::task::spawn_blocking(move || reader.read_set(&set_id)).await;
    let outcome = match read {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(error)) => Err(Chain(&error).to_string()),
        Err(error) => Err(Chain(&error).to_string()),
    };
    Stored { local: Some(local), outcome }
}

/// The name of the environment's data set in stores.
///
/// With an environment ID that is the name. A manual environment without one is named after a
/// hash of its SDK key, because the configured name may be given to another environment while
/// the relay is down, and its stored flags must not be served for that one.
pub(in crate::environments) fn set_id(environment: &Environment) -> DataSetId {
    use sha2::{Digest, Sha256};
    let spec = environment.spec();
    let environment = match &spec.credentials.environment_id {
        Some(id) => id.as_str().into(),
        None => {
            let digest = Sha256::digest(spec.credentials.anchor.expose().as_bytes());
            let hex: String = digest[..16].iter().map(|b| format!("{b:02x}")).collect();
            format!("key:{hex}").into()
        }
    };
    DataSetId::new(&EnvironmentRef { environment, filter: spec.reference.filter.clone() })
}
