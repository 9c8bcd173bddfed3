//! What an environment is, apart from its flags.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::keys::{EnvironmentId, FilterKey, MobileKey, SdkKey};

/// Names one serving unit: an environment, or an environment seen through a payload filter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnvironmentRef {
    /// The environment ID in autoconfig, the configured name with manual environments.
    pub environment: Arc<str>,
    /// The payload filter; empty for the unfiltered environment.
    pub filter: FilterKey,
}

impl fmt::Display for EnvironmentRef {
    /// `name`, or `name/filter` as ld-relay writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.environment)?;
        if self.filter.is_unfiltered() { Ok(()) } else { write!(f, "/{}", self.filter.as_str()) }
    }
}

/// One key that authenticates clients, with its own end of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedKey<K> {
    /// The secret; identity of the entry.
    pub value: K,
    /// Its non-secret name in LaunchDarkly, shown in `/status`.
    pub name: Option<String>,
    /// Refused strictly after this moment; `None` is permanent.
    pub expiry: Option<SystemTime>,
}

impl<K> AcceptedKey<K> {
    /// Whether it opens its environment at that moment. Refused strictly after the moment of
    /// expiry (ld-relay v8).
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.expiry.is_none_or(|at| now <= at)
    }
}

/// Everything that opens one environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialSet {
    /// The key of the single upstream connection. Always accepted, never expires.
    pub anchor: SdkKey,
    /// All accepted SDK keys, the anchor among them.
    pub sdk_keys: Vec<AcceptedKey<SdkKey>>,
    /// The mobile key used where one is needed; `None` for a server-side-only environment.
    pub primary_mobile: Option<MobileKey>,
    /// All accepted mobile keys, the primary among them.
    pub mobile_keys: Vec<AcceptedKey<MobileKey>>,
    /// The client-side ID, if known.
    pub environment_id: Option<EnvironmentId>,
}

/// Everything the relay is told about one environment, from autoconfig or configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentSpec {
    /// Which environment this is.
    pub reference: EnvironmentRef,
    /// Environment key in LaunchDarkly; empty with manual environments.
    pub environment_key: String,
    /// Display name; the configured name with manual environments.
    pub environment_name: String,
    /// Project key; empty if unknown.
    pub project_key: String,
    /// Project display name; empty if unknown.
    pub project_name: String,
    /// Keys that open it.
    pub credentials: CredentialSet,
    /// Cache lifetime for PHP polling; zero sends no `Expires`.
    pub ttl: Duration,
    /// Whether client-side evaluation demands a hash.
    pub secure_mode: bool,
    /// CORS origins; empty allows every origin.
    pub allowed_origins: Arc<[String]>,
    /// Additional CORS request headers.
    pub allowed_headers: Arc<[String]>,
    /// Prefix of its keys in a shared flag store, `$CID` already replaced.
    pub store_prefix: String,
    /// DynamoDB table of its own, `$CID` already replaced; empty for the global one.
    pub store_table: String,
}

/// How far the list of environments can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListState {
    /// Nothing is known yet.
    Unknown,
    /// Known from a cache, or from a put with unusable records: an unknown credential may still
    /// turn out to be good.
    Provisional,
    /// Was known from a live put, but the stream has been away for a while: a credential that is
    /// not known may have been made since, one that was revoked or has expired stays refused.
    Lapsed,
    /// Known from a live put or from explicit configuration: unknown credentials are refused.
    Authoritative,
}

/// One step in the life of the list of environments.
#[derive(Clone, Debug)]
pub enum EnvironmentChange {
    /// The environment exists and looks like this, whether it is new or known.
    Upsert(Arc<EnvironmentSpec>),
    /// The environment is gone: its credentials are refused and its streams end.
    Remove(EnvironmentRef),
    /// The trust in the list changed. Follows the changes that it is about.
    List(ListState),
}
