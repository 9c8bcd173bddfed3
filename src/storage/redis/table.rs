//! Rows in Redis and Valkey: the fields of a hash, and strings for rows outside of name spaces.
//!
//! Rows of one hash are written by one script, which compares and writes each; `WATCH` of other
//! clients detects that as a change. Where scripts are denied, a transaction under `WATCH` is used.
//! The guard is checked in the same step if it is in the same slot as the rows.
//!
//! Rows and marker are read in one transaction. A Redis whose memory is full (`maxmemory` is
//! reached, `noeviction`) refuses every command of a transaction, even those that only read, and
//! rules (ACL) may deny `MULTI`. Then they are read without one: the marker, the rows, the marker
//! again.

mod create;
mod watch;

use std::sync::Arc;

use redis::aio::ConnectionLike;
use redis::{Cmd, FromRedisValue, RedisResult, Value as Answer, from_redis_value};

use super::{RedisConnection, RedisStore, ScriptDenial, classify, run_id, scripts_are_denied};
use crate::storage::StoreError;
use crate::storage::table::{
    Contents, Created, Limits, Load, NewSet, Row, RowName, Signs, Table, Value, Write, Written,
    batches, taken,
};

/// Rows written in one call. Small enough to be transferred within the budget on a slow connection.
const BATCH: Limits = Limits { count: 512, bytes: 4 * 1024 * 1024 };

/// The longest string that the server accepts (`proto-max-bulk-len`).
const VALUE_BYTES_MAX: usize = 512 * 1024 * 1024;

/// KEYS: the hash or string, and the guard if there is one. ARGV: `hash` or `string`; the required
/// value of the guard, if there is one; then for each row its field, the kind of write, the
/// expected value, the new value. The kind begins with `=` if a value is expected, and ends with
/// `+` if there is a new value. Returns 1 for each row that was written and 0 for each other one,
/// or a single -1 if the guard has another value.
const WRITE: &str = "\
local first = 2
if KEYS[2] then
  if redis.call('GET', KEYS[2]) ~= ARGV[2] then return {-1} end
  first = 3
