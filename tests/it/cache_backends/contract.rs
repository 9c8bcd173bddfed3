//! What every backend of the shared cache promises.

use std::collections::BTreeMap;

use bytes::Bytes;
use pilotlight::testing::autoconfig::cache::{Backend, Row, Swap, Swapped};
use tokio::task::JoinSet;

use Swapped::{Applied, Conflict, TooLarge};

/// A database with room for any number of namespaces.
pub(crate) trait Peer {
    type Cache: Backend;

    fn cache(&self, namespace: &str) -> Self::Cache;

    /// The longest value under `namespace` `limits` and name `v`, where there is a limit worth a
    /// test.
    const LONGEST_VALUE: Option<usize>;
}

pub(crate) async fn holds(peer: &impl Peer) {
    an_absent_namespace_is_empty(&peer.cache("absent")).await;
    rows_are_inserted_updated_and_removed(&peer.cache("life")).await;
    swaps_stand_each_on_its_own(&peer.cache("mixed")).await;
    what_is_expected_may_come_from_memory(&peer.cache("memory")).await;
    three_hundred_rows_are_no_trouble(&peer.cache("many")).await;
    names_and_values_are_kept_byte_for_byte(&peer.cache("bytes/::ключ .?#%\"\\")).await;
    namespaces_do_not_see_each_other(peer).await;
    one_of_many_writers_wins(peer).await;
    values_have_a_limit(peer).await;
}

pub(crate) fn insert(name: &str, value: impl Into<Bytes>) -> Swap {
    Swap { name: name.to_owned(), expected: None, value: Some(value.into()) }
}

pub(crate) fn update(row: &Row, value: impl Into<Bytes>) -> Swap {
    Swap { name: row.name.clone(), expected: Some(row.clone()), value: Some(value.into()) }
}

pub(crate) fn remove(row: &Row) -> Swap {
    Swap { name: row.name.clone(), expected: Some(row.clone()), value: None }
}

async fn swap(cache: &impl Backend, swaps: &[Swap], expected: &[Swapped]) {
    let outcomes = cache.swap(swaps).await.unwrap();
    let names: Vec<&str> = swaps.iter().map(|swap| swap.name.as_str()).collect();
    assert_eq!(outcomes, expected, "{names:?}");
}

pub(crate) async fn content(cache: &impl Backend) -> BTreeMap<String, Bytes> {
    let rows = cache.read_all().await.unwrap();
    rows.into_iter().map(|row| (row.name, row.value)).collect()
}

async fn an_absent_namespace_is_empty(cache: &impl Backend) {
    assert_eq!(cache.read_all().await.unwrap(), []);
    assert_eq!(cache.read("env:a").await.unwrap(), None);
    assert_eq!(cache.swap(&[]).await.unwrap(), []);
}

async fn rows_are_inserted_updated_and_removed(cache: &impl Backend) {
    swap(cache, &[insert("env:a", "one")], &[Applied]).await;
    swap(cache, &[insert("env:a", "other")], &[Conflict]).await;
    let first = cache.read("env:a").await.unwrap().unwrap();
    assert_eq!((first.name.as_str(), &first.value[..]), ("env:a", &b"one"[..]));
    assert_eq!(cache.read_all().await.unwrap(), std::slice::from_ref(&first));

    swap(cache, &[update(&first, "two")], &[Applied]).await;
    swap(cache, &[update(&first, "three")], &[Conflict]).await;
    swap(cache, &[remove(&first)], &[Conflict]).await;
    let second = cache.read("env:a").await.unwrap().unwrap();
    assert_eq!(&second.value[..], b"two");
    assert_eq!(cache.read("env:b").await.unwrap(), None);

    swap(cache, &[remove(&second)], &[Applied]).await;
    swap(cache, &[remove(&second)], &[Conflict]).await;
    swap(cache, &[update(&second, "four")], &[Conflict]).await;
    assert_eq!(cache.read_all().await.unwrap(), []);
    let nothing = Swap { name: "env:a".to_owned(), expected: None, value: None };
    swap(cache, std::slice::from_ref(&nothing), &[Applied]).await;
    swap(cache, &[insert("env:a", "again")], &[Applied]).await;
    swap(cache, &[nothing], &[Conflict]).await;
}

async fn swaps_stand_each_on_its_own(cache: &impl Backend) {
    swap(cache, &[insert("a", "1"), insert("b", "1"), insert("c", "1")], &[Applied; 3]).await;
    let b = cache.read("b").await.unwrap().unwrap();
    let c = cache.read("c").await.unwrap().unwrap();
    let swaps = [insert("a", "2"), update(&b, "2"), insert("d", "2"), remove(&c), remove(&c)];
    let outcomes = cache.swap(&swaps).await.unwrap();
    assert_eq!(outcomes[..3], [Conflict, Applied, Applied]);
    // Of two swaps of one row in one call, exactly one can find what it expects.
    let both = [outcomes[3], outcomes[4]];
    assert!(both == [Applied, Conflict] || both == [Conflict, Applied], "{both:?}");
    let stored = content(cache).await;
    let shown: Vec<(&str, &[u8])> =
        stored.iter().map(|(name, value)| (name.as_str(), &value[..])).collect();
    assert_eq!(shown, [("a", &b"1"[..]), ("b", b"2"), ("d", b"2")]);
}

