//! The shared cache in one Redis hash: key = namespace, field = row name (ld-relay v8: autoconfig
//! cache layout).
//!
//! A swap is one script on one key, so it works alike on a single server and on a cluster. Where
//! scripts are forbidden, a transaction under `WATCH` on a connection of its own takes its place.

use std::collections::HashMap;

use bytes::Bytes;
use redis::aio::ConnectionLike;
use redis::{Pipeline, RedisResult, Value};

use super::backend::{Backend, Row, Swap, Swapped};
use super::batches::{Limits, batches, content_bytes};
use crate::storage::StoreError;
use crate::storage::redis::{RedisStore, ScriptDenial, classify, scripts_are_denied};

/// Swaps sent in one call. Small enough that a slow link moves them within the budget.
const BATCH: Limits = Limits { count: 256, bytes: 4 * 1024 * 1024 };

/// The server takes no longer string (`proto-max-bulk-len`).
const VALUE_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Transactions tried before a swap counts as a conflict: under `WATCH` any other write to the
/// hash gets in the way (go-server-sdk-redis: 10 attempts).
const WATCH_ATTEMPTS: usize = 10;

/// KEYS: the hash. ARGV: field, what must be stored, what to store. The last two begin with `=`
/// before a value and are empty for nothing.
const SWAP: &str = "\
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if ARGV[2] == '' then
  if stored then return 0 end
elseif not stored or '=' .. stored ~= ARGV[2] then
  return 0
end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('HSET', KEYS[1], ARGV[1], string.sub(ARGV[3], 2))
end
return 1";

/// One namespace in a Redis database.
#[derive(Debug)]
pub struct RedisCache {
    store: RedisStore,
    namespace: String,
    denial: ScriptDenial,
}

impl RedisCache {
    /// The cache under the key `namespace`, taken verbatim.
    pub fn new(store: RedisStore, namespace: impl Into<String>) -> Self {
        Self { store, namespace: namespace.into(), denial: ScriptDenial::default() }
    }

    async fn swap_batch(&self, swaps: &[&Swap]) -> Result<Vec<Swapped>, StoreError> {
        if !self.denial.is_remembered() {
            if let Some(outcomes) = self.swap_by_script(swaps).await? {
                return Ok(outcomes);
            }
            self.denial.remember("records are written under WATCH");
        }
        self.swap_by_watch(swaps).await
    }

    /// `None` where scripts are denied; nothing was changed then.
    async fn swap_by_script(&self, swaps: &[&Swap]) -> Result<Option<Vec<Swapped>>, StoreError> {
        let mut pipeline = Pipeline::with_capacity(swaps.len());
        for swap in swaps {
            pipeline
                .cmd("EVAL")
                .arg(SWAP)
                .arg(1)
                .arg(&self.namespace)
                .arg(&swap.name)
                .arg(marked(swap.expected.as_ref().map(|row| &row.value)))
                .arg(marked(swap.value.as_ref()));
        }
        pipeline.ignore_errors();
        self.store
            .bulk(async |mut conn| {
                let results: Vec<RedisResult<bool>> =
                    pipeline.query_async(&mut conn).await.map_err(classify)?;
                let mut outcomes = Vec::with_capacity(results.len());
                for result in results {
                    match result {
                        Ok(true) => outcomes.push(Swapped::Applied),
                        Ok(false) => outcomes.push(Swapped::Conflict),
                        Err(error) if scripts_are_denied(&error) => return Ok(None),
                        Err(error) => return Err(classify(error)),
                    }
                }
                Ok(Some(outcomes))
            })
            .await
    }

    async fn swap_by_watch(&self, swaps: &[&Swap]) -> Result<Vec<Swapped>, StoreError> {
        let dialer = self.store.dialer();
        self.store
            .metered(async |_shared, meter| {
                // WATCH belongs to a connection, so nobody else may use this one.
                let mut conn = dialer.dial_for_key(self.namespace.as_bytes(), &meter).await?;
                for _ in 0..WATCH_ATTEMPTS {
                    if let Some(outcomes) = self.transaction(&mut conn, swaps).await? {
                        return Ok(outcomes);
                    }
                }
                Ok(vec![Swapped::Conflict; swaps.len()])
            })
            .await
    }