end
local is_hash = ARGV[1] == 'hash'
local done = {}
for i = first, #ARGV, 4 do
  local field, how, expected, value = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local stored
  if is_hash then stored = redis.call('HGET', KEYS[1], field) else stored = redis.call('GET', KEYS[1]) end
  local is_expected = not stored
  if string.sub(how, 1, 1) == '=' then is_expected = stored == expected end
  if not is_expected then
    done[#done + 1] = 0
  else
    if string.sub(how, -1) == '+' then
      if is_hash then redis.call('HSET', KEYS[1], field, value) else redis.call('SET', KEYS[1], value) end
    elseif stored then
      if is_hash then redis.call('HDEL', KEYS[1], field) else redis.call('DEL', KEYS[1]) end
    end
    done[#done + 1] = 1
  end
end
return done";

/// The rows of one Redis database.
#[derive(Debug)]
pub struct RedisTable {
    store: RedisStore,
    denial: ScriptDenial,
}

/// All fields of a hash.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

impl RedisTable {
    /// The rows of this database.
    pub fn new(store: RedisStore) -> Self {
        Self { store, denial: ScriptDenial::default() }
    }

    fn keeps_together(&self, spaces: &[Arc<str>], marker: Option<&RowName>) -> bool {
        let marker = marker.iter().map(|marker| marker.space.as_bytes());
        let keys = spaces.iter().map(|space| space.as_bytes()).chain(marker);
        self.store.dialer().keeps_together(keys)
    }

    /// Writes rows of one hash, or one string.
    async fn write_to(
        &self,
        space: &Arc<str>,
        writes: &[&Write],
        guard: Option<&Row>,
    ) -> Result<Vec<Written>, StoreError> {
        if !self.denial.is_remembered() {
            if let Some(outcomes) = self.write_by_script(space, writes, guard).await? {
                return Ok(outcomes);
            }
            self.denial.remember("rows are written under WATCH");
        }
        self.write_under_watch(space, writes, guard).await
    }

    /// Writes by a script. `None` if scripts are denied; then nothing was changed.
    async fn write_by_script(
        &self,
        space: &Arc<str>,
        writes: &[&Write],
        guard: Option<&Row>,
    ) -> Result<Option<Vec<Written>>, StoreError> {
        let is_hash = writes.iter().all(|write| write.name.key.is_some());
        let mut script = redis::cmd("EVAL");
        script.arg(WRITE).arg(1 + usize::from(guard.is_some())).arg(&**space);
        script.arg(guard.map(|guard| &*guard.name.space));
        script.arg(if is_hash { "hash" } else { "string" });
        script.arg(guard.map(|guard| &guard.value.bytes[..]));
        for Write { name, expected, value } in writes.iter().copied() {
            let how = [expected.as_ref().map_or("", |_| "="), value.as_ref().map_or("", |_| "+")];
            script.arg(name.key.as_deref().unwrap_or_default()).arg(how.concat());
            script.arg(expected.as_ref().map_or(&b""[..], |row| &row.value.bytes));
            script.arg(value.as_ref().map_or(&b""[..], |value| &value.bytes));
        }
        let script = &script;
        let bytes = writes.iter().map(|write| write.content_bytes()).sum();
        let run = async |mut conn: RedisConnection| match script.query_async(&mut conn).await {
            Ok(answers) => Ok(Some(answers)),
            Err(error) if scripts_are_denied(&error) => Ok(None),
            Err(error) => Err(classify(error)),
        };
        let answers: Option<Vec<i64>> = Load::of(1, bytes).run(&self.store, run).await?;
        Ok(answers.map(|answers| match answers[..] {
            [-1] => vec![Written::Unguarded; writes.len()],
            _ => answers
                .into_iter()
                .map(|done| if done == 1 { Written::Applied } else { Written::Conflict })
                .collect(),
        }))
    }
}

impl Table for RedisTable {
    fn takes(&self, _name: &RowName, value: &Value) -> bool {
        value.bytes.len() < VALUE_BYTES_MAX
    }

    async fn read(
        &self,
        spaces: &[Arc<str>],
        marker: Option<&RowName>,
    ) -> Result<Contents, StoreError> {
        // The marker is read before the rows, because a creation writes it last, and after them,
        // because rows that were deleted meanwhile are not complete.
        let get = marker.map(|marker| redis::cmd("GET").arg(&*marker.space).take());
        let all = spaces.iter().map(|space| redis::cmd("HGETALL").arg(&**space).take());
        let commands: Vec<Cmd> = get.clone().into_iter().chain(all).chain(get).collect();
        let together = self.keeps_together(spaces, marker);
        let answers = self.store.bulk(async |mut conn| {
            if together && marker.is_some() {
                match ask(&mut conn, &commands, Manner::Transaction).await.map_err(classify) {
                    // A refusal for another reason than the transaction (a key of a wrong type)
                    // also occurs in a plain read.
                    Err(StoreError::Refused(_)) => {}
                    outcome => return outcome,
                }
            }
            let manner = if together { Manner::Pipeline } else { Manner::Apart };
            ask(&mut conn, &commands, manner).await.map_err(classify)
        });
        let mut answers = answers.await?.into_iter();
        let mut contents = Contents::default();
        if let Some(marker) = marker {
            contents.markers[0] = row(marker, decoded(answers.next())?);
        }
        for (space, answer) in spaces.iter().zip(answers.by_ref()) {
            let fields: Fields = decoded(Some(answer))?;
            contents.rows.extend(fields.into_iter().filter_map(|(field, value)| {
                // A name that is not text is of no known program, and is ignored.
                row(&RowName::new(space, String::from_utf8(field).ok()?), Some(value))
            }));
        }
        if let Some(marker) = marker {
            contents.markers[1] = row(marker, decoded(answers.next())?);
        }
        Ok(contents)
    }

    async fn get(&self, names: &[RowName], bytes: usize) -> Result<Vec<Option<Row>>, StoreError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let groups = by_space(names.iter().enumerate());
        let spaces: Vec<Arc<str>> = groups.iter().map(|(space, _)| space.clone()).collect();
        let of_group = |(space, places): &(Arc<str>, Vec<usize>)| {
            let fields = places.iter().filter_map(|place| names[*place].key.as_deref());
            let fields: Vec<&str> = fields.collect();
            let name = if fields.is_empty() { "GET" } else { "HMGET" };
            redis::cmd(name).arg(&**space).arg(fields).take()
        };
        let commands: Vec<Cmd> = groups.iter().map(of_group).collect();
        let together = self.keeps_together(&spaces, None);
        let manner = if together { Manner::Pipeline } else { Manner::Apart };
        let get = async |mut conn| ask(&mut conn, &commands, manner).await.map_err(classify);
        let answers = Load::of(1, bytes).run(&self.store, get).await?;
        let mut rows = vec![None; names.len()];
        for ((_, places), answer) in groups.iter().zip(answers) {
            let values: Vec<Option<Vec<u8>>> = if matches!(answer, Answer::Array(_)) {
                decoded(Some(answer))?
            } else {
                vec![decoded(Some(answer))?; places.len()]
            };
            for (place, value) in places.iter().zip(values) {
                rows[*place] = row(&names[*place], value);
            }
        }
        Ok(rows)
    }

    async fn write(
        &self,
        writes: &[Write],
        guard: Option<&Row>,
    ) -> Result<Vec<Written>, StoreError> {
        let mut outcomes = vec![Written::TooLarge; writes.len()];
        for (space, places) in
            by_space(taken(self, writes).map(|(place, write)| (place, &write.name)))
        {
            let guard = guard.filter(|guard| {
                self.keeps_together(std::slice::from_ref(&space), Some(&guard.name))
            });
            let sizes = places.into_iter().map(|place| (place, writes[place].content_bytes()));
            for places in batches(sizes, BATCH) {
                let batch: Vec<&Write> = places.iter().map(|place| &writes[*place]).collect();
                let done = self.write_to(&space, &batch, guard).await?;
                for (place, outcome) in places.into_iter().zip(done) {
                    outcomes[place] = outcome;
                }
            }
        }
        Ok(outcomes)
    }

    async fn create(&self, set: &NewSet<'_>) -> Result<Created, StoreError> {
        self.create_in_place(set).await
    }

    async fn signs(&self, spaces: &[Arc<str>], marker: &RowName) -> Result<Signs, StoreError> {
        let ask = async |command: Cmd| {
            let ask = async |mut conn| command.query_async(&mut conn).await.map_err(classify);
            self.store.call(ask).await
        };
        let value: Answer = ask(redis::cmd("GET").arg(&*marker.space).take()).await?;
        let mut counts = Vec::with_capacity(spaces.len());
        for space in spaces {
            let count = ask(redis::cmd("HLEN").arg(&**space).take()).await?;
            counts.push(decoded(Some(count))?);
        }
        let server = self.store.call(async |mut conn| run_id(&mut conn).await).await?;
        let marker = row(marker, decoded(Some(value))?);
        Ok(Signs { marker, counts: Some(counts), server: server.map(Into::into) })
    }
}

fn row(name: &RowName, value: Option<Vec<u8>>) -> Option<Row> {
    let value = bytes::Bytes::from(value?).into();
    Some(Row { name: name.clone(), value, revision: 0 })
}

/// Groups the places of the names by name space.
fn by_space<'a>(names: impl Iterator<Item = (usize, &'a RowName)>) -> Vec<(Arc<str>, Vec<usize>)> {
    let mut groups: Vec<(Arc<str>, Vec<usize>)> = Vec::new();
    for (place, name) in names {
        match groups.iter_mut().find(|(space, _)| *space == name.space) {
            Some((_, places)) => places.push(place),
            None => groups.push((name.space.clone(), vec![place])),
        }
    }
    groups
}

/// The way in which several commands are sent.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Transaction,
    /// In one packet, so that hardly any other command comes between them.
    Pipeline,
    /// Each separately, to the server that owns its key.
    Apart,
}

async fn ask(
    conn: &mut (impl ConnectionLike + Send),
    commands: &[Cmd],
    manner: Manner,
) -> RedisResult<Vec<Answer>> {
    if let Manner::Apart = manner {
        let mut answers = Vec::with_capacity(commands.len());
        for command in commands {
            answers.push(command.query_async(conn).await?);
        }
        return Ok(answers);
    }
    let mut pipeline = redis::pipe();
    if let Manner::Transaction = manner {
        pipeline.atomic();
    }
    for command in commands {
        pipeline.add_command(command.clone());
    }
    pipeline.query_async(conn).await
}

fn decoded<T: FromRedisValue>(answer: Option<Answer>) -> Result<T, StoreError> {
    from_redis_value(answer.unwrap_or(Answer::Nil)).map_err(|error| classify(error.into()))
}