async fn what_is_expected_may_come_from_memory(cache: &impl Backend) {
    let remembered =
        |value: &str| Row { name: "a".into(), value: value.to_owned().into(), revision: 0 };
    swap(cache, &[insert("a", "1")], &[Applied]).await;
    swap(cache, &[update(&remembered("x"), "2")], &[Conflict]).await;
    swap(cache, &[update(&remembered("1"), "2")], &[Applied]).await;
    swap(cache, &[remove(&remembered("1"))], &[Conflict]).await;
    swap(cache, &[remove(&remembered("2"))], &[Applied]).await;
    swap(cache, &[update(&remembered("2"), "3")], &[Conflict]).await;
}

async fn three_hundred_rows_are_no_trouble(cache: &impl Backend) {
    let name = |number: usize| format!("env:{number:024x}");
    // Not compressible and not alike, as sealed records are.
    let value = |round: u8| {
        move |number: usize| {
            let value: Vec<u8> =
                (0..2_000).map(|at| (at * 31 + number * 7) as u8 ^ round).collect();
            Bytes::from(value)
        }
    };
    let inserts: Vec<Swap> = (0..300).map(|it| insert(&name(it), value(0)(it))).collect();
    swap(cache, &inserts, &[Applied; 300]).await;
    swap(cache, &inserts, &[Conflict; 300]).await;
    let rows = cache.read_all().await.unwrap();
    assert_eq!(rows.len(), 300);
    let updates: Vec<Swap> = rows.iter().map(|row| update(row, b"short".to_vec())).collect();
    swap(cache, &updates, &[Applied; 300]).await;
    let rows = cache.read_all().await.unwrap();
    let removals: Vec<Swap> = rows.iter().skip(1).map(remove).collect();
    swap(cache, &removals, &[Applied; 299]).await;
    assert_eq!(content(cache).await.len(), 1);
}

async fn names_and_values_are_kept_byte_for_byte(cache: &impl Backend) {
    let all: Vec<u8> = (0..=255).collect();
    let rows: [(&str, &[u8]); 6] = [
        ("env:5c8e", &all),
        ("filter:web.small", b""),
        ("ключ 键", b"\0"),
        ("a/b", b"="),
        ("? # % & + \" \\ ' <>", b"\r\n"),
        ("A", b"\xff\xfe"),
    ];
    let inserts: Vec<Swap> =
        rows.iter().map(|(name, value)| insert(name, value.to_vec())).collect();
    swap(cache, &inserts, &[Applied; 6]).await;
    let expected: BTreeMap<String, Bytes> =
        rows.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec().into())).collect();
    assert_eq!(content(cache).await, expected);
    for (name, value) in rows {
        let row = cache.read(name).await.unwrap().unwrap();
        assert_eq!((row.name.as_str(), &row.value[..]), (name, value));
        swap(cache, &[update(&row, all.clone())], &[Applied]).await;
        let row = cache.read(name).await.unwrap().unwrap();
        swap(cache, &[remove(&row)], &[Applied]).await;
    }
    assert_eq!(content(cache).await, BTreeMap::new());
}

async fn namespaces_do_not_see_each_other(peer: &impl Peer) {
    for (one, other) in [("ld", "ld-staging"), ("a", "a.pilotlight"), ("p", "P")] {
        let (one, other) = (peer.cache(one), peer.cache(other));
        swap(&other, &[insert("env:a", "theirs")], &[Applied]).await;
        assert_eq!(one.read_all().await.unwrap(), []);
        assert_eq!(one.read("env:a").await.unwrap(), None);
        swap(&one, &[insert("env:a", "ours")], &[Applied]).await;
        let row = one.read("env:a").await.unwrap().unwrap();
        swap(&one, &[remove(&row)], &[Applied]).await;
        assert_eq!(&other.read("env:a").await.unwrap().unwrap().value[..], b"theirs");
    }
}

async fn one_of_many_writers_wins(peer: &impl Peer) {
    let mut writers = JoinSet::new();
    for number in 0..8_u8 {
        let cache = peer.cache("race");
        writers.spawn(async move { cache.swap(&[insert("a", vec![number])]).await.unwrap()[0] });
    }
    let outcomes = writers.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Applied).count(), 1, "{outcomes:?}");

    let mut adders = JoinSet::new();
    for _ in 0..4 {
        let cache = peer.cache("race");
        adders.spawn(async move {
            for _ in 0..5 {
                loop {
                    let row = cache.read("a").await.unwrap().unwrap();
                    let more: Vec<u8> = row.value.iter().copied().chain([0]).collect();
                    if cache.swap(&[update(&row, more)]).await.unwrap() == [Applied] {
                        break;
                    }
                }
            }
        });
    }
    adders.join_all().await;
    let row = peer.cache("race").read("a").await.unwrap().unwrap();
    assert_eq!(row.value.len(), 1 + 4 * 5, "no addition was lost");
}

async fn values_have_a_limit<P: Peer>(peer: &P) {
    let Some(longest) = P::LONGEST_VALUE else { return };
    let cache = peer.cache("limits");
    let swaps = [
        insert("a", "1"),
        insert("w", vec![0xfe; longest + 1]),
        insert("v", vec![0xfe; longest]),
        insert("b", "1"),
    ];
    swap(&cache, &swaps, &[Applied, TooLarge, Applied, Applied]).await;
    let stored = content(&cache).await;
    assert_eq!(stored.keys().collect::<Vec<_>>(), ["a", "b", "v"]);
    assert_eq!(stored["v"].len(), longest);
    let row = cache.read("v").await.unwrap().unwrap();
    swap(&cache, &[update(&row, vec![0; longest + 1])], &[TooLarge]).await;
    swap(&cache, &[update(&row, vec![0xfd; longest])], &[Applied]).await;
    let row = cache.read("v").await.unwrap().unwrap();
    swap(&cache, &[remove(&row)], &[Applied]).await;
}
