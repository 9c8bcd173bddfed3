//! Sets: stored, changed, removed.

use std::fs;

use super::*;

#[tokio::test]
async fn what_was_put_is_there_after_a_restart() {
    let place = Place::new();
    let store = place.open(&["key"]);
    let (small, large) = (Items::numbered(3, 1), Items::numbered(1700, 1));
    put(&store, "small", &small).await;
    put(&store, "large", &large).await;
    put(&store, "empty", &Items::default()).await;
    assert!(parts(&store).len() > 130, "more than one window of parts");
    for _ in 0..2 {
        let store = place.reopened(&store).await;
        assert_eq!(complete(&store, "small"), small);
        assert_eq!(complete(&store, "large"), large);
        assert_eq!(complete(&store, "empty"), Items::default());
        assert_eq!(read(&store, "other").0, SetRead::Absent);
        let ids = store.stored_sets().unwrap();
        assert_eq!(ids, [set("empty"), set("large"), set("small")]);
        assert!(store.close(LONG).await);
    }
}

#[tokio::test]
async fn a_change_writes_one_part_and_an_unchanged_put_none() {
    let place = Place::new();
    let store = place.open(&["key"]);
    let items = Items::numbered(300, 1);
    put(&store, "set", &items).await;
    let before = parts(&store);
    let SetRead::Found(first) = read(&store, "set").0 else { panic!() };

    put(&store, "set", &items).await;
    assert_eq!(parts(&store), before);
    let SetRead::Found(second) = read(&store, "set").0 else { panic!() };
    assert!(second.written_at >= first.written_at);

    let items = items.with(17, 2);
    change(&store, "set", &items, &[17]).await;
    let differing =
        |after: &Parts| before.iter().filter(|(key, tag)| after.get(*key) != Some(*tag)).count();
    assert_eq!(differing(&parts(&store)), 1);
    assert_eq!(complete(&store, "set"), items);

    // A put that differs in two items writes at most two parts.
    let items = items.with(18, 2).with(19, 2);
    put(&store, "set", &items).await;
    assert!(differing(&parts(&store)) <= 3);
    assert_eq!(complete(&store, "set"), items);
}

#[tokio::test]
async fn a_put_replaces_everything() {
    let place = Place::new();
    let store = place.open(&["key"]);
    // Grows and shrinks so much that the set is divided anew each time.
    for count in [1000, 10, 0, 400, 2] {
        let items = Items::numbered(count, 1);
        put(&store, "set", &items).await;
        assert_eq!(complete(&store, "set"), items, "{count} items");
        assert_eq!(parts(&store).len() as u64, (count * ITEM_BYTES as u64).div_ceil(12 * 1024));
    }
}

#[tokio::test]
async fn growing_by_changes_cuts_the_set_anew() {
    let place = Place::new();
    let store = place.open(&["key"]);
    put(&store, "set", &Items::numbered(10, 1)).await;
    let items = Items::numbered(500, 1);
    change(&store, "set", &items, &(10..500).collect::<Vec<_>>()).await;
    assert_eq!(complete(&store, "set"), items);
    assert!(parts(&store).len() > 30);
}

#[tokio::test]
async fn a_first_change_never_mixes_with_what_an_earlier_process_left() {
    let place = Place::new();
    let store = place.open(&["key"]);
    put(&store, "set", &Items::numbered(200, 1)).await;
    let store = place.reopened(&store).await;
    // This process has its data from another source and stores a change in one item.
    let items = Items::numbered(200, 2).with(5, 3);
    change(&store, "set", &items, &[5]).await;
    assert_eq!(complete(&store, "set"), items);
    let items = items.with(6, 4);
    change(&store, "set", &items, &[6]).await;
    assert_eq!(complete(&store, "set"), items);
}

