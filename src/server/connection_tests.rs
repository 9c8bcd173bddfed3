use std::time::SystemTime;

use serde_json::Map;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::pace::IDLE_TIMEOUT;
use super::super::streaming::CONNECTION_TIME_JITTER;
use super::super::{Drain, InitialPayloads, ServerSettings, StatusMembers};
use super::*;
use crate::environments::{Environment, Registry};
use crate::model::{
    AcceptedKey, CredentialSet, DataSet, EnvironmentRef, EnvironmentSpec, FilterKey, Item, ItemKey,
    ItemKind, Origin, SdkKey,
};
use crate::streams::{Change, Snapshot};
use crate::tasks::TaskGroup;

const HEALTH: &str = "GET /livez HTTP/1.1\r\nhost: a\r\n\r\n";

/// A server of one environment, without sockets.
struct Bench {
    server: Arc<Server>,
    environment: Arc<Environment>,
    drain: Arc<Drain>,
    tasks: TaskGroup,
}

impl Bench {
    /// An environment with a flag of so many bytes.
    fn new(flag_bytes: usize, initial_payloads: Option<InitialPayloads>) -> Self {
        Self::with(flag_bytes, initial_payloads, None)
    }

    /// The same with a bound on the time of streams.
    fn with(
        flag_bytes: usize,
        initial_payloads: Option<InitialPayloads>,
        max_client_connection_time: Option<Duration>,
    ) -> Self {
        let key = SdkKey::new("sdk-1");
        let spec = EnvironmentSpec {
            reference: EnvironmentRef { environment: "e1".into(), filter: FilterKey::default() },
            environment_key: String::new(),
            environment_name: String::new(),
            project_key: String::new(),
            project_name: String::new(),
            credentials: CredentialSet {
                anchor: key.clone(),
                sdk_keys: vec![AcceptedKey { value: key, name: None, expiry: None }],
                primary_mobile: None,
                mobile_keys: Vec::new(),
                environment_id: None,
            },
            ttl: Duration::ZERO,
            secure_mode: false,
            allowed_origins: Arc::default(),
            allowed_headers: Arc::default(),
            store_prefix: String::new(),
            store_table: String::new(),
        };
        let (registry, environment) = Registry::of_one(spec);
        let drain = Arc::new(Drain::default());
        let settings = ServerSettings {
            max_client_connection_time,
            initial_payloads,
            disconnected_after: Duration::from_secs(60),
            init_timeout: Duration::from_secs(10),
        };
        let members = StatusMembers(Arc::new(Map::new));
        let server = Arc::new(Server::new(Arc::new(registry), settings, drain.clone(), members));
        let tasks = TaskGroup::new(&CancellationToken::new());
        let bench = Self { server, environment, drain, tasks };
        bench.publish(1, flag_bytes);
        bench
    }

    /// Serves a version of the flag; streams hear of all but the first as a change.
    fn publish(&self, version: u64, flag_bytes: usize) {
        let key = ItemKey::new(ItemKind::Flag, "f");
        let json = format!("{{\"version\":{version},\"salt\":\"{}\"}}", "x".repeat(flag_bytes));
        let item = Arc::new(Item::live(version, json));
        let mut data = DataSet::default();
        data.upsert(&key, item.clone());
        let snapshot = Snapshot::new(Arc::new(data), Origin::Live, SystemTime::UNIX_EPOCH);
        match version {
            1 => self.environment.hub.replace(Arc::new(snapshot)),
            _ => self.environment.hub.change(Arc::new(snapshot), Change::of(&key, &item)),
        }
    }

    /// A connection that holds so many bytes that the client has not read.
    fn connect(&mut self, unread_bytes: usize) -> DuplexStream {
        let (theirs, ours) = duplex(unread_bytes);
        self.tasks.spawn_many("connection", serve(self.server.clone(), ours));
        theirs
    }

    async fn get(&mut self, path: &str) -> DuplexStream {
        let mut client = self.connect(1024);
        client.write_all(get(path).as_bytes()).await.unwrap();
        client
    }

    async fn status_of(&mut self, path: &str) -> String {
        let mut client = self.get(path).await;
        let mut line = [0; 12];
        client.read_exact(&mut line).await.unwrap();
        String::from_utf8(line.to_vec()).unwrap()
    }

