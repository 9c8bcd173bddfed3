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
//! Marker and rows are read in one transaction. A Redis whose memory is full (`maxmemory` is
//! reached, `noeviction`) refuses every command of a transaction, also those that only read, and
//! rules (ACL) may deny `MULTI`. Then they are read without one: the marker, the rows, the marker
//! again.
//!
//! The marker's token is random, so that one look shows whether the store has been initialized
//! anew since the last one.

mod fill;
mod upsert;
mod watch;

use bytes::Bytes;
use redis::RedisResult;

use self::watch::Change;
use super::backend::{
    Condition, Correction, Counts, Filled, FlagBackend, Look, Row, StoredRow, StoredRows, Upserted,
};
use super::layout;
use super::marker::{Marker, Note};
use crate::model::{ItemKey, ItemKind};
use crate::storage::StoreError;
use crate::storage::redis::{
    RedisConnection, RedisStore, ScriptDenial, classify, run_id, scripts_are_denied,
};

/// Prefix where none is configured (ld-relay v8).
pub const DEFAULT_PREFIX: &str = "launchdarkly";

/// Transactions tried under `WATCH`, where any other write to the hash gets in the way
/// (go-server-sdk-redis: 10 attempts).
const WATCH_ATTEMPTS: usize = 10;

/// Readings without a transaction, until one finds the same marker before and after the rows.
const READ_ATTEMPTS: usize = 3;

/// The server takes no longer string (`proto-max-bulk-len`).
const VALUE_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Sets the marker if it is what was found. KEYS: the marker. ARGV: what was found, and the value.
const MARK: &str = "\
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) end
return redis.call('GET', KEYS[1])";

/// The flag data of one environment in Redis.
#[derive(Debug)]
pub struct RedisFlags {
    store: RedisStore,
    prefix: String,
    /// Whether all keys of the environment may stand in one transaction.
    together: bool,
    denial: ScriptDenial,
}

/// All fields of a hash.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

impl RedisFlags {
    /// The environment with this prefix; empty stands for [`DEFAULT_PREFIX`].
    pub fn new(store: RedisStore, prefix: &str) -> Self {
        let prefix = if prefix.is_empty() { DEFAULT_PREFIX } else { prefix }.to_owned();
        let mut flags = Self { store, prefix, together: true, denial: ScriptDenial::default() };
        flags.together = flags.store.dialer().keeps_together(flags.names());
        flags
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

    fn names(&self) -> [String; 3] {
        [self.marker(), self.hash(ItemKind::Segment), self.hash(ItemKind::Flag)]
    }

    /// The marker that must be there, where hash and marker may stand in one transaction.
    fn demanded<'a>(&self, condition: Condition<'a>) -> Option<&'a Marker> {
        match condition {
            Condition::Marked(marker) if self.together => Some(marker),
            Condition::Marked(_) | Condition::Always => None,
        }
    }
}

