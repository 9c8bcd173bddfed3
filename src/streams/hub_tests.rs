use std::task::Waker;
use std::time::SystemTime;

use proptest::prelude::*;

use super::*;
use crate::model::{DataSet, Item, ItemKey, ItemKind, Origin};

fn snapshot(data: &DataSet) -> Arc<Snapshot> {
    Arc::new(Snapshot::new(Arc::new(data.clone()), Origin::Live, SystemTime::UNIX_EPOCH))
}

fn upsert(hub: &Hub, data: &mut DataSet, key: &ItemKey, version: u64) {
    let item = Arc::new(Item::live(version, format!("{{\"version\":{version}}}")));
    assert!(data.upsert(key, item.clone()));
    hub.change(snapshot(data), ChangeSet::one(key.clone(), item));
}

/// Everything that is ready, in short: `put` with its number of items, or the event's first line.
fn drain(subscription: &mut Subscription) -> Vec<String> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut shown = Vec::new();
    loop {
        match subscription.poll_next(&mut cx) {
            Poll::Ready(Some(Next::Whole)) => {
                shown.push(format!("put {}", subscription.whole().unwrap().data.len()));
            }
            Poll::Ready(Some(Next::Event(event))) => {
                let text = String::from_utf8(event.to_vec()).unwrap();
                shown.push(text.lines().next().unwrap().to_owned());
            }
            Poll::Ready(None) => shown.push("end".to_owned()),
            Poll::Pending => return shown,
        }
        if shown.last().is_some_and(|last| last == "end") {
            return shown;
        }
    }
}

#[test]
fn a_stream_begins_with_a_put_and_goes_on_with_changes() {
    let hub = Arc::new(Hub::default());
    let mut data = DataSet::default();
    let mut early = hub.subscribe(StreamKind::All);
    assert!(drain(&mut early).is_empty(), "nothing is served before there is data");
    hub.replace(snapshot(&data));
    assert_eq!(drain(&mut early), ["put 0"]);
    upsert(&hub, &mut data, &ItemKey::new(ItemKind::Flag, "f"), 1);
    let mut late = hub.subscribe(StreamKind::All);
    assert_eq!(drain(&mut early), ["event: patch"]);
    assert_eq!(drain(&mut late), ["put 1"], "the change is in the first put, not after it");
    hub.heartbeat();
    assert_eq!(drain(&mut late), [":"]);
    hub.confirm(snapshot(&data));
    assert!(drain(&mut late).is_empty());
    hub.close();
    assert_eq!(drain(&mut early), ["end"]);
    assert_eq!(drain(&mut hub.subscribe(StreamKind::All)), ["end"]);
    assert_eq!(hub.streams(), 2);
    drop((early, late));
    assert_eq!(hub.streams(), 0);
}

#[test]
fn flag_streams_hear_nothing_of_segments() {
    let hub = Arc::new(Hub::default());
    let mut data = DataSet::default();
    hub.replace(snapshot(&data));
    let mut flags = hub.subscribe(StreamKind::Flags);
    assert_eq!(drain(&mut flags), ["put 0"]);
    upsert(&hub, &mut data, &ItemKey::new(ItemKind::Segment, "s"), 1);
    assert!(drain(&mut flags).is_empty());
    upsert(&hub, &mut data, &ItemKey::new(ItemKind::Flag, "f"), 1);
    assert_eq!(drain(&mut flags), ["event: patch"]);
}

#[test]
fn a_client_that_fell_behind_gets_everything_again() {
    let hub = Arc::new(Hub::default());
    let mut data = DataSet::default();
    hub.replace(snapshot(&data));
    let mut slow = hub.subscribe(StreamKind::All);
    assert_eq!(drain(&mut slow), ["put 0"]);
    let key = ItemKey::new(ItemKind::Flag, "f");
    for version in 1..=RING_MAX as u64 {
        upsert(&hub, &mut data, &key, version);
    }
    assert_eq!(drain(&mut slow).len(), RING_MAX, "as much as the ring holds is sent as changes");
    for version in 1..=RING_MAX as u64 + 1 {
        upsert(&hub, &mut data, &key, 1_000 + version);
    }
    assert_eq!(drain(&mut slow), ["put 1"]);
    assert!(drain(&mut slow).is_empty());
}

