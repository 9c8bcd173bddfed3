//! The description of an environment, without its flags.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::keys::{EnvironmentId, FilterKey, MobileKey, SdkKey};

/// Identifies one served environment, unfiltered or with a payload filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnvironmentRef {
    /// The environment ID in autoconfig, the configured name with manual environments.
    pub environment: Arc<str>,
    /// The payload filter; empty for the unfiltered environment.
    pub filter: FilterKey,
}

impl fmt::Display for EnvironmentRef {
    /// `name`, or `name/filter` as in ld-relay.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.environment)?;
        if self.filter.is_unfiltered() { Ok(()) } else { write!(f, "/{}", self.filter.as_str()) }
    }
}

/// One key that authenticates clients, with its own expiry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedKey<K> {
    /// The secret; identity of the entry.
    pub value: K,
    /// Its non-secret name in LaunchDarkly, shown in `/status`.
    pub name: Option<String>,
    /// The time after which it is refused; `None` means permanent.
    pub expiry: Option<SystemTime>,
}

impl<K> AcceptedKey<K> {
    /// True if it opens its environment at this time. It is still accepted at the time of its
    /// expiry (ld-relay v8).
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.expiry.is_none_or(|at| now <= at)
    }
}

/// All credentials that open one environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialSet {
    /// The key of the single upstream connection. Always accepted, never expires.
    pub anchor: SdkKey,
    /// All accepted SDK keys, including the anchor.
    pub sdk_keys: Vec<AcceptedKey<SdkKey>>,
    /// The mobile key used where one is needed; `None` for a server-side-only environment.
    pub primary_mobile: Option<MobileKey>,
    /// All accepted mobile keys, including the primary one.
    pub mobile_keys: Vec<AcceptedKey<MobileKey>>,
    /// The client-side ID, if known.
    pub environment_id: Option<EnvironmentId>,
}

/// The specification of one environment, from autoconfig or configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentSpec {
    /// The environment.
    pub reference: EnvironmentRef,
    /// Environment key in LaunchDarkly; empty with manual environments.
    pub environment_key: String,
    /// Display name; the configured name with manual environments.
    pub environment_name: String,
    /// Project key; empty if unknown.
    pub project_key: String,
    /// Project display name; empty if unknown.
    pub project_name: String,
    /// The credentials that open it.
    pub credentials: CredentialSet,
    /// Cache lifetime for PHP polling; zero sends no `Expires`.
    pub ttl: Duration,
    /// True if client-side evaluation requires a hash.
    pub secure_mode: bool,
    /// CORS origins; empty allows every origin.
    pub allowed_origins: Arc<[String]>,
    /// Additional CORS request headers.
    pub allowed_headers: Arc<[String]>,
    /// Prefix of its keys in a shared flag store, `$CID` already replaced.
    pub store_prefix: String,
    /// Its own DynamoDB table, `$CID` already replaced; empty for the global one.
    pub store_table: String,
}

/// The reliability of the list of environments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListState {
    /// Nothing is known yet.
    Unknown,
    /// Known from a cache, or from a put with unusable records: an unknown credential may be valid.
    Provisional,
    /// Was known from a live put, but the stream has been interrupted for a while: an unknown
    /// credential may have been created since; one that was revoked or has expired stays refused.
    Lapsed,
    /// Known from a live put or from explicit configuration: unknown credentials are refused.
    Authoritative,
}

/// One change of the list of environments.
#[derive(Clone, Debug)]
pub enum EnvironmentChange {
    /// The environment exists with this specification; it may be new or known.
    Upsert(Arc<EnvironmentSpec>),
    /// The environment was removed: its credentials are refused and its streams end.
    Remove(EnvironmentRef),
    /// The reliability of the list changed. Sent after the changes that it refers to.
    List(ListState),
}
