//! Puts that break off, drip, make no sense, are huge, or are empty.

use std::sync::Arc;

use bytes::Bytes;
use pilotlight::testing::demo::fake_launchdarkly::{Fault, StreamSelector};
use pilotlight::testing::demo::stream_client::StreamClient;
use pilotlight::testing::model::{DataSet, Item, ItemKey, ItemKind};
use serde_json::{Value, json};

use super::on_flags;
use pilotlight_test_kit::eventually;
use pilotlight_test_kit::relay::next_event;
use pilotlight_test_kit::scene::{Scene, environment, events_until, flag, flags, load, sdk};

async fn wait_for_invalid_data(scene: &Scene) -> Value {
    let status = scene
        .relay
        .wait_for_status("invalid data shows", |status| {
            status["environments"]["e1"]["connectionStatus"]["lastError"]["kind"] == "INVALID_DATA"
        })
        .await;
    status["environments"]["e1"]["connectionStatus"].clone()
}

fn set_of(count: usize, version: u64) -> DataSet {
    let mut set = DataSet::default();
    for index in 0..count {
        let mut flag = flag(&format!("flag-{index:04}"));
        flag["version"] = version.into();
        let key = ItemKey::new(ItemKind::Flag, format!("flag-{index:04}"));
        set.upsert(&key, Arc::new(Item::live(version, flag.to_string())));
    }
    set
}

