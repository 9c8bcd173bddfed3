//! Redis Cluster: a connection to every master, and the slots that each of them owns.
//!
//! redis-rs has a client for clusters. It is not used, because it opens its own sockets with its
//! own TLS, waits and retries by its own rules, and does not report a lost server. Here every
//! server is connected like a single one, so deadlines, breaker, certificates and changed passwords
//! work in the same way, and the rest is small: read `CLUSTER SLOTS`, send a command to the owner
//! of its slot, follow `MOVED` and `ASK` a few times.
//!
//! A cluster is used when all its masters answer. If one is lost, the whole connection is dropped
//! until a replica takes over: there is one breaker for each database, and the modules above serve
//! from memory meanwhile. Replicas are not read, since their data may be old.
//!
//! Invariant: no command is repeated that a server may have carried out.

mod connection;
mod layout;
mod route;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{Cmd, RedisResult, Value};

pub(super) use self::connection::ClusterConnection;
pub(super) use self::layout::Address;
use self::layout::{Layout, LayoutError, Redirect};
use super::candidates::{Failures, Start, within};
use super::errors::classify;
use super::node::{Entrance, Node, info_field};
use super::slots::slot_of;
use super::topology::ClusterSettings;
use crate::storage::join::join_bounded;
use crate::storage::net::Endpoint;
use crate::storage::tls::TlsSettings;
use crate::storage::{Meter, StoreError};

/// Time-out for one server to describe the cluster. A quarter of a call's budget: silent servers
/// must leave time for the others.
const SEED_BUDGET: Duration = Duration::from_millis(500);

/// Largest number of servers that are dialled at the same time.
const DIALS_MAX: usize = 16;

/// Largest number of redirections that one command follows. Two occur while a slot moves; more mean
/// that the servers disagree, which is transient or requires action by the operator.
const REDIRECTS_MAX: usize = 4;

/// Servers that are remembered in addition to the seeds: enough to find the cluster again when all
/// seeds were replaced, without asking a thousand dead ones.
const KNOWN_MAX: usize = 32;

/// Makes connections to one cluster.
pub(super) struct Cluster {
    seeds: Vec<Endpoint>,
    tls: Option<TlsSettings>,
    entrance: Arc<Entrance>,
    start: Start,
    /// Servers of the cluster as of the newest layout.
    known: Mutex<Vec<Address>>,
}

impl Cluster {
    pub(super) fn new(settings: ClusterSettings, entrance: Arc<Entrance>) -> Self {
        let ClusterSettings { seeds, tls, login: _ } = settings;
        Self { seeds, tls, entrance, start: Start::random(), known: Mutex::new(Vec::new()) }
    }

    /// Connects to all masters.
    pub(super) async fn dial(
        self: &Arc<Self>,
        meter: &Meter,
    ) -> Result<ClusterConnection, StoreError> {
        let found = self.find_layout(meter).await?;
        let known = |address: &Address| address.is_at(&found.endpoint).then(|| found.node.clone());
        let members = self.connect_all(found.layout, meter, known).await?;
        // Only after all are reached: a server with an outdated description is not preferred.
        self.start.found(found.place);
        Ok(ClusterConnection::new(self.clone(), members, meter.clone()))
    }

