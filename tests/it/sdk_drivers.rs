//! The official SDKs' drivers against a minimal relay: what the outage tests rely on is proven
//! here, with nothing of Pilotlight in between.

mod mini_relay;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use pilotlight::testing::model::SdkKey;
use serde_json::{Value, json};

use mini_relay::MiniRelay;
use pilotlight_test_kit::sdk_driver::{
    Events, Language, Mode, SdkDriver, State, WatchReport, installed,
};

/// Far beyond what any SDK takes on a busy machine; only a broken one waits for it.
const LIMIT: Duration = Duration::from_secs(30);

const WATCH_INTERVAL: Duration = Duration::from_millis(5);

fn sdk_key() -> SdkKey {
    SdkKey::new("sdk-00000000-0000-4000-8000-00000000d01e")
}

/// A flag that gives `value` to everybody but the user `vip`, who gets `welcome`.
fn flag(key: &str, version: u64, value: impl Into<Value>) -> Value {
    json!({
        "key": key, "version": version, "on": true, "salt": "s", "deleted": false,
        "variations": [value.into(), "welcome"], "offVariation": 0, "fallthrough": {"variation": 0},
        "targets": [{"values": ["vip"], "variation": 1}], "contextTargets": [],
        "prerequisites": [], "rules": [], "clientSide": false,
        "trackEvents": false, "trackEventsFallthrough": false, "debugEventsUntilDate": null,
    })
}

fn two_flags() -> [Value; 2] {
    [flag("greeting", 1, "hello"), flag("limits", 1, json!({"max": [3, 4.5]}))]
}

/// Asks for the watcher's report until it satisfies `condition`.
async fn report_with(
    driver: &mut SdkDriver,
    condition: impl Fn(&WatchReport) -> bool,
) -> anyhow::Result<WatchReport> {
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        let report = driver.watch_report().await?;
        if condition(&report) {
            return Ok(report);
        }
        ensure!(tokio::time::Instant::now() < deadline, "the watcher stays at {report:?}");
    }
}

async fn evaluates_what_is_streamed(language: Language) -> anyhow::Result<()> {
    let relay = MiniRelay::start(&two_flags()).await?;
    let mut sdk = SdkDriver::start(language, &sdk_key(), relay.url(), Mode::Stream).await?;
    let init = sdk.wait_init(LIMIT).await?;
    assert!(init.initialized && init.elapsed < LIMIT, "{init:?}");
    assert!(sdk.version().contains('.'), "{}", sdk.version());
    sdk.wait_valid().await?;
    assert!(!sdk.log().is_empty());

    let given = sdk.eval("greeting", "none").await?;
    assert_eq!((given.value, given.variation), (json!("hello"), Some(0)));
    assert_eq!(given.reason.kind, "FALLTHROUGH");
    let vip = json!({"kind": "user", "key": "vip"});
    let given = sdk.eval_for("greeting", "none", vip).await?;
    assert_eq!((given.value, given.variation), (json!("welcome"), Some(1)));
    assert_eq!(given.reason.kind, "TARGET_MATCH");
    let given = sdk.eval("unknown", 7).await?;
    assert_eq!((given.value, given.variation), (json!(7), None));
    assert_eq!(given.reason.error_kind.as_deref(), Some("FLAG_NOT_FOUND"));

    let given = sdk.eval_all(&["greeting", "limits"]).await?;
    assert_eq!(given["limits"].value, json!({"max": [3, 4.5]}));
    assert_eq!(given["greeting"].value, json!("hello"));
    let all = sdk.all_flags().await?;
    assert!(all.valid);
    let expected = json!({"greeting": "hello", "limits": {"max": [3, 4.5]}});
    assert_eq!(Value::Object(all.values), expected);

    sdk.watch_start(&["greeting", "limits"], WATCH_INTERVAL).await?;
    relay.patch(flag("greeting", 2, "bonjour"));
    let arrival = sdk.await_value("greeting", "bonjour", LIMIT).await?;
    assert!(arrival.matched && arrival.elapsed < LIMIT, "{arrival:?}");
    let absent = sdk.await_value("greeting", "hello", Duration::from_millis(20)).await?;
    assert!(!absent.matched && absent.elapsed >= Duration::from_millis(20), "{absent:?}");
    assert_eq!(absent.value, json!("bonjour"));
    let report = report_with(&mut sdk, |report| report.evaluations >= 20).await?;
    assert_eq!((report.fallbacks, report.before_init), (0, 0), "{report:?}");
    assert!(report.first_fallback.is_none() && report.longest_pause >= WATCH_INTERVAL);
    sdk.quit().await
}

