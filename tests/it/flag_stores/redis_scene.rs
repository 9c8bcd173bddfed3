//! What tests of several Redis servers that belong together need: a LaunchDarkly, relays on the
//! servers, what these hold, and changes without end.

use std::collections::BTreeMap;

use pilotlight::testing::demo::composed_data::{environment, environment_id, sdk_key};
use pilotlight::testing::demo::fake_launchdarkly::{FakeLaunchDarkly, FakeSettings};
use pilotlight::testing::demo::stream_client::StreamClient;
use pilotlight::testing::model::{DataSet, ItemKind};
use pilotlight::testing::storage::fail_fast::CALL_BUDGET;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep, timeout};

use pilotlight_test_kit::databases::{Redis, RedisCluster};
use pilotlight_test_kit::fleet::{CACHE_KEY, KEY, NEVER};
use pilotlight_test_kit::relay::{LONG, RelayProcess, RelaySettings, next_event};
use pilotlight_test_kit::stored_flags::{Stored, versions, wanted};
use pilotlight_test_kit::{LIMIT, eventually};

/// Runs a command on the server that owns a key; gives nothing while nobody does.
pub(crate) type Run<'a> = &'a dyn Fn(&str, &[&str]) -> String;

/// A prefix whose keys are spread over a cluster.
pub(crate) const PLAIN: &str = "ld-";

/// A prefix whose keys a cluster keeps on one server.
pub(crate) const TAGGED: &str = "{ld}-";

/// The prefix of an environment's keys.
pub(crate) fn prefix(start: &str, index: usize) -> String {
    format!("{start}{}", environment_id(index))
}

pub(crate) fn launchdarkly(environments: usize, flags: usize) -> FakeLaunchDarkly {
    // Short, because some decisions wait for a sign of life of the stream.
    let heartbeat = Some(Duration::from_millis(200));
    let settings = FakeSettings { heartbeat, ..FakeSettings::default() };
    let launchdarkly = FakeLaunchDarkly::launch(&settings).unwrap();
    for index in 0..environments {
        launchdarkly.load(&environment(index, flags));
    }
    launchdarkly
}

/// A relay that keeps everything in a Redis that is still to be named, and never looks at it
/// without a reason.
pub(crate) fn relay(
    launchdarkly: &FakeLaunchDarkly,
    machine: &TempDir,
    start: &str,
) -> RelaySettings {
    let key = FakeSettings::default().autoconfig_key;
    RelaySettings::autoconfig(launchdarkly, &key, machine.path())
        .with("AUTO_CONFIG_CACHE_KEY", CACHE_KEY)
        .with("AUTO_CONFIG_CACHE_ENCRYPTION_KEY", KEY)
        .with("ENV_DATASTORE_PREFIX", format!("{start}$CID"))
        .with("REDIS_HEALTH_CHECK_INTERVAL", NEVER)
}

/// Runs commands on one server.
pub(crate) fn on(server: &Redis) -> impl Fn(&str, &[&str]) -> String {
    |_, command| server.command(command)
}

/// Runs commands on the owners of the keys.
pub(crate) fn on_owners(cluster: &RedisCluster<'_>) -> impl Fn(&str, &[&str]) -> String {
    |key, command| match cluster.find_owner(key) {
        Some(owner) => cluster.servers[owner].command(command),
        None => String::new(),
    }
}

fn stored(run: Run<'_>, prefix: &str, kind: ItemKind) -> Stored {
    let hash = format!("{prefix}:{}", kind.store_name());
    let text = run(&hash, &["HGETALL", &hash]);
    let lines: Vec<&str> = text.lines().collect();
    let item = |pair: &[&str]| {
        let json = pair.get(1).and_then(|json| serde_json::from_str(json).ok());
        (pair[0].to_owned(), json.unwrap_or(Value::Null))
    };
    lines.chunks(2).map(item).collect()
}

/// Whether a prefix holds exactly this, and the marker.
pub(crate) fn holds(run: Run<'_>, prefix: &str, data: &DataSet) -> Result<(), String> {
    for kind in ItemKind::ALL {
        let (found, wanted) = (versions(&stored(run, prefix, kind)), wanted(data, kind));
        if found != wanted {
            let missing: BTreeMap<_, _> =
                wanted.iter().filter(|(key, version)| found.get(*key) != Some(version)).collect();
            return Err(format!("{} of {} {kind:?}: {missing:?}", found.len(), wanted.len()));
        }
    }
    let marker = format!("{prefix}:$inited");
    let is_marked = run(&marker, &["EXISTS", &marker]) == "1";
    if is_marked { Ok(()) } else { Err("there is no marker".to_owned()) }
}

