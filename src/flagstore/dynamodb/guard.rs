//! Conditions of single writes: pure.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use super::super::backend::StoredRow;
use super::super::marker::Marker;
use super::{Attributes, ITEM, KEY, NOTE, VERSION, number};

/// What must be true of the stored item for a write to take place.
pub(super) enum Guard<'a> {
    /// There is none.
    Absent,
    /// There is none, or its `version` is lower.
    Newer(u64),
    /// It is what was found, with a `version` that is a whole number or none at all.
    Unchanged(&'a StoredRow),
    /// It is what was found, with a `version` that is this other number.
    UnchangedOdd(&'a StoredRow, &'a str),
    /// It is this marker still.
    Marked(&'a Marker),
}

impl Guard<'_> {
    /// The condition, with exactly the names and values that stand in it.
    pub(super) fn expression(&self) -> (&'static str, HashMap<String, String>, Option<Attributes>) {
        let names = |names: &[&str]| {
            names.iter().map(|name| (format!("#{name}"), (*name).to_owned())).collect()
        };
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let values = |values: Vec<(&str, AttributeValue)>| {
            Some(values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
        };
        match self {
            Self::Absent => ("attribute_not_exists(#key)", names(&[KEY]), None),
            Self::Newer(version) => (
                "attribute_not_exists(#key) OR (#version > :zero AND #version < :version)",
                names(&[KEY, VERSION]),
                values(vec![(":zero", number(0)), (":version", number(*version))]),
            ),
            Self::Marked(found) if found.value.is_empty() => (
                "attribute_exists(#key) AND attribute_not_exists(#pilotlight)",
                names(&[KEY, NOTE]),
                None,
            ),
            Self::Marked(found) => (
                "#pilotlight = :found",
                names(&[NOTE]),
                values(vec![(":found", text(&String::from_utf8_lossy(&found.value)))]),
            ),
            // No text at all was found.
            Self::Unchanged(found) | Self::UnchangedOdd(found, _) if found.json.is_empty() => (
                "attribute_exists(#key) AND (NOT attribute_type(#item, :string) OR #item = :empty)",
                names(&[KEY, ITEM]),
                values(vec![(":string", text("S")), (":empty", text(""))]),
            ),
            Self::UnchangedOdd(found, version) => (
                "#item = :item AND #version = :version",
                names(&[ITEM, VERSION]),
                values(vec![
                    (":item", text(&String::from_utf8_lossy(&found.json))),
                    (":version", AttributeValue::N((*version).to_owned())),
                ]),
            ),
            Self::Unchanged(found) => {
                let item = (":item", text(&String::from_utf8_lossy(&found.json)));
                match found.head {
                    None => ("#item = :item", names(&[ITEM]), values(vec![item])),
                    Some(head) => (
                        "#item = :item AND (NOT attribute_type(#version, :number) OR #version IN (:zero, :version))",
                        names(&[ITEM, VERSION]),
                        values(vec![
                            item,
                            (":number", text("N")),
                            (":zero", number(0)),
                            (":version", number(head.version)),
                        ]),
                    ),
                }
            }
        }
    }
}
