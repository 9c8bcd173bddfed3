//! Clients that do not read.

use std::net::SocketAddr;
use std::time::Duration;

use pilotlight::testing::demo::representations::EnvironmentRep;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep};

use super::fixture::{BETA, ENVIRONMENT_ID, SDK_KEY, Site, data, large_flag, launchdarkly};
use super::raw::{Ending, RawStream, get};
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::relay::next_event;

/// How long the relay waits for a client that takes nothing.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest wait for what the relay does after that time.
const LONGER: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_is_dropped_and_delays_nobody() {
    let site = super::limits::site(&[]).await;
    let (mut reader, _) = site.relay.stream_with_put("/all", SDK_KEY).await;
    let mut stuck = RawStream::open_tiny(site.relay.address(), &get("/all", SDK_KEY)).await;
    let begun = Instant::now();
    let streams =
        async || site.relay.status().await["environments"]["Prod"]["data"]["streams"].clone();
    assert_eq!(streams().await, 2);
    let mut changes = 0;
    while streams().await == 2 {
        assert!(begun.elapsed() < LONGER, "the client is not dropped");
        changes += 1;
        let flag = large_flag("web", 4 + changes, 10);
        site.launchdarkly.upsert_flag(ENVIRONMENT_ID, flag).unwrap();
        let (name, data) = next_event(&mut reader).await;
        assert_eq!((name.as_str(), &data["data"]["version"]), ("patch", &(4 + changes).into()));
        sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(streams().await, 1);
    // It may have taken a little after the head was read, not before.
    assert!(begun.elapsed() + Duration::from_secs(1) > PROGRESS_TIMEOUT, "{:?}", begun.elapsed());
    assert_eq!(stuck.end().await, Ending::Cut);
}

/// More than the relay keeps for clients that lag, and than the kernel and hyper hold beside it.
const CHANGES: u64 = 450;
const CHANGE_BYTES: usize = 64 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_lagged_too_far_gets_everything_again() {
    let site = Site::manual_with(|settings| settings.with("HEARTBEAT_INTERVAL", "0")).await;
    let (mut reader, _) = site.relay.stream_with_put("/all", SDK_KEY).await;
    // Who does not read takes little, but can catch up quickly later.
    let mut slow = RawStream::open(site.relay.address(), &get("/all", SDK_KEY)).await;
    slow.take_until("\n\n").await;
    for version in 5..5 + CHANGES {
        let flag = large_flag("web", version, CHANGE_BYTES);
        site.launchdarkly.upsert_flag(ENVIRONMENT_ID, flag).unwrap();
        // One by one, or on a busy machine this one lags too.
        let (name, data) = next_event(&mut reader).await;
        assert_eq!((name.as_str(), &data["data"]["version"]), ("patch", &version.into()));
    }
    // The segments stand at the end of a put.
    let seen = slow.take_until(&format!("{{\"beta\":{BETA}}}}}}}\n\n")).await;
    let events: Vec<&str> = seen.split("event: ").filter(|event| !event.is_empty()).collect();
    let names: Vec<&str> = events.iter().map(|event| event.lines().next().unwrap()).collect();
    let put = names.iter().position(|name| *name == "put").expect("a resync");
    assert!(put > 0 && put == names.len() - 1, "{names:?}");
    assert!(names[..put].iter().all(|name| *name == "patch"), "{names:?}");
    // Before the put no change is left out, and the put holds all that were.
    for (event, version) in events[..put].iter().zip(5..) {
        assert!(event.contains(&format!("\"version\":{version}")), "not version {version}");
    }
    let newest = format!("\"version\":{}", 4 + CHANGES);
    assert!(events[put].contains(&newest), "the put is the newest");
    // What happens later comes as it is, and nothing comes twice.
    site.launchdarkly.delete_flag(ENVIRONMENT_ID, "app");
    let delete = "event: delete\ndata: {\"path\":\"/flags/app\",\"version\":3}\n\n";
    assert_eq!(slow.take_until("\n\n").await, delete);
}

/// A reader that is slower than a modem, but reads, is served to the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_not_taken_for_one_that_is_stuck() {
    /// More than the kernel would hold for a client if it were allowed to.
    const BYTES: usize = 6_000_000;
    const BYTES_EACH: usize = 2_000;
    let site = two_environments(&[]).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let mut socket = socket.connect(site.relay.address()).await.unwrap();
    socket.write_all(get("/sdk/latest-all", SDK_KEY).as_bytes()).await.unwrap();
    let begun = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    let (mut seen, mut buffer) = (0, [0; BYTES_EACH]);
    // 20 KB/s until much more time has passed than a client that takes nothing has.
    while begun.elapsed() < PROGRESS_TIMEOUT + Duration::from_secs(10) {
        pace.tick().await;
        let count = socket.read(&mut buffer).await.expect("the connection goes on");
        assert!(count > 0, "the response ended after {seen} bytes");
        seen += count;
    }
    let mut buffer = vec![0; 64 * 1024];
    while seen < BYTES {
        let count = socket.read(&mut buffer).await.expect("the connection goes on");
        assert!(count > 0, "the response ended after {seen} bytes");
        seen += count;
    }
}

