use serde_json::json;

use super::*;
use crate::events::post::Audience;
use crate::model::{EnvironmentRef, FilterKey, Item, ItemKey, ItemKind};

/// Milliseconds since 1970 at which these tests take place.
const NOW: i64 = 10_000;

struct Bench {
    summaries: Summaries,
    begun: Instant,
    data: DataSet,
}

impl Bench {
    fn new() -> Self {
        let settings = GatherSettings { interval: Duration::from_secs(5), capacity: 100 };
        Self {
            summaries: Summaries::new(settings),
            begun: Instant::now(),
            data: DataSet::default(),
        }
    }

    /// Posts events so many seconds after the begin; returns the number of unusable ones.
    fn post(&mut self, at: u64, schema: u32, events: &Value) -> usize {
        let text = events.to_string();
        let events: Vec<&RawValue> = serde_json::from_str(&text).unwrap();
        let environment = EnvironmentRef { environment: "e".into(), filter: FilterKey::new("") };
        let destination = Destination { environment, audience: Audience::Server };
        let sender = Sender { schema, tags: None, user_agent: None, wrapper: None };
        let now = self.begun + Duration::from_secs(at);
        self.summaries.add(&destination, &sender, &events, &self.data, (now, NOW)).1
    }

    fn closed(&mut self) -> Value {
        let mut closed = self.summaries.close_all();
        assert!(closed.len() <= 1);
        let Some(gathered) = closed.pop() else { return json!([]) };
        assert_eq!((gathered.sender.schema, gathered.payload_id), (4, None));
        let events: Value = serde_json::from_slice(&gathered.json).unwrap();
        assert_eq!(events.as_array().unwrap().len(), gathered.count);
        events
    }
}

#[track_caller]
fn check(schema: u32, flag: Option<&Value>, events: &Value, expected: &Value) {
    let mut bench = Bench::new();
    if let Some(flag) = flag {
        let item = Item::live(1, flag.to_string());
        bench.data.upsert(&ItemKey::new(ItemKind::Flag, "f"), item.into());
    }
    assert_eq!(bench.post(0, schema, events), 0, "{events}");
    assert_eq!(bench.closed(), *expected, "{events}");
    assert_eq!(bench.closed(), json!([]), "nothing is sent twice");
}

fn index() -> Value {
    json!({"kind": "index", "creationDate": 1000, "context": {"key": "u"}})
}

fn summary(variation: Option<u64>) -> Value {
    let mut counter = json!({"version": 11, "value": "b", "count": 1});
    if let Some(variation) = variation {
        counter["variation"] = variation.into();
    }
    json!({
        "kind": "summary", "startDate": 1000, "endDate": 1000,
        "features": {"f": {"default": "c", "counters": [counter], "contextKinds": ["user"]}}
    })
}

/// An evaluation of flag `f`, with further members.
fn feature(more: &Value) -> Value {
    let mut event = json!({
        "kind": "feature", "creationDate": 1000, "key": "f", "user": {"key": "u"}, "version": 11,
        "value": "b", "default": "c"
    });
    for (name, value) in more.as_object().unwrap() {
        event[name] = value.clone();
    }
    event
}

fn full(kind: &str, more: &Value) -> Value {
    let mut event = json!({
        "kind": kind, "creationDate": 1000, "key": "f", "version": 11, "context": {"key": "u"},
        "variation": 1, "value": "b", "default": "c"
    });
    for (name, value) in more.as_object().unwrap() {
        event[name] = value.clone();
    }
    event
}

#[test]
fn evaluations_are_counted() {
    let event = feature(&json!({"variation": 1, "trackEvents": false}));
    check(2, None, &json!([event]), &json!([index(), summary(Some(1))]));
    check(4, None, &json!([event]), &json!([index(), summary(Some(1))]));
    let event = feature(&json!({"variation": 1, "trackEvents": true}));
    let tracked = json!([index(), full("feature", &json!({})), summary(Some(1))]);
    check(4, None, &json!([event]), &tracked);
    // Until later than now.
    let event = feature(&json!({"variation": 1, "debugEventsUntilDate": NOW + 1}));
    check(4, None, &json!([event]), &json!([index(), full("debug", &json!({})), summary(Some(1))]));
    let event = feature(&json!({"variation": 1, "debugEventsUntilDate": NOW}));
    check(4, None, &json!([event]), &json!([index(), summary(Some(1))]));
    let event = feature(&json!({"variation": 1, "trackEvents": true, "excludeFromSummaries": true,
        "samplingRatio": 0, "reason": {"kind": "OFF"}}));
    let more = json!({"samplingRatio": 0, "reason": {"kind": "OFF"}});
    check(4, None, &json!([event]), &json!([index(), full("feature", &more)]));
}

