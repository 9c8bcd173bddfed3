//! Several relays on one cache: they converge to what LaunchDarkly says, whoever lags behind.

use std::time::Duration;

use pilotlight::testing::demo::composed_data::{environment, environment_id};
use pilotlight_test_kit::flaky_proxy::FlakyProxy;
use serde_json::Value;
use tempfile::TempDir;

use pilotlight_test_kit::cache_database::Kind;
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::fleet::{
    ENVIRONMENTS_MAX, Fleet, KEY, NEVER, OFTEN, open, shared, wait_for_shared,
};
use pilotlight_test_kit::relay::RelayProcess;

on_every_database!(
    relays_that_write_at_the_same_time_converge,
    a_relay_whose_stream_is_stuck_spoils_nothing,
    what_nobody_knows_any_more_goes_after_a_second_look,
);

async fn relays_that_write_at_the_same_time_converge(kind: Kind) {
    let fleet = Fleet::on(kind, 12, 1).await;
    let disks: Vec<TempDir> = (0..3).map(|_| TempDir::new().unwrap()).collect();
    let relays: Vec<RelayProcess> =
        disks.iter().map(|disk| fleet.relay(disk, OFTEN).start().unwrap()).collect();
    fleet.wait_until_whole().await;
    for relay in &relays {
        relay.wait_until_healthy(12).await;
    }
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for round in 0..120 {
        let index = random.usize(..20);
        let exists = fleet.launchdarkly.environment(&environment_id(index)).is_some();
        match random.u8(..4) {
            0 if fleet.said().len() > 1 && exists => {
                fleet.launchdarkly.delete_environment(&environment_id(index));
            }
            _ if exists => fleet.rename(index, &format!("round {round}")),
            _ => fleet.launchdarkly.load(&environment(index, 1)),
        }
        // Bursts, and pauses in which writes begin.
        if random.u8(..4) == 0 {
            tokio::task::yield_now().await;
            let looks = random.usize(..40);
            for _ in 0..looks {
                relays[random.usize(..3)].get("/livez", &[]).await;
            }
        }
    }
    eventually(&format!("convergence with seed {seed}"), async || {
        let found = open(&fleet.rows().await, &[KEY]);
        let said = fleet.said();
        let is_right = found.is_whole && found.closed == 0 && found.records == said;
        if is_right { Ok(()) } else { Err(format!("{found:?} where {said:?} is said")) }
    })
    .await;
    // Nobody turns it back: each of them looks some more times.
    for relay in &relays {
        let before = looked_at(relay).await;
        eventually("it looked again", async || {
            let now = looked_at(relay).await;
            if now > before + 3_000 { Ok(()) } else { Err(now) }
        })
        .await;
        relay.wait_until_stored().await;
    }
    let settled = fleet.rows().await;
    assert_eq!(open(&settled, &[KEY]).records, fleet.said(), "seed {seed}");
    assert_eq!(settled.len(), fleet.said().len() + 1);

    drop(relays);
    let live: Vec<usize> = (0..ENVIRONMENTS_MAX)
        .filter(|index| fleet.launchdarkly.environment(&environment_id(*index)).is_some())
        .collect();
    fleet.launchdarkly.stop().await;
    let new = fleet.new_relay(NEVER).start().unwrap();
    let status = wait_for_shared(&new, "loaded").await;
    assert_eq!(shared(&status)["complete"], true);
    let status = new
        .wait_for_status("the environments are known", |status| {
            status["environments"].as_object().unwrap().len() == live.len()
        })
        .await;
    for index in live {
        assert!(status["environments"][environment_id(index)].is_object(), "seed {seed}");
    }
}

/// When the relay last looked at the cache, in Unix milliseconds. Among others who write at the
/// same time it may take a while until it does for the first time.
async fn looked_at(relay: &RelayProcess) -> u64 {
    let has_looked = |status: &Value| shared(status)["lastWrite"].is_u64();
    let status = relay.wait_for_status("it has looked", has_looked).await;
    shared(&status)["lastWrite"].as_u64().unwrap()
}

async fn a_relay_whose_stream_is_stuck_spoils_nothing(kind: Kind) {
    let fleet = Fleet::on(kind, 4, 1).await;
    let line = FlakyProxy::start(fleet.launchdarkly.address()).unwrap();
    let (disk, other_disk) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let uri = format!("http://{}", line.address());
    let stuck = fleet.relay(&disk, OFTEN).with("STREAM_URI", uri).start().unwrap();
    stuck.wait_until_healthy(4).await;
    let healthy = fleet.filled_by(&fleet.relay(&other_disk, OFTEN)).await;
    stuck.wait_until_stored().await;
    // Nothing reaches it any more, and it cannot know: its connection stands.
    line.freeze();
    fleet.rename(0, "changed");
    fleet.launchdarkly.load(&environment(4, 1));
    fleet.launchdarkly.delete_environment(&environment_id(1));
    fleet.wait_until_whole().await;
    healthy.wait_until_stored().await;
    healthy.kill().await.unwrap();
    let before = looked_at(&stuck).await;
    eventually("it looked for longer than a second look takes", async || {
        let now = looked_at(&stuck).await;
        if now > before + 9_000 { Ok(()) } else { Err(now - before) }
    })
    .await;
    let found = open(&fleet.rows().await, &[KEY]);
    // What it still believes in stands beside what it does not know: nothing newer is lost.
    let missing: Vec<_> = fleet.said().difference(&found.records).cloned().collect();
    assert!(missing.is_empty(), "{missing:?} of {found:?}");
    // When it hears again, it knows.
    line.pass().unwrap();
    fleet.wait_until_whole().await;
}

async fn what_nobody_knows_any_more_goes_after_a_second_look(kind: Kind) {
    let fleet = Fleet::on(kind, 4, 1).await;
    fleet.fill().await;
    // Nobody was there to hear of it.
    fleet.launchdarkly.delete_environment(&environment_id(2));
    let new = fleet.new_relay(NEVER).start().unwrap();
    new.wait_until_healthy(3).await;
    fleet.wait_until_whole().await;
    assert!(new.age() > Duration::from_secs(5), "not before the second look");
    assert_eq!(fleet.rows().await.len(), 3 + 1);
    new.wait_until_stored().await;
}
