//! Named records.

use super::*;
use crate::storage::local::format::named::NamedRecord;

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
    let shown = format!("{:?}", store.read_named("two").unwrap());
    assert!(!shown.contains("other") && shown.contains("5 bytes"), "{shown}");
}

#[tokio::test]
async fn named_records_that_do_not_open_are_counted_and_can_be_replaced() {
    let place = Place::new();
    let store = place.open(&["key"]);
    let record = |name: &str| (name.to_owned(), b"value".to_vec());
    store.write_named("space", vec![record("a"), record("x")], Vec::new()).await.unwrap();
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
    let expected = Skipped { forged: 2, ..Skipped::default() };
    assert_eq!((read.records.len(), read.skipped), (0, expected));
    store.replace_named("space", vec![record("a")]).await.unwrap();
    let read = store.read_named("space").unwrap();
    assert_eq!((read.records.len(), read.skipped), (1, Skipped::default()));
}

#[tokio::test]
async fn too_many_named_changes_are_refused() {
    let mut place = Place::new();
    place.timing.commit_delay = LONG;
    let store = place.open(&["key"]);
    let put = |name: &str, bytes| vec![(name.to_owned(), vec![0; bytes])];
    let first = store.write_named("space", put("a", 1), Vec::new());
    let second = store.write_named("space", put("b", writer::pending::NAMED_BYTES_MAX), Vec::new());
    assert!(matches!(second.await, Err(LocalStoreError::Overloaded)));
    assert!(store.flush(LONG).await);
    first.await.unwrap();
}
