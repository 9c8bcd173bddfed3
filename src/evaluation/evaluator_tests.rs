//! Tables of what LaunchDarkly's rules say, and what no data may do.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::evaluator::{BigSegments, DEPTH_MAX, Membership};
use super::reason::BigSegmentsStatus;
use super::*;

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
    let mut flag = json!({"key": "f", "on": true, "variations": ["no", "yes"],
        "offVariation": 0, "fallthrough": {"variation": 0}, "salt": "s"});
    for (name, value) in members.as_object().unwrap() {
        flag[name] = value.clone();
    }
    flag
}

fn user(members: Value) -> Value {
    let mut user = json!({"kind": "user", "key": "u"});
    for (name, value) in members.as_object().unwrap() {
        user[name] = value.clone();
    }
    user
}

#[test]
fn operators() {
    for (op, value, clause_values, expected) in [
        ("in", json!("a"), json!(["b", "a"]), true),
        ("in", json!("A"), json!(["a"]), false),
        ("in", json!(1), json!([1.0]), true),
        ("in", json!(-0.0), json!([0]), true),
        ("in", json!("1"), json!([1]), false),
        ("in", json!(true), json!([false, true]), true),
        ("in", json!(true), json!([false]), false),
        ("in", json!(["x", "a"]), json!(["a"]), true),
        ("in", json!([]), json!(["a"]), false),
        ("in", json!([["a"]]), json!([["a"]]), false),
        ("in", json!({"a": 1}), json!([{"a": 1}]), false),
        ("in", json!([null]), json!([null]), false),
        ("in", json!("g"), json!(["a", "b", "c", "d", "e", "f", "g"]), true),
        ("in", json!("h"), json!(["a", "b", "c", "d", "e", "f", "g"]), false),
        ("in", json!(2), json!(["a", 3, 2, 1]), true),
        ("startsWith", json!("abc"), json!(["x", "ab"]), true),
        ("startsWith", json!("abc"), json!(["bc"]), false),
        ("startsWith", json!(12), json!(["1"]), false),
        ("endsWith", json!("abc"), json!(["bc"]), true),
        ("endsWith", json!("abc"), json!(["ab"]), false),
        ("contains", json!("abc"), json!(["b"]), true),
        ("contains", json!("abc"), json!(["d"]), false),
        ("contains", json!("abc"), json!([""]), true),
        ("matches", json!("abc"), json!(["(", "b."]), true),
        ("matches", json!("abc"), json!(["^b"]), false),
        ("matches", json!(1), json!(["1"]), false),
        ("lessThan", json!(1), json!([1.5]), true),
        ("lessThan", json!(2), json!([2]), false),
        ("lessThan", json!("1"), json!([2]), false),
        ("lessThanOrEqual", json!(2), json!([2]), true),
        ("lessThanOrEqual", json!(3), json!([2]), false),
        ("greaterThan", json!(3), json!([2]), true),
        ("greaterThan", json!(2), json!([2]), false),
        ("greaterThanOrEqual", json!(2), json!([2]), true),
        ("greaterThanOrEqual", json!(1), json!([2]), false),
        ("before", json!(0), json!(["1970-01-01T00:00:00.001Z"]), true),
        ("before", json!("1970-01-01T00:00:00Z"), json!([1]), true),
        ("before", json!(1), json!([1]), false),
        ("before", json!("yesterday"), json!([1]), false),
        ("after", json!(2), json!([1]), true),
        ("after", json!(true), json!([1]), false),
        ("semVerEqual", json!("2"), json!(["2.0.0"]), true),
        ("semVerEqual", json!("2.0.1"), json!(["2.0.0"]), false),
        ("semVerLessThan", json!("2.0.0-rc.1"), json!(["2"]), true),
        ("semVerLessThan", json!("2"), json!(["2"]), false),
        ("semVerGreaterThan", json!("10.0.0"), json!(["x", "9"]), true),
        ("semVerGreaterThan", json!(10), json!(["9"]), false),
        ("somethingNew", json!("a"), json!(["a"]), false),
        ("", json!("a"), json!(["a"]), false),
    ] {
        for negate in [false, true] {
            let clause =
                json!({"attribute": "x", "op": op, "values": clause_values, "negate": negate});
            let found = answer(&flag_with(clause), &user(json!({"x": value})));
            let expected = if expected == negate { "no" } else { "yes" };
            assert_eq!(found["value"], expected, "{value} {op} {clause_values}, negated: {negate}");
        }
    }
}

