//! A fake LaunchDarkly, a relay below it, and what tests of the two ask again and again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pilotlight::testing::demo::fake_launchdarkly::{
    FakeLaunchDarkly, FakeSettings, Fault, FaultId, FaultRule, FaultScope, StreamSelector,
};
use pilotlight::testing::demo::representations::{EnvironmentRep, KeyRep};
use pilotlight::testing::demo::stream_client::{StreamClient, StreamEvent};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::eventually;
use crate::relay::{LONG, RelayProcess, RelaySettings, next_event, stream_end};

/// The autoconfig key of the scene's LaunchDarkly.
pub fn autoconfig_key() -> String {
    FakeSettings::default().autoconfig_key
}

/// A running relay that is configured by autoconfig, with everything around it.
pub struct Scene {
    /// What the relay connects to.
    pub launchdarkly: FakeLaunchDarkly,
    /// Settings that the relay was started with.
    pub settings: RelaySettings,
    /// The relay itself.
    pub relay: RelayProcess,
    /// Folder of the relay's local store, which a restart keeps.
    pub store: TempDir,
}

impl Scene {
    /// A relay in front of a LaunchDarkly that was prepared; waits for nothing.
    pub fn start(prepare: impl FnOnce(&FakeLaunchDarkly)) -> Self {
        Self::start_with(prepare, |settings| settings)
    }

    /// The same with more settings. Expired keys are looked for every 100 ms.
    pub fn start_with(
        prepare: impl FnOnce(&FakeLaunchDarkly),
        settle: impl FnOnce(RelaySettings) -> RelaySettings,
    ) -> Self {
        let launchdarkly = FakeLaunchDarkly::launch(&FakeSettings::default()).unwrap();
        prepare(&launchdarkly);
        let store = TempDir::new().unwrap();
        let settings = RelaySettings::autoconfig(&launchdarkly, &autoconfig_key(), store.path())
            .with("EXPIRED_CREDENTIAL_CLEANUP_INTERVAL", "100ms");
        let settings = settle(settings);
        let relay = settings.start().unwrap();
        Self { launchdarkly, settings, relay, store }
    }

    /// A relay that serves these environments live.
    pub async fn healthy(environments: &[EnvironmentRep]) -> Self {
        let scene = Self::start(|launchdarkly| {
            environments.iter().for_each(|rep| load(launchdarkly, rep));
        });
        scene.relay.wait_until_healthy(environments.len()).await;
        scene
    }

    /// Kills the relay once everything is stored, and starts another one on the same store after
    /// something happened to LaunchDarkly.
    pub async fn restart(self, meanwhile: impl FnOnce(&FakeLaunchDarkly)) -> Self {
        let Self { launchdarkly, settings, relay, store } = self;
        relay.wait_until_stored().await;
        relay.kill().await.unwrap();
        meanwhile(&launchdarkly);
        let relay = settings.start().unwrap();
        Self { launchdarkly, settings, relay, store }
    }

    /// The status of a request with an SDK key.
    pub async fn code(&self, key: &str) -> u16 {
        code(&self.relay, "/sdk/latest-flags", key).await
    }

    /// Waits until a request with that SDK key is answered so.
    pub async fn wait_for_code(&self, key: &str, expected: u16) {
        wait_for_code(&self.relay, "/sdk/latest-flags", key, expected).await;
    }

    /// A stream with its first put.
    pub async fn stream(&self, key: &str) -> (StreamClient, Value) {
        self.relay.stream_with_put("/all", key).await
    }

    /// Changes a flag of the environment and expects exactly that as the stream's next event.
    pub async fn expect_patch(&self, environment: &str, client: &mut StreamClient) {
        let sent = self.launchdarkly.upsert_flag(environment, flag("ticker")).unwrap();
        let (name, data) = next_event(client).await;
        let found = (name.as_str(), &data["path"], data["data"]["version"].as_u64());
        assert_eq!(found, ("patch", &json!("/flags/ticker"), Some(sent)));
    }

    /// Ends the autoconfig connection, so that the next one begins with its put.
    pub fn cut_autoconfig(&self) {
        self.launchdarkly.cut_streams(&StreamSelector::Autoconfig);
    }

    /// From the next connection on, autoconfig begins with this put.
    pub fn autoconfig_puts(&self, put: &Value) -> FaultId {
        let fault = Fault::PutData(put.to_string().into());
        self.launchdarkly.inject(FaultRule::new(FaultScope::Autoconfig, fault))
    }

    /// Sends an event over the open autoconfig streams.
    pub fn push_autoconfig(&self, event: &str, data: &Value) {
        let data = data.to_string();
        let sent = self.launchdarkly.push_raw(&StreamSelector::Autoconfig, event, data.as_bytes());
        assert_eq!(sent, 1, "there is one autoconfig stream");
    }

    /// Number of autoconfig connections so far.
    pub fn autoconfig_requests(&self) -> usize {
        self.launchdarkly.requests_for("/relay_auto_config").len()
    }

    /// How often a flag stream was asked for under that key.
    pub fn flag_requests(&self, key: &str) -> usize {
        let requests = self.launchdarkly.requests_for("/all");
        requests.iter().filter(|request| request.authorization() == Some(key)).count()
    }

    /// Waits until the flag stream was asked for so often under that key.
    pub async fn wait_for_flag_requests(&self, key: &str, count: usize) {
        eventually(&format!("{count} flag streams under {key}"), async || {
            let found = self.flag_requests(key);
            if found >= count { Ok(()) } else { Err(format!("{found} requests")) }
        })
        .await;
    }

