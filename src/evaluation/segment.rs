//! Segments in the form in which they are evaluated.

use serde::Deserialize;

use super::clause::Clause;
use super::flag::bucket_by;
use super::key_set::KeySet;
use super::reference::Reference;
use super::tolerant::{optional_int, or_default};

/// A segment: individuals that flags can name together.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Segment {
    #[serde(deserialize_with = "or_default")]
    pub(super) key: Box<str>,
    /// Keys of users.
    pub(super) included: KeySet,
    pub(super) excluded: KeySet,
    #[serde(deserialize_with = "or_default")]
    pub(super) included_contexts: Box<[Members]>,
    #[serde(deserialize_with = "or_default")]
    pub(super) excluded_contexts: Box<[Members]>,
    #[serde(deserialize_with = "or_default")]
    pub(super) rules: Box<[SegmentRule]>,
    #[serde(deserialize_with = "or_default")]
    pub(super) salt: Box<str>,
    /// True if its members stand in a store of their own: a big segment.
    #[serde(deserialize_with = "or_default")]
    pub(super) unbounded: bool,
    #[serde(deserialize_with = "or_default")]
    pub(super) unbounded_context_kind: Box<str>,
    #[serde(deserialize_with = "optional_int")]
    generation: Option<i64>,
    /// The name of its members' data in that store.
    #[serde(skip)]
    pub(super) reference: Option<Box<str>>,
    /// True if the JSON could not be read.
    #[serde(skip)]
    pub(super) is_malformed: bool,
}

/// Keys of individuals of one kind.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Members {
    #[serde(deserialize_with = "or_default")]
    pub context_kind: Box<str>,
    pub values: KeySet,
}

/// Who is a member without being listed.
#[derive(Debug, Deserialize)]
#[serde(from = "WrittenRule")]
pub(super) struct SegmentRule {
    pub clauses: Box<[Clause]>,
    /// The share of those who fulfil the clauses, in parts of 100,000; all if there is none.
    pub weight: Option<i64>,
    pub bucket_by: Reference,
    pub context_kind: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WrittenRule {
    #[serde(deserialize_with = "or_default")]
    clauses: Box<[Clause]>,
    #[serde(deserialize_with = "optional_int")]
    weight: Option<i64>,
    #[serde(deserialize_with = "or_default")]
    bucket_by: Box<str>,
    #[serde(deserialize_with = "or_default")]
    rollout_context_kind: Box<str>,
}

impl From<WrittenRule> for SegmentRule {
    fn from(written: WrittenRule) -> Self {
        Self {
            bucket_by: bucket_by(&written.bucket_by, &written.rollout_context_kind),
            clauses: written.clauses,
            weight: written.weight,
            context_kind: written.rollout_context_kind,
        }
    }
}

impl Segment {
    /// Reads a segment's JSON. Flags that need a segment which cannot be read evaluate to an error.
    pub fn parse(json: &[u8]) -> Self {
        let Ok(mut segment) = serde_json::from_slice::<Self>(json) else {
            return Self { is_malformed: true, ..Self::default() };
        };
        if segment.unbounded
            && let Some(generation) = segment.generation
        {
            segment.reference = Some(format!("{}.g{generation}", segment.key).into());
        }
        segment
    }
}
