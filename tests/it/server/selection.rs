//! Which environment a request is about: design 5 and the order of ld-relay, row by row.

use std::time::{Duration, SystemTime};

use pilotlight::testing::demo::fake_launchdarkly::{
    FakeLaunchDarkly, Fault, FaultRule, FaultScope,
};
use pilotlight::testing::demo::representations::{EnvironmentRep, KeyRep};
use tempfile::TempDir;

use super::fixture::{
    ENVIRONMENT_ID, MOBILE_KEY, SDK_KEY, Site, autoconfig_settings, check_empty, check_text,
    filter, launchdarkly,
};
use super::raw::{RawStream, get};
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::relay::{RelayProcess, Response};

/// What is expected of an answer beside its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    /// No body.
    Empty,
    /// A sentence.
    Text,
    /// A sentence, and the advice to come again.
    TextForNow,
    /// Data.
    Data,
}
use Body::{Data, Empty, Text, TextForNow};

#[track_caller]
fn check(response: &Response, what: &str, status: u16, body: Body) {
    assert_eq!(response.status, status, "{what}");
    match body {
        Empty => check_empty(response, what),
        Text | TextForNow => {
            check_text(response, what);
            for secret in [SDK_KEY, MOBILE_KEY, "unknown"] {
                assert!(!response.text().contains(secret), "{what}: {}", response.text());
            }
        }
        Data => assert!(!response.body.is_empty(), "{what}"),
    }
    assert_eq!(response.asks_to_retry(), body == TextForNow, "{what}");
    let id = matches!(status, 200 | 304).then_some(ENVIRONMENT_ID);
    assert_eq!(response.header("x-ld-envid"), id, "{what}");
}

