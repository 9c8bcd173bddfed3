//! Messages of an environment's flag stream: put, patch, delete. Pure.
//!
//! Only envelopes and the heads of items are decoded; an item's JSON stays the bytes that came in,
//! in the buffer of its event. One item that cannot be read makes the whole message malformed
//! (ld-relay v8): a put that is taken in part would remove flags silently.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::model::raw_json::{ItemHead, Unbounded, Version, bounded_text, last, members};
use crate::model::{DataSet, Item, ItemKey, ItemKind, ItemMap};

/// A message of the stream, decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FlagMessage {
    /// The whole data set; versions do not matter.
    Put(DataSet),
    /// One item at a version; a tombstone for a delete.
    Upsert(ItemKey, Item),
    /// An event or a collection that this version does not know.
    Ignored,
}

/// Reason why a message cannot be used. Texts never quote the data.
#[derive(Debug, thiserror::Error)]
#[error("{what} cannot be used: {problem}")]
pub struct FlagMessageError {
    what: &'static str,
    problem: String,
}

/// Decodes one event. Unknown events are ignored without looking at their data.
pub(super) fn decode(event: &str, data: &Bytes) -> Result<FlagMessage, FlagMessageError> {
    type Decode = fn(&Bytes, &str) -> Result<FlagMessage, Problem>;
    let (what, decode): (_, Decode) = match event {
        "put" => ("put event", decode_put),
        "patch" => ("patch event", decode_patch),
        "delete" => ("delete event", decode_delete),
        _ => return Ok(FlagMessage::Ignored),
    };
    bounded_text(data)
        .map_err(Problem::from)
        .and_then(|text| decode(data, text))
        .map_err(|Problem(problem)| FlagMessageError { what, problem })
}

/// Decodes all flags and segments of an environment, as a put has them.
pub fn data_set(data: &Bytes) -> Result<DataSet, FlagMessageError> {
    bounded_text(data)
        .map_err(Problem::from)
        .and_then(|text| decode_set(data, text))
        .map_err(|Problem(problem)| FlagMessageError { what: "data", problem })
}

#[cfg(test)]
impl FlagMessageError {
    /// An error for tests of other modules.
    pub(crate) fn sample() -> Self {
        Self { what: "put event", problem: "it has no data".to_owned() }
    }
}

struct Problem(String);

impl From<serde_json::Error> for Problem {
    /// Keeps the place and the class, drops the text, which may quote a value.
    fn from(error: serde_json::Error) -> Self {
        Self(format!(
            "{:?} error in its JSON at line {} column {}",
            error.classify(),
            error.line(),
            error.column()
        ))
    }
}

impl From<&str> for Problem {
    fn from(problem: &str) -> Self {
        Self(problem.to_owned())
    }
}

impl From<Unbounded> for Problem {
    fn from(problem: Unbounded) -> Self {
        Self(problem.to_string())
    }
}

fn decode_put(data: &Bytes, text: &str) -> Result<FlagMessage, Problem> {
    let envelope = members(text)?;
    // Older relays leave the path out.
    if let Some(path) = last(&envelope, "path")
        && serde_json::from_str::<Cow<'_, str>>(path.get())? != "/"
    {
        return Ok(FlagMessage::Ignored);
    }
    let set = last(&envelope, "data").ok_or("it has no data")?;
    Ok(FlagMessage::Put(decode_set(data, set.get())?))
}

fn decode_set(data: &Bytes, text: &str) -> Result<DataSet, Problem> {
    let collections = members(text)?;
    let mut set = DataSet::default();
    for kind in ItemKind::ALL {
        if let Some(collection) = last(&collections, kind.wire_name()) {
            let items = members(collection.get())?;
            let items: Result<ItemMap, Problem> = items
                .into_iter()
                .map(|(key, raw)| Ok((Arc::from(key), Arc::new(item(data, raw)?))))
                .collect();
            *set.collection_mut(kind) = items?;
        }
    }
    Ok(set)
}

fn decode_patch(data: &Bytes, text: &str) -> Result<FlagMessage, Problem> {
    let envelope = members(text)?;
    let Some(key) = target(&envelope)? else { return Ok(FlagMessage::Ignored) };
    let raw = last(&envelope, "data").ok_or("it has no data")?;
    Ok(FlagMessage::Upsert(key, item(data, raw)?))
}

fn decode_delete(_: &Bytes, text: &str) -> Result<FlagMessage, Problem> {
    let envelope = members(text)?;
    let Some(key) = target(&envelope)? else { return Ok(FlagMessage::Ignored) };
    let version = last(&envelope, "version").ok_or("it has no version")?;
    let Version(version) = serde_json::from_str(version.get())?;
    Ok(FlagMessage::Upsert(key, Item::tombstone(version)))
}