/// Waits until the servers hold exactly what LaunchDarkly says of all these environments.
pub(crate) async fn wait_until_held(
    run: Run<'_>,
    launchdarkly: &FakeLaunchDarkly,
    start: &str,
    environments: usize,
) {
    for index in 0..environments {
        eventually("the servers hold what LaunchDarkly says", async || {
            let data = launchdarkly.data(environment_id(index).as_str());
            holds(run, &prefix(start, index), &data)
        })
        .await;
    }
}

/// A relay serves exactly this, and has it from the shared store.
pub(crate) async fn serves_from_the_store(relay: &RelayProcess, index: usize, said: &DataSet) {
    let (_client, put) = relay.stream_with_put("/all", &sdk_key(index)).await;
    for (name, kind) in [("flags", ItemKind::Flag), ("segments", ItemKind::Segment)] {
        let served: Stored = serde_json::from_value(put["data"][name].clone()).unwrap();
        assert_eq!(versions(&served), wanted(said, kind), "{name}");
    }
    let status = relay.status().await;
    let data = &status["environments"][environment_id(index)]["data"];
    assert_eq!(data["origin"], "sharedStore", "{data}");
}

/// Pause between two changes.
const PACE: Duration = Duration::from_millis(4);

/// Flags that change.
const CHANGING: usize = 20;

/// The flag of the last change.
const LAST: &str = "the-last-one";

/// One change as it was made, or heard of.
#[derive(Debug)]
struct Change {
    key: String,
    version: u64,
    at: Instant,
}

/// Changes flags of the first environment without end, while a client listens to its relay.
pub(crate) struct Changes {
    stop: watch::Sender<bool>,
    count: watch::Receiver<usize>,
    made: JoinSet<Vec<Change>>,
    heard: JoinSet<Vec<Change>>,
}

impl Changes {
    pub(crate) async fn start(launchdarkly: &FakeLaunchDarkly, relay: &RelayProcess) -> Self {
        let (client, _) = relay.stream_with_put("/all", &sdk_key(0)).await;
        let (stop, stopped) = watch::channel(false);
        let (counter, count) = watch::channel(0);
        let (mut made, mut heard) = (JoinSet::new(), JoinSet::new());
        made.spawn(make(launchdarkly.clone(), stopped, counter));
        heard.spawn(listen(client));
        Self { stop, count, made, heard }
    }

    /// Waits until so many more were made.
    pub(crate) async fn go_on_for(&mut self, more: usize) {
        let goal = *self.count.borrow() + more;
        let reached = timeout(LIMIT, self.count.wait_for(|count| *count >= goal)).await;
        reached.expect("changes are made").expect("changes go on");
    }

    /// Ends them. The client has heard of each one, in order, and sooner than anybody could who
    /// waits for a call to a database that does not answer.
    pub(crate) async fn finish(self) {
        self.stop.send_replace(true);
        let made = self.made.join_all().await.remove(0);
        let heard = timeout(LONG, self.heard.join_all()).await.expect("the last one is heard of");
        let heard = &heard[0];
        let name = |change: &Change| (change.key.clone(), change.version);
        let gap = made.iter().zip(heard).find(|(made, heard)| name(made) != name(heard));
        assert!(gap.is_none() && made.len() == heard.len(), "{gap:?} {}", made.len());
        let delays = made.iter().zip(heard).map(|(made, heard)| heard.at - made.at);
        let longest = delays.max().unwrap();
        assert!(longest < CALL_BUDGET, "{longest:?}");
    }
}

async fn make(
    launchdarkly: FakeLaunchDarkly,
    stopped: watch::Receiver<bool>,
    counter: watch::Sender<usize>,
) -> Vec<Change> {
    let mut made = Vec::new();
    let mut change = |key: String| {
        let at = Instant::now();
        let flag = json!({"key": key, "on": true, "salt": made.len().to_string()});
        let version = launchdarkly.upsert_flag(environment_id(0).as_str(), flag).unwrap();
        made.push(Change { key, version, at });
        counter.send_replace(made.len());
        made.len()
    };
    let mut number = 0;
    while !*stopped.borrow() {
        number = change(format!("changing-{}", number % CHANGING));
        sleep(PACE).await;
    }
    change(LAST.to_owned());
    made
}

async fn listen(mut client: StreamClient) -> Vec<Change> {
    let mut heard = Vec::new();
    loop {
        let (name, data) = next_event(&mut client).await;
        let at = Instant::now();
        assert_eq!(name, "patch");
        let key = data["path"].as_str().unwrap().strip_prefix("/flags/").unwrap().to_owned();
        let is_last = key == LAST;
        heard.push(Change { key, version: data["data"]["version"].as_u64().unwrap(), at });
        if is_last {
            return heard;
        }
    }
}
