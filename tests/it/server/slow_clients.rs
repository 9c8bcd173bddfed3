//! Clients that do not read.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::fixture::{BETA, ENVIRONMENT_ID, SDK_KEY, Site, large_flag};
use super::raw::{Ending, RawStream, get};
use crate::support::relay::next_event;

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
