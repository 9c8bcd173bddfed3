//! What a live relay writes.

use pilotlight::testing::demo::composed_data::environment_id;
use pilotlight::testing::model::ItemKind;
use serde_json::json;
use tempfile::TempDir;

use pilotlight_test_kit::cache_database::Kind;
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::fleet::{Fleet, NEVER};
use pilotlight_test_kit::stored_flags::{stored, wait_for_store, wait_until_complete};

on_every_database!(what_launchdarkly_says_is_written_and_kept);

async fn what_launchdarkly_says_is_written_and_kept(kind: Kind) {
    let fleet = Fleet::on(kind, 2, 60).await;
    let disk = TempDir::new().unwrap();
    let relay = fleet.relay(&disk, NEVER).start().unwrap();
    for index in 0..2 {
        wait_until_complete(&fleet, kind, index).await;
    }
    let environment = environment_id(0);
    let launchdarkly = &fleet.launchdarkly;
    // Sent without what strict readers demand; the new member is kept.
    let flag = json!({"key": "fresh", "on": true, "variations": [1], "novelty": {"a": 1.50}});
    launchdarkly.upsert_flag(environment.as_str(), flag).unwrap();
    wait_until_complete(&fleet, kind, 0).await;
    let flags = stored(&fleet, kind, 0, ItemKind::Flag).await;
    let fresh = &flags["fresh"];
    for member in ["prerequisites", "targets", "rules", "fallthrough", "salt", "offVariation"] {
        assert!(fresh.get(member).is_some(), "{member} in {fresh}");
    }
    assert_eq!((&fresh["deleted"], &fresh["novelty"]), (&json!(false), &json!({"a": 1.5})));

    // A deletion leaves its mark, in the full form.
    let version = launchdarkly.delete_flag(environment.as_str(), "fresh");
    eventually("the deletion is stored", async || {
        let fresh = stored(&fleet, kind, 0, ItemKind::Flag).await["fresh"].clone();
        if fresh["deleted"] == true { Ok(()) } else { Err(fresh) }
    })
    .await;
    let fresh = stored(&fleet, kind, 0, ItemKind::Flag).await["fresh"].clone();
    assert_eq!((&fresh["key"], &fresh["version"]), (&json!("$deleted"), &json!(version)));
    assert!(fresh["variations"].is_array() && fresh["salt"].is_string());
    let segment = json!({"key": "crowd", "included": ["someone"]});
    launchdarkly.upsert_segment(environment.as_str(), segment).unwrap();
    wait_until_complete(&fleet, kind, 0).await;
    let status = wait_for_store(&relay, "nothing waits", |store| {
        store["state"] == "VALID" && store["dirty"] == 0
    })
    .await;
    let store = pilotlight_test_kit::stored_flags::store_status(&status, 0);
    assert!(store["lastWrite"].is_u64() && store["breaker"] == "closed", "{store}");
    assert!(store["dbPrefix"].as_str().is_some_and(|prefix| prefix.contains(&environment)));
}
