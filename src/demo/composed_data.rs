//! Generates environments and flags: shaped like LaunchDarkly's, the same in every run, and with
//! values that are known without evaluating.
//!
//! A flag's expected value is that of a context with the key [`CONTEXT_KEY`] and no attributes. No
//! target, rule or segment matches this context, so the value is that of `fallthrough` or, if the
//! flag is off, of `offVariation`.
//!
//! Invariant: all data is a pure function of the index of the environment, the index of the flag,
//! and the number of changes.

use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

use super::representations::{EnvironmentRep, KeyRep, SdkKeyRep};
use crate::model::{DataSet, Item};

/// A context key that no generated target, rule or segment contains.
pub const CONTEXT_KEY: &str = "plain-reader";

/// Number of flags for each segment (2 %).
const FLAGS_PER_SEGMENT: usize = 50;

/// In each group of this many flags, the one at [`PREREQUISITE_AT`] is a prerequisite of the next.
const PREREQUISITE_EVERY: usize = 10;
const PREREQUISITE_AT: usize = 2;

/// In each group of this many flags, one is off.
const OFF_EVERY: usize = 7;

const SUBJECTS: [&str; 16] = [
    "checkout",
    "search",
    "billing",
    "invoice",
    "catalogue",
    "delivery",
    "payment",
    "profile",
    "session",
    "mailing",
    "reports",
    "onboarding",
    "inventory",
    "discount",
    "feedback",
    "gateway",
];

const ASPECTS: [&str; 16] = [
    "redesign",
    "retry-limit",
    "banner",
    "fast-path",
    "dark-mode",
    "rate",
    "layout",
    "fallback",
    "batching",
    "caching",
    "wording",
    "shortcut",
    "preview",
    "timeout",
    "grouping",
    "audit",
];

/// One environment with all its data.
#[derive(Clone, PartialEq)]
pub struct ComposedEnvironment {
    /// The representation in autoconfig messages.
    pub rep: EnvironmentRep,
    /// Flags and segments.
    pub data: DataSet,
}

impl fmt::Debug for ComposedEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rep, data } = self;
        write!(f, "{rep:?} with {} flags, {} segments", data.flags.len(), data.segments.len())
    }
}

/// The environment with this index and this number of flags, and segments for them.
pub fn environment(index: usize, flags: usize) -> ComposedEnvironment {
    let mut data = DataSet::default();
    let live = |(key, json): (String, Value)| {
        let version = json["version"].as_u64().unwrap_or(1);
        (Arc::from(key), Arc::new(Item::live(version, json.to_string())))
    };
    data.flags = (0..flags).map(|flag| live((flag_key(flag), self::flag(index, flag)))).collect();
    data.segments = (0..segment_count(flags))
        .map(|segment| live((segment_key(segment), self::segment(index, segment))))
        .collect();
    ComposedEnvironment { rep: representation(index), data }
}

/// The environment without data.
pub fn representation(index: usize) -> EnvironmentRep {
    let (sdk_key, mobile_key) = (sdk_key(index), mobile_key(index));
    EnvironmentRep {
        env_id: environment_id(index),
        env_key: format!("environment-{index}"),
        env_name: format!("Environment {index}"),
        mob_key: mobile_key.clone(),
        proj_key: "pilot-project".to_owned(),
        proj_name: "Pilot project".to_owned(),
        sdk_key: SdkKeyRep { value: sdk_key.clone(), ..SdkKeyRep::default() },
        sdk_keys: vec![KeyRep::permanent("default", sdk_key)],
        mobile_keys: vec![KeyRep::permanent("default", mobile_key)],
        default_ttl: 5,
        secure_mode: false,
        version: 1,
    }
}

/// Client-side ID of the environment: 24 hexadecimal digits, like LaunchDarkly's.
pub fn environment_id(index: usize) -> String {
    let mut random = Random::new("environment", index, 0);
    format!("{:016x}{:08x}", random.next(), random.next() >> 32)
}

/// The environment's SDK key.
pub fn sdk_key(index: usize) -> String {
    format!("sdk-{}", uuid("sdk", index))
}

/// The environment's mobile key.
pub fn mobile_key(index: usize) -> String {
    format!("mob-{}", uuid("mob", index))
}

