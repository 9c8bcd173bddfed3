//! Whether a live data set says anything that clients do not have already. Pure.
//!
//! Decided by keys and versions; items of equal version are compared by value, with members that
//! only spell out a default ignored, because stores add those for strict readers. When in doubt
//! the answer is no, and the data is sent.

use serde_json::Value;

use crate::model::{DataSet, Item, ItemMap};

/// Whether two data sets say the same to a client. Tombstones are silent.
pub(super) fn same_content(a: &DataSet, b: &DataSet) -> bool {
    same_items(&a.flags, &b.flags) && same_items(&a.segments, &b.segments)
}

fn same_items(a: &ItemMap, b: &ItemMap) -> bool {
    let mut theirs = b.iter().filter(|(_, item)| !item.is_tombstone());
    for (key, item) in a.iter().filter(|(_, item)| !item.is_tombstone()) {
        match theirs.next() {
            Some((other_key, other)) if key == other_key && same_item(item, other) => {}
            Some(_) | None => return false,
        }
    }
    theirs.next().is_none()
}

fn same_item(a: &Item, b: &Item) -> bool {
    if a.version != b.version {
        return false;
    }
    if a.json == b.json {
        return true;
    }
    let (Some(a), Some(b)) = (&a.json, &b.json) else { return false };
    match (serde_json::from_slice(a), serde_json::from_slice(b)) {
        (Ok(a), Ok(b)) => without_defaults(a) == without_defaults(b),
        (Ok(_) | Err(_), Err(_)) | (Err(_), Ok(_)) => false,
    }
}

/// The value without members that mean the same when they are left out.
fn without_defaults(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members.into_iter().filter(|(_, value)| !is_default(value));
            Value::Object(kept.collect())
        }
        Value::Array(_) | Value::String(_) | Value::Number(_) | Value::Bool(_) | Value::Null => {
            value
        }
    }
}

fn is_default(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{ItemKey, ItemKind};

    fn set(items: &[(&str, u64, Option<&str>)]) -> DataSet {
        let mut set = DataSet::default();
        for &(key, version, json) in items {
            let json = json.map(|json| bytes::Bytes::copy_from_slice(json.as_bytes()));
            set.upsert(&ItemKey::new(ItemKind::Flag, key), Arc::new(Item { version, json }));
        }
        set
    }

    #[test]
    fn only_what_a_client_would_notice_counts() {
        let check = |a: &[(&str, u64, Option<&str>)], b: &[(&str, u64, Option<&str>)], same| {
            assert_eq!(same_content(&set(a), &set(b)), same, "{a:?} {b:?}");
            assert_eq!(same_content(&set(b), &set(a)), same, "{b:?} {a:?}");
        };
        let one = ("a", 1, Some(r#"{"version":1,"on":true}"#));
        check(&[one], &[one], true);
        check(&[], &[one], false);
        check(&[one], &[("b", 1, Some(r#"{"version":1,"on":true}"#))], false);
        check(&[one], &[("a", 2, Some(r#"{"version":1,"on":true}"#))], false);
        check(&[one], &[("a", 1, None)], false);
        check(&[one], &[one, ("gone", 4, None)], true);
        check(&[], &[("gone", 4, None)], true);
        let respelled =
            r#"{ "on":true, "version":1, "deleted":false, "rules":[], "salt":"", "x":null}"#;
        check(&[one], &[("a", 1, Some(respelled))], true);
        check(&[one], &[("a", 1, Some(r#"{"version":1,"on":true,"rules":[1]}"#))], false);
        check(&[one], &[("a", 1, Some(r#"{"version":1}"#))], false);
        check(&[one], &[("a", 1, Some("not json"))], false);
        // Numbers are not guessed at: a weight of zero is not the same as none.
        check(&[one], &[("a", 1, Some(r#"{"version":1,"on":true,"n":0}"#))], false);
    }
}