    /// Waits until so many streams are open.
    async fn streams(&self, count: usize) {
        timeout(Duration::from_secs(1_000), async {
            while self.environment.hub.streams() != count {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\nauthorization: sdk-1\r\n\r\n")
}

/// Reads until the text has come.
async fn read_until(client: &mut DuplexStream, end: &str) -> String {
    let mut seen = Vec::new();
    while !seen.ends_with(end.as_bytes()) {
        seen.push(client.read_u8().await.unwrap());
    }
    String::from_utf8(seen).unwrap()
}

async fn read_to_end(mut client: DuplexStream) -> String {
    let mut seen = String::new();
    client.read_to_string(&mut seen).await.unwrap();
    seen
}

#[tokio::test(start_paused = true)]
async fn heads_must_come_in_time_and_idle_connections_are_kept() {
    // What is sent after how many seconds, and after how many the connection ends.
    let check = async |sent: &[(u64, &str)], ended_after: u64| {
        let mut bench = Bench::new(1, None);
        let client = bench.connect(64 * 1024);
        let (mut reader, mut writer) = tokio::io::split(client);
        let begun = Instant::now();
        let write = async {
            for (after, text) in sent {
                tokio::time::sleep_until(begun + Duration::from_secs(*after)).await;
                writer.write_all(text.as_bytes()).await.unwrap();
            }
        };
        let read = async {
            reader.read_to_end(&mut Vec::new()).await.unwrap();
            begun.elapsed().as_secs()
        };
        assert_eq!(tokio::join!(write, read).1, ended_after, "{sent:?}");
    };
    let idle = IDLE_TIMEOUT.as_secs();
    check(&[], 10).await;
    check(&[(9, "GET /livez HTTP/1.1\r\n")], 10).await;
    check(&[(9, HEALTH)], 9 + idle).await;
    check(&[(9, HEALTH), (100, "GET"), (105, " /livez")], 110).await;
    check(&[(9, HEALTH), (600, HEALTH)], 600 + idle).await;
    let ahead = format!("{HEALTH}GET /li");
    check(&[(0, &ahead)], idle).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_reading_is_dropped_and_delays_nobody() {
    let mut bench = Bench::new(4 * 1024, None);
    let begun = Instant::now();
    let stuck = bench.get("/all").await;
    let mut reader = bench.get("/all").await;
    read_until(&mut reader, "\r\n\r\n").await;
    read_until(&mut reader, "\n\n\r\n").await;
    for version in 2..=20 {
        sleep(Duration::from_secs(1)).await;
        let published = Instant::now();
        bench.publish(version, 10);
        let patch = read_until(&mut reader, "\n\n\r\n").await;
        assert!(patch.contains(&format!("\"version\":{version}")), "{patch}");
        assert_eq!(published.elapsed(), Duration::ZERO);
    }
    assert_eq!(bench.environment.hub.streams(), 2);
    bench.streams(1).await;
    assert_eq!(begun.elapsed().as_secs(), PROGRESS_TIMEOUT.as_secs());
    let seen = read_to_end(stuck).await;
    assert!(seen.starts_with("HTTP/1.1 200 OK\r\n") && seen.len() == 1024, "{seen}");
    bench.publish(21, 10);
    read_until(&mut reader, "\n\n\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_turn_lasts_until_the_payload_was_taken() {
    let limit = InitialPayloads {
        concurrent_max: 1,
        queued_max: 0,
        send_timeout: Duration::from_secs(100),
    };
    for path in ["/all", "/flags", "/sdk/latest-all", "/sdk/latest-flags", "/sdk/flags"] {
        let mut bench = Bench::new(1 << 20, Some(limit));
        let mut first = bench.get(path).await;
        read_until(&mut first, "\r\n\r\n").await;
        for other in ["/all", "/sdk/latest-all"] {
            assert_eq!(bench.status_of(other).await, "HTTP/1.1 503", "{other} during {path}");
        }
        let item = bench.status_of("/sdk/flags/f").await;
        assert_eq!(item, "HTTP/1.1 200", "single items need no turn");
        read_until(&mut first, "xxx\"}").await;
        assert_eq!(bench.status_of("/all").await, "HTTP/1.1 200", "after {path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_held_too_long_ends_with_its_connection() {
    let limit = InitialPayloads {
        concurrent_max: 1,
        queued_max: 0,
        send_timeout: Duration::from_secs(100),
    };
    for path in ["/all", "/sdk/latest-all"] {
        let mut bench = Bench::new(1 << 20, Some(limit));
        let begun = Instant::now();
        let mut slow = bench.get(path).await;
        let dripping = async {
            let mut piece = [0; 1024];
            // Each piece is progress, but all of them would take too long.
            while slow.read_exact(&mut piece).await.is_ok() {
                sleep(Duration::from_secs(7)).await;
            }
        };
        let waiting = async {
            while bench.status_of("/all").await != "HTTP/1.1 200" {
                sleep(Duration::from_secs(1)).await;
            }
            begun.elapsed().as_secs()
        };
        let freed_after = tokio::join!(dripping, waiting).1;
        assert!((100..=101).contains(&freed_after), "{path}: after {freed_after} s");
    }
}

#[tokio::test(start_paused = true)]
async fn streams_that_began_together_do_not_end_together() {
    let limit = Duration::from_secs(1_000);
    let mut bench = Bench::with(10, None, Some(limit));
    let begun = Instant::now();
    let mut streams = JoinSet::new();
    for _ in 0..50 {
        let mut stream = bench.get("/all").await;
        streams.spawn(async move {
            let rest = read_until(&mut stream, "\r\n0\r\n\r\n").await;
            assert!(rest.starts_with("HTTP/1.1 200 OK\r\n"), "{rest}");
            begun.elapsed()
        });
    }
    let ends = streams.join_all().await;
    let (first, last) = (*ends.iter().min().unwrap(), *ends.iter().max().unwrap());
    let (soonest, latest) = (limit.mul_f64(1.0 - CONNECTION_TIME_JITTER), limit);
    assert!(first >= soonest && last <= latest + Duration::from_secs(1), "{ends:?}");
    // Of fifty random moments all fall within a tenth of the range once in 10^46 runs.
    assert!(last - first > (latest - soonest) / 10, "{ends:?}");
    bench.streams(0).await;
}

#[tokio::test(start_paused = true)]
async fn while_leaving_each_connection_gets_its_answer_and_ends() {
    let mut bench = Bench::new(10, None);
    let grace = Duration::from_secs(100);
    let mut stream = bench.get("/all").await;
    read_until(&mut stream, "\n\n\r\n").await;
    let mut idle = bench.get("/livez").await;
    read_until(&mut idle, "ok").await;

    let begun = Instant::now();
    bench.drain.begin(begun, grace);
    bench.environment.hub.wake();
    assert_eq!(read_to_end(idle).await, "", "idle connections end at once");
    let mut late = bench.connect(64 * 1024);
    sleep(Duration::from_secs(1)).await;
    late.write_all(get("/readyz").as_bytes()).await.unwrap();
    let answer = read_to_end(late).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("connection: close\r\n") && answer.contains("shutting down"));
    let connected = Instant::now();
    assert_eq!(read_to_end(bench.connect(1024)).await, "", "nobody is waited for");
    assert_eq!(connected.elapsed(), LATE_HEAD_TIMEOUT);
    assert_eq!(bench.status_of("/all").await, "HTTP/1.1 503");
    assert_eq!(bench.status_of("/sdk/latest-all").await, "HTTP/1.1 200");
    // The open stream still gets its changes, and ends in order.
    bench.publish(2, 10);
    let rest = read_to_end(stream).await;
    assert!(rest.contains("\"version\":2") && rest.ends_with("0\r\n\r\n"), "{rest}");
    assert!(begun.elapsed() <= grace.mul_f64(0.81), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_wants_does_not_hide_the_answer() {
    let mut bench = Bench::new(10, None);
    let head = |length: usize, more: &str| {
        format!(
            "POST /bulk HTTP/1.1\r\nhost: a\r\nauthorization: sdk-1\r\n\
             content-length: {length}\r\n{more}\r\n"
        )
    };
    let mut client = bench.connect(1024);
    client.write_all(head(200_000, "").as_bytes()).await.unwrap();
    client.write_all(&[b' '; 200_000]).await.unwrap();
    client.write_all(HEALTH.as_bytes()).await.unwrap();
    let answers = read_until(&mut client, "\r\n\r\nok").await;
    assert!(answers.starts_with("HTTP/1.1 503 "), "{answers}");

    let begun = Instant::now();
    let mut asking = bench.connect(1024);
    asking.write_all(head(200_000, "expect: 100-continue\r\n").as_bytes()).await.unwrap();
    let answer = read_to_end(asking).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(begun.elapsed(), Duration::ZERO);

    let mut slow = bench.connect(1024);
    slow.write_all(head(200_000, "").as_bytes()).await.unwrap();
    let answer = read_to_end(slow).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(begun.elapsed(), Duration::from_secs(5));
}

#[test]
fn a_connection_is_small() {
    let bench = Bench::new(1, None);
    let bytes = size_of_val(&serve(bench.server, duplex(1).0));
    assert!(bytes <= 2_000, "{bytes} bytes for each connection, beside hyper's two buffers");
}