/// Item of a patch or delete; `None` for a collection that this version does not know. The key is
/// the rest of the path verbatim (ld-relay v8: no percent-decoding).
fn target(envelope: &[(Cow<'_, str>, &RawValue)]) -> Result<Option<ItemKey>, Problem> {
    let path = last(envelope, "path").ok_or("it has no path")?;
    let path: Cow<'_, str> = serde_json::from_str(path.get())?;
    if path.is_empty() {
        return Err("its path is empty".into());
    }
    let found = ItemKind::ALL.into_iter().find_map(|kind| {
        let key = path.strip_prefix('/')?.strip_prefix(kind.wire_name())?.strip_prefix('/')?;
        (!key.is_empty()).then(|| ItemKey::new(kind, key))
    });
    Ok(found)
}

fn item(data: &Bytes, raw: &RawValue) -> Result<Item, Problem> {
    let head = ItemHead::of(raw.get())?;
    if head.deleted {
        return Ok(Item::tombstone(head.version));
    }
    Ok(Item::live(head.version, data.slice_ref(raw.get().as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::raw_json::NESTING_MAX;

    fn message(event: &str, data: &'static str) -> FlagMessage {
        decode(event, &Bytes::from_static(data.as_bytes())).unwrap()
    }

    #[test]
    fn a_put_keeps_the_bytes_of_its_items() {
        let data = r#" {"data": {"segments" :{"s":{ "version":1e0 } }, "cats":{"x":1},
            "flags":{"b":{"version":2,"new":[1.50,{"k":"\u00e9"}]}, "\u0061":{"version":3},
            "gone":{"version":4,"deleted":true}, "n":{"version":null}, "b":{"version":5}}},
            "path":"/"}"#;
        let FlagMessage::Put(set) = message("put", data) else { panic!("a put") };
        let shown: Vec<_> = set
            .iter()
            .map(|(kind, key, item)| {
                let json = item.json.as_deref().map(|json| std::str::from_utf8(json).unwrap());
                format!("{}/{key} {} {json:?}", kind.wire_name(), item.version)
            })
            .collect();
        assert_eq!(
            shown,
            [
                r#"segments/s 1 Some("{ \"version\":1e0 }")"#,
                r#"flags/a 3 Some("{\"version\":3}")"#,
                r#"flags/b 5 Some("{\"version\":5}")"#,
                "flags/gone 4 None",
                r#"flags/n 0 Some("{\"version\":null}")"#,
            ]
        );
    }

    #[test]
    fn patches_and_deletes_name_one_item() {
        let check = |event: &str, data: &'static str, expected: FlagMessage| {
            assert_eq!(message(event, data), expected, "{event} {data}");
        };
        let flag = |key: &str| ItemKey::new(ItemKind::Flag, key);
        check(
            "patch",
            r#"{"data":{"version":7,"x":1},"path":"/flags/a/b%20c"}"#,
            FlagMessage::Upsert(flag("a/b%20c"), Item::live(7, r#"{"version":7,"x":1}"#)),
        );
        check(
            "patch",
            r#"{"path":"/flags/a","data":{"version":7,"deleted":true}}"#,
            FlagMessage::Upsert(flag("a"), Item::tombstone(7)),
        );
        check(
            "delete",
            r#"{"path":"/segments/s","version":9}"#,
            FlagMessage::Upsert(ItemKey::new(ItemKind::Segment, "s"), Item::tombstone(9)),
        );
        for (event, data) in [
            ("patch", r#"{"path":"/cats/x","data":true}"#),
            ("delete", r#"{"path":"/cats/x"}"#),
            ("patch", r#"{"path":"/flags/","data":{}}"#),
            ("put", r#"{"path":"/elsewhere","data":{}}"#),
            ("indirect/put", "not json"),
        ] {
            check(event, data, FlagMessage::Ignored);
        }
    }

    #[test]
    fn malformed_messages_are_errors_that_quote_no_data() {
        for (event, data) in [
            ("put", ""),
            ("put", "secret-flag"),
            ("put", r#"{"path":"/"}"#),
            ("put", r#"{"path":"/","data":true}"#),
            ("put", r#"{"path":"/","data":{"flags":"secret-flag"}}"#),
            ("put", r#"{"path":"/","data":{"flags":{"secret-flag":null}}}"#),
            ("put", r#"{"path":"/","data":{"flags":{"a":{"version":"secret-flag"}}}}"#),
            ("put", r#"{"path":"/","data":{"flags":{"a":{"version":-1}}}}"#),
            ("put", r#"{"path":"/","data":{"flags":{"a":{"version":1.5}}}}"#),
            ("put", r#"{"path":"/","data":{"flags":{"a":{"version":1}}}} secret-flag"#),
            ("patch", r#"{"data":{"version":1}}"#),
            ("patch", r#"{"path":"","data":{"version":1}}"#),
            ("patch", r#"{"path":"/flags/secret-flag"}"#),
            ("patch", r#"{"path":"/flags/a","data":[]}"#),
            ("delete", r#"{"path":"/flags/a"}"#),
            ("delete", r#"{"path":7,"version":1}"#),
        ] {
            let error = decode(event, &Bytes::from_static(data.as_bytes())).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret-flag"), "{data}: {error}");
        }
        let bad_text = Bytes::from_static(b"{\"path\":\"/\xff\"}");
        assert!(decode("put", &bad_text).is_err());
    }

    #[test]
    fn nesting_is_bounded() {
        let check = |value: String, accepted: bool| {
            let patch = format!(r#"{{"path":"/flags/a","data":{{"version":1,"x":{value}}}}}"#);
            assert_eq!(decode("patch", &patch.into()).is_ok(), accepted);
            let put = format!(r#"{{"path":"/","data":{{"flags":{{"a":{{"x":{value}}}}}}}}}"#);
            assert_eq!(decode("put", &put.into()).is_ok(), accepted);
        };
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        check(nested(NESTING_MAX - 4), true);
        check(nested(NESTING_MAX - 1), false);
        check(nested(1_000_000), false);
        check(format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000)), false);
        // Brackets in a string, or side by side, are no nesting.
        check(format!(r#""\\\"{}""#, "[".repeat(5_000)), true);
        check(format!("[{}1]", "[],{},".repeat(5_000)), true);
        assert!(decode("put", &nested(100_000).into()).is_err());
    }
}
