//! Named records.

use super::*;
use crate::storage::local::named::NamedRecord;

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
