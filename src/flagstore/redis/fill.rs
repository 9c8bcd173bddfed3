//! Filling a store that holds nothing: prepared under names of its own, then moved into place.
//!
//! What is prepared expires, so a relay that dies leaves nothing behind, and it may be gone before
//! it is moved (eviction). Invariant: the marker is set only with every row in place.

use redis::Value;

use super::super::backend::{Filled, FlagBackend, Row, chunks};
use super::super::marker::Note;
use super::{RedisFlags, VALUE_BYTES_MAX, WATCH_ATTEMPTS};
use crate::model::ItemKind;
use crate::storage::StoreError;
use crate::storage::redis::classify;

/// How long what is prepared for a fill stays if its relay dies. Each chunk renews it.
const STAGING_MS: u64 = 60_000;

/// What was prepared of a kind, and how many rows it has.
type Staged = (ItemKind, usize);

impl RedisFlags {
    pub(super) async fn fill_empty(&self, rows: &[Row], note: &Note) -> Result<Filled, StoreError> {
        // Somebody else was faster: nothing need be prepared to find that out.
        if self.is_occupied().await? {
            return Ok(Filled::NotEmpty);
        }
        let nonce = format!("pilotlight-{:016x}", fastrand::u64(..));
        let is_movable = |kind| {
            self.store.dialer().keeps_together([self.hash(kind), self.staging(kind, &nonce)])
        };
        let is_too_large = |row: &Row| row.json.len() >= VALUE_BYTES_MAX;
        // Braces in the prefix that are no hash tag; or a row that the marker must not count.
        if !ItemKind::ALL.into_iter().all(is_movable) || rows.iter().any(is_too_large) {
            return Ok(Filled::Impossible);
        }
        let mut staged = Vec::new();
        let filled = async {
            for kind in ItemKind::ALL {
                let rows: Vec<&Row> = rows.iter().filter(|row| row.key.kind == kind).collect();
                if !rows.is_empty() {
                    staged.push((kind, rows.len()));
                    self.stage(kind, &rows, &nonce).await?;
                }
            }
            if self.together {
                self.move_together(&staged, &nonce, note).await
            } else {
                self.move_apart(&staged, &nonce, note).await
            }
        }
        .await;
        if !matches!(filled, Ok(Filled::Done)) {
            self.discard(&staged, &nonce).await;
        }
        filled
    }

    /// Whether any of the keys exists.
    async fn is_occupied(&self) -> Result<bool, StoreError> {
        for key in self.names() {
            let found: u64 = self
                .store
                .call(async |mut conn| {
                    redis::cmd("EXISTS").arg(&key).query_async(&mut conn).await.map_err(classify)
                })
                .await?;
            if found > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where the hash of a kind is prepared: a name in the same slot.
    fn staging(&self, kind: ItemKind, nonce: &str) -> String {
        let hash = self.hash(kind);
        if self.together { format!("{hash}:{nonce}") } else { format!("{{{hash}}}:{nonce}") }
    }

    async fn stage(&self, kind: ItemKind, rows: &[&Row], nonce: &str) -> Result<(), StoreError> {
        let key = self.staging(kind, nonce);
        for chunk in chunks(rows) {
            let mut pipeline = redis::pipe();
            pipeline.atomic().cmd("HSET").arg(&key);
            for row in chunk {
                pipeline.arg(&*row.key.key).arg(&row.json[..]);
            }
            pipeline.ignore().cmd("PEXPIRE").arg(&key).arg(STAGING_MS).ignore();
            let pipeline = &pipeline;
            self.store
                .bulk(async |mut conn| pipeline.exec_async(&mut conn).await.map_err(classify))
                .await?;
        }
        Ok(())
    }

    /// Moves what was prepared into place, all at once.
    async fn move_together(
        &self,
        staged: &[Staged],
        nonce: &str,
        note: &Note,
    ) -> Result<Filled, StoreError> {
        let names = self.names();
        let from = |kind| self.staging(kind, nonce);
        let dialer = self.store.dialer();
        let marker = note.value(None);
        self.store
            .metered(async |_shared, meter| {
                // WATCH belongs to a connection, so nobody else may use this one.
                let mut conn = dialer.dial_for_key(names[0].as_bytes(), &meter).await?;
                for _ in 0..WATCH_ATTEMPTS {
                    let mut look = redis::pipe();
                    look.cmd("WATCH").arg(&names);
                    for &(kind, _) in staged {
                        // A full server may evict what is prepared, at any moment.
                        look.arg(from(kind));
                    }
                    look.ignore().cmd("EXISTS").arg(&names);
                    for &(kind, _) in staged {
                        look.cmd("HLEN").arg(from(kind));
                    }
                    let found: Vec<u64> = look.query_async(&mut conn).await.map_err(classify)?;
                    if found.first() != Some(&0) {
                        return Ok(Filled::NotEmpty);
                    }
                    if !staged.iter().map(|(_, rows)| *rows as u64).eq(found[1..].iter().copied()) {
                        return Err(StoreError::Refused("what was prepared was removed".into()));
                    }
                    let mut change = redis::pipe();
                    change.atomic();
                    for &(kind, _) in staged {
                        let to = self.hash(kind);
                        change.cmd("RENAMENX").arg(from(kind)).arg(&to).ignore();
                        change.cmd("PERSIST").arg(&to).ignore();
                    }
                    change.cmd("SET").arg(self.marker()).arg(&marker[..]).ignore();
                    let done: Value = change.query_async(&mut conn).await.map_err(classify)?;
                    if done != Value::Nil {
                        return Ok(Filled::Done);
                    }
                }
                Err(StoreError::Refused("others wrote to the keys at each attempt".into()))
            })
            .await
    }

    /// Moves each hash by itself.
    async fn move_apart(
        &self,
        staged: &[Staged],
        nonce: &str,
        note: &Note,
    ) -> Result<Filled, StoreError> {
        for &(kind, rows) in staged {
            let (from, to) = (self.staging(kind, nonce), self.hash(kind));
            let (there, moved): (u64, u64) = self
                .store
                .bulk(async |mut conn| {
                    let mut change = redis::pipe();
                    change.atomic().cmd("HLEN").arg(&from);
                    change.cmd("RENAMENX").arg(&from).arg(&to);
                    change.cmd("PERSIST").arg(&to).ignore();
                    change.query_async(&mut conn).await.map_err(classify)
                })
                .await?;
            if moved == 0 {
                return Ok(Filled::NotEmpty);
            }
            if there != rows as u64 {
                return Err(StoreError::Refused("what was prepared was removed".into()));
            }
        }
        self.mark(None, note).await?;
        Ok(Filled::Done)
    }

    /// Removes what was prepared and not used. It would expire, if this fails.
    async fn discard(&self, staged: &[Staged], nonce: &str) {
        for &(kind, _) in staged {
            let key = self.staging(kind, nonce);
            let removed = self
                .store
                .call(async |mut conn| {
                    redis::cmd("UNLINK").arg(&key).exec_async(&mut conn).await.map_err(classify)
                })
                .await;
            if let Err(error) = removed {
                tracing::debug!(%error, "what was prepared for a fill expires by itself");
            }
        }
    }
}