#[test]
fn attributes() {
    let multi = json!({"kind": "multi", "user": {"key": "u"}, "org": {"key": "o", "a": {"b": 1}}});
    for (clause, context, expected) in [
        // What is not there fulfils nothing, also not a negated clause.
        (json!({"attribute": "x"}), user(json!({})), "no"),
        (json!({"attribute": "x", "negate": true}), user(json!({})), "no"),
        (json!({"attribute": "x", "negate": true}), user(json!({"x": null})), "no"),
        (
            json!({"attribute": "x", "contextKind": "org", "negate": true}),
            user(json!({"x": 2})),
            "no",
        ),
        (json!({"attribute": "/a/b", "contextKind": "org"}), multi.clone(), "yes"),
        (json!({"attribute": "/a/b"}), multi.clone(), "no"),
        (json!({"attribute": "/a/b"}), user(json!({"/a/b": 1})), "yes"),
        (json!({"attribute": "kind", "values": ["org"]}), multi.clone(), "yes"),
        (json!({"attribute": "kind", "values": ["org"]}), user(json!({})), "no"),
        (json!({"attribute": "kind", "values": ["org"], "negate": true}), user(json!({})), "yes"),
        (json!({"attribute": "key", "values": ["o"], "contextKind": "org"}), multi.clone(), "yes"),
        (json!({"attribute": "anonymous", "values": [false]}), multi, "yes"),
    ] {
        let mut whole = json!({"op": "in", "values": [1]});
        for (name, value) in clause.as_object().unwrap() {
            whole[name] = value.clone();
        }
        assert_eq!(answer(&flag_with(whole), &context)["value"], expected, "{clause}");
    }
}

#[test]
fn steps_of_an_evaluation() {
    let fallthrough =
        json!({"value": "no", "variation": 0, "version": 3, "reason": {"kind": "FALLTHROUGH"}});
    let error = json!({"value": null, "variation": null, "version": 3,
        "reason": {"kind": "ERROR", "errorKind": "MALFORMED_FLAG"}});
    let everybody = json!({"attribute": "key", "op": "in", "values": ["u"]});
    for (members, expected) in [
        (json!({}), fallthrough.clone()),
        (
            json!({"on": false}),
            json!({"value": "no", "variation": 0, "version": 3, "reason": {"kind": "OFF"}}),
        ),
        (
            json!({"on": null, "offVariation": null}),
            json!({"value": null, "variation": null, "version": 3, "reason": {"kind": "OFF"}}),
        ),
        (json!({"on": false, "offVariation": 2}), error.clone()),
        (json!({"on": false, "offVariation": -1}), error.clone()),
        (json!({"fallthrough": {"variation": 2}}), error.clone()),
        (json!({"fallthrough": null}), error.clone()),
        (json!({"fallthrough": {"rollout": {"variations": []}}}), error.clone()),
        (json!({"fallthrough": {"rollout": null}}), error.clone()),
        (json!({"variations": null}), error.clone()),
        (json!({"variations": "no list", "clientSide": true}), error.clone()),
        (
            json!({"targets": [{"values": ["x"], "variation": 0}, {"values": ["u"], "variation": 1}]}),
            json!({"value": "yes", "variation": 1, "version": 3, "reason": {"kind": "TARGET_MATCH"}}),
        ),
        (
            json!({"targets": [{"values": null, "variation": 1}], "contextTargets": null}),
            fallthrough,
        ),
        (json!({"targets": [{"values": ["u"], "variation": 9}]}), error.clone()),
        (
            json!({"rules": [{"id": "r", "variation": 1, "clauses": [everybody], "trackEvents": true}]}),
            json!({"value": "yes", "variation": 1, "version": 3, "trackEvents": true, "trackReason": true,
                "reason": {"kind": "RULE_MATCH", "ruleIndex": 0, "ruleId": "r"}}),
        ),
        (
            json!({"rules": [{"variation": 1, "clauses": null}]}),
            json!({"value": "yes", "variation": 1, "version": 3,
                "reason": {"kind": "RULE_MATCH", "ruleIndex": 0}}),
        ),
        (json!({"rules": [{"clauses": [everybody]}]}), error.clone()),
        (
            json!({"rules": [{"variation": 1, "clauses": [{"op": "in", "values": [1]}]}]}),
            error.clone(),
        ),
        (
            json!({"rules": [{"variation": 1,
                "clauses": [{"contextKind": "user", "attribute": "//", "op": "in", "values": [1]}]}]}),
            error.clone(),
        ),
        (
            json!({"fallthrough": {"rollout": {"contextKind": "user", "bucketBy": "//",
                "variations": [{"variation": 0, "weight": 100_000}]}}}),
            error,
        ),
        (
            json!({"trackEvents": true, "debugEventsUntilDate": 5.9}),
            json!({"value": "no", "variation": 0, "version": 3, "trackEvents": true,
                "reason": {"kind": "FALLTHROUGH"}, "debugEventsUntilDate": 5}),
        ),
        (
            json!({"trackEventsFallthrough": true}),
            json!({"value": "no", "variation": 0, "version": 3, "trackEvents": true,
                "trackReason": true, "reason": {"kind": "FALLTHROUGH"}}),
        ),
    ] {
        assert_eq!(
            answer(&items(&[flag(members.clone())], &[]), &user(json!({}))),
            expected,
            "{members}"
        );
    }
}

