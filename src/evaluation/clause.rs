//! Clauses: single conditions on an attribute, or on membership in segments.

use std::cmp::Ordering;

use serde::Deserialize;
use serde_json::Value;

use super::context::{Attribute, Context};
use super::evaluator::Malformed;
use super::key_set::KeySet;
use super::pattern::Pattern;
use super::reference::Reference;
use super::timestamp::Timestamp;
use super::tolerant::or_default;
use super::version::Version;

/// One condition.
#[derive(Debug, Deserialize)]
#[serde(from = "Written")]
pub(super) struct Clause {
    context_kind: Box<str>,
    attribute: Reference,
    condition: Condition,
    is_negated: bool,
}

/// What is asked of a value. One of the given values has to fit.
#[derive(Debug)]
enum Condition {
    In {
        texts: KeySet,
        /// Sorted.
        numbers: Box<[f64]>,
        /// Whether false and true are among the values.
        flags: [bool; 2],
    },
    StartsWith(Box<[Box<str>]>),
    EndsWith(Box<[Box<str>]>),
    Contains(Box<[Box<str>]>),
    Matches(Box<[Pattern]>),
    /// The value's place beside the number must be one of the two.
    Number([Ordering; 2], Box<[f64]>),
    Time(Ordering, Box<[Timestamp]>),
    Version(Ordering, Box<[Version]>),
    /// Is in one of these segments.
    Segment(Box<[Box<str>]>),
    /// An operator that is not known fits nothing.
    Unknown,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Written {
    #[serde(deserialize_with = "or_default")]
    context_kind: Box<str>,
    #[serde(deserialize_with = "or_default")]
    attribute: Box<str>,
    #[serde(deserialize_with = "or_default")]
    op: Box<str>,
    #[serde(deserialize_with = "or_default")]
    values: Vec<Value>,
    #[serde(deserialize_with = "or_default")]
    negate: bool,
}

impl From<Written> for Clause {
    fn from(written: Written) -> Self {
        Self {
            // Clauses from before there were kinds name attributes that may begin with a slash.
            attribute: if written.context_kind.is_empty() {
                Reference::literal(&written.attribute)
            } else {
                Reference::parse(&written.attribute)
            },
            context_kind: written.context_kind,
            condition: Condition::new(&written.op, written.values),
            is_negated: written.negate,
        }
    }
}

impl Clause {
    /// The segments that it asks for, if it does.
    pub fn segments(&self) -> Option<&[Box<str>]> {
        match &self.condition {
            Condition::Segment(keys) => Some(keys),
            Condition::In { .. }
            | Condition::StartsWith(_)
            | Condition::EndsWith(_)
            | Condition::Contains(_)
            | Condition::Matches(_)
            | Condition::Number(..)
            | Condition::Time(..)
            | Condition::Version(..)
            | Condition::Unknown => None,
        }
    }

    /// What a condition that is fulfilled or not says.
    pub fn verdict(&self, is_fulfilled: bool) -> bool {
        is_fulfilled != self.is_negated
    }

