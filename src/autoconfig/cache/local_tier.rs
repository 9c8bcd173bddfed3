//! The tier of this machine: records in the embedded store, all of them with their manifest in
//! one transaction.

use std::collections::BTreeMap;
use std::fmt;

use tokio::sync::watch;
use tokio::time::Instant;

use super::codec::{CacheKeys, Skipped};
use super::judge::{Reading, judge};
use super::keeper::{Source, TierAccess, TierError, Wanted};
use super::manifest::{Entry, MANIFEST_NAME, Manifest};
use super::shared_tier::{Written, is_fresh};
use crate::autoconfig::record_set::{Gone, SetOrigin, Stamp, add_gone, next_order};
use crate::autoconfig::startup_race::CacheOutcome;
use crate::storage::local::{LocalStore, LocalStoreStatus, NamedRecords};

/// Space of the store that holds the records. Fixed: independent of the shared cache's key
/// (design D33).
const SPACE: &str = "autoconfig";

/// What becomes of records that do not open with the keys at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closed {
    /// They stay: with the right key they may open again.
    Keep,
    /// They go.
    Remove,
}

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
#[derive(Default)]
struct Stored {
    texts: BTreeMap<String, String>,
    manifest: Option<Manifest>,
    skipped: Skipped,
}

/// Shows how many records there are and not the records: they hold SDK keys.
impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored")
            .field("texts", &self.texts.len())
            .field("manifest", &self.manifest)
            .field("skipped", &self.skipped)
            .finish()
    }
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
            rolled_back: 0,
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
        closed: Closed,
    ) -> Result<usize, TierError> {
        let mut puts: Vec<(String, Vec<u8>)> = wanted
            .iter()
            .filter(|(name, text)| closed == Closed::Remove || held.texts.get(*name) != Some(*text))
            .map(|(name, text)| (name.clone(), text.clone().into_bytes()))
            .collect();
        puts.push((MANIFEST_NAME.to_owned(), manifest.encode().into_bytes()));
        let is_gone = |name: &&String| !wanted.contains_key(*name);
        let deletes: Vec<String> = held.texts.keys().filter(is_gone).cloned().collect();
        let rows = puts.len() + deletes.len();
        let outcome = match closed {
            Closed::Remove => self.store.replace_named(SPACE, puts).await,
            Closed::Keep => self.store.write_named(SPACE, puts, deletes).await,
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
            self.store(texts, manifest, &Stored::default(), Closed::Keep).await?;
        }
        self.to_restore = None;
        let stored = self.stored.insert(self.load().await?);
        let reading =
            judge(&stored.texts, stored.manifest.as_ref(), stored.skipped, SetOrigin::Own);
        Ok(match reading.outcome {
            // What stood in a file that was set aside is not known.
            CacheOutcome::Empty if self.store.has_set_aside() => {
                Reading { outcome: CacheOutcome::Unreadable, ..reading }
            }
            CacheOutcome::Loaded(_)
            | CacheOutcome::Empty
            | CacheOutcome::Unavailable
            | CacheOutcome::Unreadable => reading,
        })
    }

    async fn write(&mut self, wanted: &Wanted) -> Result<Written, TierError> {
        self.look_for_loss();
        self.to_restore = None;
        // After an error nothing is known of the store: it is taken out, and read again then.
        let held = match self.stored.take() {
            Some(held) => held,
            None => self.load().await?,
        };
        let encoded = wanted.records.encoded();
        let entry = |(name, (version, text)): (&String, &(i64, String))| {
            (name.clone(), Entry::of(name, *version, text))
        };
        let standing = held.manifest.as_ref().map(|manifest| manifest.stamp);
        let due = Manifest {
            stamp: Stamp {
                confirmed_at: wanted.confirmed_at,
                sequence: standing.map_or(0, |stamp| stamp.sequence).saturating_add(1),
            },
            writer: self.writer.clone(),
            records: encoded.iter().map(entry).collect(),
            gone: removed(held.manifest.as_ref(), wanted),
            adopted: wanted.is_adopted(),
        };
        let texts: BTreeMap<String, String> =
            encoded.into_iter().map(|(name, (_, text))| (name, text)).collect();
        let closed = match wanted.source {
            // What nobody here can read is worth nothing any more.
            Source::Stream if held.skipped.total() > 0 => Closed::Remove,
            Source::Stream | Source::Tiers(_) => Closed::Keep,
        };
        let skipped = if closed == Closed::Keep { held.skipped } else { Skipped::default() };
        let written = Written {
            records: texts.len(),
            complete: !wanted.is_adopted(),
            skipped,
            ..Written::default()
        };
        if let Some(standing) = &held.manifest
            && held.texts == texts
            && closed == Closed::Keep
            && standing.says_the_same_as(&due)
            && is_fresh(standing.stamp, due.stamp)
        {
            let stamp = Some(standing.stamp);
            self.stored = Some(held);
            return Ok(Written { stamp, ..written });
        }
        let rows = self.store(&texts, &due, &held, closed).await?;
        let stamp = Some(due.stamp);
        self.stored = Some(Stored { texts, manifest: Some(due), skipped });
        Ok(Written { rows, stamp, ..written })
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

/// The removals that the next manifest lists: those that are known, and what the one that stands
/// lists although it does not exist any more.
fn removed(standing: Option<&Manifest>, wanted: &Wanted) -> BTreeMap<String, Gone> {
    let mut gone = wanted.records.gone.clone();
    let exists = wanted.records.versions();
    if let Some(standing) = standing {
        add_gone(&mut gone, &standing.gone);
        let order = next_order(&gone);
        for (name, entry) in &standing.records {
            if !exists.contains_key(name) {
                add_gone(&mut gone, [(name, &Gone { version: entry.version, order })]);
            }
        }
    }
    gone.retain(|name, _| !exists.contains_key(name));
    gone
}

/// Waits until the store's file was replaced more often than that.
async fn is_replaced(status: &mut watch::Receiver<LocalStoreStatus>, known: u64) -> bool {
    status.wait_for(|status| status.replaced > known).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_counts_and_no_records() {
        let texts = BTreeMap::from([("env:a".to_owned(), "sdk-1".to_owned())]);
        let shown = format!("{:?}", Stored { texts, ..Stored::default() });
        assert!(shown.contains("texts: 1,") && !shown.contains("sdk-1"), "{shown}");
    }
}
