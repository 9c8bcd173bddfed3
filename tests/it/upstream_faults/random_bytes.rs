//! Bytes without any sense on both streams: the relay serves what it has, and recovers.

use std::time::Duration;

use pilotlight::testing::demo::fake_launchdarkly::StreamSelector;
use pilotlight::testing::demo::stream_client::StreamEvent;
use tokio::time::{Instant, interval};

use pilotlight_test_kit::scene::{Scene, environment, events_until, flag, flags, sdk};

/// How long the nonsense lasts.
const SPELL: Duration = Duration::from_secs(8);

/// Something between noise and a message.
fn nonsense(random: &mut fastrand::Rng) -> Vec<u8> {
    let noise = |random: &mut fastrand::Rng, most: usize| {
        let count = random.usize(..most);
        (0..count).map(|_| random.u8(..)).collect::<Vec<_>>()
    };
    let good = [
        r#"{"path":"/","data":{"flags":{"of-e1":{"key":"of-e1","version":3}},"segments":{}}}"#,
        r#"{"path":"/","data":{"environments":{"e1":{"envID":"e1","sdkKey":{"value":"sdk-x"},"version":9}}}}"#,
        r#"{"path":"/flags/of-e1","data":{"key":"of-e1","version":99}}"#,
        r#"{"path":"/environments/e1","data":{"envID":"e1","sdkKey":{"value":"sdk-y"},"version":9}}"#,
        r#"{"path":"/environments/e1","version":99999999999999999999}"#,
    ];
    match random.u8(..5) {
        0 => noise(random, 2_000),
        1 => [&b"data: "[..], &noise(random, 200), b"\n\n"].concat(),
        // An event with noise in the name, so that the rest of it means nothing.
        2 => [&b"event: "[..], &noise(random, 30), b"\ndata: {}\n\n"].concat(),
        _ => {
            // A message with a few bytes changed. It always breaks off, so that it never is one.
            let mut data = good[random.usize(..good.len())].as_bytes().to_vec();
            for _ in 0..random.usize(..4) {
                let at = random.usize(..data.len());
                data[at] = random.u8(..);
            }
            data.truncate(random.usize(..data.len()));
            let name = ["put", "patch", "delete", "reconnect"][random.usize(..4)];
            [b"event: ", name.as_bytes(), b"\ndata: ", &data, b"\n\n"].concat()
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_on_both_streams_harms_nobody() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut pace = interval(Duration::from_millis(5));
    let begun = Instant::now();
    while begun.elapsed() < SPELL {
        scene.launchdarkly.push_bytes(&StreamSelector::All, nonsense(&mut random));
        if random.u8(..20) == 0 {
            let (_, put) = scene.stream(&sdk("e1")).await;
            assert_eq!(flags(&put), ["of-e1"]);
            assert_eq!(scene.relay.get("/livez", &[]).await.status, 200);
        }
        pace.tick().await;
    }
    // The next good connection of each stream settles everything.
    scene.launchdarkly.cut_streams(&StreamSelector::All);
    scene.launchdarkly.upsert_flag("e1", flag("ticker")).unwrap();
    let has_ticker = |event: &StreamEvent| String::from_utf8_lossy(&event.data).contains("ticker");
    let events = events_until(&mut client, has_ticker).await;
    assert_eq!(events.len(), 1, "what is new is the first that is heard: {events:?}");
    scene.wait_for_autoconfig("VALID").await;
    assert_eq!(scene.code("sdk-of-nobody").await, 401);
    let lines = scene.relay.log().lines().count();
    assert!(lines < 2_000, "{lines} lines of log");
    scene.assert_sound();
}