async fn watcher_counts_what_falls_back_after_the_first_data(
    language: Language,
) -> anyhow::Result<()> {
    let relay = MiniRelay::start_unavailable(&two_flags()).await?;
    let mut sdk = SdkDriver::start(language, &sdk_key(), relay.url(), Mode::Stream).await?;
    sdk.watch_start(&["greeting"], WATCH_INTERVAL).await?;
    let init = sdk.wait_init(Duration::from_millis(50)).await?;
    assert!(!init.initialized && init.elapsed >= Duration::from_millis(50), "{init:?}");
    let report = report_with(&mut sdk, |report| report.before_init > 5).await?;
    assert_eq!((report.evaluations, report.fallbacks), (0, 0), "{report:?}");
    let status = sdk.status().await?;
    assert_eq!((status.state, status.initialized), (State::Initializing, false));
    assert!(!sdk.all_flags().await?.valid);

    relay.become_available();
    assert!(sdk.wait_init(LIMIT).await?.initialized);
    let error = sdk.status().await?.last_error.context("the 503 is not remembered")?;
    assert_eq!(error.status_code, 503, "{error:?}");
    let report = report_with(&mut sdk, |report| report.evaluations > 5).await?;
    assert_eq!((report.fallbacks, report.first_fallback), (0, None));

    relay.delete("greeting", 2);
    let report = report_with(&mut sdk, |report| report.fallbacks > 5).await?;
    assert!(report.fallbacks < report.evaluations, "{report:?}");
    let first = report.first_fallback.context("the first fallback is not told")?;
    assert_eq!((first.flag.as_str(), first.reason.kind.as_str()), ("greeting", "ERROR"));
    sdk.quit().await
}

async fn polls_and_sends_events(language: Language) -> anyhow::Result<()> {
    let relay = MiniRelay::start(&two_flags()).await?;
    let key = sdk_key();
    let mut sdk =
        SdkDriver::start_with(language, &key, relay.url(), Mode::Poll, Events::On).await?;
    assert!(sdk.wait_init(LIMIT).await?.initialized);
    sdk.wait_valid().await?;
    assert_eq!(sdk.eval("greeting", "none").await?.value, json!("hello"));
    sdk.quit().await?;
    let kinds = relay.event_kinds();
    assert!(kinds.iter().any(|kind| kind == "summary"), "{kinds:?}");
    Ok(())
}

/// One test a language, so that a failure names its SDK and the four run beside each other.
macro_rules! each_sdk {
    ($($module:ident: $language:expr;)*) => {$(
        mod $module {
            use super::*;

            #[tokio::test]
            async fn evaluates_what_is_streamed() -> anyhow::Result<()> {
                super::evaluates_what_is_streamed($language).await
            }

            #[tokio::test]
            async fn watcher_counts_what_falls_back_after_the_first_data() -> anyhow::Result<()> {
                super::watcher_counts_what_falls_back_after_the_first_data($language).await
            }

            #[tokio::test]
            async fn polls_and_sends_events() -> anyhow::Result<()> {
                super::polls_and_sends_events($language).await
            }
        }
    )*};
}

each_sdk! {
    python: Language::Python;
    node: Language::Node;
    go: Language::Go;
    java: Language::Java;
}

#[tokio::test]
async fn a_failed_command_names_the_sdk_and_shows_its_log() -> anyhow::Result<()> {
    let relay = MiniRelay::start(&two_flags()).await?;
    for language in Language::SERVER_SIDE {
        let mut sdk = SdkDriver::start(language, &sdk_key(), relay.url(), Mode::Stream).await?;
        assert_eq!(sdk.language(), language);
        let error = sdk.watch_report().await.expect_err("there is no watcher").to_string();
        assert!(error.starts_with(&format!("{language} SDK, ")), "{error}");
        assert!(error.contains("the watcher was not started"), "{error}");
        assert!(error.contains("lines of its log"), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_driver_that_dies_is_an_error_and_not_a_wait() -> anyhow::Result<()> {
    let relay = MiniRelay::start(&two_flags()).await?;
    let mut sdk = SdkDriver::start(Language::Go, &sdk_key(), relay.url(), Mode::Stream).await?;
    let id = sdk.process_id().context("the driver has no process ID")?.to_string();
    let killed = tokio::process::Command::new("kill").args(["-KILL", &id]).status().await?;
    assert!(killed.success());
    let error = sdk.wait_init(LIMIT).await.expect_err("it is dead").to_string();
    assert!(
        error.contains("ended without an answer") || error.contains("does not read"),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn a_dropped_driver_leaves_no_process() -> anyhow::Result<()> {
    let relay = MiniRelay::start(&two_flags()).await?;
    let sdk = SdkDriver::start(Language::Go, &sdk_key(), relay.url(), Mode::Stream).await?;
    let id = sdk.process_id().context("the driver has no process ID")?;
    let process = std::path::PathBuf::from(format!("/proc/{id}"));
    assert!(process.exists());
    drop(sdk);
    let deadline = tokio::time::Instant::now() + LIMIT;
    while process.exists() {
        ensure!(tokio::time::Instant::now() < deadline, "process {id} is still there");
        tokio::task::yield_now().await;
    }
    Ok(())
}

#[test]
fn a_missing_or_old_driver_says_what_to_run() -> anyhow::Result<()> {
    let tools = tempfile::tempdir()?;
    let advice = "run ./tests/install-sdks.sh";
    let error = installed(tools.path(), Language::Go).expect_err("nothing is there").to_string();
    assert!(error.contains("is not installed") && error.ends_with(advice), "{error}");

    let folder = tools.path().join("sdks/go");
    std::fs::create_dir_all(folder.join("sources"))?;
    std::fs::write(folder.join("stamp"), "old")?;
    let error = installed(tools.path(), Language::Go).expect_err("it is old").to_string();
    assert!(error.contains("is older than") && error.ends_with(advice), "{error}");
    Ok(())
}
