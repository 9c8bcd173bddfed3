//! The manifest of a cached set: proves that the set is whole, and says how old it is. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::autoconfig::record_set::Stamp;

/// Name under which a manifest stands beside the records. Not a name that a record can have.
pub const MANIFEST_NAME: &str = "manifest";

/// What vouches for a set of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// When LaunchDarkly last confirmed the set, and how often it changed.
    pub stamp: Stamp,
    /// Random name of the process that wrote it.
    pub writer: String,
    /// Number of records that the set has. More than are stored if the database could not hold
    /// some.
    pub count: usize,
    /// Hash of all names and texts that are stored.
    pub digest: String,
}

impl Manifest {
    /// A manifest of these stored records, of a set that has `count`.
    pub fn of(texts: &BTreeMap<String, String>, count: usize, stamp: Stamp, writer: &str) -> Self {
        Self { stamp, writer: writer.to_owned(), count, digest: digest(texts) }
    }

    /// Whether both tell of the same records.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        self.count == other.count && self.digest == other.digest
    }

    /// Whether these are exactly the records of the set.
    pub fn vouches_for(&self, texts: &BTreeMap<String, String>) -> bool {
        self.count == texts.len() && self.digest == digest(texts)
    }

    /// Its text.
    pub fn encode(&self) -> String {
        let written_at = self.stamp.written_at.duration_since(SystemTime::UNIX_EPOCH);
        json!({
            "sequence": self.stamp.sequence,
            "writtenAt": written_at.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0)),
            "writer": self.writer,
            "count": self.count,
            "digest": self.digest,
        })
        .to_string()
    }

    /// Reads a text; `None` if it is not a manifest.
    pub fn decode(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let written_at = Duration::from_millis(value["writtenAt"].as_u64()?);
        Some(Self {
            stamp: Stamp {
                written_at: SystemTime::UNIX_EPOCH.checked_add(written_at)?,
                sequence: value["sequence"].as_u64()?,
            },
            writer: value["writer"].as_str()?.to_owned(),
            count: usize::try_from(value["count"].as_u64()?).ok()?,
            digest: value["digest"].as_str()?.to_owned(),
        })
    }
}

fn digest(texts: &BTreeMap<String, String>) -> String {
    let mut hash = Sha256::new();
    for (name, text) in texts {
        for part in [name, text] {
            // The length keeps (ab, c) and (a, bc) apart.
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn vouches_for_exactly_its_records() {
        let stamp = Stamp {
            written_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_234),
            sequence: 7,
        };
        let records = texts(&[("a", "1"), ("b", "2")]);
        let manifest = Manifest::of(&records, 2, stamp, "w");
        assert_eq!(Manifest::decode(&manifest.encode()), Some(manifest.clone()));
        assert!(manifest.vouches_for(&records));
        let of_three = Manifest::of(&records, 3, stamp, "w");
        assert!(!of_three.vouches_for(&records), "one could not be stored");
        assert!(!of_three.says_the_same_as(&manifest));
        for other in [
            texts(&[("a", "1")]),
            texts(&[("a", "1"), ("b", "3")]),
            texts(&[("a", "1"), ("c", "2")]),
            texts(&[("a", "1"), ("b", "2"), ("c", "")]),
            texts(&[("a", "1b2")]),
        ] {
            assert!(!manifest.vouches_for(&other), "{other:?}");
        }
    }

    #[test]
    fn what_is_not_a_manifest_is_none() {
        for text in [
            "",
            "{}",
            "[]",
            r#"{"sequence":-1}"#,
            r#"{"sequence":1,"writtenAt":18446744073709551615,"writer":"","count":0,"digest":""}"#,
        ] {
            // The last one lies beyond what the clock can hold on some platforms, and within on
            // others: it must not panic on either.
            let _ = Manifest::decode(text);
        }
        assert_eq!(Manifest::decode("{}"), None);
    }
}