#[test]
fn targets_of_other_kinds_keep_their_order() {
    let both = json!({"kind": "multi", "user": {"key": "u"}, "org": {"key": "o"}});
    let targets = json!([{"values": ["u"], "variation": 1}]);
    for (context_targets, expected) in [
        (
            json!([{"contextKind": "user", "values": [], "variation": 1}, {"contextKind": "org", "values": ["o"], "variation": 0}]),
            "yes",
        ),
        (
            json!([{"contextKind": "org", "values": ["o"], "variation": 0}, {"contextKind": "user", "values": [], "variation": 1}]),
            "no",
        ),
        (json!([{"values": [], "variation": 1}]), "yes"),
        // The older list does not count of itself.
        (json!([{"contextKind": "org", "values": ["x"], "variation": 0}]), "off"),
        (json!([{"contextKind": "user", "values": ["u"], "variation": 0}]), "no"),
    ] {
        let flag = flag(json!({"targets": targets, "contextTargets": context_targets,
            "variations": ["no", "yes", "off"], "fallthrough": {"variation": 2}}));
        assert_eq!(answer(&items(&[flag], &[]), &both)["value"], expected, "{context_targets}");
    }
}

#[test]
fn prerequisites() {
    let other = |key: &str, members: Value| {
        let mut other = flag(members);
        other["key"] = json!(key);
        other
    };
    let needs = |keys: &[&str]| -> Value {
        keys.iter().map(|key| json!({"key": key, "variation": 0})).collect()
    };
    let failed = |key: &str, listed: &[&str]| {
        let mut answer = json!({"value": "no", "variation": 0, "version": 3,
            "reason": {"kind": "PREREQUISITE_FAILED", "prerequisiteKey": key}});
        if !listed.is_empty() {
            answer["prerequisites"] = json!(listed);
        }
        answer
    };
    let fine = other("fine", json!({}));
    let off = other("off", json!({"on": false}));
    let broken = other("broken", json!({"fallthrough": {"variation": 9}}));
    let unreadable = other("unreadable", json!({"on": "perhaps"}));
    let circular = other("circular", json!({"prerequisites": needs(&["f"])}));
    let deep = other("deep", json!({"prerequisites": needs(&["fine"])}));
    let malformed_rule =
        other("rule", json!({"rules": [{"variation": 0, "clauses": [{"op": "in"}]}]}));
    for (keys, expected) in [
        (
            &["fine", "deep"][..],
            json!({"value": "no", "variation": 0, "version": 3,
            "reason": {"kind": "FALLTHROUGH"}, "prerequisites": ["fine", "deep"]}),
        ),
        (&["fine", "off", "deep"], failed("off", &["fine", "off"])),
        (&["fine", "missing", "deep"], failed("missing", &["fine"])),
        (&["missing"], failed("missing", &[])),
        (&["broken"], failed("broken", &["broken"])),
        (&["unreadable"], failed("unreadable", &["unreadable"])),
    ] {
        let items = items(
            &[
                flag(json!({"prerequisites": needs(keys)})),
                fine.clone(),
                off.clone(),
                broken.clone(),
                unreadable.clone(),
                deep.clone(),
            ],
            &[],
        );
        assert_eq!(answer(&items, &user(json!({}))), expected, "{keys:?}");
    }
    for keys in [&["fine", "circular"][..], &["f"], &["rule"]] {
        let items = items(
            &[
                flag(json!({"prerequisites": needs(keys)})),
                fine.clone(),
                circular.clone(),
                malformed_rule.clone(),
            ],
            &[],
        );
        let found = answer(&items, &user(json!({})));
        assert_eq!(found["reason"]["errorKind"], "MALFORMED_FLAG", "{keys:?}");
        assert_eq!(found["value"], Value::Null);
    }
    // A flag that is off does not look at them.
    let items = items(&[flag(json!({"on": false, "prerequisites": needs(&["missing"])}))], &[]);
    assert_eq!(answer(&items, &user(json!({})))["reason"]["kind"], "OFF");
}

