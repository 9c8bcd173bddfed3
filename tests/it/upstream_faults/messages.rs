//! Order of messages, what is unknown in them, and the forms in which lines may come.

use std::sync::atomic::{AtomicU64, Ordering};

use pilotlight::testing::demo::fake_launchdarkly::{Fault, StreamSelector};
use pilotlight::testing::demo::stream_client::{StreamClient, StreamEvent};
use serde_json::{Value, json};

use super::on_flags;
use pilotlight_test_kit::relay::next_event;
use pilotlight_test_kit::scene::{Scene, environment, events_until, flags, load, sdk};

fn patch(scene: &Scene, path: &str, data: &Value) {
    let message = json!({"path": path, "data": data}).to_string();
    scene.launchdarkly.push_raw(&StreamSelector::AllFlags, "patch", message.as_bytes());
}

fn delete(scene: &Scene, path: &str, version: u64) {
    let message = json!({"path": path, "version": version}).to_string();
    scene.launchdarkly.push_raw(&StreamSelector::AllFlags, "delete", message.as_bytes());
}

fn at(version: u64) -> Value {
    json!({"key": "f", "version": version})
}

/// What the client hears up to a patch that is sent now, as `name path version`.
async fn heard(scene: &Scene, client: &mut StreamClient) -> Vec<String> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let version = NEXT.fetch_add(1, Ordering::Relaxed);
    patch(scene, "/flags/marker", &json!({"key": "marker", "version": version}));
    let events =
        events_until(client, |event| event.data.starts_with(br#"{"path":"/flags/marker"#)).await;
    let shown = |event: &StreamEvent| {
        let data: Value = serde_json::from_slice(&event.data).unwrap();
        let version = data["version"].as_u64().or(data["data"]["version"].as_u64());
        format!("{} {} {}", event.name, data["path"].as_str().unwrap(), version.unwrap())
    };
    events[..events.len() - 1].iter().map(shown).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_decide_and_nothing_that_is_not_newer_is_passed_on() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    for path in ["/flags/f", "/segments/f"] {
        patch(&scene, path, &at(5));
        patch(&scene, path, &at(4));
        patch(&scene, path, &at(5));
        delete(&scene, path, 5);
        patch(&scene, path, &at(7));
        delete(&scene, path, 6);
        delete(&scene, path, 8);
        delete(&scene, path, 8);
        // Of something that is deleted.
        patch(&scene, path, &at(8));
        patch(&scene, path, &at(7));
        patch(&scene, path, &at(9));
        // A deletion in the form of a patch.
        patch(&scene, path, &json!({"key": "f", "version": 10, "deleted": true}));
        patch(&scene, path, &at(10));
        let expected = ["patch 5", "patch 7", "delete 8", "patch 9", "delete 10"]
            .map(|event| event.replace(' ', &format!(" {path} ")));
        assert_eq!(heard(&scene, &mut client).await, expected);
    }
    // Deleted before it was ever there.
    delete(&scene, "/flags/early", 3);
    patch(&scene, "/flags/early", &at(3));
    assert_eq!(heard(&scene, &mut client).await, ["delete /flags/early 3"]);
    let (_, put) = scene.stream(&sdk("e1")).await;
    assert_eq!(flags(&put), ["marker", "of-e1"]);
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_unknown_is_passed_over_without_a_new_connection() {
    let scene = Scene::healthy(&[environment("e1")]).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    let all = StreamSelector::AllFlags;
    for (event, data) in [
        ("news", "{ not even json"),
        ("indirect/put", "/"),
        ("put", r#"{"path":"/elsewhere","data":{"flags":{}}}"#),
        ("patch", r#"{"path":"/cats/tom","data":true}"#),
        ("delete", r#"{"path":"/cats/tom","version":3}"#),
        ("patch", r#"{"path":"/flags","data":{"version":1}}"#),
    ] {
        scene.launchdarkly.push_raw(&all, event, data.as_bytes());
    }
    assert!(heard(&scene, &mut client).await.is_empty());
    // Unknown collections of a put are passed over too, and members that come before the path.
    let put =
        r#"{"data":{"cats":[],"flags":{"a":{"version":2}},"segments":{}},"more":1,"path":"/"}"#;
    scene.launchdarkly.push_raw(&all, "put", put.as_bytes());
    let (name, data) = next_event(&mut client).await;
    assert_eq!((name.as_str(), flags(&data)), ("put", vec!["a"]));
    // A put without a path, as older relays send it.
    let put = r#"{"data":{"flags":{"b":{"version":2}}}}"#;
    scene.launchdarkly.push_raw(&all, "put", put.as_bytes());
    let (name, data) = next_event(&mut client).await;
    assert_eq!((name.as_str(), flags(&data)), ("put", vec!["b"]));
    assert_eq!(scene.flag_requests(&sdk("e1")), 1);
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn items_reach_clients_byte_for_byte() {
    const ODD: &str = r#"{ "future":{"x":1.0,"y":[ ],"z":1e2}, "version": 7,"key":"odd/key \u0041","é":null,
 "deleted":false}"#;
    let scene = Scene::healthy(&[environment("e1")]).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    let all = StreamSelector::AllFlags;
    let message = format!(r#"{{"data":{ODD},"path":"/flags/odd/key"}}"#);
    scene.launchdarkly.push_raw(&all, "patch", message.as_bytes());
    let event = client.next().await.unwrap().unwrap();
    let expected = format!(r#"{{"path":"/flags/odd/key","data":{ODD}}}"#);
    assert_eq!((event.name.as_str(), &event.data[..]), ("patch", expected.as_bytes()));

    let put =
        format!(r#"{{"path":"/","data":{{"segments":{{"s":{ODD}}},"flags":{{"f":{ODD}}}}}}}"#);
    scene.launchdarkly.push_raw(&all, "put", put.as_bytes());
    let event = client.next().await.unwrap().unwrap();
    let expected =
        format!(r#"{{"path":"/","data":{{"flags":{{"f":{ODD}}},"segments":{{"s":{ODD}}}}}}}"#);
    assert_eq!((event.name.as_str(), &event.data[..]), ("put", expected.as_bytes()));
    let poll = scene.relay.get_with_key("/sdk/flags/f", &sdk("e1")).await;
    assert_eq!(poll.text(), ODD);
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_may_come_in_any_form() {
    let scene = Scene::start(|launchdarkly| {
        load(launchdarkly, &environment("e1"));
        // A byte order mark, comments of all lengths, and fields that nobody knows.
        let preamble = "\u{feff}:\r\n: hello\r\n\r\nfuture: 1\nfuture\nid: 7\nevent: news\n\n";
        launchdarkly.inject(on_flags(Fault::Preamble(preamble.into())));
    });
    scene.relay.wait_until_healthy(1).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    let all = StreamSelector::AllFlags;
    let forms = [
        "event: patch\r\ndata: {\"path\":\"/flags/f\",\r\ndata: \"data\":{\"version\":1}}\r\n\r\n",
        "event: patch\rdata: {\"path\":\"/flags/f\",\"data\":{\"version\":2}}\r\r",
        "event:patch\ndata:{\"path\":\"/flags/f\",\n: in between\ndata:\"data\":{\"version\":3}}\n\n",
        "data: {\"path\":\"/flags/f\",\"data\":\ndata\ndata: {\"version\":4}}\nevent: patch\n\n",
        "event: put\nevent: patch\ndata: {\"path\":\"/flags/f\",\"data\":{\"version\":5}}\nid\n\n",
    ];
    for (version, form) in (1u64..).zip(forms) {
        if version % 2 == 1 {
            scene.launchdarkly.push_bytes(&all, form);
        } else {
            // Byte by byte.
            for byte in form.bytes() {
                scene.launchdarkly.push_bytes(&all, vec![byte]);
            }
        }
        let (name, data) = next_event(&mut client).await;
        assert_eq!(
            (name.as_str(), &data["data"]["version"]),
            ("patch", &json!(version)),
            "{form:?}"
        );
    }
    // A character whose bytes come apart.
    let text =
        "event: patch\ndata: {\"path\":\"/flags/f\",\"data\":{\"version\":6,\"n\":\"ü€😀\"}}\n\n";
    for byte in text.bytes() {
        scene.launchdarkly.push_bytes(&all, vec![byte]);
    }
    let (_, data) = next_event(&mut client).await;
    assert_eq!(data["data"]["n"], "ü€😀");
    assert_eq!(scene.flag_requests(&sdk("e1")), 1);
    scene.assert_sound();
}
