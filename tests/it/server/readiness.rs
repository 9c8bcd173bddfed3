//! `/livez` and `/readyz`.

use pilotlight::testing::demo::composed_data::{environment, sdk_key};
use pilotlight::testing::demo::fake_launchdarkly::{
    FakeLaunchDarkly, FakeSettings, Fault, FaultRule, FaultScope,
};
use serde_json::json;
use tempfile::TempDir;

use super::fixture::autoconfig_settings;
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::relay::RelayProcess;

/// So many environments, of which LaunchDarkly gives no data for the first few.
fn launchdarkly(environments: usize, without_data: usize) -> FakeLaunchDarkly {
    let launchdarkly = FakeLaunchDarkly::launch(&FakeSettings::default()).unwrap();
    for index in 0..environments {
        if index < without_data {
            let rule = FaultRule::new(FaultScope::Flags, Fault::WithoutPut);
            launchdarkly.inject(rule.for_key(&sdk_key(index)));
        }
        launchdarkly.load(&environment(index, 2));
    }
    launchdarkly
}

/// Waits for an answer of `/readyz`: status, reasons, known and serving environments.
async fn wait(relay: &RelayProcess, status: u16, reasons: &[&str], known: usize, serving: usize) {
    let expected = json!({
        "ready": status == 200,
        "reasons": reasons,
        "environments": {"known": known, "serving": serving},
    });
    eventually(&format!("/readyz says {expected}"), async || {
        let response = relay.get("/readyz", &[]).await;
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert_eq!(response.status == 200, response.json()["ready"] == true);
        assert_eq!(response.asks_to_retry(), response.status == 503);
        if response.status == status && response.json() == expected {
            Ok(())
        } else {
            Err(format!("{}: {}", response.status, response.text()))
        }
    })
    .await;
    let live = relay.get("/livez", &[]).await;
    assert_eq!((live.status, live.text()), (200, "ok"), "alive in any case");
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_when_every_environment_serves() {
    let launchdarkly = launchdarkly(2, 0);
    launchdarkly.stop().await;
    let store = TempDir::new().unwrap();
    let relay = autoconfig_settings(&launchdarkly, &store).start().unwrap();
    wait(&relay, 503, &["the list of environments is not known yet"], 0, 0).await;
    launchdarkly.start().unwrap();
    wait(&relay, 200, &[], 2, 2).await;
    // An outage changes nothing.
    launchdarkly.stop().await;
    relay
        .wait_for_status("the outage is noticed", |status| {
            status["autoConfigStatus"]["state"] == "INTERRUPTED"
        })
        .await;
    wait(&relay, 200, &[], 2, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_environment_without_data_is_waited_for_until_init_timeout() {
    let launchdarkly = launchdarkly(2, 1);
    let store = TempDir::new().unwrap();
    let settings = autoconfig_settings(&launchdarkly, &store);
    let patient = settings.clone().with("INIT_TIMEOUT", "10m").start().unwrap();
    wait(&patient, 503, &["some environments have no data yet"], 2, 1).await;
    drop(patient);
    let relay = settings.with("INIT_TIMEOUT", "1s").start().unwrap();
    wait(&relay, 200, &[], 2, 1).await;
    // The one without data is not served, the other is.
    assert_eq!(relay.get_with_key("/sdk/flags", &sdk_key(0)).await.status, 503);
    assert_eq!(relay.get_with_key("/sdk/flags", &sdk_key(1)).await.status, 200);
    // A new one without data takes nobody out.
    let rule = FaultRule::new(FaultScope::Flags, Fault::WithoutPut).for_key(&sdk_key(2));
    launchdarkly.inject(rule);
    launchdarkly.load(&environment(2, 2));
    wait(&relay, 200, &[], 3, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_to_serve_is_not_ready_and_no_environment_is() {
    let bare = launchdarkly(1, 1);
    let store = TempDir::new().unwrap();
    let settings = autoconfig_settings(&bare, &store).with("INIT_TIMEOUT", "1s");
    let relay = settings.start().unwrap();
    wait(&relay, 503, &["no environment has data yet"], 1, 0).await;
    let empty = launchdarkly(0, 0);
    let store = TempDir::new().unwrap();
    let relay = autoconfig_settings(&empty, &store).start().unwrap();
    wait(&relay, 200, &[], 0, 0).await;
}
