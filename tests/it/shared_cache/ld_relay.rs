//! ld-relay's own cache: its rows are composed and opened here by hand, with the cryptography that
//! ld-relay documents in its code, not with the relay's.

use aes_gcm::aead::{Aead, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};
use hkdf::Hkdf;
use pilotlight::testing::demo::composed_data::{environment_id, sdk_key};
use pilotlight::testing::demo::representations::{EnvironmentRep, ExpiringKeyRep, KeyRep};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use pilotlight_test_kit::cache_database::{Kind, Rows};
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::fleet::{
    CACHE_KEY, Fleet, KEY, OFTEN, SEALED, assert_later, shared, wait_for_shared,
};

/// ld-relay knows no Consul.
macro_rules! on_ld_relays_databases {
    ($($test:ident),+ $(,)?) => {
        on_every_database! { @kind redis Redis $($test)+ }
        on_every_database! { @kind dynamodb DynamoDb $($test)+ }
    };
}

on_ld_relays_databases!(
    a_cache_that_ld_relay_left_is_adopted,
    rows_for_a_mixed_fleet_are_exactly_ld_relays,
    the_two_formats_stand_side_by_side,
);

#[derive(Clone, Copy)]
enum Derivation {
    Hkdf,
    /// Of early drafts.
    PlainSha256,
}

fn cipher(key: &str, derivation: Derivation) -> Aes256Gcm {
    let mut derived = [0; 32];
    match derivation {
        Derivation::Hkdf => Hkdf::<Sha256>::new(None, key.as_bytes())
            .expand(b"ld-relay autoconfig cache", &mut derived)
            .unwrap(),
        Derivation::PlainSha256 => derived.copy_from_slice(&Sha256::digest(key.as_bytes())),
    }
    Aes256Gcm::new_from_slice(&derived).unwrap()
}

fn seal(key: &str, derivation: Derivation, plaintext: &str) -> Vec<u8> {
    let mut nonce = [0; 12];
    fastrand::fill(&mut nonce);
    let sealed = cipher(key, derivation).encrypt(&Nonce::from(nonce), plaintext.as_bytes());
    [&nonce[..], &sealed.unwrap()].concat()
}

fn open(key: &str, value: &[u8]) -> String {
    let (nonce, sealed) = value.split_at(12);
    let nonce = Nonce::try_from(nonce).unwrap();
    String::from_utf8(cipher(key, Derivation::Hkdf).decrypt(&nonce, sealed).unwrap()).unwrap()
}

fn opened(rows: &Rows, key: &str) -> Vec<(String, String)> {
    rows.iter().map(|(name, value)| (name.clone(), open(key, value))).collect()
}

