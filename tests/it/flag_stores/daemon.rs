//! SDKs in daemon mode: they know LaunchDarkly only by what a relay writes into the database.

use pilotlight::testing::demo::composed_data::{
    changed_flag, environment_id, expected_value, flag_key, segment,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use pilotlight_test_kit::cache_database::Kind;
use pilotlight_test_kit::fleet::{Fleet, NEVER};
use pilotlight_test_kit::stored_flags::reader::{Expected, Reader, languages};
use pilotlight_test_kit::stored_flags::{VERY_OFTEN, wait_until_complete};
use pilotlight_test_kit::{eventually, futures_of};

/// Enough for several prerequisites and a segment that many rules ask for.
const FLAGS: usize = 30;

/// On, without a prerequisite, and with a rule for members of the first segment.
const FOR_MEMBERS: usize = 0;

/// Needs [`FOR_MEMBERS_TOO`] to give its usual value.
const DEPENDENT: usize = 3;
const FOR_MEMBERS_TOO: usize = 2;

/// Flags that no other one depends on.
const CHANGED: usize = 4;
const DELETED: usize = 5;
const CHANGED_LATER: usize = 8;

on_every_database!(sdks_evaluate_what_a_relay_writes, sdks_live_through_the_loss_of_everything,);

async fn sdks_evaluate_what_a_relay_writes(kind: Kind) {
    let environments = languages(kind).len();
    let fleet = Fleet::on(kind, environments, FLAGS).await;
    let disk = TempDir::new().unwrap();
    let _relay = fleet.filled_by(&fleet.relay(&disk, NEVER)).await;
    for index in 0..environments {
        wait_until_complete(&fleet, kind, index).await;
    }
    let mut expected = Expected { flags: FLAGS, ..Expected::default() };
    let mut readers = Reader::start_all(&fleet, kind).await.unwrap();
    let first = futures_of(readers.iter_mut().map(async |reader| {
        reader.compare(&expected).await?;
        tells_members_apart(reader).await
    }));
    first.await.unwrap();

    expected.deleted.insert(DELETED);
    let watch = futures_of(readers.iter_mut().map(|reader| reader.watch(&expected)));
    watch.await.unwrap();
    expected.changed.insert(CHANGED);
    for index in 0..environments {
        let environment = environment_id(index);
        fleet.launchdarkly.upsert_flag(&environment, changed_flag(index, CHANGED, 1)).unwrap();
        fleet.launchdarkly.delete_flag(&environment, &flag_key(DELETED));
        let mut with_newcomer = segment(index, 0);
        with_newcomer["included"] = json!(["newcomer"]);
        fleet.launchdarkly.upsert_segment(&environment, with_newcomer).unwrap();
    }
    let second = futures_of(readers.iter_mut().map(async |reader| {
        reader.sees(&expected).await?;
        gives_to(reader, &json!("newcomer"), FOR_MEMBERS, "RULE_MATCH").await;
        Ok(())
    }));
    second.await.unwrap();
    // Everything once more, which writes nothing.
    for index in 0..environments {
        fleet.launchdarkly.send_flags_put(&environment_id(index));
    }
    let third = futures_of(readers.iter_mut().map(async |reader| {
        reader.has_not_fallen_back().await?;
        reader.compare(&expected).await
    }));
    third.await.unwrap();
    for reader in readers {
        reader.sdk.quit().await.unwrap();
    }
}

async fn sdks_live_through_the_loss_of_everything(kind: Kind) {
    let environments = languages(kind).len();
    let mut fleet = Fleet::on_mortal(kind, environments, FLAGS).await;
    let disk = TempDir::new().unwrap();
    let relay = fleet.filled_by(&fleet.relay(&disk, VERY_OFTEN)).await;
    let mut expected = Expected { flags: FLAGS, ..Expected::default() };
    expected.deleted.insert(DELETED);
    for index in 0..environments {
        fleet.launchdarkly.delete_flag(&environment_id(index), &flag_key(DELETED));
        wait_until_complete(&fleet, kind, index).await;
    }
    let mut readers = Reader::start_all(&fleet, kind).await.unwrap();
    let begin = futures_of(readers.iter_mut().map(async |reader| {
        reader.compare(&expected).await?;
        reader.watch(&expected).await
    }));
    begin.await.unwrap();

    fleet.database.wipe().await;
    see_everything_again(&fleet, kind, &mut readers, &expected).await;
    // The process goes, and everything with it; meanwhile a flag changes.
    fleet.database.kill();
    expected.changed.insert(CHANGED_LATER);
    for index in 0..environments {
        let changed = changed_flag(index, CHANGED_LATER, 1);
        fleet.launchdarkly.upsert_flag(&environment_id(index), changed).unwrap();
    }
    relay
        .wait_for_status("the relay notices", |status| {
            let stores = status["environments"].as_object().unwrap().values();
            stores.into_iter().all(|it| it["dataStoreStatus"]["state"] == "INTERRUPTED")
        })
        .await;
    fleet.database.restart().await;
    fleet.database.create_table().await;
    see_everything_again(&fleet, kind, &mut readers, &expected).await;
    for reader in readers {
        reader.sdk.quit().await.unwrap();
    }
}

/// Waits until the database is whole; then the same SDKs give everything, and go on doing so.
async fn see_everything_again(
    fleet: &Fleet,
    kind: Kind,
    readers: &mut [Reader],
    expected: &Expected,
) {
    for reader in &*readers {
        wait_until_complete(fleet, kind, reader.environment).await;
    }
    let again = futures_of(readers.iter_mut().map(async |reader| {
        reader.sees(expected).await?;
        reader.watches_on().await
    }));
    again.await.unwrap();
}

/// A member of a segment gets what the rule for it says, and what depends on that.
async fn tells_members_apart(reader: &mut Reader) -> anyhow::Result<()> {
    let member = segment(reader.environment, 0)["included"][0].clone();
    gives_to(reader, &member, FOR_MEMBERS, "RULE_MATCH").await;
    gives_to(reader, &member, FOR_MEMBERS_TOO, "RULE_MATCH").await;
    gives_to(reader, &member, DEPENDENT, "PREREQUISITE_FAILED").await;
    gives_to(reader, &json!("newcomer"), FOR_MEMBERS, "FALLTHROUGH").await;
    Ok(())
}

/// Waits until a user of that key gets a flag's value for that reason.
async fn gives_to(reader: &mut Reader, user: &Value, flag: usize, reason: &str) {
    let context = json!({"kind": "user", "key": user, "country": "se"});
    let usual = expected_value(reader.environment, flag);
    let what = format!("flag {flag} gives {reason} to {user}");
    eventually(&what, async || {
        let given = reader.sdk.eval_for(&flag_key(flag), "none", context.clone()).await;
        let given = given.map_err(|error| format!("{error:#}"))?;
        let is_usual = given.value == usual;
        if given.reason.kind == reason && is_usual == (reason == "FALLTHROUGH") {
            Ok(())
        } else {
            Err(format!("{given:?}"))
        }
    })
    .await;
}
