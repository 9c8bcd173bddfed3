//! After a rotation no file in the directory is under the old key, and callers are not disturbed.

use std::fs;

use super::*;
use crate::storage::local::copy::{Copy, PORTION_BYTES};
use crate::storage::local::format::{named, sets};

async fn is_clean(store: &LocalStore) {
    eventually(store, "it is copied", |status| status.to_reseal == Some(0)).await;
}

fn records(count: u8) -> Vec<(String, Vec<u8>)> {
    (0..count).map(|n| (format!("record-{n:03}"), vec![n; 100])).collect()
}

#[tokio::test]
async fn a_retired_key_opens_nothing_that_is_left_in_the_directory() {
    let mut place = Place::new();
    let store = place.open(&["old"]);
    let items = Items::numbered(200, 1);
    put(&store, "gone", &items).await;
    put(&store, "kept", &items).await;
    store.write_named("space", records(50), Vec::new()).await.unwrap();
    // Bytes of removed sets stay in unused pages.
    store.remove_set(&set("gone"));
    assert!(store.flush(LONG).await);
    assert!(store.close(LONG).await);
    // A damaged file that was set aside contains records too.
    let directory = Directory::hold(place.parent.path()).unwrap();
    directory.set_aside(SetAsideReason::Damaged, &ring(&["new", "old"])).unwrap();
    drop(directory);
    assert_eq!(files_with(&place, "old").len(), 2);

    place.timing.copy_delay = Duration::ZERO;
    let store = place.open(&["new", "old"]);
    is_clean(&store).await;
    assert_eq!(files_with(&place, "old"), [""; 0]);
    assert_eq!(complete(&store, "kept"), items);
    assert_eq!(store.read_named("space").unwrap().records.len(), 50);
    put(&store, "kept", &items.clone().with(1, 2)).await;
    assert!(store.close(LONG).await);
    let store = place.open(&["new"]);
    is_clean(&store).await;
    assert_eq!(complete(&store, "kept"), items.with(1, 2));
    assert_eq!(store.read_named("space").unwrap().records.len(), 50);
}

#[tokio::test]
async fn a_file_that_was_set_aside_stays_until_the_keys_change() {
    let mut place = Place::new();
    place.timing.copy_delay = Duration::ZERO;
    let aside = async |secrets: &[&str]| {
        let store = place.open(secrets);
        put(&store, "set", &Items::numbered(3, 1)).await;
        // After the first check for a reason to copy.
        assert!(store.flush(LONG).await && store.close(LONG).await);
        store.has_set_aside()
    };
    assert!(!aside(&["new", "old"]).await);
    fs::write(place.file(), "damaged").unwrap();
    let opened = place.try_open(&["new", "old"]).unwrap();
    assert!(opened.set_aside.is_some() && opened.store.close(LONG).await);
    assert!(aside(&["new", "old"]).await);
    let store = place.open(&["new"]);
    let gone = async {
        while store.has_set_aside() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, gone).await.expect("a retired key may open it");
    eventually(&store, "it shows", |status| status.set_aside.is_none()).await;
}

#[tokio::test]
async fn a_file_that_has_become_much_too_large_is_copied() {
    let mut place = Place::new();
    place.timing.copy_delay = Duration::ZERO;
    let store = place.open(&["key"]);
    let large = Items::numbered(9_000, 1);
    put(&store, "large", &large).await;
    put(&store, "small", &Items::numbered(100, 1)).await;
    let length = || fs::metadata(place.file()).unwrap().len();
    let before = length();
    store.remove_set(&set("large"));
    assert!(store.flush(LONG).await);
    let smaller = async {
        while length() * 4 > before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, smaller).await.expect("the file gets smaller");
    assert_eq!(complete(&store, "small"), Items::numbered(100, 1));
}

