//! Promises of every table.

use std::collections::BTreeMap;

use bytes::Bytes;
use pilotlight::testing::storage::table::{Row, RowName, Table, Value, Write, Written, get_one};
use tokio::task::JoinSet;

use Written::{Applied as Done, Conflict, TooLarge, Unguarded};

use super::creations;
use super::space::{Change, Space, content, insert, key, nothing, remove, update};

/// A database with room for any number of name spaces.
pub(crate) trait Peer: Sync {
    type Table: Table;

    /// A table of its own.
    fn table(&self) -> Self::Table;

    /// Stands before each name.
    fn tag(&self) -> &'static str {
        ""
    }

    /// True if values are any bytes and not only text.
    const BINARY: bool = true;

    /// True if the guard is checked in the same call as the rows.
    const CHECKS_GUARD: bool;

    /// Sets that are created so that no reader sees a part of them.
    const CREATES: Creates;

    /// The longest value in the name space `limits` under the key `v`, where there is a limit
    /// worth a test.
    const LONGEST_VALUE: Option<usize>;

    fn space(&self, name: &str) -> Space<Self::Table> {
        Space::new(self.table(), format!("{}{name}", self.tag()))
    }

    fn alone(&self, name: &str) -> RowName {
        RowName::alone(format!("{}{name}", self.tag()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Creates {
    All,
    Small,
    None,
}

pub(crate) async fn holds<P: Peer>(peer: &P) {
    an_absent_space_is_empty(peer).await;
    rows_are_inserted_updated_and_removed(&peer.space("life")).await;
    rows_that_stand_alone_are_written_alike(peer).await;
    writes_stand_each_on_its_own(&peer.space("mixed")).await;
    an_expected_row_may_come_from_memory(&peer.space("memory")).await;
    thousands_of_rows_are_no_trouble(peer).await;
    if P::BINARY {
        values_are_kept_byte_for_byte(&peer.space("bytes/::ключ .?#%\"\\")).await;
    }
    keys_are_kept_whatever_is_in_them(peer).await;
    spaces_do_not_see_each_other(peer).await;
    one_of_many_writers_wins(peer).await;
    values_have_a_limit(peer).await;
    a_guard_that_was_replaced_is_noticed(peer).await;
    creations::a_set_is_created_whole_or_not_at_all(peer).await;
    creations::nothing_is_created_beside_what_is_there(peer).await;
    creations::one_of_many_creations_wins(peer).await;
}

async fn an_absent_space_is_empty(peer: &impl Peer) {
    let space = peer.space("absent");
    assert_eq!(space.read_all().await.unwrap(), []);
    assert_eq!(space.get("env:a").await.unwrap(), None);
    assert_eq!(space.write(&[]).await.unwrap(), []);
    assert_eq!(space.table.get(&[], 0).await.unwrap(), []);
    let marker = peer.alone("absent-marker");
    let found = space.table.read(std::slice::from_ref(&space.name), Some(&marker)).await.unwrap();
    assert_eq!((found.rows, found.markers), (Vec::new(), [None, None]));
    let signs = space.table.signs(std::slice::from_ref(&space.name), &marker).await.unwrap();
    assert_eq!((signs.marker, signs.counts.unwrap_or(vec![0])), (None, vec![0]));
}

async fn rows_are_inserted_updated_and_removed(space: &Space<impl Table>) {
    space.writes(&[insert("env:a", "one")], &[Done]).await;
    space.writes(&[insert("env:a", "other")], &[Conflict]).await;
    let first = space.get("env:a").await.unwrap().unwrap();
    assert_eq!((&first.name, &first.value.bytes[..]), (&space.row_name("env:a"), &b"one"[..]));
    assert_eq!(space.read_all().await.unwrap(), std::slice::from_ref(&first));

    space.writes(&[update(&first, "two")], &[Done]).await;
    space.writes(&[update(&first, "three")], &[Conflict]).await;
    space.writes(&[remove(&first)], &[Conflict]).await;
    let second = space.get("env:a").await.unwrap().unwrap();
    assert_eq!(second.value.bytes, "two");
    assert_eq!(space.get("env:b").await.unwrap(), None);

    space.writes(&[remove(&second)], &[Done]).await;
    space.writes(&[remove(&second)], &[Conflict]).await;
    space.writes(&[update(&second, "four")], &[Conflict]).await;
    assert_eq!(space.read_all().await.unwrap(), []);
    space.writes(&[nothing("env:a")], &[Done]).await;
    space.writes(&[insert("env:a", "again")], &[Done]).await;
    space.writes(&[nothing("env:a")], &[Conflict]).await;
}

/// A write to a row that stands alone.
pub(super) fn alone(name: &RowName, expected: Option<&Row>, value: Option<&'static str>) -> Write {
    let value = value.map(|value| Bytes::from(value).into());
    Write { name: name.clone(), expected: expected.cloned(), value }
}

async fn rows_that_stand_alone_are_written_alike(peer: &impl Peer) {
    let (table, name) = (peer.table(), peer.alone("one-alone"));
    let check = async |write: Write, expected| {
        assert_eq!(table.write(&[write], None).await.unwrap(), [expected]);
        get_one(&table, Some(&name)).await.unwrap()
    };
    let first = check(alone(&name, None, Some("one")), Done).await.unwrap();
    assert_eq!((&first.name, &first.value.bytes), (&name, &Bytes::from("one")));
    assert_eq!(check(alone(&name, None, Some("two")), Conflict).await.unwrap(), first);
    let second = check(alone(&name, Some(&first), Some("two")), Done).await.unwrap();
    assert_eq!(second.value.bytes, "two");
    assert_eq!(check(alone(&name, Some(&first), None), Conflict).await.unwrap(), second);
    assert_eq!(check(alone(&name, Some(&second), None), Done).await, None);
    assert_eq!(check(alone(&name, Some(&second), None), Conflict).await, None);
}

async fn writes_stand_each_on_its_own(space: &Space<impl Table>) {
    space.writes(&[insert("a", "1"), insert("b", "1"), insert("c", "1")], &[Done; 3]).await;
    let b = space.get("b").await.unwrap().unwrap();
    let c = space.get("c").await.unwrap().unwrap();
    let changes = [insert("a", "2"), update(&b, "2"), insert("d", "2"), remove(&c), remove(&c)];
    let outcomes = space.write(&changes).await.unwrap();
    assert_eq!(outcomes[..3], [Conflict, Done, Done]);
    // Of two writes of one row in one call, exactly one can find the row that it expects.
    let both = [outcomes[3], outcomes[4]];
    assert!(both == [Done, Conflict] || both == [Conflict, Done], "{both:?}");
    let outcomes = space.write(&[insert("e", "1"), insert("e", "2"), insert("e", "3")]).await;
    assert_eq!(outcomes.unwrap().iter().filter(|it| **it == Done).count(), 1);
    let stored = content(space).await;
    let shown: Vec<(&str, &[u8])> =
        stored.iter().map(|(name, value)| (name.as_str(), &value[..])).collect();
    assert_eq!(shown[..3], [("a", &b"1"[..]), ("b", b"2"), ("d", b"2")]);
    assert_eq!(shown.len(), 4);
}

async fn an_expected_row_may_come_from_memory(space: &Space<impl Table>) {
    let remembered = |value: &str| Row {
        name: space.row_name("a"),
        value: Bytes::from(value.to_owned()).into(),
        revision: 0,
    };
    space.writes(&[insert("a", "1")], &[Done]).await;
    space.writes(&[update(&remembered("x"), "2")], &[Conflict]).await;
    space.writes(&[update(&remembered("1"), "2")], &[Done]).await;
    space.writes(&[remove(&remembered("1"))], &[Conflict]).await;
    space.writes(&[remove(&remembered("2"))], &[Done]).await;
    space.writes(&[update(&remembered("2"), "3")], &[Conflict]).await;
}

async fn thousands_of_rows_are_no_trouble(peer: &impl Peer) {
    const COUNT: usize = 1_100;
    let space = peer.space("many");
    let name = |number: usize| format!("env:{number:024x}");
    let inserts: Vec<Change> =
        (0..COUNT).map(|it| insert(&name(it), format!("{it} {}", "x".repeat(1_000)))).collect();
    space.writes(&inserts, &[Done; COUNT]).await;
    space.writes(&inserts, &[Conflict; COUNT]).await;
    let rows = space.read_all().await.unwrap();
    assert_eq!(rows.len(), COUNT);
    // By name, in their order, with some that are not there.
    let names: Vec<RowName> = (0..300).map(|it| space.row_name(&name(it * 5))).collect();
    let found = space.table.get(&names, 300_000).await.unwrap();
    for (number, row) in found.iter().enumerate() {
        let value = row.as_ref().map(|row| row.value.bytes.split(|byte| *byte == b' ').next());
        let expected = (number * 5).to_string();
        let expected = (number * 5 < COUNT).then_some(Some(expected.as_bytes()));
        assert_eq!(value, expected);
    }
    let marker = peer.alone("many-marker");
    let signs = space.table.signs(std::slice::from_ref(&space.name), &marker).await.unwrap();
    let counts = signs.counts;
    assert_eq!(counts.unwrap_or(vec![COUNT as u64]), [COUNT as u64]);
    // Every third one has changed meanwhile.
    let third = |number: &usize| number.is_multiple_of(3);
    let changed = rows.iter().step_by(3).map(|row| update(row, "peer")).collect::<Vec<_>>();
    assert!(space.write(&changed).await.unwrap().iter().all(|it| *it == Done));
    let updates: Vec<Change> = rows.iter().map(|row| update(row, "short")).collect();
    let outcomes = space.write(&updates).await.unwrap();
    let expected = (0..COUNT).map(|it| if third(&it) { Conflict } else { Done });
    assert_eq!(outcomes, expected.collect::<Vec<_>>());
    let rows = space.read_all().await.unwrap();
    let removals: Vec<Change> = rows.iter().skip(1).map(remove).collect();
    space.writes(&removals, &[Done; COUNT - 1]).await;
    assert_eq!(content(&space).await.len(), 1);
}

async fn values_are_kept_byte_for_byte(space: &Space<impl Table>) {
    let all: Vec<u8> = (0..=255).collect();
    let rows: [(&str, &[u8]); 6] = [
        ("env:5c8e", &all),
        ("filter:web.small", b""),
        ("ключ 键", b"\0"),
        ("a/b", b"="),
        ("? # % & + \" \\ ' <>", b"\r\n"),
        ("A", b"\xff\xfe"),
    ];
    let inserts: Vec<Change> =
        rows.iter().map(|(name, value)| insert(name, value.to_vec())).collect();
    space.writes(&inserts, &[Done; 6]).await;
    let expected: BTreeMap<String, Bytes> =
        rows.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec().into())).collect();
    assert_eq!(content(space).await, expected);
    for (name, value) in rows {
        let row = space.get(name).await.unwrap().unwrap();
        assert_eq!((&*key(&row), &row.value.bytes[..]), (name, value));
        space.writes(&[update(&row, all.clone())], &[Done]).await;
        let row = space.get(name).await.unwrap().unwrap();
        space.writes(&[remove(&row)], &[Done]).await;
    }
    assert_eq!(content(space).await, BTreeMap::new());
}

const KEYS: [&str; 38] = [
    "a",
    "A",
    "a b",
    " a ",
    "a/b",
    "a//b",
    "/a",
    "a/",
    "..",
    ".",
    "../a",
    "a/../b",
    "a/./b",
    "\"a\"",
    "'",
    "\\",
    "? # % & + = ; : @ $ , ~ * ! ( ) [ ] { } | ^ `",
    "%2F",
    "%00",
    "ключ",
    "鍵",
    "é",
    "e\u{301}",
    "🚩",
    "\u{a0}",
    "\u{200b}",
    "\t",
    "\r\n",
    "\u{7f}",
    "$inited",
    "features",
    "$deleted",
    "{a}",
    "a:b",
    "-",
    "0",
    "null",
    "=+",
];

async fn keys_are_kept_whatever_is_in_them(peer: &impl Peer) {
    let (one, other) = (peer.space("keys"), peer.space("keys-too"));
    let all = |value: &str| -> BTreeMap<String, Bytes> {
        let pair = |key: &&str| ((*key).to_owned(), format!("{key} {value}").into());
        KEYS.iter().map(pair).collect()
    };
    let inserts: Vec<Change> =
        all("1").iter().map(|(key, value)| insert(key, value.clone())).collect();
    // Some alone, some together: the ways may differ.
    for (round, changes) in inserts.chunks(7).enumerate() {
        for changes in changes.chunks(1 + round % 3) {
            one.writes(changes, &vec![Done; changes.len()]).await;
        }
    }
    other.writes(&inserts, &[Done; KEYS.len()]).await;
    assert_eq!(content(&one).await, all("1"));
    let names: Vec<RowName> = KEYS.iter().map(|key| one.row_name(key)).collect();
    let mut found = one.table.get(&names, 0).await.unwrap();
    for name in names.iter().take(3) {
        found.extend(one.table.get(std::slice::from_ref(name), 0).await.unwrap());
    }
    for (row, name) in found.iter().zip(names.iter().cycle()) {
        let row = row.as_ref().unwrap();
        assert_eq!(&row.name, name);
        assert_eq!(row.value.bytes, format!("{} 1", key(row)));
    }
    let updates: Vec<Change> = found[..KEYS.len()]
        .iter()
        .flatten()
        .map(|row| update(row, format!("{} 2", key(row))))
        .collect();
    one.writes(&updates, &[Done; KEYS.len()]).await;
    one.writes(&updates, &[Conflict; KEYS.len()]).await;
    assert_eq!((content(&one).await, content(&other).await), (all("2"), all("1")));
    let removals: Vec<Change> = one.read_all().await.unwrap().iter().map(remove).collect();
    one.writes(&removals, &[Done; KEYS.len()]).await;
    assert_eq!((content(&one).await.len(), content(&other).await), (0, all("1")));
}

async fn spaces_do_not_see_each_other(peer: &impl Peer) {
    let names = [
        "ld",
        "ld-staging",
        "ld.x",
        "l",
        "LD",
        "ld:x",
        "ld$inited",
        "{ld}",
        "ключ ?#%",
        "a.pilotlight",
    ];
    for (place, name) in names.iter().enumerate() {
        peer.space(name).writes(&[insert("env:a", place.to_string())], &[Done]).await;
    }
    let ours = peer.space("ld");
    let row = ours.get("env:a").await.unwrap().unwrap();
    ours.writes(&[remove(&row)], &[Done]).await;
    assert_eq!(ours.read_all().await.unwrap(), []);
    for (place, name) in names.iter().enumerate().skip(1) {
        let expected = BTreeMap::from([("env:a".to_owned(), place.to_string().into())]);
        assert_eq!(content(&peer.space(name)).await, expected, "{name}");
    }
}

async fn one_of_many_writers_wins(peer: &impl Peer) {
    let mut writers = JoinSet::new();
    for number in 0..8 {
        let space = peer.space("race");
        writers.spawn(
            async move { space.write(&[insert("a", number.to_string())]).await.unwrap()[0] },
        );
    }
    let outcomes = writers.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Done).count(), 1, "{outcomes:?}");

    let mut adders = JoinSet::new();
    for _ in 0..4 {
        let space = peer.space("race");
        adders.spawn(async move {
            for _ in 0..5 {
                loop {
                    let row = space.get("a").await.unwrap().unwrap();
                    let more = [&row.value.bytes[..], b"+"].concat();
                    if space.write(&[update(&row, more)]).await.unwrap() == [Done] {
                        break;
                    }
                }
            }
        });
    }
    adders.join_all().await;
    let row = peer.space("race").get("a").await.unwrap().unwrap();
    assert_eq!(row.value.bytes.len(), 1 + 4 * 5, "no addition was lost");
}

