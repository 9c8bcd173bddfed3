//! Evaluates flags for one context.

use std::collections::HashMap;

use serde_json::value::RawValue;

use super::bucket::{Place, Placing};
use super::clause::Clause;
use super::context::{Context, USER};
use super::flag::{Flag, Prerequisite, Rollout, Target, VariationOrRollout};
use super::key_set::KeySet;
use super::reason::{BigSegmentsStatus, ErrorKind, Reason, ReasonKind};
use super::segment::{Members, Segment, SegmentRule};

/// Most prerequisites of prerequisites, and most segments within segments, that are followed. What
/// goes deeper counts as malformed, so that no data can exhaust the stack.
pub const DEPTH_MAX: usize = 40;

/// Parts of a whole in which LaunchDarkly counts shares.
const WHOLE: f32 = 100_000.0;

/// The flags and segments of an environment.
pub trait Lookup {
    /// The flag with this key, unless it is deleted.
    fn flag(&self, key: &str) -> Option<&Flag>;
    /// The segment with this key, unless it is deleted.
    fn segment(&self, key: &str) -> Option<&Segment>;
}

/// Answers who is a member of big segments.
pub trait BigSegments {
    /// What is known of an individual's membership in a segment of this name.
    fn membership(&self, key: &str, reference: &str) -> Membership;
}

/// What is known of a membership in a big segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Whether the individual is listed as member or as none, if it is listed.
    pub is_member: Option<bool>,
    /// How far the answer can be trusted.
    pub status: BigSegmentsStatus,
}

/// For environments without a store of big segments.
#[derive(Clone, Copy, Debug)]
pub struct NoBigSegments;

impl BigSegments for NoBigSegments {
    fn membership(&self, _key: &str, _reference: &str) -> Membership {
        Membership { is_member: None, status: BigSegmentsStatus::NotConfigured }
    }
}

/// The result of one evaluation.
#[derive(Clone, Copy, Debug)]
pub struct Detail<'a> {
    /// The value and its place among the flag's variations; `None` if there is no value.
    pub variation: Option<(usize, &'a RawValue)>,
    /// Why it is this one.
    pub reason: Reason<'a>,
    /// True if the SDK is to report that it used the value, with the reason.
    pub is_experiment: bool,
    /// The flag's own prerequisites that were looked at.
    pub(super) prerequisites: &'a [Prerequisite],
}

/// A flag or something that it refers to contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Evaluates flags for one context. What it learns about prerequisites and segments it remembers,
/// so one of them serves all flags of an answer.
pub struct Evaluator<'a, L> {
    items: &'a L,
    context: &'a Context,
    big_segments: &'a dyn BigSegments,
    decided_flags: HashMap<&'a str, Decided<Option<usize>>>,
    decided_segments: HashMap<&'a str, Decided<bool>>,
}

/// What an evaluation of a prerequisite or a segment led to.
#[derive(Clone, Copy, Debug)]
struct Decided<T> {
    outcome: T,
    /// With the prerequisite or the segment itself.
    basis: Basis,
}

/// A count of levels of prerequisites and of segments.
#[derive(Clone, Copy, Debug, Default)]
struct Levels {
    flags: usize,
    segments: usize,
}

/// What is being evaluated: the innermost first.
#[derive(Clone, Copy)]
struct Chain<'c> {
    key: &'c str,
    outer: Option<&'c Chain<'c>>,
}

/// What a decision was based on.
#[derive(Clone, Copy, Debug, Default)]
struct Basis {
    /// Of the big segments that were asked.
    status: Option<BigSegmentsStatus>,
    /// Levels of prerequisites and of segments that were needed.
    levels: Levels,
}

/// How a flag's value was chosen. Without a variation it has none.
struct Choice<'a> {
    variation: Option<usize>,
    reason: ReasonKind<'a>,
}

impl Choice<'_> {
    const MALFORMED: Self =
        Self { variation: None, reason: ReasonKind::Error(ErrorKind::MalformedFlag) };
}

