//! The JSON of events, in schema 4.

use std::collections::BTreeMap;

use serde_json::Number;
use serde_json::value::RawValue;

use super::{ContextRef, Counter, Feature, FeatureEvent};

/// Writes the members of an object.
pub(super) struct Out<'a>(pub(super) &'a mut Vec<u8>);

impl Out<'_> {
    pub(super) fn begin(&mut self, kind: &str, date: &Number) {
        self.0.extend_from_slice(b"{\"kind\":\"");
        self.0.extend_from_slice(kind.as_bytes());
        self.0.push(b'"');
        self.raw("creationDate", &date.to_string());
    }

    pub(super) fn raw(&mut self, name: &str, json: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
        self.0.extend_from_slice(json.as_bytes());
    }

    pub(super) fn text(&mut self, name: &str, text: &str) {
        // Text always serializes.
        self.raw(name, &serde_json::to_string(text).unwrap_or_default());
    }

    /// An event that has nothing but a context.
    pub(super) fn context(&mut self, kind: &str, date: &Number, context: &ContextRef<'_>) {
        self.begin(kind, date);
        self.raw("context", context.json);
    }

    pub(super) fn feature(
        &mut self,
        kind: &str,
        event: &FeatureEvent<'_>,
        context: &ContextRef<'_>,
    ) {
        self.begin(kind, &event.creation_date);
        self.text("key", &event.key);
        if let Some(version) = event.version {
            self.raw("version", &version.to_string());
        }
        self.raw("context", context.json);
        if let Some(variation) = event.variation {
            self.raw("variation", &variation.to_string());
        }
        self.raw("value", event.value.map_or("null", RawValue::get));
        self.raw("default", event.default.map_or("null", RawValue::get));
        if let Some(reason) = event.reason.filter(|reason| reason.get() != "null") {
            self.raw("reason", reason.get());
        }
        if let Some(ratio) = event.sampling_ratio.filter(|ratio| *ratio != 1) {
            self.raw("samplingRatio", &ratio.to_string());
        }
    }

    pub(super) fn summary(
        &mut self,
        start: &Number,
        end: &Number,
        features: &BTreeMap<String, Feature>,
    ) {
        let counter = |((variation, version), it): (&(Option<i64>, Option<i64>), &Counter)| {
            let mut json = Vec::from(b"{");
            let mut out = Out(&mut json);
            if let Some(variation) = variation {
                out.raw("variation", &variation.to_string());
            }
            match version {
                Some(version) => out.raw("version", &version.to_string()),
                None => out.raw("unknown", "true"),
            }
            out.raw("value", it.value.get());
            out.raw("count", &it.count.to_string());
            // The first member needs no comma.
            json.remove(1);
            json.push(b'}');
            String::from_utf8(json).unwrap_or_default()
        };
        self.0.extend_from_slice(b"{\"kind\":\"summary\"");
        self.raw("startDate", &start.to_string());
        self.raw("endDate", &end.to_string());
        self.0.extend_from_slice(b",\"features\":{");
        for (place, (key, feature)) in features.iter().enumerate() {
            if place > 0 {
                self.0.push(b',');
            }
            let name = serde_json::to_string(key).unwrap_or_default();
            let counters: Vec<String> = feature.counters.iter().map(counter).collect();
            let kinds = serde_json::to_string(&feature.kinds).unwrap_or_default();
            self.0.extend_from_slice(name.as_bytes());
            self.0.extend_from_slice(b":{\"default\":");
            self.0.extend_from_slice(feature.default.get().as_bytes());
            self.raw("counters", &format!("[{}]", counters.join(",")));
            self.raw("contextKinds", &kinds);
            self.0.push(b'}');
        }
        self.0.push(b'}');
    }
}
