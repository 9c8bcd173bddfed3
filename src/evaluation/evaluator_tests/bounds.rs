//! Work is bounded for any data.

use super::*;

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
