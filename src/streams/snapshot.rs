//! The data that an environment serves at one moment, with its encodings.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::payloads;
use crate::model::{DataSet, ItemKind, Origin, hex};

/// An immutable, complete data set. A change makes a new snapshot that shares the items.
///
/// Each encoding is built at most once, at its first use, and shared by all clients.
pub struct Snapshot {
    /// The flags and segments.
    pub data: Arc<DataSet>,
    /// Their source.
    pub origin: Origin,
    /// Time at which LaunchDarkly last confirmed the data: now for live data, the time of writing
    /// for stored data; `None` if the store does not record it.
    pub as_of: Option<SystemTime>,
    put_all: OnceLock<Bytes>,
    put_flags: OnceLock<Bytes>,
    latest_all: OnceLock<Bytes>,
    latest_flags: OnceLock<Bytes>,
    etag: OnceLock<String>,
    /// True once its flags were evaluated, and so are parsed.
    pub is_evaluated: AtomicBool,
    /// The body of `/sdk/latest-all`, compressed; made by the server, which bounds that work.
    pub latest_all_gzip: OnceLock<Bytes>,
    /// The same of `/sdk/latest-flags`.
    pub latest_flags_gzip: OnceLock<Bytes>,
}

/// Shows the number of items and not the items.
impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("items", &self.data.len())
            .field("origin", &self.origin)
            .field("as_of", &self.as_of)
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    /// A snapshot without encodings.
    pub fn new(data: Arc<DataSet>, origin: Origin, as_of: impl Into<Option<SystemTime>>) -> Self {
        Self {
            data,
            origin,
            as_of: as_of.into(),
            put_all: OnceLock::new(),
            put_flags: OnceLock::new(),
            latest_all: OnceLock::new(),
            latest_flags: OnceLock::new(),
            etag: OnceLock::new(),
            is_evaluated: AtomicBool::new(false),
            latest_all_gzip: OnceLock::new(),
            latest_flags_gzip: OnceLock::new(),
        }
    }

    /// The same data with another origin and time, keeping the encodings that exist.
    pub fn confirmed(&self, origin: Origin, as_of: impl Into<Option<SystemTime>>) -> Self {
        Self {
            data: self.data.clone(),
            origin,
            as_of: as_of.into(),
            put_all: self.put_all.clone(),
            put_flags: self.put_flags.clone(),
            latest_all: self.latest_all.clone(),
            latest_flags: self.latest_flags.clone(),
            etag: self.etag.clone(),
            is_evaluated: AtomicBool::new(self.is_evaluated.load(Ordering::Relaxed)),
            latest_all_gzip: self.latest_all_gzip.clone(),
            latest_flags_gzip: self.latest_flags_gzip.clone(),
        }
    }

    /// The first event of `/all`.
    pub fn put_all(&self) -> &Bytes {
        self.put_all.get_or_init(|| {
            let (event, body) = payloads::put_all(&self.data);
            if let Some(body) = body {
                // The poll's body is part of the event: one buffer for both. A body that was built
                // before stays.
                let _ = self.latest_all.set(event.slice(body));
            }
            event
        })
    }

    /// The first event of `/flags`.
    pub fn put_flags(&self) -> &Bytes {
        self.put_flags.get_or_init(|| payloads::put_flags(&self.data))
    }

    /// The body of `/sdk/latest-all`.
    pub fn latest_all(&self) -> &Bytes {
        self.put_all();
        self.latest_all.get_or_init(|| Bytes::from(payloads::latest_all(&self.data)))
    }

    /// The body of `/sdk/latest-flags` and `/sdk/flags`.
    pub fn latest_flags(&self) -> &Bytes {
        self.latest_flags.get_or_init(|| Bytes::from(payloads::latest_flags(&self.data)))
    }

    /// A hash of all items, equal for equal data on every relay. Versions alone are not enough:
    /// they may start again, as when an environment is reset.
    pub fn etag(&self) -> &str {
        self.etag.get_or_init(|| {
            let mut hash = Sha256::new();
            for (kind, key, item) in self.data.iter() {
                let Some(json) = &item.json else { continue };
                hash.update(match kind {
                    ItemKind::Flag => b"f",
                    ItemKind::Segment => b"s",
                });
                // Lengths before texts, so that no two sets write the same bytes.
                for number in [key.len() as u64, item.version, json.len() as u64] {
                    hash.update(number.to_le_bytes());
                }
                hash.update(key.as_bytes());
                hash.update(json);
            }
            hex(&hash.finalize()[..12])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Item, ItemKey};

    #[test]
    fn every_client_gets_the_same_bytes_in_memory() {
        let mut data = DataSet::default();
        let item = Item::live(1, r#"{"version":1}"#);
        data.upsert(&ItemKey::new(ItemKind::Flag, "f"), Arc::new(item));
        let snapshot = Snapshot::new(Arc::new(data), Origin::LocalStore, SystemTime::UNIX_EPOCH);
        let encodings = |snapshot: &Snapshot| {
            [
                snapshot.put_all().as_ptr_range(),
                snapshot.put_flags().as_ptr_range(),
                snapshot.latest_all().as_ptr_range(),
                snapshot.latest_flags().as_ptr_range(),
            ]
        };
        let first = encodings(&snapshot);
        assert_eq!(encodings(&snapshot), first);
        let live = snapshot.confirmed(Origin::Live, SystemTime::UNIX_EPOCH);
        assert_eq!(encodings(&live), first, "that it is live now changes no byte");
        let [put, _, poll, _] = &first;
        assert!(put.start < poll.start && poll.end < put.end, "the poll is a part of the put");
    }

    /// A client must not fetch everything again because a relay was built by another compiler.
    #[test]
    fn the_tag_is_the_same_on_every_machine_and_build() {
        let mut data = DataSet::default();
        data.upsert(&ItemKey::new(ItemKind::Flag, "a"), Arc::new(Item::live(7, r#"{"on":true}"#)));
        data.upsert(&ItemKey::new(ItemKind::Flag, "gone"), Arc::new(Item::tombstone(9)));
        data.upsert(&ItemKey::new(ItemKind::Segment, "s"), Arc::new(Item::live(1, "{}")));
        let snapshot = Snapshot::new(Arc::new(data), Origin::Live, SystemTime::UNIX_EPOCH);
        // SHA-256 of what the loop above writes for these items, computed by another program.
        assert_eq!(snapshot.etag(), "ed99c454490b3857a4e0d3f3");
    }

    #[test]
    fn the_tag_tells_other_content_also_of_the_same_version() {
        let tag = |items: &[(&str, &Item)]| {
            let mut data = DataSet::default();
            for (key, item) in items {
                data.upsert(&ItemKey::new(ItemKind::Flag, *key), Arc::new((*item).clone()));
            }
            let snapshot = Snapshot::new(Arc::new(data), Origin::Live, SystemTime::UNIX_EPOCH);
            snapshot.etag().to_owned()
        };
        let (on, off) = (Item::live(1, r#"{"on":true}"#), Item::live(1, r#"{"on":false}"#));
        let gone = Item::tombstone(7);
        assert_eq!(tag(&[("a", &on)]), tag(&[("a", &on)]));
        assert_eq!(tag(&[("a", &on)]), tag(&[("a", &on), ("b", &gone)]), "nobody sees tombstones");
        assert_ne!(tag(&[("a", &on)]), tag(&[("a", &off)]));
        assert_ne!(tag(&[("a", &on)]), tag(&[("b", &on)]));
        assert_ne!(tag(&[("a", &on)]), tag(&[]));
    }
}
