//! Keys that are unknown, old or replaced.

use std::fs;

use super::*;

#[tokio::test]
async fn a_file_under_an_unknown_key_stays_until_there_is_something_to_store() {
    let place = Place::new();
    let store = place.open(&["lost"]);
    let items = Items::numbered(20, 1);
    put(&store, "set", &items).await;
    store.write_named("space", vec![("name".to_owned(), Vec::new())], Vec::new()).await.unwrap();
    assert!(store.close(LONG).await);
    let before = fs::read(place.file()).unwrap();

    let store = place.open(&["key"]);
    assert_eq!(read(&store, "set").0, SetRead::Unreadable);
    let named = store.read_named("space").unwrap();
    assert_eq!((named.records.len(), named.skipped.unknown_key), (0, 1));
    let status = store.status();
    assert!(status.unreadable && status.skipped.unknown_key == 2 && status.to_reseal.is_none());
    // Removals do not change the file.
    store.remove_set(&set("set"));
    store.retain_sets(&[]);
    assert!(store.flush(LONG).await);
    assert!(store.close(LONG).await);
    assert_eq!(fs::read(place.file()).unwrap(), before);
    let store = place.open(&["new", "lost"]);
    assert_eq!(complete(&store, "set"), items, "with its key it is as it was");
    assert!(store.close(LONG).await);

    let store = place.open(&["key"]);
    let new = Items::numbered(20, 2);
    change(&store, "set", &new, &[1]).await;
    assert_eq!(complete(&store, "set"), new);
    let status = store.status();
    assert!(!status.unreadable && status.replaced == 1, "{status:?}");
    let aside = status.set_aside.unwrap();
    assert_eq!(aside.reason, SetAsideReason::OtherKey);
    assert_eq!(fs::read(&aside.path).unwrap(), before);
    assert!(store.has_set_aside());
    // Now the list of sets is known.
    store.retain_sets(&[set("set")]);
    assert!(store.flush(LONG).await);
    assert!(!aside.path.exists() && !store.has_set_aside());
    assert_eq!(store.status().set_aside, None);
    assert_eq!(files_with(&place, "lost"), [""; 0]);
    assert_eq!(complete(&place.reopened(&store).await, "set"), new);
}

#[tokio::test]
async fn a_file_under_an_unknown_key_goes_if_the_list_of_sets_is_known() {
    let place = Place::new();
    let store = place.open(&["lost"]);
    put(&store, "a", &Items::numbered(50, 1)).await;
    assert!(store.close(LONG).await);
    let store = place.open(&["key"]);
    store.retain_sets(&[set("a")]);
    assert!(store.flush(LONG).await);
    assert_eq!(files_with(&place, "lost"), ["pilotlight.redb"], "it may still be wanted");
    put(&store, "a", &Items::numbered(50, 2)).await;
    assert_eq!(files_with(&place, "lost"), [""; 0]);
    assert_eq!(complete(&store, "a"), Items::numbered(50, 2));
}

#[tokio::test]
async fn a_key_that_comes_later_opens_the_file() {
    let place = Place::new();
    let store = place.open(&["right"]);
    let items = Items::numbered(20, 1);
    put(&store, "set", &items).await;
    assert!(store.close(LONG).await);
    let store = place.open(&["wrong"]);
    store.set_ring(ring(&["wrong", "another"]));
    store.set_ring(ring(&["right", "wrong"]));
    eventually(&store, "it opens", |status| status.replaced == 1 && !status.unreadable).await;
    assert_eq!(complete(&store, "set"), items);
    assert_eq!((store.status().set_aside, store.status().to_reseal), (None, Some(0)));
}

/// Another installation has other keys: neither its file nor a record of it is read.
#[tokio::test]
async fn the_file_of_another_installation_is_not_read() {
    let (own, other) = (Place::new(), Place::new());
    let mut headers = Vec::new();
    for (place, secret, version) in [(&own, "own", 1), (&other, "other", 2)] {
        let store = place.open(&[secret]);
        put(&store, "set", &Items::numbered(20, version)).await;
        assert!(store.close(LONG).await);
        headers.push(fs::read(place.file()).unwrap()[..4096].to_vec());
    }
    let foreign = fs::read(other.file()).unwrap();
    fs::write(own.file(), &foreign).unwrap();
    let store = own.open(&["own"]);
    assert_eq!(read(&store, "set").0, SetRead::Unreadable);
    assert!(store.close(LONG).await);

    // After the header of this installation: there is nothing under its names, and no record opens.
    let forged = [&headers[0][..], &foreign[4096..]].concat();
    fs::write(own.file(), forged).unwrap();
    let store = own.open(&["own"]);
    assert_eq!(read(&store, "set").0, SetRead::Absent);
    assert_eq!(store.stored_sets().unwrap(), []);
    put(&store, "set", &Items::numbered(20, 3)).await;
    assert_eq!(complete(&store, "set"), Items::numbered(20, 3));
}