/// The connection begins with a put that cannot be used: it is opened again, and what was served
/// before is what is served.
async fn check_put(data: impl Into<Bytes>) {
    let data = data.into();
    let shown = String::from_utf8_lossy(&data[..data.len().min(80)]).into_owned();
    let scene = Scene::healthy(&[environment("e1")]).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    scene.launchdarkly.inject(on_flags(Fault::PutData(data)));
    scene.launchdarkly.cut_streams(&StreamSelector::AllFlags);
    let status = wait_for_invalid_data(&scene).await;
    assert_eq!(status["state"], "INTERRUPTED", "{shown}");
    let (_, put) = scene.stream(&sdk("e1")).await;
    assert_eq!(flags(&put), ["of-e1"], "{shown}");
    scene.launchdarkly.clear_faults();
    scene.wait_for_connection("e1", "VALID").await;
    // The put of the next good connection said nothing new, so the patch comes first.
    scene.expect_patch("e1", &mut client).await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_is_no_json_is_left_out() {
    check_put(r#"{"path":"/","data":{"flags":{"a":{"key":"#).await;
    check_put("").await;
    check_put("surprise").await;
    check_put(&b"{\"path\":\"/\",\"data\":{\"flags\":{\"a\":{\"key\":\"\xff\xfe\"}}}}"[..]).await;
    check_put(format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000))).await;
    let deep = format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    check_put(format!(r#"{{"path":"/","data":{{"flags":{{"f":{deep}}}}}}}"#)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_of_another_shape_is_left_out_as_a_whole() {
    check_put(r#"{"path":"/","data":true}"#).await;
    check_put(r#"{"path":"/","data":{"flags":true,"segments":{}}}"#).await;
    check_put(r#"{"path":"/"}"#).await;
    check_put(r#"[]"#).await;
    // One item that cannot be read among good ones.
    check_put(r#"{"path":"/","data":{"flags":{"a":{"key":"a","version":1},"b":7}}}"#).await;
    check_put(r#"{"path":"/","data":{"flags":{"a":{"key":"a","version":"one"}}}}"#).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_cannot_be_used_are_left_out() {
    let cases: [(&str, &[u8]); 6] = [
        ("patch", b"{\"path\":\"/flags/a\",\"data\":"),
        ("patch", b"{\"path\":\"/flags/a\"}"),
        ("patch", b"{\"path\":\"\",\"data\":{\"version\":1}}"),
        ("patch", b"{\"data\":{\"version\":1}}"),
        ("delete", b"{\"path\":\"/flags/of-e1\"}"),
        ("delete", b"\xff"),
    ];
    for (event, data) in cases {
        let shown = String::from_utf8_lossy(data);
        let scene = Scene::healthy(&[environment("e1")]).await;
        let (mut client, _) = scene.stream(&sdk("e1")).await;
        scene.launchdarkly.push_raw(&StreamSelector::AllFlags, event, data);
        // What comes over the same connection after it does not count any more.
        let late = br#"{"path":"/flags/late","data":{"key":"late","version":1}}"#;
        scene.launchdarkly.push_raw(&StreamSelector::AllFlags, "patch", late);
        wait_for_invalid_data(&scene).await;
        scene.wait_for_flag_requests(&sdk("e1"), 2).await;
        scene.wait_for_connection("e1", "VALID").await;
        scene.expect_patch("e1", &mut client).await;
        let (_, put) = scene.stream(&sdk("e1")).await;
        assert_eq!(flags(&put), ["of-e1", "ticker"], "{event} {shown}");
        scene.assert_sound();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_without_end_is_bounded() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    let line = format!("event: {}", "x".repeat(100_000));
    scene.launchdarkly.push_bytes(&StreamSelector::AllFlags, line);
    wait_for_invalid_data(&scene).await;
    scene.wait_for_connection("e1", "VALID").await;
    scene.expect_patch("e1", &mut client).await;
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_put_that_breaks_off_nothing_shows() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    scene.launchdarkly.replace_data("e1", set_of(500, 1));
    let (mut client, _) = events_after_put(&scene).await;
    // Twice in the middle of 100 KB, at different places.
    scene.launchdarkly.inject(on_flags(Fault::CutAfter { bytes: 30_000 }).times(1));
    scene.launchdarkly.inject(on_flags(Fault::CutAfter { bytes: 90_000 }).times(1));
    scene.launchdarkly.cut_streams(&StreamSelector::AllFlags);
    scene.launchdarkly.replace_data("e1", set_of(500, 2));
    scene.wait_for_flag_requests(&sdk("e1"), 3).await;
    let (_, put) = scene.stream(&sdk("e1")).await;
    let versions = |put: &Value| {
        let flags = put["data"]["flags"].as_object().unwrap();
        let mut versions: Vec<_> = flags.values().map(|flag| flag["version"].clone()).collect();
        versions.dedup();
        (flags.len(), versions)
    };
    let (count, found) = versions(&put);
    assert!(count == 500 && found.len() == 1, "{count} {found:?}");
    let (name, put) = next_event(&mut client).await;
    assert_eq!((name.as_str(), versions(&put)), ("put", (500, vec![json!(2)])));
    scene.wait_for_connection("e1", "VALID").await;
    assert_eq!(scene.flag_requests(&sdk("e1")), 4);
    scene.assert_sound();
}

/// A client whose first put holds all 500 flags.
async fn events_after_put(scene: &Scene) -> (StreamClient, Value) {
    eventually("500 flags are served", async || {
        let (client, put) = scene.stream(&sdk("e1")).await;
        if flags(&put).len() == 500 { Ok((client, put)) } else { Err(flags(&put).len()) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_may_come_drop_by_drop() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    scene.launchdarkly.replace_data("e1", set_of(100, 1));
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    // Some twenty kilobytes within three seconds.
    let drip = scene.launchdarkly.inject(on_flags(Fault::slow_drip(8_000)));
    scene.launchdarkly.cut_streams(&StreamSelector::AllFlags);
    scene.launchdarkly.replace_data("e1", set_of(100, 2));
    scene.wait_for_flag_requests(&sdk("e1"), 2).await;
    let events = events_until(&mut client, |event| {
        event.name == "put" && event.data.windows(11).any(|w| w == br#""version":2"#)
    })
    .await;
    let put: Value = serde_json::from_slice(&events[events.len() - 1].data).unwrap();
    assert!(flags(&put).len() == 100);
    assert!(put["data"]["flags"].as_object().unwrap().values().all(|f| f["version"] == 2));
    scene.launchdarkly.clear_fault(drip);
    assert_eq!(scene.flag_requests(&sdk("e1")), 2, "slow is not dead");
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_put_is_applied_and_told_loudly() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    // Segments alone are of no use to anybody.
    let mut segments = DataSet::default();
    let segment = Item::live(1, r#"{"key":"s","version":1}"#);
    segments.upsert(&ItemKey::new(ItemKind::Segment, "s"), Arc::new(segment));
    scene.launchdarkly.replace_data("e1", segments);
    let (name, put) = next_event(&mut client).await;
    assert_eq!((name.as_str(), &put["data"]["flags"]), ("put", &json!({})));
    let log = scene.relay.log();
    let loud = log.lines().find(|line| line.contains("a data set without flags"));
    assert!(loud.is_some_and(|line| line.contains("ERROR")), "{log}");
    scene.launchdarkly.replace_data("e1", DataSet::default());
    let (name, put) = next_event(&mut client).await;
    assert_eq!((name.as_str(), &put["data"]), ("put", &json!({"flags": {}, "segments": {}})));
    assert_eq!(scene.code(&sdk("e1")).await, 200, "empty is a complete data set");
    load(&scene.launchdarkly, &environment("e1"));
    let (name, _) = next_event(&mut client).await;
    assert_eq!(name, "patch");
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_with_older_versions_wins() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    scene.launchdarkly.replace_data("e1", set_of(3, 9));
    let (mut client, put) = eventually("three flags are served", async || {
        let (client, put) = scene.stream(&sdk("e1")).await;
        if flags(&put).len() == 3 { Ok((client, put)) } else { Err(put.to_string()) }
    })
    .await;
    assert_eq!(put["data"]["flags"]["flag-0001"]["version"], 9);
    scene.launchdarkly.replace_data("e1", set_of(2, 4));
    let (name, put) = next_event(&mut client).await;
    assert_eq!((name.as_str(), flags(&put)), ("put", vec!["flag-0000", "flag-0001"]));
    assert_eq!(put["data"]["flags"]["flag-0001"]["version"], 4);
    // From here on versions count from these.
    let patch = br#"{"path":"/flags/flag-0001","data":{"key":"flag-0001","version":5}}"#;
    scene.launchdarkly.push_raw(&StreamSelector::AllFlags, "patch", patch);
    let (name, data) = next_event(&mut client).await;
    assert_eq!((name.as_str(), &data["data"]["version"]), ("patch", &json!(5)));
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_puts_take_bounded_memory() {
    /// Size of one put.
    const MEGABYTES: usize = 20;
    let scene = Scene::healthy(&[environment("e1")]).await;
    let huge = |version: u64| {
        let padding = "p".repeat(100 * 1024);
        let mut set = DataSet::default();
        for index in 0..MEGABYTES * 10 {
            let key = ItemKey::new(ItemKind::Flag, format!("huge-{index:04}"));
            let json =
                format!(r#"{{"key":"huge-{index:04}","version":{version},"padding":"{padding}"}}"#);
            set.upsert(&key, Arc::new(Item::live(version, json)));
        }
        set
    };
    let mut peaks = Vec::new();
    for version in 1..=4 {
        scene.launchdarkly.replace_data("e1", huge(version));
        let path = "/sdk/flags/huge-0199";
        eventually("the put is served", async || {
            let response = scene.relay.get_with_key(path, &sdk("e1")).await;
            let found = response.header("etag") == Some(&format!("W/\"{version}\""));
            if found { Ok(()) } else { Err(response.status.to_string()) }
        })
        .await;
        scene.relay.wait_until_stored().await;
        peaks.push(scene.relay.peak_megabytes());
    }
    let (_, put) = scene.stream(&sdk("e1")).await;
    assert_eq!(flags(&put).len(), MEGABYTES * 10);
    peaks.push(scene.relay.peak_megabytes());
    // What is read, what is served, its encoding, and what is on its way to the disk.
    assert!(peaks[4] < 10 * MEGABYTES, "{peaks:?}");
    // It does not grow from put to put.
    assert!(peaks[3] < peaks[1] + 2 * MEGABYTES, "{peaks:?}");
    scene.assert_sound();
}
