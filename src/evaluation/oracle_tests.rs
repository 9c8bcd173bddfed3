//! Compares with LaunchDarkly's own evaluation for Rust, on data that it accepts: every field is
//! there, variations exist, nothing refers to itself.

use std::collections::BTreeMap;

use launchdarkly_server_sdk_evaluation as oracle;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::reason::{ErrorKind, ReasonKind};
use super::*;

const KEYS: &[&str] = &["a", "b", "c", "7"];
const KINDS: &[&str] = &["user", "org"];
const FLAGS: usize = 4;
const SEGMENTS: usize = 3;

#[derive(Default)]
struct Items {
    flags: BTreeMap<String, (Flag, oracle::Flag)>,
    segments: BTreeMap<String, (Segment, oracle::Segment)>,
}

impl Lookup for Items {
    fn flag(&self, key: &str) -> Option<&Flag> {
        self.flags.get(key).map(|(flag, _)| flag)
    }
    fn segment(&self, key: &str) -> Option<&Segment> {
        self.segments.get(key).map(|(segment, _)| segment)
    }
}

impl oracle::Store for Items {
    fn flag(&self, key: &str) -> Option<oracle::Flag> {
        self.flags.get(key).map(|(_, flag)| flag.clone())
    }
    fn segment(&self, key: &str) -> Option<oracle::Segment> {
        self.segments.get(key).map(|(_, segment)| segment.clone())
    }
}

fn key() -> impl Strategy<Value = &'static str> {
    select(KEYS)
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        select(vec![
            "a",
            "ab",
            "abc",
            "7",
            "1.2.3",
            "1.2",
            "2-rc.1",
            "2024-02-29T10:00:00Z",
            "2024-02-29T10:00:00.5+02:00",
            ""
        ])
        .prop_map(Value::from),
        select(vec![
            json!(0),
            json!(1),
            json!(1.5),
            json!(-3),
            json!(1_709_200_800_000_i64),
            json!(7)
        ]),
        any::<bool>().prop_map(Value::from),
    ]
}

fn attribute() -> impl Strategy<Value = &'static str> {
    select(vec!["key", "name", "kind", "anonymous", "x", "y", "/z/inner", "missing"])
}

fn clause(segments: std::ops::Range<usize>) -> BoxedStrategy<Value> {
    let operator = select(vec![
        "in",
        "in",
        "startsWith",
        "endsWith",
        "contains",
        "matches",
        "lessThan",
        "lessThanOrEqual",
        "greaterThan",
        "greaterThanOrEqual",
        "before",
        "after",
        "semVerEqual",
        "semVerLessThan",
        "semVerGreaterThan",
        "somethingNew",
    ]);
    let values = prop::collection::vec(value(), 0..4);
    let usual = (attribute(), operator, values, any::<bool>(), select(KINDS)).prop_map(
        |(attribute, op, values, negate, kind)| {
            json!({"contextKind": kind, "attribute": attribute, "op": op, "values": values, "negate": negate})
        },
    );
    if segments.is_empty() {
        return usual.boxed();
    }
    let keys = prop::collection::vec(segments.prop_map(|number| format!("s{number}")), 1..3);
    let members = (keys, any::<bool>()).prop_map(|(keys, negate)| {
        json!({"attribute": "", "op": "segmentMatch", "values": keys, "negate": negate})
    });
    prop_oneof![3 => usual, 2 => members].boxed()
}

fn serve() -> impl Strategy<Value = Value> {
    let share = (0..3_i64, select(vec![0, 10_000, 33_333, 60_000]), any::<bool>());
    let shares = prop::collection::vec(share, 1..4);
    let by = prop::option::of(select(vec!["key", "x", "/z/inner", "y"]));
    let rollout = (
        shares,
        select(vec!["rollout", "experiment"]),
        select(KINDS),
        by,
        prop::option::of(0..99_i64),
    )
        .prop_map(|(shares, kind, context_kind, by, seed)| {
            let shares: Vec<Value> = shares.into_iter().map(|(variation, weight, untracked)| {
                json!({"variation": variation, "weight": weight, "untracked": untracked})
            }).collect();
            let mut rollout =
                json!({"kind": kind, "contextKind": context_kind, "variations": shares});
            if let Some(by) = by {
                rollout["bucketBy"] = json!(by);
            }
            if let Some(seed) = seed {
                rollout["seed"] = json!(seed);
            }
            json!({"rollout": rollout})
        });
    prop_oneof![(0..3_i64).prop_map(|variation| json!({"variation": variation})), rollout]
}

