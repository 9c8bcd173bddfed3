//! Computes which credential opens which environment: the table for the registry, and the leases
//! that end. Pure.
//!
//! A credential that stays keeps its lease, so that its streams go on; one that expired, was
//! removed or moved to another environment loses it. Only the list decides; the state of upstream
//! connections changes nothing.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use super::environment::Environment;
use super::registry::{Access, Lease, Table};
use crate::model::{Credential, EnvironmentRef, EnvironmentSpec, FilterKey, ListState};

/// Revoked credentials that are remembered. Those beyond it get 503 instead of 401 when the list is
/// no longer authoritative, which costs retries and nothing else.
const REVOKED_MAX: usize = 10_000;

/// The environments that hold leases, by credential and filter.
type Leases = HashMap<(Credential, FilterKey), (EnvironmentRef, Arc<Lease>)>;

/// Credentials that opened an environment before and open none now, the oldest first.
#[derive(Debug, Default)]
struct Revoked(VecDeque<(Credential, FilterKey)>);

impl Revoked {
    fn update(&mut self, former: &Leases, current: &Leases) {
        self.0.retain(|key| !current.contains_key(key));
        self.0.extend(former.keys().filter(|key| !current.contains_key(*key)).cloned());
        let surplus = self.0.len().saturating_sub(REVOKED_MAX);
        self.0.drain(..surplus);
    }
}

/// Facts of the newest table that the next one needs.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    leases: Leases,
    /// Keys that would open an environment if they did not open another one.
    conflicts: HashSet<(Credential, EnvironmentRef)>,
    /// The earliest expiry of a key.
    next_expiry: Option<SystemTime>,
    /// Credentials that no longer open anything.
    revoked: Revoked,
}

impl Credentials {
    /// True if a key of the newest table has expired since.
    pub(super) fn has_expired(&self, now: SystemTime) -> bool {
        self.next_expiry.is_some_and(|expiry| now > expiry)
    }

    /// Computes the table for that moment, and the leases that end.
    pub(super) fn rebuild(
        &mut self,
        list: ListState,
        environments: &Arc<[Arc<Environment>]>,
        now: SystemTime,
    ) -> (Table, Vec<(EnvironmentRef, Arc<Lease>)>) {
        let mut draft = Draft {
            table: Table::of(list, environments.clone()),
            former: &self.leases,
            next: Self::default(),
        };
        for environment in environments.iter() {
            for (credential, expiry) in accepted(&environment.spec(), now) {
                draft.admit(environment, credential, expiry);
            }
        }
        let Draft { mut table, mut next, .. } = draft;
        next.revoked = std::mem::take(&mut self.revoked);
        next.revoked.update(&self.leases, &next.leases);
        if list == ListState::Lapsed {
            table.refused.extend(next.revoked.0.iter().cloned());
            for environment in environments.iter() {
                let expired = expired(&environment.spec(), now).into_iter();
                let filter = &environment.reference.filter;
                table.refused.extend(expired.map(|credential| (credential, filter.clone())));
            }
        }
        // Logged once, not at every check for expired keys.
        for (_, environment) in next.conflicts.difference(&self.conflicts) {
            tracing::warn!(%environment, "a key of this environment already opens another one");
        }
        let former = std::mem::replace(self, next).leases;
        let ended = former.into_iter().filter(|(key, (_, lease))| {
            self.leases.get(key).is_none_or(|(_, kept)| !Arc::ptr_eq(kept, lease))
        });
        (table, ended.map(|(_, lease)| lease).collect())
    }
}

/// A table that is being built.
struct Draft<'a> {
    table: Table,
    former: &'a Leases,
    next: Credentials,
}

impl Draft<'_> {
    /// Lets a credential open an environment, unless it opens another one already.
    fn admit(
        &mut self,
        environment: &Arc<Environment>,
        credential: Credential,
        expiry: Option<SystemTime>,
    ) {
        let reference = &environment.reference;
        let views = self.table.by_credential.entry(credential.clone()).or_default();
        if views.iter().any(|(filter, _)| *filter == reference.filter) {
            self.next.conflicts.insert((credential, reference.clone()));
            return;
        }
        let key = (credential, reference.filter.clone());
        let lease = match self.former.get(&key) {
            Some((owner, lease)) if owner == reference => lease.clone(),
            Some(_) | None => Arc::default(),
        };
        let access = Access { environment: environment.clone(), lease: lease.clone(), expiry };
        views.push((reference.filter.clone(), access));
        self.next.leases.insert(key, (reference.clone(), lease));
        let soonest = self.next.next_expiry.into_iter().chain(expiry).min();
        self.next.next_expiry = soonest;
    }
}

/// The credentials that open an environment at a moment.
fn accepted(spec: &EnvironmentSpec, now: SystemTime) -> Vec<(Credential, Option<SystemTime>)> {
    let keys = &spec.credentials;
    let sdk = keys.sdk_keys.iter().filter(|key| key.is_valid_at(now));
    let sdk = sdk.map(|key| (Credential::Sdk(key.value.clone()), key.expiry));
    let mobile = keys.mobile_keys.iter().filter(|key| key.is_valid_at(now));
    let mobile = mobile.map(|key| (Credential::Mobile(key.value.clone()), key.expiry));
    let id = keys.environment_id.iter().map(|id| (Credential::EnvironmentId(id.clone()), None));
    sdk.chain(mobile).chain(id).collect()
}

/// The keys of an environment that have expired at a moment.
fn expired(spec: &EnvironmentSpec, now: SystemTime) -> Vec<Credential> {
    let keys = &spec.credentials;
    let sdk = keys.sdk_keys.iter().filter(|key| !key.is_valid_at(now));
    let mobile = keys.mobile_keys.iter().filter(|key| !key.is_valid_at(now));
    sdk.map(|key| Credential::Sdk(key.value.clone()))
        .chain(mobile.map(|key| Credential::Mobile(key.value.clone())))
        .collect()
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
