//! Turns records into the units that the relay should run: one for each environment and one for
//! each of its payload filters. Pure.
//!
//! The whole desired set is computed again after each change and compared with the one before, so
//! that filters that arrive before their environments, environments that move to another project
//! and filters that change need no code of their own.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::records::{EnvironmentRecord, FilterRecord, KeyRecord};
use crate::model::{
    AcceptedKey, CredentialSet, EnvironmentChange, EnvironmentId, EnvironmentRef, EnvironmentSpec,
    FilterKey,
};

/// Settings that all autoconfigured environments share.
#[derive(Clone, Debug, Default)]
pub struct SpecSettings {
    /// Prefix template of the flag store; every `$CID` is replaced.
    pub store_prefix: String,
    /// DynamoDB table template; every `$CID` is replaced.
    pub store_table: String,
    /// CORS origins.
    pub allowed_origins: Arc<[String]>,
    /// Additional CORS request headers.
    pub allowed_headers: Arc<[String]>,
}

/// The units to run, by their names.
pub type Specs = BTreeMap<EnvironmentRef, Arc<EnvironmentSpec>>;

/// Computes the units to run.
pub fn desired<'a>(
    environments: impl Iterator<Item = &'a Arc<EnvironmentRecord>>,
    filters: &[Arc<FilterRecord>],
    settings: &SpecSettings,
) -> Specs {
    let mut specs = Specs::new();
    for record in environments {
        let own = filters.iter().filter(|filter| filter.project_key == record.project_key);
        for filter in [""].into_iter().chain(own.map(|filter| filter.key.as_str())) {
            let spec = spec(record, filter, settings);
            specs.insert(spec.reference.clone(), Arc::new(spec));
        }
    }
    specs
}

/// The steps that lead from one set of units to another: removals first.
pub fn difference(from: &Specs, to: &Specs) -> Vec<EnvironmentChange> {
    let removed = from
        .keys()
        .filter(|reference| !to.contains_key(*reference))
        .map(|reference| EnvironmentChange::Remove(reference.clone()));
    let upserted = to
        .iter()
        .filter(|(reference, spec)| from.get(*reference) != Some(*spec))
        .map(|(_, spec)| EnvironmentChange::Upsert(spec.clone()));
    removed.chain(upserted).collect()
}

fn spec(record: &EnvironmentRecord, filter: &str, settings: &SpecSettings) -> EnvironmentSpec {
    let cid = if filter.is_empty() { record.id.clone() } else { format!("{}.{filter}", record.id) };
    let minutes = u64::try_from(record.default_ttl_minutes).unwrap_or(0);
    EnvironmentSpec {
        reference: EnvironmentRef {
            environment: record.id.as_str().into(),
            filter: FilterKey::new(filter),
        },
        environment_key: record.key.clone(),
        environment_name: record.name.clone(),
        project_key: record.project_key.clone(),
        project_name: record.project_name.clone(),
        credentials: credentials(record),
        ttl: Duration::from_secs(minutes.saturating_mul(60)),
        secure_mode: record.secure_mode,
        allowed_origins: settings.allowed_origins.clone(),
        allowed_headers: settings.allowed_headers.clone(),
        store_prefix: settings.store_prefix.replace("$CID", &cid),
        store_table: settings.store_table.replace("$CID", &cid),
    }
}

/// The accepted keys (ld-relay v8 with concurrent keys): the lists where they are given, else
/// the single keys and the one expiring key of older senders.
fn credentials(record: &EnvironmentRecord) -> CredentialSet {
    let mut sdk_keys = accepted(&record.sdk_keys, Some(&record.anchor));
    if record.sdk_keys.is_empty() {
        sdk_keys.push(AcceptedKey { value: record.anchor.clone(), name: None, expiry: None });
        if let Some((value, at)) = &record.expiring
            && *value != record.anchor
        {
            sdk_keys.push(AcceptedKey {
                value: value.clone(),
                name: None,
                expiry: Some(unix_ms(*at)),
            });
        }
    }
    let primary = record.mobile_key.as_ref();
    let mut mobile_keys = accepted(&record.mobile_keys, primary);
    if record.mobile_keys.is_empty()
        && let Some(value) = primary
    {
        mobile_keys.push(AcceptedKey { value: value.clone(), name: None, expiry: None });
    }
    CredentialSet {
        anchor: record.anchor.clone(),
        sdk_keys,
        primary_mobile: record.mobile_key.clone(),
        mobile_keys,
        environment_id: Some(EnvironmentId::new(record.id.as_str())),
    }
}

/// Keys of a list that clients may use. The designated key is permanent and its own marks are
/// ignored; any other value is refused if one of its entries carries an unsupported mark.
fn accepted<K: Clone + Eq + Hash>(
    entries: &[KeyRecord<K>],
    designated: Option<&K>,
) -> Vec<AcceptedKey<K>> {
    let refused: HashSet<&K> =
        entries.iter().filter(|entry| entry.has_views).map(|entry| &entry.value).collect();
    let mut seen = HashSet::new();
    let mut keys = Vec::with_capacity(entries.len());
    for entry in entries {
        let is_designated = designated == Some(&entry.value);
        let is_refused = !is_designated && refused.contains(&entry.value);
        if !is_refused && seen.insert(&entry.value) {
            keys.push(AcceptedKey {
                value: entry.value.clone(),
                name: (!entry.name.is_empty()).then(|| entry.name.clone()),
                expiry: if is_designated { None } else { entry.expiry_ms.map(unix_ms) },
            });
        }
    }
    keys
}

