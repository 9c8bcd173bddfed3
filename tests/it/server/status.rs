//! `/status`, as ld-relay's users and their monitors know it.

use std::time::{Duration, SystemTime};

use pilotlight::testing::demo::fake_launchdarkly::{Fault, FaultRule, FaultScope};
use pilotlight::testing::demo::representations::{
    EnvironmentRep, ExpiringKeyRep, KeyRep, SdkKeyRep,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::fixture::{ENVIRONMENT_ID, MOBILE_KEY, SDK_KEY, Site, check_text, filter, launchdarkly};
use pilotlight_test_kit::relay::{RelayProcess, RelaySettings};

const OBSCURED_SDK_KEY: &str = "sdk-********-****-****-****-*******44444";
const OBSCURED_MOBILE_KEY: &str = "mob-********-****-****-****-*******44444";

/// The status without what differs from run to run.
async fn timeless(relay: &RelayProcess) -> Value {
    fn strip(value: &mut Value) {
        if let Some(members) = value.as_object_mut() {
            for name in ["stateSince", "ageSeconds", "time"] {
                if members.contains_key(name) {
                    // An age that is not known is null.
                    let is_unknown = name == "ageSeconds" && members[name].is_null();
                    assert!(members[name].is_u64() || is_unknown, "{members:?}");
                    members.remove(name);
                }
            }
            members.values_mut().for_each(strip);
        }
    }
    let mut status = relay.status().await;
    strip(&mut status);
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manual_environment_has_ld_relays_members() {
    let site = Site::manual().await;
    let (_stream, _) = site.relay.stream_with_put("/all", SDK_KEY).await;
    let response = site.relay.get("/status", &[]).await;
    assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")));
    for key in [SDK_KEY, MOBILE_KEY] {
        assert!(!response.text().contains(key), "{}", response.text());
    }
    let status = timeless(&site.relay).await;
    assert_eq!(
        status["environments"],
        json!({"Prod": {
            "sdkKey": OBSCURED_SDK_KEY,
            "envId": ENVIRONMENT_ID,
            "mobileKey": OBSCURED_MOBILE_KEY,
            "sdkKeys": [{"value": OBSCURED_SDK_KEY}],
            "mobileKeys": [{"value": OBSCURED_MOBILE_KEY}],
            "status": "connected",
            "connectionStatus": {"state": "VALID"},
            "dataStoreStatus": {"state": "VALID"},
            "data": {"origin": "live", "flags": 3, "segments": 1, "streams": 1},
        }})
    );
    assert_eq!(status["status"], "healthy");
    assert!(status["version"].is_string() && status["clientVersion"].is_string());
    assert_eq!(status.get("autoConfigStatus"), None, "there is no automatic configuration");
    assert!(status["localStore"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn filtered_and_nameless_environments_have_keys_of_their_own() {
    let launchdarkly = launchdarkly();
    launchdarkly.upsert_filter("f1", filter("small"));
    launchdarkly.upsert_environment(EnvironmentRep::simple("bare-id", "short", "mob-bare"));
    let site = Site::manual_before(launchdarkly, |settings| {
        settings
            .with("LD_PROJ_KEY_Prod", "shop")
            .with("LD_FILTER_KEYS_shop", "small")
            .with("LD_ENV_Bare", "short")
            // Once there are filters, every environment has a project.
            .with("LD_PROJ_KEY_Bare", "other")
    })
    .await;
    let status = timeless(&site.relay).await;
    let environments = status["environments"].as_object().unwrap();
    let names: Vec<_> = environments.keys().collect();
    assert_eq!(names, ["Bare", "Prod", "Prod/small"]);
    let small = &environments["Prod/small"];
    assert_eq!(
        (&small["sdkKey"], &small["envId"]),
        (&OBSCURED_SDK_KEY.into(), &ENVIRONMENT_ID.into())
    );
    for name in ["envKey", "envName", "projKey", "projName", "expiringSdkKey"] {
        assert_eq!(small.get(name), None, "{name}");
    }
    let bare = &environments["Bare"];
    assert_eq!((&bare["sdkKey"], &bare["mobileKeys"]), (&json!("*****"), &json!([])));
    assert_eq!((bare.get("envId"), bare.get("mobileKey")), (None, None));
    // Without an environment ID there is none to be told.
    let response = site.relay.get_with_key("/sdk/flags", "short").await;
    assert_eq!(response.header("x-ld-envid"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn automatic_configuration_adds_names_and_all_keys() {
    let launchdarkly = launchdarkly();
    let later = SystemTime::now() + Duration::from_secs(3_600);
    let later = later.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    let later = u64::try_from(later).unwrap();
    let old_key = "sdk-99999999-1111-2222-3333-abcdefabcdef";
    let rep = launchdarkly.environment(ENVIRONMENT_ID).unwrap();
    launchdarkly.upsert_environment(EnvironmentRep {
        sdk_key: SdkKeyRep {
            value: SDK_KEY.to_owned(),
            expiring: ExpiringKeyRep { value: old_key.to_owned(), timestamp: later },
        },
        sdk_keys: vec![
            KeyRep::permanent("default", SDK_KEY),
            KeyRep::permanent("second", "sdk-22222222-0000-0000-0000-000000000000"),
            KeyRep::expiring("old", old_key, later),
        ],
        mobile_keys: vec![
            KeyRep::permanent("default", MOBILE_KEY),
            KeyRep::permanent("second", "mob-22222222-0000-0000-0000-000000000000"),
        ],
        ..rep
    });
    launchdarkly.upsert_filter("f1", filter("small"));
    let site = Site::autoconfig(launchdarkly).await;
    let status = timeless(&site.relay).await;
    let environments = status["environments"].as_object().unwrap();
    let filtered = format!("{ENVIRONMENT_ID}/small");
    assert_eq!(environments.keys().collect::<Vec<_>>(), [ENVIRONMENT_ID, &filtered]);
    let expiring = "sdk-********-****-****-****-*******bcdef";
    let mut expected = json!({
        "sdkKey": OBSCURED_SDK_KEY,
        "envId": ENVIRONMENT_ID,
        "envKey": "prod",
        "envName": "Production",
        "projKey": "project",
        "projName": "Project",
        "mobileKey": OBSCURED_MOBILE_KEY,
        "expiringSdkKey": expiring,
        "sdkKeys": [
            {"key": "default", "value": OBSCURED_SDK_KEY},
            {"key": "second", "value": "sdk-********-****-****-****-*******00000"},
            {"key": "old", "value": expiring, "expiry": later},
        ],
        "mobileKeys": [
            {"key": "default", "value": OBSCURED_MOBILE_KEY},
            {"key": "second", "value": "mob-********-****-****-****-*******00000"},
        ],
        "status": "connected",
        "connectionStatus": {"state": "VALID"},
        "dataStoreStatus": {"state": "VALID"},
        "data": {"origin": "live", "flags": 3, "segments": 1, "streams": 0},
    });
    assert_eq!(environments[ENVIRONMENT_ID], expected);
    expected["data"] = json!({"origin": "live", "flags": 0, "segments": 0, "streams": 0});
    assert_eq!(environments[&filtered], expected);
    assert_eq!(status["autoConfigStatus"], json!({"state": "VALID"}));
    let text = status.to_string();
    for secret in [SDK_KEY, MOBILE_KEY, old_key, "rel-"] {
        assert!(!text.contains(secret), "{text}");
    }
}

/// Waits for the state of the connection, of the environment and of the relay.
async fn wait(relay: &RelayProcess, states: [&str; 3]) -> Value {
    relay
        .wait_for_status(&format!("{states:?}"), |status| {
            let prod = &status["environments"]["Prod"];
            [&prod["connectionStatus"]["state"], &prod["status"], &status["status"]] == states
        })
        .await["environments"]["Prod"]
        .clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn states_follow_the_upstream_connection() {
    let launchdarkly = launchdarkly();
    let refusal =
        launchdarkly.inject(FaultRule::new(FaultScope::Flags, Fault::status(401)).for_key(SDK_KEY));
    let store = TempDir::new().unwrap();
    let settings = RelaySettings::manual(&launchdarkly, store.path())
        .with("LD_ENV_Prod", SDK_KEY)
        .with("DISCONNECTED_STATUS_TIME", "3s");
    let relay = settings.start().unwrap();
    relay
        .wait_for_status("the refusal shows", |status| {
            status["environments"]["Prod"]["connectionStatus"].get("lastError").is_some()
        })
        .await;
    let prod = wait(&relay, ["OFF", "disconnected", "degraded"]).await;
    assert_eq!(prod["connectionStatus"]["lastError"]["kind"], "ERROR_RESPONSE");
    assert_eq!(prod["connectionStatus"]["lastError"]["statusCode"], 401);
    assert_eq!(prod["data"]["origin"], "none");
    assert!(prod["data"].get("ageSeconds").is_some_and(Value::is_null), "{prod:#}");
    let log = relay.log();
    assert!(log.contains("LaunchDarkly rejects the SDK key"), "{log}");
    assert!(log.contains(OBSCURED_SDK_KEY) && !log.contains(SDK_KEY), "{log}");
    drop(relay);

    launchdarkly.clear_fault(refusal);
    let relay = settings.start().unwrap();
    let prod = wait(&relay, ["VALID", "connected", "healthy"]).await;
    assert_eq!(prod["connectionStatus"].get("lastError"), None);
    assert_eq!(prod["data"]["ageSeconds"], 0);
    launchdarkly.stop().await;
    wait(&relay, ["INTERRUPTED", "connected", "healthy"]).await;
    let prod = wait(&relay, ["INTERRUPTED", "disconnected", "degraded"]).await;
    assert_eq!(prod["connectionStatus"]["lastError"]["kind"], "NETWORK_ERROR");
    assert_eq!(prod["data"]["origin"], "live", "what was live is still served");
    launchdarkly.start().unwrap();
    let prod = wait(&relay, ["VALID", "connected", "healthy"]).await;
    assert_eq!(prod["connectionStatus"]["lastError"]["kind"], "NETWORK_ERROR", "it stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_no_uuids_are_hidden_as_a_whole() {
    let launchdarkly = launchdarkly();
    launchdarkly.upsert_environment(EnvironmentRep::simple("shop", "sdk-shop-secret", "mob-shop"));
    let more = |settings: RelaySettings| settings.with("LD_ENV_Shop", "sdk-shop-secret");
    let site = Site::manual_before(launchdarkly, more).await;
    let whole = site.relay.get("/status", &[]).await;
    assert!(whole.text().ends_with("}\n"), "{}", whole.text());
    assert!(whole.text().contains("\"sdk-***********\""), "hidden as a whole: {}", whole.text());
    assert!(!whole.text().contains("shop-secret"), "{}", whole.text());
    assert_eq!(site.relay.get("/status?pretty", &[]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_environment_is_found_by_name_by_id_and_by_keys() {
    let launchdarkly = launchdarkly();
    launchdarkly.upsert_filter("filter-1", filter("f"));
    let site = Site::autoconfig(launchdarkly).await;
    let whole = site.relay.get("/status", &[]).await.json();
    for (path, name) in [
        (format!("/status/{ENVIRONMENT_ID}"), ENVIRONMENT_ID.to_owned()),
        (format!("/status/{ENVIRONMENT_ID}/filters/f"), format!("{ENVIRONMENT_ID}/f")),
        ("/status/project/prod".to_owned(), ENVIRONMENT_ID.to_owned()),
        ("/status/project/prod/filters/f".to_owned(), format!("{ENVIRONMENT_ID}/f")),
    ] {
        let response = site.relay.get(&path, &[]).await;
        assert_eq!(response.status, 200, "{path}");
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert_eq!(response.json(), whole["environments"][&name], "{path}");
    }
    for path in ["/status/other", "/status/project/other", "/status/project/prod/filters/g"] {
        let response = site.relay.get(path, &[]).await;
        assert_eq!(response.status, 404, "{path}");
        check_text(&response, path);
    }
    let manual = Site::manual().await;
    for path in ["/status/Prod", &format!("/status/{ENVIRONMENT_ID}")] {
        assert_eq!(manual.relay.get(path, &[]).await.status, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn monitoring_gets_its_answer_as_a_code() {
    let site = Site::manual().await;
    for (query, expected) in [
        ("/status?expect=status%3Dhealthy", 200),
        ("/status?expect=status=healthy&expect=environments.Prod.status=connected", 200),
        ("/status?expect=environments.Prod.connectionStatus.state!=VALID", 412),
        ("/status?expect=environments.Test.status=connected", 412),
        ("/status?expect=environments.Prod.stat=connected", 422),
        ("/status?expect=status%3Dhealthy&expect=status", 400),
        ("/status?%65xpect", 400),
        ("/status?expect=status=%zz", 400),
        ("/status/Prod?expect=status=connected&expect=connectionStatus.state=VALID", 200),
        ("/status/Prod?expect=status=disconnected", 412),
        ("/status/Test?expect=status", 404),
    ] {
        let response = site.relay.get(query, &[]).await;
        assert_eq!(response.status, expected, "{query}: {}", response.text());
    }
    let response = site.relay.get("/status?expect=status=degraded", &[]).await;
    assert_eq!(
        response.json(),
        json!({"satisfied": false, "results": [
            {"expr": "status=degraded", "expected": "degraded", "actual": "healthy", "ok": false}]})
    );
}