#[test]
fn segments() {
    let by_segment = json!({"op": "segmentMatch", "values": [1, "missing", "s"]});
    let rule = |clause: Value| json!([{"clauses": [clause]}]);
    let is_u = json!({"attribute": "key", "op": "in", "values": ["u"]});
    let multi = json!({"kind": "multi", "user": {"key": "u"}, "org": {"key": "o"}});
    for (segment, context, expected) in [
        (json!({}), user(json!({})), "no"),
        (json!({"included": ["u"]}), user(json!({})), "yes"),
        (json!({"included": ["u"], "excluded": ["u"]}), user(json!({})), "yes"),
        (json!({"excluded": ["u"], "rules": rule(is_u.clone())}), user(json!({})), "no"),
        (json!({"rules": rule(is_u.clone())}), user(json!({})), "yes"),
        (json!({"rules": [{"clauses": null}]}), user(json!({})), "yes"),
        (json!({"included": null, "rules": null}), user(json!({})), "no"),
        (
            json!({"includedContexts": [{"contextKind": "org", "values": ["o"]}]}),
            multi.clone(),
            "yes",
        ),
        (
            json!({"includedContexts": [{"contextKind": "user", "values": ["u"]}]}),
            multi.clone(),
            "yes",
        ),
        // For a single user only the lists of users count.
        (
            json!({"includedContexts": [{"contextKind": "user", "values": ["u"]}]}),
            user(json!({})),
            "no",
        ),
        (
            json!({"excludedContexts": [{"contextKind": "org", "values": ["o"]}], "rules": rule(is_u.clone())}),
            multi,
            "no",
        ),
        (json!({"rules": [{"clauses": [is_u], "weight": 0}]}), user(json!({})), "no"),
        (json!({"rules": [{"clauses": [is_u], "weight": 100_000}]}), user(json!({})), "yes"),
        (
            json!({"rules": [{"clauses": [is_u], "weight": 100_000, "rolloutContextKind": "org"}]}),
            user(json!({})),
            "no",
        ),
        (
            json!({"rules": [{"clauses": [is_u], "weight": 100_000, "bucketBy": "x"}]}),
            user(json!({})),
            "yes",
        ),
    ] {
        let mut whole = json!({"key": "s", "salt": "s"});
        for (name, value) in segment.as_object().unwrap() {
            whole[name] = value.clone();
        }
        let items =
            items(&[flag(json!({"rules": [{"variation": 1, "clauses": [by_segment]}]}))], &[whole]);
        assert_eq!(answer(&items, &context)["value"], expected, "{segment}");
    }
    for segment in [
        json!({"rules": [{"clauses": [by_segment]}]}),
        json!({"rules": [{"clauses": [{"op": "in"}]}]}),
        json!({"rules": [{"clauses": [], "weight": 5, "rolloutContextKind": "user", "bucketBy": "//"}]}),
        json!({"rules": "none"}),
    ] {
        let mut whole = segment.clone();
        whole["key"] = json!("s");
        let items =
            items(&[flag(json!({"rules": [{"variation": 1, "clauses": [by_segment]}]}))], &[whole]);
        assert_eq!(
            answer(&items, &user(json!({})))["reason"]["errorKind"],
            "MALFORMED_FLAG",
            "{segment}"
        );
    }
}

