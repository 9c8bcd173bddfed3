//! Data sets out of stores: reading them, and carrying out what [`StoredData`] decides. None of it
//! is written back anywhere (design D28).

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use super::Runner;
use crate::environments::environment::Environment;
use crate::environments::load_queue::LoadQueue;
use crate::environments::stored_data::{Answer, Reaction, Source, StoredSet};
use crate::flagstore::{
    Completeness, DataSetId, LocalFlags, LocalFlagsState, ReadOutcome, SharedRead,
};
use crate::model::{DataSet, EnvironmentRef, Item, ItemKey, Origin};
use crate::streams::{Change, Snapshot};
use crate::telemetry::{At, Chain};

/// Up to so many items out of a store are told to clients one by one; of more they get everything.
const PATCHES_MAX: usize = 32;

/// Most names of items in one log line.
const NAMES_MAX: usize = 10;

impl Runner {
    /// The embedded store answered: serve what it holds, unless LaunchDarkly has spoken. It holds
    /// what was said before, so nothing of it counts then, also if LaunchDarkly is gone again.
    pub(super) fn on_stored(&mut self, stored: Stored) {
        self.environment.update_status(|status| status.local_store_known = true);
        let Some(local) = stored.local else { return self.answer(Source::Local, Answer::Nothing) };
        let served = self.environment.hub.snapshot();
        let live = served.filter(|served| served.origin == Origin::Live);
        let (answer, problem) = match stored.outcome {
            Ok(ReadOutcome::Complete(set)) => {
                let data = Arc::new(set.data);
                if live.is_none() {
                    local.adopted(&self.set_id, &data, set.written_at);
                }
                let set = StoredSet {
                    data,
                    origin: Origin::LocalStore,
                    as_of: Some(set.written_at),
                    is_counted: true,
                    undecodable: Vec::new(),
                };
                (Answer::Set(set), None)
            }
            Ok(ReadOutcome::Absent) => (Answer::Nothing, None),
            Ok(ReadOutcome::Incomplete(found)) => {
                let problem = format!(
                    "{} of {} stored items are missing, {} cannot be read",
                    found.missing, found.items, found.undecodable
                );
                (Answer::Part(found.data), Some(problem))
            }
            Ok(ReadOutcome::Unreadable { .. }) => {
                let problem = "the stored flags are sealed under a key that is not configured";
                (Answer::Nothing, Some(problem.to_owned()))
            }
            Err(problem) => (Answer::Nothing, Some(problem)),
        };
        if let Some(problem) = &problem {
            tracing::warn!(
                problem,
                "the flags of this environment in the local store cannot be served"
            );
        }
        self.environment.update_status(|status| status.stored_data_problem = problem);
        // What arrived from upstream before the store was open is still to be stored.
        if let Some(live) = live {
            local.replaced(&self.set_id, live.data.clone());
        }
        self.local = Some(local);
        self.answer(Source::Local, answer);
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
        let answer = match read {
            SharedRead::Complete(set) => Answer::Set(StoredSet {
                data: set.data,
                origin: Origin::SharedStore,
                as_of: set.confirmed_at,
                is_counted: set.completeness == Completeness::Counted,
                undecodable: set.undecodable,
            }),
            SharedRead::Incomplete { data, .. } => Answer::Part(data),
            SharedRead::Absent | SharedRead::Foreign { .. } | SharedRead::Failed(_) => {
                Answer::Nothing
            }
        };
        self.answer(Source::Shared, answer);
    }

    /// Takes what a store answered. When all have, no client waits for stored data any more.
    fn answer(&mut self, source: Source, answer: Answer) {
        let hub = &self.environment.hub;
        let served = hub.snapshot();
        // What was live once is only added to: by a store that a peer writes to.
        let answer = match (&served, source) {
            _ if self.current.live => Answer::Nothing,
            (Some(served), Source::Local) if served.origin == Origin::Live => Answer::Nothing,
            _ => answer,
        };
        let served = served.as_ref().map(|served| (&*served.data, served.origin));
        match self.stored_data.on_answer(source, answer, served) {
            Reaction::Keep => {}
            Reaction::Serve { data, origin, as_of } => self.serve(data, origin, as_of),
            Reaction::Add(news) => self.add(&news),
        }
        self.report_items();
        if self.stored_data.is_settled() {
            self.environment.set_loaded();
        }
    }

    fn serve(&self, data: Arc<DataSet>, origin: Origin, as_of: Option<SystemTime>) {
        tracing::info!(
            items = data.len(),
            origin = origin.as_str(),
            confirmed_at = %At(as_of),
            "serving stored flags until LaunchDarkly answers"
        );
        let hub = &self.environment.hub;
        hub.replace(Arc::new(Snapshot::new(data.clone(), origin, as_of)));
        if let Some(shared) = &self.shared {
            let is_partial = !self.stored_data.missing(&data).is_empty();
            shared.served(data, is_partial);
        }
        self.environment.set_loaded();
    }

    /// Adds to what is served what a store has newer.
    fn add(&self, news: &[(ItemKey, Arc<Item>)]) {
        let hub = &self.environment.hub;
        let Some(before) = hub.snapshot() else { return };
        tracing::info!(items = news.len(), "a store holds newer flags; they are served");
        let mut data = (*before.data).clone();
        let snapshot = |data: &DataSet| {
            Arc::new(Snapshot::new(Arc::new(data.clone()), before.origin, before.as_of))
        };
        let as_patches = news.len() <= PATCHES_MAX;
        for (key, item) in news {
            data.upsert(key, item.clone());
            if as_patches {
                hub.change(snapshot(&data), Change::of(key, item));
            }
        }
        if !as_patches {
            hub.replace(snapshot(&data));
        }
        if let Some(shared) = &self.shared {
            let is_partial = !self.stored_data.missing(&data).is_empty();
            shared.served(Arc::new(data), is_partial);
        }
    }

    /// Reports how many served items are from the shared store, and names the items that clients
    /// do not get because no store holds them in a readable form.
    pub(super) fn report_items(&self) {
        let from_shared = self.stored_data.items_from_shared();
        self.environment.update_status(|status| status.items_from_shared_store = from_shared);
        let missing = match self.environment.hub.snapshot() {
            Some(served) => self.stored_data.missing(&served.data),
            None => Vec::new(),
        };
        if missing == self.environment.status().missing_items {
            return;
        }
        if !missing.is_empty() {
            let names: Vec<String> =
                missing.iter().take(NAMES_MAX).map(ToString::to_string).collect();
            tracing::error!(
                count = missing.len(),
                items = names.join(", "),
                "these items cannot be decoded in any store and are missing in what is served; \
                 SDKs use their default values for them until LaunchDarkly answers"
            );
        }
        self.environment.update_status(|status| status.missing_items = missing);
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
