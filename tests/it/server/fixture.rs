//! One environment of two flags and a segment, as the compatibility checks name it.

use std::sync::Arc;

use pilotlight::testing::demo::fake_launchdarkly::{FakeLaunchDarkly, FakeSettings};
use pilotlight::testing::demo::representations::{EnvironmentRep, FilterRep};
use pilotlight::testing::model::{DataSet, Item, ItemKey, ItemKind};
use serde_json::{Value, json};
use tempfile::TempDir;

use pilotlight_test_kit::relay::{RelayProcess, RelaySettings, Response};

pub(super) const SDK_KEY: &str = "sdk-00000000-1111-2222-3333-444444444444";
pub(super) const MOBILE_KEY: &str = "mob-00000000-1111-2222-3333-444444444444";
pub(super) const ENVIRONMENT_ID: &str = "65a1b2c3d4e5f60718293a4b";

/// A path segment with a context, as client-side SDKs write it.
pub(super) const CONTEXT: &str = "eyJraW5kIjoidXNlciIsImtleSI6InVzZXItMSJ9";

/// With blanks, an unknown member and a number that a float would not keep.
pub(super) const WEB: &str = concat!(
    r#"{"key":"web", "version": 4,"on":true,"variations":[true,false],"fallthrough":"#,
    r#"{"variation":0},"salt":"a","future":{"ratio":1.0,"large":12345678901234567890},"#,
    r#""clientSideAvailability":{"usingMobileKey":false,"usingEnvironmentId":true}}"#
);
pub(super) const APP: &str = concat!(
    r#"{"key":"app","version":2,"on":false,"variations":[],"salt":"b","#,
    r#""clientSideAvailability":{"usingMobileKey":true,"usingEnvironmentId":false}}"#
);
/// A flag whose key must be encoded in a path.
pub(super) const SPACED: &str = r#"{"key":"a b","version":1,"on":true,"salt":"c"}"#;
pub(super) const BETA: &str = r#"{"key":"beta","version":7,"included":["u1"],"salt":"s"}"#;

/// The map of flags as it is served.
pub(super) fn flags() -> String {
    format!(r#"{{"a b":{SPACED},"app":{APP},"web":{WEB}}}"#)
}

/// All data as it is served.
pub(super) fn all() -> String {
    format!(r#"{{"flags":{},"segments":{{"beta":{BETA}}}}}"#, flags())
}

pub(super) fn data() -> DataSet {
    let mut data = DataSet::default();
    let items = [
        (ItemKind::Flag, "web", Item::live(4, WEB)),
        (ItemKind::Flag, "app", Item::live(2, APP)),
        (ItemKind::Flag, "a b", Item::live(1, SPACED)),
        (ItemKind::Flag, "gone", Item::tombstone(3)),
        (ItemKind::Segment, "beta", Item::live(7, BETA)),
        (ItemKind::Segment, "past", Item::tombstone(9)),
    ];
    for (kind, key, item) in items {
        assert!(data.upsert(&ItemKey::new(kind, key), Arc::new(item)));
    }
    data
}

/// A flag of about so many bytes.
pub(super) fn large_flag(key: &str, version: u64, bytes: usize) -> Value {
    json!({"key": key, "version": version, "on": true, "salt": "x".repeat(bytes)})
}

/// A service that knows the environment.
pub(super) fn launchdarkly() -> FakeLaunchDarkly {
    let launchdarkly = FakeLaunchDarkly::launch(&FakeSettings::default()).unwrap();
    launchdarkly.replace_data(ENVIRONMENT_ID, data());
    launchdarkly.upsert_environment(EnvironmentRep {
        env_key: "prod".to_owned(),
        env_name: "Production".to_owned(),
        ..EnvironmentRep::simple(ENVIRONMENT_ID, SDK_KEY, MOBILE_KEY)
    });
    launchdarkly
}

/// A payload filter of the environment's project.
pub(super) fn filter(key: &str) -> FilterRep {
    FilterRep { proj_key: "project".to_owned(), key: key.to_owned(), version: 0 }
}

/// A relay and what it stands on.
pub(super) struct Site {
    pub(super) relay: RelayProcess,
    pub(super) launchdarkly: FakeLaunchDarkly,
    pub(super) settings: RelaySettings,
    pub(super) store: TempDir,
}

impl Site {
    /// A relay that is told of the environment by its configuration, and has its data.
    pub(super) async fn manual() -> Self {
        Self::manual_with(|settings| settings).await
    }

    /// The same with more settings.
    pub(super) async fn manual_with(more: impl FnOnce(RelaySettings) -> RelaySettings) -> Self {
        Self::manual_before(launchdarkly(), more).await
    }

    /// The same before a service that knows more.
    pub(super) async fn manual_before(
        launchdarkly: FakeLaunchDarkly,
        more: impl FnOnce(RelaySettings) -> RelaySettings,
    ) -> Self {
        let store = TempDir::new().unwrap();
        let settings = RelaySettings::manual(&launchdarkly, store.path())
            .with("LD_ENV_Prod", SDK_KEY)
            .with("LD_MOBILE_KEY_Prod", MOBILE_KEY)
            .with("LD_CLIENT_SIDE_ID_Prod", ENVIRONMENT_ID);
        Self::start(launchdarkly, store, more(settings)).await
    }

    /// A relay that finds its environments by an autoconfig key.
    pub(super) async fn autoconfig(launchdarkly: FakeLaunchDarkly) -> Self {
        let store = TempDir::new().unwrap();
        let settings = autoconfig_settings(&launchdarkly, &store);
        Self::start(launchdarkly, store, settings).await
    }

    async fn start(
        launchdarkly: FakeLaunchDarkly,
        store: TempDir,
        settings: RelaySettings,
    ) -> Self {
        let relay = settings.start().unwrap();
        relay
            .wait_for_status("every environment has live data", |status| {
                let environments = status["environments"].as_object();
                environments.is_some_and(|all| {
                    !all.is_empty() && all.values().all(|one| one["data"]["origin"] == "live")
                })
            })
            .await;
        Self { relay, launchdarkly, settings, store }
    }

    pub(super) async fn get(&self, path: &str) -> Response {
        self.relay.get_with_key(path, SDK_KEY).await
    }
}

pub(super) fn autoconfig_settings(
    launchdarkly: &FakeLaunchDarkly,
    store: &TempDir,
) -> RelaySettings {
    let key = FakeSettings::default().autoconfig_key;
    RelaySettings::autoconfig(launchdarkly, &key, store.path())
}

/// What every plain-text answer has in common.
#[track_caller]
pub(super) fn check_text(response: &Response, what: &str) {
    assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"), "{what}");
    let text = response.text();
    assert!(!text.is_empty() && !text.ends_with('\n'), "{what}: {text:?}");
    check_length(response, what);
}

/// What every empty answer has in common.
#[track_caller]
pub(super) fn check_empty(response: &Response, what: &str) {
    assert_eq!(response.header("content-length"), Some("0"), "{what}");
    assert_eq!(response.header("content-type"), None, "{what}");
    check_length(response, what);
}

#[track_caller]
pub(super) fn check_length(response: &Response, what: &str) {
    let length = response.body.len().to_string();
    assert_eq!(response.header("content-length"), Some(length.as_str()), "{what}");
    assert!(response.header("date").is_some_and(|date| date.ends_with(" GMT")), "{what}");
}