#[tokio::test]
async fn sets_are_forgotten_one_by_one_or_by_a_list() {
    let place = Place::new();
    let store = place.open(&["key"]);
    for id in ["a", "b", "c", "d"] {
        put(&store, id, &Items::numbered(2, 1)).await;
    }
    store.remove_set(&set("a"));
    assert!(store.flush(LONG).await);
    assert_eq!(read(&store, "a").0, SetRead::Absent);
    store.retain_sets(&[set("b"), set("d"), set("unknown")]);
    assert!(store.flush(LONG).await);
    assert_eq!(store.stored_sets().unwrap(), [set("b"), set("d")]);
    assert_eq!(parts(&store).len(), 2);
    // A removed set can be stored again, also by a change.
    change(&store, "a", &Items::numbered(2, 2), &[1]).await;
    assert_eq!(complete(&store, "a"), Items::numbered(2, 2));
}

#[tokio::test]
async fn one_directory_has_one_store() {
    let place = Place::new();
    let store = place.open(&["key"]);
    assert!(matches!(place.try_open(&["key"]), Err(LocalStoreError::InUse { .. })));
    assert!(store.close(LONG).await);
    assert!(matches!(store.read_named("space"), Err(LocalStoreError::Unavailable)));
    let late = store.write_named("space", Vec::new(), Vec::new()).await;
    assert!(matches!(late, Err(LocalStoreError::Unavailable)));
    assert!(!store.flush(LONG).await);
    assert!(place.open(&["key"]).close(LONG).await, "although a handle is left");
}

#[tokio::test]
async fn a_directory_that_was_removed_is_not_made_again_when_no_handle_is_left() {
    let mut place = Place::new();
    place.timing.commit_delay = Duration::from_millis(100);
    let store = place.open(&["key"]);
    put(&store, "set", &Items::numbered(3, 1)).await;
    let shared = store.shared.clone();
    store.replace_set(&set("set"), Items::numbered(3, 2).shared());
    fs::remove_dir_all(place.parent.path()).unwrap();
    drop(store);
    tokio::time::timeout(LONG, shared.until_ended()).await.unwrap();
    assert!(!place.parent.path().exists());
}

#[tokio::test]
async fn what_waits_is_written_when_the_last_handle_goes() {
    let mut place = Place::new();
    place.timing.commit_delay = LONG;
    let store = place.open(&["key"]);
    let items = Items::numbered(50, 1);
    store.replace_set(&set("set"), items.shared());
    let ended = store.shared.until_ended();
    drop(store);
    ended.await;
    assert_eq!(complete(&place.open(&["key"]), "set"), items);
}

#[tokio::test]
async fn changes_that_come_together_are_written_together() {
    let mut place = Place::new();
    place.timing.commit_delay = Duration::from_millis(20);
    let store = place.open(&["key"]);
    put(&store, "set", &Items::numbered(100, 1)).await;
    let mut commits = store.subscribe();
    commits.mark_unchanged();
    let mut items = Items::numbered(100, 1);
    for number in 0..100 {
        items = items.with(number, 2);
        store.change_set(&set("set"), items.shared(), &[slot(number)]);
    }
    // Without a flush: the delay alone is enough.
    tokio::time::timeout(LONG, commits.changed()).await.unwrap().unwrap();
    assert!(store.flush(LONG).await);
    assert_eq!(complete(&store, "set"), items);
}

#[tokio::test]
async fn large_sets_take_turns_in_transactions() {
    let mut place = Place::new();
    place.timing.transaction_time = Duration::ZERO;
    let store = place.open(&["key"]);
    for number in 0..20 {
        let id = set(&format!("set-{number}"));
        store.replace_set(&id, Items::numbered(20, number).shared());
    }
    assert!(store.flush(LONG).await);
    for number in 0..20 {
        assert_eq!(complete(&store, &format!("set-{number}")), Items::numbered(20, number));
    }
}

#[tokio::test]
async fn nothing_stands_in_the_file_in_clear() {
    let place = Place::new();
    let store = place.open(&["key"]);
    put(&store, "secret-set", &Items::numbered(30, 1)).await;
    let puts = vec![("secret-name".to_owned(), b"sdk-secret-value".to_vec())];
    store.write_named("space", puts, Vec::new()).await.unwrap();
    assert!(store.close(LONG).await);
    for entry in fs::read_dir(place.parent.path()).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        let found = bytes.windows(6).filter(|window| *window == b"secret").count();
        assert_eq!(found, 0);
    }
}
