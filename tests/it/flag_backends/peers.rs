//! What the contract needs of a database, and the words in which it speaks of rows.

use std::collections::BTreeMap;

use bytes::Bytes;
use pilotlight::testing::flagstore::backend::{
    Condition, Filled, FlagBackend, ROWS_MAX, Row, StoredRow, StoredRows, Upserted,
};
use pilotlight::testing::flagstore::layout;
use pilotlight::testing::flagstore::marker::{Marker, Note};
use pilotlight::testing::model::{Item, ItemKey, ItemKind};

use ItemKind::{Flag, Segment};

/// A database with room for any number of environments.
pub(crate) trait Peer: Sync {
    type Flags: FlagBackend;

    /// Which sets it fills so that no reader sees a part of them.
    const FILLS: Fills;

    /// The longest JSON of a flag with the key `v` and a version of one digit under the prefix
    /// `sizes`, where there is a limit worth a test.
    const LONGEST_JSON: Option<usize>;

    /// A backend of its own for the environment with this prefix.
    fn flags(&self, prefix: &str) -> Self::Flags;

    /// Writes a value under an item's key as somebody else would, whatever it is.
    async fn plant(&self, prefix: &str, key: &ItemKey, value: &str);

    /// Removes the marker.
    async fn unmark(&self, prefix: &str);

    /// Sets the marker as an SDK does.
    async fn mark_as_sdk(&self, prefix: &str);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fills {
    All,
    Small,
    None,
}

pub(crate) fn flag(key: &str) -> ItemKey {
    ItemKey::new(Flag, key)
}

pub(crate) fn segment(key: &str) -> ItemKey {
    ItemKey::new(Segment, key)
}

/// The row of a live item whose JSON tells its version and `mark`.
pub(crate) fn live_row(key: &ItemKey, version: u64, mark: &str) -> Row {
    let name = &*key.key;
    let json = serde_json::json!({ "key": name, "version": version, "salt": mark }).to_string();
    layout::row(key, &Item::live(version, json))
}

/// A row for each word: `a1` is the flag `a` in version 1, `a-1` its tombstone, `/a1` a segment.
pub(crate) fn rows(text: &str) -> Vec<Row> {
    text.split_whitespace()
        .map(|word| {
            let (kind, word) = match word.strip_prefix('/') {
                Some(word) => (Segment, word),
                None => (Flag, word),
            };
            let digits = word.find(|char: char| char == '-' || char.is_ascii_digit()).unwrap();
            let key = ItemKey::new(kind, &word[..digits]);
            match word[digits..].strip_prefix('-') {
                Some(version) => layout::row(&key, &Item::tombstone(version.parse().unwrap())),
                None => live_row(&key, word[digits..].parse().unwrap(), "s"),
            }
        })
        .collect()
}

/// What is stored, in the words of [`rows`], sorted; `!` for the marker, `a?` for what cannot be
/// decoded.
pub(crate) fn shown(found: &StoredRows) -> String {
    let mut words: Vec<String> = found.rows.iter().map(word).collect();
    words.extend(found.marker.as_ref().map(|_| "!".to_owned()));
    words.sort();
    words.join(" ")
}

fn word(row: &StoredRow) -> String {
    let slash = if row.key.kind == Segment { "/" } else { "" };
    let head = row.head.map(|head| {
        let dash = if head.deleted { "-" } else { "" };
        format!("{dash}{}", head.version)
    });
    format!("{slash}{}{}", row.key.key, head.unwrap_or_else(|| "?".to_owned()))
}

#[track_caller]
pub(crate) fn holds(backend: &impl FlagBackend, expected: &str) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let found = backend.read().await.unwrap();
        assert_eq!(shown(&found), expected, "at {place}");
    }
}

/// Upserts rows in the words of [`rows`], with a marker under the condition that it is of the same
/// set; `expected` has a letter for each outcome: written, not newer, no marker, too large.
#[track_caller]
pub(crate) fn upserts(
    backend: &impl FlagBackend,
    text: &str,
    marker: Option<&Marker>,
    expected: &str,
) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let condition = marker.cloned().map(Condition::SameSet);
        let outcomes = backend.upsert(&rows(text), condition.as_ref()).await.unwrap();
        assert_eq!(letters(&outcomes), expected, "{text} at {place}");
    }
}

pub(crate) fn letters(outcomes: &[Upserted]) -> String {
    let letter = |outcome: &Upserted| match outcome {
        Upserted::Written => 'w',
        Upserted::NotNewer => 'n',
        Upserted::Contended => 'c',
        Upserted::Unguarded => 'm',
        Upserted::TooLarge => 'l',
    };
    outcomes.iter().map(letter).collect()
}

/// Writes a whole set as the keeper does: at once where that is possible, else item by item with
/// the marker last.
pub(crate) async fn write_whole(backend: &impl FlagBackend, rows: &[Row]) {
    match backend.fill(rows, &Note::default()).await.unwrap() {
        Filled::Done => {}
        Filled::NotEmpty => panic!("something is stored already"),
        Filled::Impossible => {
            for chunk in rows.chunks(ROWS_MAX) {
                let outcomes = backend.upsert(chunk, None).await.unwrap();
                assert_eq!(letters(&outcomes), "w".repeat(chunk.len()));
            }
            backend.mark(None, &Note::default()).await.unwrap().unwrap();
        }
    }
}

pub(crate) fn jsons(found: &StoredRows) -> BTreeMap<ItemKey, Bytes> {
    found.rows.iter().map(|row| (row.key.clone(), row.json.clone())).collect()
}

pub(crate) fn wanted(rows: &[Row]) -> BTreeMap<ItemKey, Bytes> {
    rows.iter().map(|row| (row.key.clone(), row.json.clone())).collect()
}
