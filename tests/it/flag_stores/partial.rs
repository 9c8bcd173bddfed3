//! Databases that hold less, other or stranger items than they should, while LaunchDarkly is away:
//! never an empty, partial or wrong set is served, and one bad item does not take the others.

use pilotlight::testing::demo::composed_data::{environment_id, flag_key, sdk_key, segment_key};
use pilotlight::testing::model::ItemKind;
use serde_json::{Value, json};
use tempfile::TempDir;

use pilotlight_test_kit::cache_database::Kind;
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::fleet::{Fleet, NEVER};
use pilotlight_test_kit::relay::{RelayProcess, next_event};
use pilotlight_test_kit::stored_flags::{
    namespace, prefix, store_status, stored, wait_for_store, wait_until_complete,
    wait_until_in_order,
};

const FLAGS: usize = 20;

on_every_database!(
    a_marker_without_its_items_is_not_served,
    a_whole_local_store_wins_over_a_database_that_lost_items,
    a_local_store_that_is_preferred_excludes_the_database,
    an_item_that_cannot_be_decoded_is_left_out_and_named,
    odd_versions_are_served,
    other_content_at_the_same_version_is_corrected,
);

/// Removes all items of a kind, or only the first.
async fn remove(fleet: &Fleet, kind: Kind, items: ItemKind, only_one: bool) {
    let keys: Vec<String> = stored(fleet, kind, 0, items).await.into_keys().collect();
    let count = if only_one { 1 } else { keys.len() };
    for key in &keys[..count] {
        fleet.database.remove(&namespace(kind, 0, items), key).await;
    }
}

/// Database and local store hold everything; the relay that filled them and LaunchDarkly are gone.
async fn filled_and_cut_off(kind: Kind) -> (Fleet, TempDir) {
    let fleet = Fleet::on(kind, 1, FLAGS).await;
    let disk = TempDir::new().unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, NEVER)).await;
    wait_until_complete(&fleet, kind, 0).await;
    relay.kill().await.unwrap();
    fleet.launchdarkly.stop().await;
    (fleet, disk)
}

