//! Data sets from stores: reads the embedded one, and translates readings for the core.

use std::sync::Arc;

use tokio::sync::watch;

use super::Runner;
use crate::environments::environment::Environment;
use crate::environments::load_queue::LoadQueue;
use crate::environments::stored_data::{Answer, StoredSet};
use crate::flagstore::{
    Completeness, DataSetId, LocalFlags, LocalFlagsState, ReadOutcome, SharedRead,
};
use crate::model::{EnvironmentRef, Origin, hex};
use crate::telemetry::Chain;

impl Runner {
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
}

/// Translates a reading of the embedded store for the core, with the reason if it cannot be served.
pub(super) fn answer_of_local(outcome: Result<ReadOutcome, String>) -> (Answer, Option<String>) {
    match outcome {
        Ok(ReadOutcome::Complete(set)) => {
            let set = StoredSet {
                data: Arc::new(set.data),
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
        Ok(ReadOutcome::Unreadable) => {
            let problem = "the stored flags are sealed under a key that is not configured";
            (Answer::Nothing, Some(problem.to_owned()))
        }
        Err(problem) => (Answer::Unread, Some(problem)),
    }
}

/// Translates a reading of the shared store for the core.
pub fn answer_of_shared(read: SharedRead) -> Answer {
    match read {
        SharedRead::Complete(set) => Answer::Set(StoredSet {
            data: set.data,
            origin: Origin::SharedStore,
            as_of: set.confirmed_at,
            is_counted: set.completeness == Completeness::Counted,
            undecodable: set.undecodable,
        }),
        SharedRead::Incomplete { data, .. } => Answer::Part(data),
        SharedRead::Absent | SharedRead::Foreign { .. } => Answer::Nothing,
        SharedRead::Failed(_) => Answer::Unread,
    }
}

/// Result of reading the embedded store.
pub(super) struct Stored {
    /// The store; `None` if there is none for now. Then an error means that it may open later.
    pub(super) local: Option<LocalFlags>,
    pub(super) outcome: Result<ReadOutcome, String>,
}

/// Limit of the wait for the embedded store.
#[derive(Clone, Copy)]
pub(super) enum Patience {
    /// Until it is known whether there is one.
    UntilKnown,
    /// Until there is one: another process may still hold it.
    ForEver,
}

async fn read_stored(
    mut state: watch::Receiver<LocalFlagsState>,
    patience: Patience,
    set_id: DataSetId,
    queue: Arc<LoadQueue>,
    environment: Arc<Environment>,
) -> Stored {
    let local = match patience {
        Patience::UntilKnown => LocalFlagsState::opened(&mut state).await,
        Patience::ForEver => Some(LocalFlagsState::opened_at_last(&mut state).await),
    };
    let Some(local) = local else {
        let may_come = matches!(*state.borrow(), LocalFlagsState::Unavailable);
        let outcome = if may_come {
            Err("it cannot be opened for now".to_owned())
        } else {
            Ok(ReadOutcome::Absent)
        };
        return Stored { local: None, outcome };
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
/// The environment ID is the name if there is one. A manual environment without one is named after
/// a hash of its SDK key, because the configured name may be given to another environment while the
/// relay is down, and its stored flags must not be served for that one.
pub(in crate::environments) fn set_id(environment: &Environment) -> DataSetId {
    use sha2::{Digest, Sha256};
    let spec = environment.spec();
    let environment = match &spec.credentials.environment_id {
        Some(id) => id.as_str().into(),
        None => {
            let digest = Sha256::digest(spec.credentials.anchor.expose().as_bytes());
            format!("key:{}", hex(&digest[..16])).into()
        }
    };
    DataSetId::new(&EnvironmentRef { environment, filter: spec.reference.filter.clone() })
}