impl<'a, L: Lookup> Evaluator<'a, L> {
    /// Evaluates for this context.
    pub fn new(items: &'a L, context: &'a Context, big_segments: &'a dyn BigSegments) -> Self {
        let (decided_flags, decided_segments) = (HashMap::new(), HashMap::new());
        Self { items, context, big_segments, decided_flags, decided_segments }
    }

    /// The value of a flag.
    pub fn evaluate(&mut self, flag: &'a Flag) -> Detail<'a> {
        let mut basis = Basis::default();
        let mut looked_at = 0;
        let chain = Chain { key: &flag.key, outer: None };
        let choice = self.choose(flag, &chain, &mut basis, &mut looked_at);
        let choice = choice.unwrap_or(Choice::MALFORMED);
        let variation = choice
            .variation
            .and_then(|index| flag.variations.get(index).map(|value| (index, &**value)));
        Detail {
            variation,
            is_experiment: is_experiment(flag, &choice.reason),
            reason: Reason { kind: choice.reason, big_segments: basis.status },
            prerequisites: flag.prerequisites.get(..looked_at).unwrap_or_default(),
        }
    }

    fn choose(
        &mut self,
        flag: &'a Flag,
        chain: &Chain<'_>,
        basis: &mut Basis,
        looked_at: &mut usize,
    ) -> Result<Choice<'a>, Malformed> {
        if !flag.on {
            return Ok(off(flag, ReasonKind::Off));
        }
        for prerequisite in &flag.prerequisites {
            let reason = ReasonKind::PrerequisiteFailed { key: &prerequisite.key };
            let Some(other) = self.items.flag(&prerequisite.key) else {
                return Ok(off(flag, reason));
            };
            let variation = self.prerequisite(&prerequisite.key, other, chain, basis)?;
            *looked_at += 1;
            let demanded = usize::try_from(prerequisite.variation).ok();
            if !other.on || variation.is_none() || variation != demanded {
                return Ok(off(flag, reason));
            }
        }
        if let Some(variation) = self.targeted(flag) {
            return Ok(chosen(flag, variation, ReasonKind::TargetMatch));
        }
        for (index, rule) in flag.rules.iter().enumerate() {
            if self.all_match(&rule.clauses, None, basis)? {
                return Ok(self.served(flag, &rule.serve, |in_experiment| ReasonKind::RuleMatch {
                    index,
                    id: &rule.id,
                    in_experiment,
                }));
            }
        }
        Ok(self.served(flag, &flag.fallthrough, |in_experiment| ReasonKind::Fallthrough {
            in_experiment,
        }))
    }

