//! Writing rows that are newer than what is stored: by a script, or under `WATCH` where scripts
//! are denied.

use redis::Value;

use super::watch::Change;
use super::{RedisFlags, WATCH_ATTEMPTS};
use crate::flagstore::backend::{Condition, Row, Upserted};
use crate::flagstore::layout;
use crate::model::ItemKind;
use crate::storage::StoreError;
use crate::storage::redis::{RedisConnection, classify, scripts_are_denied};

/// Most bytes of JSON in a write that counts as a small call: a slow line moves them within its
/// budget.
const SMALL_BYTES_MAX: usize = 64 * 1024;

/// KEYS: the hash, and the marker if it is demanded. ARGV: the token that the marker must have, if
/// it is; then field, version, JSON, found; and so on. A row without a version is written in place
/// of exactly the JSON that was found. One with a version is written if none or a lower one is
/// stored, as far as cjson can tell. It cannot tell of all JSON: it accepts what is none (NaN, bad
/// UTF-8), rejects some that is (a lone surrogate), and its numbers are floats. Gives 1 for each
/// row that was written, 0 for one that stands as it is to be (a peer has written the same), what is
/// stored for each other one, or one -1 without that marker.
const UPSERT: &str = "\
if KEYS[2] then
  local marker = redis.call('GET', KEYS[2])
  if not marker then return {-1} end
  local token = ARGV[1] .. ' '
  if marker ~= ARGV[1] and string.sub(marker, 1, #token) ~= token then return {-1} end
end
local done = {}
for i = #KEYS, #ARGV, 4 do
  local stored = redis.call('HGET', KEYS[1], ARGV[i])
  local writes = not stored
  if stored and ARGV[i + 1] == '' then
    writes = stored == ARGV[i + 3]
  elseif stored then
    local ok, item = pcall(cjson.decode, stored)
    local version = ok and type(item) == 'table' and item.version
    writes = type(version) == 'number' and math.max(version, 0) < tonumber(ARGV[i + 1])
  end
  if stored == ARGV[i + 2] then
    done[#done + 1] = 0
  elseif writes then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 2])
    done[#done + 1] = 1
  else
    done[#done + 1] = stored
  end
end
return done";

/// A row to write, with the place of its outcome.
struct Attempt<'a> {
    place: usize,
    row: &'a Row,
    /// What it is to replace; `None`: whatever the script takes for an older version.
    found: Option<Vec<u8>>,
}

/// True if a row with this version belongs in place of this JSON. What cannot be decoded counts as
/// version 0.
fn is_older(stored: &[u8], version: u64) -> bool {
    layout::head(stored).map_or(0, |head| head.version) < version
}

impl RedisFlags {
    /// `None` where scripts are denied; nothing was changed then.
    pub(super) async fn upsert_by_script(
        &self,
        kind: ItemKind,
        rows: &[&Row],
        condition: Condition<'_>,
    ) -> Result<Option<Vec<Upserted>>, StoreError> {
        let mut outcomes = vec![Upserted::Contended; rows.len()];
        let attempt = |(place, row)| Attempt { place, row, found: None };
        let mut open: Vec<Attempt<'_>> = rows.iter().copied().enumerate().map(attempt).collect();
        for _ in 0..WATCH_ATTEMPTS {
            let Some(answers) = self.run_upsert(kind, &open, condition).await? else {
                return Ok(None);
            };
            if let [Value::Int(-1)] = answers[..] {
                open.iter().for_each(|it| outcomes[it.place] = Upserted::NoMarker);
                return Ok(Some(outcomes));
            }
            let mut again = Vec::new();
            for (attempt, answer) in open.into_iter().zip(answers) {
                let is_same = answer == Value::Int(0);
                let Value::BulkString(stored) = answer else {
                    outcomes[attempt.place] =
                        if is_same { Upserted::NotNewer } else { Upserted::Written };
                    continue;
                };
                if is_older(&stored, attempt.row.version) {
                    again.push(Attempt { found: Some(stored), ..attempt });
                } else {
                    outcomes[attempt.place] = Upserted::NotNewer;
                }
            }
            open = again;
            if open.is_empty() {
                break;
            }
        }
        Ok(Some(outcomes))
    }

    /// Runs the script once; `None` where scripts are denied.
    async fn run_upsert(
        &self,
        kind: ItemKind,
        attempts: &[Attempt<'_>],
        condition: Condition<'_>,
    ) -> Result<Option<Vec<Value>>, StoreError> {
        let marker = self.demanded(condition);
        let mut script = redis::cmd("EVAL");
        script.arg(UPSERT).arg(1 + usize::from(marker.is_some())).arg(self.hash(kind));
        if let Some(marker) = marker {
            script.arg(self.marker()).arg(&marker.token[..]);
        }
        let mut bytes = 0;
        for Attempt { row, found, .. } in attempts {
            let version = if found.is_some() { String::new() } else { row.version.to_string() };
            let found = found.as_deref().unwrap_or_default();
            script.arg(&*row.key.key).arg(version).arg(&row.json[..]).arg(found);
            bytes += row.json.len() + found.len();
        }
        let script = &script;
        let run = async |mut conn: RedisConnection| match script.query_async(&mut conn).await {
            Ok(answers) => Ok(Some(answers)),
            Err(error) if scripts_are_denied(&error) => Ok(None),
            Err(error) => Err(classify(error)),
        };
        // A change does not wait for its turn behind whole data sets of other environments.
        if bytes <= SMALL_BYTES_MAX {
            self.store.call(run).await
        } else {
            self.store.bulk(run).await
        }
    }

    pub(super) async fn upsert_by_watch(
        &self,
        kind: ItemKind,
        rows: &[&Row],
        condition: Condition<'_>,
    ) -> Result<Vec<Upserted>, StoreError> {
        let marker = self.demanded(condition);
        let fields: Vec<&str> = rows.iter().map(|row| &*row.key.key).collect();
        let changed = self
            .under_watch(kind, &fields, marker, |place, stored| {
                let row = rows[place];
                if stored.is_none_or(|stored| is_older(stored, row.version)) {
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
}
