//! The connection for commands: to one server, or to the servers of a cluster.

use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisFuture, Value};

use super::cluster::ClusterConnection;
use super::errors::classify;
use super::node::Node;
use crate::storage::StoreError;

/// A shared connection. Commands of all clones to one server are sent in the order of the calls.
#[derive(Clone)]
pub struct RedisConnection(Kind);

#[derive(Clone)]
pub(super) enum Kind {
    Node(Node),
    Cluster(ClusterConnection),
}

impl From<Kind> for RedisConnection {
    fn from(kind: Kind) -> Self {
        Self(kind)
    }
}

impl RedisConnection {
    /// Sends a cheap request.
    pub(super) async fn check(self) -> Result<(), StoreError> {
        match self.0 {
            Kind::Node(mut node) => {
                redis::cmd("PING").exec_async(&mut node).await.map_err(classify)
            }
            Kind::Cluster(cluster) => cluster.check().await,
        }
    }

    /// True if a server has ended the connection.
    pub(super) fn has_ended(&self) -> bool {
        match &self.0 {
            Kind::Node(node) => node.has_ended(),
            Kind::Cluster(cluster) => cluster.has_ended(),
        }
    }

    /// Waits until a server ends the connection. Cancel-safe.
    pub(super) async fn ended(self) {
        match self.0 {
            Kind::Node(node) => node.ended().await,
            Kind::Cluster(cluster) => cluster.ended().await,
        }
    }
}

/// The identity of the running server process, which changes with each restart; of a cluster, those
/// of all masters, so that a lost one is noticed. `None` if a server does not report it.
pub async fn run_id(conn: &mut RedisConnection) -> Result<Option<String>, StoreError> {
    match &mut conn.0 {
        Kind::Node(node) => node.run_id().await,
        Kind::Cluster(cluster) => cluster.run_id().await,
    }
}

/// The eviction policy (`maxmemory-policy`) of each server with data, as far as the servers report
/// it.
pub(super) async fn eviction_policies(
    conn: &mut RedisConnection,
) -> Result<Vec<String>, StoreError> {
    match &mut conn.0 {
        Kind::Node(node) => Ok(node.eviction_policy().await?.into_iter().collect()),
        Kind::Cluster(cluster) => cluster.eviction_policies().await,
    }
}

impl ConnectionLike for RedisConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match &mut self.0 {
            Kind::Node(node) => node.req_packed_command(cmd),
            Kind::Cluster(cluster) => cluster.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match &mut self.0 {
            Kind::Node(node) => node.req_packed_commands(pipeline, offset, count),
            Kind::Cluster(cluster) => cluster.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match &self.0 {
            Kind::Node(node) => node.get_db(),
            Kind::Cluster(cluster) => cluster.get_db(),
        }
    }
}
