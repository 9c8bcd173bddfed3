//! The official client-side SDKs against the real binary: Node.js; the browser's 3.x and 4.x and
//! React, in a Chromium whose pages have another origin than the relay; and React Native, which has
//! a mobile key, and a page instead of a phone.
//!
//! SDKs of one test share a Chromium. They keep their own reconnect delays, which is why the limits
//! are long; only what is broken waits for them.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hmac::{Hmac, KeyInit as _, Mac as _};
use pilotlight::testing::demo::fake_launchdarkly::{FakeLaunchDarkly, FakeSettings};
use pilotlight::testing::demo::representations::EnvironmentRep;
use serde_json::{Value, json};
use sha2::Sha256;
use tempfile::TempDir;

use pilotlight_test_kit::relay::{RelayProcess, RelaySettings};
use pilotlight_test_kit::sdk_driver::{ClientSide, Events, Language, SdkDriver, State};
use pilotlight_test_kit::{eventually, futures_of};

const LIMIT: Duration = Duration::from_secs(60);

const OPEN: &str = "65a1b2c3d4e5f60718293a4b";
const SECURE: &str = "75a1b2c3d4e5f60718293a4b";

fn sdk_key(environment: &str) -> String {
    format!("sdk-{environment}")
}

fn user(key: &str) -> Value {
    json!({"kind": "user", "key": key})
}

