//! Summaries of events whose SDK does not make them: PHP's, and those of old schemas. Pure.
//!
//! | event | becomes |
//! | --- | --- |
//! | `feature` | a count in the summary; the event itself where the flag is tracked or debugged |
//! | `custom` | the same, without `user` |
//! | `identify` | the same, without `key` and `user` |
//! | a context that was not seen lately | `index`, before the event that has it |
//! | any other | stays as it is |
//!
//! Contexts stay as the SDK has written them, because it has removed what is private. The form is
//! schema 4, as LaunchDarkly's Go SDK writes it, which ld-relay uses for this.

mod writing;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Number, Value};
use tokio::time::Instant;

use self::writing::Out;
use super::gather::{GatherSettings, Gathered};
use super::post::{Destination, Sender};
use super::recent::Recent;
use crate::evaluation::Flag;
use crate::model::DataSet;

/// The schema of what is written here.
const SCHEMA: u32 = 4;

/// Contexts that are remembered for each sender, and how long.
const CONTEXTS_MAX: usize = 1000;
const CONTEXTS_AGE: Duration = Duration::from_secs(300);

/// The open summaries.
#[derive(Debug)]
pub struct Summaries {
    settings: GatherSettings,
    groups: HashMap<(Destination, Sender), Group>,
}

/// What was posted by one sender.
#[derive(Debug)]
struct Group {
    /// Time of the first event that is not sent yet.
    since: Option<Instant>,
    events: Vec<u8>,
    count: usize,
    features: BTreeMap<String, Feature>,
    start: Option<Number>,
    end: Option<Number>,
    contexts: Recent<String>,
    /// Time of the last event.
    used: Instant,
}

/// The counts of one flag.
#[derive(Debug)]
struct Feature {
    default: Box<RawValue>,
    kinds: BTreeSet<String>,
    counters: BTreeMap<(Option<i64>, Option<i64>), Counter>,
}

#[derive(Debug)]
struct Counter {
    value: Box<RawValue>,
    count: u64,
}

impl Summaries {
    /// No summaries.
    pub fn new(settings: GatherSettings) -> Self {
        Self { settings, groups: HashMap::new() }
    }

    /// Adds events. Returns the batch that they close, and the number of those that cannot be read.
    /// `data` are the flags of the environment, `now_ms` the time in milliseconds since 1970.
    pub fn add(
        &mut self,
        destination: &Destination,
        sender: &Sender,
        events: &[&RawValue],
        data: &DataSet,
        (now, now_ms): (Instant, i64),
    ) -> (Option<Gathered>, usize) {
        // All schemas become the same.
        let key = (destination.clone(), Sender { schema: SCHEMA, ..sender.clone() });
        let group = self.groups.entry(key.clone()).or_insert_with(|| Group::new(now));
        let mut unusable = 0;
        for event in events {
            if group.add(event, sender.schema, data, now, now_ms).is_none() {
                unusable += 1;
            }
        }
        if group.is_empty() {
            return (None, unusable);
        }
        group.since.get_or_insert(now);
        let is_full = group.count >= self.settings.capacity;
        (is_full.then(|| group.close(&key)), unusable)
    }

    /// Time at which the next summary is to be closed.
    pub fn due(&self) -> Option<Instant> {
        self.groups
            .values()
            .filter_map(|group| group.since)
            .min()
            .map(|at| at + self.settings.interval)
    }

    /// Closes the summaries whose time is up, and forgets senders that are gone.
    pub fn close_due(&mut self, now: Instant) -> Vec<Gathered> {
        let interval = self.settings.interval;
        let is_due = |group: &Group| group.since.is_some_and(|since| now >= since + interval);
        let due = self.groups.iter_mut().filter(|(_, group)| is_due(group));
        let closed = due.map(|(key, group)| group.close(key)).collect();
        let is_used = |group: &Group| group.since.is_some() || now < group.used + CONTEXTS_AGE;
        self.groups.retain(|_, group| is_used(group));
        closed
    }

    /// Closes all.
    pub fn close_all(&mut self) -> Vec<Gathered> {
        let open = self.groups.iter_mut().filter(|(_, group)| group.since.is_some());
        open.map(|(key, group)| group.close(key)).collect()
    }
}

impl Group {
    fn new(now: Instant) -> Self {
        Self {
            since: None,
            events: Vec::new(),
            count: 0,
            features: BTreeMap::new(),
            start: None,
            end: None,
            contexts: Recent::new(CONTEXTS_MAX, CONTEXTS_AGE),
            used: now,
        }
    }