/// The flag's key, the same in every environment.
pub fn flag_key(flag: usize) -> String {
    let subject = SUBJECTS[flag % SUBJECTS.len()];
    let aspect = ASPECTS[flag / SUBJECTS.len() % ASPECTS.len()];
    format!("{subject}-{aspect}-{flag:04}")
}

/// The segment's key, the same in every environment.
pub fn segment_key(segment: usize) -> String {
    format!("{}-members-{segment:03}", SUBJECTS[segment % SUBJECTS.len()])
}

/// The number of segments for this number of flags.
pub fn segment_count(flags: usize) -> usize {
    flags.div_ceil(FLAGS_PER_SEGMENT)
}

/// The flag before any change.
pub fn flag(environment: usize, flag: usize) -> Value {
    changed_flag(environment, flag, 0)
}

/// The value of the flag before any change, for the context in the module's documentation.
pub fn expected_value(environment: usize, flag: usize) -> Value {
    expected_value_after(environment, flag, 0)
}

/// The value of the flag after this number of changes. Two successive changes give different
/// values, except for a flag that [is a prerequisite](is_prerequisite).
pub fn expected_value_after(environment: usize, flag: usize, changes: usize) -> Value {
    variations(flag).swap_remove(expected_variation(environment, flag, changes))
}

/// True if another flag depends on this one. Its value never changes, so that each flag's value
/// depends on its own changes alone.
pub fn is_prerequisite(flag: usize) -> bool {
    flag % PREREQUISITE_EVERY == PREREQUISITE_AT
}

/// The flag's version after this number of changes.
pub fn flag_version(flag: usize, changes: usize) -> u64 {
    (1 + flag % 40 + changes) as u64
}

/// The flag after this number of changes, with every member that strict readers require.
pub fn changed_flag(environment: usize, flag: usize, changes: usize) -> Value {
    let variations = variations(flag);
    let expected = expected_variation(environment, flag, changes);
    let on = is_on(flag);
    let other = (expected + 1) % variations.len();
    // If the flag is on, its value is that of the fallthrough; otherwise, that of the off
    // variation.
    let (fallthrough, off) = if on { (expected, other) } else { (other, expected) };
    let mut random = Random::new("flag", environment, flag);
    json!({
        "key": flag_key(flag),
        "version": flag_version(flag, changes),
        "on": on,
        "prerequisites": prerequisites(environment, flag),
        "targets": [{"variation": other, "values": members(&mut random, 10)}],
        "contextTargets": context_targets(&mut random, flag, other),
        "rules": rules(&mut random, flag, other),
        "fallthrough": fallthrough_of(flag, fallthrough, variations.len()),
        "offVariation": off,
        "variations": variations,
        "clientSideAvailability": {
            "usingMobileKey": flag.is_multiple_of(3),
            "usingEnvironmentId": flag.is_multiple_of(2),
        },
        "clientSide": flag.is_multiple_of(2),
        "salt": format!("{:032x}", u128::from(random.next()) << 64 | u128::from(random.next())),
        "trackEvents": flag % 11 == 1,
        "trackEventsFallthrough": flag % 13 == 1,
        "debugEventsUntilDate": null,
        "deleted": false,
    })
}

/// A segment, with every member that strict readers require.
pub fn segment(environment: usize, segment: usize) -> Value {
    let mut random = Random::new("segment", environment, segment);
    json!({
        "key": segment_key(segment),
        "version": 1 + segment % 9,
        "included": members(&mut random, 40),
        "excluded": members(&mut random, 5),
        "includedContexts": [{"contextKind": "device", "values": members(&mut random, 3)}],
        "excludedContexts": [],
        "salt": format!("{:032x}", random.next()),
        "rules": [{
            "id": uuid("segment-rule", segment),
            "clauses": [clause("user", "email", "endsWith", &json!(["@pilot.example"]))],
        }],
        "unbounded": false,
        "generation": null,
        "deleted": false,
    })
}

fn is_on(flag: usize) -> bool {
    is_prerequisite(flag) || flag % OFF_EVERY != OFF_EVERY - 1
}

fn expected_variation(environment: usize, flag: usize, changes: usize) -> usize {
    let changes = if is_prerequisite(flag) { 0 } else { changes };
    (environment + flag / 4 + changes) % variations(flag).len()
}

