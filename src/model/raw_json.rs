//! Parses the necessary part of an item's JSON, and keeps the rest as text.
//!
//! Errors of `serde_json` may quote a value: messages must contain only their position and class.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Number;
use serde_json::value::RawValue;

/// Largest nesting of objects and arrays in JSON from any source. LaunchDarkly's flags have a dozen
/// levels. JSON parsers of SDKs fail between 64 and a few thousand levels (Python at 1,000, Gson at
/// 255), and one such flag costs them their whole data set.
pub const NESTING_MAX: usize = 200;

/// The reason why text from outside must not be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unbounded {
    /// It is not text.
    #[error("not valid UTF-8")]
    NotText,
    /// It has more than [`NESTING_MAX`] levels.
    #[error("nested more than {NESTING_MAX} levels deep")]
    TooDeep,
}

/// The text of a message or an item, if it is within the limits for every source. JSON that is only
/// skipped or passed on would otherwise not be checked for its depth.
pub fn bounded_text(bytes: &[u8]) -> Result<&str, Unbounded> {
    let text = std::str::from_utf8(bytes).map_err(|_| Unbounded::NotText)?;
    if is_nested_too_deeply(text.as_bytes()) {
        return Err(Unbounded::TooDeep);
    }
    Ok(text)
}

fn is_nested_too_deeply(text: &[u8]) -> bool {
    // Few items have enough brackets to be too deep, and counting brackets is many times faster
    // than tracking the depth.
    let brackets = text.iter().filter(|byte| matches!(byte, b'{' | b'[')).count();
    if brackets <= NESTING_MAX {
        return false;
    }
    let (mut depth, mut in_string) = (0_usize, false);
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => {
                bytes.next();
            }
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > NESTING_MAX {
                    return true;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// The last member with this name, as in Go; `null` means absent.
pub fn last<'a>(members: &[(Cow<'_, str>, &'a RawValue)], name: &str) -> Option<&'a RawValue> {
    let found = members.iter().rev().find(|(key, _)| key == name);
    found.map(|(_, raw)| *raw).filter(|raw| raw.get() != "null")
}

/// All members of an object, in order, including repetitions.
pub fn members(text: &str) -> Result<Vec<(Cow<'_, str>, &RawValue)>, serde_json::Error> {
    let Members(members) = serde_json::from_str(text)?;
    Ok(members)
}

struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for MembersVisitor<'a> {
            type Value = Members<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(Name(name)) = map.next_key()? {
                    members.push((name, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor(std::marker::PhantomData))
    }
}

/// A member's name, borrowed if it contains no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for NameVisitor<'a> {
            type Value = Name<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor(std::marker::PhantomData))
    }
}

/// The parsed members of an item; all others are skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ItemHead {
    /// Its version; 0 if it has none, as in Go.
    pub version: u64,
    /// True if it is a tombstone.
    pub deleted: bool,
}

impl ItemHead {
    /// Reads the head of an item's JSON.
    pub fn of(json: &str) -> Result<Self, serde_json::Error> {
        let RawHead { version, deleted } = serde_json::from_str(json)?;
        let version = match version {
            Some(number) => whole(&number).ok_or_else(not_whole)?,
            None => 0,
        };
        Ok(Self { version, deleted })
    }

    /// Reads the head of an item that another program may have written, as tolerantly as Go does: a
    /// fraction is cut off, a negative version means 0. Also returns whether the JSON has exactly
    /// this version.
    pub fn tolerant(json: &str) -> Result<(Self, VersionForm), serde_json::Error> {
        let RawHead { version, deleted } = serde_json::from_str(json)?;
        let Some(number) = version else {
            return Ok((Self { version: 0, deleted }, VersionForm::AsWritten));
        };
        if let Some(version) = whole(&number) {
            return Ok((Self { version, deleted }, VersionForm::AsWritten));
        }
        match number.as_f64() {
            Some(float) if float < EXACT_FLOATS_END => {
                // Saturates at 0.
                Ok((Self { version: float as u64, deleted }, VersionForm::Odd))
            }
            Some(_) | None => Err(not_whole()),
        }
    }
}

/// The form of the version in the JSON of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionForm {
    /// The number that is read.
    AsWritten,
    /// Another number, which strict readers may refuse.
    Odd,
}

/// Upper limit of versions as floats: below 2^53 every whole float is exact.
const EXACT_FLOATS_END: f64 = 9.007e15;

