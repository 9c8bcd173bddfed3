//! Environments and filters as LaunchDarkly describes them, and as the cache keeps them.
//!
//! [`encode_environment`] and [`encode_filter`] write exactly what ld-relay v8 writes (member
//! order, HTML escapes, omitted members), so that the two read each other's cache; our own sealed
//! cache keeps the same text.

use std::fmt::Write as _;

use serde_json::Value;

use super::fields::{Fields, Malformed};
use crate::model::{MobileKey, SdkKey};

/// One accepted key as it stands on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord<K> {
    /// The key's non-secret name.
    pub name: String,
    /// The secret.
    pub value: K,
    /// End of life in Unix milliseconds; `None` is permanent.
    pub expiry_ms: Option<i64>,
    /// Marked for a feature the relay does not support: the key must be refused.
    pub has_views: bool,
}

/// One environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentRecord {
    /// Client-side ID.
    pub id: String,
    /// Key in its project.
    pub key: String,
    /// Display name.
    pub name: String,
    /// Primary mobile key; `None` for a server-side-only environment.
    pub mobile_key: Option<MobileKey>,
    /// Key of its project.
    pub project_key: String,
    /// Display name of its project.
    pub project_name: String,
    /// The designated SDK key.
    pub anchor: SdkKey,
    /// The single expiring SDK key of older LaunchDarkly versions, with its end in Unix ms.
    pub expiring: Option<(SdkKey, i64)>,
    /// All accepted SDK keys; empty where the sender does not know concurrent keys.
    pub sdk_keys: Vec<KeyRecord<SdkKey>>,
    /// All accepted mobile keys; empty where the sender does not know concurrent keys.
    pub mobile_keys: Vec<KeyRecord<MobileKey>>,
    /// Cache lifetime for PHP polling, in minutes.
    pub default_ttl_minutes: i64,
    /// True if client-side evaluation demands a hash.
    pub secure_mode: bool,
    /// Ascending version of this record.
    pub version: i64,
}

impl EnvironmentRecord {
    /// Decodes the wire shape. Does not judge the credentials.
    pub fn from_json(value: &Value) -> Result<Self, Malformed> {
        let Value::Object(members) = value else {
            return Err(Malformed("the environment is not an object".to_owned()));
        };
        let fields = Fields(members);
        let empty = serde_json::Map::new();
        let sdk_key = Fields(fields.object("sdkKey")?.unwrap_or(&empty));
        let expiring = Fields(sdk_key.object("expiring")?.unwrap_or(&empty));
        let expiring_value = expiring.text("value")?;
        let expiring_at = expiring.integer("timestamp")?;
        let mobile_key = fields.text("mobKey")?;
        Ok(Self {
            id: fields.text("envID")?.to_owned(),
            key: fields.text("envKey")?.to_owned(),
            name: fields.text("envName")?.to_owned(),
            mobile_key: (!mobile_key.is_empty()).then(|| MobileKey::new(mobile_key)),
            project_key: fields.text("projKey")?.to_owned(),
            project_name: fields.text("projName")?.to_owned(),
            anchor: SdkKey::new(sdk_key.text("value")?),
            expiring: (!expiring_value.is_empty())
                .then(|| (SdkKey::new(expiring_value), expiring_at)),
            sdk_keys: keys(&fields, "sdkKeys", |text| SdkKey::new(text))?,
            mobile_keys: keys(&fields, "mobileKeys", |text| MobileKey::new(text))?,
            default_ttl_minutes: fields.integer("defaultTtl")?,
            secure_mode: fields.boolean("secureMode")?,
            version: fields.integer("version")?,
        })
    }

