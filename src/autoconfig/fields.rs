//! Members of JSON objects as Go reads them. Pure.

use serde_json::{Map, Value};

/// Reason why one record of a message cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

/// Members of an object by Go's rules: any case, `null` as absent. An exact name takes precedence.
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        let found = self.0.get(name).or_else(|| {
            self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        });
        found.filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, name: &str) -> Result<&'a str, Malformed> {
        match self.get(name) {
            None => Ok(""),
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(Malformed(format!("{name} is not a string"))),
        }
    }

    pub(super) fn integer(&self, name: &str) -> Result<i64, Malformed> {
        match self.get(name) {
            None => Ok(0),
            Some(value) => {
                value.as_i64().ok_or_else(|| Malformed(format!("{name} is not an integer")))
            }
        }
    }

    pub(super) fn boolean(&self, name: &str) -> Result<bool, Malformed> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(Malformed(format!("{name} is not true or false"))),
        }
    }

    pub(super) fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, Malformed> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(members)) => Ok(Some(members)),
            Some(_) => Err(Malformed(format!("{name} is not an object"))),
        }
    }

    pub(super) fn array(&self, name: &str) -> Result<&'a [Value], Malformed> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Value::Array(items)) => Ok(items),
            Some(_) => Err(Malformed(format!("{name} is not an array"))),
        }
    }
}