    fn is_empty(&self) -> bool {
        self.count == 0 && self.features.is_empty()
    }

    /// Adds an event; `None` if it cannot be read.
    fn add(
        &mut self,
        raw: &RawValue,
        schema: u32,
        data: &DataSet,
        now: Instant,
        now_ms: i64,
    ) -> Option<()> {
        self.used = now;
        let Kind { kind } = serde_json::from_str(raw.get()).ok()?;
        match kind.as_str() {
            "" => None,
            "feature" => self.add_feature(raw, schema, data, now, now_ms),
            "custom" => {
                let event: Custom<'_> = serde_json::from_str(raw.get()).ok()?;
                let context = context(event.context, event.user)?;
                self.index(&context, &event.creation_date, now);
                self.write(|out| {
                    out.begin("custom", &event.creation_date);
                    out.text("key", &event.key);
                    if let Some(data) = event.data.filter(|data| data.get() != "null") {
                        out.raw("data", data.get());
                    }
                    out.raw("context", context.json);
                    if let Some(metric) = event.metric_value {
                        out.raw("metricValue", &metric.to_string());
                    }
                });
                Some(())
            }
            "identify" => {
                let event: Identify<'_> = serde_json::from_str(raw.get()).ok()?;
                let context = context(event.context, event.user)?;
                self.contexts.is_new(&context.name, now);
                self.write(|out| out.context("identify", &event.creation_date, &context));
                Some(())
            }
            _ => {
                self.separate();
                self.events.extend_from_slice(raw.get().as_bytes());
                Some(())
            }
        }
    }

    fn add_feature(
        &mut self,
        raw: &RawValue,
        schema: u32,
        data: &DataSet,
        now: Instant,
        now_ms: i64,
    ) -> Option<()> {
        let mut event: FeatureEvent<'_> = serde_json::from_str(raw.get()).ok()?;
        let context = context(event.context, event.user)?;
        if event.version.is_some() {
            if event.track_events.is_none() && event.debug_events_until_date.unwrap_or(0) == 0 {
                // The SDK is too old to tell.
                let flag = data.flags.get(&event.key).and_then(|item| item.flag());
                event.track_events = flag.map(Flag::is_tracked);
                event.debug_events_until_date = flag.map(Flag::debugged_until);
                if schema <= 1 && event.variation.is_none() {
                    event.variation = flag.and_then(|flag| variation(flag, event.value?));
                }
            }
        } else {
            // The flag did not exist.
            (event.variation, event.track_events, event.debug_events_until_date) =
                (None, None, None);
        }
        if event.exclude_from_summaries != Some(true) {
            self.count(&event, &context);
        }
        self.index(&context, &event.creation_date, now);
        if event.track_events == Some(true) {
            self.write(|out| out.feature("feature", &event, &context));
        }
        if event.debug_events_until_date.is_some_and(|until| until > now_ms) {
            self.write(|out| out.feature("debug", &event, &context));
        }
        Some(())
    }

    fn count(&mut self, event: &FeatureEvent<'_>, context: &ContextRef<'_>) {
        let owned = |value: Option<&RawValue>| value.map_or_else(null, RawValue::to_owned);
        let feature = self.features.entry(event.key.clone().into_owned()).or_insert_with(|| {
            let (kinds, counters) = (BTreeSet::new(), BTreeMap::new());
            Feature { default: owned(event.default), kinds, counters }
        });
        let counter = feature
            .counters
            .entry((event.variation, event.version))
            .or_insert_with(|| Counter { value: owned(event.value), count: 0 });
        counter.count += 1;
        feature.kinds.extend(context.kinds.iter().cloned());
        let date = |number: &Number| number.as_f64().unwrap_or(0.0);
        let at = &event.creation_date;
        if self.start.as_ref().is_none_or(|start| date(at) < date(start)) {
            self.start = Some(at.clone());
        }
        if self.end.as_ref().is_none_or(|end| date(at) > date(end)) {
            self.end = Some(at.clone());
        }
    }

    /// Writes an `index` event for a context that was not seen lately.
    fn index(&mut self, context: &ContextRef<'_>, date: &Number, now: Instant) {
        if self.contexts.is_new(&context.name, now) {
            self.write(|out| out.context("index", date, context));
        }
    }