    /// One attempt; `None` if somebody wrote to the hash meanwhile.
    async fn transaction(
        &self,
        conn: &mut (impl ConnectionLike + Send),
        swaps: &[&Swap],
    ) -> Result<Option<Vec<Swapped>>, StoreError> {
        let mut look = redis::pipe();
        look.cmd("WATCH").arg(&self.namespace).ignore();
        look.cmd("HMGET").arg(&self.namespace);
        for swap in swaps {
            look.arg(&swap.name);
        }
        let (stored,): (Vec<Option<Vec<u8>>>,) = look.query_async(conn).await.map_err(classify)?;
        let mut current: HashMap<&str, Option<Bytes>> = HashMap::with_capacity(swaps.len());
        for (swap, value) in swaps.iter().zip(stored) {
            current.insert(&swap.name, value.map(Bytes::from));
        }

        let mut change = redis::pipe();
        change.atomic();
        let mut outcomes = Vec::with_capacity(swaps.len());
        for swap in swaps {
            let stored = current.entry(&swap.name).or_default();
            if *stored != swap.expected.as_ref().map(|row| row.value.clone()) {
                outcomes.push(Swapped::Conflict);
                continue;
            }
            match &swap.value {
                Some(value) => {
                    change.cmd("HSET").arg(&self.namespace).arg(&swap.name).arg(&value[..]).ignore()
                }
                None => change.cmd("HDEL").arg(&self.namespace).arg(&swap.name).ignore(),
            };
            stored.clone_from(&swap.value);
            outcomes.push(Swapped::Applied);
        }
        if change.is_empty() {
            redis::cmd("UNWATCH").exec_async(conn).await.map_err(classify)?;
            return Ok(Some(outcomes));
        }
        let done: Value = change.query_async(conn).await.map_err(classify)?;
        Ok((done != Value::Nil).then_some(outcomes))
    }
}

impl Backend for RedisCache {
    async fn read_all(&self) -> Result<Vec<Row>, StoreError> {
        let fields: Vec<(Vec<u8>, Vec<u8>)> = self
            .store
            .bulk(async |mut conn| {
                redis::cmd("HGETALL")
                    .arg(&self.namespace)
                    .query_async(&mut conn)
                    .await
                    .map_err(classify)
            })
            .await?;
        // A name that is not text was written by nobody we know and cannot be addressed here.
        let named = |(name, value)| Some((String::from_utf8(name).ok()?, value));
        let row = |(name, value)| Row { name, value: Bytes::from(value), revision: 0 };
        Ok(fields.into_iter().filter_map(named).map(row).collect::<Vec<Row>>())
    }

    async fn read(&self, name: &str) -> Result<Option<Row>, StoreError> {
        let value: Option<Vec<u8>> = self
            .store
            .call(async |mut conn| {
                redis::cmd("HGET")
                    .arg(&self.namespace)
                    .arg(name)
                    .query_async(&mut conn)
                    .await
                    .map_err(classify)
            })
            .await?;
        Ok(value.map(|value| Row { name: name.to_owned(), value: value.into(), revision: 0 }))
    }

    async fn swap(&self, swaps: &[Swap]) -> Result<Vec<Swapped>, StoreError> {
        let mut outcomes = vec![Swapped::TooLarge; swaps.len()];
        for batch in batches(swaps, BATCH, measure) {
            let done = self.swap_batch(&batch.swaps).await?;
            batch.record(&mut outcomes, done);
        }
        Ok(outcomes)
    }
}

/// `None`: no server takes the value.
fn measure(swap: &Swap) -> Option<usize> {
    let fits = swap.value.as_ref().is_none_or(|value| value.len() < VALUE_BYTES_MAX);
    fits.then(|| content_bytes(swap))
}

fn marked(value: Option<&Bytes>) -> Vec<u8> {
    let Some(value) = value else { return Vec::new() };
    let mut marked = Vec::with_capacity(1 + value.len());
    marked.push(b'=');
    marked.extend_from_slice(value);
    marked
}
