//! Tables of what LaunchDarkly's rules say, and what no data may do.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::evaluator::{BigSegments, DEPTH_MAX, Membership};
use super::reason::BigSegmentsStatus;
use super::*;

mod bounds;
mod conditions;
mod rollouts;
mod segments;
mod steps;

#[derive(Default)]
struct Items {
    flags: BTreeMap<String, Flag>,
    segments: BTreeMap<String, Segment>,
}

impl Lookup for Items {
    fn flag(&self, key: &str) -> Option<&Flag> {
        self.flags.get(key)
    }
    fn segment(&self, key: &str) -> Option<&Segment> {
        self.segments.get(key)
    }
}

fn items(flags: &[Value], segments: &[Value]) -> Items {
    let key = |value: &Value| value["key"].as_str().unwrap().to_owned();
    let flags = flags.iter().map(|json| (key(json), Flag::parse(json.to_string().as_bytes())));
    let segments =
        segments.iter().map(|json| (key(json), Segment::parse(json.to_string().as_bytes())));
    Items { flags: flags.collect(), segments: segments.collect() }
}

/// The member of the answer that the flag `f` becomes, with its reason.
fn answer(items: &Items, context: &Value) -> Value {
    answer_with(items, context, &NoBigSegments)
}

fn answer_with(items: &Items, context: &Value, big_segments: &dyn BigSegments) -> Value {
    let context = Context::parse(context.to_string().as_bytes()).unwrap();
    let mut evaluator = Evaluator::new(items, &context, big_segments);
    let flag = &items.flags["f"];
    let mut out = b"{".to_vec();
    write_result(&mut out, "f", 3, flag, &evaluator.evaluate(flag), true);
    out.push(b'}');
    let mut answer: Value = serde_json::from_slice(&out).unwrap();
    answer["f"].take()
}

/// A flag that serves "yes" to those who fulfil the clause, and "no" to all others.
fn flag_with(clause: Value) -> Items {
    items(&[flag(json!({"rules": [{"variation": 1, "clauses": [clause]}]}))], &[])
}

fn flag(members: Value) -> Value {
    let flag = json!({"key": "f", "on": true, "variations": ["no", "yes"],
        "offVariation": 0, "fallthrough": {"variation": 0}, "salt": "s"});
    with(flag, &members)
}

fn user(members: Value) -> Value {
    with(json!({"kind": "user", "key": "u"}), &members)
}

/// An object with these members, which replace others of their names.
fn with(mut object: Value, members: &Value) -> Value {
    for (name, value) in members.as_object().unwrap() {
        object[name] = value.clone();
    }
    object
}
