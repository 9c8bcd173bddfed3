//! The outage as customers live it: the official SDKs, the real binary, and nothing that falls
//! back to a default from the first initialisation to the end.
//!
//! Each SDK keeps its own reconnect delays, which is why the limits are long; only what is broken
//! waits for them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use pilotlight::testing::demo::composed_data::{
    changed_flag, environment, environment_id, expected_value, expected_value_after, flag_key,
    is_prerequisite, sdk_key,
};
use pilotlight::testing::demo::fake_launchdarkly::{
    FakeLaunchDarkly, FakeSettings, Fault, FaultRule, FaultScope,
};
use pilotlight::testing::model::SdkKey;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use pilotlight_test_kit::futures_of;
use pilotlight_test_kit::relay::{RelayProcess, RelaySettings};
use pilotlight_test_kit::sdk_driver::{Events, Language, Mode, SdkDriver, same_value};

/// One for each SDK, so that several environments are live at once.
const ENVIRONMENTS: usize = 4;
const FLAGS: usize = 20;

/// Pause between two evaluations of every flag.
const WATCH_INTERVAL: Duration = Duration::from_millis(10);

/// SDKs wait up to 30 s between attempts, pollers 30 s between polls; and the machine may be busy.
const LIMIT: Duration = Duration::from_secs(120);

/// Changed while LaunchDarkly cannot be reached, and after it is back.
const CHANGED_DURING: usize = 0;
const CHANGED_AFTER: usize = 1;

/// An SDK and the environment it reads.
struct Reader {
    sdk: SdkDriver,
    environment: usize,
    mode: Mode,
}

impl Reader {
    /// Starts an SDK, waits until it has its data, compares every value, and begins to watch.
    async fn start(
        language: Language,
        environment: usize,
        relay: &RelayProcess,
        mode: Mode,
    ) -> anyhow::Result<Self> {
        let key = SdkKey::new(sdk_key(environment));
        // Events on, as customers have it: the relay's answers to them must not disturb flags.
        let sdk = SdkDriver::start_with(language, &key, &relay.url(), mode, Events::On).await?;
        let mut reader = Self { sdk, environment, mode };
        let init = reader.sdk.wait_init(LIMIT).await?;
        ensure!(init.initialized, "{}", reader.failure("is not initialised", init));
        reader.compare().await?;
        let flags = flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        reader.sdk.watch_start(&flags, WATCH_INTERVAL).await?;
        Ok(reader)
    }

    /// Every flag evaluates to the value that LaunchDarkly's data mean.
    async fn compare(&mut self) -> anyhow::Result<()> {
        let flags = flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let given = self.sdk.eval_all(&flags).await?;
        for (flag, key) in flags.iter().enumerate() {
            let evaluation = &given[*key];
            let same = same_value(&evaluation.value, &expected_value(self.environment, flag));
            ensure!(
                same && evaluation.variation.is_some(),
                "{}",
                self.failure(&format!("gives {key} another value"), evaluation)
            );
        }
        Ok(())
    }

    /// Waits for the value that a flag has after one change.
    async fn sees(&mut self, flag: usize) -> anyhow::Result<()> {
        let value = expected_value_after(self.environment, flag, 1);
        let seen = self.sdk.await_value(&flag_key(flag), value, LIMIT).await?;
        ensure!(seen.matched, "{}", self.failure(&format!("does not see flag {flag}"), seen));
        Ok(())
    }

    /// The SDK says that its connection is sound.
    async fn is_connected(&mut self) -> anyhow::Result<()> {
        self.sdk.wait_valid().await.with_context(|| format!("environment {}", self.environment))
    }

    /// Nothing fell back so far; returns how many evaluations were looked at.
    async fn has_not_fallen_back(&mut self) -> anyhow::Result<u64> {
        let report = self.sdk.watch_report().await?;
        ensure!(
            report.fallbacks == 0 && report.first_fallback.is_none(),
            "{}",
            self.failure("fell back to a default", report)
        );
        Ok(report.evaluations)
    }

    /// Goes on watching for a while: so many evaluations more, none of which falls back.
    async fn watches_on(&mut self) -> anyhow::Result<()> {
        let enough = self.has_not_fallen_back().await? + 5 * FLAGS as u64;
        let deadline = Instant::now() + LIMIT;
        while self.has_not_fallen_back().await? < enough {
            ensure!(Instant::now() < deadline, "{}", self.failure("does not watch", enough));
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
        Ok(())
    }

    fn failure(&self, what: &str, seen: impl std::fmt::Debug) -> String {
        let (language, version) = (self.sdk.language(), self.sdk.version());
        let Self { mode, environment, .. } = self;
        format!("{language} SDK {version} ({mode:?}, environment {environment}) {what}: {seen:?}")
    }
}

/// Does the same for all of them at the same time.
macro_rules! all {
    ($readers:expr, $step:expr) => {
        futures_of($readers.iter_mut().map($step)).await?
    };
}

fn flags() -> Vec<String> {
    (0..FLAGS).map(flag_key).collect()
}

struct Scene {
    launchdarkly: FakeLaunchDarkly,
    settings: RelaySettings,
    _store: TempDir,
}

impl Scene {
    fn set() -> anyhow::Result<Self> {
        let launchdarkly = FakeLaunchDarkly::launch(&FakeSettings::default())?;
        for index in 0..ENVIRONMENTS {
            launchdarkly.load(&environment(index, FLAGS));
        }
        let store = TempDir::new()?;
        let key = FakeSettings::default().autoconfig_key;
        let settings = RelaySettings::autoconfig(&launchdarkly, &key, store.path());
        Ok(Self { launchdarkly, settings, _store: store })
    }

