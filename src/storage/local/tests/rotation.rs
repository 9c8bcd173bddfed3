//! After a rotation nothing in the directory is under the retired key, and a rotation disturbs
//! nobody.

use std::fs;

use super::*;
use crate::storage::local::{named as named_table, sets as sets_table};

/// Files of the directory that hold the ID of a key, as every record under that key does.
fn files_with(place: &Place, secret: &str) -> Vec<String> {
    let id = SealingKey::derive(secret).id();
    let holds = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        bytes.windows(8).any(|window| window == id.as_bytes())
    };
    let mut found: Vec<String> = fs::read_dir(place.parent.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| holds(path))
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    found.sort();
    found
}

async fn is_clean(store: &LocalStore) {
    eventually(store, "it is sealed anew", |status| status.to_reseal == Some(0)).await;
}

fn named(count: u8) -> Vec<(String, Vec<u8>)> {
    (0..count).map(|n| (format!("record-{n:03}"), vec![n; 100])).collect()
}

#[tokio::test]
async fn a_retired_key_opens_nothing_that_is_left_in_the_directory() {
    let mut place = Place::new();
    let store = place.open(&["old"]);
    let items = Items::numbered(200, 1);
    put(&store, "gone", &items).await;
    put(&store, "kept", &items).await;
    store.write_named("space", named(50), Vec::new()).await.unwrap();
    // What is removed leaves its bytes in pages that nothing refers to.
    store.remove_set(&set("gone"));
    assert!(store.flush(LONG).await);
    assert!(store.close(LONG).await);
    // A damaged file that was set aside holds records, too.
    let directory = Directory::hold(place.parent.path()).unwrap();
    let copy = fs::read(place.file()).unwrap();
    directory.set_aside(SetAsideReason::Damaged).unwrap();
    fs::write(place.file(), copy).unwrap();
    drop(directory);
    assert_eq!(files_with(&place, "old").len(), 2);

    place.timing.reseal_delay = Duration::ZERO;
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
async fn a_key_that_is_lost_opens_nothing_once_live_data_has_replaced_what_it_sealed() {
    let mut place = Place::new();
    let store = place.open(&["lost"]);
    put(&store, "a", &Items::numbered(50, 1)).await;
    put(&store, "b", &Items::numbered(50, 1)).await;
    store.write_named("space", named(5), Vec::new()).await.unwrap();
    assert!(store.close(LONG).await);
    place.timing.reseal_delay = Duration::ZERO;
    let store = place.open(&["key"]);
    is_clean(&store).await;
    assert_eq!(store.status().unreadable_sets, 2);
    put(&store, "a", &Items::numbered(50, 2)).await;
    store.replace_named("space", named(5)).await.unwrap();
    assert_eq!(files_with(&place, "lost"), ["pilotlight.redb"], "one set may still be wanted");
    store.retain_sets(&[set("a")]);
    assert!(store.flush(LONG).await);
    let waited = async {
        while !files_with(&place, "lost").is_empty() {
            store.subscribe().changed().await.unwrap();
        }
    };
    tokio::time::timeout(LONG, waited).await.unwrap();
    assert_eq!(complete(&store, "a"), Items::numbered(50, 2));
}

#[tokio::test]
async fn what_changes_while_the_file_is_written_anew_is_in_the_new_one() {
    let mut place = Place::new();
    let store = place.open(&["old"]);
    // Three of them are larger than one portion, so that changes come between portions.
    let count = TRANSACTION_BYTES * 5 / 8 / ITEM_BYTES as u64;
    let large = Items::numbered(count, 1);
    for id in ["a", "b", "c"] {
        put(&store, id, &large).await;
    }
    put(&store, "removed", &Items::numbered(10, 1)).await;
    assert!(store.close(LONG).await);
    place.timing.reseal_delay = Duration::ZERO;
    let store = place.open(&["new", "old"]);
    eventually(&store, "it begins", |status| status.to_reseal > Some(0)).await;
    let mut version = 1;
    while store.status().to_reseal != Some(0) {
        version += 1;
        for id in ["a", "b", "c"] {
            change(&store, id, &large.clone().with(7, version), &[7]).await;
        }
        put(&store, &format!("new-{version}"), &Items::numbered(3, version)).await;
        store.remove_set(&set("removed"));
        store.write_named("space", named(version), Vec::new()).await.unwrap();
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
    store.write_named("space", named(4), Vec::new()).await.unwrap();
    assert!(store.close(LONG).await);

    let directory = Directory::hold(place.parent.path()).unwrap();
    let (holder, ring) = (Holder::default(), ring(&["new", "old"]));
    holder.open(&directory, &ring).unwrap();
    holder.check(&directory).unwrap().unwrap();
    let salt = holder.with(|open| Ok(open.salt)).unwrap().unwrap();
    let mut rewrite = rewrite::Rewrite::begin(&directory, salt).unwrap();
    let gather = |rewrite: &rewrite::Rewrite| {
        holder.with(|open| rewrite.gather(open, &ring)).unwrap().unwrap()
    };
    rewrite.apply(gather(&rewrite)).unwrap();

    let changed = Items::numbered(100, 1).with(7, 2);
    let change = Change {
        space: "space",
        puts: vec![("record-001".to_owned(), b"changed".to_vec())],
        deletes: vec!["record-002".to_owned()],
        others: Others::Keep,
    };
    let work = |open: &database::OpenFile| {
        open.commit(&[ring.current().id()].into(), |tables| {
            let (salt, content) = (&open.salt, &changed);
            let written_at = SystemTime::now();
            let writing = sets_table::Writing { salt, ring: &ring, id: "a", content, written_at };
            sets_table::store_all(tables, &writing, Unknown::Keep)?;
            sets_table::remove(tables, &names::set_prefix(salt, "removed"))?;
            named_table::store(tables, salt, &ring, &change)
        })
    };
    holder.with(work).unwrap().unwrap();
    let portion = gather(&rewrite);
    assert!(portion.completes());
    rewrite.apply(portion).unwrap();
    rewrite.finish(&holder, &directory).unwrap();
    holder.close();
    drop(directory);

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
async fn a_rotation_that_finds_no_room_shows_and_harms_nothing() {
    let mut place = Place::new();
    let store = place.open(&["old"]);
    let items = Items::numbered(100, 1);
    put(&store, "set", &items).await;
    assert!(store.close(LONG).await);
    place.timing.reseal_delay = Duration::ZERO;
    place.faults.set(Mood::Full);
    let store = place.open(&["new", "old"]);
    eventually(&store, "it cannot", |status| status.rewrite_problem.is_some()).await;
    assert_eq!((store.status().to_reseal, store.status().problem), (Some(2), None));
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