    /// Waits for a state of the autoconfig stream.
    pub async fn wait_for_autoconfig(&self, state: &str) -> Value {
        let what = format!("autoconfig is {state}");
        self.relay
            .wait_for_status(&what, |status| status["autoConfigStatus"]["state"] == state)
            .await
    }

    /// Waits for a state of an environment's flag stream; gives its connection status.
    pub async fn wait_for_connection(&self, environment: &str, state: &str) -> Value {
        let what = format!("{environment} is {state}");
        let of = |status: &Value| status["environments"][environment]["connectionStatus"].clone();
        of(&self.relay.wait_for_status(&what, |status| of(status)["state"] == state).await)
    }

    /// Nothing of the relay broke.
    pub fn assert_sound(&self) {
        let log = self.relay.log();
        for bad in ["panicked", "task of the", "a part of the relay broke"] {
            assert!(!log.contains(bad), "{log}");
        }
    }
}

/// An environment of project `web` with the keys `sdk-ID` and `mob-ID`, in the newest form.
pub fn environment(id: &str) -> EnvironmentRep {
    let mut rep = EnvironmentRep::simple(id, &sdk(id), &format!("mob-{id}"));
    rep.proj_key = "web".to_owned();
    rep.sdk_keys = vec![KeyRep::permanent("default", sdk(id))];
    rep.mobile_keys = vec![KeyRep::permanent("default", format!("mob-{id}"))];
    rep
}

/// The SDK key of [`environment`].
pub fn sdk(id: &str) -> String {
    format!("sdk-{id}")
}

/// The same environment with another designated key, which is its only one.
pub fn with_anchor(mut rep: EnvironmentRep, key: &str) -> EnvironmentRep {
    rep.sdk_key.value = key.to_owned();
    rep.sdk_keys = vec![KeyRep::permanent("default", key)];
    rep
}

/// The same environment with more SDK keys beside the designated one.
pub fn with_keys(
    mut rep: EnvironmentRep,
    keys: impl IntoIterator<Item = KeyRep>,
) -> EnvironmentRep {
    rep.sdk_keys.extend(keys);
    rep
}

/// Gives an environment a flag that bears its name, and announces it.
pub fn load(launchdarkly: &FakeLaunchDarkly, rep: &EnvironmentRep) {
    launchdarkly.upsert_flag(&rep.env_id, flag(&format!("of-{}", rep.env_id))).unwrap();
    launchdarkly.upsert_environment(rep.clone());
}

/// A small flag. Its version is given by LaunchDarkly.
pub fn flag(key: &str) -> Value {
    json!({"key": key, "on": true, "variations": [true, false], "fallthrough": {"variation": 0},
        "offVariation": 1, "prerequisites": [], "targets": [], "rules": [], "salt": "s"})
}

/// The flags of a put, by key.
pub fn flags(put: &Value) -> Vec<&str> {
    put["data"]["flags"].as_object().unwrap().keys().map(String::as_str).collect()
}

/// A moment in Unix milliseconds.
pub fn from_now(after: Duration) -> u64 {
    let since = (SystemTime::now() + after).duration_since(UNIX_EPOCH).unwrap();
    since.as_millis().try_into().unwrap()
}

/// The message with which autoconfig begins.
pub fn put_of(environments: &Value) -> Value {
    json!({"path": "/", "data": {"environments": environments}})
}

/// The patch of an environment.
pub fn patch_of(id: &str, environment: &Value) -> Value {
    json!({"path": format!("/environments/{id}"), "data": environment})
}

/// The status of a GET, without reading what follows.
pub async fn code(relay: &RelayProcess, path: &str, key: &str) -> u16 {
    eventually(&format!("{path} is answered"), async || {
        let asked = ask(relay, path, key);
        timeout(LONG, asked).await.map_err(|_| "no answer".to_owned())?.map_err(|e| e.to_string())
    })
    .await
}

async fn ask(relay: &RelayProcess, path: &str, key: &str) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect(relay.address()).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\nauthorization: {key}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut line = [0; 12];
    stream.read_exact(&mut line).await?;
    let status = std::str::from_utf8(&line[9..]).ok().and_then(|digits| digits.parse().ok());
    status.ok_or_else(|| std::io::Error::other("not HTTP"))
}

/// Waits until a GET is answered so.
pub async fn wait_for_code(relay: &RelayProcess, path: &str, key: &str, expected: u16) {
    eventually(&format!("{path} is answered with {expected}"), async || {
        let found = code(relay, path, key).await;
        if found == expected { Ok(()) } else { Err(format!("{found}; {}", relay.log())) }
    })
    .await;
}

/// Waits until a mobile key is accepted, or refused for good.
pub async fn wait_for_mobile(relay: &RelayProcess, key: &str, accepted: bool) {
    eventually(&format!("mobile key {key}: accepted {accepted}"), async || {
        let found = code(relay, "/mping", key).await;
        if (found != 401) == accepted { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
}

/// Reads a stream up to the first event that is wanted, and gives the others too.
pub async fn events_until(
    client: &mut StreamClient,
    wanted: impl Fn(&StreamEvent) -> bool,
) -> Vec<StreamEvent> {
    let mut events = Vec::new();
    loop {
        let event = timeout(LONG, client.next()).await.expect("an event arrives in time");
        events.push(event.expect("the stream is sound").expect("the stream goes on"));
        if wanted(&events[events.len() - 1]) {
            return events;
        }
    }
}

/// The relay ended the stream in order.
pub async fn assert_ends(client: &mut StreamClient) {
    stream_end(client).await.expect("the stream ends in order");
}