#[tokio::test]
async fn what_changes_while_the_file_is_written_anew_is_in_the_new_one() {
    let mut place = Place::new();
    let store = place.open(&["old"]);
    // Three sets are larger than one portion, so that changes come between portions.
    let count = PORTION_BYTES * 5 / 8 / ITEM_BYTES as u64;
    let large = Items::numbered(count, 1);
    for id in ["a", "b", "c"] {
        put(&store, id, &large).await;
    }
    put(&store, "removed", &Items::numbered(10, 1)).await;
    assert!(store.close(LONG).await);
    place.timing.copy_delay = Duration::ZERO;
    let store = place.open(&["new", "old"]);
    eventually(&store, "it begins", |status| status.to_reseal == Some(1)).await;
    let mut version = 1;
    while store.status().to_reseal != Some(0) {
        version += 1;
        for id in ["a", "b", "c"] {
            change(&store, id, &large.clone().with(7, version), &[7]).await;
        }
        put(&store, &format!("new-{version}"), &Items::numbered(3, version)).await;
        store.remove_set(&set("removed"));
        store.write_named("space", records(version), Vec::new()).await.unwrap();
    }
    assert!(store.close(LONG).await);
    let store = place.open(&["new"]);
    for id in ["a", "b", "c"] {
        assert_eq!(complete(&store, id), large.clone().with(7, version));
    }
    for version in 2..=version {
        let stored = complete(&store, &format!("new-{version}"));
        assert_eq!(stored, Items::numbered(3, version));
    }
    assert_eq!(read(&store, "removed").0, SetRead::Absent);
    assert_eq!(store.read_named("space").unwrap().records.len(), usize::from(version));
    assert_eq!(files_with(&place, "old"), [""; 0]);
}

#[tokio::test]
async fn what_changes_between_two_portions_is_copied_again() {
    let place = Place::new();
    let store = place.open(&["old"]);
    for id in ["a", "b", "removed"] {
        put(&store, id, &Items::numbered(100, 1)).await;
    }
    store.write_named("space", records(4), Vec::new()).await.unwrap();
    assert!(store.close(LONG).await);

    let directory = Directory::hold(place.parent.path()).unwrap();
    let ring = ring(&["new", "old"]);
    let holder = file::Holder::new(start::open(&directory, &ring).unwrap().0);
    holder.make_writable(&directory).unwrap();
    let mut copy = Copy::begin(&directory, &ring).unwrap();
    let gather =
        |copy: &Copy| holder.with_open(|open| open.read(|reading| copy.gather(reading))).unwrap();
    copy.apply(gather(&copy)).unwrap();

    let changed = Items::numbered(100, 1).with(7, 2);
    let change = Change {
        space: "space",
        puts: vec![("record-001".to_owned(), b"changed".to_vec())],
        deletes: vec!["record-002".to_owned()],
        others: Others::Keep,
    };
    let work = |tables: &mut Tables<'_>| {
        let written_at = SystemTime::now();
        sets::store_all(tables, &sets::Writing { id: "a", content: &changed, written_at })?;
        sets::remove(tables, "removed")?;
        named::store(tables, &change)
    };
    holder.with_open(|open| open.commit(work)).unwrap();
    let portion = gather(&copy);
    assert!(portion.completes());
    copy.apply(portion).unwrap();
    copy.finish(&directory).unwrap();
    drop((holder, directory));

    assert_eq!(files_with(&place, "old"), [""; 0]);
    let store = place.open(&["new"]);
    assert_eq!(complete(&store, "a"), changed);
    assert_eq!(complete(&store, "b"), Items::numbered(100, 1));
    assert_eq!(read(&store, "removed").0, SetRead::Absent);
    let records = store.read_named("space").unwrap().records;
    let records: Vec<_> = records.into_iter().map(|it| (it.name, it.value)).collect();
    let kept = |n: u8| (format!("record-{n:03}"), vec![n; 100]);
    assert_eq!(records, [kept(0), ("record-001".to_owned(), b"changed".to_vec()), kept(3)]);
}

