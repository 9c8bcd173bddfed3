//! The tier of this machine: records in the embedded store, all of them with their manifest in
//! one transaction.

use std::collections::BTreeMap;

use tokio::sync::watch;

use super::codec::{CacheKeys, Skipped};
use super::keeper::{TierAccess, TierError, Wanted};
use super::manifest::{MANIFEST_NAME, Manifest};
use super::shared_tier::{CONFIRMATION_AGE, Reading, Written, cached_set};
use crate::autoconfig::record_set::Stamp;
use crate::storage::local::{LocalStore, NamedRecords};

/// Space of the store that holds the records. Fixed: independent of the shared cache's key
/// (design D33).
const SPACE: &str = "autoconfig";

/// The embedded store seen as a tier of the cache.
#[derive(Debug)]
pub struct LocalTier {
    store: LocalStore,
    writer: String,
    /// Told when the keys change, so that the owner looks again.
    keys: watch::Receiver<CacheKeys>,
    /// What is stored, as far as it is known.
    stored: Option<BTreeMap<String, String>>,
    stamp: Option<Stamp>,
}

impl LocalTier {
    /// The tier in a store. `writer` names this process in manifests.
    pub fn new(store: LocalStore, writer: &str, keys: watch::Receiver<CacheKeys>) -> Self {
        Self { store, writer: writer.to_owned(), keys, stored: None, stamp: None }
    }

    async fn load(
        &mut self,
    ) -> Result<(BTreeMap<String, String>, Option<Manifest>, Skipped), TierError> {
        let store = self.store.clone();
        let read = tokio::task::spawn_blocking(move || store.read_named(SPACE));
        let NamedRecords { records, skipped } = read
            .await
            .map_err(|error| TierError(error.into()))?
            .map_err(|error| TierError(error.into()))?;
        let count = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let mut skipped = Skipped {
            unknown_key: count(skipped.unknown_key),
            forged: count(skipped.forged),
            undecodable: count(skipped.format),
        };
        let mut texts = BTreeMap::new();
        for record in records {
            match String::from_utf8(record.value) {
                Ok(text) => {
                    texts.insert(record.name, text);
                }
                Err(_) => skipped.undecodable += 1,
            }
        }
        let manifest = texts.remove(MANIFEST_NAME).as_deref().and_then(Manifest::decode);
        self.stamp = manifest.as_ref().map(|manifest| manifest.stamp);
        self.stored = Some(texts.clone());
        Ok((texts, manifest, skipped))
    }
}

impl TierAccess for LocalTier {
    async fn read(&mut self) -> Result<Reading, TierError> {
        let (texts, manifest, skipped) = self.load().await?;
        Ok(cached_set(&texts, manifest, skipped))
    }

    async fn write(&mut self, wanted: &Wanted) -> Result<Written, TierError> {
        if self.stored.is_none() {
            self.load().await?;
        }
        let stored = self.stored.take().unwrap_or_default();
        let texts: BTreeMap<String, String> =
            wanted.records.encoded().into_iter().map(|(name, (_, text))| (name, text)).collect();
        let fresh = self.stamp.is_some_and(|stamp| {
            wanted
                .confirmed_at
                .duration_since(stamp.written_at)
                .is_ok_and(|age| age < CONFIRMATION_AGE)
        });
        if fresh && stored == texts {
            let records = texts.len();
            self.stored = Some(texts);
            return Ok(Written { records, ..Written::default() });
        }
        let stamp = Stamp {
            written_at: wanted.confirmed_at,
            sequence: self.stamp.map_or(0, |stamp| stamp.sequence) + 1,
        };
        let manifest = Manifest::of(&texts, stamp, &self.writer);
        let mut puts: Vec<(String, Vec<u8>)> = texts
            .iter()
            .filter(|(name, text)| stored.get(*name) != Some(*text))
            .map(|(name, text)| (name.clone(), text.clone().into_bytes()))
            .collect();
        puts.push((MANIFEST_NAME.to_owned(), manifest.encode().into_bytes()));
        let deletes: Vec<String> =
            stored.keys().filter(|name| !texts.contains_key(*name)).cloned().collect();
        let rows = puts.len() + deletes.len();
        // After an error nothing is known of the store; the next write reads it first.
        self.store
            .write_named(SPACE, puts, deletes)
            .await
            .map_err(|error| TierError(error.into()))?;
        self.stamp = Some(stamp);
        let records = texts.len();
        self.stored = Some(texts);
        Ok(Written { rows, too_large: Vec::new(), records })
    }

    fn needs_second_look(&self) -> bool {
        false
    }

    async fn disturbed(&mut self) {
        // The store seals its records anew by itself; only a lost sender means that nothing
        // more can come.
        if self.keys.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
