//! Polls: bodies, tags, lifetimes.

use std::time::SystemTime;

use pilotlight::testing::demo::fake_launchdarkly::{Fault, FaultRule, FaultScope};
use pilotlight::testing::demo::representations::EnvironmentRep;
use serde_json::json;
use tempfile::TempDir;

use super::fixture::{
    BETA, ENVIRONMENT_ID, MOBILE_KEY, SDK_KEY, Site, WEB, all, autoconfig_settings, check_empty,
    check_length, check_text, flags, launchdarkly,
};
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::relay::Response;

/// Paths with what they answer.
fn bodies() -> [(&'static str, String); 5] {
    [
        ("/sdk/latest-all", all()),
        ("/sdk/latest-flags", flags()),
        ("/sdk/flags", flags()),
        ("/sdk/flags/web", WEB.to_owned()),
        ("/sdk/segments/beta", BETA.to_owned()),
    ]
}

async fn get_if_none_match(site: &Site, path: &str, known: &[&str]) -> Response {
    let mut headers = vec![("authorization", SDK_KEY)];
    headers.extend(known.iter().map(|value| ("if-none-match", *value)));
    site.relay.get(path, &headers).await
}

/// The tag without the signs of a weak one.
fn opaque(response: &Response) -> String {
    let tag = response.header("etag").unwrap();
    tag.strip_prefix("W/\"").and_then(|rest| rest.strip_suffix('"')).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_answer_what_streams_say() {
    let site = Site::manual().await;
    for (path, body) in bodies() {
        let response = site.get(path).await;
        assert_eq!((response.status, response.text()), (200, body.as_str()), "{path}");
        assert_eq!(response.header("content-type"), Some("application/json"), "{path}");
        for absent in ["cache-control", "expires", "vary", "access-control-allow-origin"] {
            assert_eq!(response.header(absent), None, "{path}");
        }
        check_length(&response, path);
    }
    let tag = |response: &Response| response.header("etag").unwrap().to_owned();
    assert_eq!(tag(&site.get("/sdk/flags/web").await), "W/\"4\"");
    assert_eq!(tag(&site.get("/sdk/segments/beta").await), "W/\"7\"");
    for path in [
        "/sdk/flags/none",
        "/sdk/flags/gone",
        "/sdk/flags/beta",
        "/sdk/segments/web",
        "/sdk/segments/past",
    ] {
        let response = site.get(path).await;
        assert_eq!(response.status, 404, "{path}");
        check_empty(&response, path);
        assert_eq!(response.header("etag"), None, "{path}");
        assert_eq!(response.header("x-ld-envid"), Some(ENVIRONMENT_ID), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_newest_gets_304() {
    let site = Site::manual().await;
    for (path, body) in bodies() {
        let opaque = opaque(&site.get(path).await);
        let known = [
            vec![format!("W/\"{opaque}\"")],
            vec![format!("\"{opaque}\"")],
            vec![format!("relay-{opaque}")],
            vec![format!("\"other\", W/\"{opaque}\"")],
            vec!["\"other\"".to_owned(), format!("W/\"{opaque}\"")],
            vec!["*".to_owned()],
        ];
        for tags in &known {
            let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
            let response = get_if_none_match(&site, path, &tags).await;
            let what = format!("{path} with {tags:?}");
            assert_eq!((response.status, response.body.len()), (304, 0), "{what}");
            for absent in ["etag", "content-type", "expires", "vary"] {
                assert_eq!(response.header(absent), None, "{what}");
            }
            assert_eq!(response.header("x-ld-envid"), Some(ENVIRONMENT_ID), "{what}");
            assert!(response.header("date").is_some(), "{what}");
        }
        let tags = [opaque.clone(), format!("W/{opaque}"), "\"other\"".to_owned(), "relay-".into()];
        for tag in &tags {
            let response = get_if_none_match(&site, path, &[tag.as_str()]).await;
            let what = format!("{path} with {tag}");
            assert_eq!((response.status, response.text()), (200, body.as_str()), "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_follow_the_data_and_nothing_else() {
    let site = Site::manual().await;
    let tags = async |site: &Site| {
        let mut tags = Vec::new();
        for (path, _) in bodies() {
            tags.push(opaque(&site.get(path).await));
        }
        tags
    };
    let before = tags(&site).await;
    assert_eq!(before[1], before[2], "the two maps of flags are one");
    assert_ne!(before[0], before[1]);

    let other = Site::manual().await;
    assert_eq!(tags(&other).await, before, "every relay gives the same tag");

    site.launchdarkly.upsert_segment(ENVIRONMENT_ID, json!({"key": "beta", "version": 8})).unwrap();
    eventually("the change arrives", async || {
        let response = site.get("/sdk/segments/beta").await;
        if response.json()["version"] == 8 { Ok(()) } else { Err(response.text().to_owned()) }
    })
    .await;
    let after = tags(&site).await;
    assert_ne!(after[0], before[0]);
    assert_eq!(after[3], before[3], "the flag is the same");
    assert_eq!(after[4], "8");
}

/// Seconds since 1970 of an HTTP date, by a tool that is not ours.
fn seconds(date: &str) -> i64 {
    let output = std::process::Command::new("date").args(["-ud", date, "+%s"]).output().unwrap();
    assert!(output.status.success(), "{date}");
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_is_told_with_200_and_304() {
    let site = Site::manual_with(|settings| settings.with("LD_TTL_Prod", "5m")).await;
    let now = || {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        i64::try_from(since.as_secs()).unwrap()
    };
    for (path, _) in bodies() {
        for (known, status) in [("\"none\"", 200), ("*", 304)] {
            let asked = now();
            let response = get_if_none_match(&site, path, &[known]).await;
            assert_eq!(response.status, status, "{path}");
            assert_eq!(response.header("vary"), Some("Authorization"), "{path}");
            assert_eq!(response.header("cache-control"), None, "{path}");
            let expires = seconds(response.header("expires").unwrap());
            assert!((asked + 300..=now() + 300).contains(&expires), "{path}: {expires}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_of_automatic_configuration_is_in_minutes() {
    let launchdarkly = launchdarkly();
    let rep = launchdarkly.environment(ENVIRONMENT_ID).unwrap();
    launchdarkly.upsert_environment(EnvironmentRep { default_ttl: 2, ..rep });
    let site = Site::autoconfig(launchdarkly).await;
    let response = site.get("/sdk/flags").await;
    let date = seconds(response.header("date").unwrap());
    let expires = seconds(response.header("expires").unwrap());
    assert!((119..=121).contains(&(expires - date)), "{:?}", response.headers);
}

/// An empty answer would be taken for the truth.
#[tokio::test(flavor = "multi_thread")]
async fn without_data_polls_say_come_again() {
    let launchdarkly = launchdarkly();
    let fault = launchdarkly.inject(FaultRule::new(FaultScope::Flags, Fault::WithoutPut));
    let store = TempDir::new().unwrap();
    let relay = autoconfig_settings(&launchdarkly, &store).start().unwrap();
    relay
        .wait_for_status("the environment is known", |status| {
            status["environments"].as_object().is_some_and(|all| all.len() == 1)
        })
        .await;
    let paths = bodies().map(|(path, _)| path);
    for path in paths.into_iter().chain(["/sdk/flags/none", "/all", "/flags"]) {
        for headers in [
            vec![("authorization", SDK_KEY)],
            vec![("authorization", SDK_KEY), ("if-none-match", "*")],
        ] {
            let response = relay.get(path, &headers).await;
            assert_eq!(response.status, 503, "{path}");
            assert!(response.asks_to_retry(), "{path}");
            check_text(&response, path);
        }
    }
    assert_eq!(relay.get_with_key("/sdk/flags", MOBILE_KEY).await.status, 401);
    launchdarkly.clear_fault(fault);
    launchdarkly.send_flags_put(ENVIRONMENT_ID);
    eventually("data arrives", async || {
        match relay.get_with_key("/sdk/flags", SDK_KEY).await.status {
            200 => Ok(()),
            other => Err(other),
        }
    })
    .await;
}
