//! Segments and big segments.

use super::*;

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
        let whole = with(json!({"key": "s", "salt": "s"}), &segment);
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
