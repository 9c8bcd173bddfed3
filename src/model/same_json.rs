//! Equality of JSON for readers that treat a missing member like its default. Pure.
//!
//! Databases contain members with default values, because strict readers require them, and other
//! programs order members differently.

use serde_json::Value;

/// True if both texts mean the same to a reader. Members whose value is `null`, `false`, empty text
/// or an empty list are treated as missing; numbers are not. In unclear cases the result is false.
pub fn same_json(a: &[u8], b: &[u8]) -> bool {
    if a == b {
        return true;
    }
    match (serde_json::from_slice(a), serde_json::from_slice(b)) {
        (Ok(a), Ok(b)) => without_defaults(a) == without_defaults(b),
        (Ok(_) | Err(_), Err(_)) | (Err(_), Ok(_)) => false,
    }
}

/// The value without members that have a default value.
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
    use super::*;

    #[test]
    fn defaults_and_order_are_ignored_and_nothing_else() {
        let check = |a: &str, b: &str, same| {
            assert_eq!(same_json(a.as_bytes(), b.as_bytes()), same, "{a} {b}");
            assert_eq!(same_json(b.as_bytes(), a.as_bytes()), same, "{b} {a}");
        };
        let one = r#"{"version":1,"on":true}"#;
        check(one, one, true);
        check(
            one,
            r#"{ "on":true, "version":1, "deleted":false, "rules":[], "salt":"", "x":null}"#,
            true,
        );
        check(one, r#"{"version":1,"on":true,"rules":[1]}"#, false);
        check(one, r#"{"version":1}"#, false);
        check(one, "not json", false);
        check("not json", "not json", true);
        // A weight of zero differs from a missing one.
        check(one, r#"{"version":1,"on":true,"n":0}"#, false);
    }
}
