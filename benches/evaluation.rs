//! Figures of evaluation: all flags for one context, large segments, and what parsing costs once.
//!
//! ```text
//! cargo bench --bench evaluation
//! ```
#![expect(clippy::print_stdout, reason = "prints figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use pilotlight::testing::evaluation::{Audience, Context, Evaluator, NoBigSegments, write_result};
use pilotlight::testing::model::{DataSet, Item, ItemKey, ItemKind};

const ROUNDS: usize = 200;

/// A flag of three rules that do not apply to the context, with a rollout behind them.
fn flag(number: usize) -> Value {
    let rule = |rule: usize| {
        let clauses = json!([
            {"contextKind": "user", "attribute": "country", "op": "in",
                "values": ["de", "fr", "it"], "negate": false},
            {"contextKind": "user", "attribute": "email", "op": "endsWith",
                "values": [format!("@customer-{rule}.example")], "negate": false},
        ]);
        json!({"id": format!("rule-{rule}"), "variation": 1, "clauses": clauses, "trackEvents": false})
    };
    json!({
        "key": format!("flag-{number:05}"), "version": 3, "on": true, "salt": "c2FsdA",
        "prerequisites": [], "targets": [], "contextTargets": [],
        "rules": (0..3).map(rule).collect::<Vec<_>>(),
        "fallthrough": {"rollout": {"variations": [
            {"variation": 0, "weight": 50_000}, {"variation": 1, "weight": 50_000}]}},
        "offVariation": 1, "variations": [true, false],
        "clientSideAvailability": {"usingMobileKey": true, "usingEnvironmentId": true},
    })
}

fn data_set(items: Vec<(ItemKind, Value)>) -> DataSet {
    let mut data = DataSet::default();
    for (kind, json) in items {
        let key = ItemKey::new(kind, json["key"].as_str().unwrap());
        data.upsert(&key, Arc::new(Item::live(1, json.to_string())));
    }
    data
}

/// The answer to a phone.
fn answer(data: &DataSet, context: &Context) -> Vec<u8> {
    let mut evaluator = Evaluator::new(data, context, &NoBigSegments);
    let mut out = b"{".to_vec();
    for (key, item) in data.flags.iter() {
        let Some(flag) = item.flag().filter(|flag| flag.is_visible_to(Audience::Mobile)) else {
            continue;
        };
        write_result(&mut out, key, item.version, flag, &evaluator.evaluate(flag), false);
        out.push(b',');
    }
    out
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn measure(what: &str, mut work: impl FnMut()) {
    let times = (0..ROUNDS).map(|_| {
        let begun = Instant::now();
        work();
        begun.elapsed()
    });
    println!("{what:<62} {:>10.1?}", median(times.collect()));
}

fn main() {
    let user = json!({"kind": "user", "key": "user-4711", "country": "de",
        "email": "somebody@mail.example", "groups": ["a", "b"]});
    let json = user.to_string();
    let context = Context::parse(json.as_bytes()).unwrap();
    measure("parse a context of five attributes", || {
        black_box(Context::parse(black_box(json.as_bytes())).unwrap());
    });
    for flags in [200, 1_000] {
        let items: Vec<_> = (0..flags).map(|number| (ItemKind::Flag, flag(number))).collect();
        let fresh = data_set(items.clone());
        let begun = Instant::now();
        black_box(answer(&fresh, &context));
        println!(
            "{:<62} {:>10.1?}",
            format!("{flags} flags of 3 rules, the first time"),
            begun.elapsed()
        );
        measure(&format!("{flags} flags of 3 rules, for one context"), || {
            black_box(answer(&fresh, &context));
        });
    }
    let keys: Vec<String> = (0..200_000).map(|number| format!("user-{number}")).collect();
    let mut by_segment = flag(0);
    by_segment["rules"] = json!([{"variation": 1,
        "clauses": [{"op": "segmentMatch", "values": ["large"]}]}]);
    let large = json!({"key": "large", "version": 1, "included": keys, "salt": "s"});
    let data = data_set(vec![(ItemKind::Flag, by_segment), (ItemKind::Segment, large)]);
    let begun = Instant::now();
    black_box(answer(&data, &context));
    println!(
        "{:<62} {:>10.1?}",
        "a flag on a segment of 200,000 keys, the first time",
        begun.elapsed()
    );
    measure("a flag on a segment of 200,000 keys", || {
        black_box(answer(&data, &context));
    });
}
