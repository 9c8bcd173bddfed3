//! Conditions of single writes: pure.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use super::super::backend::StoredRow;
use super::super::layout;
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

/// A condition, with exactly the names and values that stand in it.
type Expression = (&'static str, HashMap<String, String>, Option<Attributes>);

impl Guard<'_> {
    /// The condition.
    pub(super) fn expression(&self) -> Expression {
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
            Self::Unchanged(found) => unchanged(found, None),
            Self::UnchangedOdd(found, odd) => unchanged(found, Some(odd)),
        }
    }
}

fn unchanged(found: &StoredRow, odd: Option<&str>) -> Expression {
    if found.json.is_empty() {
        // No text at all was found.
        return (
            "attribute_exists(#key) AND (NOT attribute_type(#item, :string) OR #item = :empty)",
            names(&[KEY, ITEM]),
            values(vec![(":string", text("S")), (":empty", text(""))]),
        );
    }
    let item = (":item", text(&String::from_utf8_lossy(&found.json)));
    if let Some(odd) = odd {
        return (
            "#item = :item AND #version = :version",
            names(&[ITEM, VERSION]),
            values(vec![item, (":version", AttributeValue::N(odd.to_owned()))]),
        );
    }
    let Some(head) = found.head else {
        return ("#item = :item", names(&[ITEM]), values(vec![item]));
    };
    let is_without_number =
        head.respell && layout::head(&found.json).is_some_and(|of_json| !of_json.respell);
    if is_without_number {
        return (
            "#item = :item AND NOT attribute_type(#version, :number)",
            names(&[ITEM, VERSION]),
            values(vec![item, (":number", text("N"))]),
        );
    }
    (
        "#item = :item AND (NOT attribute_type(#version, :number) OR #version IN (:zero, :version))",
        names(&[ITEM, VERSION]),
        values(vec![
            item,
            (":number", text("N")),
            (":zero", number(0)),
            (":version", number(head.version)),
        ]),
    )
}

fn names(names: &[&str]) -> HashMap<String, String> {
    names.iter().map(|name| (format!("#{name}"), (*name).to_owned())).collect()
}

fn values(values: Vec<(&str, AttributeValue)>) -> Option<Attributes> {
    Some(values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}
