//! Full payloads at the same time.

use tokio::task::JoinSet;

use super::fixture::{ENVIRONMENT_ID, SDK_KEY, Site, check_text, large_flag};
use super::raw::{RawStream, get};
use pilotlight_test_kit::eventually;

/// More than the kernel and the relay hold for a client that does not read.
const FLAGS: usize = 100;
const FLAG_BYTES: usize = 150_000;

/// A relay with a large data set that gives one full payload at a time.
pub(super) async fn site(variables: &[(&str, &str)]) -> Site {
    let site = Site::manual_with(|settings| {
        variables.iter().fold(settings, |settings, (name, value)| settings.with(name, *value))
    })
    .await;
    for index in 0..FLAGS {
        let flag = large_flag(&format!("large-{index}"), 1, FLAG_BYTES);
        site.launchdarkly.upsert_flag(ENVIRONMENT_ID, flag).unwrap();
    }
    site.relay
        .wait_for_status("the large flags have arrived", |status| {
            status["environments"]["Prod"]["data"]["flags"] == FLAGS + 3
        })
        .await;
    site
}

/// A response that begins as soon as there is a turn. Who had it before may be gone for a moment
/// before the relay notices.
async fn open(site: &Site, path: &str) -> RawStream {
    eventually("there is a turn", async || {
        let stream = RawStream::open_tiny(site.relay.address(), &get(path, SDK_KEY)).await;
        if stream.head.starts_with("HTTP/1.1 200 OK\r\n") { Ok(stream) } else { Err(stream.head) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_stuck_holds_its_turn_and_no_longer() {
    let site = site(&[("INIT_MAX_CONCURRENT", "1"), ("INIT_MAX_QUEUED", "0")]).await;
    for first in ["/all", "/flags", "/sdk/latest-all", "/sdk/latest-flags", "/sdk/flags"] {
        let _stuck = open(&site, first).await;
        for second in ["/all", "/flags", "/sdk/latest-all", "/sdk/latest-flags", "/sdk/flags"] {
            let response = site.get(second).await;
            let what = format!("{second} while {first} is stuck");
            assert_eq!((response.status, response.asks_to_retry()), (503, true), "{what}");
            check_text(&response, &what);
        }
        // What is small needs no turn.
        assert_eq!(site.get("/sdk/flags/web").await.status, 200);
        let known = [("authorization", SDK_KEY), ("if-none-match", "*")];
        assert_eq!(site.relay.get("/sdk/flags", &known).await.status, 304);
        assert_eq!(site.relay.get("/status", &[]).await.status, 200);
    }
    // A turn ends when the payload was taken, though the stream goes on.
    let mut reading = eventually("there is a turn", async || {
        let stream = RawStream::open(site.relay.address(), &get("/all", SDK_KEY)).await;
        if stream.head.starts_with("HTTP/1.1 200 OK\r\n") { Ok(stream) } else { Err(stream.head) }
    })
    .await;
    reading.skip(FLAGS * FLAG_BYTES).await;
    open(&site, "/all").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_lets_the_second_wait_for_the_first() {
    let site = site(&[("INIT_MAX_CONCURRENT", "1"), ("INIT_MAX_QUEUED", "1")]).await;
    let stuck = open(&site, "/all").await;
    let mut others = JoinSet::new();
    for _ in 0..2 {
        let address = site.relay.address();
        others.spawn(async move { RawStream::open(address, &get("/all", SDK_KEY)).await });
    }
    // When one of them is refused, the other one waits.
    let refused = others.join_next().await.unwrap().unwrap();
    assert!(refused.head.starts_with("HTTP/1.1 503 "), "{}", refused.head);
    assert!(refused.head.contains("\r\nretry-after: "), "{}", refused.head);
    drop(stuck);
    let served = others.join_next().await.unwrap().unwrap();
    assert!(served.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", served.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_limit_nobody_waits_and_all_share_one_payload() {
    const CLIENTS: usize = 60;
    let site = site(&[("INIT_MAX_CONCURRENT", "0")]).await;
    let mut stuck = vec![open(&site, "/all").await];
    assert_eq!(site.get("/sdk/latest-all").await.status, 200);
    let before = site.relay.peak_megabytes();
    while stuck.len() < CLIENTS {
        let path = ["/all", "/sdk/latest-all"][stuck.len() % 2];
        let stream = RawStream::open_tiny(site.relay.address(), &get(path, SDK_KEY)).await;
        assert!(stream.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", stream.head);
        stuck.push(stream);
    }
    let grown = site.relay.peak_megabytes() - before;
    let payload = FLAGS * FLAG_BYTES / (1024 * 1024);
    assert!(grown < CLIENTS * payload / 10, "{CLIENTS} clients take {grown} MB");
}