const OTHER_KEY: &str = "sdk-55555555-6666-7777-8888-999999999999";

const OTHER_ID: &str = "75a1b2c3d4e5f60718293a4b";

/// A relay of two environments with 6 MB each.
async fn two_environments(variables: &[(&str, &str)]) -> Site {
    let launchdarkly = launchdarkly();
    launchdarkly.replace_data(OTHER_ID, data());
    launchdarkly.upsert_environment(EnvironmentRep {
        env_key: "other".to_owned(),
        ..EnvironmentRep::simple(OTHER_ID, OTHER_KEY, "mob-5")
    });
    for environment in [ENVIRONMENT_ID, OTHER_ID] {
        for index in 0..60 {
            let flag = large_flag(&format!("large-{index}"), 1, 100_000);
            launchdarkly.upsert_flag(environment, flag).unwrap();
        }
    }
    Site::manual_before(launchdarkly, |settings| {
        let settings = settings.with("LD_ENV_Other", OTHER_KEY);
        variables.iter().fold(settings, |settings, (name, value)| settings.with(name, *value))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_of_one_environment_do_not_delay_another() {
    let site = two_environments(&[("INIT_MAX_CONCURRENT", "30"), ("INIT_MAX_QUEUED", "300")]).await;
    let mut stuck = Vec::new();
    for index in 0..120 {
        let path = ["/all", "/sdk/latest-all"][index % 2];
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(1).unwrap();
        let mut socket = socket.connect(site.relay.address()).await.unwrap();
        socket.write_all(get(path, SDK_KEY).as_bytes()).await.unwrap();
        stuck.push(socket);
    }
    eventually("the environment has no turn left", async || {
        match RawStream::try_open(site.relay.address(), &get("/all", SDK_KEY)).await {
            None => Ok(()),
            Some(_) => Err("a stream begins at once"),
        }
    })
    .await;
    let begun = Instant::now();
    for _ in 0..5 {
        for path in ["/sdk/latest-all", "/sdk/flags"] {
            let response = site.relay.get_with_key(path, OTHER_KEY).await;
            assert!(response.status == 200 && response.body.len() > 6_000_000, "{path}");
        }
        site.relay.stream_with_put("/all", OTHER_KEY).await;
    }
    // Nobody of them has waited for a turn, which would have taken until the stuck ones end.
    assert!(begun.elapsed() < PROGRESS_TIMEOUT / 2, "{:?}", begun.elapsed());
}

/// Bytes that the relay's kernel holds for the connection with a client's port, as `/proc` says;
/// `None` if there is no such connection.
fn unsent_bytes(relay: SocketAddr, client: SocketAddr) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = |address: SocketAddr| format!(":{:04X}", address.port());
    let found = table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_it = words.get(1)?.ends_with(&port(relay)) && words.get(2)?.ends_with(&port(client));
        is_it.then(|| words[4].split(':').next().unwrap().to_owned())
    });
    found.map(|bytes| u64::from_str_radix(&bytes, 16).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_reads_costs_the_kernel_little_and_not_for_long() {
    // Twice the buffer that the relay asks for, and what one write can bring beyond.
    const KERNEL_BYTES_MAX: u64 = 384 * 1024;
    let site = two_environments(&[]).await;
    let relay = site.relay.address();
    let mut client = TcpStream::connect(relay).await.unwrap();
    let begun = Instant::now();
    let ahead = get("/sdk/latest-all", SDK_KEY).repeat(200);
    client.write_all(ahead.as_bytes()).await.unwrap();
    let client = client.local_addr().map(|address| (client, address)).unwrap();
    eventually("the kernel holds what it may", async || match unsent_bytes(relay, client.1) {
        Some(bytes) if bytes > KERNEL_BYTES_MAX / 8 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let mut most = 0;
    while let Some(bytes) = unsent_bytes(relay, client.1) {
        most = most.max(bytes);
        assert!(begun.elapsed() < PROGRESS_TIMEOUT * 2, "the connection does not end");
        sleep(Duration::from_millis(100)).await;
    }
    assert!(most <= KERNEL_BYTES_MAX, "{most} bytes");
    assert!(begun.elapsed() + Duration::from_secs(1) > PROGRESS_TIMEOUT, "{:?}", begun.elapsed());
}
