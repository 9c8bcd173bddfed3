//! SDKs that write the store too, by their own store classes: the newest version wins, whoever
//! writes it.

use std::collections::BTreeMap;
use std::time::Duration;

use pilotlight::testing::demo::composed_data::{changed_flag, environment_id, flag_key, sdk_key};
use pilotlight::testing::model::ItemKind;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use pilotlight_test_kit::cache_database::Kind;
use pilotlight_test_kit::fleet::{Fleet, NEVER};
use pilotlight_test_kit::relay::{RelayProcess, next_event};
use pilotlight_test_kit::stored_flags::reader::{
    Expected, Reader, languages, signature, signatures, signed_flag,
};
use pilotlight_test_kit::stored_flags::{
    VERY_OFTEN, store_status, wait_until_complete, wait_until_in_order,
};
use pilotlight_test_kit::{eventually, futures_of};

/// How often relay and SDK write the same flags at the same time.
const ROUNDS: u64 = 12;

/// Changed by LaunchDarkly and by the SDK. With the fence fewer than the attempts (10) after which
/// an SDK gives up on a Redis hash that others change.
const CONTESTED: [&str; 8] =
    ["flag-0", "flag-1", "flag-2", "flag-3", "flag-4", "flag-5", "flag-6", "flag-7"];

/// Changed by LaunchDarkly alone, after the others.
const FENCE: &str = "fence";

/// Pause before a relay corrects what should not be there.
const SECOND_LOOK: Duration = Duration::from_secs(5);

const FLAGS: usize = 20;

on_every_database!(
    the_higher_version_wins_whoever_writes_it,
    what_only_an_sdk_says_is_corrected_at_the_second_look,
    what_an_sdk_resets_is_brought_back,
);

async fn live_relay(fleet: &Fleet, kind: Kind, disk: &TempDir, interval: &str) -> RelayProcess {
    let relay = fleet.filled_by(&fleet.relay(disk, interval)).await;
    for index in 0..languages(kind).len() {
        wait_until_complete(fleet, kind, index).await;
    }
    relay
}

async fn the_higher_version_wins_whoever_writes_it(kind: Kind) {
    let fleet = Fleet::on(kind, languages(kind).len(), FLAGS).await;
    let disk = TempDir::new().unwrap();
    // A comparison would correct what only the SDK says.
    let relay = live_relay(&fleet, kind, &disk, NEVER).await;
    let mut readers = Reader::start_all(&fleet, kind).await.unwrap();
    futures_of(readers.iter_mut().map(|reader| contend(&fleet, &relay, reader))).await.unwrap();
    for reader in readers {
        reader.sdk.quit().await.unwrap();
    }
}

/// Lets relay and SDK write different versions of the same flags at the same time, again and
/// again, and compares what stays.
async fn contend(fleet: &Fleet, relay: &RelayProcess, reader: &mut Reader) -> anyhow::Result<()> {
    let environment = environment_id(reader.environment);
    let (mut client, _) = relay.stream_with_put("/all", &sdk_key(reader.environment)).await;
    for round in 1..=ROUNDS {
        // In each round each of the two has the higher version of every other flag.
        let is_sdks = |place: usize| (place as u64 + round).is_multiple_of(2);
        let version = |is_higher: bool| 100 * round + u64::from(is_higher);
        let mut sdks: Vec<Value> = CONTESTED
            .iter()
            .enumerate()
            .map(|(place, key)| signed_flag(key, version(is_sdks(place)), "sdk"))
            .collect();
        if round.is_multiple_of(3) {
            sdks.reverse();
        }
        let relays = async {
            for (place, key) in CONTESTED.iter().enumerate() {
                let flag = signed_flag(key, version(!is_sdks(place)), "launchdarkly");
                fleet.launchdarkly.upsert_flag(&environment, flag)?;
                // One after the other, as the relay takes them, while the SDK writes.
                next_event(&mut client).await;
            }
            let fence = signed_flag(FENCE, version(true), "launchdarkly");
            fleet.launchdarkly.upsert_flag(&environment, fence)?;
            next_event(&mut client).await;
            anyhow::Ok(())
        };
        let (written, said) = tokio::join!(reader.sdk.store_upsert(ItemKind::Flag, &sdks), relays);
        written?;
        said?;
        wait_until_written(relay, reader, version(true)).await;
        let expected: BTreeMap<String, String> = CONTESTED
            .iter()
            .enumerate()
            .map(|(place, key)| {
                let writer = if is_sdks(place) { "sdk" } else { "launchdarkly" };
                ((*key).to_owned(), signature(writer, version(true)))
            })
            .collect();
        let given = signatures(reader, &CONTESTED).await?;
        anyhow::ensure!(given == expected, "{}: {given:#?}", reader.sdk.language());
    }
    Ok(())
}

/// Waits until the relay has written what it was told before the fence of that version.
async fn wait_until_written(relay: &RelayProcess, reader: &mut Reader, fence: u64) {
    let fence = signature("launchdarkly", fence);
    eventually("the fence is stored", async || {
        let given = reader.eval(FENCE).await.map_err(|error| format!("{error:#}"))?;
        if given.value == *fence { Ok(()) } else { Err(format!("{given:?}")) }
    })
    .await;
    let index = reader.environment;
    relay
        .wait_for_status("everything is stored", |status| {
            let store = store_status(status, index);
            store["dirty"] == 0 && store["writePending"] == false
        })
        .await;
}