impl FlagBackend for RedisFlags {
    async fn read(&self) -> Result<StoredRows, StoreError> {
        let (marker, [segments, flags]) = self.read_marker_and_rows().await?;
        let mut found = StoredRows { marker: marker.map(marked), rows: Vec::new() };
        found.rows.reserve(segments.len() + flags.len());
        for (kind, fields) in ItemKind::ALL.into_iter().zip([segments, flags]) {
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
        let marker = self.look_for_marker().await?.map(marked);
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

    async fn fill(&self, rows: &[Row], note: &Note) -> Result<Filled, StoreError> {
        self.fill_empty(rows, note).await
    }

    async fn upsert(
        &self,
        rows: &[Row],
        condition: Condition<'_>,
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
                .under_watch(kind, &fields, None, |place, stored| {
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

    async fn mark(&self, found: Option<&Marker>, note: &Note) -> Result<Marker, StoreError> {
        let value = note.value(found);
        match found {
            None => self.mark_if_absent(&value).await,
            Some(found) => self.mark_if_unchanged(found, &value).await,
        }
        .and_then(|marker| {
            let removed = || StoreError::Refused("the marker was removed meanwhile".into());
            marker.map(marked).ok_or_else(removed)
        })
    }
}

impl RedisFlags {
    /// Sets the marker if there is none; returns what is there then.
    async fn mark_if_absent(&self, value: &Bytes) -> Result<Option<Vec<u8>>, StoreError> {
        let key = self.marker();
        let (marker,): (Option<Vec<u8>>,) = self
            .store
            .call(async |mut conn| {
                let mut pipeline = redis::pipe();
                pipeline.atomic().cmd("SET").arg(&key).arg(&value[..]).arg("NX").ignore();
                pipeline.cmd("GET").arg(&key);
                pipeline.query_async(&mut conn).await.map_err(classify)
            })
            .await?;
        Ok(marker)
    }

    /// Sets the marker if it is what was found; returns what is there then.
    async fn mark_if_unchanged(
        &self,
        found: &Marker,
        value: &Bytes,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        if !self.denial.is_remembered() {
            let mut script = redis::cmd("EVAL");
            script.arg(MARK).arg(1).arg(self.marker()).arg(&found.value[..]).arg(&value[..]);
            let script = &script;
            let done = self
                .store
                .call(async |mut conn| match script.query_async(&mut conn).await {
                    Ok(marker) => Ok(Some(marker)),
                    Err(error) if scripts_are_denied(&error) => Ok(None),
                    Err(error) => Err(classify(error)),
                })
                .await?;
            if let Some(marker) = done {
                return Ok(marker);
            }
            self.denial.remember("flags are written under WATCH");
        }
        self.mark_under_watch(found, value).await
    }

    async fn look_for_marker(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let key = self.marker();
        self.store
            .call(async |mut conn| {
                redis::cmd("GET").arg(&key).query_async(&mut conn).await.map_err(classify)
            })
            .await
    }

    /// Marker and rows of both kinds. The marker is `None` also where it changed at each attempt:
    /// such rows are not of one moment.
    async fn read_marker_and_rows(&self) -> Result<(Option<Vec<u8>>, [Fields; 2]), StoreError> {
        self.store
            .bulk(async |mut conn| {
                if self.together
                    && let Some(found) = self.read_in_transaction(&mut conn).await?
                {
                    return Ok(found);
                }
                let mut rows = Default::default();
                for _ in 0..READ_ATTEMPTS {
                    let (before, after);
                    (before, rows, after) = self.read_plainly(&mut conn).await.map_err(classify)?;
                    if before == after {
                        return Ok((before, rows));
                    }
                }
                Ok((None, rows))
            })
            .await
    }

    /// `None` where Redis refuses the transaction. What it refuses for another reason (a key of a
    /// wrong type), it refuses in a plain reading too.
    async fn read_in_transaction(
        &self,
        conn: &mut RedisConnection,
    ) -> Result<Option<(Option<Vec<u8>>, [Fields; 2])>, StoreError> {
        let mut look = redis::pipe();
        look.atomic().cmd("GET").arg(self.marker());
        for kind in ItemKind::ALL {
            look.cmd("HGETALL").arg(self.hash(kind));
        }
        match look.query_async(conn).await.map_err(classify) {
            Ok((marker, segments, flags)) => Ok(Some((marker, [segments, flags]))),
            Err(StoreError::Refused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The marker, the rows of both kinds, the marker again: before the rows, because it is the
    /// last thing that a fill writes, and after them, because rows that were wiped out meanwhile
    /// are not complete.
    async fn read_plainly(
        &self,
        conn: &mut RedisConnection,
    ) -> RedisResult<(Option<Vec<u8>>, [Fields; 2], Option<Vec<u8>>)> {
        let mut commands = vec![redis::cmd("GET").arg(self.marker()).take()];
        commands
            .extend(ItemKind::ALL.map(|kind| redis::cmd("HGETALL").arg(self.hash(kind)).take()));
        commands.push(commands[0].clone());
        if self.together {
            // In one packet, so that next to nothing comes between them.
            let mut look = redis::pipe();
            for command in commands {
                look.add_command(command);
            }
            let (before, segments, flags, after) = look.query_async(conn).await?;
            return Ok((before, [segments, flags], after));
        }
        let before = commands[0].query_async(conn).await?;
        let segments = commands[1].query_async(conn).await?;
        let flags = commands[2].query_async(conn).await?;
        let after = commands[3].query_async(conn).await?;
        Ok((before, [segments, flags], after))
    }
}

fn marked(value: Vec<u8>) -> Marker {
    Marker::read(value.into(), 0)
}