    /// What a rule or the fallthrough serves. If that is malformed, those who need this flag see it
    /// without a variation; they are not malformed themselves.
    fn served(
        &self,
        flag: &Flag,
        serve: &VariationOrRollout,
        reason: impl Fn(bool) -> ReasonKind<'a>,
    ) -> Choice<'a> {
        match self.share(flag, serve) {
            Ok((variation, in_experiment)) => chosen(flag, variation, reason(in_experiment)),
            Err(Malformed) => Choice::MALFORMED,
        }
    }

    /// The variation of a flag that another needs.
    fn prerequisite(
        &mut self,
        key: &'a str,
        flag: &'a Flag,
        outer: &Chain<'_>,
        basis: &mut Basis,
    ) -> Result<Option<usize>, Malformed> {
        if let Some(decided) = self.decided_flags.get(key).copied() {
            return basis.take_in(decided, outer.len(), 0);
        }
        let chain = outer.with(key)?;
        let mut own = Basis::default();
        let choice = self.choose(flag, &chain, &mut own, &mut 0)?;
        own.levels.flags += 1;
        let decided = Decided { outcome: choice.variation, basis: own };
        self.decided_flags.insert(key, decided);
        basis.take_in(decided, outer.len(), 0)
    }

    /// The variation for which the context is listed by name.
    fn targeted(&self, flag: &Flag) -> Option<i64> {
        let is_listed = |target: &&Target| self.is_in_list(&target.context_kind, &target.values);
        if flag.context_targets.is_empty() {
            return flag.targets.iter().find(is_listed).map(|target| target.variation);
        }
        // The order is that of the newer list. Its targets for users stand in the older one.
        let target = flag.context_targets.iter().find(|target| {
            let is_of_users = target.context_kind.is_empty() || &*target.context_kind == USER;
            if is_of_users && target.values.is_empty() {
                let mut users = flag.targets.iter();
                users
                    .find(|users| users.variation == target.variation)
                    .is_some_and(|it| is_listed(&it))
            } else {
                is_listed(target)
            }
        });
        target.map(|target| target.variation)
    }

    /// True if the context's individual of this kind is in the list.
    fn is_in_list(&self, kind: &str, keys: &KeySet) -> bool {
        self.context.individual(kind).is_some_and(|individual| keys.contains(&individual.key))
    }

    /// The variation that contexts get here, and whether they take part in an experiment by it.
    fn share(&self, flag: &Flag, serve: &VariationOrRollout) -> Result<(i64, bool), Malformed> {
        if let Some(variation) = serve.variation {
            return Ok((variation, false));
        }
        let Rollout { is_experiment, context_kind, variations, bucket_by, seed } = &serve.rollout;
        let last = variations.last().ok_or(Malformed)?;
        let (key, salt) = (&flag.key, &flag.salt);
        let (is_experiment, seed) = (*is_experiment, *seed);
        let placing = Placing { key, salt, seed, context_kind, bucket_by, is_experiment };
        let (place, has_place) = match placing.place(self.context)? {
            Place::At(place) => (place, true),
            Place::NoIndividual => (0.0, false),
        };
        let mut end = 0.0;
        let share = variations.iter().find(|share| {
            end += part(share.weight);
            place < end
        });
        // Rounding can leave a gap at the end.
        let share = share.unwrap_or(last);
        Ok((share.variation, is_experiment && !share.untracked && has_place))
    }

    fn all_match(
        &mut self,
        clauses: &'a [Clause],
        within: Option<&Chain<'_>>,
        basis: &mut Basis,
    ) -> Result<bool, Malformed> {
        for clause in clauses {
            let matches = match clause.segments() {
                Some(keys) => clause.verdict(self.is_in_any(keys, within, basis)?),
                None => clause.matches(self.context)?,
            };
            if !matches {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_in_any(
        &mut self,
        keys: &'a [Box<str>],
        within: Option<&Chain<'_>>,
        basis: &mut Basis,
    ) -> Result<bool, Malformed> {
        for key in keys {
            let Some(segment) = self.items.segment(key) else { continue };
            if self.is_in(key, segment, within, basis)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// True if the context is a member of the segment.
    fn is_in(
        &mut self,
        key: &'a str,
        segment: &'a Segment,
        within: Option<&Chain<'_>>,
        basis: &mut Basis,
    ) -> Result<bool, Malformed> {
        let depth = within.map_or(0, Chain::len);
        if let Some(decided) = self.decided_segments.get(key).copied() {
            return basis.take_in(decided, 0, depth);
        }
        let chain = match within {
            Some(outer) => outer.with(key)?,
            None => Chain { key, outer: None },
        };
        let mut own = Basis::default();
        let is_member = self.decide_membership(segment, &chain, &mut own)?;
        own.levels.segments += 1;
        let decided = Decided { outcome: is_member, basis: own };
        self.decided_segments.insert(key, decided);
        basis.take_in(decided, 0, depth)
    }

    fn decide_membership(
        &mut self,
        segment: &'a Segment,
        chain: &Chain<'_>,
        basis: &mut Basis,
    ) -> Result<bool, Malformed> {
        if segment.is_malformed {
            return Err(Malformed);
        }
        if segment.unbounded {
            let Some(reference) = &segment.reference else {
                basis.asked(BigSegmentsStatus::NotConfigured);
                return Ok(false);
            };
            let Some(individual) = self.context.individual(&segment.unbounded_context_kind) else {
                return Ok(false);
            };
            let membership = self.big_segments.membership(&individual.key, reference);
            basis.asked(membership.status);
            if let Some(is_member) = membership.is_member {
                return Ok(is_member);
            }
        } else if let Some(is_member) = self.listed(segment) {
            return Ok(is_member);
        }
        for rule in &segment.rules {
            if self.all_match(&rule.clauses, Some(chain), basis)?
                && self.has_share(segment, rule)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the segment's lists name the context as a member or as none, if they name it.
    fn listed(&self, segment: &Segment) -> Option<bool> {
        let has_others = !self.context.is_only_user();
        let is_in = |users: &KeySet, others: &[Members]| {
            let mut others = others.iter();
            self.is_in_list(USER, users)
                || (has_others && others.any(|it| self.is_in_list(&it.context_kind, &it.values)))
        };
        if is_in(&segment.included, &segment.included_contexts) {
            return Some(true);
        }
        is_in(&segment.excluded, &segment.excluded_contexts).then_some(false)
    }

    /// True if the context is within the share of a rule's members.
    fn has_share(&self, segment: &Segment, rule: &SegmentRule) -> Result<bool, Malformed> {
        let Some(weight) = rule.weight else { return Ok(true) };
        let placing = Placing {
            key: &segment.key,
            salt: &segment.salt,
            seed: None,
            context_kind: &rule.context_kind,
            bucket_by: &rule.bucket_by,
            is_experiment: false,
        };
        Ok(match placing.place(self.context)? {
            Place::At(place) => place < part(weight),
            Place::NoIndividual => false,
        })
    }
}

impl<'c> Chain<'c> {
    /// The chain with one more in it, unless it is in it already or too many are.
    fn with<'d>(&'d self, key: &'d str) -> Result<Chain<'d>, Malformed>
    where
        'c: 'd,
    {
        let is_in_it = self.links().any(|link| link.key == key);
        if is_in_it || self.len() >= DEPTH_MAX {
            return Err(Malformed);
        }
        Ok(Chain { key, outer: Some(self) })
    }

    fn links(&self) -> impl Iterator<Item = &Chain<'c>> {
        std::iter::successors(Some(self), |link| link.outer)
    }

    fn len(&self) -> usize {
        self.links().count()
    }
}

impl Basis {
    fn asked(&mut self, status: BigSegmentsStatus) {
        self.status = self.status.max(Some(status));
    }

    /// Bases the present decision on another, made below this many levels. The limit is the same
    /// whether the other is remembered or was made just now.
    fn take_in<T>(
        &mut self,
        decided: Decided<T>,
        flags: usize,
        segments: usize,
    ) -> Result<T, Malformed> {
        let Decided { outcome, basis: Self { status, levels } } = decided;
        if flags + levels.flags > DEPTH_MAX || segments + levels.segments > DEPTH_MAX {
            return Err(Malformed);
        }
        self.status = self.status.max(status);
        self.levels.flags = self.levels.flags.max(levels.flags);
        self.levels.segments = self.levels.segments.max(levels.segments);
        Ok(outcome)
    }
}

fn off<'a>(flag: &Flag, reason: ReasonKind<'a>) -> Choice<'a> {
    match flag.off_variation {
        Some(variation) => chosen(flag, variation, reason),
        None => Choice { variation: None, reason },
    }
}

fn chosen<'a>(flag: &Flag, variation: i64, reason: ReasonKind<'a>) -> Choice<'a> {
    match usize::try_from(variation) {
        Ok(index) if index < flag.variations.len() => Choice { variation: Some(index), reason },
        _ => Choice::MALFORMED,
    }
}

#[expect(clippy::cast_precision_loss, reason = "as in all SDKs")]
fn part(weight: i64) -> f32 {
    weight as f32 / WHOLE
}

fn is_experiment(flag: &Flag, reason: &ReasonKind<'_>) -> bool {
    match *reason {
        ReasonKind::Fallthrough { in_experiment } => in_experiment || flag.track_events_fallthrough,
        ReasonKind::RuleMatch { index, in_experiment, .. } => {
            in_experiment || flag.rules.get(index).is_some_and(|rule| rule.track_events)
        }
        ReasonKind::Off
        | ReasonKind::TargetMatch
        | ReasonKind::PrerequisiteFailed { .. }
        | ReasonKind::Error(_) => false,
    }
}
