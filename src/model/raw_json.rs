//! Reads as much of an item's JSON as must be understood, and leaves the rest as the text it is.
//!
//! Errors of `serde_json` may quote a value: whoever shows them takes the place and the class.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The newest member of that name, `null` counting as absent. Of two the last counts, as in Go.
pub fn last<'a>(members: &[(Cow<'_, str>, &'a RawValue)], name: &str) -> Option<&'a RawValue> {
    let found = members.iter().rev().find(|(key, _)| key == name);
    found.map(|(_, raw)| *raw).filter(|raw| raw.get() != "null")
}

/// All members of an object, in order, repetitions included.
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

/// A member's name, borrowed where it holds no escapes.
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

/// What must be known of an item; everything else of it is skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ItemHead {
    /// Its version; 0 where it has none, as in Go.
    pub version: u64,
    /// Whether it is a tombstone.
    pub deleted: bool,
}

impl ItemHead {
    /// Reads the head of an item's JSON.
    pub fn of(json: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json)
    }
}

impl<'de> Deserialize<'de> for ItemHead {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeadVisitor;
        impl<'de> Visitor<'de> for HeadVisitor {
            type Value = ItemHead;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a flag or segment")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ItemHead, A::Error> {
                let mut head = ItemHead::default();
                while let Some(Name(name)) = map.next_key()? {
                    match &*name {
                        "version" => head.version = map.next_value::<Version>()?.0,
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
        let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else {
            return Ok(Self(0));
        };
        if let Some(version) = number.as_u64() {
            return Ok(Self(version));
        }
        match number.as_f64() {
            // Below 2^53 every whole float is exact.
            Some(float) if float >= 0.0 && float.fract() == 0.0 && float < 9.007e15 => {
                Ok(Self(float as u64))
            }
            Some(_) | None => Err(D::Error::custom("version is not a whole number")),
        }
    }
}
