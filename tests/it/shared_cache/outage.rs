//! The database is away, or hangs: nobody waits for it, and what it missed reaches it later.

use std::time::Duration;

use pilotlight::testing::demo::composed_data::{changed_flag, environment_id, flag_key, sdk_key};
use tempfile::TempDir;
use tokio::time::Instant;

use pilotlight_test_kit::cache_database::Kind;
use pilotlight_test_kit::fleet::{Fleet, NEVER, OFTEN, assert_later, shared, wait_for_shared};
use pilotlight_test_kit::relay::next_event;

on_every_database!(
    a_database_that_is_away_at_the_start_is_read_when_it_returns,
    a_database_that_hangs_at_the_start_is_read_when_it_answers,
    a_start_does_not_wait_for_the_database,
    what_a_database_missed_reaches_it_and_delays_no_event,
);

async fn a_database_that_is_away_at_the_start_is_read_when_it_returns(kind: Kind) {
    let fleet = Fleet::on(kind, 2, 5).await;
    fleet.fill().await;
    let filled = fleet.rows().await;
    fleet.launchdarkly.stop().await;
    fleet.database.proxy().kill();
    let relay = fleet.new_relay(NEVER).start().unwrap();
    let status = wait_for_shared(&relay, "unavailable").await;
    assert!(shared(&status)["error"].as_str().is_some_and(|error| !error.is_empty()));
    assert_eq!(status["environments"], serde_json::json!({}));
    assert_later(&relay.get_with_key("/all", &sdk_key(0)).await);
    assert_eq!(relay.get("/livez", &[]).await.status, 200);
    fleet.database.proxy().pass().unwrap();
    let status = wait_for_shared(&relay, "loaded").await;
    assert_eq!(
        (shared(&status)["complete"].as_bool(), &shared(&status)["error"]),
        (Some(true), &serde_json::Value::Null)
    );
    relay
        .wait_for_status("it is applied", |status| {
            status["environments"].as_object().unwrap().len() == 2
        })
        .await;
    relay.stream_with_put("/all", &sdk_key(0)).await;
    let complaints = relay.log().matches("the autoconfig cache cannot be read").count();
    assert_eq!(complaints, 1, "{}", relay.log());
    assert_eq!(fleet.rows().await, filled);
}

async fn a_database_that_hangs_at_the_start_is_read_when_it_answers(kind: Kind) {
    let fleet = Fleet::on_mortal(kind, 2, 5).await;
    fleet.fill().await;
    fleet.launchdarkly.stop().await;
    fleet.database.freeze();
    let relay = fleet.new_relay(NEVER).start().unwrap();
    wait_for_shared(&relay, "unavailable").await;
    assert_later(&relay.get_with_key("/all", &sdk_key(0)).await);
    fleet.database.thaw();
    let status = wait_for_shared(&relay, "loaded").await;
    assert_eq!(shared(&status)["complete"], true);
    relay
        .wait_for_status("it is applied", |status| {
            status["environments"].as_object().unwrap().len() == 2
        })
        .await;
}

async fn a_start_does_not_wait_for_the_database(kind: Kind) {
    let fleet = Fleet::on(kind, 2, 5).await;
    // Swallows everything, for ever.
    fleet.database.proxy().black_hole();
    let relay = fleet.new_relay(NEVER).start().unwrap();
    let (_client, put) = relay.stream_with_put("/all", &sdk_key(0)).await;
    assert_eq!(put["data"]["flags"].as_object().unwrap().len(), 5);
    relay.wait_until_healthy(2).await;
    assert_eq!(relay.get("/readyz", &[]).await.status, 200);
    let status = wait_for_shared(&relay, "unavailable").await;
    assert_eq!(shared(&status)["writePending"], true);
    fleet.database.proxy().cut();
    fleet.database.proxy().pass().unwrap();
    fleet.wait_until_whole().await;
    relay.wait_until_stored().await;
}

async fn what_a_database_missed_reaches_it_and_delays_no_event(kind: Kind) {
    let fleet = Fleet::on_mortal(kind, 2, 5).await;
    let disk = TempDir::new().unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, OFTEN)).await;
    let (mut client, _) = relay.stream_with_put("/all", &sdk_key(0)).await;
    let mut fastest = Duration::MAX;
    for change in 1..=3 {
        fleet.database.freeze();
        fleet.rename(1, &format!("change {change}"));
        // The write of that change hangs. A flag changes at the same moment.
        let begun = Instant::now();
        fleet.launchdarkly.upsert_flag(&environment_id(0), changed_flag(0, 3, change)).unwrap();
        let (name, data) = next_event(&mut client).await;
        fastest = fastest.min(begun.elapsed());
        assert_eq!(
            (name.as_str(), &data["path"]),
            ("patch", &format!("/flags/{}", flag_key(3)).into())
        );
        relay
            .wait_for_status("the write is pending", |status| {
                shared(status)["writePending"] == true && shared(status)["state"] == "unavailable"
            })
            .await;
        fleet.database.thaw();
        fleet.wait_until_whole().await;
        relay.wait_until_stored().await;
    }
    // A call to the database would have taken two seconds to fail.
    assert!(fastest < Duration::from_secs(1), "{fastest:?}");
}
