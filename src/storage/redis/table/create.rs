//! Writing a whole set into empty name spaces: prepared under other names, then moved into place.
//!
//! Prepared keys expire, so a relay that dies leaves no keys behind, and they may be removed
//! (eviction) before they are moved. On a cluster whose slots separate the keys, each hash is moved
//! separately. Invariant: the marker is written only with every row in place.

use std::sync::Arc;

use redis::Value as Answer;

use super::watch::WATCH_ATTEMPTS;
use super::{BATCH, RedisTable};
use crate::storage::StoreError;
use crate::storage::redis::classify;
use crate::storage::table::{Created, NewSet, RowName, Table, Value, Write, batches};

/// Time after which a prepared hash expires if its relay dies. Each call renews it.
const STAGING_MS: u64 = 60_000;

/// A hash that was prepared under the name `from`.
struct Staged<'a> {
    from: String,
    to: &'a Arc<str>,
    rows: Vec<&'a (RowName, Value)>,
}

impl RedisTable {
    pub(super) async fn create_in_place(&self, set: &NewSet<'_>) -> Result<Created, StoreError> {
        // Checked before anything is prepared: another relay may have been faster.
        if self.is_occupied(set).await? {
            return Ok(Created::NotEmpty);
        }
        let nonce = format!("pilotlight-{:016x}", fastrand::u64(..));
        let together = self.keeps_together(set.spaces, Some(&set.marker.0));
        let mut staged = Vec::new();
        for to in set.spaces {
            let from = if together { format!("{to}:{nonce}") } else { format!("{{{to}}}:{nonce}") };
            let rows: Vec<_> = set.rows.iter().filter(|(name, _)| name.space == *to).collect();
            if !rows.is_empty() {
                staged.push(Staged { from, to, rows });
            }
        }
        let dialer = self.store.dialer();
        // Impossible if braces in the name prevent a hash tag, or if a row cannot be stored.
        if !staged.iter().all(|it| dialer.keeps_together([&*it.from, &**it.to]))
            || set.rows.iter().any(|(name, value)| !self.takes(name, value))
        {
            return Ok(Created::Impossible);
        }
        let created = async {
            for staged in &staged {
                self.stage(staged).await?;
            }
            if together {
                self.move_together(&staged, set).await
            } else {
                self.move_apart(&staged, set).await
            }
        }
        .await;
        if !matches!(created, Ok(Created::Done)) {
            self.discard(&staged).await;
        }
        created
    }

    /// True if any of the keys exists.
    async fn is_occupied(&self, set: &NewSet<'_>) -> Result<bool, StoreError> {
        for key in keys(set) {
            let found: u64 = self
                .store
                .call(async |mut conn| {
                    redis::cmd("EXISTS").arg(key).query_async(&mut conn).await.map_err(classify)
                })
                .await?;
            if found > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn stage(&self, staged: &Staged<'_>) -> Result<(), StoreError> {
        let sizes = staged.rows.iter().map(|(_, value)| value.bytes.len()).enumerate();
        for places in batches(sizes, BATCH) {
            let mut pipeline = redis::pipe();
            pipeline.atomic().cmd("HSET").arg(&staged.from);
            for (name, value) in places.into_iter().map(|place| staged.rows[place]) {
                pipeline.arg(name.key.as_deref()).arg(&value.bytes[..]);
            }
            pipeline.ignore().cmd("PEXPIRE").arg(&staged.from).arg(STAGING_MS).ignore();
            let pipeline = &pipeline;
            self.store
                .bulk(async |mut conn| pipeline.exec_async(&mut conn).await.map_err(classify))
                .await?;
        }
        Ok(())
    }

    /// Moves all hashes into place and writes the marker, all at once.
    async fn move_together(
        &self,
        staged: &[Staged<'_>],
        set: &NewSet<'_>,
    ) -> Result<Created, StoreError> {
        let dialer = self.store.dialer();
        let (marker, value) = (&*set.marker.0.space, &set.marker.1.bytes[..]);
        self.store
            .metered(async |_shared, meter| {
                // WATCH applies to a connection, so this one must not be shared.
                let mut conn = dialer.dial_for_key(marker.as_bytes(), &meter).await?;
                for _ in 0..WATCH_ATTEMPTS {
                    let mut look = redis::pipe();
                    look.cmd("WATCH").arg(keys(set));
                    for staged in staged {
                        // A full server may evict prepared keys at any time.
                        look.arg(&staged.from);
                    }
                    look.ignore().cmd("EXISTS").arg(keys(set));
                    for staged in staged {
                        look.cmd("HLEN").arg(&staged.from);
                    }
                    let found: Vec<u64> = look.query_async(&mut conn).await.map_err(classify)?;
                    if found.first() != Some(&0) {
                        return Ok(Created::NotEmpty);
                    }
                    if !staged.iter().map(|it| it.rows.len() as u64).eq(found[1..].iter().copied())
                    {
                        return Err(was_removed());
                    }
                    let mut change = redis::pipe();
                    change.atomic();
                    for Staged { from, to, .. } in staged {
                        change.cmd("RENAMENX").arg(from).arg(&***to).ignore();
                        change.cmd("PERSIST").arg(&***to).ignore();
                    }
                    change.cmd("SET").arg(marker).arg(value).ignore();
                    let done: Answer = change.query_async(&mut conn).await.map_err(classify)?;
                    if done != Answer::Nil {
                        return Ok(Created::Done);
                    }
                }
                Err(StoreError::Refused("others wrote to the keys at each attempt".into()))
            })
            .await
    }

    /// Moves each hash separately, then writes the marker if there is none.
    async fn move_apart(
        &self,
        staged: &[Staged<'_>],
        set: &NewSet<'_>,
    ) -> Result<Created, StoreError> {
        for Staged { from, to, rows } in staged {
            let (there, moved): (u64, u64) = self
                .store
                .bulk(async |mut conn| {
                    let mut change = redis::pipe();
                    change.atomic().cmd("HLEN").arg(from);
                    change.cmd("RENAMENX").arg(from).arg(&***to);
                    change.cmd("PERSIST").arg(&***to).ignore();
                    change.query_async(&mut conn).await.map_err(classify)
                })
                .await?;
            if moved == 0 {
                return Ok(Created::NotEmpty);
            }
            if there != rows.len() as u64 {
                return Err(was_removed());
            }
        }
        let (name, value) = set.marker.clone();
        let mark = Write { expected: None, value: Some(value), name };
        self.write_to(&set.marker.0.space, &[&mark], None).await?;
        Ok(Created::Done)
    }

    /// Removes unused prepared keys. If this fails, they expire.
    async fn discard(&self, staged: &[Staged<'_>]) {
        for Staged { from, .. } in staged {
            let unlink = async |mut conn| {
                redis::cmd("UNLINK").arg(from).exec_async(&mut conn).await.map_err(classify)
            };
            if let Err(error) = self.store.call(unlink).await {
                tracing::debug!(%error, "a hash that was prepared and not used expires by itself");
            }
        }
    }
}

/// All keys of the set.
fn keys<'a>(set: &'a NewSet<'_>) -> Vec<&'a str> {
    std::iter::once(&set.marker.0.space).chain(set.spaces).map(|key| &**key).collect()
}

fn was_removed() -> StoreError {
    StoreError::Refused("what was prepared was removed".into())
}
