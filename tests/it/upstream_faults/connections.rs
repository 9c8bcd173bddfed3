//! Connections that end again and again, and servers that name the pause before the next one.

use std::time::Duration;

use pilotlight::testing::demo::fake_launchdarkly::{Fault, StreamSelector};
use tokio::time::{Instant, timeout};

use super::on_flags;
use pilotlight_test_kit::relay::{LONG, next_event};
use pilotlight_test_kit::scene::{Scene, environment, load, sdk};

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_disconnects_leaves_clients_alone() {
    /// How long the storm lasts.
    const STORM: Duration = Duration::from_secs(8);
    let scene = Scene::healthy(&[environment("e1")]).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    let every = Duration::from_millis(300);
    scene.launchdarkly.inject(on_flags(Fault::DisconnectStorm { every }));
    let begun = Instant::now();
    while begun.elapsed() < STORM {
        // A client that asks anew is served each time.
        assert_eq!(scene.code(&sdk("e1")).await, 200);
        // One that is there hears nothing: each put says what it has already.
        let quiet = timeout(Duration::from_millis(100), client.next()).await;
        assert!(quiet.is_err(), "{quiet:?}");
    }
    // Waits grow although each connection was opened: 1, 2, 4 s and so on, shortened by chance.
    let requests = scene.flag_requests(&sdk("e1"));
    assert!((2..=7).contains(&requests), "{requests} in {STORM:?}");
    scene.launchdarkly.clear_faults();
    let streams = StreamSelector::flags("e1");
    scene.launchdarkly.wait_for_streams(&streams, 1, LONG).await.unwrap();
    scene.wait_for_connection("e1", "VALID").await;
    scene.expect_patch("e1", &mut client).await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_for_no_pause_is_not_granted() {
    let scene = Scene::start(|launchdarkly| {
        load(launchdarkly, &environment("e1"));
        launchdarkly.inject(on_flags(Fault::retry_line(0)));
        launchdarkly.inject(on_flags(Fault::CutAfter { bytes: 350 }).times(3));
    });
    scene.relay.wait_until_healthy(1).await;
    let requests = scene.launchdarkly.requests_for("/all");
    assert_eq!(requests.len(), 4);
    for pair in requests.windows(2) {
        let pause = pair[1].at - pair[0].at;
        assert!(pause >= Duration::from_millis(250), "{pause:?}");
    }
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wish_for_an_endless_pause_is_not_granted_either() {
    let scene = Scene::start(|launchdarkly| {
        load(launchdarkly, &environment("e1"));
        launchdarkly.inject(on_flags(Fault::retry_line(u64::MAX)).times(1));
    });
    scene.relay.wait_until_healthy(1).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    scene.launchdarkly.cut_streams(&StreamSelector::AllFlags);
    scene.launchdarkly.upsert_flag("e1", pilotlight_test_kit::scene::flag("missed")).unwrap();
    let begun = Instant::now();
    scene.launchdarkly.wait_for_requests("/all", 2, LONG + LONG).await.unwrap();
    // Half a minute is granted, shortened by chance.
    let pause = begun.elapsed();
    assert!(pause > Duration::from_secs(14) && pause < LONG + LONG / 3, "{pause:?}");
    let (name, _) = next_event(&mut client).await;
    assert_eq!(name, "patch", "what was missed, and only that");
    scene.assert_sound();
}
