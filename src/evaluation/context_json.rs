//! Reads contexts as SDKs send them: single, multi-kind, and the users of old SDKs.

use serde_json::{Map, Value};

use super::context::{Context, Individual, USER};

/// The kind of JSON that holds several contexts.
const MULTI: &str = "multi";

/// Reasons why something is no context. The texts are sent to the SDK, and quote nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// Not JSON, or not an object.
    #[error("the context is not a JSON object")]
    NotAnObject,
    /// A property is of another type than it may have.
    #[error("the context's property \"{0}\" has a value of the wrong type")]
    WrongType(&'static str),
    /// No `key`, or null.
    #[error("the context has no key")]
    NoKey,
    /// An empty `key` beside a `kind`.
    #[error("the context's key is empty")]
    EmptyKey,
    /// A kind that is empty, reserved, or has characters that kinds cannot have.
    #[error("the context's kind is not valid")]
    InvalidKind,
    /// Several contexts are announced, none is there.
    #[error("the multi-kind context has no kinds")]
    NoKinds,
    /// Two contexts of one kind.
    #[error("the multi-kind context has a kind twice")]
    KindTwice,
}

impl Context {
    /// Reads JSON.
    pub fn parse(json: &[u8]) -> Result<Self, ContextError> {
        let Ok(Value::Object(mut members)) = serde_json::from_slice(json) else {
            return Err(ContextError::NotAnObject);
        };
        let individuals = match members.get("kind") {
            None => vec![user(members)?],
            Some(Value::String(kind)) if kind == MULTI => {
                members.remove("kind");
                let contexts = members.into_iter().map(|(kind, value)| {
                    let Value::Object(members) = value else {
                        return Err(ContextError::NotAnObject);
                    };
                    individual(Some(kind), members)
                });
                contexts.collect::<Result<Vec<_>, _>>()?
            }
            Some(_) => vec![individual(None, members)?],
        };
        if individuals.is_empty() {
            return Err(ContextError::NoKinds);
        }
        Self::new(individuals).ok_or(ContextError::KindTwice)
    }
}

/// A context of a kind, which stands in it or, among several, before it.
fn individual(
    kind: Option<String>,
    mut members: Map<String, Value>,
) -> Result<Individual, ContextError> {
    let kind = match members.remove("kind") {
        Some(Value::String(written)) => written,
        Some(_) => return Err(ContextError::WrongType("kind")),
        None => kind.ok_or(ContextError::InvalidKind)?,
    };
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if kind.is_empty() || kind == "kind" || kind == MULTI || !kind.bytes().all(is_valid) {
        return Err(ContextError::InvalidKind);
    }
    let key = key(&mut members)?;
    if key.is_empty() {
        return Err(ContextError::EmptyKey);
    }
    let name = optional_text(&mut members, "name")?;
    let is_anonymous = match members.remove("anonymous") {
        Some(Value::Bool(is_anonymous)) => is_anonymous,
        None => false,
        Some(_) => return Err(ContextError::WrongType("anonymous")),
    };
    match members.remove("_meta") {
        Some(Value::Object(meta)) => private_attributes(meta.get("privateAttributes"))?,
        Some(Value::Null) | None => {}
        Some(_) => return Err(ContextError::WrongType("_meta")),
    }
    Ok(Individual {
        kind: kind.into(),
        key,
        name,
        is_anonymous,
        secondary: None,
        attributes: attributes(members),
    })
}

/// A user of an old SDK. Its own attributes stand under `custom`.
fn user(mut members: Map<String, Value>) -> Result<Individual, ContextError> {
    let key = key(&mut members)?;
    let name = optional_text(&mut members, "name")?;
    let secondary = optional_text(&mut members, "secondary")?;
    let is_anonymous = match members.remove("anonymous") {
        Some(Value::Bool(is_anonymous)) => is_anonymous,
        Some(Value::Null) | None => false,
        Some(_) => return Err(ContextError::WrongType("anonymous")),
    };
    private_attributes(members.get("privateAttributeNames"))?;
    let mut custom = match members.remove("custom") {
        Some(Value::Object(custom)) => custom,
        Some(Value::Null) | None => Map::new(),
        Some(_) => return Err(ContextError::WrongType("custom")),
    };
    for reserved in ["kind", "key", "name", "anonymous", "_meta"] {
        custom.remove(reserved);
    }
    for name in ["firstName", "lastName", "email", "country", "avatar", "ip"] {
        if let Some(text) = optional_text(&mut members, name)? {
            custom.insert(name.to_owned(), Value::String(text.into()));
        }
    }
    Ok(Individual {
        kind: USER.into(),
        key,
        name,
        is_anonymous,
        secondary,
        attributes: attributes(custom),
    })
}

/// Attributes that have a name and a value.
fn attributes(mut members: Map<String, Value>) -> Map<String, Value> {
    members.retain(|name, value| !name.is_empty() && !value.is_null());
    members
}

fn key(members: &mut Map<String, Value>) -> Result<Box<str>, ContextError> {
    optional_text(members, "key")?.ok_or(ContextError::NoKey)
}

fn optional_text(
    members: &mut Map<String, Value>,
    name: &'static str,
) -> Result<Option<Box<str>>, ContextError> {
    match members.remove(name) {
        Some(Value::String(text)) => Ok(Some(text.into())),
        Some(Value::Null) | None => Ok(None),
        Some(_) => Err(ContextError::WrongType(name)),
    }
}