#[test]
fn what_an_old_sdk_does_not_tell_is_found_in_the_flag() {
    let flag = |is_tracked: bool, debugged_until: i64| {
        json!({"key": "f", "version": 1, "variations": ["a", "b"], "trackEvents": is_tracked,
            "debugEventsUntilDate": debugged_until})
    };
    let old = json!([feature(&json!({}))]);
    check(1, Some(&flag(false, 0)), &old, &json!([index(), summary(Some(1))]));
    // Schema 2 has a variation, unless the evaluation failed.
    check(2, Some(&flag(false, 0)), &old, &json!([index(), summary(None)]));
    check(1, None, &old, &json!([index(), summary(None)]));
    let told = json!([feature(&json!({"variation": 1}))]);
    let both =
        json!([index(), full("feature", &json!({})), full("debug", &json!({})), summary(Some(1))]);
    check(2, Some(&flag(true, NOW + 1)), &told, &both);
    // A flag that did not exist.
    let unknown = json!([{"kind": "feature", "creationDate": 1000, "key": "f",
        "user": {"key": "u"}, "value": "c", "default": "c", "trackEvents": true}]);
    let counted = json!({
        "kind": "summary", "startDate": 1000, "endDate": 1000,
        "features": {"f": {"default": "c", "counters": [{"unknown": true, "value": "c", "count": 1}],
            "contextKinds": ["user"]}}
    });
    check(1, Some(&flag(true, NOW + 1)), &unknown, &json!([index(), counted]));
}

#[test]
fn other_events_keep_what_they_say() {
    let multi = json!({"kind": "multi", "org": {"key": "o"}, "user": {"key": "u"}});
    check(
        2,
        None,
        &json!([
            {"kind": "custom", "creationDate": 1000, "key": "c", "user": {"key": "u"}},
            {"kind": "custom", "creationDate": 1001, "key": "c", "context": multi,
                "data": {"a": [1.50]}, "metricValue": 2.5},
            {"kind": "identify", "creationDate": 1002, "key": "u", "user": {"key": "x"}},
            {"kind": "custom", "creationDate": 1003, "key": "c", "user": {"key": "x"}, "data": null},
            {"kind": "alias", "key": "a", "odd": true}
        ]),
        &json!([
            index(),
            {"kind": "custom", "creationDate": 1000, "key": "c", "context": {"key": "u"}},
            {"kind": "index", "creationDate": 1001, "context": multi},
            {"kind": "custom", "creationDate": 1001, "key": "c", "data": {"a": [1.50]},
                "context": multi, "metricValue": 2.5},
            {"kind": "identify", "creationDate": 1002, "context": {"key": "x"}},
            {"kind": "custom", "creationDate": 1003, "key": "c", "context": {"key": "x"}},
            {"kind": "alias", "key": "a", "odd": true}
        ]),
    );
}

#[test]
fn counts_of_many_requests_come_together_and_contexts_once() {
    let mut bench = Bench::new();
    for (at, date, variation) in [(0, 1005, 1), (1, 1002, 1), (2, 1009, 0)] {
        let event = feature(&json!({"creationDate": date, "variation": variation}));
        bench.post(at, 2, &json!([event]));
    }
    assert_eq!(bench.summaries.due(), Some(bench.begun + Duration::from_secs(5)));
    let events = bench.closed();
    assert_eq!(events.as_array().unwrap().len(), 2);
    let expected = json!({
        "kind": "summary", "startDate": 1002, "endDate": 1009,
        "features": {"f": {"default": "c", "contextKinds": ["user"], "counters": [
            {"variation": 0, "version": 11, "value": "b", "count": 1},
            {"variation": 1, "version": 11, "value": "b", "count": 2}
        ]}}
    });
    assert_eq!(events[1], expected);
    // The context is known from the request before, for a while.
    bench.post(6, 2, &json!([feature(&json!({"variation": 1}))]));
    assert_eq!(bench.closed(), json!([summary(Some(1))]));
    bench.post(301, 2, &json!([feature(&json!({"variation": 1}))]));
    assert_eq!(bench.closed(), json!([index(), summary(Some(1))]));
    assert_eq!(bench.summaries.close_due(bench.begun + Duration::from_secs(700)), []);
    assert!(bench.summaries.groups.is_empty(), "a sender that is gone is forgotten");
}

#[test]
fn events_that_cannot_be_read_are_left_out() {
    let mut bench = Bench::new();
    let unusable = bench.post(0, 2, &json!([
        7, {}, {"kind": true}, {"kind": ""}, {"kind": "feature", "key": "f"},
        {"kind": "custom", "key": "c", "user": {}}, {"kind": "custom", "key": "c", "user": {"key": 7}},
        {"kind": "identify", "context": {"kind": "multi", "org": 7}},
        {"kind": "identify", "context": {"kind": 7, "key": "a"}},
        {"kind": "identify", "creationDate": "x", "user": {"key": "a"}}
    ]));
    assert_eq!(unusable, 10);
    assert_eq!(bench.closed(), json!([]));
}
