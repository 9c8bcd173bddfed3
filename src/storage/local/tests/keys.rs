//! Keys that are unknown, old, exchanged.

use super::*;

#[tokio::test]
async fn a_set_under_unknown_keys_is_told_apart_and_goes_with_the_next_put() {
    let place = Place::new();
    let store = place.open(&["lost"]);
    put(&store, "set", &Items::numbered(20, 1)).await;
    put(&store, "other", &Items::numbered(20, 1)).await;
    assert!(store.close(LONG).await);

    let store = place.open(&["key"]);
    let lost = SealingKey::derive("lost").id();
    assert_eq!(read(&store, "set").0, SetRead::Unreadable { keys: vec![lost] });
    assert_eq!(read(&store, "never").0, SetRead::Absent);
    assert_eq!(store.status().skipped.unknown_key, 1);
    // A change is not authority enough to throw away what may be newer.
    let items = Items::numbered(20, 2);
    change(&store, "set", &items, &[1]).await;
    assert_eq!(complete(&store, "set"), items);
    let lost_parts = |store| parts(store).keys().filter(|key| names::owner_of(key) == lost).count();
    assert_eq!(lost_parts(&store), 4);
    put(&store, "set", &items).await;
    assert_eq!(lost_parts(&store), 2, "those of the other set");
    assert_eq!(complete(&store, "set"), items);
}

#[tokio::test]
async fn the_newest_of_several_keys_counts() {
    let place = Place::new();
    let store = place.open(&["a"]);
    let old = Items::numbered(20, 1);
    put(&store, "set", &old).await;
    put(&store, "set", &old).await;
    assert!(store.close(LONG).await);
    let store = place.open(&["b"]);
    let new = Items::numbered(20, 2);
    change(&store, "set", &new, &[]).await;
    assert!(store.close(LONG).await);
    for secrets in [["a", "b"], ["b", "a"]] {
        let store = place.open(&secrets);
        assert_eq!(complete(&store, "set"), new);
        assert!(store.close(LONG).await);
    }
}

/// Waits until everything in the file is sealed under a key. The status may still be that of the
/// former keys, so the file itself is asked.
async fn resealed(store: &LocalStore, key: &str) {
    let id = SealingKey::derive(key).id();
    let work = async {
        while !parts(store).keys().all(|part| names::owner_of(part) == id) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, work).await.expect("everything is sealed anew");
}

#[tokio::test]
async fn old_keys_open_and_what_they_sealed_is_sealed_anew() {
    let mut place = Place::new();
    let store = place.open(&["old"]);
    let items = Items::numbered(100, 1);
    for id in ["a", "b", "c"] {
        put(&store, id, &items).await;
    }
    let records: Vec<_> = (0..150_u8).map(|n| (format!("record-{n:03}"), vec![n; 100])).collect();
    store.write_named("space", records.clone(), Vec::new()).await.unwrap();
    let SetRead::Found(before) = read(&store, "a").0 else { panic!() };
    assert!(store.close(LONG).await);

    place.timing.reseal_delay = Duration::ZERO;
    let store = place.open(&["new", "old"]);
    resealed(&store, "new").await;
    eventually(&store, "it is told", |status| status.to_reseal == Some(0)).await;
    assert!(store.close(LONG).await);

    let store = place.open(&["new"]);
    for id in ["a", "b", "c"] {
        assert_eq!(complete(&store, id), items);
    }
    let SetRead::Found(after) = read(&store, "a").0 else { panic!() };
    assert_eq!(after.written_at, before.written_at, "its data is not newer than it was");
    let read = store.read_named("space").unwrap();
    assert_eq!(read.skipped, Skipped::default());
    let read: Vec<_> = read.records.into_iter().map(|r| (r.name, r.value)).collect();
    assert_eq!(read, records);
    let new = SealingKey::derive("new").id();
    assert!(parts(&store).keys().all(|key| names::owner_of(key) == new), "nothing is left behind");
}

#[tokio::test]
async fn keys_are_exchanged_live() {
    let mut place = Place::new();
    let store = place.open(&["old"]);
    let items = Items::numbered(100, 1);
    put(&store, "set", &items).await;
    store.set_ring(ring(&["new", "old"]));
    assert_eq!(store.status().to_reseal, None, "not before it was counted");
    assert_eq!(complete(&store, "set"), items);
    // A change comes before the set was sealed anew.
    let items = items.with(3, 2);
    change(&store, "set", &items, &[3]).await;
    assert!(store.close(LONG).await);
    place.timing.reseal_delay = Duration::ZERO;
    let store = place.open(&["new"]);
    assert_eq!(complete(&store, "set"), items);
    put(&store, "late", &items).await;
    store.set_ring(ring(&["newest", "new"]));
    resealed(&store, "newest").await;
    eventually(&store, "it is told", |status| status.to_reseal == Some(0)).await;
    store.set_ring(ring(&["newest"]));
    assert_eq!(complete(&store, "set"), items);
    assert_eq!(complete(&store, "late"), items);
}

#[tokio::test]
async fn an_incomplete_set_is_sealed_anew_and_stays_incomplete() {
    let mut place = Place::new();
    let store = place.open(&["old"]);
    put(&store, "set", &Items::numbered(100, 1)).await;
    assert!(store.close(LONG).await);
    place.tamper(|tables| {
        tables.parts.pop_first().unwrap();
    });
    place.timing.reseal_delay = Duration::ZERO;
    let store = place.open(&["new", "old"]);
    eventually(&store, "it is sealed anew", |status| status.to_reseal == Some(0)).await;
    let SetRead::Found(found) = read(&store, "set").0 else { panic!() };
    assert_eq!((found.missing, found.undecodable), (1, 0));
    let new = SealingKey::derive("new").id();
    assert!(parts(&store).keys().all(|key| names::owner_of(key) == new));
}
