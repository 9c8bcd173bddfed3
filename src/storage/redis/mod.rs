//! Redis and Valkey: one multiplexed connection, watched by our own deadlines.
//!
//! The client's own response timeout and reconnecting are not used: the first keeps a connection
//! that a black hole swallowed, the second makes every command wait through its retries
//! (stores.md 4.2). [`super::FailFast`] replaces both.
//!
//! A dialer for Sentinel asks the sentinels for an [`Endpoint`](super::net::Endpoint) and enters it as
//! [`RedisDialer::dial`] does; one for Cluster returns another kind of [`RedisConnection`]. What
//! stands above uses [`ConnectionLike`] and one key per command or script, so it need not know.
//!
//! Invariant: a password is sent to the server and appears nowhere else.

mod denial;
mod errors;
mod settings;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, RedisFuture, Value};
use tokio_util::sync::CancellationToken;

use super::fail_fast::{Dialer, FailFast};
use super::{StoreError, net};
use crate::model::Password;
use crate::tasks::TaskGroup;
pub use denial::ScriptDenial;
pub use errors::{RedisFailure, classify, scripts_are_denied};
pub use settings::{RedisSettings, RedisUrlError};

/// A Redis database behind deadlines and a breaker.
pub type RedisStore = FailFast<RedisDialer>;

/// A shared connection. Commands of all clones go out in the order they were sent.
#[derive(Clone)]
pub struct RedisConnection {
    node: MultiplexedConnection,
    /// Runs the connection; it ends with the last clone.
    _driver: Arc<TaskGroup>,
}

impl ConnectionLike for RedisConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        self.node.req_packed_command(cmd)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.node.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.node.get_db()
    }
}

/// Makes connections to one server. Clones share the password.
#[derive(Clone)]
pub struct RedisDialer {
    shared: Arc<Shared>,
}

struct Shared {
    settings: RedisSettings,
    password: Mutex<Option<Password>>,
    /// A write met a replica: until a master is found, replicas are not good enough.
    master_wanted: AtomicBool,
}

impl RedisDialer {
    /// A dialer for the server of these settings.
    pub fn new(settings: RedisSettings) -> Self {
        let password = Mutex::new(settings.password.clone());
        let master_wanted = AtomicBool::new(false);
        Self { shared: Arc::new(Shared { settings, password, master_wanted }) }
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &RedisSettings {
        &self.shared.settings
    }

    /// Uses another password from the next connection on. To use it at once, follow with
    /// [`FailFast::reconnect`]; connections that stand were let in and stay valid.
    pub fn replace_password(&self, password: Option<Password>) {
        *self.shared.password.lock().unwrap_or_else(PoisonError::into_inner) = password;
    }

    async fn enter(&self, conn: &mut RedisConnection) -> Result<(), StoreError> {
        let Shared { settings, password, .. } = &*self.shared;
        let password = password.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut pipeline = redis::pipe();
        if password.is_some() || settings.username.is_some() {
            let auth = pipeline.cmd("AUTH");
            if let Some(username) = &settings.username {
                auth.arg(username);
            }
            auth.arg(password.as_ref().map_or("", Password::expose)).ignore();
        }
        if settings.database != 0 {
            pipeline.cmd("SELECT").arg(settings.database).ignore();
        }
        if pipeline.is_empty() {
            return Ok(());
        }
        pipeline.exec_async(conn).await.map_err(classify)
    }

    /// Who met a replica with a write comes here until there is a master. Servers that do not
    /// tell their role are taken as they are.
    async fn find_master(&self, conn: &mut RedisConnection) -> Result<(), StoreError> {
        let role: Result<Vec<Value>, _> = redis::cmd("ROLE").query_async(conn).await;
        let is_replica = match role.as_deref() {
            Ok([Value::BulkString(name), ..]) => name == b"slave",
            Ok(_) | Err(_) => false,
        };
        if is_replica {
            return Err(StoreError::Unreachable(
                "the server is a replica and takes no writes".into(),
            ));
        }
        self.shared.master_wanted.store(false, Ordering::Relaxed);
        Ok(())
    }
}

impl Dialer for RedisDialer {
    type Conn = RedisConnection;

    /// Environments are read in parallel at a cold start; the answers of two connections are
    /// parsed on two cores, and the first connection stays free for short calls.
    const BULK_CONNECTIONS: usize = 2;

    async fn dial(&self) -> Result<RedisConnection, StoreError> {
        let stream = net::connect(&self.shared.settings.endpoint).await?;
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let (node, driver) = MultiplexedConnection::new_with_config(&info, stream, config)
            .await
            .map_err(classify)?;
        let mut tasks = TaskGroup::new(&CancellationToken::new());
        tasks.spawn("redis connection", |_cancel| driver);
        let mut conn = RedisConnection { node, _driver: Arc::new(tasks) };
        self.enter(&mut conn).await?;
        if self.shared.master_wanted.load(Ordering::Relaxed) {
            self.find_master(&mut conn).await?;
        }
        Ok(conn)
    }

    async fn check(&self, mut conn: RedisConnection) -> Result<(), StoreError> {
        redis::cmd("PING").exec_async(&mut conn).await.map_err(classify)
    }

    fn lost(&self, error: &StoreError) {
        if errors::is_read_only(error) {
            self.shared.master_wanted.store(true, Ordering::Relaxed);
        }
    }
}

/// The identity of the running server process, which changes with each restart. `None` where the
/// server does not tell.
pub async fn run_id(conn: &mut RedisConnection) -> Result<Option<String>, StoreError> {
    let answer: Result<String, _> = redis::cmd("INFO").arg("server").query_async(conn).await;
    match answer.map_err(classify) {
        Ok(info) => Ok(info_field(&info, "run_id").map(str::to_owned)),
        Err(error) if error.is_transient() => Err(error),
        Err(_) => Ok(None),
    }
}

fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_info_are_found_by_their_whole_name() {
        let info = "# Server\r\nredis_version:7.0.15\r\nrun_id_old:x\r\nrun_id:abc\r\n";
        assert_eq!(info_field(info, "run_id"), Some("abc"));
        assert_eq!(info_field(info, "version"), None);
        assert_eq!(info_field("", "run_id"), None);
    }
}
