//! Flag data in Redis and Valkey: two hashes and a marker (ld-relay v8: the layout of all SDKs).
//!
//! | key | type | content |
//! | --- | --- | --- |
//! | `{prefix}:features`, `{prefix}:segments` | hash | JSON by item key |
//! | `{prefix}:$inited` | string | the marker; readers only ask whether it exists |
//!
//! An upsert is one script on one hash, so other clients' `WATCH` sees it as a change. A fill is
//! prepared under keys of its own, which expire, and moved into place in one transaction: readers
//! see nothing or everything. On a cluster whose slots part the keys, each hash is moved by
//! itself, segments first, and the marker comes last (design D30).
//!
//! The marker's value is random, so that one look shows whether somebody else has initialized the
//! store since the last one.

use bytes::Bytes;
use redis::Value;
use redis::aio::ConnectionLike;

use super::backend::{
    Condition, Correction, Counts, Filled, FlagBackend, Look, Marker, Row, StoredRow, StoredRows,
    Upserted, chunks,
};
use super::layout;
use crate::model::{ItemKey, ItemKind};
use crate::storage::StoreError;
use crate::storage::fail_fast::Dialer;
use crate::storage::redis::{RedisStore, ScriptDenial, classify, run_id, scripts_are_denied};

/// Prefix where none is configured (ld-relay v8).
pub const DEFAULT_PREFIX: &str = "launchdarkly";

/// Transactions tried under `WATCH`, where any other write to the hash gets in the way
/// (go-server-sdk-redis: 10 attempts).
const WATCH_ATTEMPTS: usize = 10;

/// How long what is prepared for a fill stays if its relay dies. Each chunk renews it.
const STAGING_MS: u64 = 60_000;

/// The server takes no longer string (`proto-max-bulk-len`).
const VALUE_BYTES_MAX: usize = 512 * 1024 * 1024;