fn target() -> impl Strategy<Value = Value> {
    (prop::collection::vec(key(), 0..3), 0..3_i64, select(KINDS)).prop_map(|(values, variation, kind)| {
        json!({"values": values, "variation": variation, "contextKind": kind})
    })
}

fn flag(number: usize) -> impl Strategy<Value = Value> {
    let rule = (serve(), prop::collection::vec(clause(0..SEGMENTS), 0..3), any::<bool>());
    let rules = prop::collection::vec(rule, 0..3);
    // The oracle takes a flag that is needed twice for a circle.
    let next = (select(vec![number + 1, FLAGS]), 0..3_i64);
    let others = prop::collection::vec(next, 0..2);
    let targets = prop::collection::vec(target(), 0..2);
    let context_targets = prop::collection::vec(target(), 0..3);
    let switches = (prop::bool::weighted(0.9), prop::option::of(0..3_i64));
    (rules, others, targets, context_targets, serve(), switches).prop_map(
        move |(rules, others, mut targets, context_targets, fallthrough, (on, off))| {
            let rules: Vec<Value> = rules.into_iter().enumerate().map(|(index, (mut rule, clauses, track))| {
                rule["id"] = json!(if index == 0 { "" } else { "r" });
                rule["clauses"] = json!(clauses);
                rule["trackEvents"] = json!(track);
                rule
            }).collect();
            for target in &mut targets {
                target["contextKind"] = json!("user");
            }
            // The last of them is not there.
            let others: Vec<Value> = others.into_iter().map(|(number, variation)| {
                json!({"key": format!("f{number}"), "variation": variation})
            }).collect();
            json!({
                "key": format!("f{number}"), "version": 1, "on": on, "salt": "salt", "rules": rules,
                "prerequisites": others, "targets": targets, "contextTargets": context_targets,
                "fallthrough": fallthrough, "offVariation": off, "variations": ["x", 2.5, {"y": [null]}],
            })
        },
    )
}

fn segment(number: usize) -> impl Strategy<Value = Value> {
    let keys = || prop::collection::vec(key(), 0..3);
    // Users stand in the other lists; the oracle looks for them here as well.
    let members = || prop::collection::vec((keys(), Just("org")), 0..2);
    let share =
        prop::option::of((select(vec![0, 30_000, 70_000, 100_000]), select(vec!["key", "x"])));
    let rule = (prop::collection::vec(clause(number + 1..SEGMENTS), 0..3), share, select(KINDS));
    (keys(), keys(), members(), members(), prop::collection::vec(rule, 0..3)).prop_map(
        move |(included, excluded, included_contexts, excluded_contexts, rules)| {
            let members = |lists: Vec<(Vec<&str>, &str)>| -> Vec<Value> {
                lists
                    .into_iter()
                    .map(|(values, kind)| json!({"values": values, "contextKind": kind}))
                    .collect()
            };
            let rules: Vec<Value> = rules
                .into_iter()
                .map(|(mut clauses, share, kind)| {
                    if share.is_some() {
                        // The oracle takes individuals in that are not there.
                        clauses
                            .push(json!({"attribute": "kind", "contextKind": "user", "op": "in",
                            "values": [kind], "negate": false}));
                    }
                    let mut rule =
                        json!({"id": "r", "clauses": clauses, "rolloutContextKind": kind});
                    if let Some((weight, by)) = share {
                        rule["weight"] = json!(weight);
                        rule["bucketBy"] = json!(by);
                    }
                    rule
                })
                .collect();
            json!({
                "key": format!("s{number}"), "version": 1, "salt": "salt", "rules": rules,
                "included": included, "excluded": excluded,
                "includedContexts": members(included_contexts),
                "excludedContexts": members(excluded_contexts),
            })
        },
    )
}

