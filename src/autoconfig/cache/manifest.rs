//! The manifest of a cached set: names each record with its version and a digest of its text, and
//! the records that were removed. Pure.
//!
//! A record alone cannot prove that it is the newest one: a writer to the database can put an old
//! one back. The manifest can, because it is sealed too.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::autoconfig::record_set::{Gone, Stamp};
use crate::model::hex;

/// Name of the manifest of our sealed rows. Not a name that a record can have.
pub const MANIFEST_NAME: &str = "manifest";

/// Name of the manifest of ld-relay's rows. It is stored among our sealed rows, because ld-relay
/// removes unknown rows from its own.
pub const LD_RELAY_MANIFEST_NAME: &str = "manifest of ld-relay's rows";

/// Version of the manifest's text.
const FORMAT: u64 = 2;

/// Bytes of a digest. Only holders of the key make records, so a collision can happen only by
/// chance.
const DIGEST_BYTES: usize = 12;

/// A manifest's entry of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The record's version.
    pub version: i64,
    /// Digest of its text; `None` where another writer's text of the same version may differ.
    pub digest: Option<String>,
}

impl Entry {
    /// The entry of a record, with a digest.
    pub fn of(name: &str, version: i64, text: &str) -> Self {
        Self { version, digest: Some(digest(name, text)) }
    }

    /// The entry of a record that exists in this version or a higher one, and is not here.
    pub fn of_missing(version: i64) -> Self {
        Self { version, digest: None }
    }

    /// True if a record of this version has that text.
    pub fn fits(&self, name: &str, text: &str) -> bool {
        self.digest.as_ref().is_none_or(|known| *known == digest(name, text))
    }
}

/// The list that vouches for a set of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Time at which LaunchDarkly last confirmed the set, and the count of its changes.
    pub stamp: Stamp,
    /// Random name of the process that wrote it.
    pub writer: String,
    /// All records of the set by name, including those that the database could not hold.
    pub records: BTreeMap<String, Entry>,
    /// Removed records by name.
    pub gone: BTreeMap<String, Gone>,
    /// True if the records are ld-relay's and LaunchDarkly has not confirmed them since.
    pub adopted: bool,
}

impl Manifest {
    /// True if both list the same records and removals.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        let versions = |gone: &BTreeMap<String, Gone>| -> BTreeMap<String, i64> {
            gone.iter().map(|(name, gone)| (name.clone(), gone.version)).collect()
        };
        self.records == other.records
            && self.adopted == other.adopted
            && versions(&self.gone) == versions(&other.gone)
    }

    /// True if these are exactly the records of the set.
    pub fn vouches_for(&self, texts: &BTreeMap<String, String>) -> bool {
        self.records.len() == texts.len()
            && texts.iter().all(|(name, text)| {
                self.records.get(name).is_some_and(|entry| entry.fits(name, text))
            })
    }

    /// Encodes it as text.
    pub fn encode(&self) -> String {
        let milliseconds = self.stamp.confirmed_at.map(|at| {
            let since = at.duration_since(SystemTime::UNIX_EPOCH);
            since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
        });
        let records: Map<String, Value> = self
            .records
            .iter()
            .map(|(name, entry)| (name.clone(), json!([entry.version, entry.digest])))
            .collect();
        let gone: Map<String, Value> = self
            .gone
            .iter()
            .map(|(name, gone)| (name.clone(), json!([gone.version, gone.order])))
            .collect();
        json!({
            "format": FORMAT,
            "sequence": self.stamp.sequence,
            "confirmedAt": milliseconds,
            "writer": self.writer,
            "records": records,
            "gone": gone,
            "adopted": self.adopted,
        })
        .to_string()
    }

    /// Reads a text; `None` if it is not a manifest.
    pub fn decode(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        if value["format"].as_u64()? != FORMAT {
            return None;
        }
        let confirmed_at = if value["confirmedAt"].is_null() {
            None
        } else {
            let since = Duration::from_millis(value["confirmedAt"].as_u64()?);
            Some(SystemTime::UNIX_EPOCH.checked_add(since)?)
        };
        let entry = |(name, value): (&String, &Value)| {
            let digest =
                if value[1].is_null() { None } else { Some(value[1].as_str()?.to_owned()) };
            Some((name.clone(), Entry { version: value[0].as_i64()?, digest }))
        };
        let gone = |(name, value): (&String, &Value)| {
            let gone = Gone { version: value[0].as_i64()?, order: value[1].as_u64()? };
            Some((name.clone(), gone))
        };
        Some(Self {
            stamp: Stamp { confirmed_at, sequence: value["sequence"].as_u64()? },
            writer: value["writer"].as_str()?.to_owned(),
            records: value["records"].as_object()?.iter().map(entry).collect::<Option<_>>()?,
            gone: value["gone"].as_object()?.iter().map(gone).collect::<Option<_>>()?,
            adopted: value["adopted"].as_bool()?,
        })
    }
}

fn digest(name: &str, text: &str) -> String {
    let mut hash = Sha256::new();
    for part in [name, text] {
        // The length keeps (ab, c) and (a, bc) apart.
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hex(&hash.finalize()[..DIGEST_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    fn manifest(confirmed_at: Option<SystemTime>, pairs: &[(&str, &str)]) -> Manifest {
        let entry = |(name, text): &(&str, &str)| ((*name).to_owned(), Entry::of(name, 1, text));
        Manifest {
            stamp: Stamp { confirmed_at, sequence: 7 },
            writer: "w".to_owned(),
            records: pairs.iter().map(entry).collect(),
            gone: BTreeMap::from([("c".to_owned(), Gone { version: 3, order: 1 })]),
            adopted: false,
        }
    }

    #[test]
    fn vouches_for_exactly_its_records() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234);
        let pairs = [("a", "1"), ("b", "2")];
        let records = texts(&pairs);
        for confirmed_at in [Some(at), None] {
            let manifest = manifest(confirmed_at, &pairs);
            assert_eq!(Manifest::decode(&manifest.encode()), Some(manifest));
        }
        let manifest = manifest(Some(at), &pairs);
        assert!(manifest.vouches_for(&records));
        for other in [
            texts(&[("a", "1")]),
            texts(&[("a", "1"), ("b", "3")]),
            texts(&[("a", "1"), ("c", "2")]),
            texts(&[("a", "1"), ("b", "2"), ("c", "")]),
            texts(&[("a", "1b2")]),
        ] {
            assert!(!manifest.vouches_for(&other), "{other:?}");
        }
        let mut other = manifest.clone();
        other.gone.get_mut("c").unwrap().order = 9;
        assert!(other.says_the_same_as(&manifest), "the order of removals is bookkeeping");
        other.gone.get_mut("c").unwrap().version = 4;
        assert!(!other.says_the_same_as(&manifest));
    }

    #[test]
    fn what_is_not_a_manifest_is_none() {
        let far = r#"{"format":2,"sequence":1,"confirmedAt":18446744073709551615,"writer":"",
            "records":{},"gone":{},"adopted":false}"#;
        // This lies beyond what the clock can hold on some platforms, and within on others: it
        // must not panic on either.
        let _ = Manifest::decode(far);
        for text in [
            "",
            "{}",
            "[]",
            r#"{"format":2,"sequence":-1}"#,
            &far.replace("\"format\":2", "\"format\":3"),
            r#"{"format":2,"sequence":1,"confirmedAt":1,"writer":"","records":{"a":[]},"gone":{},
                "adopted":false}"#,
        ] {
            assert_eq!(Manifest::decode(text), None, "{text}");
        }
    }
}