/// Asks with an `Authorization` header, or without one.
async fn ask(relay: &RelayProcess, path: &str, authorization: Option<&str>) -> Response {
    let headers: Vec<_> = authorization.iter().map(|value| ("authorization", *value)).collect();
    relay.get(path, &headers).await
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_taken_raw_and_by_kind() {
    let site = Site::manual().await;
    let upper = SDK_KEY.to_uppercase();
    let longer = format!("{SDK_KEY}5");
    let shorter = &SDK_KEY[..SDK_KEY.len() - 1];
    let scheme = format!("api_key {SDK_KEY}");
    let spaces = format!("api_key   {SDK_KEY}  ");
    let bearer = format!("Bearer {SDK_KEY}");
    let shouted = format!("API_KEY {SDK_KEY}");
    let twice = format!("{SDK_KEY} {SDK_KEY}");
    let glued = format!("api_key{SDK_KEY}");
    for (authorization, status, body) in [
        (None, 401, Empty),
        (Some(""), 401, Empty),
        (Some("   "), 401, Empty),
        (Some(bearer.as_str()), 401, Empty),
        (Some(&shouted), 401, Empty),
        (Some(&twice), 401, Empty),
        (Some(SDK_KEY), 200, Data),
        (Some(&scheme), 200, Data),
        (Some(&spaces), 200, Data),
        // The blank behind the word belongs to no value.
        (Some("api_key "), 401, Text),
        (Some(&glued), 401, Text),
        (Some(MOBILE_KEY), 401, Text),
        (Some(ENVIRONMENT_ID), 401, Text),
        (Some(&upper), 401, Text),
        (Some(&longer), 401, Text),
        (Some(shorter), 401, Text),
        (Some("unknown"), 401, Text),
    ] {
        for path in ["/sdk/flags", "/sdk/latest-all", "/sdk/flags/web"] {
            let what = format!("{path} with {authorization:?}");
            check(&ask(&site.relay, path, authorization).await, &what, status, body);
        }
        for path in ["/all", "/flags"] {
            let what = format!("{path} with {authorization:?}");
            if status == 200 {
                let mut stream = RawStream::open(
                    site.relay.address(),
                    &get(path, authorization.unwrap_or_default()),
                )
                .await;
                assert!(stream.head.starts_with("HTTP/1.1 200 OK\r\n"), "{what}: {}", stream.head);
                stream.take_until("\n\n").await;
            } else {
                check(&ask(&site.relay, path, authorization).await, &what, status, body);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_family_of_routes_knows_its_own_kind_of_key() {
    let site = Site::manual().await;
    for (path, authorization, status, body) in [
        ("/mping", None, 401, Empty),
        ("/mping", Some(SDK_KEY), 401, Text),
        ("/mping", Some(ENVIRONMENT_ID), 401, Text),
        ("/mping", Some("unknown"), 401, Text),
        ("/mping?filter=none", Some(MOBILE_KEY), 404, Text),
        ("/mping?filter=none", Some("unknown"), 401, Text),
        ("/ping/unknown", None, 404, Text),
        ("/ping/65A1B2C3D4E5F60718293A4B", None, 404, Text),
        ("/ping/sdk-00000000-1111-2222-3333-444444444444", None, 404, Text),
        ("/ping/65a1b2c3d4e5f60718293a4b?filter=none", None, 404, Text),
        // The header is no credential here.
        ("/ping/unknown", Some(SDK_KEY), 404, Text),
    ] {
        let what = format!("{path} with {authorization:?}");
        check(&ask(&site.relay, path, authorization).await, &what, status, body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_is_a_part_of_the_look_up() {
    let launchdarkly = launchdarkly();
    launchdarkly.upsert_filter("f1", filter("small"));
    launchdarkly.upsert_filter("f2", filter("a b"));
    let site = Site::manual_before(launchdarkly, |settings| {
        settings.with("LD_PROJ_KEY_Prod", "shop").with("LD_FILTER_KEYS_shop", "small,a b")
    })
    .await;
    for (query, status, body) in [
        ("", 200, Data),
        ("?filter=", 200, Data),
        ("?filter", 200, Data),
        ("?other=x", 200, Data),
        ("?filter=none", 404, Text),
        ("?filter=SMALL", 404, Text),
        ("?filter=%ff", 404, Text),
        ("?other=x&filter=none&filter=small", 404, Text),
        ("?filter=a+b", 200, Data),
        ("?filter=%73mall", 200, Data),
    ] {
        for path in ["/sdk/flags", "/sdk/latest-all", "/sdk/latest-flags"] {
            let path = format!("{path}{query}");
            check(&ask(&site.relay, &path, Some(SDK_KEY)).await, &path, status, body);
        }
        if status != 200 {
            let path = format!("/all{query}");
            check(&ask(&site.relay, &path, Some(SDK_KEY)).await, &path, status, body);
            check(&ask(&site.relay, &path, Some("unknown")).await, &path, 401, Text);
            check(&ask(&site.relay, &path, None).await, &path, 401, Empty);
        }
    }
}

/// Requests of every family with a credential that nobody knows.
const STRANGERS: [(&str, Option<&str>); 9] = [
    ("/all", Some("sdk-unknown")),
    ("/flags", Some(MOBILE_KEY)),
    ("/sdk/flags", Some("sdk-unknown")),
    ("/sdk/flags/web", Some("sdk-unknown")),
    ("/sdk/segments/beta?filter=x", Some("sdk-unknown")),
    ("/sdk/latest-all", Some("sdk-unknown")),
    ("/mping", Some("mob-unknown")),
    ("/ping/unknown", None),
    ("/sdk/evalx/unknown/contexts/e30", None),
];

#[tokio::test(flavor = "multi_thread")]
async fn without_a_list_everybody_is_told_to_come_again() {
    let launchdarkly = launchdarkly();
    launchdarkly.stop().await;
    let store = TempDir::new().unwrap();
    let relay = autoconfig_settings(&launchdarkly, &store).start().unwrap();
    let known = [("/all", Some(SDK_KEY)), ("/all?filter=x", Some(SDK_KEY))];
    for (path, key) in STRANGERS.into_iter().chain(known) {
        check(&ask(&relay, path, key).await, path, 503, TextForNow);
    }
    for (path, key) in [("/all", None), ("/sdk/flags", Some("a b")), ("/mping", Some(""))] {
        check(&ask(&relay, path, key).await, path, 401, Empty);
    }
    assert_eq!(ask(&relay, "/nothing", None).await.status, 404);
    assert_eq!(relay.request("POST", "/all", &[], b"").await.status, 405);
    assert_eq!(ask(&relay, "//all", None).await.status, 301);
    let status = relay.status().await;
    assert_eq!(status["status"], "degraded");
    assert_eq!(status["environments"], serde_json::json!({}));
}

/// A second environment, whose flags LaunchDarkly never gives.
fn add_environment_without_data(launchdarkly: &FakeLaunchDarkly) {
    launchdarkly.inject(FaultRule::new(FaultScope::Flags, Fault::WithoutPut).for_key("sdk-bare"));
    launchdarkly.upsert_environment(EnvironmentRep {
        proj_key: "bare".to_owned(),
        ..EnvironmentRep::simple("bare-id", "sdk-bare", "mob-bare")
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_list_from_the_cache_strangers_are_told_to_come_again() {
    let launchdarkly = launchdarkly();
    let site = Site::autoconfig(launchdarkly).await;
    let Site { relay, launchdarkly, settings, store: _store } = site;
    add_environment_without_data(&launchdarkly);
    relay
        .wait_for_status("both environments are stored", |status| {
            status["environments"].as_object().is_some_and(|all| all.len() == 2)
                && status["localStore"]["pending"] == 0
                && status["localStore"]["lastCommit"].is_u64()
                && status["autoConfigCache"]["local"]["records"] == 2
                && status["autoConfigCache"]["local"]["writePending"] == false
        })
        .await;
    relay.kill().await.unwrap();
    launchdarkly.stop().await;

    let relay = settings.start().unwrap();
    check(&ask(&relay, "/sdk/flags", Some(SDK_KEY)).await, "known", 200, Data);
    let unknown_filters =
        [("/all?filter=none", Some(SDK_KEY)), ("/mping?filter=x", Some(MOBILE_KEY))];
    for (path, key) in STRANGERS.into_iter().chain(unknown_filters) {
        check(&ask(&relay, path, key).await, path, 503, TextForNow);
    }
    check(&ask(&relay, "/all", None).await, "no credential", 401, Empty);
    for path in ["/all", "/flags", "/sdk/flags", "/sdk/latest-all", "/sdk/segments/x"] {
        let response = ask(&relay, path, Some("sdk-bare")).await;
        assert_eq!((response.status, response.asks_to_retry()), (503, true), "{path}");
        assert_eq!(response.header("x-ld-envid"), Some("bare-id"), "{path}");
    }

    launchdarkly.start().unwrap();
    eventually("the list is confirmed", async || {
        match ask(&relay, "/all", Some("sdk-unknown")).await.status {
            401 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    for (path, key) in STRANGERS {
        let status = if path.contains("unknown") { 404 } else { 401 };
        check(&ask(&relay, path, key).await, path, status, Text);
    }
    check(&ask(&relay, "/all?filter=none", Some(SDK_KEY)).await, "unknown filter", 404, Text);
    let bare = ask(&relay, "/all", Some("sdk-bare")).await;
    assert_eq!(bare.status, 503, "known, but there is still no data");
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_of_automatic_configuration_come_and_go() {
    let launchdarkly = launchdarkly();
    launchdarkly.upsert_filter("f1", filter("small"));
    let site = Site::autoconfig(launchdarkly).await;
    let small = "/sdk/latest-all?filter=small";
    check(&site.get(small).await, small, 200, Data);
    assert_eq!(site.get(small).await.text(), r#"{"flags":{},"segments":{}}"#);
    site.launchdarkly.delete_filter("f1");
    eventually("the filter goes", async || match site.get(small).await.status {
        404 => Ok(()),
        other => Err(other),
    })
    .await;
    check(&site.get(small).await, small, 404, Text);
    check(&site.get("/sdk/latest-all").await, "unfiltered", 200, Data);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_key_is_refused_also_from_the_cache() {
    let launchdarkly = launchdarkly();
    let rep = EnvironmentRep {
        sdk_keys: vec![KeyRep::permanent("default", SDK_KEY), KeyRep::permanent("old", "sdk-old")],
        ..launchdarkly.environment(ENVIRONMENT_ID).unwrap()
    };
    launchdarkly.upsert_environment(rep.clone());
    let site = Site::autoconfig(launchdarkly).await;
    let Site { relay, launchdarkly, settings, store: _store } = site;
    check(&ask(&relay, "/sdk/flags", Some("sdk-old")).await, "still good", 200, Data);
    let soon = SystemTime::now() + Duration::from_secs(1);
    let soon = soon.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    let expiring = KeyRep::expiring("old", "sdk-old", u64::try_from(soon).unwrap());
    launchdarkly.upsert_environment(EnvironmentRep {
        sdk_keys: vec![KeyRep::permanent("default", SDK_KEY), expiring],
        ..rep
    });
    eventually("the key expires", async || {
        match ask(&relay, "/sdk/flags", Some("sdk-old")).await.status {
            401 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    relay
        .wait_for_status("everything is stored", |status| {
            status["localStore"]["pending"] == 0
                && status["localStore"]["lastCommit"].is_u64()
                && status["autoConfigCache"]["local"]["records"] == 1
                && status["autoConfigCache"]["local"]["writePending"] == false
        })
        .await;
    relay.kill().await.unwrap();
    launchdarkly.stop().await;
    let relay = settings.start().unwrap();
    check(&ask(&relay, "/sdk/flags", Some(SDK_KEY)).await, "the list is cached", 200, Data);
    let expired = ask(&relay, "/sdk/flags", Some("sdk-old")).await;
    assert!(matches!(expired.status, 401 | 503), "refused: {}", expired.status);
}