fn envelope(model_version: i64, data: &impl serde::Serialize) -> String {
    let data = serde_json::to_string(data).unwrap();
    format!(r#"{{"kind":"environment","modelVersion":{model_version},"data":{data}}}"#)
}

async fn a_cache_that_ld_relay_left_is_adopted(kind: Kind) {
    let fleet = Fleet::on(kind, 4, 5).await;
    let rep = |index| fleet.launchdarkly.environment(&environment_id(index)).unwrap();
    // Before concurrent keys.
    let old = |index| EnvironmentRep { sdk_keys: vec![], mobile_keys: vec![], ..rep(index) };
    let concurrent = EnvironmentRep {
        sdk_keys: vec![
            KeyRep::permanent("default", sdk_key(2)),
            KeyRep::permanent("batch", "sdk-concurrent"),
            KeyRep::expiring("gone", "sdk-expired", 1_000),
        ],
        ..rep(2)
    };
    let name = |index| format!("env:{}", environment_id(index));
    let filter = r#"{"kind":"filter","modelVersion":2,"data":{"projKey":"pilot-project","key":"small","version":7}}"#;
    let unknown = r#"{"kind":"segmentation","modelVersion":2,"data":{"envID":"x"}}"#;
    let hkdf = |text: &str| seal(KEY, Derivation::Hkdf, text);
    let rows = [
        (name(0), hkdf(&envelope(1, &old(0)))),
        (name(1), seal(KEY, Derivation::PlainSha256, &envelope(2, &rep(1)))),
        (name(2), hkdf(&envelope(2, &concurrent))),
        ("filter:small".to_owned(), hkdf(filter)),
        // None of these can be used: from the future, of an unknown kind, not JSON, filed under
        // another ID; under another key, too short, junk.
        (name(3), hkdf(&envelope(3, &rep(3)))),
        ("segmentation:x".to_owned(), hkdf(unknown)),
        ("env:text".to_owned(), hkdf("text")),
        ("env:other".to_owned(), hkdf(&envelope(2, &rep(3)))),
        ("env:foreign".to_owned(), seal("another key", Derivation::Hkdf, &envelope(2, &rep(3)))),
        ("env:short".to_owned(), vec![1; 5]),
        ("env:junk".to_owned(), vec![7; 100]),
    ];
    for (name, value) in &rows {
        fleet.database.put(CACHE_KEY, name, value).await;
    }
    let left = fleet.database.rows(CACHE_KEY).await;
    fleet.launchdarkly.stop().await;
    let relay = fleet.new_relay(OFTEN).start().unwrap();
    let status = wait_for_shared(&relay, "loaded").await;
    let tier = shared(&status);
    assert_eq!(
        tier["skipped"],
        json!({"unknownKey": 3, "altered": 0, "undecodable": 4, "rolledBack": 0})
    );
    assert_eq!((&tier["complete"], &tier["records"]), (&json!(false), &json!(4)));
    relay.wait_for_log("records of the autoconfig cache cannot be used").await;
    relay.wait_for_log("adopting environments that ld-relay left").await;
    assert_eq!(tier["ageSeconds"], Value::Null, "nobody knows how old they are");
    // Three environments, each seen also through the filter.
    let status = relay
        .wait_for_status("the environments are known", |status| {
            status["environments"].as_object().unwrap().len() == 6
        })
        .await;
    let keys = &status["environments"][environment_id(2)]["sdkKeys"];
    assert_eq!(keys.as_array().unwrap().len(), 2, "{keys}");
    for key in [sdk_key(0), sdk_key(1), sdk_key(3), "sdk-expired".to_owned()] {
        assert_later(&relay.get_with_key("/all", &key).await);
    }
    assert_eq!(fleet.database.rows(CACHE_KEY).await, left);
    assert_eq!(fleet.rows().await.len(), 0, "nothing cached is written back");

    // A key that only the cache tells of opens its environment as soon as there are flags.
    let hang = pilotlight::testing::demo::fake_launchdarkly::Fault::Hang;
    let scope = pilotlight::testing::demo::fake_launchdarkly::FaultScope::Autoconfig;
    fleet
        .launchdarkly
        .inject(pilotlight::testing::demo::fake_launchdarkly::FaultRule::new(scope, hang));
    fleet.launchdarkly.start().unwrap();
    relay.stream_with_put("/all", "sdk-concurrent").await;
    assert_later(&relay.get_with_key("/all", "sdk-expired").await);
    fleet.launchdarkly.clear_faults();
    fleet.launchdarkly.cut_connections();
    fleet.wait_until_whole().await;
    assert_eq!(fleet.database.rows(CACHE_KEY).await, left, "ld-relay's rows stay ld-relay's");
    // From here on our own rows count.
    relay.kill().await.unwrap();
    fleet.launchdarkly.stop().await;
    let relay = fleet.new_relay(OFTEN).start().unwrap();
    let status = wait_for_shared(&relay, "loaded").await;
    assert_eq!(
        (&shared(&status)["complete"], &shared(&status)["records"]),
        (&json!(true), &json!(4))
    );
    assert_eq!(shared(&status)["skipped"]["unknownKey"], 0);
}

async fn rows_for_a_mixed_fleet_are_exactly_ld_relays(kind: Kind) {
    let fleet = Fleet::on(kind, 0, 0).await;
    let later = 4_102_444_800_000;
    let mut rep = EnvironmentRep {
        env_id: "5f00a1b2c3d4e5f6a7b8c9d0".to_owned(),
        env_key: "prod".to_owned(),
        env_name: "Prod <b>&\"quoted\"\u{2028}ключ\\\t".to_owned(),
        mob_key: "mob-a".to_owned(),
        proj_key: "web".to_owned(),
        proj_name: "Web".to_owned(),
        default_ttl: 5,
        secure_mode: true,
        version: 12,
        ..EnvironmentRep::default()
    };
    rep.sdk_key.value = "sdk-a".to_owned();
    rep.sdk_keys = vec![
        KeyRep::permanent("default", "sdk-a"),
        KeyRep::expiring("batch", "sdk-b", later),
        KeyRep { has_views: true, ..KeyRep::permanent("views", "sdk-c") },
    ];
    rep.mobile_keys = vec![KeyRep::permanent("default", "mob-a")];
    let mut plain = EnvironmentRep::simple("5f00a1b2c3d4e5f6a7b8c9d1", "sdk-d", "");
    plain.sdk_key.expiring = ExpiringKeyRep { value: "sdk-e".to_owned(), timestamp: later };
    plain.version = 3;
    fleet.launchdarkly.upsert_environment(rep.clone());
    fleet.launchdarkly.upsert_environment(plain.clone());
    let disk = TempDir::new().unwrap();
    let settings = fleet.relay(&disk, OFTEN).with("AUTO_CONFIG_CACHE_FORMAT", "ld-relay");
    let relay = settings.start().unwrap();
    relay.wait_until_healthy(2).await;

    let first = concat!(
        r#"{"kind":"environment","modelVersion":2,"data":{"envID":"5f00a1b2c3d4e5f6a7b8c9d0","#,
        r#""envKey":"prod","envName":"Prod \u003cb\u003e\u0026\"quoted\"\u2028ключ\\\t","#,
        r#""mobKey":"mob-a","projKey":"web","projName":"Web","#,
        r#""sdkKey":{"value":"sdk-a","expiring":{"value":"","timestamp":0}},"#,
        r#""sdkKeys":[{"key":"default","value":"sdk-a","hasViews":false},"#,
        r#"{"key":"batch","value":"sdk-b","expiry":4102444800000,"hasViews":false},"#,
        r#"{"key":"views","value":"sdk-c","hasViews":true}],"#,
        r#""mobileKeys":[{"key":"default","value":"mob-a","hasViews":false}],"#,
        r#""defaultTtl":5,"secureMode":true,"version":12}}"#,
    );
    let second = concat!(
        r#"{"kind":"environment","modelVersion":2,"data":{"envID":"5f00a1b2c3d4e5f6a7b8c9d1","#,
        r#""envKey":"5f00a1b2c3d4e5f6a7b8c9d1","envName":"5f00a1b2c3d4e5f6a7b8c9d1","#,
        r#""mobKey":"","projKey":"project","projName":"Project","#,
        r#""sdkKey":{"value":"sdk-d","expiring":{"value":"sdk-e","timestamp":4102444800000}},"#,
        r#""defaultTtl":0,"secureMode":false,"version":3}}"#,
    );
    let expected = [
        ("env:5f00a1b2c3d4e5f6a7b8c9d0".to_owned(), first.to_owned()),
        ("env:5f00a1b2c3d4e5f6a7b8c9d1".to_owned(), second.to_owned()),
    ];
    eventually("the rows stand", async || {
        let rows = fleet.database.rows(CACHE_KEY).await;
        if rows.len() == 2 { Ok(()) } else { Err(format!("{rows:?}\n{}", relay.log())) }
    })
    .await;
    assert_eq!(opened(&fleet.database.rows(CACHE_KEY).await, KEY), expected);
    eventually("the manifest stands", async || match fleet.rows().await.len() {
        1 => Ok(()),
        other => Err(other),
    })
    .await;

    // A change is one row; what is lost comes back; a filter is a row like the others.
    relay.wait_until_stored().await;
    let before = fleet.database.rows(CACHE_KEY).await;
    fleet.launchdarkly.delete_environment(&plain.env_id);
    let rep = pilotlight::testing::demo::representations::FilterRep {
        proj_key: "web".to_owned(),
        key: "small".to_owned(),
        version: 0,
    };
    let version = fleet.launchdarkly.upsert_filter("web.small", rep);
    eventually("the changes are there", async || {
        let rows = fleet.database.rows(CACHE_KEY).await;
        let names: Vec<_> = rows.keys().map(String::as_str).collect();
        if names == ["env:5f00a1b2c3d4e5f6a7b8c9d0", "filter:web.small"] {
            Ok(())
        } else {
            Err(format!("{names:?}"))
        }
    })
    .await;
    let after = fleet.database.rows(CACHE_KEY).await;
    assert_eq!(after["env:5f00a1b2c3d4e5f6a7b8c9d0"], before["env:5f00a1b2c3d4e5f6a7b8c9d0"]);
    let expected = format!(
        r#"{{"kind":"filter","modelVersion":2,"data":{{"projKey":"web","key":"small","version":{version}}}}}"#
    );
    assert_eq!(open(KEY, &after["filter:web.small"]), expected);
    fleet.database.wipe().await;
    eventually("what is lost comes back, the manifest last", async || {
        let rows = (fleet.database.rows(CACHE_KEY).await.len(), fleet.rows().await.len());
        if rows == (2, 1) { Ok(()) } else { Err(format!("{rows:?}")) }
    })
    .await;
    let status = relay.status().await;
    assert_eq!(shared(&status)["state"], "loaded");

    relay.kill().await.unwrap();
    fleet.launchdarkly.stop().await;
    let settings = fleet.new_relay(OFTEN);
    let relay = settings.with("AUTO_CONFIG_CACHE_FORMAT", "ld-relay").start().unwrap();
    let status = wait_for_shared(&relay, "loaded").await;
    assert_eq!(shared(&status)["complete"], true, "the manifest among our own rows tells");
    assert!(shared(&status)["writtenAt"].is_u64());
    assert_later(&relay.get_with_key("/all", "sdk-of-nobody").await);
}

async fn the_two_formats_stand_side_by_side(kind: Kind) {
    let fleet = Fleet::on(kind, 3, 1).await;
    let ours = fleet.filled_by(&fleet.new_relay(OFTEN)).await;
    let settings = fleet.new_relay(OFTEN);
    let mixed = settings.with("AUTO_CONFIG_CACHE_FORMAT", "ld-relay").start().unwrap();
    let names = |rows: Rows| rows.into_keys().collect::<Vec<_>>();
    let expected: Vec<String> = {
        let mut ids: Vec<_> =
            (0..3).map(|index| format!("env:{}", environment_id(index))).collect();
        ids.sort();
        ids
    };
    eventually("both stand", async || {
        let found = names(fleet.database.rows(CACHE_KEY).await);
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    // Rows of a Pilotlight with its own format, seen by one that writes ld-relay's, and the other
    // way round; each removes only what is its own.
    let gone = format!("env:{}", environment_id(1));
    fleet.launchdarkly.delete_environment(&environment_id(1));
    fleet.wait_until_whole().await;
    eventually("removed from both", async || {
        let found = names(fleet.database.rows(CACHE_KEY).await);
        if found.len() == 2 && !found.contains(&gone) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
    eventually("so does the manifest of ld-relay's rows", async || {
        match fleet.rows().await.len() {
            4 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    for relay in [&ours, &mixed] {
        // A manifest is written after the rows.
        relay.wait_until_stored().await;
    }
    let sealed = fleet.rows().await;
    for relay in [&ours, &mixed] {
        let before = shared(&relay.status().await)["lastWrite"].as_u64().unwrap();
        relay
            .wait_for_status("it looked again", |status| {
                shared(status)["lastWrite"].as_u64().unwrap() > before + 3_000
            })
            .await;
    }
    assert!(fleet.rows().await == sealed, "no row is written anew");
    assert_eq!(fleet.database.rows(SEALED).await.len(), 2 + 1 + 1);
    assert_eq!(fleet.database.rows(CACHE_KEY).await.len(), 2);
}
