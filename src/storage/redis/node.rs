//! One connection to one server: authenticated with its login, driven by its own task.
//!
//! It knows nothing about topologies. There is no deadline here: the caller limits the time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Cmd, Pipeline, RedisConnectionInfo, RedisFuture, RedisResult, Value,
};
use tokio_util::sync::CancellationToken;

use super::errors::classify;
use super::settings::Login;
use crate::model::Password;
use crate::storage::net::{self, Endpoint};
use crate::storage::{Meter, StoreError};
use crate::tasks::TaskGroup;

/// The login for all servers with data.
pub(super) struct Entrance(Mutex<Login>);

impl Entrance {
    pub(super) fn new(login: Login) -> Self {
        Self(Mutex::new(login))
    }

    pub(super) fn replace_password(&self, password: Option<Password>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).password = password;
    }

    pub(super) async fn connect(
        &self,
        endpoint: &Endpoint,
        meter: &Meter,
    ) -> Result<Node, StoreError> {
        let login = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Node::connect(endpoint, &login, meter).await
    }
}

/// A shared connection to one server.
#[derive(Clone)]
pub(super) struct Node {
    conn: MultiplexedConnection,
    /// Runs the connection until the last clone is dropped.
    _driver: Arc<TaskGroup>,
    /// Cancelled when the connection has ended.
    ended: CancellationToken,
}

impl Node {
    /// Connects and signs in.
    pub(super) async fn connect(
        endpoint: &Endpoint,
        login: &Login,
        meter: &Meter,
    ) -> Result<Self, StoreError> {
        let stream = net::connect(endpoint, meter).await?;
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let (conn, driver) = MultiplexedConnection::new_with_config(&info, stream, config)
            .await
            .map_err(classify)?;
        let mut tasks = TaskGroup::new(&CancellationToken::new());
        let ended = CancellationToken::new();
        let end = ended.clone().drop_guard();
        tasks.spawn("redis connection", |_cancel| async move {
            driver.await;
            drop(end);
        });
        let mut node = Self { conn, _driver: Arc::new(tasks), ended };
        node.enter(login).await?;
        Ok(node)
    }

    /// Waits until the connection has ended.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// True if the connection has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    async fn enter(&mut self, login: &Login) -> Result<(), StoreError> {
        let mut pipeline = redis::pipe();
        if login.password.is_some() || login.username.is_some() {
            let auth = pipeline.cmd("AUTH");
            if let Some(username) = &login.username {
                auth.arg(username);
            }
            auth.arg(login.password.as_ref().map_or("", Password::expose)).ignore();
        }
        if login.database != 0 {
            pipeline.cmd("SELECT").arg(login.database).ignore();
        }
        if pipeline.is_empty() {
            return Ok(());
        }
        pipeline.exec_async(self).await.map_err(classify)
    }

    /// Ensures that it accepts writes. Servers that do not report their role are accepted.
    pub(super) async fn must_be_master(&mut self) -> Result<(), StoreError> {
        let role: Option<Vec<Value>> = told(redis::cmd("ROLE").query_async(self).await)?;
        match role.unwrap_or_default().first() {
            Some(Value::BulkString(name)) if name == b"slave" => {
                Err(StoreError::Unreachable("the server is a replica and takes no writes".into()))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The identity of the running process, which changes with each restart. `None` if the server
    /// does not report it.
    pub(super) async fn run_id(&mut self) -> Result<Option<String>, StoreError> {
        let info = self.info("server").await?;
        Ok(info_field(&info, "run_id").map(str::to_owned))
    }

    /// Its eviction policy (`maxmemory-policy`). `None` if the server does not report it: managed
    /// services do not support `CONFIG`, and rules may deny `INFO` too.
    pub(super) async fn eviction_policy(&mut self) -> Result<Option<String>, StoreError> {
        let mut config = redis::cmd("CONFIG");
        config.arg("GET").arg("maxmemory-policy");
        let config: Option<HashMap<String, String>> = told(config.query_async(self).await)?;
        if let Some(policy) = config.and_then(|config| config.into_values().next()) {
            return Ok(Some(policy));
        }
        let info = self.info("memory").await?;
        Ok(info_field(&info, "maxmemory_policy").map(str::to_owned))
    }

    /// A section of the server's `INFO`; empty if the server does not report it.
    async fn info(&mut self, section: &str) -> Result<String, StoreError> {
        let info = redis::cmd("INFO").arg(section).query_async(self).await;
        Ok(told(info)?.unwrap_or_default())
    }
}

impl ConnectionLike for Node {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        self.conn.req_packed_command(cmd)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.conn.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.conn.get_db()
    }
}

/// The answer to an optional request; `None` if the server refuses it.
fn told<T>(answer: RedisResult<T>) -> Result<Option<T>, StoreError> {
    match answer.map_err(classify) {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_transient() => Err(error),
        Err(_) => Ok(None),
    }
}

/// A field of an `INFO` text.
pub(super) fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
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
