//! Writing under `WATCH`, where scripts are denied.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use redis::Value as Answer;
use redis::aio::ConnectionLike;

use super::{RedisTable, decoded};
use crate::storage::StoreError;
use crate::storage::redis::classify;
use crate::storage::table::{Row, Write, Written};

/// Transactions tried before the writes are reported as conflicts. Under `WATCH` any other write to
/// the hash makes a transaction fail (go-server-sdk-redis: 10 attempts).
pub(super) const WATCH_ATTEMPTS: usize = 10;

impl RedisTable {
    pub(super) async fn write_under_watch(
        &self,
        space: &Arc<str>,
        writes: &[&Write],
        guard: Option<&Row>,
    ) -> Result<Vec<Written>, StoreError> {
        let dialer = self.store.dialer();
        self.store
            .metered(async |_shared, meter| {
                // WATCH applies to a connection, so this one must not be shared.
                let mut conn = dialer.dial_for_key(space.as_bytes(), &meter).await?;
                for _ in 0..WATCH_ATTEMPTS {
                    let done = transaction(&mut conn, space, writes, guard).await?;
                    if let Some(outcomes) = done {
                        return Ok(outcomes);
                    }
                }
                Ok(vec![Written::Conflict; writes.len()])
            })
            .await
    }
}

/// One attempt; `None` if another client wrote to the keys meanwhile.
async fn transaction(
    conn: &mut (impl ConnectionLike + Send),
    space: &str,
    writes: &[&Write],
    guard: Option<&Row>,
) -> Result<Option<Vec<Written>>, StoreError> {
    let fields: Vec<&str> = writes.iter().filter_map(|write| write.name.key.as_deref()).collect();
    let is_hash = !fields.is_empty();
    let guard_key = guard.map(|guard| &*guard.name.space);
    let mut look = redis::pipe();
    look.cmd("WATCH").arg(space).arg(guard_key).ignore();
    look.cmd(if is_hash { "HMGET" } else { "GET" }).arg(space).arg(&fields);
    if let Some(key) = guard_key {
        look.cmd("GET").arg(key);
    }
    let mut answers: Vec<Answer> = look.query_async(conn).await.map_err(classify)?;
    if let Some(guard) = guard {
        let found: Option<Vec<u8>> = decoded(answers.pop())?;
        if found.as_deref() != Some(&guard.value.bytes[..]) {
            redis::cmd("UNWATCH").exec_async(conn).await.map_err(classify)?;
            return Ok(Some(vec![Written::Unguarded; writes.len()]));
        }
    }
    let stored: Vec<Option<Vec<u8>>> =
        if is_hash { decoded(answers.pop())? } else { vec![decoded(answers.pop())?] };
    // A row may be named twice: the second write is compared with the result of the first one.
    let names = writes.iter().map(|write| &write.name);
    let stored = stored.into_iter().map(|value| value.map(Bytes::from));
    let mut current: HashMap<_, Option<Bytes>> = names.zip(stored).collect();
    let mut change = redis::pipe();
    change.atomic();
    let mut outcomes = Vec::with_capacity(writes.len());
    for Write { name, expected, value } in writes.iter().copied() {
        let stored = current.entry(name).or_default();
        if stored.as_ref() != expected.as_ref().map(|row| &row.value.bytes) {
            outcomes.push(Written::Conflict);
            continue;
        }
        let command = match (is_hash, value) {
            (true, Some(_)) => "HSET",
            (true, None) => "HDEL",
            (false, Some(_)) => "SET",
            (false, None) => "DEL",
        };
        change.cmd(command).arg(space).arg(name.key.as_deref());
        change.arg(value.as_ref().map(|value| &value.bytes[..])).ignore();
        *stored = value.as_ref().map(|value| value.bytes.clone());
        outcomes.push(Written::Applied);
    }
    if change.is_empty() {
        redis::cmd("UNWATCH").exec_async(conn).await.map_err(classify)?;
        return Ok(Some(outcomes));
    }
    let done: Answer = change.query_async(conn).await.map_err(classify)?;
    Ok((done != Answer::Nil).then_some(outcomes))
}