/// The variations of a flag: booleans, texts, numbers and objects in turn.
fn variations(flag: usize) -> Vec<Value> {
    let key = flag_key(flag);
    match flag % 4 {
        0 => vec![json!(true), json!(false)],
        1 => ["off", "on", "trial"].map(|word| json!(format!("{key}/{word}"))).to_vec(),
        2 => vec![json!(flag), json!(flag as f64 + 0.5), json!(-1)],
        _ => ["narrow", "wide"]
            .map(|layout| {
                json!({
                    "layout": layout,
                    "title": key.clone(),
                    "limits": {"rows": flag % 50, "ratio": 0.25},
                    "steps": ["first", "second", "third"],
                })
            })
            .to_vec(),
    }
}

fn prerequisites(environment: usize, flag: usize) -> Value {
    match flag.checked_sub(1) {
        Some(needed) if is_prerequisite(needed) => {
            let variation = expected_variation(environment, needed, 0);
            json!([{"key": flag_key(needed), "variation": variation}])
        }
        Some(_) | None => json!([]),
    }
}

fn context_targets(random: &mut Random, flag: usize, variation: usize) -> Value {
    match flag % 5 {
        // The entry of kind user is a reference to `targets` and has no values of its own.
        0 => json!([
            {"contextKind": "user", "variation": variation, "values": []},
            {"contextKind": "organisation", "variation": variation, "values": members(random, 2)},
        ]),
        _ => json!([]),
    }
}

fn rules(random: &mut Random, flag: usize, variation: usize) -> Value {
    let members_rule = json!({
        "id": uuid("rule", flag * 2),
        "variation": variation,
        "clauses": [
            clause("user", "", "segmentMatch", &json!([segment_key(flag / FLAGS_PER_SEGMENT)])),
            clause("user", "country", "in", &json!(["se", "no", "dk", "fi"])),
        ],
        "trackEvents": false,
    });
    let first = random.next() % 90_000;
    let rollout_rule = json!({
        "id": uuid("rule", flag * 2 + 1),
        "rollout": {
            "kind": "rollout",
            "contextKind": "user",
            "variations": [
                {"variation": 0, "weight": first},
                {"variation": 1, "weight": 100_000 - first},
            ],
            "bucketBy": "key",
        },
        "clauses": [
            clause("user", "email", "endsWith", &json!(["@pilot.example", "@pilot.test"])),
            clause("organisation", "/plan/name", "startsWith", &json!(["enterprise"])),
        ],
        "trackEvents": flag.is_multiple_of(6),
    });
    match flag % 3 {
        0 => json!([members_rule]),
        1 => json!([rollout_rule]),
        _ => json!([members_rule, rollout_rule]),
    }
}

fn clause(kind: &str, attribute: &str, op: &str, values: &Value) -> Value {
    json!({
        "contextKind": kind,
        "attribute": attribute,
        "op": op,
        "values": values,
        "negate": false,
    })
}

/// A plain variation, or a rollout that gives everything to it.
fn fallthrough_of(flag: usize, variation: usize, variations: usize) -> Value {
    if flag % 8 != 5 {
        return json!({"variation": variation});
    }
    let weights = (0..variations).map(|index| {
        let weight = if index == variation { 100_000 } else { 0 };
        json!({"variation": index, "weight": weight})
    });
    json!({"rollout": {
        "kind": "rollout",
        "contextKind": "user",
        "variations": weights.collect::<Vec<_>>(),
        "bucketBy": "key",
    }})
}

fn members(random: &mut Random, count: usize) -> Value {
    (0..count).map(|_| format!("member-{:012x}", random.next() >> 16)).collect()
}

fn uuid(purpose: &str, index: usize) -> String {
    let mut random = Random::new(purpose, index, 0);
    let (a, b) = (random.next(), random.next());
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        a >> 32,
        a >> 16 & 0xffff,
        a & 0xfff,
        b >> 52,
        b & 0xffff_ffff_ffff
    )
}

/// The generator SplitMix64: the same numbers on every machine and with every version of libraries.
struct Random(u64);

impl Random {
    fn new(purpose: &str, first: usize, second: usize) -> Self {
        let mut random = Self(0);
        let words = purpose.bytes().map(u64::from).chain([first as u64, second as u64]);
        for word in words {
            random.0 ^= word;
            random.0 = random.next();
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
#[path = "composed_data_tests.rs"]
mod tests;
