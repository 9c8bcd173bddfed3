//! Turns records into rows of a shared database and back, in our sealed format or ld-relay's.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::backend::Row;
use super::ld_relay_format::LdRelayKeys;
use super::manifest::Entry;
use crate::model::hex;
use crate::sealing::{KeyRing, OpenError, Place};

/// All keys of the cache, in both formats.
#[derive(Clone, Debug)]
pub struct CacheKeys {
    /// For our own format.
    pub ring: KeyRing,
    /// For ld-relay's.
    pub ld_relay: LdRelayKeys,
}

/// One format in one namespace.
#[derive(Clone, Debug)]
pub enum Codec {
    /// Ours: authenticated with its place, names hashed. Made by [`Codec::sealed`].
    Sealed {
        /// The keys of the namespace.
        ring: KeyRing,
        /// The namespace, part of what is authenticated.
        namespace: String,
    },
    /// ld-relay's: names in plain text, bound to nothing.
    LdRelay(Box<LdRelayKeys>),
}

/// A row that was opened.
#[derive(Clone, PartialEq, Eq)]
pub struct OpenedRow {
    /// The record's name, such as `env:…`.
    pub name: String,
    /// The record's text.
    pub text: String,
    /// Rank of the key it is sealed under: 0 for the one that seals, higher for those that only
    /// open.
    pub key_rank: usize,
}

/// Shows the size of the content and not the content: it holds SDK keys.
impl std::fmt::Debug for OpenedRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenedRow")
            .field("name", &self.name)
            .field("text", &format_args!("{} bytes", self.text.len()))
            .field("key_rank", &self.key_rank)
            .finish()
    }
}

/// Numbers of rows that were left out, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Sealed under a key that is not configured (in ld-relay's format also: altered).
    pub unknown_key: usize,
    /// Altered, or moved from another place.
    pub forged: usize,
    /// Opened, but cannot be decoded, or of an unknown kind or model version.
    pub undecodable: usize,
    /// Older than the manifest says: an old row was put back.
    pub rolled_back: usize,
}

impl Skipped {
    /// Number of rows that were left out.
    pub fn total(self) -> usize {
        self.unknown_key + self.forged + self.undecodable + self.rolled_back
    }

    /// Adds the counts of another place.
    pub fn add(&mut self, other: Self) {
        self.unknown_key += other.unknown_key;
        self.forged += other.forged;
        self.undecodable += other.undecodable;
        self.rolled_back += other.rolled_back;
    }

    /// Counts a row that did not open.
    pub fn count(&mut self, error: OpenError) {
        match error {
            OpenError::UnknownKey => self.unknown_key += 1,
            OpenError::Forged => self.forged += 1,
            OpenError::Format => self.undecodable += 1,
        }
    }
}

/// Rows of one namespace, opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenedRows {
    /// Opened records by name, each with its row.
    pub records: BTreeMap<String, (Row, OpenedRow)>,
    /// Rows that repeat a record under an older key, left over from a change of keys.
    pub superseded: Vec<Row>,
    /// Numbers of rows that did not open, by reason.
    pub skipped: Skipped,
    /// The names of the rows that did not open.
    pub closed: Vec<(String, OpenError)>,
}

impl OpenedRows {
    fn take(&mut self, row: Row, record: OpenedRow) {
        match self.records.get_mut(&record.name) {
            Some((held_row, held)) if record.key_rank < held.key_rank => {
                *held = record;
                self.superseded.push(std::mem::replace(held_row, row));
            }
            Some(_) => self.superseded.push(row),
            None => {
                self.records.insert(record.name.clone(), (row, record));
            }
        }
    }
}

impl Codec {
    /// Our own format in a namespace. Its keys are derived for that namespace alone.
    pub fn sealed(ring: &KeyRing, namespace: &str) -> Self {
        Self::Sealed { ring: ring.within(namespace), namespace: namespace.to_owned() }
    }

    /// The row name of a record.
    pub fn row_name(&self, name: &str) -> String {
        #[cfg(test)]
        NAMES_COMPUTED.with(|count| count.set(count.get() + 1));
        match self {
            Self::Sealed { ring, .. } => {
                hex(&ring.current().name(&[b"autoconfig", name.as_bytes()]))
            }
            Self::LdRelay(_) => name.to_owned(),
        }
    }

    /// The row value of a record.
    pub fn seal(&self, name: &str, text: &str) -> Bytes {
        match self {
            Self::Sealed { ring, namespace } => {
                let row_name = self.row_name(name);
                let place = Place { namespace, name: row_name.as_bytes() };
                // The name goes inside, because the row's own name is a hash of it.
                let length = u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes();
                let plaintext = [&length[..], name.as_bytes(), text.as_bytes()].concat();
                ring.current().seal(place, &plaintext).into()
            }
            Self::LdRelay(keys) => keys.seal(text.as_bytes()).into(),
        }
    }

