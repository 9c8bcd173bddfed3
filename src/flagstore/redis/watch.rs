//! Looking at fields and changing some of them in one transaction, where no script does it.

use std::collections::HashMap;

use bytes::Bytes;
use redis::Value;
use redis::aio::ConnectionLike;

use super::{RedisFlags, WATCH_ATTEMPTS};
use crate::flagstore::marker::Marker;
use crate::model::ItemKind;
use crate::storage::StoreError;
use crate::storage::redis::classify;

/// What to do with a field under `WATCH`.
pub(super) enum Change<'a> {
    Keep,
    Set(&'a Bytes),
    Remove,
}

impl RedisFlags {
    /// Looks at fields and changes some, in one transaction; tells which. `None`: the marker that
    /// is demanded is missing, or another one.
    pub(super) async fn under_watch<'a>(
        &self,
        kind: ItemKind,
        fields: &[&str],
        demanded: Option<&Marker>,
        judge: impl Fn(usize, Option<&[u8]>) -> Change<'a> + Send + Sync,
    ) -> Result<Option<Vec<bool>>, StoreError> {
        let dialer = self.store.dialer();
        let hash = self.hash(kind);
        let name = self.marker();
        let marker = demanded.map(|marker| (name.as_str(), marker));
        self.store
            .metered(async |_shared, meter| {
                // WATCH belongs to a connection, so nobody else may use this one.
                let mut conn = dialer.dial_for_key(hash.as_bytes(), &meter).await?;
                for _ in 0..WATCH_ATTEMPTS {
                    match transaction(&mut conn, &hash, marker, fields, &judge).await? {
                        Attempt::Done(changed) => return Ok(Some(changed)),
                        Attempt::NoMarker => return Ok(None),
                        Attempt::Disturbed => {}
                    }
                }
                Err(StoreError::Refused("others wrote to the hash at each attempt".into()))
            })
            .await
    }
}

impl RedisFlags {
    /// Sets the marker if it is what was found, in one transaction; returns what is there then.
    pub(super) async fn mark_under_watch(
        &self,
        found: &Marker,
        value: &Bytes,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let dialer = self.store.dialer();
        let key = self.marker();
        self.store
            .metered(async |_shared, meter| {
                let mut conn = dialer.dial_for_key(key.as_bytes(), &meter).await?;
                let mut look = redis::pipe();
                look.cmd("WATCH").arg(&key).ignore().cmd("GET").arg(&key);
                let (stored,): (Option<Vec<u8>>,) =
                    look.query_async(&mut conn).await.map_err(classify)?;
                if stored.as_deref() != Some(&found.value[..]) {
                    return Ok(stored);
                }
                let mut change = redis::pipe();
                change.atomic().cmd("SET").arg(&key).arg(&value[..]).ignore();
                let done: Value = change.query_async(&mut conn).await.map_err(classify)?;
                if done != Value::Nil {
                    return Ok(Some(value.to_vec()));
                }
                redis::cmd("GET").arg(&key).query_async(&mut conn).await.map_err(classify)
            })
            .await
    }
}

enum Attempt {
    Done(Vec<bool>),
    NoMarker,
    Disturbed,
}

async fn transaction<'a>(
    conn: &mut (impl ConnectionLike + Send),
    hash: &str,
    marker: Option<(&str, &Marker)>,
    fields: &[&str],
    judge: &(impl Fn(usize, Option<&[u8]>) -> Change<'a> + Sync),
) -> Result<Attempt, StoreError> {
    let mut look = redis::pipe();
    look.cmd("WATCH").arg(hash).arg(marker.map(|(name, _)| name)).ignore();
    look.cmd("HMGET").arg(hash).arg(fields);
    let (stored,): (Vec<Option<Vec<u8>>>,) = look.query_async(conn).await.map_err(classify)?;
    if let Some((name, wanted)) = marker {
        let found: Option<Vec<u8>> =
            redis::cmd("GET").arg(name).query_async(conn).await.map_err(classify)?;
        let found = found.map(|value| Marker::read(value.into(), 0));
        if !found.is_some_and(|found| found.is_same_set(wanted)) {
            return Ok(Attempt::NoMarker);
        }
    }
    let mut change = redis::pipe();
    change.atomic();
    let mut changed = Vec::with_capacity(fields.len());
    // A field may come twice: the second one is judged by what the first one leaves.
    let mut current: HashMap<&str, Option<&[u8]>> =
        fields.iter().copied().zip(stored.iter().map(Option::as_deref)).collect();
    for (place, field) in fields.iter().enumerate() {
        let stored = current.entry(field).or_default();
        let is_change = match judge(place, *stored) {
            Change::Keep => false,
            Change::Set(json) => {
                change.cmd("HSET").arg(hash).arg(field).arg(&json[..]).ignore();
                *stored = Some(json);
                true
            }
            Change::Remove => {
                change.cmd("HDEL").arg(hash).arg(field).ignore();
                *stored = None;
                true
            }
        };
        changed.push(is_change);
    }
    if change.is_empty() {
        redis::cmd("UNWATCH").exec_async(conn).await.map_err(classify)?;
        return Ok(Attempt::Done(changed));
    }
    let done: Value = change.query_async(conn).await.map_err(classify)?;
    Ok(if done == Value::Nil { Attempt::Disturbed } else { Attempt::Done(changed) })
}
