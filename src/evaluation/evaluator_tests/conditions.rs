//! Operators, and the attributes that clauses look at.

use super::*;

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
        let whole = with(json!({"op": "in", "values": [1]}), &clause);
        assert_eq!(answer(&flag_with(whole), &context)["value"], expected, "{clause}");
    }
}
