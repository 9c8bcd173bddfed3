//! Rollouts and experiments.

use super::*;

/// Variations of a rollout with 40 % and 60 %, for twelve contexts.
fn served(rollout: &Value, context: impl Fn(i32) -> Value) -> String {
    let shares = json!({"variations": [
        {"variation": 0, "weight": 40_000}, {"variation": 1, "weight": 60_000}]});
    let whole = with(shares, rollout);
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
        let rollout = with(json!({"kind": "experiment", "variations": shares}), &members);
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