async fn latest(relay: &RelayProcess) -> (u16, Value) {
    let answer = relay.get_with_key("/sdk/latest-all", &sdk_key(0)).await;
    (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
}

async fn a_marker_without_its_items_is_not_served(kind: Kind) {
    let fleet = Fleet::on(kind, 1, FLAGS).await;
    fleet.fill().await;
    fleet.launchdarkly.stop().await;
    let whole = [ItemKind::Segment, ItemKind::Flag];
    let steps = [(whole[0], true), (whole[0], false), (whole[1], true), (whole[1], false)];
    for (items, only_one) in steps {
        remove(&fleet, kind, items, only_one).await;
        let disk = TempDir::new().unwrap();
        let relay = fleet.relay(&disk, NEVER).start().unwrap();
        wait_for_store(&relay, "it shows what is missing", |store| {
            store["problem"].as_str().is_some_and(|text| text.contains("are left"))
        })
        .await;
        assert_eq!(latest(&relay).await.0, 503, "{items:?} {only_one}");
        assert_eq!(relay.get("/readyz", &[]).await.status, 503);
        relay.kill().await.unwrap();
    }
    // A live relay repairs it.
    fleet.launchdarkly.start().unwrap();
    let disk = TempDir::new().unwrap();
    let relay = fleet.relay(&disk, NEVER).start().unwrap();
    wait_until_complete(&fleet, kind, 0).await;
    wait_until_in_order(&relay).await;
}

async fn a_whole_local_store_wins_over_a_database_that_lost_items(kind: Kind) {
    let (fleet, disk) = filled_and_cut_off(kind).await;
    for items in [ItemKind::Flag, ItemKind::Segment] {
        remove(&fleet, kind, items, false).await;
        let relay = fleet.relay(&disk, NEVER).start().unwrap();
        let (_client, put) = relay.stream_with_put("/all", &sdk_key(0)).await;
        assert_eq!(put["data"]["flags"].as_object().unwrap().len(), FLAGS);
        let (status, all) = latest(&relay).await;
        assert_eq!((status, all["flags"].as_object().unwrap().len()), (200, FLAGS));
        relay.kill().await.unwrap();
    }
}

async fn a_local_store_that_is_preferred_excludes_the_database(kind: Kind) {
    let (fleet, disk) = filled_and_cut_off(kind).await;
    // A person who can write the database writes a newer flag.
    let planted = format!(r#"{{"key":"{}","version":9000,"on":true}}"#, flag_key(2));
    let flags = namespace(kind, 0, ItemKind::Flag);
    fleet.database.put_item(&flags, &flag_key(2), 9_000, &planted).await;
    let version =
        async |relay: &RelayProcess| latest(relay).await.1["flags"][flag_key(2)]["version"].clone();
    let is_taken_over = async |relay: &RelayProcess| {
        eventually("the newer flag is served", async || {
            let version = version(relay).await;
            if version == 9_000 { Ok(()) } else { Err(version.to_string()) }
        })
        .await;
    };
    // By default the newest version counts, wherever it is from.
    let relay = fleet.relay(&disk, NEVER).start().unwrap();
    is_taken_over(&relay).await;
    let status = relay.status().await;
    let data = &status["environments"][environment_id(0)]["data"];
    // Whichever store answered first gives the origin.
    let expected = if data["origin"] == "localStore" { json!(1) } else { Value::Null };
    assert_eq!(data["itemsFromSharedStore"], expected, "{data}");
    relay.kill().await.unwrap();
    let preferring =
        |disk: &TempDir| fleet.relay(disk, NEVER).with("LOCAL_STORE_PREFER_OVER", "sharedStore");
    let relay = preferring(&disk).start().unwrap();
    wait_for_store(&relay, "it is seen to hold something else", |store| {
        store["unrepaired"]["newerItems"].as_u64() > Some(0)
    })
    .await;
    assert_eq!(version(&relay).await, 3);
    let status = relay.status().await;
    let data = &status["environments"][environment_id(0)]["data"];
    assert_eq!(data["origin"], "localStore", "{data}");
    relay.kill().await.unwrap();
    // A relay without a local set has nothing else than the database.
    let empty = TempDir::new().unwrap();
    let relay = preferring(&empty).start().unwrap();
    is_taken_over(&relay).await;
    relay.kill().await.unwrap();
}

async fn an_item_that_cannot_be_decoded_is_left_out_and_named(kind: Kind) {
    let (fleet, disk) = filled_and_cut_off(kind).await;
    let flags = namespace(kind, 0, ItemKind::Flag);
    let deep = format!(r#"{{"version":1,"x":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    fleet.database.put_item(&flags, &flag_key(2), 0, "{\"key\": ").await;
    fleet.database.put_item(&flags, &flag_key(3), 0, &deep).await;

    let fresh = TempDir::new().unwrap();
    let relay = fleet.relay(&fresh, NEVER).start().unwrap();
    let (_client, put) = relay.stream_with_put("/all", &sdk_key(0)).await;
    let served = put["data"]["flags"].as_object().unwrap();
    assert_eq!(served.len(), FLAGS - 2);
    assert!(!served.contains_key(&flag_key(2)) && !served.contains_key(&flag_key(3)));
    let single = |key: String| format!("/sdk/flags/{key}");
    let good = relay.get_with_key(&single(flag_key(4)), &sdk_key(0)).await;
    assert_eq!(good.status, 200);
    let bad = relay.get_with_key(&single(flag_key(2)), &sdk_key(0)).await;
    assert_eq!(bad.status, 404);
    let names = [2, 3].map(|index| format!("flags/{}", flag_key(index)));
    let status = relay.status().await;
    let data = &status["environments"][environment_id(0)]["data"];
    assert_eq!(data["missingItems"], json!(names));
    assert_eq!(store_status(&status, 0)["undecodable"], json!(names));
    let ready = relay.get("/readyz", &[]).await;
    let reasons = String::from_utf8_lossy(&ready.body).into_owned();
    assert!(ready.status == 200 && reasons.contains(&names[0]), "{reasons}");
    relay.wait_for_log("cannot be decoded in any store").await;
    relay.kill().await.unwrap();

    // The local store of a relay that ran before has both.
    let relay = fleet.relay(&disk, NEVER).start().unwrap();
    eventually("both stores are read", async || {
        let status = relay.status().await;
        let undecodable = store_status(&status, 0)["undecodable"].clone();
        if undecodable == json!(names) { Ok(()) } else { Err(undecodable.to_string()) }
    })
    .await;
    let (status, all) = latest(&relay).await;
    assert_eq!((status, all["flags"].as_object().unwrap().len()), (200, FLAGS));
    let status = relay.status().await;
    let data = &status["environments"][environment_id(0)]["data"];
    assert!(data["missingItems"].is_null(), "{data}");
}

async fn odd_versions_are_served(kind: Kind) {
    let fleet = Fleet::on(kind, 1, FLAGS).await;
    fleet.fill().await;
    fleet.launchdarkly.stop().await;
    let flags = namespace(kind, 0, ItemKind::Flag);
    for (index, version) in [(2, "1.5"), (3, "-1")] {
        let json = format!(r#"{{"key":"{}","on":true,"version":{version}}}"#, flag_key(index));
        fleet.database.put_item(&flags, &flag_key(index), 0, &json).await;
    }
    let disk = TempDir::new().unwrap();
    let relay = fleet.relay(&disk, NEVER).start().unwrap();
    let (_client, put) = relay.stream_with_put("/all", &sdk_key(0)).await;
    let served = &put["data"]["flags"];
    assert_eq!(served.as_object().unwrap().len(), FLAGS);
    assert_eq!(served[flag_key(2)]["version"], 1);
    assert_eq!(served[flag_key(3)]["version"], 0);
}

async fn other_content_at_the_same_version_is_corrected(kind: Kind) {
    let fleet = Fleet::on(kind, 1, FLAGS).await;
    fleet.fill().await;
    let said = fleet.launchdarkly.data(environment_id(0).as_str());
    let version = |key: &str| said.flags.get(key).unwrap().version;
    let flags = namespace(kind, 0, ItemKind::Flag);
    let (changed, deleted) = (flag_key(2), flag_key(3));
    let other = json!({"key": changed, "version": version(&changed), "on": false, "x": "other"});
    fleet.database.put_item(&flags, &changed, version(&changed), &other.to_string()).await;
    // As SDKs of several languages write it.
    let tombstone = json!({"version": version(&deleted), "deleted": true});
    fleet.database.put_item(&flags, &deleted, version(&deleted), &tombstone.to_string()).await;
    // No relay can read this one, whatever version it claims.
    let unreadable = flag_key(4);
    let odd = json!({"key": unreadable, "version": 9000, "deleted": 1});
    fleet.database.put_item(&flags, &unreadable, 9000, &odd.to_string()).await;
    fleet.launchdarkly.set_heartbeat(Some(std::time::Duration::from_secs(1)));
    let disk = TempDir::new().unwrap();
    let _relay = fleet.relay(&disk, NEVER).start().unwrap();
    eventually("what LaunchDarkly says is stored", async || {
        let stored = stored(&fleet, kind, 0, ItemKind::Flag).await;
        for key in [&changed, &deleted, &unreadable] {
            let wanted: Value =
                serde_json::from_slice(said.flags.get(key).unwrap().json.as_ref().unwrap())
                    .unwrap();
            if stored[key]["on"] != wanted["on"]
                || stored[key]["variations"] != wanted["variations"]
            {
                return Err(format!("{key}: {}", stored[key]));
            }
        }
        Ok(())
    })
    .await;
    // A deletion that an SDK wrote gets the form that strict readers can decode.
    let key = segment_key(0);
    fleet.launchdarkly.delete_segment(environment_id(0).as_str(), &key);
    wait_until_complete(&fleet, kind, 0).await;
    let segments = namespace(kind, 0, ItemKind::Segment);
    let version = stored(&fleet, kind, 0, ItemKind::Segment).await[&key]["version"].clone();
    let tombstone = json!({"key": key, "version": version, "deleted": true});
    let number = version.as_u64().unwrap();
    fleet.database.put_item(&segments, &key, number, &tombstone.to_string()).await;
    fleet.launchdarkly.send_flags_put(environment_id(0).as_str());
    eventually("the tombstone is whole or gone", async || {
        let stored = stored(&fleet, kind, 0, ItemKind::Segment).await;
        match stored.get(&key) {
            None => Ok(()),
            Some(found) if found.get("rules").is_some() => Ok(()),
            Some(found) => Err(found.to_string()),
        }
    })
    .await;
}

/// The prefix was used by another environment before.
#[tokio::test(flavor = "multi_thread")]
async fn the_flags_of_another_environment_are_not_served() {
    let fleet = Fleet::on(Kind::Redis, 1, FLAGS).await;
    fleet.fill().await;
    let marker = format!("{}:$inited", prefix(0));
    let redis = fleet.database.redis();
    let ours = redis.command(&["GET", &marker]);
    assert!(ours.contains(environment_id(0).as_str()), "{ours}");
    let theirs = ours.replace(environment_id(0).as_str(), "another");
    assert_eq!(redis.command(&["SET", &marker, &theirs]), "OK");
    fleet.launchdarkly.stop().await;
    let disk = TempDir::new().unwrap();
    let relay = fleet.relay(&disk, NEVER).start().unwrap();
    wait_for_store(&relay, "it shows whose flags these are", |store| {
        store["problem"].as_str().is_some_and(|text| text.contains("another environment"))
    })
    .await;
    assert_eq!(latest(&relay).await.0, 503);
    fleet.launchdarkly.start().unwrap();
    eventually("the set is ours", async || {
        let found = redis.command(&["GET", &marker]);
        if found.contains(environment_id(0).as_str()) { Ok(()) } else { Err(found) }
    })
    .await;
}

/// A flag that changed while LaunchDarkly's connection was gone reaches clients as that change.
#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_changes_little_reaches_clients_as_changes() {
    let fleet = Fleet::on(Kind::Redis, 1, FLAGS).await;
    let disk = TempDir::new().unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, NEVER)).await;
    let (mut client, _) = relay.stream_with_put("/all", &sdk_key(0)).await;
    fleet.launchdarkly.stop().await;
    let flag = json!({"key": flag_key(5), "on": true, "news": true});
    fleet.launchdarkly.upsert_flag(environment_id(0).as_str(), flag).unwrap();
    fleet.launchdarkly.start().unwrap();
    let (name, data) = next_event(&mut client).await;
    assert_eq!(
        (name.as_str(), &data["path"]),
        ("patch", &json!(format!("/flags/{}", flag_key(5))))
    );
}