/// Checks a list that has no effect on evaluation.
fn private_attributes(list: Option<&Value>) -> Result<(), ContextError> {
    match list {
        Some(Value::Array(names)) if names.iter().all(Value::is_string) => Ok(()),
        Some(Value::Null) | None => Ok(()),
        Some(_) => Err(ContextError::WrongType("privateAttributes")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(json: &Value) -> Result<Context, ContextError> {
        Context::parse(json.to_string().as_bytes())
    }

    #[test]
    fn forms() {
        let attributes = |value: Value| match value {
            Value::Object(members) => members,
            _ => unreachable!(),
        };
        let org = json!({"kind": "org", "key": "o", "name": "O", "anonymous": true, "size": 5,
            "none": null, "": 1, "_meta": {"privateAttributes": ["size"]}});
        let expected = Individual {
            kind: "org".into(),
            key: "o".into(),
            name: Some("O".into()),
            is_anonymous: true,
            secondary: None,
            attributes: attributes(json!({"size": 5})),
        };
        assert_eq!(parse(&org).unwrap().individuals(), std::slice::from_ref(&expected));

        let multi = json!({"kind": "multi", "user": {"key": "u"}, "org": org});
        let user = Individual { kind: "user".into(), key: "u".into(), ..Individual::default() };
        assert_eq!(parse(&multi).unwrap().individuals(), [expected, user.clone()]);
        let multi = json!({"kind": "multi", "user": {"key": "u"}});
        assert_eq!(parse(&multi).unwrap().individuals(), std::slice::from_ref(&user));

        let old = json!({"key": "u", "secondary": "s", "name": null, "anonymous": null,
            "email": "e", "ip": null, "unknown": 1, "privateAttributeNames": ["email"],
            "custom": {"a": [1], "key": "x", "kind": "x", "name": "x", "anonymous": "x",
                "_meta": 1, "email": "lost", "none": null}});
        let expected = Individual {
            secondary: Some("s".into()),
            attributes: attributes(json!({"a": [1], "email": "e"})),
            ..user
        };
        assert_eq!(parse(&old).unwrap().individuals(), [expected]);
        assert!(parse(&json!({"key": ""})).unwrap().lacks_key());
        assert_eq!(parse(&json!({"key": "u", "custom": null})).unwrap().canonical_key(), "u");
    }

    #[test]
    fn what_is_no_context() {
        use ContextError::*;
        for (value, expected) in [
            (json!(null), NotAnObject),
            (json!([]), NotAnObject),
            (json!("user"), NotAnObject),
            (json!({}), NoKey),
            (json!({"key": null}), NoKey),
            (json!({"key": 1}), WrongType("key")),
            (json!({"key": "u", "custom": 1}), WrongType("custom")),
            (json!({"key": "u", "email": 1}), WrongType("email")),
            (json!({"key": "u", "name": 1}), WrongType("name")),
            (json!({"key": "u", "anonymous": 1}), WrongType("anonymous")),
            (json!({"key": "u", "secondary": 1}), WrongType("secondary")),
            (json!({"key": "u", "privateAttributeNames": 1}), WrongType("privateAttributes")),
            (json!({"kind": null, "key": "u"}), WrongType("kind")),
            (json!({"kind": 1, "key": "u"}), WrongType("kind")),
            (json!({"kind": "", "key": "u"}), InvalidKind),
            (json!({"kind": "kind", "key": "u"}), InvalidKind),
            (json!({"kind": "a b", "key": "u"}), InvalidKind),
            (json!({"kind": "é", "key": "u"}), InvalidKind),
            (json!({"kind": "user"}), NoKey),
            (json!({"kind": "user", "key": null}), NoKey),
            (json!({"kind": "user", "key": ""}), EmptyKey),
            (json!({"kind": "user", "key": "u", "anonymous": null}), WrongType("anonymous")),
            (json!({"kind": "user", "key": "u", "name": []}), WrongType("name")),
            (json!({"kind": "user", "key": "u", "_meta": 1}), WrongType("_meta")),
            (
                json!({"kind": "user", "key": "u", "_meta": {"privateAttributes": [1]}}),
                WrongType("privateAttributes"),
            ),
            (json!({"kind": "multi"}), NoKinds),
            (json!({"kind": "multi", "user": 1}), NotAnObject),
            (json!({"kind": "multi", "user": {}}), NoKey),
            (json!({"kind": "multi", "user": {"key": ""}}), EmptyKey),
            (json!({"kind": "multi", "multi": {"key": "u"}}), InvalidKind),
            (
                json!({"kind": "multi", "user": {"key": "u", "kind": "org"}, "org": {"key": "o"}}),
                KindTwice,
            ),
        ] {
            assert_eq!(parse(&value), Err(expected), "{value}");
        }
        let deep = format!(
            "{{\"key\":\"u\",\"custom\":{{\"a\":{}{}}}}}",
            "[".repeat(500),
            "]".repeat(500)
        );
        assert_eq!(Context::parse(deep.as_bytes()), Err(NotAnObject));
        assert_eq!(Context::parse(b"{\"key\":\"\xff\"}"), Err(NotAnObject));
        assert_eq!(Context::parse(b"{\"key\":\"u\"} x"), Err(NotAnObject));
    }
}
