//! Finds the environment of a client's credential: the look-up that each request makes.
//!
//! The table is immutable and swapped whole; readers take no lock. A credential leaves the table
//! before its streams end, so that a client that reconnects at once is refused, not served.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::environment::Environment;
use crate::model::{Credential, FilterKey, ListState};

/// The right of a credential to use an environment. Streams check it each time they are woken.
#[derive(Debug, Default)]
pub struct Lease {
    revoked: AtomicBool,
}

impl Lease {
    /// True once the right has ended.
    pub fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    pub(crate) fn revoke(&self) {
        self.revoked.store(true, Ordering::Release);
    }
}

/// Environment that a known credential opens, and the right to use it.
#[derive(Clone, Debug)]
pub struct Access {
    /// The environment.
    pub environment: Arc<Environment>,
    /// The right to use it.
    pub lease: Arc<Lease>,
    /// The credential is refused strictly after this moment.
    pub expiry: Option<SystemTime>,
}

/// Result of a look-up.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// The credential opens this environment.
    Found(Access),
    /// Nothing is known yet: a retry may succeed.
    NoList,
    /// The credential is unknown, but the list is provisional: a retry may succeed.
    UnknownForNow,
    /// The credential opens nothing.
    UnknownCredential,
    /// The credential is good, the payload filter does not exist.
    UnknownFilter,
}

/// All environments by credential.
#[derive(Debug)]
pub struct Registry {
    table: ArcSwap<Table>,
    list: watch::Sender<ListState>,
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) list: ListState,
    pub(super) environments: Arc<[Arc<Environment>]>,
    pub(super) by_credential: HashMap<Credential, Vec<(FilterKey, Access)>>,
    /// Credentials that are known to be revoked or expired. Used only when the list is no longer
    /// authoritative.
    pub(super) refused: HashSet<(Credential, FilterKey)>,
}

impl Table {
    pub(super) fn of(list: ListState, environments: Arc<[Arc<Environment>]>) -> Self {
        Self { list, environments, by_credential: HashMap::new(), refused: HashSet::new() }
    }
}

impl Table {
    /// The answer to a credential or filter that opens nothing.
    ///
    /// It is refused for good only when that is certain, because SDKs take 401 and 404 as final. `is_refused`: it is known to have been revoked or to have expired.
    fn refusal(&self, is_refused: bool, for_good: Lookup) -> Lookup {
        match self.list {
            ListState::Unknown => Lookup::NoList,
            ListState::Provisional => Lookup::UnknownForNow,
            ListState::Lapsed if is_refused => for_good,
            ListState::Lapsed => Lookup::UnknownForNow,
            ListState::Authoritative => for_good,
        }
    }

    fn is_refused(&self, credential: &Credential, filter: &FilterKey) -> bool {
        self.list == ListState::Lapsed
            && self.refused.contains(&(credential.clone(), filter.clone()))
    }
}

impl Default for Registry {
    fn default() -> Self {
        let table = Table::of(ListState::Unknown, Arc::default());
        Self { table: ArcSwap::from_pointee(table), list: watch::Sender::new(ListState::Unknown) }
    }
}

impl Registry {
    /// Finds the environment that a credential opens under a payload filter, at a moment.
    pub fn look_up(
        &self,
        credential: &Credential,
        filter: &FilterKey,
        now: impl FnOnce() -> SystemTime,
    ) -> Lookup {
        let table = self.table.load();
        let Some(views) = table.by_credential.get(credential) else {
            let is_refused = table.is_refused(credential, filter)
                || table.is_refused(credential, &FilterKey::default());
            return table.refusal(is_refused, Lookup::UnknownCredential);
        };
        let Some((_, access)) = views.iter().find(|(key, _)| key == filter) else {
            return table.refusal(table.is_refused(credential, filter), Lookup::UnknownFilter);
        };
        match access.expiry {
            // Expired keys are refused at once, not at the next sweep, and also when the list
            // comes from a cache: the expiry is in the record.
            Some(expiry) if now() > expiry => table.refusal(true, Lookup::UnknownCredential),
            Some(_) | None => Lookup::Found(access.clone()),
        }
    }

    /// State of the list, which says how far it can be trusted.
    pub fn list(&self) -> ListState {
        self.table.load().list
    }

    /// Watches the state of the list.
    pub fn watch_list(&self) -> watch::Receiver<ListState> {
        self.list.subscribe()
    }

    /// All environments, in the order of their names.
    pub fn environments(&self) -> Arc<[Arc<Environment>]> {
        self.table.load().environments.clone()
    }

    pub(super) fn swap(&self, table: Table) {
        let list = table.list;
        self.table.store(Arc::new(table));
        self.list.send_replace(list);
    }
}

#[cfg(test)]
impl Registry {
    /// The environment of that name.
    pub(super) fn environment(
        &self,
        reference: &crate::model::EnvironmentRef,
    ) -> Option<Arc<Environment>> {
        self.environments().iter().find(|known| known.reference == *reference).cloned()
    }

    /// A registry of environments that their SDK keys open, for tests of the server.
    pub(crate) fn of(specs: Vec<crate::model::EnvironmentSpec>) -> (Self, Vec<Arc<Environment>>) {
        let mut by_credential = HashMap::new();
        let mut environments = Vec::new();
        for spec in specs {
            let environment = Arc::new(Environment::new(Arc::new(spec), SystemTime::UNIX_EPOCH));
            let spec = environment.spec();
            for key in &spec.credentials.sdk_keys {
                let access = Access {
                    environment: environment.clone(),
                    lease: Arc::default(),
                    expiry: None,
                };
                let views = vec![(spec.reference.filter.clone(), access)];
                by_credential.insert(Credential::Sdk(key.value.clone()), views);
            }
            environments.push(environment);
        }
        let registry = Self::default();
        let known = environments.clone().into();
        registry.swap(Table {
            list: ListState::Authoritative,
            environments: known,
            by_credential,
            refused: HashSet::new(),
        });
        (registry, environments)
    }

    /// Revokes every credential.
    pub(crate) fn forget_all(&self) {
        self.swap(Table::of(ListState::Authoritative, Arc::default()));
    }
}