fn individual() -> impl Strategy<Value = Value> {
    let list = prop::collection::vec(value(), 0..3).prop_map(Value::from);
    (
        key(),
        prop::option::of(value()),
        prop::option::of(list),
        prop::option::of(value()),
        any::<bool>(),
    )
        .prop_map(|(key, x, y, inner, is_anonymous)| {
            let mut individual = json!({"key": key, "anonymous": is_anonymous, "name": "abc"});
            let below = inner.map(|inner| json!({"inner": inner}));
            for (name, value) in [("x", x), ("y", y), ("z", below)] {
                if let Some(value) = value {
                    individual[name] = value;
                }
            }
            individual
        })
}

fn context() -> impl Strategy<Value = Value> {
    let single = (individual(), select(KINDS)).prop_map(|(mut individual, kind)| {
        individual["kind"] = json!(kind);
        individual
    });
    let multi = (individual(), individual())
        .prop_map(|(user, org)| json!({"kind": "multi", "user": user, "org": org}));
    let old = (individual(), prop::option::of(select(vec!["", "second"]))).prop_map(
        |(individual, secondary)| {
            let custom = json!({"x": individual["x"], "y": individual["y"], "z": individual["z"]});
            let mut user = json!({"key": individual["key"], "name": "abc", "custom": custom});
            if let Some(secondary) = secondary {
                user["secondary"] = json!(secondary);
            }
            user
        },
    );
    prop_oneof![single, multi, old]
}

fn flags() -> impl Strategy<Value = Vec<Value>> {
    (0..FLAGS).map(flag).collect::<Vec<_>>()
}

fn segments() -> impl Strategy<Value = Vec<Value>> {
    (0..SEGMENTS).map(segment).collect::<Vec<_>>()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn as_launchdarkly_evaluates(flags in flags(), segments in segments(), context in context()) {
        let mut items = Items::default();
        for json in &flags {
            let text = json.to_string();
            let theirs = serde_json::from_str(&text).unwrap();
            items.flags.insert(json["key"].as_str().unwrap().into(), (Flag::parse(text.as_bytes()), theirs));
        }
        for json in &segments {
            let text = json.to_string();
            let theirs = serde_json::from_str(&text).unwrap();
            items.segments.insert(json["key"].as_str().unwrap().into(), (Segment::parse(text.as_bytes()), theirs));
        }
        let theirs: oracle::Context = serde_json::from_value(context.clone()).unwrap();
        let context = Context::parse(context.to_string().as_bytes()).unwrap();
        prop_assert_eq!(context.canonical_key(), theirs.canonical_key());
        let mut evaluator = Evaluator::new(&items, &context, &NoBigSegments);
        for (key, (flag, their_flag)) in &items.flags {
            let ours = evaluator.evaluate(flag);
            let theirs = oracle::evaluate(&items, their_flag, &theirs, None);
            prop_assert_eq!(
                ours.variation.map(|(index, _)| index),
                theirs.variation_index.map(|index| usize::try_from(index).unwrap()),
                "{} {:?} {:?}", key, ours.reason, theirs.reason
            );
            prop_assert_eq!(ours.reason.kind, their_reason(&theirs.reason), "{}", key);
            let value: Option<Value> = ours.variation.map(|(_, value)| serde_json::from_str(value.get()).unwrap());
            prop_assert_eq!(value, theirs.value.map(|value| serde_json::to_value(value).unwrap()));
        }
    }
}

fn their_reason(reason: &oracle::Reason) -> ReasonKind<'_> {
    match reason {
        oracle::Reason::Off => ReasonKind::Off,
        oracle::Reason::TargetMatch => ReasonKind::TargetMatch,
        oracle::Reason::RuleMatch { rule_index, rule_id, in_experiment } => {
            ReasonKind::RuleMatch { index: *rule_index, id: rule_id, in_experiment: *in_experiment }
        }
        oracle::Reason::PrerequisiteFailed { prerequisite_key } => {
            ReasonKind::PrerequisiteFailed { key: prerequisite_key }
        }
        oracle::Reason::Fallthrough { in_experiment } => {
            ReasonKind::Fallthrough { in_experiment: *in_experiment }
        }
        oracle::Reason::Error { .. } => ReasonKind::Error(ErrorKind::MalformedFlag),
    }
}
