//! The store as a whole, on real files.

use std::collections::BTreeMap;
use std::fs;
use std::time::UNIX_EPOCH;

use redb::{ReadableDatabase, ReadableTable};
use tempfile::TempDir;

use crate::sealing::SealingKey;

use super::database::PARTS;
use super::faulty::{Faults, Mood};
use super::names::PART_KEY_BYTES;
use super::*;

const LONG: Duration = Duration::from_secs(30);

/// Items by slot: spread over all parts by their hash.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Items(BTreeMap<u64, Vec<u8>>);

const ITEM_BYTES: usize = 1000;

fn slot(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Items {
    fn numbered(count: u64, version: u8) -> Self {
        let item = |number: u64| {
            let text = format!("secret-item-{number}-");
            let mut item = vec![version; ITEM_BYTES];
            item[1..=text.len()].copy_from_slice(text.as_bytes());
            item
        };
        Self((0..count).map(|number| (slot(number), item(number))).collect())
    }

    fn with(mut self, number: u64, version: u8) -> Self {
        self.0.get_mut(&slot(number)).unwrap()[0] = version;
        self
    }

    fn shared(&self) -> Arc<dyn Content> {
        Arc::new(self.clone())
    }
}

impl Content for Items {
    fn items(&self) -> u64 {
        self.0.len() as u64
    }

    fn encoded_bytes(&self) -> u64 {
        (self.0.len() * ITEM_BYTES) as u64
    }

    fn encode(&self, buffer_of: &dyn Fn(u64) -> Option<usize>, buffers: &mut [Vec<u8>]) {
        for (slot, item) in &self.0 {
            if let Some(at) = buffer_of(*slot) {
                buffers[at].extend_from_slice(&slot.to_le_bytes());
                buffers[at].extend_from_slice(item);
            }
        }
    }
}

/// A directory for stores, opened one after the other.
struct Place {
    parent: TempDir,
    faults: Faults,
    timing: Timing,
}

impl Place {
    fn new() -> Self {
        let retry = Backoff { base: Duration::from_millis(1), cap: Duration::from_millis(20) };
        let timing =
            Timing { commit_delay: Duration::ZERO, retry, reseal_delay: LONG, ..Timing::default() };
        Self { parent: tempfile::tempdir().unwrap(), faults: Faults::new(), timing }
    }

    fn try_open(&self, secrets: &[&str]) -> Result<Opened, LocalStoreError> {
        let mut directory = Directory::hold(self.parent.path())?;
        directory.faults = Some(self.faults.clone());
        LocalStore::open_in(directory, ring(secrets), self.timing)
    }

    /// Opens a store that is expected to be sound.
    fn open(&self, secrets: &[&str]) -> LocalStore {
        let opened = self.try_open(secrets).unwrap();
        assert_eq!(opened.set_aside, None);
        opened.store
    }

    fn file(&self) -> PathBuf {
        self.parent.path().join("pilotlight.redb")
    }

    /// Changes the records of a closed store.
    fn tamper(&self, with: impl FnOnce(&mut database::Tables<'_>)) {
        let directory = Directory::hold(self.parent.path()).unwrap();
        let holder = Holder::default();
        assert_eq!(holder.open(&directory).unwrap(), None);
        let work = |open: &database::OpenFile| {
            open.commit(|tables| {
                with(tables);
                Ok(())
            })
        };
        holder.with(work).unwrap().unwrap();
        holder.close();
    }
}

fn ring(secrets: &[&str]) -> KeyRing {
    let mut keys = secrets.iter().map(|secret| SealingKey::derive(secret));
    KeyRing::new(keys.next().unwrap(), keys)
}

fn set(text: &str) -> SetId {
    SetId::new(text)
}

async fn put(store: &LocalStore, id: &str, items: &Items) {
    store.replace_set(&set(id), items.shared());
    assert!(store.flush(LONG).await);
}

async fn change(store: &LocalStore, id: &str, items: &Items, numbers: &[u64]) {
    let slots: Vec<u64> = numbers.iter().map(|number| slot(*number)).collect();
    store.change_set(&set(id), items.shared(), &slots);
    assert!(store.flush(LONG).await);
}

fn read(store: &LocalStore, id: &str) -> (SetRead, Items) {
    let mut items = Items::default();
    let found = store
        .read_set(&set(id), &mut |part| {
            for item in part.chunks(8 + ITEM_BYTES) {
                let slot = u64::from_le_bytes(item[..8].try_into().unwrap());
                assert!(items.0.insert(slot, item[8..].to_vec()).is_none());
            }
        })
        .unwrap();
    (found, items)
}

/// Reads a set that is expected to be complete.
#[track_caller]
fn complete(store: &LocalStore, id: &str) -> Items {
    let (found, items) = read(store, id);
    let SetRead::Found(found) = found else { panic!("{found:?}") };
    assert_eq!((found.missing, found.undecodable), (0, 0));
    assert_eq!(found.items, items.items());
    items
}

/// The tag of every part, by key.
type Parts = BTreeMap<[u8; PART_KEY_BYTES], [u8; 16]>;

/// What is in the file.
fn parts(store: &LocalStore) -> Parts {
    let work = |open: &database::OpenFile| {
        let table = open.database.begin_read()?.open_table(PARTS)?;
        let mut parts = Parts::new();
        for entry in table.iter()? {
            let (key, sealed) = entry?;
            parts.insert(*key.value(), *sealed.value().last_chunk().unwrap());
        }
        Ok(parts)
    };
    store.shared.holder.with(work).unwrap().unwrap()
}

/// Waits for a state of the store.
async fn eventually(store: &LocalStore, what: &str, reached: impl Fn(&LocalStoreStatus) -> bool) {
    let mut following = store.subscribe();
    let waited = tokio::time::timeout(LONG, following.wait_for(|status| reached(status))).await;
    assert!(waited.is_ok(), "{what}: {:?}", store.status());
}

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

impl Place {
    async fn reopened(&self, store: &LocalStore) -> LocalStore {
        assert!(store.close(LONG).await);
        self.open(&["key"])
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
    assert!(second.sequence > first.sequence && second.written_at >= first.written_at);

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
    // Growing and shrinking so much that the set is cut anew each time.
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
    // This process took its data from elsewhere and was told of a change in one item.
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
    // What was removed can come back, by a change too.
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
    eventually(&store, "resealing begins", |status| status.to_reseal > 0).await;
    eventually(&store, "resealing ends", |status| status.to_reseal == 0).await;
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
    eventually(&store, "resealing begins", |status| status.to_reseal > 0).await;
    eventually(&store, "resealing ends", |status| status.to_reseal == 0).await;
    store.set_ring(ring(&["newest"]));
    assert_eq!(complete(&store, "set"), items);
    assert_eq!(complete(&store, "late"), items);
}

#[tokio::test]
async fn an_incomplete_set_is_not_sealed_anew() {
    let mut place = Place::new();
    let store = place.open(&["old"]);
    put(&store, "set", &Items::numbered(100, 1)).await;
    assert!(store.close(LONG).await);
    place.tamper(|tables| {
        tables.parts.pop_first().unwrap();
    });
    place.timing.reseal_delay = Duration::ZERO;
    let store = place.open(&["new", "old"]);
    eventually(&store, "resealing begins", |status| status.to_reseal > 0).await;
    eventually(&store, "resealing ends", |status| status.to_reseal == 0).await;
    let SetRead::Found(found) = read(&store, "set").0 else { panic!() };
    assert_eq!((found.missing, found.undecodable), (1, 0));
    let old = SealingKey::derive("old").id();
    assert!(parts(&store).keys().all(|key| names::owner_of(key) == old));
}

/// Tampers with a store of two sets and tells what is then read of the first.
async fn tampered(with: impl FnOnce(&mut database::Tables<'_>)) -> SetRead {
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

fn part_names(tables: &database::Tables<'_>) -> Vec<[u8; PART_KEY_BYTES]> {
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
            let (name, value): (redb::AccessGuard<'_, &[u8; 24]>, _) = entry.unwrap();
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
    // The next put does not take it for its own either.
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
    let all = |tables: &mut database::Tables<'_>| tables.parts.retain(|_, _| false).unwrap();
    let SetRead::Found(found) = tampered(all).await else { panic!() };
    assert_eq!((found.missing, found.undecodable, found.items), (9, 0, 100));
    let all = |tables: &mut database::Tables<'_>| tables.sets.retain(|_, _| false).unwrap();
    assert_eq!(tampered(all).await, SetRead::Absent);
}

#[tokio::test]
async fn named_records_are_changed_and_replaced() {
    let place = Place::new();
    let store = place.open(&["key"]);
    let record = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    let names = |store: &LocalStore, space| {
        let read = store.read_named(space).unwrap();
        let shown = |r: NamedRecord| format!("{}={}", r.name, String::from_utf8(r.value).unwrap());
        read.records.into_iter().map(shown).collect::<Vec<_>>()
    };
    let puts = vec![record("a", "1"), record("b", "1"), record("c", "1")];
    store.write_named("one", puts, Vec::new()).await.unwrap();
    store.write_named("two", vec![record("a", "other")], Vec::new()).await.unwrap();
    let store = place.reopened(&store).await;
    let deletes = vec!["c".to_owned(), "unknown".to_owned()];
    store.write_named("one", vec![record("b", "2"), record("d", "")], deletes).await.unwrap();
    assert_eq!(names(&store, "one"), ["a=1", "b=2", "d="]);
    store.replace_named("one", vec![record("e", "3")]).await.unwrap();
    assert_eq!(names(&store, "one"), ["e=3"]);
    assert_eq!(names(&store, "two"), ["a=other"]);
    assert!(store.read_named("three").unwrap().records.is_empty());
    assert!(!store.read_named("three").unwrap().is_unreadable());
    let shown = format!("{:?}", store.read_named("two").unwrap());
    assert!(!shown.contains("other") && shown.contains("5 bytes"), "{shown}");
}

#[tokio::test]
async fn named_records_that_do_not_open_are_counted_and_can_be_replaced() {
    let place = Place::new();
    let store = place.open(&["lost"]);
    let record = |name: &str| (name.to_owned(), b"value".to_vec());
    let puts = vec![record("a"), record("b"), record("c")];
    store.write_named("space", puts, Vec::new()).await.unwrap();
    assert!(store.close(LONG).await);
    let store = place.open(&["key", "previous"]);
    let read = store.read_named("space").unwrap();
    assert!(read.is_unreadable() && read.skipped.unknown_key == 3);
    store.write_named("space", vec![record("a"), record("x")], Vec::new()).await.unwrap();
    assert_eq!(store.read_named("space").unwrap().skipped.unknown_key, 3);
    assert!(store.close(LONG).await);
    place.tamper(|tables| {
        let names: Vec<_> =
            tables.named.iter().unwrap().map(|entry| *entry.unwrap().0.value()).collect();
        for name in names {
            let mut value = tables.named.get(&name).unwrap().unwrap().value().to_vec();
            value.truncate(value.len() - 1);
            tables.named.insert(&name, value.as_slice()).unwrap();
        }
    });
    let store = place.open(&["key"]);
    let read = store.read_named("space").unwrap();
    let expected = Skipped { format: 0, unknown_key: 3, forged: 2 };
    assert_eq!((read.records.len(), read.skipped), (0, expected));
    store.replace_named("space", vec![record("a")]).await.unwrap();
    let read = store.read_named("space").unwrap();
    assert_eq!((read.records.len(), read.skipped), (1, Skipped::default()));
}

#[tokio::test]
async fn an_old_keys_record_never_hides_a_newer_one() {
    let place = Place::new();
    let store = place.open(&["old"]);
    let record = |value: &str| vec![("name".to_owned(), value.as_bytes().to_vec())];
    store.write_named("space", record("1"), Vec::new()).await.unwrap();
    assert!(store.close(LONG).await);
    let store = place.open(&["new", "old"]);
    let old = store.read_named("space").unwrap().records.remove(0);
    assert_eq!(old.under, SealingKey::derive("old").id());
    store.write_named("space", record("2"), Vec::new()).await.unwrap();
    let read = store.read_named("space").unwrap().records;
    let new = SealingKey::derive("new").id();
    assert!(read.len() == 1 && read[0].value == b"2" && read[0].under == new, "{read:?}");
    store.set_ring(ring(&["old", "new"]));
    assert_eq!(store.read_named("space").unwrap().records[0].value, b"2");
    store.write_named("space", Vec::new(), vec!["name".to_owned()]).await.unwrap();
    assert!(store.read_named("space").unwrap().records.is_empty());
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
    // More than the page cache holds, so that reads reach the file.
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
    assert!(matches!(failed(Mood::Cut), LocalStoreError::Damaged(_)));
    reads_again(&store).await;
    assert_eq!(complete(&store, "set"), items);
    assert_eq!(store.status().replaced, 0);
}

/// The thread opens the file anew when somebody meets the dead handle.
async fn reads_again(store: &LocalStore) {
    let reads = async {
        while store.read_set(&set("set"), &mut |_| {}).is_err() {
            store.flush(LONG).await;
        }
    };
    tokio::time::timeout(LONG, reads).await.unwrap();
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
    assert!(store.read_named("space").unwrap().records.is_empty());
    drop((adopted, served, changed));
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
    let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
    let insert = move |path: &Path, name: &str, value: &[u8]| {
        let database = redb::Database::open(path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(meta).unwrap().insert(name, value).unwrap();
        transaction.commit().unwrap();
    };
    let damaged = SetAsideReason::Damaged;
    check(SetAsideReason::OtherFormat, &|path| insert(path, "format", &[2, 0, 0, 0])).await;
    check(damaged, &|path| insert(path, "format", b"?")).await;
    check(damaged, &|path| insert(path, "salt", b"short")).await;
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
async fn too_many_named_changes_are_refused() {
    let mut place = Place::new();
    place.timing.commit_delay = LONG;
    let store = place.open(&["key"]);
    let put = |name: &str, bytes| vec![(name.to_owned(), vec![0; bytes])];
    let first = store.write_named("space", put("a", 1), Vec::new());
    let second = store.write_named("space", put("b", pending::NAMED_BYTES_MAX), Vec::new());
    assert!(matches!(second.await, Err(LocalStoreError::Overloaded)));
    assert!(store.flush(LONG).await);
    first.await.unwrap();
}