#[tokio::test]
async fn every_state_that_a_kill_during_a_copy_can_leave_opens() {
    let mut place = Place::new();
    let store = place.open(&["old"]);
    let items = Items::numbered(200, 1);
    put(&store, "set", &items).await;
    assert!(store.close(LONG).await);
    let old = fs::read(place.file()).unwrap();
    place.timing.copy_delay = Duration::ZERO;
    let store = place.open(&["new", "old"]);
    is_clean(&store).await;
    assert!(store.close(LONG).await);
    let new = fs::read(place.file()).unwrap();
    let unfinished = place.parent.path().join("pilotlight.redb.new");

    place.timing.copy_delay = LONG;
    for cut in [0, 10, 4096, 5000, new.len() / 2, new.len()] {
        fs::write(place.file(), &old).unwrap();
        fs::write(&unfinished, &new[..cut]).unwrap();
        let store = place.open(&["new", "old"]);
        assert_eq!(complete(&store, "set"), items, "killed after {cut} bytes");
        assert_eq!(store.status().to_reseal, Some(1));
        assert!(!unfinished.exists());
        assert!(store.close(LONG).await);
    }
    fs::write(place.file(), &new).unwrap();
    assert_eq!(complete(&place.open(&["new"]), "set"), items, "killed after the rename");
}

#[tokio::test]
async fn a_kill_while_a_damaged_file_is_repaired_leaves_two_names_of_it() {
    let place = Place::new();
    let store = place.open(&["key"]);
    put(&store, "set", &Items::numbered(20, 1)).await;
    assert!(store.close(LONG).await);
    fs::write(place.file(), "damaged").unwrap();
    let directory = Directory::hold(place.parent.path()).unwrap();
    directory.set_aside(SetAsideReason::Damaged, &ring(&["key"])).unwrap();
    assert!(place.file().exists());
    drop(directory);
    let opened = place.try_open(&["key"]).unwrap();
    assert!(opened.set_aside.is_some());
    put(&opened.store, "set", &Items::numbered(20, 2)).await;
    assert_eq!(complete(&opened.store, "set"), Items::numbered(20, 2));
}

#[tokio::test]
async fn a_rotation_that_finds_no_room_shows_and_harms_nothing() {
    let mut place = Place::new();
    let store = place.open(&["old"]);
    let items = Items::numbered(100, 1);
    put(&store, "set", &items).await;
    assert!(store.close(LONG).await);
    place.timing.copy_delay = Duration::ZERO;
    place.faults.set(Mood::Full);
    let store = place.open(&["new", "old"]);
    eventually(&store, "it cannot", |status| status.copy_problem.is_some()).await;
    assert_eq!((store.status().to_reseal, store.status().problem), (Some(1), None));
    assert_eq!(complete(&store, "set"), items);
    place.faults.set(Mood::Well);
    put(&store, "set", &items.clone().with(1, 2)).await;
    assert_eq!(complete(&store, "set"), items.with(1, 2));
    assert!(!place.parent.path().join("pilotlight.redb.new").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_go_on_while_the_file_is_checked() {
    let place = Place::new();
    let store = place.open(&["key"]);
    let items = Items::numbered(100, 1);
    put(&store, "set", &items).await;
    let store = place.reopened(&store).await;
    let (gate, begun) = (place.faults.check_gate.clone(), place.faults.check_begun.clone());
    let held = gate.lock().unwrap();
    store.replace_set(&set("other"), items.shared());
    while !begun.load(std::sync::atomic::Ordering::SeqCst) {
        std::thread::yield_now();
    }
    assert_eq!(complete(&store, "set"), items);
    assert_eq!(read(&store, "other").0, SetRead::Absent, "the check has not ended");
    drop(held);
    assert!(store.flush(LONG).await);
    assert_eq!(complete(&store, "other"), items);
}
