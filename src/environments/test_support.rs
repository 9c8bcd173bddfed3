//! Environments for the tests of this module.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::model::{
    AcceptedKey, CredentialSet, EnvironmentId, EnvironmentRef, EnvironmentSpec, FilterKey, SdkKey,
};

pub(super) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// An environment whose SDK keys are words such as `a` or `b@7` (expires at second 7), the first
/// one being designated.
pub(super) fn spec(name: &str, keys: &str) -> Arc<EnvironmentSpec> {
    let sdk_keys: Vec<_> = keys
        .split_whitespace()
        .map(|word| {
            let (value, expiry) = word.split_once('@').unwrap_or((word, ""));
            AcceptedKey {
                value: SdkKey::new(value),
                name: None,
                expiry: expiry.parse().ok().map(at),
            }
        })
        .collect();
    Arc::new(EnvironmentSpec {
        reference: EnvironmentRef { environment: name.into(), filter: FilterKey::new("") },
        environment_key: name.to_owned(),
        environment_name: name.to_owned(),
        project_key: String::new(),
        project_name: String::new(),
        credentials: CredentialSet {
            anchor: sdk_keys[0].value.clone(),
            sdk_keys,
            primary_mobile: None,
            mobile_keys: Vec::new(),
            environment_id: Some(EnvironmentId::new(name)),
        },
        ttl: Duration::ZERO,
        secure_mode: false,
        allowed_origins: Arc::default(),
        allowed_headers: Arc::default(),
        store_prefix: String::new(),
        store_table: String::new(),
    })
}