#[test]
fn a_client_that_waits_for_everything_gets_comments_only() {
    let hub = Arc::new(Hub::default());
    let mut data = DataSet::default();
    hub.replace(snapshot(&data));
    let mut client = hub.subscribe(StreamKind::All);
    assert_eq!(drain(&mut client), ["put 0"]);
    let mut cx = Context::from_waker(Waker::noop());
    hub.replace(snapshot(&data));
    assert!(matches!(client.poll_next(&mut cx), Poll::Ready(Some(Next::Whole))));
    let key = ItemKey::new(ItemKind::Flag, "f");
    upsert(&hub, &mut data, &key, 1);
    hub.heartbeat();
    hub.replace(snapshot(&data));
    upsert(&hub, &mut data, &key, 2);
    let Poll::Ready(Some(Next::Event(comment))) = client.poll_next(&mut cx) else {
        panic!("a heartbeat keeps the stream alive");
    };
    assert_eq!(comment, HEARTBEAT);
    assert!(client.poll_next(&mut cx).is_pending(), "no change before the put");
    assert!(hub.lock().ring.is_empty(), "it needs none of them");
    let newest = client.whole().unwrap();
    assert_eq!(newest.data.item(&key).unwrap().version, 2);
    assert!(drain(&mut client).is_empty());
    upsert(&hub, &mut data, &key, 3);
    assert_eq!(drain(&mut client), ["event: patch"]);
}

#[test]
fn changes_are_kept_for_those_who_have_not_read_them() {
    let hub = Arc::new(Hub::default());
    let mut data = DataSet::default();
    hub.replace(snapshot(&data));
    let held = || {
        let inner = hub.lock();
        (inner.ring.len(), inner.ring_bytes)
    };
    let key = ItemKey::new(ItemKind::Segment, "s");
    let change = |data: &mut DataSet, version: u64, bytes: usize| {
        let json = format!("{{\"version\":{version},\"salt\":\"{}\"}}", "x".repeat(bytes));
        let item = Arc::new(Item::live(version, json));
        assert!(data.upsert(&key, item.clone()));
        hub.change(snapshot(data), ChangeSet::one(key.clone(), item));
    };
    change(&mut data, 1, 1_000);
    assert_eq!(held(), (0, 0), "nobody reads");
    let (mut first, mut second) =
        (hub.subscribe(StreamKind::All), hub.subscribe(StreamKind::Flags));
    assert_eq!(drain(&mut first), ["put 1"]);
    assert_eq!(drain(&mut second), ["put 1"]);
    change(&mut data, 2, 1_000);
    assert_eq!(drain(&mut first), ["event: patch"]);
    assert_eq!(held().0, 1, "one of them has not read it");
    assert!(drain(&mut second).is_empty());
    assert_eq!(held(), (0, 0));
    change(&mut data, 3, 1_000);
    drop(second);
    assert_eq!(held().0, 1);
    drop(first);
    assert_eq!(held(), (0, 0), "those who had not read it have gone");

    let mut slow = hub.subscribe(StreamKind::All);
    assert_eq!(drain(&mut slow), ["put 1"]);
    for version in 4..304 {
        change(&mut data, version, 1 << 20);
        assert!(held().1 <= RING_BYTES_MAX);
    }
    assert_eq!(drain(&mut slow), ["put 1"]);
    assert_eq!(held(), (0, 0));
    change(&mut data, 304, 2 * RING_BYTES_MAX);
    assert_eq!(drain(&mut slow), ["event: patch"], "a client that keeps up gets it as a change");
}

proptest! {
    /// Whatever the order of changes, puts and reads, a reader ends with the newest state.
    #[test]
    fn readers_end_with_the_newest_state(steps in prop::collection::vec((0u8..5, 0u8..4), 1..700)) {
        let hub = Arc::new(Hub::default());
        let mut data = DataSet::default();
        hub.replace(snapshot(&data));
        let mut readers: Vec<_> = (0..3).map(|_| (hub.subscribe(StreamKind::All), DataSet::default())).collect();
        let mut version = 0;
        let read = |(subscription, seen): &mut (Subscription, DataSet)| {
            let mut cx = Context::from_waker(Waker::noop());
            while let Poll::Ready(Some(next)) = subscription.poll_next(&mut cx) {
                match next {
                    Next::Whole => *seen = (*subscription.whole().unwrap().data).clone(),
                    Next::Event(event) => {
                        let text = String::from_utf8(event.to_vec()).unwrap();
                        let data = text.lines().nth(1).unwrap().strip_prefix("data: ").unwrap();
                        let value: serde_json::Value = serde_json::from_str(data).unwrap();
                        let key = value["path"].as_str().unwrap().strip_prefix("/flags/").unwrap();
                        let version = value["data"]["version"].as_u64().unwrap();
                        let item = Item::live(version, value["data"].to_string());
                        seen.upsert(&ItemKey::new(ItemKind::Flag, key), Arc::new(item));
                    }
                }
            }
        };
        for (action, which) in steps {
            version += 1;
            match action {
                0 => {
                    data = DataSet::default();
                    hub.replace(snapshot(&data));
                }
                4 => read(&mut readers[which as usize % 3]),
                _ => upsert(&hub, &mut data, &ItemKey::new(ItemKind::Flag, format!("f{which}")), version),
            }
        }
        for reader in &mut readers {
            read(reader);
            prop_assert_eq!(&reader.1, &data);
        }
        prop_assert!(hub.lock().ring.is_empty());
    }
}