    fn separate(&mut self) {
        self.events.push(if self.count == 0 { b'[' } else { b',' });
        self.count += 1;
    }

    fn write(&mut self, content: impl FnOnce(&mut Out<'_>)) {
        self.separate();
        content(&mut Out(&mut self.events));
        self.events.push(b'}');
    }

    /// Takes what is there, the summary last.
    fn close(&mut self, (destination, sender): &(Destination, Sender)) -> Gathered {
        let features = std::mem::take(&mut self.features);
        if !features.is_empty() {
            let zero = || Number::from(0);
            let start = self.start.take().unwrap_or_else(zero);
            let end = self.end.take().unwrap_or_else(zero);
            self.write(|out| out.summary(&start, &end, &features));
        }
        self.since = None;
        self.events.push(b']');
        Gathered {
            destination: destination.clone(),
            sender: sender.clone(),
            payload_id: None,
            json: std::mem::take(&mut self.events).into(),
            count: std::mem::take(&mut self.count),
        }
    }
}

/// The variation with this value.
fn variation(flag: &Flag, value: &RawValue) -> Option<i64> {
    let value: Value = serde_json::from_str(value.get()).ok()?;
    let is_same =
        |it: &RawValue| serde_json::from_str::<Value>(it.get()).is_ok_and(|it| it == value);
    flag.variations().position(is_same)?.try_into().ok()
}

/// A context as the SDK has written it, and what tells it apart.
struct ContextRef<'a> {
    json: &'a str,
    kinds: Vec<String>,
    /// Its kinds and keys.
    name: String,
}

/// The context of an event, or the user of old SDKs; `None` if there is neither.
fn context<'a>(
    context: Option<&'a RawValue>,
    user: Option<&'a RawValue>,
) -> Option<ContextRef<'a>> {
    let json = context.or(user)?.get();
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(json).ok()?;
    let text = |raw: &&RawValue| serde_json::from_str::<String>(raw.get()).ok();
    let kind = match members.get("kind") {
        Some(kind) => text(kind)?,
        None => "user".to_owned(),
    };
    let mut keys = Vec::new();
    if kind == "multi" {
        for (kind, member) in members.iter().filter(|(name, _)| *name != "kind") {
            let Keyed { key } = serde_json::from_str(member.get()).ok()?;
            keys.push((kind.clone(), key));
        }
    } else {
        keys.push((kind, text(members.get("key")?)?));
    }
    // The lengths distinguish a:b from a and b.
    let name = keys.iter().map(|(kind, key)| format!("{}:{kind}{key}", kind.len())).collect();
    Some(ContextRef { json, kinds: keys.into_iter().map(|(kind, _)| kind).collect(), name })
}

fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    kind: String,
}

#[derive(Deserialize)]
struct Keyed {
    key: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FeatureEvent<'a> {
    #[serde(default = "zero")]
    creation_date: Number,
    #[serde(default, borrow)]
    key: std::borrow::Cow<'a, str>,
    #[serde(default, borrow)]
    user: Option<&'a RawValue>,
    #[serde(default, borrow)]
    context: Option<&'a RawValue>,
    #[serde(default)]
    version: Option<i64>,
    #[serde(default)]
    variation: Option<i64>,
    #[serde(default, borrow)]
    value: Option<&'a RawValue>,
    #[serde(default, borrow)]
    default: Option<&'a RawValue>,
    #[serde(default)]
    track_events: Option<bool>,
    #[serde(default)]
    debug_events_until_date: Option<i64>,
    #[serde(default)]
    sampling_ratio: Option<i64>,
    #[serde(default)]
    exclude_from_summaries: Option<bool>,
    #[serde(default, borrow)]
    reason: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Custom<'a> {
    #[serde(default = "zero")]
    creation_date: Number,
    #[serde(default, borrow)]
    key: std::borrow::Cow<'a, str>,
    #[serde(default, borrow)]
    user: Option<&'a RawValue>,
    #[serde(default, borrow)]
    context: Option<&'a RawValue>,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    metric_value: Option<Number>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identify<'a> {
    #[serde(default = "zero")]
    creation_date: Number,
    #[serde(default, borrow)]
    user: Option<&'a RawValue>,
    #[serde(default, borrow)]
    context: Option<&'a RawValue>,
}

fn zero() -> Number {
    Number::from(0)
}

#[cfg(test)]
#[path = "summaries_tests.rs"]
mod tests;