    /// A new connection to the server that owns the slot of `key`.
    pub(super) async fn dial_owner(&self, key: &[u8], meter: &Meter) -> Result<Node, StoreError> {
        let layout = self.find_layout(meter).await?.layout;
        let mut address = layout.masters()[layout.owner(slot_of(key))].clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut node = self.connect(&address, meter).await?;
            // The layout may be older than a failover.
            let mut look = Cmd::new();
            look.arg("EXISTS").arg(key);
            match look.exec_async(&mut node).await {
                Ok(()) => return Ok(node),
                Err(error) => match Redirect::parse(&error, &address.host) {
                    Some(Redirect::Moved(owner)) => address = owner,
                    // The key is being moved: the owner reports that again to commands.
                    Some(Redirect::Ask(_)) => return Ok(node),
                    // A user that may not run `EXISTS` may still have other permissions.
                    None => match classify(error) {
                        error if error.is_transient() => return Err(error),
                        _ => return Ok(node),
                    },
                },
            }
        }
        Err(StoreError::Unreachable("the servers disagree about the owner of a slot".into()))
    }

    /// Asks one server after the other for the layout of the cluster.
    async fn find_layout(&self, meter: &Meter) -> Result<Found, StoreError> {
        let candidates = self.candidates();
        let mut failures = Failures::default();
        let mut round = self.start.round(candidates.len());
        while let Some(place) = round.next() {
            let others = round.len() > 0;
            let endpoint = &candidates[place];
            let ask = async {
                let mut node = self.entrance.connect(endpoint, meter).await?;
                let layout = self.read_layout(&mut node, host(endpoint)).await?;
                Ok((node, layout))
            };
            match within(others.then_some(SEED_BUDGET), ask).await {
                Ok((node, layout)) => {
                    return Ok(Found { place, endpoint: endpoint.clone(), node, layout });
                }
                Err(error) => failures.add(endpoint, &error),
            }
        }
        Err(failures.into_error("no server describes the cluster"))
    }

    /// The seeds, and the other servers known so far.
    fn candidates(&self) -> Vec<Endpoint> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let new = known.iter().filter(|it| !self.seeds.iter().any(|seed| it.is_at(seed)));
        let new = new.map(|address| address.endpoint(self.tls.as_ref()));
        self.seeds.iter().cloned().chain(new).collect()
    }

    /// Asks one server for the layout of the cluster. A server that is cut off from the others has
    /// an outdated layout, and reports the cluster as down.
    async fn read_layout(&self, node: &mut Node, asked: &str) -> Result<Layout, StoreError> {
        let mut look = redis::pipe();
        look.cmd("CLUSTER").arg("SLOTS").cmd("CLUSTER").arg("INFO").ignore_errors();
        let (slots, info): (RedisResult<Value>, RedisResult<String>) =
            look.query_async(node).await.map_err(classify)?;
        let answer = slots.map_err(classify)?;
        must_be_up(info)?;
        let layout = Layout::parse(&answer, asked).map_err(|error| match error {
            LayoutError::Malformed => {
                StoreError::Unreadable { what: "answer", cause: Box::new(error) }
            }
            LayoutError::Uncovered(_) | LayoutError::Unknown(_) => {
                StoreError::Unreachable(Box::new(error))
            }
        })?;
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) =
            layout.servers().take(KNOWN_MAX).cloned().collect();
        Ok(layout)
    }

    async fn connect(&self, address: &Address, meter: &Meter) -> Result<Node, StoreError> {
        self.entrance.connect(&address.endpoint(self.tls.as_ref()), meter).await
    }

    /// Connects to the masters without a connection.
    async fn connect_all(
        &self,
        layout: Layout,
        meter: &Meter,
        known: impl Fn(&Address) -> Option<Node>,
    ) -> Result<Members, StoreError> {
        let connections = layout.masters().iter().map(|address| {
            let known = known(address);
            async move {
                match known {
                    Some(node) => Ok(node),
                    None => self.connect(address, meter).await,
                }
            }
        });
        let nodes = join_bounded(DIALS_MAX, connections.collect()).await;
        let nodes = nodes.into_iter().collect::<Result<Vec<Node>, StoreError>>()?;
        Ok(Members { layout, nodes })
    }
}

/// Fails if this answer to `CLUSTER INFO` reports the cluster as down. Without permission for the
/// command, the cluster is assumed to be up.
fn must_be_up(info: RedisResult<String>) -> Result<(), StoreError> {
    let info = match info.map_err(classify) {
        Ok(info) => info,
        Err(error) if error.is_transient() => return Err(error),
        Err(_) => return Ok(()),
    };
    match info_field(&info, "cluster_state") {
        Some("ok") | None => Ok(()),
        Some(_) => Err(StoreError::Unreachable("the cluster is down".into())),
    }
}

fn host(endpoint: &Endpoint) -> &str {
    match endpoint {
        Endpoint::Tcp { host, .. } => host,
        Endpoint::Unix(_) => "localhost",
    }
}

/// A server that described the cluster.
struct Found {
    /// Its index among the candidates.
    place: usize,
    endpoint: Endpoint,
    node: Node,
    layout: Layout,
}

/// The masters, connected.
struct Members {
    layout: Layout,
    /// In the order of the layout's masters.
    nodes: Vec<Node>,
}

impl Members {
    fn owner(&self, slot: u16) -> (&Address, &Node) {
        let place = self.layout.owner(slot);
        (&self.layout.masters()[place], &self.nodes[place])
    }

    fn find(&self, address: &Address) -> Option<Node> {
        let place = self.layout.masters().iter().position(|known| known == address)?;
        Some(self.nodes[place].clone())
    }
}