    /// Refuses a set of credentials that contradicts itself (ld-relay v8: checked before the
    /// version is recorded, so that a corrected record of the same version is still taken).
    pub fn check_credentials(&self) -> Result<(), Malformed> {
        let refuse = |problem: &str| Err(Malformed(problem.to_owned()));
        if self.anchor.expose().is_empty() {
            return refuse("it has no SDK key");
        }
        let sdk_keys = || self.sdk_keys.iter().map(|entry| entry.value.expose());
        let mobile_keys = || self.mobile_keys.iter().map(|entry| entry.value.expose());
        if sdk_keys().chain(mobile_keys()).any(str::is_empty) {
            return refuse("an entry of its key lists is empty");
        }
        if !self.sdk_keys.is_empty() && sdk_keys().all(|key| key != self.anchor.expose()) {
            return refuse("its designated SDK key is missing from sdkKeys");
        }
        match &self.mobile_key {
            None if !self.mobile_keys.is_empty() => {
                return refuse("it lists mobile keys but designates none");
            }
            Some(primary)
                if !self.mobile_keys.is_empty()
                    && mobile_keys().all(|key| key != primary.expose()) =>
            {
                return refuse("its designated mobile key is missing from mobileKeys");
            }
            Some(_) | None => {}
        }
        let expiring = self.expiring.iter().map(|(key, _)| key.expose());
        let singles = [self.anchor.expose()].into_iter().chain(expiring);
        let all = singles
            .chain(self.mobile_key.iter().map(MobileKey::expose))
            .chain(sdk_keys())
            .chain(mobile_keys());
        let printable = |key: &str| key.bytes().all(|b| (32..127).contains(&b));
        if !{ all }.all(printable) {
            return refuse("a key holds characters that no HTTP header can carry");
        }
        Ok(())
    }
}

fn keys<K>(
    fields: &Fields<'_>,
    name: &str,
    wrap: fn(&str) -> K,
) -> Result<Vec<KeyRecord<K>>, Malformed> {
    let entry = |value: &Value| {
        let Value::Object(members) = value else {
            return Err(Malformed(format!("an entry of {name} is not an object")));
        };
        let entry = Fields(members);
        let expiry = entry.integer("expiry")?;
        Ok(KeyRecord {
            name: entry.text("key")?.to_owned(),
            value: wrap(entry.text("value")?),
            expiry_ms: (expiry != 0).then_some(expiry),
            has_views: entry.boolean("hasViews")?,
        })
    };
    fields.array(name)?.iter().map(entry).collect()
}

/// One payload filter of a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterRecord {
    /// Key of the project whose environments it narrows.
    pub project_key: String,
    /// The filter key that SDKs send.
    pub key: String,
    /// Ascending version of this record.
    pub version: i64,
}

impl FilterRecord {
    /// Decodes the wire shape.
    pub fn from_json(value: &Value) -> Result<Self, Malformed> {
        let Value::Object(members) = value else {
            return Err(Malformed("the filter is not an object".to_owned()));
        };
        let fields = Fields(members);
        Ok(Self {
            project_key: fields.text("projKey")?.to_owned(),
            key: fields.text("key")?.to_owned(),
            version: fields.integer("version")?,
        })
    }
}

/// The newest shape of a record that is understood, and the one that is written.
pub const MODEL_VERSION: i64 = 2;

/// One cached record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An environment. `complete` is false for the older shape without key lists: keys beyond
    /// the anchor may exist that the record does not name.
    Environment {
        /// The environment.
        record: EnvironmentRecord,
        /// True if every accepted key is named.
        complete: bool,
    },
    /// A filter.
    Filter(FilterRecord),
}

/// Reason why a cached record cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not JSON, or JSON of another shape.
    #[error("record cannot be decoded")]
    Undecodable(#[source] Malformed),
    /// A kind this version does not know.
    #[error("record is of an unknown kind")]
    UnknownKind,
    /// A shape this version does not know.
    #[error("record has model version {0}, known are 1 to {MODEL_VERSION}")]
    UnknownVersion(i64),
}

/// Decodes a cached record. Model versions 1 and 2 are accepted (ld-relay v9 does the same; a
/// strict comparison would empty a cache just when it is needed).
pub fn decode(text: &[u8]) -> Result<Record, RecordError> {
    let undecodable = |problem: String| RecordError::Undecodable(Malformed(problem));
    let value: Value = serde_json::from_slice(text)
        .map_err(|error| undecodable(format!("{:?} error in JSON", error.classify())))?;
    let Value::Object(members) = &value else {
        return Err(undecodable("not an object".to_owned()));
    };
    let fields = Fields(members);
    let version = fields.integer("modelVersion").map_err(RecordError::Undecodable)?;
    if !(1..=MODEL_VERSION).contains(&version) {
        return Err(RecordError::UnknownVersion(version));
    }
    let data = fields.get("data").unwrap_or(&Value::Null);
    match fields.text("kind").map_err(RecordError::Undecodable)? {
        "environment" => {
            let record = EnvironmentRecord::from_json(data).map_err(RecordError::Undecodable)?;
            record.check_credentials().map_err(RecordError::Undecodable)?;
            Ok(Record::Environment { record, complete: version >= 2 })
        }
        "filter" => {
            Ok(Record::Filter(FilterRecord::from_json(data).map_err(RecordError::Undecodable)?))
        }
        _ => Err(RecordError::UnknownKind),
    }
}