    /// True if the context fulfils it. Without the attribute it does not, even if it is negated.
    pub fn matches(&self, context: &Context) -> Result<bool, Malformed> {
        match &self.attribute {
            Reference::Undefined | Reference::Invalid => return Err(Malformed),
            Reference::Kind => {
                let mut kinds = context.individuals().iter().map(|one| &one.kind);
                let fits = kinds.any(|kind| self.condition.fits(Attribute::Text(kind)));
                return Ok(self.verdict(fits));
            }
            Reference::Path(_) => {}
        }
        let individual = context.individual(&self.context_kind);
        let Some(value) = individual.and_then(|one| one.value(&self.attribute)) else {
            return Ok(false);
        };
        let fits = if let Attribute::List(values) = value {
            values.iter().filter_map(Attribute::of).any(|value| self.condition.fits(value))
        } else {
            self.condition.fits(value)
        };
        Ok(self.verdict(fits))
    }
}

impl Condition {
    fn new(operator: &str, values: Vec<Value>) -> Self {
        match operator {
            "in" => {
                let has = |flag| values.contains(&Value::Bool(flag));
                let flags = [has(false), has(true)];
                let mut numbers = numbers(&values);
                numbers.iter_mut().for_each(|number| *number = without_sign_of_zero(*number));
                numbers.sort_by(f64::total_cmp);
                Self::In { texts: texts(values).collect(), numbers, flags }
            }
            "startsWith" => Self::StartsWith(texts(values).collect()),
            "endsWith" => Self::EndsWith(texts(values).collect()),
            "contains" => Self::Contains(texts(values).collect()),
            "matches" => {
                Self::Matches(texts(values).filter_map(|text| Pattern::parse(&text)).collect())
            }
            "lessThan" => Self::Number([Ordering::Less; 2], numbers(&values)),
            "lessThanOrEqual" => Self::Number([Ordering::Less, Ordering::Equal], numbers(&values)),
            "greaterThan" => Self::Number([Ordering::Greater; 2], numbers(&values)),
            "greaterThanOrEqual" => {
                Self::Number([Ordering::Greater, Ordering::Equal], numbers(&values))
            }
            "before" => Self::Time(Ordering::Less, times(&values)),
            "after" => Self::Time(Ordering::Greater, times(&values)),
            "semVerEqual" => Self::Version(Ordering::Equal, versions(values)),
            "semVerLessThan" => Self::Version(Ordering::Less, versions(values)),
            "semVerGreaterThan" => Self::Version(Ordering::Greater, versions(values)),
            "segmentMatch" => Self::Segment(texts(values).collect()),
            _ => Self::Unknown,
        }
    }

    /// True if one of the given values fits this value. Lists and objects never do.
    fn fits(&self, value: Attribute<'_>) -> bool {
        match (self, value) {
            (Self::In { texts, .. }, Attribute::Text(text)) => texts.contains(text),
            (Self::In { numbers, .. }, Attribute::Number(number)) => {
                let number = number.as_f64().map(without_sign_of_zero);
                number
                    .is_some_and(|it| numbers.binary_search_by(|held| held.total_cmp(&it)).is_ok())
            }
            (Self::In { flags, .. }, Attribute::Flag(flag)) => flags[usize::from(flag)],
            (Self::StartsWith(starts), Attribute::Text(text)) => {
                starts.iter().any(|start| text.starts_with(&**start))
            }
            (Self::EndsWith(ends), Attribute::Text(text)) => {
                ends.iter().any(|end| text.ends_with(&**end))
            }
            (Self::Contains(parts), Attribute::Text(text)) => {
                parts.iter().any(|part| text.contains(&**part))
            }
            (Self::Matches(patterns), Attribute::Text(text)) => {
                patterns.iter().any(|pattern| pattern.is_in(text))
            }
            (Self::Number(places, numbers), Attribute::Number(number)) => {
                number.as_f64().is_some_and(|number| {
                    let place = |held: &f64| number.partial_cmp(held);
                    numbers.iter().filter_map(place).any(|place| places.contains(&place))
                })
            }
            (Self::Time(place, times), value) => {
                let time = match value {
                    Attribute::Text(text) => Timestamp::parse(text),
                    Attribute::Number(number) => Timestamp::from_number(number),
                    Attribute::Flag(_) | Attribute::List(_) | Attribute::Object(_) => None,
                };
                time.is_some_and(|time| times.iter().any(|held| time.cmp(held) == *place))
            }
            (Self::Version(place, versions), Attribute::Text(text)) => Version::parse(text)
                .is_some_and(|version| versions.iter().any(|held| version.compare(held) == *place)),
            _ => false,
        }
    }
}

fn texts(values: Vec<Value>) -> impl Iterator<Item = Box<str>> {
    values.into_iter().filter_map(|value| match value {
        Value::String(text) => Some(text.into()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            None
        }
    })
}

fn numbers(values: &[Value]) -> Box<[f64]> {
    values.iter().filter_map(Value::as_f64).collect()
}

/// -0 and 0 are the same number.
fn without_sign_of_zero(number: f64) -> f64 {
    number + 0.0
}

fn times(values: &[Value]) -> Box<[Timestamp]> {
    let times = values.iter().filter_map(|value| match value {
        Value::String(text) => Timestamp::parse(text),
        Value::Number(number) => Timestamp::from_number(number),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    });
    times.collect()
}

fn versions(values: Vec<Value>) -> Box<[Version]> {
    texts(values).filter_map(|text| Version::parse(&text)).collect()
}