#[tokio::test]
async fn each_file_has_a_data_key_of_its_own() {
    let (one, other) = (Place::new(), Place::new());
    for place in [&one, &other] {
        let store = place.open(&["key"]);
        put(&store, "set", &Items::numbered(20, 1)).await;
        assert!(store.close(LONG).await);
    }
    // Records copied from one file into another under the same key.
    let forged =
        [&fs::read(one.file()).unwrap()[..4096], &fs::read(other.file()).unwrap()[4096..]].concat();
    fs::write(one.file(), forged).unwrap();
    assert_eq!(read(&one.open(&["key"]), "set").0, SetRead::Absent);
}

/// Waits until the file is under a key. The status may still be that of the former keys, so the
/// file itself is read.
async fn copied(place: &Place, secret: &str) {
    let work = async {
        while !place.is_under(secret) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, work).await.expect("the file is copied");
}

#[tokio::test]
async fn old_keys_open_and_the_file_is_copied_under_the_new_one() {
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

    place.timing.copy_delay = Duration::ZERO;
    let store = place.open(&["new", "old"]);
    eventually(&store, "it is copied", |status| status.to_reseal == Some(0)).await;
    assert!(place.is_under("new"));
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
}

#[tokio::test]
async fn keys_are_exchanged_live() {
    let mut place = Place::new();
    let store = place.open(&["old"]);
    let items = Items::numbered(100, 1);
    put(&store, "set", &items).await;
    assert_eq!(store.status().to_reseal, Some(0));
    store.set_ring(ring(&["new", "old"]));
    assert_eq!(store.status().to_reseal, Some(1));
    assert_eq!(complete(&store, "set"), items);
    // A change before the file was copied.
    let items = items.with(3, 2);
    change(&store, "set", &items, &[3]).await;
    assert!(store.close(LONG).await);
    place.timing.copy_delay = Duration::ZERO;
    let store = place.open(&["new", "old"]);
    assert_eq!(complete(&store, "set"), items);
    put(&store, "late", &items).await;
    eventually(&store, "it is copied", |status| status.to_reseal == Some(0)).await;
    store.set_ring(ring(&["newest", "new"]));
    copied(&place, "newest").await;
    eventually(&store, "it is told", |status| status.to_reseal == Some(0)).await;
    store.set_ring(ring(&["newest"]));
    assert_eq!(complete(&store, "set"), items);
    assert_eq!(complete(&store, "late"), items);
}

/// A running relay has the data key, so it finishes a rotation without the old key.
#[tokio::test]
async fn a_key_that_is_dropped_at_once_does_not_keep_the_file_from_being_copied() {
    let mut place = Place::new();
    place.timing.copy_delay = Duration::ZERO;
    let store = place.open(&["old"]);
    let items = Items::numbered(100, 1);
    put(&store, "set", &items).await;
    store.set_ring(ring(&["new"]));
    copied(&place, "new").await;
    assert!(store.close(LONG).await);
    assert_eq!(files_with(&place, "old"), [""; 0]);
    assert_eq!(complete(&place.open(&["new"]), "set"), items);
}

#[tokio::test]
async fn an_incomplete_set_is_copied_and_stays_incomplete() {
    let mut place = Place::new();
    let store = place.open(&["key"]);
    put(&store, "set", &Items::numbered(100, 1)).await;
    assert!(store.close(LONG).await);
    place.tamper(|tables| {
        tables.parts.pop_first().unwrap();
    });
    place.timing.copy_delay = Duration::ZERO;
    let store = place.open(&["new", "key"]);
    eventually(&store, "it is copied", |status| status.to_reseal == Some(0)).await;
    let SetRead::Found(found) = read(&store, "set").0 else { panic!() };
    assert_eq!((found.missing, found.undecodable), (1, 0));
    assert!(place.is_under("new"));
}
