//! The goals of experiments in web pages: LaunchDarkly's answer, kept.

use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use pilotlight::testing::demo::fake_launchdarkly::{Fault, FaultRule, FaultScope, FixedAnswer};
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::relay::Response;

use super::fixture::{ENVIRONMENT_ID, Site};

const GOALS: &str = r#"[{"id":"g1","kind":"pageview","urls":[]}]"#;

async fn site() -> Site {
    Site::manual_with(|settings| {
        let upstream = settings.variables()["BASE_URI"].clone();
        settings.with("CLIENT_SIDE_BASE_URI", upstream)
    })
    .await
}

fn path() -> String {
    format!("/sdk/goals/{ENVIRONMENT_ID}")
}

/// What LaunchDarkly answers from now on.
fn answer(site: &Site, status: u16, headers: &[(&str, &str)], body: &'static str) {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let answer = FixedAnswer { status, headers: headers.collect(), body: Bytes::from(body) };
    site.launchdarkly.clear_faults();
    let scope = FaultScope::Path("/sdk/goals/".to_owned());
    site.launchdarkly.inject(FaultRule::new(scope, Fault::Answer(answer)));
}

async fn get(site: &Site, headers: &[(&str, &str)]) -> Response {
    let response = site.relay.get(&path(), headers).await;
    assert_eq!(response.header("access-control-allow-origin"), Some("*"), "{}", response.status);
    response
}

#[tokio::test(flavor = "multi_thread")]
async fn goals_are_launchdarklys_and_are_asked_for_once() {
    let site = site().await;
    let headers = [("content-type", "application/json"), ("etag", "\"g\""), ("x-other", "1")];
    answer(&site, 200, &headers, GOALS);
    for _ in 0..5 {
        let response = get(&site, &[("cookie", "private")]).await;
        assert_eq!((response.status, response.text()), (200, GOALS));
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert_eq!(response.header("etag"), Some("W/\"g\""));
        assert_eq!(response.header("x-other"), None);
    }
    let unchanged = get(&site, &[("if-none-match", "\"f\", W/\"g\"")]).await;
    assert_eq!(unchanged.header("etag"), Some("W/\"g\""));
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    let asked = site.launchdarkly.requests_for(&path());
    assert_eq!(asked.len(), 1, "{asked:?}");
    // Nothing of a client goes to LaunchDarkly.
    assert_eq!((asked[0].authorization(), asked[0].header("cookie")), (None, None));
    let preflight = site.relay.request("OPTIONS", &path(), &[], b"").await;
    assert_eq!((preflight.status, preflight.text()), (200, ""));
    assert_eq!(preflight.header("access-control-allow-methods"), Some("GET,OPTIONS"));
    let unknown = site.relay.get("/sdk/goals/ffffffffffffffffffffffff", &[]).await;
    assert_eq!(unknown.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_goals_are_given_while_launchdarkly_is_away() {
    let site = site().await;
    answer(&site, 200, &[("cache-control", "max-age=0"), ("etag", "\"g\"")], GOALS);
    assert_eq!(get(&site, &[]).await.text(), GOALS);
    // Long enough that LaunchDarkly is asked again, and the answer fails.
    // A proxy on the way may refuse the relay, which says nothing about goals.
    for fault in [Fault::status(503), Fault::status(401), Fault::Hang, Fault::Reset] {
        site.launchdarkly.clear_faults();
        let scope = FaultScope::Path("/sdk/goals/".to_owned());
        site.launchdarkly.inject(FaultRule::new(scope, fault.clone()));
        let before = site.launchdarkly.requests_for(&path()).len();
        eventually("LaunchDarkly is asked again", async || {
            let response = get(&site, &[]).await;
            assert_eq!((response.status, response.text()), (200, GOALS), "{fault:?}");
            match site.launchdarkly.requests_for(&path()).len() {
                count if count > before => Ok(()),
                _ => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    Err("not yet".to_owned())
                }
            }
        })
        .await;
    }
    let asked = site.launchdarkly.requests_for(&path());
    assert_eq!(asked.last().unwrap().header("if-none-match"), Some("\"g\""));
    let log = site.relay.log();
    let told = log.lines().filter(|line| line.contains("goals")).count();
    assert_eq!(told, 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_does_not_end_the_request_to_launchdarkly() {
    let site = site().await;
    answer(&site, 200, &[], GOALS);
    let scope = FaultScope::Path("/sdk/goals/".to_owned());
    let slow = Fault::SlowDrip { bytes_per_second: NonZeroU32::new(100).unwrap() };
    site.launchdarkly.inject(FaultRule::new(scope, slow));
    let path = path();
    let impatient = site.relay.get(&path, &[]);
    assert!(tokio::time::timeout(Duration::from_millis(200), impatient).await.is_err());
    assert_eq!(get(&site, &[]).await.text(), GOALS);
    assert_eq!(site.launchdarkly.requests_for(&path).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_goals_clients_are_to_come_again() {
    let site = site().await;
    answer(&site, 502, &[], "an inner message");
    let response = get(&site, &[]).await;
    assert_eq!(response.status, 503);
    assert!(response.asks_to_retry() && !response.text().contains("inner"), "{}", response.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_launchdarkly_refuses_is_refused() {
    let site = site().await;
    answer(&site, 404, &[], "unknown");
    let response = get(&site, &[]).await;
    assert_eq!((response.status, response.body.len()), (404, 0));
}
