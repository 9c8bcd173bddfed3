//! Flags in the form in which they are evaluated.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::clause::Clause;
use super::key_set::KeySet;
use super::reference::Reference;
use super::tolerant::{int, optional_int, or_default};

/// A flag.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Flag {
    #[serde(deserialize_with = "or_default")]
    pub(super) key: Box<str>,
    #[serde(deserialize_with = "or_default")]
    pub(super) on: bool,
    #[serde(deserialize_with = "or_default")]
    pub(super) prerequisites: Box<[Prerequisite]>,
    #[serde(deserialize_with = "or_default")]
    pub(super) targets: Box<[Target]>,
    #[serde(deserialize_with = "or_default")]
    pub(super) context_targets: Box<[Target]>,
    #[serde(deserialize_with = "or_default")]
    pub(super) rules: Box<[Rule]>,
    #[serde(rename = "fallthrough", deserialize_with = "or_default")]
    pub(super) fallthrough: VariationOrRollout,
    #[serde(deserialize_with = "optional_int")]
    pub(super) off_variation: Option<i64>,
    #[serde(deserialize_with = "or_default")]
    pub(super) variations: Box<[Box<RawValue>]>,
    #[serde(deserialize_with = "or_default")]
    pub(super) salt: Box<str>,
    #[serde(deserialize_with = "or_default")]
    pub(super) track_events: bool,
    #[serde(deserialize_with = "or_default")]
    pub(super) track_events_fallthrough: bool,
    /// Milliseconds since 1970; 0 if there is none.
    #[serde(deserialize_with = "int")]
    pub(super) debug_events_until_date: i64,
    client_side_availability: Option<Availability>,
    /// What says so in flags without the other.
    #[serde(deserialize_with = "or_default")]
    client_side: bool,
}

impl Flag {
    /// True if each evaluation is to be reported, not only counted.
    pub fn is_tracked(&self) -> bool {
        self.track_events
    }

    /// Time until which each evaluation is to be reported for debugging, in milliseconds since
    /// 1970; 0 if there is none.
    pub fn debugged_until(&self) -> i64 {
        self.debug_events_until_date
    }

    /// The values of its variations.
    pub fn variations(&self) -> impl Iterator<Item = &RawValue> {
        self.variations.iter().map(|value| &**value)
    }
}

/// Who asks for the value of flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// A server, which may see all flags.
    Server,
    /// An SDK with a mobile key.
    Mobile,
    /// An SDK with a client-side ID, such as a browser's.
    Browser,
}

/// Which client-side SDKs a flag is shown to.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Availability {
    #[serde(deserialize_with = "or_default")]
    using_mobile_key: bool,
    #[serde(deserialize_with = "or_default")]
    using_environment_id: bool,
}

/// A variation that another flag must have.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Prerequisite {
    #[serde(deserialize_with = "or_default")]
    pub key: Box<str>,
    #[serde(deserialize_with = "int")]
    pub variation: i64,
}

/// Individuals who get a variation.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Target {
    #[serde(deserialize_with = "or_default")]
    pub context_kind: Box<str>,
    pub values: KeySet,
    #[serde(deserialize_with = "int")]
    pub variation: i64,
}

/// What contexts that fulfil all clauses get.
#[derive(Debug, Deserialize)]
#[serde(from = "WrittenRule")]
pub(super) struct Rule {
    pub id: Box<str>,
    pub clauses: Box<[Clause]>,
    pub serve: VariationOrRollout,
    pub track_events: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WrittenRule {
    #[serde(deserialize_with = "or_default")]
    id: Box<str>,
    #[serde(deserialize_with = "or_default")]
    clauses: Box<[Clause]>,
    #[serde(deserialize_with = "optional_int")]
    variation: Option<i64>,
    #[serde(deserialize_with = "or_default")]
    rollout: Rollout,
    #[serde(deserialize_with = "or_default")]
    track_events: bool,
}

impl From<WrittenRule> for Rule {
    fn from(written: WrittenRule) -> Self {
        Self {
            id: written.id,
            clauses: written.clauses,
            serve: VariationOrRollout { variation: written.variation, rollout: written.rollout },
            track_events: written.track_events,
        }
    }
}

/// One variation for all, or shares of them. If both are given, the variation counts.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct VariationOrRollout {
    #[serde(deserialize_with = "optional_int")]
    pub variation: Option<i64>,
    #[serde(deserialize_with = "or_default")]
    pub rollout: Rollout,
}

/// Variations by share.
#[derive(Debug, Default, Deserialize)]
#[serde(from = "WrittenRollout")]
pub(super) struct Rollout {
    pub is_experiment: bool,
    pub context_kind: Box<str>,
    pub variations: Box<[Share]>,
    pub bucket_by: Reference,
    pub seed: Option<i64>,
}

/// A variation's share.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Share {
    #[serde(deserialize_with = "int")]
    pub variation: i64,
    /// In parts of 100,000.
    #[serde(deserialize_with = "int")]
    pub weight: i64,
    /// True if those who get it do not take part in the experiment.
    #[serde(deserialize_with = "or_default")]
    pub untracked: bool,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WrittenRollout {
    #[serde(deserialize_with = "or_default")]
    kind: Box<str>,
    #[serde(deserialize_with = "or_default")]
    context_kind: Box<str>,
    #[serde(deserialize_with = "or_default")]
    variations: Box<[Share]>,
    #[serde(deserialize_with = "or_default")]
    bucket_by: Box<str>,
    #[serde(deserialize_with = "optional_int")]
    seed: Option<i64>,
}

impl From<WrittenRollout> for Rollout {
    fn from(written: WrittenRollout) -> Self {
        Self {
            is_experiment: &*written.kind == "experiment",
            bucket_by: bucket_by(&written.bucket_by, &written.context_kind),
            context_kind: written.context_kind,
            variations: written.variations,
            seed: written.seed,
        }
    }
}

/// Rollouts from before there were kinds name attributes that may begin with a slash.
pub(super) fn bucket_by(text: &str, context_kind: &str) -> Reference {
    if context_kind.is_empty() { Reference::literal(text) } else { Reference::parse(text) }
}

impl Flag {
    /// Reads a flag's JSON. A flag that cannot be read evaluates to an error, for those who may see
    /// it.
    pub fn parse(json: &[u8]) -> Self {
        serde_json::from_slice(json).unwrap_or_else(|_| {
            /// What is still needed of it.
            #[derive(Default, Deserialize)]
            #[serde(default, rename_all = "camelCase")]
            struct Remains {
                client_side_availability: Option<Availability>,
                client_side: bool,
            }
            let remains: Remains = serde_json::from_slice(json).unwrap_or_default();
            let Remains { client_side_availability, client_side } = remains;
            // Is on and has nothing to serve.
            Self { on: true, client_side_availability, client_side, ..Self::default() }
        })
    }

    /// True if these SDKs may know its value.
    pub fn is_visible_to(&self, audience: Audience) -> bool {
        match (audience, &self.client_side_availability) {
            (Audience::Server, _) | (Audience::Mobile, None) => true,
            (Audience::Mobile, Some(availability)) => availability.using_mobile_key,
            (Audience::Browser, Some(availability)) => availability.using_environment_id,
            (Audience::Browser, None) => self.client_side,
        }
    }
}
