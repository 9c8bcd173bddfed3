//! The log as machines read it: one record a line, each member once, nothing forged.

use pilotlight::testing::demo::composed_data::{environment, sdk_key};
use pilotlight::testing::demo::fake_launchdarkly::{FakeLaunchDarkly, FakeSettings};
use pilotlight::testing::demo::representations::EnvironmentRep;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use tempfile::TempDir;

use pilotlight_test_kit::relay::RelaySettings;

/// JSON of which no object has two members of one name.
struct Unambiguous;

impl<'de> serde::Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = ();
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("JSON")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
                let mut names = std::collections::BTreeSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    map.next_value::<Unambiguous>()?;
                    if names.contains(&name) {
                        return Err(serde::de::Error::custom(format!("two members {name:?}")));
                    }
                    names.insert(name);
                }
                Ok(())
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
                while seq.next_element::<Unambiguous>()?.is_some() {}
                Ok(())
            }
            fn visit_str<E>(self, _: &str) -> Result<(), E> {
                Ok(())
            }
            fn visit_bool<E>(self, _: bool) -> Result<(), E> {
                Ok(())
            }
            fn visit_u64<E>(self, _: u64) -> Result<(), E> {
                Ok(())
            }
            fn visit_i64<E>(self, _: i64) -> Result<(), E> {
                Ok(())
            }
            fn visit_f64<E>(self, _: f64) -> Result<(), E> {
                Ok(())
            }
            fn visit_unit<E>(self) -> Result<(), E> {
                Ok(())
            }
        }
        deserializer.deserialize_any(Members).map(|()| Self)
    }
}

/// A service with an environment whose ID and name would forge a record.
fn launchdarkly() -> FakeLaunchDarkly {
    let launchdarkly = FakeLaunchDarkly::launch(&FakeSettings::default()).unwrap();
    let id = "e1\n2026-01-01T00:00:00Z ERROR forged\u{1b}[31m";
    launchdarkly.upsert_environment(EnvironmentRep::simple(id, "sdk-one", "mob-one"));
    // And a good one, so that a list is stored.
    launchdarkly.load(&environment(0, 5));
    launchdarkly
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_one_line_each_in_both_formats() {
    for format in ["text", "json"] {
        let (launchdarkly, store) = (launchdarkly(), TempDir::new().unwrap());
        let key = FakeSettings::default().autoconfig_key;
        let settings = RelaySettings::autoconfig(&launchdarkly, &key, store.path());
        let settings = settings.with("LOG_FORMAT", format).with("LOG_LEVEL", "debug");
        let mut relay = settings.start().unwrap();
        relay.wait_for_log("forged").await;
        relay.stream_with_put("/all", &sdk_key(0)).await;
        relay.wait_until_stored().await;
        // Failures bring durations and error texts into the log, the next start brings times.
        launchdarkly.stop().await;
        relay.wait_for_log("upstream stream failed").await;
        relay.signal("TERM").unwrap();
        relay.ended().await.unwrap();
        let first = relay.log();
        let relay = settings.start().unwrap();
        relay.wait_for_log("until LaunchDarkly answers").await;
        let log = first + &relay.log();
        for line in log.lines() {
            assert!(!line.contains('\u{1b}'), "{line:?}");
            if format == "json" {
                serde_json::from_str::<Unambiguous>(line)
                    .unwrap_or_else(|error| panic!("{error}: {line}"));
                let record: Value = serde_json::from_str(line).unwrap();
                assert!(record["message"].is_string(), "{line}");
                for debug in ["SystemTime", "tv_sec", "Some("] {
                    assert!(!line.contains(debug), "{line}");
                }
            } else {
                // A record begins with its time; a forged one would begin with ours.
                assert!(!line.starts_with("2026-01-01"), "{line:?}");
            }
        }
    }
}
