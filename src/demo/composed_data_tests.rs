use std::collections::BTreeSet;

use super::*;

fn parsed(item: &Item) -> Value {
    serde_json::from_slice(item.json.as_ref().unwrap()).unwrap()
}

#[test]
fn is_the_same_on_every_run() {
    assert_eq!(environment(3, 120), environment(3, 120));
    assert_ne!(environment(3, 1).data, environment(4, 1).data);
    // Fixed texts: a changed generator would silently change every figure measured with it.
    assert_eq!(environment_id(0), "d096b7c2dd9c3b2470eb7f31");
    assert_eq!(flag_key(17), "search-retry-limit-0017");
}

#[test]
fn flags_are_as_large_as_real_ones() {
    let data = environment(1, 1000).data;
    let bytes: usize = data.flags.iter().map(|(_, item)| item.json.as_ref().unwrap().len()).sum();
    assert!((1_250..1_350).contains(&(bytes / 1000)), "{} bytes a flag", bytes / 1000);
    assert_eq!((data.flags.len(), data.segments.len()), (1000, 20));
}

#[test]
fn identities_differ() {
    let mut seen = BTreeSet::new();
    for index in 0..300 {
        let rep = representation(index);
        for text in [rep.env_id, rep.sdk_key.value, rep.mob_key] {
            assert!(seen.insert(text), "environment {index}");
        }
    }
    assert_eq!((0..5000).map(flag_key).collect::<BTreeSet<_>>().len(), 5000);
}

#[test]
fn strict_readers_find_what_they_demand() {
    let data = environment(0, 200).data;
    let members = |json: &Value, names: &[&str]| {
        for name in names {
            assert!(json.get(name).is_some(), "{name} in {json}");
        }
    };
    for (key, item) in data.flags.iter() {
        let json = parsed(item);
        assert_eq!(
            (json["key"].as_str(), json["version"].as_u64()),
            (Some(&**key), Some(item.version))
        );
        members(
            &json,
            &[
                "on",
                "prerequisites",
                "salt",
                "targets",
                "contextTargets",
                "rules",
                "fallthrough",
                "offVariation",
                "variations",
                "deleted",
            ],
        );
        for rule in json["rules"].as_array().unwrap() {
            members(rule, &["id", "clauses", "trackEvents"]);
            for clause in rule["clauses"].as_array().unwrap() {
                members(clause, &["attribute", "op", "values", "negate"]);
            }
        }
    }
    for (_, item) in data.segments.iter() {
        members(
            &parsed(item),
            &["key", "version", "included", "excluded", "salt", "rules", "deleted"],
        );
    }
}

/// Evaluates a flag as far as generated flags need it: no target, rule or segment matches.
fn evaluate(environment: usize, flag: usize, changes: usize) -> Value {
    let json = changed_flag(environment, flag, changes);
    let satisfied = json["prerequisites"].as_array().unwrap().iter().all(|needed| {
        // The other flag may have changed in the meantime.
        evaluate(environment, flag - 1, changes + 3)
            == variations(flag - 1)[needed["variation"].as_u64().unwrap() as usize]
    });
    let index = if json["on"].as_bool().unwrap() && satisfied {
        let fallthrough = &json["fallthrough"];
        match fallthrough["variation"].as_u64() {
            Some(index) => index,
            None => {
                let weighted = fallthrough["rollout"]["variations"].as_array().unwrap();
                let whole = weighted.iter().find(|entry| entry["weight"] == 100_000).unwrap();
                whole["variation"].as_u64().unwrap()
            }
        }
    } else {
        json["offVariation"].as_u64().unwrap()
    };
    json["variations"][index as usize].clone()
}

#[test]
fn values_are_as_expected_and_change_with_each_change() {
    for flag in 0..100 {
        let mut last = None;
        for changes in 0..4 {
            let expected = expected_value_after(1, flag, changes);
            assert_eq!(evaluate(1, flag, changes), expected, "flag {flag}, {changes} changes");
            assert_eq!(
                last.replace(expected.clone()) != Some(expected),
                changes == 0 || !is_prerequisite(flag)
            );
        }
    }
    let kinds = [0, 1, 2, 3].map(|flag| expected_value(0, flag));
    assert!(kinds[0].is_boolean() && kinds[1].is_string());
    assert!(kinds[2].is_number() && kinds[3].is_object());
}

#[test]
fn nobody_knows_the_plain_context() {
    for (_, _, item) in environment(0, 200).data.iter() {
        let json = item.json.as_ref().unwrap();
        assert!(!String::from_utf8_lossy(json).contains(CONTEXT_KEY));
    }
}
