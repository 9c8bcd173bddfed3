//! The status for people: a page, and a command.

use pilotlight::testing::demo::fake_launchdarkly::{Fault, FaultRule, FaultScope};
use pilotlight_test_kit::relay::program;
use tokio::process::Command;

use super::fixture::{MOBILE_KEY, SDK_KEY, Site, launchdarkly};

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_what_the_status_says_and_no_key() {
    let site = Site::autoconfig(launchdarkly()).await;
    let (_stream, _) = site.relay.stream_with_put("/all", SDK_KEY).await;
    let page = site.relay.get("/", &[]).await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'"), "{policy}");
    let text = page.text();
    for part in ["healthy", "1 environments: 1 have data", "<td>Project / Production</td><td>live"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    for secret in [&SDK_KEY[30..], &MOBILE_KEY[30..], "sdk-", "mob-"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    assert_eq!(site.relay.request("POST", "/", &[], b"").await.status, 405);
    let summary = &site.relay.status().await["summary"];
    let expected = serde_json::json!({
        "environments": 1, "serving": 1, "live": 1, "oldestDataSeconds": 0, "streams": 1,
    });
    assert_eq!(*summary, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_can_be_switched_off() {
    let site = Site::manual_with(|settings| settings.with("STATUS_PAGE", "false")).await;
    let page = site.relay.get("/", &[]).await;
    assert_eq!((page.status, page.text()), (404, "404 page not found\n"));
    assert_eq!(site.relay.get("/status", &[]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_prints_the_same_and_says_by_its_code_whether_all_is_well() {
    let site = Site::autoconfig(launchdarkly()).await;
    let run = async |url: &str| {
        let mut command = Command::new(program());
        let output = command.args(["status", "--url", url]).env_clear().output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text, String::from_utf8(output.stderr).unwrap())
    };
    let (code, text, errors) = run(&site.relay.url()).await;
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{text}");
    assert!(text.starts_with("Pilotlight ") && text.contains(": healthy\n"), "{text}");
    assert!(text.contains("Project / Production  live"), "{text}");
    assert!(!text.contains("sdk-"), "{text}");

    let fault = FaultRule::new(FaultScope::Everything, Fault::status(503));
    site.launchdarkly.inject(fault);
    let settings = site.settings.clone().with("DISCONNECTED_STATUS_TIME", "1ms");
    let relay = settings.start().unwrap();
    relay.wait_for_status("it is degraded", |status| status["status"] == "degraded").await;
    let (code, text, _) = run(&relay.url()).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(": degraded\n"), "{text}");
    let (code, _, errors) = run("http://127.0.0.1:1").await;
    assert_eq!(code, Some(1));
    assert!(errors.contains("did not answer"), "{errors}");
}
