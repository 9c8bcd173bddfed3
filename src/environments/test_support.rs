//! Environments and data sets for the tests of this module.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::model::{
    AcceptedKey, CredentialSet, DataSet, EnvironmentId, EnvironmentRef, EnvironmentSpec, FilterKey,
    Item, ItemKey, ItemKind, SdkKey,
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

pub(super) fn flag(name: &str) -> ItemKey {
    ItemKey::new(ItemKind::Flag, name)
}

/// `a3 b-4 c2+x`: flag `a` at version 3, the tombstone of `b`, and `c` with other content.
pub(super) fn items(text: &str) -> Vec<(ItemKey, Arc<Item>)> {
    text.split_whitespace()
        .map(|word| {
            let (name, rest) = word.split_at(1);
            let (version, content) = rest.split_once('+').unwrap_or((rest, ""));
            let item = match version.strip_prefix('-') {
                Some(version) => Item::tombstone(version.parse().unwrap()),
                None => {
                    let json = format!(r#"{{"version":{version},"x":"{content}"}}"#);
                    Item::live(version.parse().unwrap(), json)
                }
            };
            (flag(name), Arc::new(item))
        })
        .collect()
}

/// The data set of these [`items`].
pub(super) fn data(text: &str) -> DataSet {
    let mut data = DataSet::default();
    for (key, item) in items(text) {
        data.upsert(&key, item);
    }
    data
}

/// An item as [`items`] reads it, without its content.
pub(super) fn word(name: &str, item: &Item) -> String {
    format!("{name}{}{}", if item.is_tombstone() { "-" } else { "" }, item.version)
}
