//! Redis and Valkey: multiplexed connections with the relay's own deadlines.
//!
//! The client's own response time-out and reconnecting are not used: the first keeps a dead
//! connection, the second makes every command wait for its retries.
//! [`super::FailFast`] replaces both: it drops failed connections, and each dial finds the servers
//! again: a single server, a master that sentinels name, or a cluster.
//!
//! Callers use [`ConnectionLike`](redis::aio::ConnectionLike) with one key per command, and keys of
//! one slot per pipeline or script ([`RedisDialer::keeps_together`]), so they need not know which
//! of the three it is.
//!
//! Invariant: a password is sent to the server and appears nowhere else.

mod candidates;
mod cluster;
mod connection;
mod denial;
mod errors;
mod eviction;
mod node;
mod sentinel;
mod settings;
pub mod slots;
mod table;
mod topology;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use self::cluster::Cluster;
use self::connection::Kind;
use self::node::{Entrance, Node};
use self::sentinel::Sentinels;
use super::fail_fast::{Dialer, FailFast};
use super::net::Endpoint;
use super::{Meter, StoreError};
use crate::model::Password;
pub use connection::{RedisConnection, run_id};
use denial::ScriptDenial;
use errors::scripts_are_denied;
pub use errors::{RedisFailure, classify};
pub use eviction::{EvictionWarning, EvictionWatch};
pub use settings::{Login, RedisSettings, RedisUrlError};
pub use table::RedisTable;
pub use topology::{ClusterSettings, RedisTopology, SentinelSettings};

/// A Redis database behind deadlines and a breaker.
pub type RedisStore = FailFast<RedisDialer>;

/// Makes connections to one database. Clones share the password.
#[derive(Clone)]
pub struct RedisDialer {
    shared: Arc<Shared>,
}

struct Shared {
    servers: Servers,
    entrance: Arc<Entrance>,
}

enum Servers {
    Standalone(Standalone),
    Sentinel(Sentinels),
    Cluster(Arc<Cluster>),
}

impl RedisDialer {
    /// A dialer for these servers.
    pub fn new(topology: impl Into<RedisTopology>) -> Self {
        let topology = topology.into();
        let entrance = Arc::new(Entrance::new(topology.login()));
        let servers = match topology {
            RedisTopology::Standalone(server) => {
                let master_wanted = AtomicBool::new(false);
                Servers::Standalone(Standalone { endpoint: server.endpoint, master_wanted })
            }
            RedisTopology::Sentinel(settings) => {
                Servers::Sentinel(Sentinels::new(settings, entrance.clone()))
            }
            RedisTopology::Cluster(settings) => {
                Servers::Cluster(Arc::new(Cluster::new(settings, entrance.clone())))
            }
        };
        Self { shared: Arc::new(Shared { servers, entrance }) }
    }

    /// Uses another password from the next connection on. To use it at once, follow with
    /// [`FailFast::reconnect`]; open connections stay valid.
    pub fn replace_password(&self, password: Option<Password>) {
        self.shared.entrance.replace_password(password);
    }

    /// True if the keys are spread over several servers.
    pub fn is_cluster(&self) -> bool {
        match self.shared.servers {
            Servers::Standalone(_) | Servers::Sentinel(_) => false,
            Servers::Cluster(_) => true,
        }
    }

    /// True if these keys may be used in one pipeline, transaction or script.
    pub fn keeps_together<K: AsRef<[u8]>>(&self, keys: impl IntoIterator<Item = K>) -> bool {
        !self.is_cluster() || slots::in_one_slot(keys)
    }

    /// An unshared connection, for `WATCH`, to the server that owns `key`. It does not follow a
    /// slot that moves to another server later. `meter` counts its bytes.
    pub async fn dial_for_key(
        &self,
        key: &[u8],
        meter: &Meter,
    ) -> Result<RedisConnection, StoreError> {
        match &self.shared.servers {
            Servers::Standalone(_) | Servers::Sentinel(_) => self.dial(meter).await,
            Servers::Cluster(cluster) => {
                Ok(Kind::Node(cluster.dial_owner(key, meter).await?).into())
            }
        }
    }
}

impl Dialer for RedisDialer {
    type Conn = RedisConnection;

    async fn dial(&self, meter: &Meter) -> Result<RedisConnection, StoreError> {
        let kind = match &self.shared.servers {
            Servers::Standalone(server) => {
                Kind::Node(server.dial(&self.shared.entrance, meter).await?)
            }
            Servers::Sentinel(sentinels) => Kind::Node(sentinels.dial(meter).await?),
            Servers::Cluster(cluster) => Kind::Cluster(cluster.dial(meter).await?),
        };
        Ok(kind.into())
    }

    async fn check(&self, conn: RedisConnection) -> Result<(), StoreError> {
        conn.check().await
    }

    async fn identity(&self, mut conn: RedisConnection) -> Result<Option<String>, StoreError> {
        run_id(&mut conn).await
    }

    fn has_ended(&self, conn: &RedisConnection) -> bool {
        conn.has_ended()
    }

    fn is_answer(&self, error: &StoreError) -> bool {
        errors::is_answer(error)
    }

    async fn ended(&self, conn: RedisConnection) {
        conn.ended().await;
    }

    fn lost(&self, error: &StoreError) {
        match &self.shared.servers {
            Servers::Standalone(server) if errors::is_read_only(error) => {
                server.master_wanted.store(true, Ordering::Relaxed);
            }
            // The role of a master behind sentinels is checked at each dial, and in a cluster
            // replicas name the owner of a slot.
            Servers::Standalone(_) | Servers::Sentinel(_) | Servers::Cluster(_) => {}
        }
    }
}

/// One server, or one name that leads to a master.
struct Standalone {
    endpoint: Endpoint,
    /// True after a replica refused a write: no replica is accepted until a master is found.
    master_wanted: AtomicBool,
}

impl Standalone {
    async fn dial(&self, entrance: &Entrance, meter: &Meter) -> Result<Node, StoreError> {
        let mut node = entrance.connect(&self.endpoint, meter).await?;
        if self.master_wanted.load(Ordering::Relaxed) {
            node.must_be_master().await?;
            self.master_wanted.store(false, Ordering::Relaxed);
        }
        Ok(node)
    }
}