/// Knows the user `in` as a member, `out` as none, of data with one name.
struct BigStore(BigSegmentsStatus);

impl BigSegments for BigStore {
    fn membership(&self, key: &str, reference: &str) -> Membership {
        assert_eq!(reference, "s.g2");
        let is_member = match key {
            "in" => Some(true),
            "out" => Some(false),
            _ => None,
        };
        Membership { is_member, status: self.0 }
    }
}

#[test]
fn big_segments() {
    let everybody = json!([{"clauses": []}]);
    let flag = flag(
        json!({"rules": [{"variation": 1, "clauses": [{"op": "segmentMatch", "values": ["s"]}]}]}),
    );
    let store = BigStore(BigSegmentsStatus::Stale);
    for (members, key, value, status) in [
        (json!({"generation": 2}), "in", "yes", json!("STALE")),
        (json!({"generation": 2}), "out", "no", json!("STALE")),
        (json!({"generation": 2}), "other", "no", json!("STALE")),
        (json!({"generation": 2, "included": ["other"]}), "other", "no", json!("STALE")),
        (json!({"generation": 2, "rules": everybody}), "out", "no", json!("STALE")),
        (json!({"generation": 2, "rules": everybody}), "other", "yes", json!("STALE")),
        (json!({"rules": everybody}), "in", "no", json!("NOT_CONFIGURED")),
        (
            json!({"generation": 2, "unboundedContextKind": "org", "rules": everybody}),
            "in",
            "no",
            Value::Null,
        ),
    ] {
        let mut segment = members.clone();
        segment["key"] = json!("s");
        segment["unbounded"] = json!(true);
        let items = items(std::slice::from_ref(&flag), &[segment]);
        let found = answer_with(&items, &json!({"kind": "user", "key": key}), &store);
        assert_eq!(found["value"], value, "{members} {key}");
        assert_eq!(found["reason"]["bigSegmentsStatus"], status, "{members} {key}");
    }
    let segment = json!({"key": "s", "unbounded": true, "generation": 2});
    let found = answer(&items(&[flag], &[segment]), &user(json!({})));
    assert_eq!(found["reason"]["bigSegmentsStatus"], "NOT_CONFIGURED");
}

#[test]
fn what_is_remembered_of_a_big_segment_includes_its_status() {
    let clause = json!({"op": "segmentMatch", "values": ["s"]});
    let other = |key: &str, members: Value| {
        let mut other = flag(members);
        other["key"] = json!(key);
        other
    };
    let rules = json!([{"variation": 1, "clauses": [clause]}]);
    let all = items(
        &[
            other("a", json!({"rules": rules})),
            other("b", json!({"rules": rules})),
            other("c", json!({"prerequisites": [{"key": "b", "variation": 0}]})),
            other("d", json!({"prerequisites": [{"key": "b", "variation": 0}]})),
        ],
        &[json!({"key": "s", "unbounded": true, "generation": 2})],
    );
    let context = Context::parse(b"{\"key\":\"out\"}").unwrap();
    let store = BigStore(BigSegmentsStatus::Healthy);
    let mut evaluator = Evaluator::new(&all, &context, &store);
    for (key, flag) in &all.flags {
        let status = evaluator.evaluate(flag).reason.big_segments;
        assert_eq!(status, Some(BigSegmentsStatus::Healthy), "{key}");
    }
}

/// Variations of a rollout with 40 % and 60 %, for twelve contexts.
fn served(rollout: &Value, context: impl Fn(i32) -> Value) -> String {
    let mut whole = json!({"variations": [
        {"variation": 0, "weight": 40_000}, {"variation": 1, "weight": 60_000}]});
    for (name, value) in rollout.as_object().unwrap() {
        whole[name] = value.clone();
    }
    let items = items(&[flag(json!({"fallthrough": {"rollout": whole}}))], &[]);
    let variation = |number| answer(&items, &context(number))["variation"].to_string();
    (0..12).map(variation).collect()
}