async fn what_only_an_sdk_says_is_corrected_at_the_second_look(kind: Kind) {
    let environments = languages(kind).len();
    let fleet = Fleet::on(kind, environments, FLAGS).await;
    for index in 0..environments {
        for key in ["newer", "known", "older", "removed"] {
            let flag = signed_flag(key, 5, "launchdarkly");
            fleet.launchdarkly.upsert_flag(&environment_id(index), flag).unwrap();
        }
        fleet.launchdarkly.upsert_segment(&environment_id(index), crowd(5)).unwrap();
    }
    let disk = TempDir::new().unwrap();
    let relay = live_relay(&fleet, kind, &disk, NEVER).await;
    let mut readers = Reader::start_all(&fleet, kind).await.unwrap();
    futures_of(readers.iter_mut().map(|reader| correct(&fleet, reader))).await.unwrap();
    for reader in &readers {
        wait_until_complete(&fleet, kind, reader.environment).await;
    }
    relay.wait_for_log("they were corrected").await;
    wait_until_in_order(&relay).await;
    // Nothing was lost, so nobody is alarmed.
    let status = relay.status().await;
    assert!(store_status(&status, 0)["lastRepopulation"].is_null(), "{status}");
    for reader in readers {
        reader.sdk.quit().await.unwrap();
    }
}

fn crowd(version: u64) -> Value {
    json!({
        "key": "crowd", "version": version, "included": [], "excluded": [], "salt": "s",
        "rules": [], "deleted": false,
    })
}

/// The SDK writes what LaunchDarkly has not said; only after a pause the relay undoes it.
async fn correct(fleet: &Fleet, reader: &mut Reader) -> anyhow::Result<()> {
    const KEYS: [&str; 5] = ["newer", "known", "older", "removed", "stranger"];
    let environment = environment_id(reader.environment);
    let written = [
        signed_flag("newer", 9, "sdk"),
        signed_flag("known", 9, "sdk"),
        signed_flag("older", 4, "sdk"),
        json!({"key": "removed", "version": 9, "deleted": true}),
        signed_flag("stranger", 1, "sdk"),
    ];
    reader.sdk.store_upsert(ItemKind::Flag, &written).await?;
    reader.sdk.store_upsert(ItemKind::Segment, &[crowd(9)]).await?;
    let given = signatures(reader, &KEYS).await?;
    let expected = ["sdk 9", "sdk 9", "launchdarkly 5", "-", "sdk 1"];
    anyhow::ensure!(KEYS.iter().zip(expected).all(|(key, text)| given[*key] == text), "{given:?}");

    let begun = Instant::now();
    // A put is compared with what is stored; then LaunchDarkly says one of the versions too.
    fleet.launchdarkly.send_flags_put(&environment);
    fleet.launchdarkly.upsert_flag(&environment, signed_flag("known", 9, "launchdarkly"))?;
    // Also the one that has another content at the same version.
    let expected = ["launchdarkly 5", "launchdarkly 9", "launchdarkly 5", "launchdarkly 5", "-"];
    eventually("the store is corrected", async || {
        let given = signatures(reader, &KEYS).await.map_err(|error| format!("{error:#}"))?;
        let early = begun.elapsed() < SECOND_LOOK;
        for key in ["newer", "known"] {
            assert!(!early || given[key] == "sdk 9", "corrected after {:?}", begun.elapsed());
        }
        let same = KEYS.iter().zip(expected).all(|(key, text)| given[*key] == text);
        if same { Ok(()) } else { Err(format!("{given:?}")) }
    })
    .await;
    Ok(())
}

async fn what_an_sdk_resets_is_brought_back(kind: Kind) {
    let environments = languages(kind).len();
    let fleet = Fleet::on(kind, environments, FLAGS).await;
    let disk = TempDir::new().unwrap();
    for index in 0..environments {
        for flag in 0..FLAGS {
            let changed = changed_flag(index, flag, 1);
            fleet.launchdarkly.upsert_flag(&environment_id(index), changed).unwrap();
        }
    }
    let _relay = live_relay(&fleet, kind, &disk, VERY_OFTEN).await;
    let mut readers = Reader::start_all(&fleet, kind).await.unwrap();
    let expected = Expected { flags: FLAGS, changed: (0..FLAGS).collect(), ..Expected::default() };
    let reset = futures_of(readers.iter_mut().map(async |reader| {
        reader.compare(&expected).await?;
        // What an SDK has that heard of LaunchDarkly last before all that: not all the flags, each
        // in an older version, and no segments.
        let old = (1..FLAGS).map(|flag| signed_flag(&flag_key(flag), 1, "sdk"));
        reader.sdk.store_init(&old.collect::<Vec<_>>(), &[]).await?;
        wait_until_complete(&fleet, kind, reader.environment).await;
        reader.compare(&expected).await
    }));
    reset.await.unwrap();
    for reader in readers {
        reader.sdk.quit().await.unwrap();
    }
}