/// Writes an environment's cached record.
pub fn encode_environment(record: &EnvironmentRecord) -> String {
    let mut json = Json::open("environment");
    json.text("envID", &record.id);
    json.text("envKey", &record.key);
    json.text("envName", &record.name);
    json.text("mobKey", record.mobile_key.as_ref().map_or("", MobileKey::expose));
    json.text("projKey", &record.project_key);
    json.text("projName", &record.project_name);
    json.name("sdkKey");
    json.object(|json| {
        json.text("value", record.anchor.expose());
        let (value, at) = record.expiring.as_ref().map_or(("", 0), |(key, at)| (key.expose(), *at));
        json.name("expiring");
        json.object(|json| {
            json.text("value", value);
            json.raw("timestamp", at);
        });
    });
    json.keys("sdkKeys", &record.sdk_keys, SdkKey::expose);
    json.keys("mobileKeys", &record.mobile_keys, MobileKey::expose);
    json.raw("defaultTtl", record.default_ttl_minutes);
    json.raw("secureMode", record.secure_mode);
    json.raw("version", record.version);
    json.close()
}

/// Writes a filter's cached record.
pub fn encode_filter(record: &FilterRecord) -> String {
    let mut json = Json::open("filter");
    json.text("projKey", &record.project_key);
    json.text("key", &record.key);
    json.raw("version", record.version);
    json.close()
}

/// Writes JSON as Go's encoder does: in the order given, `<`, `>`, `&` and the two line
/// separators of Unicode escaped.
struct Json(String);

impl Json {
    fn open(kind: &str) -> Self {
        Self(format!(r#"{{"kind":"{kind}","modelVersion":{MODEL_VERSION},"data":{{"#))
    }

    fn close(mut self) -> String {
        self.0.push_str("}}");
        self.0
    }

    fn name(&mut self, name: &str) {
        if !self.0.ends_with(['{', '[']) {
            self.0.push(',');
        }
        let _ = write!(self.0, "\"{name}\":");
    }

    fn raw(&mut self, name: &str, value: impl std::fmt::Display) {
        self.name(name);
        let _ = write!(self.0, "{value}");
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        self.0.push('"');
        for c in value.chars() {
            match c {
                '"' => self.0.push_str("\\\""),
                '\\' => self.0.push_str("\\\\"),
                '\n' => self.0.push_str("\\n"),
                '\r' => self.0.push_str("\\r"),
                '\t' => self.0.push_str("\\t"),
                '\u{8}' => self.0.push_str("\\b"),
                '\u{c}' => self.0.push_str("\\f"),
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => self.escape(c),
                c if c < ' ' => self.escape(c),
                c => self.0.push(c),
            }
        }
        self.0.push('"');
    }

    fn escape(&mut self, c: char) {
        let _ = write!(self.0, "\\u{:04x}", u32::from(c));
    }

    fn object(&mut self, members: impl FnOnce(&mut Self)) {
        self.0.push('{');
        members(self);
        self.0.push('}');
    }

    /// A list of keys; left out when empty, as ld-relay does.
    fn keys<K>(&mut self, name: &str, keys: &[KeyRecord<K>], expose: fn(&K) -> &str) {
        if keys.is_empty() {
            return;
        }
        self.name(name);
        self.0.push('[');
        for (index, key) in keys.iter().enumerate() {
            if index > 0 {
                self.0.push(',');
            }
            self.object(|json| {
                json.text("key", &key.name);
                json.text("value", expose(&key.value));
                if let Some(expiry) = key.expiry_ms {
                    json.raw("expiry", expiry);
                }
                json.raw("hasViews", key.has_views);
            });
        }
        self.0.push(']');
    }
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