#[test]
fn rollouts() {
    // Expected: whether the first 15 hex digits of the SHA-1 of the text, as a fraction of the
    // largest such number, are below 0.4. Computed with another program.
    let key = |number: i32| json!({"kind": "user", "key": number.to_string()});
    let x = |number: i32| user(json!({"x": number}));
    let secondary = |number: i32| json!({"key": "u", "secondary": number.to_string()});
    let of_text = "001101010100"; // f.s.0 to f.s.11
    let of_seed = "110011011011"; // 61.0 to 61.11
    assert_eq!(served(&json!({}), key), of_text);
    assert_eq!(served(&json!({"bucketBy": "x"}), x), of_text);
    assert_eq!(served(&json!({"contextKind": "user", "bucketBy": "/x"}), x), of_text);
    assert_eq!(served(&json!({"seed": 61}), key), of_seed);
    assert_eq!(served(&json!({}), secondary), "101111100111"); // f.s.u.0 to f.s.u.11
    // An experiment is about the key alone; f.s.u is at 0.90.
    assert_eq!(served(&json!({"kind": "experiment", "bucketBy": "x"}), x), "1".repeat(12));
    assert_eq!(served(&json!({"kind": "experiment"}), secondary), "1".repeat(12));
    // What cannot be hashed is at 0.
    for members in [json!({}), json!({"x": 1.5}), json!({"x": true}), json!({"x": ["a"]})] {
        assert_eq!(served(&json!({"bucketBy": "x"}), |_| user(members.clone())), "0".repeat(12));
    }
    assert_eq!(served(&json!({"contextKind": "org"}), key), "0".repeat(12));
}

#[test]
fn experiments() {
    let experiment = |members: Value, shares: Value| {
        let mut rollout = json!({"kind": "experiment", "variations": shares});
        for (name, value) in members.as_object().unwrap() {
            rollout[name] = value.clone();
        }
        items(&[flag(json!({"fallthrough": {"rollout": rollout}}))], &[])
    };
    let all = json!([{"variation": 1, "weight": 100_000}]);
    let untracked = json!([{"variation": 1, "weight": 100_000, "untracked": true}]);
    let too_little = json!([{"variation": 0, "weight": 0}, {"variation": 1, "weight": 1}]);
    for (members, shares, takes_part) in [
        (json!({}), all.clone(), true),
        (json!({}), untracked, false),
        (json!({}), too_little, true),
        (json!({"contextKind": "org"}), all.clone(), false),
        (json!({"kind": "rollout"}), all, false),
    ] {
        let found = answer(&experiment(members.clone(), shares), &user(json!({})));
        let mut expected = json!({"value": "yes", "variation": 1, "version": 3,
            "reason": {"kind": "FALLTHROUGH"}});
        if takes_part {
            expected["trackEvents"] = json!(true);
            expected["trackReason"] = json!(true);
            expected["reason"]["inExperiment"] = json!(true);
        }
        assert_eq!(found, expected, "{members}");
    }
}

#[test]
fn visibility() {
    for (members, mobile, browser) in [
        (json!({}), true, false),
        (json!({"clientSide": true}), true, true),
        (json!({"clientSideAvailability": null, "clientSide": true}), true, true),
        (json!({"clientSideAvailability": {}, "clientSide": true}), false, false),
        (json!({"clientSideAvailability": {"usingMobileKey": true}}), true, false),
        (json!({"clientSideAvailability": {"usingEnvironmentId": true}}), false, true),
        // Also of a flag that cannot be read otherwise.
        (json!({"on": 1, "clientSideAvailability": {"usingEnvironmentId": true}}), false, true),
        (json!({"on": 1, "clientSideAvailability": 1}), true, false),
    ] {
        let flag = Flag::parse(flag(members.clone()).to_string().as_bytes());
        assert!(flag.is_visible_to(Audience::Server));
        assert_eq!(flag.is_visible_to(Audience::Mobile), mobile, "{members}");
        assert_eq!(flag.is_visible_to(Audience::Browser), browser, "{members}");
    }
}