    /// The manifest's entry of a record in this format.
    pub fn entry(&self, name: &str, version: i64, text: &str) -> Entry {
        match self {
            Self::Sealed { .. } => Entry::of(name, version, text),
            // Other relays write the same record as another text.
            Self::LdRelay(_) => Entry { version, digest: None },
        }
    }

    /// Opens a row.
    pub fn open(&self, row: &Row) -> Result<OpenedRow, OpenError> {
        match self {
            Self::Sealed { ring, namespace } => {
                let place = Place { namespace, name: row.name.as_bytes() };
                let (plaintext, under) = ring.open(place, &row.value)?;
                let (name, text) = split(&plaintext).ok_or(OpenError::Format)?;
                let key_rank = ring.keys().iter().position(|key| key.id() == under).unwrap_or(0);
                Ok(OpenedRow { name: name.to_owned(), text: text.to_owned(), key_rank })
            }
            Self::LdRelay(keys) => {
                let (text, current) = keys.open(&row.value).ok_or(OpenError::UnknownKey)?;
                let text = String::from_utf8(text).map_err(|_| OpenError::Format)?;
                Ok(OpenedRow { name: row.name.clone(), text, key_rank: usize::from(!current) })
            }
        }
    }

    /// Opens all rows. If one record is stored under several keys, the first key takes precedence.
    pub fn open_all(&self, rows: &[Row]) -> OpenedRows {
        let mut all = OpenedRows::default();
        for row in rows {
            match self.open(row) {
                Ok(record) => all.take(row.clone(), record),
                Err(error) => {
                    all.skipped.count(error);
                    all.closed.push((row.name.clone(), error));
                }
            }
        }
        all
    }
}

#[cfg(test)]
thread_local! {
    /// Number of row names that were computed: each costs a keyed hash.
    pub(super) static NAMES_COMPUTED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn split(plaintext: &[u8]) -> Option<(&str, &str)> {
    let (length, rest) = plaintext.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (name, text) = rest.split_at_checked(length)?;
    Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(text).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealing::SealingKey;

    fn sealed(namespace: &str, keys: &[&str]) -> Codec {
        let mut keys = keys.iter().map(|text| SealingKey::derive(text));
        let ring = KeyRing::new(keys.next().unwrap(), keys);
        Codec::sealed(&ring, namespace)
    }

    fn row(codec: &Codec, name: &str, text: &str) -> Row {
        Row { name: codec.row_name(name), value: codec.seal(name, text), revision: 0 }
    }

    #[test]
    fn both_formats_give_back_what_they_took() {
        for codec in
            [sealed("here", &["k"]), Codec::LdRelay(Box::new(LdRelayKeys::derive("k", [])))]
        {
            let row = row(&codec, "env:e1", "{\"text\":1}");
            let opened = codec.open(&row).unwrap();
            assert_eq!((opened.name.as_str(), opened.text.as_str()), ("env:e1", "{\"text\":1}"));
            assert_eq!(opened.key_rank, 0);
        }
    }

    #[test]
    fn a_sealed_row_shows_nothing_and_opens_nowhere_else() {
        let codec = sealed("here", &["k"]);
        let one = row(&codec, "env:e1", "text");
        assert!(!one.name.contains("e1"));
        let renamed = Row { name: codec.row_name("env:e2"), ..one.clone() };
        assert_eq!(codec.open(&renamed), Err(OpenError::Forged));
        assert_eq!(sealed("there", &["k"]).open(&one), Err(OpenError::UnknownKey));
        assert_eq!(sealed("here", &["other"]).open(&one), Err(OpenError::UnknownKey));
    }

    #[test]
    fn rows_of_several_keys_are_told_apart() {
        let old = sealed("here", &["old"]);
        let new = sealed("here", &["new", "old"]);
        let foreign = sealed("here", &["foreign"]);
        let mut rows = vec![
            row(&old, "a", "old"),
            row(&new, "a", "new"),
            row(&old, "b", "old"),
            row(&foreign, "c", "x"),
        ];
        rows.push(Row { name: "d".to_owned(), value: Bytes::from_static(b"junk"), revision: 0 });
        rows.push(Row { name: "e".to_owned(), ..rows[1].clone() });
        let all = new.open_all(&rows);
        let shown: Vec<_> =
            all.records.values().map(|(_, r)| (r.text.as_str(), r.key_rank)).collect();
        assert_eq!(shown, [("new", 0), ("old", 1)]);
        assert_eq!(all.superseded, rows[..1]);
        assert_eq!(
            all.skipped,
            Skipped { unknown_key: 1, forged: 1, undecodable: 1, rolled_back: 0 }
        );
    }
}