/// The hash that a page's server computes in secure mode.
fn hash(environment: &str, user: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(sdk_key(environment).as_bytes()).unwrap();
    mac.update(user.as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn mobile_key(environment: &str) -> String {
    format!("mob-{environment}")
}

fn settings_for(environment: &str, relay: &RelayProcess, context: Value) -> ClientSide {
    ClientSide::new(environment, &mobile_key(environment), &relay.url(), context)
}

/// The SDKs that may see a flag. Those of servers see all.
#[derive(Clone, Copy, PartialEq)]
enum Audience {
    All,
    Pages,
    Phones,
    Servers,
}

/// A flag that gives `value` to all users but `vip`, who gets `welcome`.
fn flag(key: &str, value: impl Into<Value>, audience: Audience) -> Value {
    let sees = |kind| audience == Audience::All || audience == kind;
    json!({
        "key": key, "on": true, "salt": "s", "variations": [value.into(), "welcome"],
        "offVariation": 0, "fallthrough": {"variation": 0}, "prerequisites": [], "rules": [],
        "targets": [{"values": ["vip"], "variation": 1}],
        "clientSideAvailability": {
            "usingMobileKey": sees(Audience::Phones), "usingEnvironmentId": sees(Audience::Pages),
        },
    })
}

fn greeting(value: &str) -> Value {
    flag("greeting", value, Audience::All)
}

/// A LaunchDarkly with two environments of the same flags, and the settings of a relay below it.
struct Scene {
    launchdarkly: FakeLaunchDarkly,
    settings: RelaySettings,
}

impl Scene {
    fn set() -> anyhow::Result<Self> {
        let launchdarkly = FakeLaunchDarkly::launch(&FakeSettings::default())?;
        for id in [OPEN, SECURE] {
            let limits = json!({"max": [3, 4.5]});
            for flag in [
                greeting("hello"),
                flag("limits", limits, Audience::All),
                flag("pages", 1, Audience::Pages),
                flag("phones", 1, Audience::Phones),
                flag("servers", 1, Audience::Servers),
            ] {
                launchdarkly.upsert_flag(id, flag)?;
            }
            launchdarkly.upsert_environment(EnvironmentRep {
                secure_mode: id == SECURE,
                ..EnvironmentRep::simple(id, &sdk_key(id), &mobile_key(id))
            });
        }
        let store = TempDir::new()?;
        let key = FakeSettings::default().autoconfig_key;
        let settings = RelaySettings::autoconfig(&launchdarkly, &key, store.path()).keeping(store);
        Ok(Self { launchdarkly, settings })
    }

    /// A relay that is connected, and has stored what it knows.
    async fn live_relay(&self) -> anyhow::Result<RelayProcess> {
        let relay = self.settings.start()?;
        relay.wait_until_healthy(2).await;
        relay.wait_until_stored().await;
        Ok(relay)
    }

    fn change_greeting(&self, value: &str) -> anyhow::Result<()> {
        self.launchdarkly.upsert_flag(OPEN, greeting(value))?;
        Ok(())
    }
}

/// SDKs that share a Chromium: that of the first.
struct Sdks(Vec<SdkDriver>);

impl Sdks {
    /// One of each.
    async fn start(settings: &ClientSide) -> anyhow::Result<Self> {
        let mut sdks = Self::start_one(Language::Browser3, settings).await?;
        let others = Language::CLIENT_SIDE.into_iter().filter(|it| *it != Language::Browser3);
        sdks.add(others, settings).await?;
        Ok(sdks)
    }

    async fn start_one(language: Language, settings: &ClientSide) -> anyhow::Result<Self> {
        Ok(Self(vec![SdkDriver::start_client_side(language, settings).await?]))
    }

    /// More of them, in the same Chromium.
    async fn add(
        &mut self,
        languages: impl IntoIterator<Item = Language>,
        settings: &ClientSide,
    ) -> anyhow::Result<()> {
        let first = &self.0[0];
        let starts = languages.into_iter().map(|language| first.start_beside(language, settings));
        let started = futures_of(starts).await?;
        self.0.extend(started);
        Ok(())
    }

    /// Lets all of them end, the one with the Chromium last.
    async fn quit(mut self) -> anyhow::Result<()> {
        let others = self.0.split_off(1);
        for sdks in [others, self.0] {
            futures_of(sdks.into_iter().map(SdkDriver::quit)).await?;
        }
        Ok(())
    }
}

/// Does the same with all SDKs at the same time; a failure names the SDK.
async fn all(
    sdks: &mut [SdkDriver],
    step: impl AsyncFn(&mut SdkDriver) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let step = &step;
    let steps = sdks.iter_mut().map(|sdk| async move {
        let language = sdk.language();
        step(sdk).await.with_context(|| format!("the {language} SDK"))
    });
    futures_of(steps).await.map(|_: Vec<()>| ())
}

async fn is_initialized(sdk: &mut SdkDriver) -> anyhow::Result<()> {
    let init = sdk.wait_init(LIMIT).await?;
    ensure!(init.initialized, "is not initialised: {init:?}, {:?}", sdk.status().await?);
    Ok(())
}

/// A request is answered with that status, which CORS must not hide from a page.
async fn is_refused(sdk: &mut SdkDriver, status_code: u16) -> anyhow::Result<()> {
    let language = sdk.language();
    eventually(&format!("a request of {language} is answered with {status_code}"), async || {
        let status = sdk.status().await.map_err(|error| format!("{error:#}"))?;
        let error = status.last_error.as_ref();
        if error.is_some_and(|error| error.status_code == status_code) {
            return Ok(());
        }
        Err(format!("{status:?}"))
    })
    .await;
    Ok(())
}

/// The SDK gives up its first request, which was refused with that status.
async fn fails_to_start(sdk: &mut SdkDriver, status_code: u16) -> anyhow::Result<()> {
    let init = sdk.wait_init(LIMIT).await?;
    let state = sdk.status().await?.state;
    ensure!(!init.initialized && state == State::Interrupted, "{init:?}, {state:?}");
    is_refused(sdk, status_code).await
}

/// Gets the values of all flags that it may see, and no others: those of the user `u1` with this
/// greeting, or those of `vip`. React renders values a moment after the SDK has them.
async fn has_values(sdk: &mut SdkDriver, greeting: &str) -> anyhow::Result<()> {
    let language = sdk.language();
    let (own, others) = match language {
        Language::ReactNative => ("phones", "pages"),
        _ => ("pages", "phones"),
    };
    let is_vip = greeting == "welcome";
    let value = |it: Value| if is_vip { json!("welcome") } else { it };
    let limits = value(json!({"max": [3, 4.5]}));
    let expected = json!({"greeting": greeting, "limits": limits, own: value(json!(1))});
    eventually(&format!("{language} has the values with {greeting}"), async || {
        let all = sdk.all_flags().await.map_err(|error| format!("{error:#}"))?;
        let is_expected = all.valid && Some(&all.values) == expected.as_object();
        if is_expected { Ok(()) } else { Err(format!("{all:?}")) }
    })
    .await;
    for hidden in [others, "servers"] {
        let given = sdk.eval(hidden, "default").await?;
        ensure!(given.value == "default" && given.variation.is_none(), "{given:?}");
    }
    Ok(())
}

async fn sees(sdk: &mut SdkDriver, greeting: &str) -> anyhow::Result<()> {
    let seen = sdk.await_value("greeting", greeting, LIMIT).await?;
    ensure!(seen.matched, "does not see {greeting}: {seen:?}");
    Ok(())
}

async fn becomes(sdk: &mut SdkDriver, user: Value, hash: Option<&str>) -> anyhow::Result<()> {
    ensure!(sdk.identify(user.clone(), hash).await?, "has no values for {user}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn client_side_sdks_get_what_their_context_is_due_and_follow_changes() -> anyhow::Result<()> {
    let scene = Scene::set()?;
    let relay = scene.live_relay().await?;
    let settings = settings_for(OPEN, &relay, user("u1"));
    let mut sdks = Sdks::start(&settings).await?;
    let streaming = sdks.0.len();
    let silent = ClientSide { streaming: false, ..settings };
    sdks.add([Language::NodeClient, Language::Browser4, Language::ReactNative], &silent).await?;
    all(&mut sdks.0, is_initialized).await?;
    all(&mut sdks.0, async |sdk| has_values(sdk, "hello").await).await?;
    all(&mut sdks.0, async |sdk| {
        let given = sdk.eval("greeting", "none").await?;
        ensure!(given.variation == Some(0) && given.reason.kind.is_empty(), "{given:?}");
        Ok(())
    })
    .await?;

    scene.change_greeting("bonjour")?;
    all(&mut sdks.0[..streaming], async |sdk| sees(sdk, "bonjour").await).await?;
    // Those without a stream do not know, until they ask again.
    all(&mut sdks.0[streaming..], async |sdk| has_values(sdk, "hello").await).await?;
    all(&mut sdks.0[streaming..], async |sdk| becomes(sdk, user("u1"), None).await).await?;
    all(&mut sdks.0, async |sdk| sees(sdk, "bonjour").await).await?;

    all(&mut sdks.0, async |sdk| becomes(sdk, user("vip"), None).await).await?;
    all(&mut sdks.0, async |sdk| has_values(sdk, "welcome").await).await?;
    // The stream has followed to the other context.
    scene.launchdarkly.delete_flag(OPEN, "limits");
    all(&mut sdks.0[..streaming], async |sdk| {
        let language = sdk.language();
        eventually(&format!("{language} has lost the deleted flag"), async || {
            let all = sdk.all_flags().await.map_err(|error| format!("{error:#}"))?;
            if all.values.contains_key("limits") { Err(format!("{all:?}")) } else { Ok(()) }
        })
        .await;
        Ok(())
    })
    .await?;
    sdks.quit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn contexts_in_bodies_and_reasons_reach_every_client_side_sdk() -> anyhow::Result<()> {
    let scene = Scene::set()?;
    let relay = scene.live_relay().await?;
    let settings =
        ClientSide { report: true, reasons: true, ..settings_for(OPEN, &relay, user("vip")) };
    let mut sdks = Sdks::start(&settings).await?;
    all(&mut sdks.0, is_initialized).await?;
    let reason_is = async |sdk: &mut SdkDriver, kind: &str| {
        let given = sdk.eval("greeting", "none").await?;
        ensure!(given.reason.kind == kind, "{given:?}");
        Ok(())
    };
    all(&mut sdks.0, async |sdk| has_values(sdk, "welcome").await).await?;
    all(&mut sdks.0, async |sdk| reason_is(sdk, "TARGET_MATCH").await).await?;
    all(&mut sdks.0, async |sdk| becomes(sdk, user("u1"), None).await).await?;
    all(&mut sdks.0, async |sdk| reason_is(sdk, "FALLTHROUGH").await).await?;
    scene.change_greeting("bonjour")?;
    all(&mut sdks.0, async |sdk| sees(sdk, "bonjour").await).await?;
    for sdk in &sdks.0 {
        let (log, url) = (sdk.log(), relay.url());
        // A browser's streams have no body; they say nothing of the context.
        let asked = match sdk.language() {
            Language::NodeClient => format!("{url}/eval/{OPEN}?withReasons=true"),
            Language::ReactNative => "/msdk/evalx/context?withReasons=true".to_owned(),
            _ => format!("REPORT {url}/sdk/evalx/{OPEN}/context?withReasons=true"),
        };
        assert!(log.contains(&asked), "{}: {log}", sdk.language());
    }
    sdks.quit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_secure_mode_client_side_sdks_need_the_hash_of_their_context() -> anyhow::Result<()> {
    let scene = Scene::set()?;
    let relay = scene.live_relay().await?;
    let without = settings_for(SECURE, &relay, user("u1"));
    let with = ClientSide { hash: Some(hash(SECURE, "u1")), ..without.clone() };
    let mut sdks = Sdks::start(&with).await?;
    let trusted = sdks.0.len();
    let pages = [Language::NodeClient, Language::Browser3, Language::Browser4];
    sdks.add(pages, &without).await?;
    let (trusted, others) = sdks.0.split_at_mut(trusted);
    let vip = &hash(SECURE, "vip");
    let with_hashes = async {
        all(trusted, is_initialized).await?;
        all(trusted, async |sdk| sees(sdk, "hello").await).await?;
        all(trusted, async |sdk| becomes(sdk, user("vip"), Some(vip)).await).await?;
        all(trusted, async |sdk| sees(sdk, "welcome").await).await?;
        // A page does not get the values of another user with the hash of this one.
        all(trusted, async |sdk| {
            let identified = sdk.identify(user("u1"), Some(vip)).await?;
            ensure!(identified == (sdk.language() == Language::ReactNative), "{identified}");
            Ok(())
        })
        .await
    };
    // Some try several times before they give up.
    tokio::try_join!(with_hashes, all(others, async |sdk| fails_to_start(sdk, 400).await))?;
    sdks.quit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn client_side_sdks_start_during_an_outage_from_what_a_killed_relay_had_seen()
-> anyhow::Result<()> {
    let scene = Scene::set()?;
    let relay = scene.live_relay().await?;
    // Events as customers have them: the relay's answers to them must not disturb values.
    let settings = ClientSide { events: Events::On, ..settings_for(OPEN, &relay, user("u1")) };
    let mut sdks = Sdks::start_one(Language::Browser3, &settings).await?;
    sdks.add([Language::NodeClient], &settings).await?;
    let before = sdks.0.len();
    all(&mut sdks.0, is_initialized).await?;

    scene.launchdarkly.stop().await;
    let address = relay.address();
    relay.kill().await?;
    let relay = scene.settings.start_at(address)?;
    // One that is started now has its values too.
    sdks.add(Language::CLIENT_SIDE, &settings).await?;
    all(&mut sdks.0[before..], is_initialized).await?;
    all(&mut sdks.0, async |sdk| has_values(sdk, "hello").await).await?;
    all(&mut sdks.0[before..], async |sdk| becomes(sdk, user("vip"), None).await).await?;
    all(&mut sdks.0[before..], async |sdk| has_values(sdk, "welcome").await).await?;
    all(&mut sdks.0[before..], async |sdk| becomes(sdk, user("u1"), None).await).await?;
    assert_eq!(relay.status().await["status"], "degraded", "the outage lasts");

    scene.change_greeting("bonjour")?;
    scene.launchdarkly.start()?;
    all(&mut sdks.0, async |sdk| sees(sdk, "bonjour").await).await?;
    scene.change_greeting("salut")?;
    all(&mut sdks.0, async |sdk| sees(sdk, "salut").await).await?;
    sdks.quit().await
}

/// Starts all SDKs before a relay that knows nothing, which refuses so many of them.
async fn come_back_once_there_are_values(
    scene: &Scene,
    settings: &RelaySettings,
    refused: usize,
) -> anyhow::Result<()> {
    scene.launchdarkly.stop().await;
    let relay = settings.start()?;
    let mut sdks = Sdks::start(&settings_for(OPEN, &relay, user("u1"))).await?;
    all(&mut sdks.0[..refused], async |sdk| is_refused(sdk, 503).await).await?;
    // SDKs of the 3.x line ask once, and then only if their application tells them to. The others
    // go on by themselves.
    for sdk in &mut sdks.0 {
        if ![Language::Browser4, Language::ReactNative].contains(&sdk.language()) {
            sdk.set_streaming(true).await?;
        }
    }
    scene.launchdarkly.start()?;
    all(&mut sdks.0, async |sdk| sees(sdk, "hello").await).await?;
    scene.change_greeting("bonjour")?;
    all(&mut sdks.0, async |sdk| sees(sdk, "bonjour").await).await?;
    sdks.quit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn client_side_sdks_come_back_to_a_relay_that_had_no_list_of_environments()
-> anyhow::Result<()> {
    let scene = Scene::set()?;
    let all = Language::CLIENT_SIDE.len();
    come_back_once_there_are_values(&scene, &scene.settings, all).await
}

#[tokio::test(flavor = "multi_thread")]
async fn client_side_sdks_come_back_to_a_relay_that_had_no_flags() -> anyhow::Result<()> {
    let scene = Scene::set()?;
    let settings = scene.settings.clone().without("AUTO_CONFIG_KEY");
    let settings = settings
        .with("LD_ENV_Prod", sdk_key(OPEN))
        .with("LD_CLIENT_SIDE_ID_Prod", OPEN)
        .with("LD_MOBILE_KEY_Prod", mobile_key(OPEN));
    // The last SDK is a phone: it asks for its stream only, which is open and silent until then.
    let but_one = Language::CLIENT_SIDE.len() - 1;
    come_back_once_there_are_values(&scene, &settings, but_one).await
}

/// Processes that were started with this text in their environment or their arguments.
fn processes_of(text: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let mentions = |file: PathBuf| {
        std::fs::read(file).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
    };
    processes
        .filter(|process| mentions(process.join("environ")) || mentions(process.join("cmdline")))
        .map(|process| process.display().to_string())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_browser_leaves_no_process_and_no_file() -> anyhow::Result<()> {
    let scene = Scene::set()?;
    let relay = scene.live_relay().await?;
    let settings = settings_for(OPEN, &relay, user("u1"));
    for language in [Language::Browser3, Language::NodeClient] {
        let mut sdk = SdkDriver::start_client_side(language, &settings).await?;
        is_initialized(&mut sdk).await?;
        let folder = sdk.folder().context("it has a folder")?.to_owned();
        let mark = folder.display().to_string();
        let running = processes_of(&mark).len();
        assert!(running >= 1 && (running > 1 || language == Language::NodeClient), "{running}");
        drop(sdk);
        assert!(!folder.exists());
        eventually("all its processes are gone", async || {
            let left = processes_of(&mark);
            if left.is_empty() { Ok(()) } else { Err(left.join(", ")) }
        })
        .await;
    }
    Ok(())
}
