//! Compressed answers: to those who accept them, from a size on, and without memory for each client.

use std::io::Read;

use flate2::read::GzDecoder;
use pilotlight_test_kit::relay::Response;
use tokio::task::JoinSet;

use super::fixture::{CONTEXT, ENVIRONMENT_ID, SDK_KEY, Site, large_flag, launchdarkly};

/// Flags enough for an answer that is worth it.
async fn site() -> Site {
    let launchdarkly = launchdarkly();
    for index in 0..300 {
        let mut flag = large_flag(&format!("flag-{index}"), 1, 2_000);
        flag["clientSideAvailability"] = serde_json::json!({"usingEnvironmentId": true});
        launchdarkly.upsert_flag(ENVIRONMENT_ID, flag).unwrap();
    }
    Site::manual_before(launchdarkly, |settings| settings.with("HTTP_ENABLE_COMPRESSION", "true"))
        .await
}

fn unpacked(response: &Response) -> Vec<u8> {
    let mut body = Vec::new();
    GzDecoder::new(&*response.body).read_to_end(&mut body).unwrap();
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_are_compressed_for_those_who_accept_it() {
    let site = site().await;
    for path in [
        "/sdk/latest-all".to_owned(),
        "/sdk/flags".to_owned(),
        "/sdk/flags/flag-1".to_owned(),
        format!("/sdk/evalx/contexts/{CONTEXT}"),
        format!("/sdk/evalx/{ENVIRONMENT_ID}/contexts/{CONTEXT}"),
    ] {
        let plain = site.get(&path).await;
        assert_eq!((plain.status, plain.header("content-encoding")), (200, None), "{path}");
        let headers = [("authorization", SDK_KEY), ("accept-encoding", "deflate, gzip")];
        let packed = site.relay.get(&path, &headers).await;
        assert_eq!(packed.header("content-encoding"), Some("gzip"), "{path}");
        assert!(packed.body.len() * 5 < plain.body.len(), "{path}: {} bytes", packed.body.len());
        assert_eq!(unpacked(&packed), plain.body, "{path}");
        assert_eq!(packed.header("etag"), plain.header("etag"), "{path}");
        for response in [&plain, &packed] {
            let varies =
                |(name, value): &(String, String)| name == "vary" && value == "Accept-Encoding";
            assert!(response.headers.iter().any(varies), "{path}: {:?}", response.headers);
        }
    }
    // Not worth it: small answers. Not possible without memory for each: streams.
    let headers = [("authorization", SDK_KEY), ("accept-encoding", "gzip")];
    let small = site.relay.get("/sdk/flags/web", &headers).await;
    assert_eq!((small.status, small.header("content-encoding")), (200, None));
    let (_, put) = site.relay.stream_with_put("/all", SDK_KEY).await;
    assert!(put["data"]["flags"]["flag-1"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_plain_unless_compression_is_switched_on() {
    let site = Site::manual().await;
    let headers = [("authorization", SDK_KEY), ("accept-encoding", "gzip")];
    let response = site.relay.get("/sdk/latest-all", &headers).await;
    assert_eq!((response.header("content-encoding"), response.header("vary")), (None, None));
}

/// A compressor needs a third of a megabyte; 500 of them would be seen.
#[tokio::test(flavor = "multi_thread")]
async fn the_memory_for_500_clients_stays_flat() {
    let site = site().await;
    let headers = [("authorization", SDK_KEY), ("accept-encoding", "gzip")];
    let path = format!("/sdk/evalx/contexts/{CONTEXT}");
    let address = site.relay.address();
    let all_at_once = async |clients: usize| {
        let mut asking = JoinSet::new();
        for _ in 0..clients {
            let path = path.clone();
            asking.spawn(async move {
                pilotlight_test_kit::relay::request(address, "GET", &path, &headers, b"").await
            });
        }
        while let Some(asked) = asking.join_next().await {
            let response = asked.unwrap().unwrap();
            assert_eq!(response.header("content-encoding"), Some("gzip"));
        }
    };
    all_at_once(20).await;
    let before = site.relay.peak_megabytes();
    for _ in 0..4 {
        all_at_once(500).await;
    }
    let after = site.relay.peak_megabytes();
    // The answers themselves, and the connections.
    assert!(after < before + 60, "{before} MB before, {after} MB after");
}
