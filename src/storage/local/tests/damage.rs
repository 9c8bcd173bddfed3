//! Records that were tampered with, disks that fail, files that are damaged.

use std::fs;
use std::time::UNIX_EPOCH;

use super::*;

/// Tampers with a store of two sets and returns the result of reading the first.
async fn tampered(with: impl FnOnce(&mut Tables<'_>)) -> SetRead {
    let place = Place::new();
    let store = place.open(&["key"]);
    put(&store, "a", &Items::numbered(100, 1)).await;
    put(&store, "b", &Items::numbered(100, 2)).await;
    assert!(store.close(LONG).await);
    place.tamper(with);
    let store = place.open(&["key"]);
    let (found, items) = read(&store, "a");
    for (slot, item) in &items.0 {
        assert_eq!(Items::numbered(100, 1).0.get(slot), Some(item), "no other data ever");
    }
    found
}

fn part_names(tables: &Tables<'_>) -> Vec<[u8; PART_KEY_BYTES]> {
    tables.parts.iter().unwrap().map(|entry| *entry.unwrap().0.value()).collect()
}

#[tokio::test]
async fn records_that_were_moved_do_not_open() {
    // Every part of the file in the place of another one.
    let found = tampered(|tables| {
        let names = part_names(tables);
        let value = |name| tables.parts.get(name).unwrap().unwrap().value().to_vec();
        let values: Vec<_> = names.iter().map(value).collect();
        for (name, other) in names.iter().zip(values.iter().cycle().skip(1)) {
            tables.parts.insert(name, other.as_slice()).unwrap();
        }
    })
    .await;
    let SetRead::Found(found) = found else { panic!("{found:?}") };
    assert_eq!((found.missing, found.undecodable), (0, 9));

    // Each marker in the place of the other.
    let found = tampered(|tables| {
        let entry = |entry: Result<(redb::AccessGuard<'_, _>, redb::AccessGuard<'_, &[u8]>), _>| {
            let (name, value): (redb::AccessGuard<'_, &[u8; 16]>, _) = entry.unwrap();
            (*name.value(), value.value().to_vec())
        };
        let markers: Vec<_> = tables.sets.iter().unwrap().map(entry).collect();
        tables.sets.insert(&markers[0].0, markers[1].1.as_slice()).unwrap();
        tables.sets.insert(&markers[1].0, markers[0].1.as_slice()).unwrap();
    })
    .await;
    assert_eq!(found, SetRead::Undecodable);
}

#[tokio::test]
async fn a_part_of_an_earlier_state_does_not_pass() {
    let place = Place::new();
    let store = place.open(&["key"]);
    put(&store, "set", &Items::numbered(5, 1)).await;
    assert!(store.close(LONG).await);
    let mut earlier = None;
    place.tamper(|tables| {
        let (name, value) = tables.parts.first().unwrap().unwrap();
        earlier = Some((*name.value(), value.value().to_vec()));
    });
    let store = place.open(&["key"]);
    put(&store, "set", &Items::numbered(5, 2)).await;
    assert!(store.close(LONG).await);
    let (name, value) = earlier.unwrap();
    place.tamper(|tables| drop(tables.parts.insert(&name, value.as_slice()).unwrap()));
    let store = place.open(&["key"]);
    let (found, items) = read(&store, "set");
    let SetRead::Found(found) = found else { panic!("{found:?}") };
    assert_eq!((found.undecodable, items.items()), (1, 0));
    // The next put does not mistake it for its own part either.
    put(&store, "set", &Items::numbered(5, 2)).await;
    assert_eq!(complete(&store, "set"), Items::numbered(5, 2));
}

#[tokio::test]
async fn altered_and_lost_records_are_counted() {
    let found = tampered(|tables| {
        for name in part_names(tables) {
            let mut value = tables.parts.get(&name).unwrap().unwrap().value().to_vec();
            value[40] ^= 1;
            tables.parts.insert(&name, value.as_slice()).unwrap();
        }
    })
    .await;
    let SetRead::Found(found) = found else { panic!("{found:?}") };
    assert_eq!((found.missing, found.undecodable, found.items), (0, 9, 100));
    let all = |tables: &mut Tables<'_>| tables.parts.retain(|_, _| false).unwrap();
    let SetRead::Found(found) = tampered(all).await else { panic!() };
    assert_eq!((found.missing, found.undecodable, found.items), (9, 0, 100));
    let all = |tables: &mut Tables<'_>| tables.sets.retain(|_, _| false).unwrap();
    assert_eq!(tampered(all).await, SetRead::Absent);
}

#[tokio::test]
async fn a_full_disk_keeps_changes_waiting_and_reads_going() {
    let place = Place::new();
    let store = place.open(&["key"]);
    let old = Items::numbered(30, 1);
    put(&store, "set", &old).await;
    place.faults.set(Mood::Full);
    let new = old.clone().with(1, 2);
    store.change_set(&set("set"), new.shared(), &[slot(1)]);
    assert!(!store.flush(LONG).await);
    eventually(&store, "it tries again", |status| {
        status.problem.as_ref().is_some_and(|problem| problem.failures >= 3)
    })
    .await;
    assert_eq!(store.status().pending, 1);
    let puts = vec![("name".to_owned(), Vec::new())];
    let refused = store.write_named("space", puts.clone(), Vec::new()).await.unwrap_err();
    assert!(
        matches!(refused, LocalStoreError::Unavailable | LocalStoreError::Disk(_)),
        "{refused:?}"
    );
    place.faults.set(Mood::Well);
    eventually(&store, "it recovers", |status| status.problem.is_none()).await;
    assert_eq!(complete(&store, "set"), new);
    assert_eq!((store.status().pending, store.status().replaced), (0, 0));
    store.write_named("space", puts, Vec::new()).await.unwrap();
}

#[tokio::test]
async fn a_disk_that_takes_no_writes_is_read() {
    let place = Place::new();
    let store = place.open(&["key"]);
    let items = Items::numbered(30, 1);
    put(&store, "set", &items).await;
    assert!(store.close(LONG).await);
    let before = fs::read(place.file()).unwrap();
    place.faults.set(Mood::ReadOnly);
    let store = place.open(&["key"]);
    assert_eq!(complete(&store, "set"), items);
    let new = items.clone().with(1, 2);
    store.change_set(&set("set"), new.shared(), &[slot(1)]);
    assert!(!store.flush(LONG).await);
    assert_eq!(complete(&store, "set"), items);
    assert_eq!(fs::read(place.file()).unwrap(), before);
    place.faults.set(Mood::Well);
    eventually(&store, "it recovers", |status| status.problem.is_none()).await;
    assert_eq!(complete(&store, "set"), new);
}

#[tokio::test]
async fn a_file_that_is_only_read_is_not_touched() {
    let place = Place::new();
    let store = place.open(&["key"]);
    put(&store, "set", &Items::numbered(30, 1)).await;
    assert!(store.close(LONG).await);
    let before = fs::read(place.file()).unwrap();
    let store = place.open(&["key"]);
    complete(&store, "set");
    assert!(store.close(LONG).await);
    assert_eq!(fs::read(place.file()).unwrap(), before);
}

#[tokio::test]
async fn what_cannot_be_stored_does_not_keep_the_store_from_closing() {
    let place = Place::new();
    let store = place.open(&["key"]);
    put(&store, "set", &Items::numbered(3, 1)).await;
    place.faults.set(Mood::Full);
    store.replace_set(&set("set"), Items::numbered(3, 2).shared());
    assert!(!store.close(LONG).await);
    assert_eq!(store.status().pending, 1);
    place.faults.set(Mood::Well);
    assert_eq!(complete(&place.open(&["key"]), "set"), Items::numbered(3, 1));
}

#[tokio::test]
async fn faults_of_reads_are_errors_and_pass() {
    let place = Place::new();
    let store = place.open(&["key"]);
    // More than fits into the page cache, so that reads reach the file.
    let items = Items::numbered(1500, 1);
    put(&store, "set", &items).await;
    let failed = |mood| {
        place.faults.set(mood);
        let result = store.read_set(&set("set"), &mut |_| {});
        place.faults.set(Mood::Well);
        result.unwrap_err()
    };
    assert!(matches!(failed(Mood::Panic), LocalStoreError::Damaged(_)));
    assert_eq!(complete(&store, "set"), items);
    assert!(matches!(failed(Mood::Dying), LocalStoreError::Disk(_)));
    reads_again(&store).await;
    assert!(matches!(failed(Mood::Short), LocalStoreError::Damaged(_)));
    reads_again(&store).await;
    assert_eq!(complete(&store, "set"), items);
    assert_eq!(store.status().replaced, 0);
}

/// Waits until the thread has opened the file again, after a read on the dead handle.
async fn reads_again(store: &LocalStore) {
    let reads = async {
        while store.read_set(&set("set"), &mut |_| {}).is_err() {
            store.flush(LONG).await;
        }
    };
    tokio::time::timeout(LONG, reads).await.unwrap();
    // No request to the thread is left, so the file's next fault affects no open.
    assert!(store.flush(LONG).await);
}

#[tokio::test]
async fn a_file_that_is_damaged_while_it_is_used_is_replaced_from_memory() {
    let place = Place::new();
    let store = place.open(&["key"]);
    let (put_one, read_one) = (Items::numbered(700, 1), Items::numbered(600, 3));
    put(&store, "gone", &Items::numbered(600, 9)).await;
    put(&store, "read", &read_one).await;
    let store = place.reopened(&store).await;
    let adopted = read_one.shared();
    let written_at = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    store.adopt_set(&set("read"), &adopted, written_at);
    let served: Arc<dyn Content> = put_one.shared();
    store.replace_set(&set("put"), served.clone());
    store.write_named("space", vec![("name".to_owned(), Vec::new())], Vec::new()).await.unwrap();

    let length = fs::metadata(place.file()).unwrap().len();
    fs::write(place.file(), vec![0x5a; length as usize]).unwrap();
    let changed: Arc<dyn Content> = put_one.clone().with(7, 2).shared();
    let slots: Vec<u64> = (0..700).map(slot).collect();
    store.change_set(&set("put"), changed.clone(), &slots);
    assert!(store.flush(LONG).await);

    let status = store.status();
    assert_eq!((status.replaced, status.pending), (1, 0), "{status:?}");
    let aside = status.set_aside.unwrap();
    assert_eq!(aside.reason, SetAsideReason::Damaged);
    assert!(aside.path.exists() && aside.path != place.file());
    assert_eq!(complete(&store, "put"), put_one.clone().with(7, 2));
    assert_eq!(complete(&store, "read"), read_one);
    let SetRead::Found(found) = read(&store, "read").0 else { panic!() };
    assert_eq!(found.written_at, written_at);
    assert_eq!(read(&store, "gone").0, SetRead::Absent, "nobody has it in memory");
    // The page with the record may still be in the database's cache.
    assert!(store.read_named("space").unwrap().records.len() <= 1);
    drop((adopted, served, changed));
}

/// A store so small that all of it is in the database's cache, so that no read notices the change.
#[tokio::test]
async fn a_file_that_somebody_changes_while_it_is_used_is_replaced_from_memory() {
    let check = async |change: &dyn Fn(&Path, Vec<u8>)| {
        let place = Place::new();
        let store = place.open(&["key"]);
        let items = Items::numbered(3, 1);
        put(&store, "a", &items).await;
        let earlier = fs::read(place.file()).unwrap();
        let kept: Arc<dyn Content> = items.shared();
        store.replace_set(&set("b"), kept.clone());
        assert!(store.flush(LONG).await);
        change(&place.file(), earlier);
        put(&store, "c", &items).await;
        let status = store.status();
        assert_eq!((status.replaced, status.pending), (1, 0), "{status:?}");
        let aside = status.set_aside.unwrap();
        assert_eq!(aside.reason, SetAsideReason::Damaged);
        assert!(aside.path.exists() && aside.cause.contains("changed"), "{aside:?}");
        let store = place.reopened(&store).await;
        assert_eq!((complete(&store, "b"), complete(&store, "c")), (items.clone(), items));
        // It is not in memory: it is kept if the damage left it readable.
        if read(&store, "a").0 != SetRead::Absent {
            assert_eq!(complete(&store, "a"), Items::numbered(3, 1));
        }
        drop(kept);
    };
    let cut_to = |path: &Path, length: u64| {
        fs::File::options().write(true).open(path).unwrap().set_len(length).unwrap();
    };
    check(&|path, _| fs::write(path, vec![0x5a; 100_000]).unwrap()).await;
    check(&|path, _| cut_to(path, 0)).await;
    check(&|path, _| cut_to(path, fs::metadata(path).unwrap().len() / 2)).await;
    // An intact backup.
    check(&|path, earlier| fs::write(path, earlier).unwrap()).await;
}

/// Damage that only the check before the first write finds: the pages of one set are damaged, those
/// of the other are not.
#[tokio::test]
async fn a_file_that_fails_its_check_is_repaired_with_what_can_be_read() {
    let place = Place::new();
    let store = place.open(&["key"]);
    let kept = Items::numbered(40, 1);
    put(&store, "kept", &kept).await;
    let sound = parts(&store);
    put(&store, "spoilt", &Items::numbered(400, 2)).await;
    let all = parts(&store);
    let (_, tag) = all.iter().find(|(name, _)| !sound.contains_key(*name)).unwrap();
    assert!(store.close(LONG).await);
    let mut bytes = fs::read(place.file()).unwrap();
    let at = bytes.windows(16).position(|window| window == tag).unwrap();
    bytes[at - 100] ^= 1;
    fs::write(place.file(), &bytes).unwrap();

    let store = place.open(&["key"]);
    let SetRead::Found(found) = read(&store, "spoilt").0 else { panic!() };
    assert_eq!(found.undecodable, 1);
    assert_eq!(store.status().replaced, 0, "there is nothing to store yet");
    put(&store, "new", &kept).await;
    let status = store.status();
    assert_eq!((status.replaced, status.pending), (1, 0), "{status:?}");
    assert_eq!(status.set_aside.unwrap().reason, SetAsideReason::Damaged);
    assert_eq!((complete(&store, "kept"), complete(&store, "new")), (kept.clone(), kept));
    assert_eq!(read(&store, "spoilt").0, SetRead::Absent, "it was not complete");
}

#[tokio::test]
async fn files_that_cannot_be_used_are_set_aside() {
    let check = async |reason: SetAsideReason, spoil: &dyn Fn(&Path)| {
        let place = Place::new();
        let store = place.open(&["key"]);
        put(&store, "set", &Items::numbered(3, 1)).await;
        assert!(store.close(LONG).await);
        spoil(&place.file());
        let opened = place.try_open(&["key"]).unwrap();
        let aside = opened.set_aside.unwrap();
        assert_eq!(aside.reason, reason, "{}", aside.cause);
        assert!(aside.path.exists());
        assert_eq!(opened.store.status().set_aside, Some(aside));
        assert_eq!(read(&opened.store, "set").0, SetRead::Absent);
        put(&opened.store, "set", &Items::numbered(3, 1)).await;
        assert_eq!(complete(&place.reopened(&opened.store).await, "set"), Items::numbered(3, 1));
    };
    let alter = move |path: &Path, at: usize| {
        let mut bytes = fs::read(path).unwrap();
        bytes[at] ^= 2;
        fs::write(path, bytes).unwrap();
    };
    let damaged = SetAsideReason::Damaged;
    check(SetAsideReason::OtherFormat, &|path| alter(path, 8)).await;
    // Magic, wrapped key, and the database's own header.
    for at in [0, 40, 4096] {
        check(damaged, &|path| alter(path, at)).await;
    }
    check(damaged, &|path| fs::write(path, &fs::read(path).unwrap()[..4096]).unwrap()).await;
    check(damaged, &|path| fs::write(path, "no database").unwrap()).await;
    check(damaged, &|path| fs::write(path, "").unwrap()).await;
    check(damaged, &|path| {
        fs::remove_file(path).unwrap();
        let foreign = redb::Database::create(path).unwrap();
        let transaction = foreign.begin_write().unwrap();
        transaction.open_table(redb::TableDefinition::<u8, u8>::new("table")).unwrap();
        transaction.commit().unwrap();
    })
    .await;
    check(damaged, &|path| {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_store_that_was_removed_is_made_again_from_memory() {
    let place = Place::new();
    let store = place.open(&["key"]);
    let items = Items::numbered(100, 1);
    let served = items.shared();
    store.replace_set(&SetId::new("a"), served.clone());
    assert!(store.flush(LONG).await);
    fs::remove_dir_all(place.parent.path()).unwrap();
    // The next change stores the sets in memory again, and notifies owners of named records.
    put(&store, "b", &Items::numbered(3, 1)).await;
    let status = store.status();
    assert_eq!((status.replaced, status.available, status.pending), (1, true, 0));
    assert_eq!((status.set_aside, status.problem), (None, None));
    let store = place.reopened(&store).await;
    assert_eq!(read(&store, "a").1, items);
    assert_eq!(read(&store, "b").1, Items::numbered(3, 1));

    // If it cannot be created again, the status shows that until it can.
    fs::remove_dir_all(place.parent.path()).unwrap();
    fs::write(place.parent.path(), "in the way").unwrap();
    store.replace_set(&SetId::new("a"), served.clone());
    assert!(!store.flush(LONG).await);
    let status = store.status();
    assert!(!status.available && status.problem.is_some(), "{status:?}");
    fs::remove_file(place.parent.path()).unwrap();
    let mut following = store.subscribe();
    let stored = following.wait_for(|status| status.problem.is_none() && status.available);
    tokio::time::timeout(LONG, stored).await.unwrap().unwrap();
    assert!(store.flush(LONG).await);
    let store = place.reopened(&store).await;
    assert_eq!(read(&store, "a").1, items);
}
