//! An SDK in proxy mode that never stops listening and asking while something is wrong with the
//! database: whatever the relay makes of that, it must not see it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pilotlight::testing::demo::composed_data::{environment_id, sdk_key};
use pilotlight::testing::demo::stream_client::{StreamClient, StreamTarget};
use pilotlight::testing::tasks::TaskGroup;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::fleet::Fleet;
use crate::relay::{LONG, RelayProcess, request};

/// What a call to a database may take. A client that waits for one waits so long at least.
const DATABASE_BUDGET: Duration = Duration::from_secs(2);

/// Between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(20);

/// Flags that [`Witness::change`] changes in turn.
pub const TICKS: usize = 7;

type Versions = BTreeMap<String, u64>;

/// Listens and asks for one environment until it is dropped, and notes what is wrong.
pub struct Witness {
    environment: usize,
    seen: Arc<watch::Sender<Seen>>,
    _tasks: TaskGroup,
}

/// Everything that was seen so far.
#[derive(Default)]
struct Seen {
    /// What the stream has told.
    flags: Versions,
    /// Answers to questions, and changes that were heard of.
    answers: usize,
    slowest: Duration,
    complaints: Vec<String>,
}

impl Witness {
    /// One that listens to a relay which serves the environment.
    pub async fn of(relay: &RelayProcess, environment: usize) -> Self {
        let key = sdk_key(environment);
        let (stream, put) = relay.stream_with_put("/all", &key).await;
        let seen = Seen { flags: versions(&put["data"]["flags"]), ..Seen::default() };
        let seen = Arc::new(watch::Sender::new(seen));
        let mut tasks = TaskGroup::new(&CancellationToken::new());
        tasks.spawn("witness that listens", |_cancel| listen(stream, seen.clone()));
        tasks.spawn("witness that asks", |_cancel| ask(relay.address(), key, seen.clone()));
        Self { environment, seen, _tasks: tasks }
    }

    /// Changes one of a few flags at LaunchDarkly and waits until the stream tells of it.
    pub async fn change(&self, fleet: &Fleet, round: usize) {
        let key = tick(round);
        let flag = json!({"key": key, "on": true, "round": round});
        self.change_flag(fleet, flag).await;
    }

    /// Changes a flag at LaunchDarkly and waits until the stream tells of it.
    pub async fn change_flag(&self, fleet: &Fleet, flag: Value) {
        let key = flag["key"].as_str().unwrap().to_owned();
        let begun = Instant::now();
        let environment = environment_id(self.environment);
        let version = fleet.launchdarkly.upsert_flag(environment.as_str(), flag).unwrap();
        self.wait(&format!("the stream tells of {key}"), |seen| {
            seen.flags.get(&key).is_some_and(|told| *told >= version)
        })
        .await;
        self.seen.send_modify(|seen| seen.answered(begun));
    }

    /// Waits until so many more questions were answered.
    pub async fn asks(&self, times: usize) {
        let before = self.seen.borrow().answers;
        self.wait("questions are answered", |seen| seen.answers >= before + times).await;
    }

    async fn wait(&self, what: &str, condition: impl FnMut(&Seen) -> bool) {
        let mut seen = self.seen.subscribe();
        if timeout(LONG, seen.wait_for(condition)).await.is_err() {
            panic!("not within {LONG:?}: {what}; {:?}", self.seen.borrow().complaints);
        }
    }

    /// Everything was answered, whole, and without waiting for a database.
    pub fn assert_untroubled(self) {
        let seen = self.seen.borrow();
        assert_eq!(seen.complaints, Vec::<String>::new());
        assert!(seen.answers > 0, "nothing was asked");
        assert!(seen.slowest < DATABASE_BUDGET, "an answer took {:?}", seen.slowest);
    }
}

/// The flag that a round of [`Witness::change`] changes.
pub fn tick(round: usize) -> String {
    format!("tick-{}", round % TICKS)
}

impl Seen {
    fn answered(&mut self, begun: Instant) {
        self.answers += 1;
        self.slowest = self.slowest.max(begun.elapsed());
    }
}

fn versions(flags: &Value) -> Versions {
    let flags = flags.as_object().into_iter().flatten();
    flags.map(|(key, flag)| (key.clone(), flag["version"].as_u64().unwrap_or(0))).collect()
}

/// Follows the stream, which must neither end nor begin anew.
async fn listen(mut stream: StreamClient, seen: Arc<watch::Sender<Seen>>) {
    loop {
        let event = match stream.next().await {
            Ok(Some(event)) => event,
            other => {
                let complaint = format!("the stream ended: {other:?}");
                return seen.send_modify(|seen| seen.complaints.push(complaint));
            }
        };
        let data: Value = serde_json::from_slice(&event.data).unwrap_or_default();
        let key = data["path"].as_str().and_then(|path| path.strip_prefix("/flags/"));
        seen.send_modify(|seen| match (event.name.as_str(), key) {
            ("patch", Some(key)) => {
                let version = data["data"]["version"].as_u64().unwrap_or(0);
                seen.flags.insert(key.to_owned(), version);
            }
            ("delete", Some(key)) => {
                seen.flags.remove(key);
            }
            (name, _) => seen.complaints.push(format!("the stream told {name}: {data}")),
        });
    }
}

/// Asks for everything again and again, as an SDK that polls and as one that has just started.
async fn ask(relay: SocketAddr, key: String, seen: Arc<watch::Sender<Seen>>) {
    loop {
        for what in ["/sdk/latest-all", "/all"] {
            let told = seen.borrow().flags.clone();
            let begun = Instant::now();
            let answer =
                if what == "/all" { connect(relay, &key).await } else { poll(relay, &key).await };
            let complaint = answer.and_then(|flags| compare(&told, &flags)).err();
            seen.send_modify(|seen| {
                seen.answered(begun);
                seen.complaints.extend(complaint.map(|complaint| format!("{what}: {complaint}")));
            });
        }
        sleep(PAUSE).await;
    }
}

async fn poll(relay: SocketAddr, key: &str) -> Result<Versions, String> {
    let headers = [("authorization", key)];
    let answer = request(relay, "GET", "/sdk/latest-all", &headers, b"").await;
    let answer = answer.map_err(|error| format!("{error:#}"))?;
    if answer.status != 200 {
        return Err(format!("{} {}", answer.status, answer.text()));
    }
    Ok(versions(&answer.json()["flags"]))
}

async fn connect(relay: SocketAddr, key: &str) -> Result<Versions, String> {
    let target = StreamTarget::new(relay, "/all", key);
    let mut stream = StreamClient::connect(&target).await.map_err(|error| error.to_string())?;
    let event = timeout(LONG, stream.next()).await.map_err(|_| "no event")?;
    match event.map_err(|error| error.to_string())? {
        Some(event) if event.name == "put" => {
            let put: Value = serde_json::from_slice(&event.data).map_err(|e| e.to_string())?;
            Ok(versions(&put["data"]["flags"]))
        }
        other => Err(format!("{other:?} where a put should be")),
    }
}

/// An answer has everything that the stream has told before the question. (Flags are not deleted
/// while a witness asks.)
fn compare(told: &Versions, answer: &Versions) -> Result<(), String> {
    let is_behind = |(key, version): &(&String, &u64)| answer.get(*key) < Some(*version);
    let behind: BTreeSet<_> = told.iter().filter(is_behind).collect();
    if behind.is_empty() { Ok(()) } else { Err(format!("behind: {behind:?}")) }
}