/// Names of the keys of an environment that are refused because they are bound to views.
pub(super) fn keys_with_views(record: &EnvironmentRecord) -> BTreeSet<&str> {
    fn refused<'a, K: Eq>(
        entries: &'a [KeyRecord<K>],
        designated: Option<&'a K>,
    ) -> impl Iterator<Item = &'a str> {
        let bound =
            move |entry: &&KeyRecord<K>| entry.has_views && Some(&entry.value) != designated;
        entries.iter().filter(bound).map(|entry| entry.name.as_str())
    }
    refused(&record.sdk_keys, Some(&record.anchor))
        .chain(refused(&record.mobile_keys, record.mobile_key.as_ref()))
        .collect()
}

/// Unix milliseconds; what is before 1970 counts as 1970, which is expired either way.
fn unix_ms(ms: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn records(environments: &[Value]) -> Vec<Arc<EnvironmentRecord>> {
        environments.iter().map(|v| Arc::new(EnvironmentRecord::from_json(v).unwrap())).collect()
    }

    fn filter(project: &str, key: &str) -> Arc<FilterRecord> {
        Arc::new(FilterRecord { project_key: project.to_owned(), key: key.to_owned(), version: 1 })
    }

    fn names(specs: &Specs) -> Vec<String> {
        specs.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn each_environment_stands_once_for_itself_and_once_for_each_filter_of_its_project() {
        let environments = records(&[
            json!({"envID":"e1","projKey":"web","sdkKey":{"value":"a"}}),
            json!({"envID":"e2","projKey":"app","sdkKey":{"value":"b"}}),
        ]);
        let settings = SpecSettings {
            store_prefix: "ld-$CID-$CID".to_owned(),
            store_table: "t-$CID".to_owned(),
            ..SpecSettings::default()
        };
        let filters = [filter("web", "small"), filter("web", "tiny"), filter("none", "x")];
        let specs = desired(environments.iter(), &filters, &settings);
        assert_eq!(names(&specs), ["e1", "e1/small", "e1/tiny", "e2"]);
        let small = specs.values().nth(1).unwrap();
        assert_eq!(small.store_prefix, "ld-e1.small-e1.small");
        assert_eq!(small.store_table, "t-e1.small");

        let moved = records(&[
            json!({"envID":"e1","projKey":"app","sdkKey":{"value":"a"}}),
            json!({"envID":"e2","projKey":"app","sdkKey":{"value":"b"}}),
        ]);
        let after = desired(moved.iter(), &filters, &settings);
        let steps: Vec<String> = difference(&specs, &after)
            .iter()
            .map(|step| match step {
                EnvironmentChange::Remove(reference) => format!("-{reference}"),
                EnvironmentChange::Upsert(spec) => format!("+{}", spec.reference),
                EnvironmentChange::List(_) => "list".to_owned(),
            })
            .collect();
        assert_eq!(steps, ["-e1/small", "-e1/tiny", "+e1"]);
        assert!(difference(&after, &after).is_empty());
    }

    /// Shows accepted keys as `value`, `value@expiry` with seconds.
    #[track_caller]
    fn check_keys(environment: Value, sdk: &str, mobile: &str) {
        let record = records(&[environment]).remove(0);
        record.check_credentials().unwrap();
        let set = credentials(&record);
        fn show(text: &str, expiry: Option<SystemTime>) -> String {
            expiry.map_or(text.to_owned(), |at| {
                let after = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
                format!("{text}@{}", after.as_secs())
            })
        }
        let sdk_keys: Vec<_> =
            set.sdk_keys.iter().map(|key| show(key.value.expose(), key.expiry)).collect();
        let mobile_keys: Vec<_> =
            set.mobile_keys.iter().map(|key| show(key.value.expose(), key.expiry)).collect();
        assert_eq!((sdk_keys.join(" ").as_str(), mobile_keys.join(" ").as_str()), (sdk, mobile));
    }

    #[test]
    fn accepted_keys_follow_the_newest_rules() {
        let e = |more: Value| {
            let mut value = json!({"envID":"e","sdkKey":{"value":"a"}});
            value.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
            value
        };
        check_keys(e(json!({})), "a", "");
        check_keys(e(json!({"mobKey":"m","sdkKeys":[],"mobileKeys":[]})), "a", "m");
        // The single expiring key of older senders.
        let expiring = json!({"value":"a","expiring":{"value":"old","timestamp":7000}});
        check_keys(e(json!({"sdkKey": expiring})), "a old@7", "");
        // It is ignored if there is a list.
        check_keys(e(json!({"sdkKey": expiring, "sdkKeys":[{"value":"a"}]})), "a", "");
        // The designated key never expires and its own mark is ignored.
        check_keys(
            e(json!({"sdkKeys":[{"value":"a","expiry":5000,"hasViews":true},
                {"value":"b","expiry":9000},{"value":"c","hasViews":true}],
                "mobKey":"m","mobileKeys":[{"value":"m","hasViews":true},{"value":"n","hasViews":true}]})),
            "a b@9",
            "m",
        );
        let marked = records(&[json!({"envID":"e","sdkKey":{"value":"a"},"mobKey":"m",
            "sdkKeys":[{"key":"default","value":"a","hasViews":true},
                {"key":"batch","value":"b","hasViews":true},{"key":"plain","value":"c"}],
            "mobileKeys":[{"value":"m","hasViews":true},{"key":"app","value":"n","hasViews":true}]})]);
        assert_eq!(keys_with_views(&marked[0]), BTreeSet::from(["app", "batch"]));
        // A value listed twice is refused if either entry is marked.
        check_keys(
            e(json!({"sdkKeys":[{"value":"a"},{"value":"b"},{"value":"b","hasViews":true}]})),
            "a",
            "",
        );
        check_keys(e(json!({"sdkKeys":[{"value":"a"},{"value":"b"},{"value":"b"}]})), "a b", "");
    }
}
