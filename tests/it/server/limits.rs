//! Full payloads at the same time.

use super::fixture::{ENVIRONMENT_ID, SDK_KEY, Site, check_text, large_flag};
use super::raw::{RawStream, get};
use crate::support::eventually;

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

async fn wait_until_served(site: &Site, path: &str) {
    eventually("there is a turn", async || {
        let stream = RawStream::open(site.relay.address(), &get(path, SDK_KEY)).await;
        if stream.head.starts_with("HTTP/1.1 200 ") { Ok(()) } else { Err(stream.head) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_stuck_holds_its_turn_and_no_longer() {
    let site = site(&[("INIT_MAX_CONCURRENT", "1"), ("INIT_MAX_QUEUED", "0")]).await;
    for first in ["/all", "/flags", "/sdk/latest-all", "/sdk/latest-flags", "/sdk/flags"] {
        let stuck = RawStream::open_tiny(site.relay.address(), &get(first, SDK_KEY)).await;
        assert!(stuck.head.starts_with("HTTP/1.1 200 OK\r\n"), "{first}: {}", stuck.head);
        for second in ["/all", "/flags", "/sdk/latest-all", "/sdk/latest-flags", "/sdk/flags"] {
            let response = site.get(second).await;
            let what = format!("{second} while {first} is stuck");
            assert_eq!(
                (response.status, response.header("retry-after")),
                (503, Some("1")),
                "{what}"
            );
            check_text(&response, &what);
        }
        // What is small needs no turn.
        assert_eq!(site.get("/sdk/flags/web").await.status, 200);
        let known = [("authorization", SDK_KEY), ("if-none-match", "*")];
        assert_eq!(site.relay.get("/sdk/flags", &known).await.status, 304);
        assert_eq!(site.relay.get("/status", &[]).await.status, 200);
        drop(stuck);
        wait_until_served(&site, "/all").await;
    }
    // A turn ends when the payload was taken, though the stream goes on.
    let mut reading = loop {
        let stream = RawStream::open(site.relay.address(), &get("/all", SDK_KEY)).await;
        if stream.head.starts_with("HTTP/1.1 200 ") {
            break stream;
        }
    };
    reading.skip(FLAGS * FLAG_BYTES).await;
    wait_until_served(&site, "/all").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_lets_the_second_wait_for_the_first() {
    let site = site(&[("INIT_MAX_CONCURRENT", "1"), ("INIT_MAX_QUEUED", "1")]).await;
    let stuck = RawStream::open_tiny(site.relay.address(), &get("/all", SDK_KEY)).await;
    let request = get("/all", SDK_KEY);
    let second = RawStream::open(site.relay.address(), &request);
    let release = async {
        // When a third is refused, the second waits.
        eventually("the queue is full", async || match site.get("/sdk/flags").await.status {
            503 => Ok(()),
            other => Err(other),
        })
        .await;
        drop(stuck);
    };
    let (second, ()) = tokio::join!(second, release);
    assert!(second.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", second.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_limit_nobody_waits() {
    let site = site(&[("INIT_MAX_CONCURRENT", "0")]).await;
    let mut stuck = Vec::new();
    for _ in 0..5 {
        stuck.push(RawStream::open_tiny(site.relay.address(), &get("/all", SDK_KEY)).await);
    }
    assert_eq!(site.get("/sdk/latest-all").await.status, 200);
}
