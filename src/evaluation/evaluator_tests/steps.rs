//! The steps of an evaluation, and what clients see of them.

use super::*;

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

#[test]
fn texts_in_results_are_escaped() {
    let mut odd = flag(json!({"variations": ["a\"<b\u{2028}"], "prerequisites": []}));
    odd["rules"] = json!([{"id": "\"r\n", "variation": 0, "clauses": []}]);
    let found = answer(&items(&[odd], &[]), &user(json!({})));
    assert_eq!(found["value"], "a\"<b\u{2028}");
    assert_eq!(found["reason"]["ruleId"], "\"r\n");
}