/// A chain of flags in which each needs the next, and one of segments in the last of them.
fn chains(flags: usize, segments: usize) -> Items {
    let flags = (0..flags).map(|number| {
        let is_last = number + 1 == flags;
        let next = json!([{"key": format!("f{}", number + 1), "variation": 0}]);
        let mut flag = flag(json!({"prerequisites": if is_last { json!([]) } else { next }}));
        if is_last {
            let clause = json!({"op": "segmentMatch", "values": ["s0"], "negate": true});
            flag["rules"] = json!([{"variation": 0, "clauses": [clause]}]);
        }
        flag["key"] = json!(format!("f{number}"));
        flag
    });
    let segments = (0..segments).map(|number| {
        let clause = json!({"op": "segmentMatch", "values": [format!("s{}", number + 1)]});
        json!({"key": format!("s{number}"), "rules": [{"clauses": [clause]}]})
    });
    items(&flags.collect::<Vec<_>>(), &segments.collect::<Vec<_>>())
}

#[test]
fn chains_are_followed_to_the_same_depth_in_any_order() {
    let is_malformed = |all: &Items, order: &mut dyn Iterator<Item = usize>| {
        let context = Context::parse(b"{\"key\":\"u\"}").unwrap();
        let mut evaluator = Evaluator::new(all, &context, &NoBigSegments);
        let mut last = None;
        for number in order {
            last = Some(evaluator.evaluate(&all.flags[&format!("f{number}")]));
        }
        last.unwrap().variation.is_none()
    };
    for (flags, segments, expected) in [
        (DEPTH_MAX, DEPTH_MAX, false),
        (DEPTH_MAX + 1, 1, true),
        (1, DEPTH_MAX + 1, true),
        (50 * DEPTH_MAX, 50 * DEPTH_MAX, true),
    ] {
        let all = chains(flags, segments);
        assert_eq!(is_malformed(&all, &mut std::iter::once(0)), expected, "{flags} {segments}");
        assert_eq!(is_malformed(&all, &mut (0..flags).rev()), expected, "{flags} {segments}");
    }
}

#[test]
fn the_deepest_chains_fit_on_a_small_stack() {
    let all = chains(DEPTH_MAX, DEPTH_MAX);
    let thread = std::thread::Builder::new().stack_size(512 << 10).spawn(move || {
        let context = Context::parse(b"{\"key\":\"u\"}").unwrap();
        Evaluator::new(&all, &context, &NoBigSegments)
            .evaluate(&all.flags["f0"])
            .variation
            .is_some()
    });
    assert!(thread.unwrap().join().unwrap());
}

#[test]
fn each_prerequisite_and_segment_is_decided_once() {
    // Each needs the two next ones: 2^30 ways lead to the last.
    let both = |prefix: &str, number: usize| -> [String; 2] {
        [format!("{prefix}{}", number + 1), format!("{prefix}{}", number + 2)]
    };
    let flags: Vec<Value> = (0..32)
        .map(|number| {
            let others: Vec<Value> = both("f", number)
                .into_iter()
                .filter(|_| number < 30)
                .map(|key| json!({"key": key, "variation": 0}))
                .collect();
            let clause = json!({"op": "segmentMatch", "values": ["s0"]});
            let mut flag = flag(
                json!({"prerequisites": others, "rules": [{"variation": 1, "clauses": [clause]}]}),
            );
            flag["key"] = json!(format!("f{number}"));
            flag
        })
        .collect();
    let segments: Vec<Value> = (0..32)
        .map(|number| {
            let clause = json!({"op": "segmentMatch", "values": both("s", number)});
            json!({"key": format!("s{number}"), "rules": [{"clauses": [clause]}]})
        })
        .collect();
    let all = items(&flags, &segments);
    let context = Context::parse(b"{\"key\":\"u\"}").unwrap();
    let detail = Evaluator::new(&all, &context, &NoBigSegments).evaluate(&all.flags["f0"]);
    assert_eq!(detail.variation.map(|(index, _)| index), Some(0));
}

#[test]
fn texts_in_results_are_escaped() {
    let mut odd = flag(json!({"variations": ["a\"<b\u{2028}"], "prerequisites": []}));
    odd["rules"] = json!([{"id": "\"r\n", "variation": 0, "clauses": []}]);
    let found = answer(&items(&[odd], &[]), &user(json!({})));
    assert_eq!(found["value"], "a\"<b\u{2028}");
    assert_eq!(found["reason"]["ruleId"], "\"r\n");
}
