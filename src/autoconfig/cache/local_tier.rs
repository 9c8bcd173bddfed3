//! The tier of this machine: records in the embedded store, all of them with their manifest in
//! one transaction.

use std::collections::BTreeMap;

use tokio::sync::watch;
use tokio::time::Instant;

use super::codec::{CacheKeys, Skipped};
use super::keeper::{TierAccess, TierError, Wanted};
use super::manifest::{MANIFEST_NAME, Manifest};
use super::shared_tier::{Reading, Written, cached_set, is_fresh};
use crate::autoconfig::record_set::Stamp;
use crate::storage::local::{LocalStore, LocalStoreStatus, NamedRecords};

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
    status: watch::Receiver<LocalStoreStatus>,
    /// How often the store's file had been replaced when `stored` was in it.
    replaced: u64,
    /// What is stored, as far as it is known.
    stored: Option<Stored>,
    /// What a file held that was replaced, while nothing better is known.
    to_restore: Option<Stored>,
}

/// What the space holds.
#[derive(Debug, Default)]
struct Stored {
    texts: BTreeMap<String, String>,
    manifest: Option<Manifest>,
    skipped: Skipped,
}

impl LocalTier {
    /// The tier in a store. `writer` names this process in manifests.
    pub fn new(store: LocalStore, writer: &str, keys: watch::Receiver<CacheKeys>) -> Self {
        let status = store.subscribe();
        Self {
            store,
            writer: writer.to_owned(),
            keys,
            status,
            replaced: 0,
            stored: None,
            to_restore: None,
        }
    }

    /// Takes note if the file was replaced by an empty one.
    fn look_for_loss(&mut self) {
        let replaced = self.status.borrow().replaced;
        if replaced != self.replaced {
            self.replaced = replaced;
            self.to_restore = self.stored.take().or(self.to_restore.take());
        }
    }

    async fn load(&self) -> Result<Stored, TierError> {
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
        Ok(Stored { texts, manifest, skipped })
    }

    /// Writes what `wanted` has and `held` has not, with its manifest, in one transaction.
    /// Returns the number of records that were changed.
    async fn store(
        &self,
        wanted: &BTreeMap<String, String>,
        manifest: &Manifest,
        held: &Stored,
    ) -> Result<usize, TierError> {
        let mut puts: Vec<(String, Vec<u8>)> = wanted
            .iter()
            .filter(|(name, text)| held.skipped.total() > 0 || held.texts.get(*name) != Some(*text))
            .map(|(name, text)| (name.clone(), text.clone().into_bytes()))
            .collect();
        puts.push((MANIFEST_NAME.to_owned(), manifest.encode().into_bytes()));
        let is_gone = |name: &&String| !wanted.contains_key(*name);
        let deletes: Vec<String> = held.texts.keys().filter(is_gone).cloned().collect();
        let rows = puts.len() + deletes.len();
        let outcome = if held.skipped.total() > 0 {
            // What nobody here can read is worth nothing any more.
            self.store.replace_named(SPACE, puts).await
        } else {
            self.store.write_named(SPACE, puts, deletes).await
        };
        outcome.map_err(|error| TierError(error.into()))?;
        Ok(rows)
    }
}

impl TierAccess for LocalTier {
    async fn read(&mut self) -> Result<Reading, TierError> {
        self.look_for_loss();
        if let Some(Stored { texts, manifest: Some(manifest), .. }) = &self.to_restore {
            // The store's own content goes back to where it was read from, as it was.
            self.store(texts, manifest, &Stored::default()).await?;
        }
        self.to_restore = None;
        let stored = self.stored.insert(self.load().await?);
        Ok(cached_set(&stored.texts, stored.manifest.clone(), stored.skipped))
    }

    async fn write(&mut self, wanted: &Wanted) -> Result<Written, TierError> {
        self.look_for_loss();
        self.to_restore = None;
        // After an error nothing is known of the store: it is taken out, and read again then.
        let held = match self.stored.take() {
            Some(held) => held,
            None => self.load().await?,
        };
        let texts: BTreeMap<String, String> =
            wanted.records.encoded().into_iter().map(|(name, (_, text))| (name, text)).collect();
        let standing = held.manifest.as_ref().map(|manifest| manifest.stamp);
        let stamp = Stamp {
            written_at: wanted.confirmed_at,
            sequence: standing.map_or(0, |stamp| stamp.sequence).saturating_add(1),
        };
        let due = Manifest::of(&texts, texts.len(), stamp, &self.writer);
        let records = texts.len();
        if let Some(standing) = &held.manifest
            && held.texts == texts
            && held.skipped.total() == 0
            && standing.says_the_same_as(&due)
            && is_fresh(standing.stamp, stamp)
        {
            let stamp = Some(standing.stamp);
            self.stored = Some(held);
            return Ok(Written { records, stamp, complete: true, ..Written::default() });
        }
        let rows = self.store(&texts, &due, &held).await?;
        self.stored = Some(Stored { texts, manifest: Some(due), skipped: Skipped::default() });
        Ok(Written { rows, records, stamp: Some(stamp), complete: true, ..Written::default() })
    }

    fn doubts_since(&self) -> Option<Instant> {
        None
    }

    async fn disturbed(&mut self) {
        let known = self.replaced;
        tokio::select! {
            // The store seals its records anew by itself, but now more of them may open.
            Ok(()) = self.keys.changed() => {}
            true = is_replaced(&mut self.status, known) => {}
            else => std::future::pending().await,
        }
    }
}

/// Waits until the store's file was replaced more often than that.
async fn is_replaced(status: &mut watch::Receiver<LocalStoreStatus>, known: u64) -> bool {
    status.wait_for(|status| status.replaced > known).await.is_ok()
}
