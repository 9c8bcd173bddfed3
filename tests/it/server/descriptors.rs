//! A small limit of open files.

use std::net::{SocketAddr, TcpStream};

use pilotlight::testing::demo::fake_launchdarkly::StreamSelector;
use tokio::task::JoinSet;

use super::fixture::{ENVIRONMENT_ID, SDK_KEY, Site, large_flag};
use super::raw::{RawStream, get};

const OPEN_FILES: &str = "ulimit -n 256; exec \"$0\" \"$@\"";

/// More connections than the relay can have.
const CONNECTIONS: usize = 300;

async fn site() -> Site {
    Site::manual_with(|settings| settings.under(&["/bin/sh", "-c", OPEN_FILES])).await
}

/// Connections that the relay accepts; it may close some of them at once. A connection of tokio's
/// would tell that as a failure to connect, if it comes before tokio looks.
async fn connect(address: SocketAddr) -> Vec<TcpStream> {
    let mut connecting = JoinSet::new();
    for _ in 0..CONNECTIONS {
        connecting.spawn_blocking(move || TcpStream::connect(address).unwrap());
    }
    connecting.join_all().await
}

/// The relay's own connections find their place: it hears of a flag that came while its stream
/// was broken.
async fn check_upstream(site: &Site) {
    site.launchdarkly.cut_streams(&StreamSelector::All);
    site.launchdarkly.upsert_flag(ENVIRONMENT_ID, large_flag("new", 1, 10)).unwrap();
    site.relay
        .wait_for_status("the relay has reached LaunchDarkly again", |status| {
            let environment = &status["environments"]["Prod"];
            environment["data"]["flags"] == 4 && environment["connectionStatus"]["state"] == "VALID"
        })
        .await;
    let log = site.relay.log();
    assert!(!log.contains("cannot accept"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_take_nothing_from_clients_and_upstream() {
    let site = site().await;
    let idle = connect(site.relay.address()).await;
    assert_eq!(site.relay.get("/livez", &[]).await.status, 200);
    assert_eq!(site.relay.get("/readyz", &[]).await.status, 200);
    let (_stream, _) = site.relay.stream_with_put("/all", SDK_KEY).await;
    check_upstream(&site).await;
    assert_eq!(site.get("/sdk/flags/web").await.status, 200);
    site.relay.wait_for_log("limit of client connections is reached").await;
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_limit_clients_are_told_to_come_again() {
    let site = site().await;
    let mut streams = Vec::new();
    let mut refused = 0;
    for _ in 0..CONNECTIONS {
        let stream = RawStream::open(site.relay.address(), &get("/all", SDK_KEY)).await;
        if stream.head.starts_with("HTTP/1.1 200 OK\r\n") {
            assert_eq!(refused, 0, "the limit does not move");
            streams.push(stream);
        } else {
            assert!(stream.head.starts_with("HTTP/1.1 503 "), "{}", stream.head);
            assert!(stream.head.contains("\r\nretry-after: "), "{}", stream.head);
            refused += 1;
        }
    }
    assert!(refused > 0 && streams.len() > 100, "{} streams, {refused} refused", streams.len());
    assert_eq!(site.relay.get("/livez", &[]).await.status, 200);
    // A 200 would say that what monitoring expects is so.
    assert_eq!(site.relay.get("/status?expect=status=nothing", &[]).await.status, 412);
    assert_eq!(site.relay.get("/readyz", &[]).await.status, 200);
    check_upstream(&site).await;
    // When clients go, others can come.
    drop(streams);
    site.relay.stream_with_put("/all", SDK_KEY).await;
}