async fn values_have_a_limit<P: Peer>(peer: &P) {
    let Some(longest) = P::LONGEST_VALUE else { return };
    let space = peer.space("limits");
    let long = |letter: u8, bytes: usize| vec![letter; bytes];
    let too_long = Value::from(Bytes::from(long(b'w', longest + 1)));
    assert!(!space.table.takes(&space.row_name("v"), &too_long));
    let changes = [
        insert("a", "1"),
        insert("w", long(b'w', longest + 1)),
        insert("v", long(b'v', longest)),
        insert("b", "1"),
    ];
    space.writes(&changes, &[Done, TooLarge, Done, Done]).await;
    let stored = content(&space).await;
    assert_eq!(stored.keys().collect::<Vec<_>>(), ["a", "b", "v"]);
    assert_eq!(stored["v"].len(), longest);
    let row = space.get("v").await.unwrap().unwrap();
    space.writes(&[update(&row, long(b'v', longest + 1))], &[TooLarge]).await;
    space.writes(&[update(&row, long(b'x', longest))], &[Done]).await;
    let row = space.get("v").await.unwrap().unwrap();
    space.writes(&[remove(&row)], &[Done]).await;
}

async fn a_guard_that_was_replaced_is_noticed<P: Peer>(peer: &P) {
    let (space, name) = (peer.space("guarded"), peer.alone("guard"));
    let set = async |write: Write| {
        assert_eq!(space.table.write(&[write], None).await.unwrap(), [Done]);
        get_one(&space.table, Some(&name)).await.unwrap()
    };
    let guard = set(alone(&name, None, Some("one"))).await.unwrap();
    let write =
        async |changes: &[Change], guard: &Row| space.guarded(changes, Some(guard)).await.unwrap();
    let many = |value: &'static str| -> Vec<Change> {
        (0..100).map(|number| insert(&format!("{value} {number}"), value)).collect()
    };
    assert_eq!(write(&many("first"), &guard).await, [Done; 100]);
    // A row that is not as expected says so, and the others are written.
    let mut changes = many("second");
    changes[50] = insert("first 50", "other");
    let mut expected = [Done; 100];
    expected[50] = Conflict;
    assert_eq!(write(&changes, &guard).await, expected);
    let row = space.get("first 0").await.unwrap().unwrap();
    assert_eq!(write(&[remove(&row), insert("x", "1")], &guard).await, [Done, Done]);

    let refused = if P::CHECKS_GUARD { Unguarded } else { Done };
    let newer = set(alone(&name, Some(&guard), Some("two"))).await.unwrap();
    assert_eq!(write(&many("third"), &guard).await, [refused; 100]);
    let rows = space.read_all().await.unwrap().len();
    assert_eq!(rows, if P::CHECKS_GUARD { 199 } else { 299 });
    assert_eq!(write(&many("fourth"), &newer).await, [Done; 100]);
    assert_eq!(set(alone(&name, Some(&newer), None)).await, None);
    assert_eq!(write(&[insert("y", "1")], &newer).await, [refused]);
}
