//! The main promise: a relay that has ever seen its data serves it at once, whatever is broken.

use pilotlight::testing::demo::composed_data::{
    changed_flag, environment, environment_id, flag_key, sdk_key,
};
use pilotlight::testing::demo::fake_launchdarkly::{
    FakeLaunchDarkly, FakeSettings, Fault, FaultRule, FaultScope,
};
use tempfile::TempDir;

use pilotlight_test_kit::relay::{RelayProcess, RelaySettings, next_event};

fn launchdarkly(environments: usize, flags: usize) -> FakeLaunchDarkly {
    let launchdarkly = FakeLaunchDarkly::launch(&FakeSettings::default()).unwrap();
    for index in 0..environments {
        launchdarkly.load(&environment(index, flags));
    }
    launchdarkly
}

fn settings(launchdarkly: &FakeLaunchDarkly, store: &TempDir) -> RelaySettings {
    let key = FakeSettings::default().autoconfig_key;
    RelaySettings::autoconfig(launchdarkly, &key, store.path())
}

/// A relay of one environment that has everything in its local store.
async fn stored_by(settings: &RelaySettings) -> RelayProcess {
    let relay = settings.start().unwrap();
    relay.wait_until_healthy(1).await;
    relay.wait_until_stored().await;
    relay
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_was_killed_serves_from_its_local_store() {
    let launchdarkly = launchdarkly(3, 20);
    let store = TempDir::new().unwrap();
    let relay = settings(&launchdarkly, &store).start().unwrap();
    let live = relay.stream_with_put("/all", &sdk_key(1)).await.1;
    relay.wait_until_healthy(3).await;
    relay.wait_until_stored().await;
    relay.kill().await.unwrap();

    launchdarkly.inject(FaultRule::new(FaultScope::Everything, Fault::BlackHole));
    let relay = settings(&launchdarkly, &store).start().unwrap();
    for index in 0..3 {
        let (_, put) = relay.stream_with_put("/all", &sdk_key(index)).await;
        assert_eq!(put["data"]["flags"].as_object().unwrap().len(), 20);
        if index == 1 {
            assert_eq!(put, live, "what is served from the store is what was live");
        }
    }
    let status = relay.status().await;
    assert_eq!(status["status"], "degraded", "LaunchDarkly was not reached");
    assert_eq!(status["autoConfigStatus"]["state"], "INITIALIZING");
    assert_eq!(status["environments"][environment_id(0)]["data"]["origin"], "localStore");
    let ready = relay.get("/readyz", &[]).await;
    assert_eq!((ready.status, ready.json()["ready"].as_bool()), (200, Some(true)));
    // A key that fits nothing may still be good: 503, not 401.
    let unknown = relay.get_with_key("/all", "sdk-unknown").await;
    assert_eq!((unknown.status, unknown.asks_to_retry()), (503, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_launchdarkly_returns_clients_get_only_what_is_new() {
    let launchdarkly = launchdarkly(1, 10);
    let store = TempDir::new().unwrap();
    let relay = settings(&launchdarkly, &store).start().unwrap();
    relay.wait_until_healthy(1).await;
    relay.wait_until_stored().await;
    relay.kill().await.unwrap();

    launchdarkly.stop().await;
    let relay = settings(&launchdarkly, &store).start().unwrap();
    let (mut client, _) = relay.stream_with_put("/all", &sdk_key(0)).await;
    launchdarkly.start().unwrap();
    let status = relay.wait_until_healthy(1).await;
    assert_eq!(status["environments"][environment_id(0)]["data"]["origin"], "live");
    // The live put said nothing new, so the next thing the client hears is the change.
    launchdarkly.upsert_flag(&environment_id(0), changed_flag(0, 3, 1)).unwrap();
    let (name, data) = next_event(&mut client).await;
    assert_eq!(
        (name.as_str(), &data["path"]),
        ("patch", &format!("/flags/{}", flag_key(3)).into())
    );
    // The flag stream and the autoconfig stream return each at its own time.
    relay
        .wait_for_status("the list is confirmed", |status| {
            status["autoConfigStatus"]["state"] == "VALID"
        })
        .await;
    let unknown = relay.get_with_key("/all", "sdk-unknown").await;
    assert_eq!(unknown.status, 401, "the list is confirmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_during_the_outage_arrives_as_a_put() {
    let launchdarkly = launchdarkly(1, 10);
    let store = TempDir::new().unwrap();
    let relay = settings(&launchdarkly, &store).start().unwrap();
    relay.wait_until_healthy(1).await;
    relay.wait_until_stored().await;
    relay.kill().await.unwrap();
    launchdarkly.stop().await;
    let relay = settings(&launchdarkly, &store).start().unwrap();
    let (mut client, _) = relay.stream_with_put("/all", &sdk_key(0)).await;
    launchdarkly.upsert_flag(&environment_id(0), changed_flag(0, 3, 1)).unwrap();
    launchdarkly.delete_flag(&environment_id(0), &flag_key(4));
    launchdarkly.start().unwrap();
    let (name, data) = next_event(&mut client).await;
    assert_eq!(name, "put");
    let flags = data["data"]["flags"].as_object().unwrap();
    assert_eq!(flags[&flag_key(3)], changed_flag(0, 3, 1));
    assert!(!flags.contains_key(&flag_key(4)));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_known_and_nobody_there_is_503_for_everybody() {
    let launchdarkly = launchdarkly(1, 1);
    launchdarkly.stop().await;
    let store = TempDir::new().unwrap();
    let relay = settings(&launchdarkly, &store).start().unwrap();
    for (path, key) in [("/all", "sdk-x"), ("/sdk/flags", "sdk-x"), ("/mping", "mob-x")] {
        let response = relay.get_with_key(path, key).await;
        assert_eq!((response.status, response.asks_to_retry()), (503, true), "{path}");
    }
    assert_eq!(relay.get("/ping/some-id", &[]).await.status, 503);
    assert_eq!(relay.get("/all", &[]).await.status, 401, "no credential at all");
    let status = relay.get("/status", &[]).await;
    assert_eq!(status.status, 200);
    assert_eq!(status.json()["status"], "degraded");
    assert_eq!(status.json()["environments"], serde_json::json!({}));
    let ready = relay.get("/readyz", &[]).await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("list of environments is not known"), "{}", ready.text());
    assert_eq!(relay.get("/livez", &[]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn manual_environments_start_cold_too() {
    let launchdarkly = launchdarkly(1, 5);
    let store = TempDir::new().unwrap();
    let settings =
        RelaySettings::manual(&launchdarkly, store.path()).with("LD_ENV_Shop", sdk_key(0));
    let relay = settings.start().unwrap();
    relay.wait_until_healthy(1).await;
    relay
        .wait_for_status("flags are stored", |status| {
            status["localStore"]["pending"] == 0 && status["localStore"]["lastCommit"].is_u64()
        })
        .await;
    relay.kill().await.unwrap();
    launchdarkly.stop().await;
    let relay = settings.start().unwrap();
    let (_, put) = relay.stream_with_put("/all", &sdk_key(0)).await;
    assert_eq!(put["data"]["flags"].as_object().unwrap().len(), 5);
    assert_eq!(relay.get_with_key("/all", "sdk-unknown").await.status, 401, "the list is explicit");
    drop(relay);
    // The name may be given to another environment while the relay is down.
    let renamed = settings.with("LD_ENV_Shop", "sdk-of-another-environment").start().unwrap();
    let response = renamed.get_with_key("/all", "sdk-of-another-environment").await;
    assert_eq!(response.status, 503, "flags of another environment are not served");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_relays_on_one_directory_both_work() {
    let launchdarkly = launchdarkly(1, 5);
    let store = TempDir::new().unwrap();
    let first = stored_by(&settings(&launchdarkly, &store)).await;
    let second = settings(&launchdarkly, &store).start().unwrap();
    second.wait_until_healthy(1).await;
    second
        .wait_for_status("the second relay does without the store", |status| {
            status["localStore"]["state"] == "unavailable"
        })
        .await;
    second.wait_for_log("running without a local store").await;
    let (_, put) = second.stream_with_put("/all", &sdk_key(0)).await;
    assert_eq!(put["data"]["flags"].as_object().unwrap().len(), 5);
    assert_eq!(first.status().await["localStore"]["state"], "available");
}

/// As when relays are replaced one by one on the same volume: the new one starts before the old one
/// has left.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_another_relay_gives_up_is_taken_over() {
    let launchdarkly = launchdarkly(1, 5);
    let store = TempDir::new().unwrap();
    let first = stored_by(&settings(&launchdarkly, &store)).await;

    // It starts in an outage, and what it needs is in the store of the other one.
    launchdarkly.stop().await;
    let second = settings(&launchdarkly, &store).start().unwrap();
    second.wait_for_log("running without a local store").await;
    assert_eq!(second.get_with_key("/all", &sdk_key(0)).await.status, 503);
    first.kill().await.unwrap();
    let (mut client, put) = second.stream_with_put("/all", &sdk_key(0)).await;
    assert_eq!(put["data"]["flags"].as_object().unwrap().len(), 5);
    let status = second.status().await;
    assert_eq!(status["localStore"]["state"], "available", "{status:#}");
    assert_eq!(status["autoConfigCache"]["local"]["state"], "loaded", "{status:#}");
    assert_eq!(second.log().matches("running without a local store").count(), 1, "told once");

    // From here on it keeps what it hears.
    launchdarkly.start().unwrap();
    second.wait_until_healthy(1).await;
    launchdarkly.upsert_flag(&environment_id(0), changed_flag(0, 3, 1)).unwrap();
    let (name, _) = next_event(&mut client).await;
    assert_eq!(name, "patch");
    second.wait_until_stored().await;
    second.kill().await.unwrap();
    launchdarkly.stop().await;
    let third = settings(&launchdarkly, &store).start().unwrap();
    let (_, put) = third.stream_with_put("/all", &sdk_key(0)).await;
    assert_eq!(put["data"]["flags"][flag_key(3)], changed_flag(0, 3, 1));
}

/// The same while LaunchDarkly is there: what is live goes into the store, nothing comes out of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_taken_over_holds_what_is_live() {
    let launchdarkly = launchdarkly(1, 5);
    let store = TempDir::new().unwrap();
    let first = stored_by(&settings(&launchdarkly, &store)).await;
    let second = settings(&launchdarkly, &store).start().unwrap();
    second.wait_until_healthy(1).await;
    second.wait_for_log("running without a local store").await;
    first.kill().await.unwrap();
    launchdarkly.delete_flag(&environment_id(0), &flag_key(4));
    launchdarkly.load(&environment(1, 5));
    second.wait_until_healthy(2).await;
    second
        .wait_for_status("the store is taken over", |status| {
            status["localStore"]["state"] == "available"
        })
        .await;
    second.wait_until_stored().await;
    let (_, put) = second.stream_with_put("/all", &sdk_key(0)).await;
    assert_eq!(put["data"]["flags"].as_object().unwrap().len(), 4);
    second.kill().await.unwrap();
    launchdarkly.stop().await;
    let third = settings(&launchdarkly, &store).start().unwrap();
    for (index, flags) in [(0, 4), (1, 5)] {
        let (_, put) = third.stream_with_put("/all", &sdk_key(index)).await;
        assert_eq!(put["data"]["flags"].as_object().unwrap().len(), flags);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_set_aside_and_the_start_goes_on() {
    let launchdarkly = launchdarkly(1, 5);
    let store = TempDir::new().unwrap();
    std::fs::write(store.path().join("pilotlight.redb"), [7; 5000]).unwrap();
    let relay = settings(&launchdarkly, &store).start().unwrap();
    relay.wait_until_healthy(1).await;
    relay.wait_for_log("set aside").await;
    let aside: Vec<_> = std::fs::read_dir(store.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("damaged"))
        .collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    relay.wait_until_stored().await;
    relay.kill().await.unwrap();
    launchdarkly.stop().await;
    let relay = settings(&launchdarkly, &store).start().unwrap();
    relay.stream_with_put("/all", &sdk_key(0)).await;
}