    /// A relay that is connected, and has stored what it knows.
    async fn live_relay(&self) -> anyhow::Result<RelayProcess> {
        let relay = self.settings.start()?;
        relay.wait_until_healthy(ENVIRONMENTS).await;
        relay.wait_until_stored().await;
        Ok(relay)
    }

    /// `kill -9`, and a new process on the same port.
    async fn replace(&self, relay: RelayProcess) -> anyhow::Result<RelayProcess> {
        let address = relay.address();
        relay.kill().await?;
        self.settings.start_at(address)
    }

    fn change(&self, flag: usize) -> anyhow::Result<()> {
        assert!(!is_prerequisite(flag), "its value would not change");
        for index in 0..ENVIRONMENTS {
            let changed = changed_flag(index, flag, 1);
            self.launchdarkly.upsert_flag(&environment_id(index), changed)?;
        }
        Ok(())
    }
}

/// Open streams of each environment, by its ID.
fn streams(status: &Value) -> BTreeMap<String, u64> {
    let environments = status["environments"].as_object().into_iter().flatten();
    environments
        .map(|(id, environment)| (id.clone(), environment["data"]["streams"].as_u64().unwrap_or(0)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_stream_through_an_outage() -> anyhow::Result<()> {
    let scene = Scene::set()?;
    let relay = scene.live_relay().await?;
    let starts = Language::SERVER_SIDE.into_iter().enumerate();
    let mut readers = futures_of(
        starts.map(|(index, language)| Reader::start(language, index, &relay, Mode::Stream)),
    )
    .await?;

    scene.launchdarkly.stop().await;
    all!(readers, Reader::watches_on);

    let relay = scene.replace(relay).await?;
    // Each SDK comes back in its own time, and finds everything.
    let deadline = Instant::now() + LIMIT;
    while streams(&relay.status().await).values().filter(|count| **count > 0).count() < ENVIRONMENTS
    {
        ensure!(Instant::now() < deadline, "not all SDKs came back: {:#}", relay.status().await);
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
    all!(readers, Reader::is_connected);
    all!(readers, Reader::compare);

    // A process that is started during the outage has its flags too, in another environment.
    let starts = Language::SERVER_SIDE.into_iter().enumerate();
    let fresh = futures_of(starts.map(|(index, language)| {
        Reader::start(language, (index + 1) % ENVIRONMENTS, &relay, Mode::Stream)
    }))
    .await
    .context("during the outage")?;
    readers.extend(fresh);
    let status = relay.status().await;
    assert_eq!(status["status"], "degraded", "the outage lasts");
    assert!(streams(&status).values().all(|count| *count == 2), "{status:#}");

    scene.change(CHANGED_DURING)?;
    scene.launchdarkly.start()?;
    all!(readers, |reader| reader.sees(CHANGED_DURING));
    relay.wait_until_healthy(ENVIRONMENTS).await;
    scene.change(CHANGED_AFTER)?;
    all!(readers, |reader| reader.sees(CHANGED_AFTER));
    all!(readers, Reader::has_not_fallen_back);
    for reader in readers {
        reader.sdk.quit().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sdks_poll_through_an_outage() -> anyhow::Result<()> {
    let scene = Scene::set()?;
    let relay = scene.live_relay().await?;
    let polling = [Language::Python, Language::Node];
    let starts = polling.into_iter().enumerate();
    let mut readers = futures_of(
        starts.map(|(index, language)| Reader::start(language, index, &relay, Mode::Poll)),
    )
    .await?;

    // This outage hangs instead of refusing: connections open, and nothing is answered.
    scene.launchdarkly.inject(FaultRule::new(FaultScope::Everything, Fault::BlackHole));
    all!(readers, Reader::watches_on);
    let relay = scene.replace(relay).await?;
    let starts = polling.into_iter().enumerate();
    let fresh = futures_of(
        starts.map(|(index, language)| Reader::start(language, index + 2, &relay, Mode::Poll)),
    )
    .await
    .context("during the outage")?;
    readers.extend(fresh);
    assert_eq!(relay.status().await["status"], "degraded", "the outage lasts");

    scene.launchdarkly.clear_faults();
    scene.change(CHANGED_AFTER)?;
    all!(readers, |reader| reader.sees(CHANGED_AFTER));
    all!(readers, Reader::has_not_fallen_back);
    for reader in readers {
        reader.sdk.quit().await?;
    }
    Ok(())
}
