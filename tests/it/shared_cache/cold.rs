//! Cold starts from the shared cache: a new machine, an old disk, a network that is gone.

use pilotlight::testing::demo::composed_data::{environment_id, mobile_key, sdk_key};
use pilotlight::testing::demo::fake_launchdarkly::{Fault, FaultRule, FaultScope};
use tempfile::TempDir;

use pilotlight_test_kit::cache_database::Kind;
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::fleet::{
    CACHE_KEY, Fleet, NEVER, OFTEN, assert_later, difference, shared, wait_for_shared,
};

on_every_database!(
    a_relay_on_a_new_machine_knows_its_environments,
    the_newer_of_the_two_tiers_counts,
);

async fn a_relay_on_a_new_machine_knows_its_environments(kind: Kind) {
    let mut fleet = Fleet::on(kind, 3, 10).await;
    fleet.add_filter("pilot-project.small", "small");
    fleet.fill().await;
    let filled = fleet.rows().await;
    assert_eq!(filled.len(), 3 + 1 + 1, "environments, a filter, the manifest");

    fleet.launchdarkly.stop().await;
    let machine = TempDir::new().unwrap();
    let relay = fleet.relay(&machine, OFTEN).start().unwrap();
    let status = wait_for_shared(&relay, "loaded").await;
    let tier = shared(&status);
    assert_eq!((tier["records"].as_u64(), tier["complete"].as_bool()), (Some(4), Some(true)));
    assert!(tier["writtenAt"].is_u64(), "{tier}");
    let status = relay
        .wait_for_status("the environments are known", |status| {
            let local = &status["autoConfigCache"]["local"];
            // What the shared cache told stands on this machine's disk at once.
            status["environments"].as_object().unwrap().len() == 6
                && local["state"] == "loaded"
                && local["complete"] == true
                && local["writtenAt"] == shared(status)["writtenAt"]
        })
        .await;
    assert_eq!(status["autoConfigStatus"]["state"], "INITIALIZING");
    for index in 0..3 {
        let id = environment_id(index);
        assert!(status["environments"][format!("{id}/small")].is_object());
        let (_client, put) = relay.stream_with_put("/all", &sdk_key(index)).await;
        assert_eq!(put["data"]["flags"].as_object().unwrap().len(), 10);
        let status = relay.status().await;
        assert_eq!(status["environments"][&id]["data"]["origin"], "sharedStore");
    }
    // A phone is served as well. The context is {"key":"u"}.
    let values = relay.get_with_key("/msdk/evalx/users/eyJrZXkiOiJ1In0", &mobile_key(1)).await;
    assert_eq!(values.status, 200);
    assert!(!values.json().as_object().unwrap().is_empty(), "{}", values.text());
    assert_later(&relay.get_with_key("/all", "sdk-of-nobody").await);
    assert_later(&relay.get("/ping/nobody", &[]).await);
    // Its filtered environments are read as well.
    relay.wait_until_ready().await;
    assert_eq!(relay.get("/livez", &[]).await.status, 200);

    // Flags come back, the list of environments does not.
    fleet.launchdarkly.inject(FaultRule::new(FaultScope::Autoconfig, Fault::Hang));
    fleet.launchdarkly.start().unwrap();
    let status = relay
        .wait_for_status("flags are live", |status| {
            status["environments"][environment_id(1)]["data"]["origin"] == "live"
        })
        .await;
    assert_eq!(status["autoConfigStatus"]["state"], "INITIALIZING");
    assert_later(&relay.get_with_key("/all", "sdk-of-nobody").await);
    assert_eq!(fleet.rows().await, filled, "nothing cached is written back");
    assert_eq!(fleet.database.rows(CACHE_KEY).await.len(), 0, "nor under ld-relay's name");

    fleet.launchdarkly.clear_faults();
    fleet.launchdarkly.cut_connections();
    relay.wait_until_healthy(6).await;
    eventually("the list is confirmed", async || {
        match relay.get_with_key("/all", "sdk-of-nobody").await.status {
            401 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    relay.wait_until_stored().await;
    assert_eq!(fleet.rows().await, filled, "what is there already is not written");
}

async fn the_newer_of_the_two_tiers_counts(kind: Kind) {
    let fleet = Fleet::on(kind, 2, 5).await;
    let (old_disk, other_disk) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fleet.filled_by(&fleet.relay(&old_disk, NEVER)).await.kill().await.unwrap();

    // Another machine hears of a new key, and tells of it in the shared cache.
    let other = fleet.filled_by(&fleet.relay(&other_disk, NEVER)).await;
    fleet.rotate(0, "sdk-second");
    fleet.wait_until_whole().await;
    other.kill().await.unwrap();
    fleet.launchdarkly.stop().await;
    let relay = fleet.relay(&old_disk, NEVER).start().unwrap();
    // Its flags are on the disk of this machine, the key is in the shared cache.
    let (_, put) = relay.stream_with_put("/all", "sdk-second").await;
    assert_eq!(put["data"]["flags"].as_object().unwrap().len(), 5);
    assert_later(&relay.get_with_key("/all", &sdk_key(0)).await);
    relay.kill().await.unwrap();

    // This machine hears of the next key while the database does not answer.
    fleet.launchdarkly.start().unwrap();
    let relay = fleet.relay(&old_disk, NEVER).start().unwrap();
    relay.wait_until_healthy(2).await;
    relay.wait_until_stored().await;
    let before = fleet.rows().await;
    // What is sent now is lost, not late: a server that only stands still for a while would carry
    // out what waits for it, also after its sender's end.
    fleet.database.proxy().black_hole();
    fleet.rotate(0, "sdk-third");
    relay.stream_with_put("/all", "sdk-third").await;
    relay
        .wait_for_status("it is stored locally only", |status| {
            status["autoConfigCache"]["shared"]["writePending"] == true
                && status["autoConfigCache"]["local"]["writePending"] == false
                && status["autoConfigCache"]["local"]["writtenAt"].as_u64()
                    > status["autoConfigCache"]["shared"]["writtenAt"].as_u64()
        })
        .await;
    relay.kill().await.unwrap();
    fleet.database.proxy().cut();
    fleet.database.proxy().pass().unwrap();
    fleet.launchdarkly.stop().await;
    let relay = fleet.relay(&old_disk, NEVER).start().unwrap();
    relay.stream_with_put("/all", "sdk-third").await;
    wait_for_shared(&relay, "loaded").await;
    assert_later(&relay.get_with_key("/all", "sdk-second").await);
    relay.stream_with_put("/all", "sdk-third").await;
    // What this machine has learnt is in the shared cache too now, for those that have no disk.
    fleet.wait_until_whole().await;
    let after = fleet.rows().await;
    assert_eq!(difference(&before, &after), (0, 2, 0), "one record, one manifest");
    // A machine without a disk does not accept the revoked keys.
    let other = fleet.new_relay(NEVER).start().unwrap();
    other.stream_with_put("/all", "sdk-third").await;
    assert_later(&other.get_with_key("/all", "sdk-second").await);
    other.kill().await.unwrap();

    // A revocation that came by the shared cache stays known without it.
    relay.kill().await.unwrap();
    fleet.launchdarkly.start().unwrap();
    let peer_disk = TempDir::new().unwrap();
    let peer = fleet.filled_by(&fleet.relay(&peer_disk, NEVER)).await;
    fleet.rotate(0, "sdk-fourth");
    fleet.launchdarkly.delete_environment(&environment_id(1));
    fleet.wait_until_whole().await;
    peer.kill().await.unwrap();
    fleet.launchdarkly.stop().await;
    let relay = fleet.relay(&old_disk, NEVER).start().unwrap();
    relay.stream_with_put("/all", "sdk-fourth").await;
    assert_later(&relay.get_with_key("/all", "sdk-third").await);
    assert_later(&relay.get_with_key("/all", &sdk_key(1)).await);
    relay
        .wait_for_status("it stands on the disk", |status| {
            let local = &status["autoConfigCache"]["local"];
            local["records"] == 1 && local["writePending"] == false
        })
        .await;
    relay.kill().await.unwrap();
    fleet.database.proxy().black_hole();
    let relay = fleet.relay(&old_disk, NEVER).start().unwrap();
    relay.stream_with_put("/all", "sdk-fourth").await;
    assert_later(&relay.get_with_key("/all", "sdk-third").await);
    assert_later(&relay.get_with_key("/all", &sdk_key(1)).await);
}