/// KEYS: the hash, and the marker if it is demanded. ARGV: field, version, JSON; and so on. Gives
/// 1 for what was written and 0 for the rest, or one -1 without the marker. What cannot be
/// decoded counts as version 0.
const UPSERT: &str = "\
if KEYS[2] and redis.call('EXISTS', KEYS[2]) == 0 then return {-1} end
local done = {}
for i = 1, #ARGV, 3 do
  local stored = redis.call('HGET', KEYS[1], ARGV[i])
  local version = -1
  if stored then
    local ok, item = pcall(cjson.decode, stored)
    version = ok and type(item) == 'table' and tonumber(item.version) or 0
  end
  if version < tonumber(ARGV[i + 1]) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
    done[#done + 1] = 1
  else
    done[#done + 1] = 0
  end
end
return done";

/// The flag data of one environment in Redis.
#[derive(Debug)]
pub struct RedisFlags {
    store: RedisStore,
    prefix: String,
    /// Whether all keys of the environment may stand in one transaction.
    together: bool,
    denial: ScriptDenial,
}

/// What to do with a field under `WATCH`.
enum Change<'a> {
    Keep,
    Set(&'a Bytes),
    Remove,
}

impl RedisFlags {
    /// The environment with this prefix; empty stands for [`DEFAULT_PREFIX`].
    pub fn new(store: RedisStore, prefix: &str) -> Self {
        let prefix = if prefix.is_empty() { DEFAULT_PREFIX } else { prefix }.to_owned();
        Self { store, prefix, together: true, denial: ScriptDenial::default() }
    }

    /// The prefix of its keys.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn hash(&self, kind: ItemKind) -> String {
        format!("{}:{}", self.prefix, kind.store_name())
    }

    fn marker(&self) -> String {
        format!("{}:$inited", self.prefix)
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
    async fn move_together(&self, staged: &[ItemKind], nonce: &str) -> Result<Filled, StoreError> {
        let names = [self.marker(), self.hash(ItemKind::Segment), self.hash(ItemKind::Flag)];
        let dialer = self.store.dialer();
        self.store
            .bulk(async |_shared| {
                let mut conn = dialer.dial().await?;
                let mut look = redis::pipe();
                look.cmd("WATCH").arg(&names).ignore().cmd("EXISTS").arg(&names);
                let (found,): (u64,) = look.query_async(&mut conn).await.map_err(classify)?;
                if found > 0 {
                    return Ok(Filled::NotEmpty);
                }
                let mut change = redis::pipe();
                change.atomic();
                for &kind in staged {
                    let (from, to) = (self.staging(kind, nonce), self.hash(kind));
                    change.cmd("PERSIST").arg(&from).ignore();
                    change.cmd("RENAMENX").arg(from).arg(to).ignore();
                }
                change.cmd("SET").arg(self.marker()).arg(nonce).ignore();
                let done: Value = change.query_async(&mut conn).await.map_err(classify)?;
                Ok(if done == Value::Nil { Filled::NotEmpty } else { Filled::Done })
            })
            .await
    }

    /// Moves each hash by itself.
    async fn move_apart(&self, staged: &[ItemKind], nonce: &str) -> Result<Filled, StoreError> {
        for &kind in staged {
            let (from, to) = (self.staging(kind, nonce), self.hash(kind));
            let moved: (u64,) = self
                .store
                .bulk(async |mut conn| {
                    let mut change = redis::pipe();
                    change.atomic().cmd("PERSIST").arg(&from).ignore();
                    change.cmd("RENAMENX").arg(&from).arg(&to);
                    change.query_async(&mut conn).await.map_err(classify)
                })
                .await?;
            if moved == (0,) {
                return Ok(Filled::NotEmpty);
            }
        }
        self.mark().await?;
        Ok(Filled::Done)
    }

    /// Removes what was prepared and not used. It would expire, if this fails.
    async fn discard(&self, staged: &[ItemKind], nonce: &str) {
        for &kind in staged {
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

    /// `None` where scripts are denied; nothing was changed then.
    async fn upsert_by_script(
        &self,
        kind: ItemKind,
        rows: &[&Row],
        condition: Condition,
    ) -> Result<Option<Vec<Upserted>>, StoreError> {
        let demands_marker = self.together && condition == Condition::Marked;
        let mut script = redis::cmd("EVAL");
        script.arg(UPSERT).arg(1 + usize::from(demands_marker)).arg(self.hash(kind));
        if demands_marker {
            script.arg(self.marker());
        }
        for row in rows {
            script.arg(&*row.key.key).arg(row.version).arg(&row.json[..]);
        }
        let script = &script;
        let done: Option<Vec<i64>> = self
            .store
            .bulk(async |mut conn| match script.query_async(&mut conn).await {
                Ok(done) => Ok(Some(done)),
                Err(error) if scripts_are_denied(&error) => Ok(None),
                Err(error) => Err(classify(error)),
            })
            .await?;
        let Some(done) = done else { return Ok(None) };
        if done == [-1] {
            return Ok(Some(vec![Upserted::NoMarker; rows.len()]));
        }
        let outcome = |done| if done == 1 { Upserted::Written } else { Upserted::NotNewer };
        Ok(Some(done.into_iter().map(outcome).collect()))
    }

    async fn upsert_by_watch(
        &self,
        kind: ItemKind,
        rows: &[&Row],
        condition: Condition,
    ) -> Result<Vec<Upserted>, StoreError> {
        let demands_marker = self.together && condition == Condition::Marked;
        let fields: Vec<&str> = rows.iter().map(|row| &*row.key.key).collect();
        let changed = self
            .under_watch(kind, &fields, demands_marker, |place, stored| {
                let row = rows[place];
                let stored = stored.map(|json| layout::head(json).map_or(0, |head| head.version));
                if stored.is_none_or(|stored| stored < row.version) {
                    Change::Set(&row.json)
                } else {
                    Change::Keep
                }
            })
            .await?;
        Ok(match changed {
            None => vec![Upserted::NoMarker; rows.len()],
            Some(changed) => changed
                .into_iter()
                .map(|changed| if changed { Upserted::Written } else { Upserted::NotNewer })
                .collect(),
        })
    }

    /// Looks at fields and changes some, in one transaction; tells which. `None`: there is no
    /// marker although it is demanded.
    async fn under_watch<'a>(
        &self,
        kind: ItemKind,
        fields: &[&str],
        demands_marker: bool,
        judge: impl Fn(usize, Option<&[u8]>) -> Change<'a> + Send + Sync,
    ) -> Result<Option<Vec<bool>>, StoreError> {
        let dialer = self.store.dialer();
        let hash = self.hash(kind);
        let marker = demands_marker.then(|| self.marker());
        self.store
            .bulk(async |_shared| {
                // WATCH belongs to a connection, so nobody else may use this one.
                let mut conn = dialer.dial().await?;
                for _ in 0..WATCH_ATTEMPTS {
                    match transaction(&mut conn, &hash, marker.as_deref(), fields, &judge).await? {
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

enum Attempt {
    Done(Vec<bool>),
    NoMarker,
    Disturbed,
}

async fn transaction<'a>(
    conn: &mut (impl ConnectionLike + Send),
    hash: &str,
    marker: Option<&str>,
    fields: &[&str],
    judge: &(impl Fn(usize, Option<&[u8]>) -> Change<'a> + Sync),
) -> Result<Attempt, StoreError> {
    let mut look = redis::pipe();
    look.cmd("WATCH").arg(hash).arg(marker).ignore();
    look.cmd("HMGET").arg(hash).arg(fields);
    look.cmd("EXISTS").arg(marker.unwrap_or(hash));
    let (stored, exists): (Vec<Option<Vec<u8>>>, u64) =
        look.query_async(conn).await.map_err(classify)?;
    if marker.is_some() && exists == 0 {
        return Ok(Attempt::NoMarker);
    }
    let mut change = redis::pipe();
    change.atomic();
    let mut changed = Vec::with_capacity(fields.len());
    for (place, (field, stored)) in fields.iter().zip(&stored).enumerate() {
        let is_change = match judge(place, stored.as_deref()) {
            Change::Keep => false,
            Change::Set(json) => {
                change.cmd("HSET").arg(hash).arg(field).arg(&json[..]).ignore();
                true
            }
            Change::Remove => {
                change.cmd("HDEL").arg(hash).arg(field).ignore();
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

impl FlagBackend for RedisFlags {
    async fn read(&self) -> Result<StoredRows, StoreError> {
        // The marker before the items: where they are not read at once, it was the last written.
        let mut found = StoredRows { marker: self.look_for_marker().await?, rows: Vec::new() };
        for kind in ItemKind::ALL {
            let hash = self.hash(kind);
            let fields: Vec<(Vec<u8>, Vec<u8>)> = self
                .store
                .bulk(async |mut conn| {
                    let mut command = redis::cmd("HGETALL");
                    command.arg(&hash).query_async(&mut conn).await.map_err(classify)
                })
                .await?;
            found.rows.reserve(fields.len());
            for (field, json) in fields {
                // A name that is not text was written by nobody we know, and nobody asks for it.
                let Ok(key) = String::from_utf8(field) else { continue };
                let head = layout::head(&json);
                let (key, json) = (ItemKey::new(kind, key), Bytes::from(json));
                found.rows.push(StoredRow { key, json, head, revision: 0 });
            }
        }
        Ok(found)
    }

    async fn look(&self) -> Result<Look, StoreError> {
        let marker = self.look_for_marker().await?;
        let mut counts = [0; 2];
        for (count, kind) in counts.iter_mut().zip(ItemKind::ALL) {
            let hash = self.hash(kind);
            *count = self
                .store
                .call(async |mut conn| {
                    let mut command = redis::cmd("HLEN");
                    command.arg(&hash).query_async(&mut conn).await.map_err(classify)
                })
                .await?;
        }
        let [segments, flags] = counts;
        let server = self.store.call(async |mut conn| run_id(&mut conn).await).await?;
        let counts = Some(Counts { segments, flags });
        Ok(Look { marker, counts, server: server.map(Into::into) })
    }

    async fn fill(&self, rows: &[Row]) -> Result<Filled, StoreError> {
        let nonce = format!("pilotlight-{:016x}", fastrand::u64(..));
        let mut staged = Vec::new();
        let filled = async {
            for kind in ItemKind::ALL {
                let rows: Vec<&Row> = rows
                    .iter()
                    .filter(|row| row.key.kind == kind && row.json.len() < VALUE_BYTES_MAX)
                    .collect();
                if !rows.is_empty() {
                    staged.push(kind);
                    self.stage(kind, &rows, &nonce).await?;
                }
            }
            if self.together {
                self.move_together(&staged, &nonce).await
            } else {
                self.move_apart(&staged, &nonce).await
            }
        }
        .await;
        if !matches!(filled, Ok(Filled::Done)) {
            self.discard(&staged, &nonce).await;
        }
        filled
    }

    async fn upsert(
        &self,
        rows: &[Row],
        condition: Condition,
    ) -> Result<Vec<Upserted>, StoreError> {
        let mut outcomes = vec![Upserted::TooLarge; rows.len()];
        for kind in ItemKind::ALL {
            let (places, of_kind): (Vec<usize>, Vec<&Row>) = rows
                .iter()
                .enumerate()
                .filter(|(_, row)| row.key.kind == kind && row.json.len() < VALUE_BYTES_MAX)
                .unzip();
            if of_kind.is_empty() {
                continue;
            }
            let mut done = None;
            if !self.denial.is_remembered() {
                done = self.upsert_by_script(kind, &of_kind, condition).await?;
                if done.is_none() {
                    self.denial.remember("flags are written under WATCH");
                }
            }
            let done = match done {
                Some(done) => done,
                None => self.upsert_by_watch(kind, &of_kind, condition).await?,
            };
            for (place, outcome) in places.into_iter().zip(done) {
                outcomes[place] = outcome;
            }
        }
        Ok(outcomes)
    }

    async fn correct(&self, corrections: &[Correction]) -> Result<Vec<bool>, StoreError> {
        let mut outcomes = vec![false; corrections.len()];
        for kind in ItemKind::ALL {
            let (places, of_kind): (Vec<usize>, Vec<&Correction>) = corrections
                .iter()
                .enumerate()
                .filter(|(_, correction)| correction.found.key.kind == kind)
                .unzip();
            if of_kind.is_empty() {
                continue;
            }
            let fields: Vec<&str> = of_kind.iter().map(|it| &*it.found.key.key).collect();
            let changed = self
                .under_watch(kind, &fields, false, |place, stored| {
                    let correction = of_kind[place];
                    match &correction.wanted {
                        _ if stored != Some(&correction.found.json[..]) => Change::Keep,
                        Some(row) => Change::Set(&row.json),
                        None => Change::Remove,
                    }
                })
                .await?;
            for (place, changed) in places.into_iter().zip(changed.unwrap_or_default()) {
                outcomes[place] = changed;
            }
        }
        Ok(outcomes)
    }

    async fn mark(&self) -> Result<Marker, StoreError> {
        let nonce = format!("pilotlight-{:016x}", fastrand::u64(..));
        let key = self.marker();
        let (marker,): (Vec<u8>,) = self
            .store
            .call(async |mut conn| {
                let mut pipeline = redis::pipe();
                pipeline.cmd("SET").arg(&key).arg(&nonce).arg("NX").ignore();
                pipeline.cmd("GET").arg(&key);
                pipeline.query_async(&mut conn).await.map_err(classify)
            })
            .await?;
        Ok(Marker(marker.into()))
    }
}

impl RedisFlags {
    async fn look_for_marker(&self) -> Result<Option<Marker>, StoreError> {
        let key = self.marker();
        let marker: Option<Vec<u8>> = self
            .store
            .call(async |mut conn| {
                redis::cmd("GET").arg(&key).query_async(&mut conn).await.map_err(classify)
            })
            .await?;
        Ok(marker.map(|marker| Marker(marker.into())))
    }
}