fn whole(number: &Number) -> Option<u64> {
    number.as_u64().or_else(|| {
        let float = number.as_f64()?;
        let is_whole = float >= 0.0 && float.fract() == 0.0 && float < EXACT_FLOATS_END;
        is_whole.then_some(float as u64)
    })
}

fn not_whole() -> serde_json::Error {
    serde_json::Error::custom("version is not a whole number")
}

/// The members of an item that form its head.
#[derive(Default)]
struct RawHead {
    version: Option<Number>,
    deleted: bool,
}

impl<'de> Deserialize<'de> for RawHead {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeadVisitor;
        impl<'de> Visitor<'de> for HeadVisitor {
            type Value = RawHead;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a flag or segment")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHead, A::Error> {
                let mut head = RawHead::default();
                while let Some(Name(name)) = map.next_key()? {
                    match &*name {
                        "version" => head.version = map.next_value()?,
                        "deleted" => {
                            head.deleted = map.next_value::<Option<bool>>()?.unwrap_or_default();
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(head)
            }
        }
        deserializer.deserialize_map(HeadVisitor)
    }
}

/// A version: an integer that is not negative, also written as `3.0`; `null` is 0 as in Go.
pub struct Version(pub u64);

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Some(number) = Option::<Number>::deserialize(deserializer)? else {
            return Ok(Self(0));
        };
        whole(&number).map(Self).ok_or_else(|| D::Error::custom("version is not a whole number"))
    }
}

/// An object's text with another version; `None` if it is not an object.
pub fn with_version(json: &str, version: u64) -> Option<String> {
    let present = members(json).ok()?;
    let mut out = String::with_capacity(json.len() + 24);
    let others = present.iter().filter(|(name, _)| name != "version");
    for (name, value) in others {
        out.push(if out.is_empty() { '{' } else { ',' });
        out.push_str(&serde_json::Value::from(&**name).to_string());
        out.push(':');
        out.push_str(value.get());
    }
    out.push(if out.is_empty() { '{' } else { ',' });
    out.push_str(&format!("\"version\":{version}}}"));
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_bounded_whatever_stands_in_strings() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(bounded_text(nested(NESTING_MAX).as_bytes()).is_ok());
        assert_eq!(bounded_text(nested(NESTING_MAX + 1).as_bytes()), Err(Unbounded::TooDeep));
        // Many brackets side by side, and many in a string.
        assert!(bounded_text(format!("[{}]", "{},".repeat(5 * NESTING_MAX)).as_bytes()).is_ok());
        let quoted = format!(r#"["\"{}"]"#, "[".repeat(5 * NESTING_MAX));
        assert!(bounded_text(quoted.as_bytes()).is_ok());
        assert_eq!(bounded_text(b"\xff"), Err(Unbounded::NotText));
        assert!(bounded_text(b"]]]]{").is_ok(), "not JSON, but not deep");
    }

    #[test]
    fn odd_versions_are_read_as_go_reads_them() {
        let check = |version: &str, strict: Option<u64>, tolerant: Option<(u64, VersionForm)>| {
            let json = format!(r#"{{"key":"a","version":{version}}}"#);
            assert_eq!(ItemHead::of(&json).ok().map(|head| head.version), strict, "{version}");
            let found = ItemHead::tolerant(&json).ok().map(|(head, form)| (head.version, form));
            assert_eq!(found, tolerant, "{version}");
        };
        use VersionForm::{AsWritten, Odd};
        for (version, read) in
            [("7", 7), ("3.0", 3), ("null", 0), ("18446744073709551615", u64::MAX)]
        {
            check(version, Some(read), Some((read, AsWritten)));
        }
        check("1.5", None, Some((1, Odd)));
        check("-1", None, Some((0, Odd)));
        check("-0.5", None, Some((0, Odd)));
        for junk in ["1e300", "\"7\"", "[]", "true"] {
            check(junk, None, None);
        }
    }

    #[test]
    fn a_version_is_replaced_and_all_else_stays() {
        let check = |json: &str, expected: Option<&str>| {
            assert_eq!(with_version(json, 4).as_deref(), expected, "{json}");
        };
        check(r#"{"version":1.5,"on":true}"#, Some(r#"{"on":true,"version":4}"#));
        check(
            r#"{ "a":[ 1e400 ], "version":-1, "k\n":"v" }"#,
            Some(r#"{"a":[ 1e400 ],"k\n":"v","version":4}"#),
        );
        check("{}", Some(r#"{"version":4}"#));
        check("[]", None);
    }
}
