//! The bytes that LaunchDarkly sends: SSE events, and the JSON inside.
//!
//! Pure. The JSON of items is sent unchanged, byte for byte. Written by hand where clients may rely
//! on the order of members: `path` before `data`.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::super::representations::{EnvironmentRep, FilterRep};
use crate::model::{DataSet, ItemKind};

/// The comment that keeps a connection alive; as from LaunchDarkly, no blank line follows.
pub(super) const HEARTBEAT: Bytes = Bytes::from_static(b":\n");

/// One event. Line feeds in the data begin a new `data:` line; other bytes are sent unchanged.
pub(super) fn event(name: &str, data: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(name.len() + data.len() + 24);
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    for line in data.split(|&byte| byte == b'\n') {
        out.extend_from_slice(b"\ndata: ");
        out.extend_from_slice(line);
    }
    out.extend_from_slice(b"\n\n");
    out.freeze()
}

/// The `put` of a flag stream.
pub(super) fn flags_put(data: &DataSet) -> Bytes {
    let mut out = BytesMut::from(&br#"{"path":"/","data":"#[..]);
    out.extend_from_slice(&all_json(data));
    out.extend_from_slice(b"}");
    event("put", &out)
}

/// The `patch` of one flag or segment.
pub(super) fn item_patch(kind: ItemKind, key: &str, json: &[u8]) -> Bytes {
    let path = quoted(&format!("/{}/{key}", kind.wire_name()));
    event("patch", &[b"{\"path\":", path.as_bytes(), b",\"data\":", json, b"}"].concat())
}

/// The `delete` of one flag or segment.
pub(super) fn item_delete(kind: ItemKind, key: &str, version: u64) -> Bytes {
    delete(&format!("/{}/{key}", kind.wire_name()), version)
}

/// Flags and segments without an envelope: the answer of `/sdk/latest-all`.
pub(super) fn all_json(data: &DataSet) -> Bytes {
    let mut out = BytesMut::from(&br#"{"flags":"#[..]);
    out.extend_from_slice(&collection_json(data, ItemKind::Flag));
    out.extend_from_slice(br#","segments":"#);
    out.extend_from_slice(&collection_json(data, ItemKind::Segment));
    out.extend_from_slice(b"}");
    out.freeze()
}

/// One collection as a map from key to item, without deleted items.
pub(super) fn collection_json(data: &DataSet, kind: ItemKind) -> Bytes {
    let mut out = BytesMut::from(&b"{"[..]);
    for (key, item) in data.collection(kind).iter() {
        let Some(json) = &item.json else { continue };
        if out.len() > 1 {
            out.extend_from_slice(b",");
        }
        out.extend_from_slice(quoted(key).as_bytes());
        out.extend_from_slice(b":");
        out.extend_from_slice(json);
    }
    out.extend_from_slice(b"}");
    out.freeze()
}

/// The `put` of the autoconfig stream.
pub(super) fn autoconfig_put(
    environments: &BTreeMap<&str, &EnvironmentRep>,
    filters: &BTreeMap<&str, &FilterRep>,
) -> Bytes {
    let environments = json(environments);
    let filters = json(filters);
    let data =
        format!(r#"{{"path":"/","data":{{"environments":{environments},"filters":{filters}}}}}"#);
    event("put", data.as_bytes())
}

/// The `patch` of one environment.
pub(super) fn environment_patch(rep: &EnvironmentRep) -> Bytes {
    patch(&format!("/environments/{}", rep.env_id), &json(rep))
}

/// The `delete` of one environment.
pub(super) fn environment_delete(id: &str, version: u64) -> Bytes {
    delete(&format!("/environments/{id}"), version)
}

/// The `patch` of one payload filter.
pub(super) fn filter_patch(id: &str, rep: &FilterRep) -> Bytes {
    patch(&format!("/filters/{id}"), &json(rep))
}

/// The `delete` of one payload filter.
pub(super) fn filter_delete(id: &str, version: u64) -> Bytes {
    delete(&format!("/filters/{id}"), version)
}

fn patch(path: &str, data: &str) -> Bytes {
    event("patch", format!(r#"{{"path":{},"data":{data}}}"#, quoted(path)).as_bytes())
}

fn delete(path: &str, version: u64) -> Bytes {
    event("delete", format!(r#"{{"path":{},"version":{version}}}"#, quoted(path)).as_bytes())
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("strings, numbers and maps with string keys always encode")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Item, ItemKey};

    fn data() -> DataSet {
        let mut data = DataSet::default();
        let mut put = |kind, key, item| data.upsert(&ItemKey::new(kind, key), Arc::new(item));
        put(ItemKind::Flag, "b", Item::live(2, r#"{ "key":"b" }"#));
        put(ItemKind::Flag, "a\"", Item::live(1, "{}"));
        put(ItemKind::Flag, "gone", Item::tombstone(3));
        put(ItemKind::Segment, "s", Item::live(1, r#"{"x":1.0}"#));
        data
    }

    #[track_caller]
    fn check(sent: &Bytes, expected: &str) {
        assert_eq!(std::str::from_utf8(sent).unwrap(), expected);
    }

    #[test]
    fn a_put_keeps_the_bytes_of_items_and_leaves_the_deleted_out() {
        check(
            &flags_put(&data()),
            concat!(
                r#"event: put"#,
                "\n",
                r#"data: {"path":"/","data":{"flags":{"a\"":{},"b":{ "key":"b" }},"#,
                r#""segments":{"s":{"x":1.0}}}}"#,
                "\n\n"
            ),
        );
    }

    #[test]
    fn patches_and_deletes_name_their_path_first() {
        check(
            &item_patch(ItemKind::Segment, "s", b"{}"),
            "event: patch\ndata: {\"path\":\"/segments/s\",\"data\":{}}\n\n",
        );
        check(
            &item_delete(ItemKind::Flag, "a", 7),
            "event: delete\ndata: {\"path\":\"/flags/a\",\"version\":7}\n\n",
        );
        check(
            &filter_patch("f", &FilterRep { version: 2, ..FilterRep::default() }),
            "event: patch\ndata: {\"path\":\"/filters/f\",\"data\":{\"projKey\":\"\",\"key\":\"\",\"version\":2}}\n\n",
        );
        check(
            &environment_delete("e", 3),
            "event: delete\ndata: {\"path\":\"/environments/e\",\"version\":3}\n\n",
        );
    }

    #[test]
    fn line_feeds_become_data_lines() {
        check(&event("x", b"one\ntwo"), "event: x\ndata: one\ndata: two\n\n");
    }
}
