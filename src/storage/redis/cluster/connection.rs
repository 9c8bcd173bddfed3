//! The shared connection to a cluster: sends each command to the owner of its slot.

use std::future::{Future, poll_fn};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use redis::aio::ConnectionLike;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, ServerError, Value};

use super::super::node::Node;
use super::layout::{Address, Redirect};
use super::route::{Destination, destination, slot_of_all};
use super::{Cluster, DIALS_MAX, Members, REDIRECTS_MAX, must_be_up};
use crate::storage::join::join_bounded;
use crate::storage::{Meter, StoreError};
use crate::telemetry::Chain;

/// A connection to all masters. Clones share it and the layout of the slots.
#[derive(Clone)]
pub(in super::super) struct ClusterConnection {
    shared: Arc<Shared>,
}

struct Shared {
    cluster: Arc<Cluster>,
    members: Mutex<Arc<Members>>,
    /// Counts the bytes of the connections to all servers.
    meter: Meter,
    /// Held by the caller that reads the layout again. The others wait for it and use the result.
    turn: tokio::sync::Mutex<()>,
}

/// A server that answers for keys of a slot that is being moved to it.
type Guest = Option<(Address, Node)>;

impl ClusterConnection {
    pub(super) fn new(cluster: Arc<Cluster>, members: Members, meter: Meter) -> Self {
        let (members, turn) = (Mutex::new(Arc::new(members)), tokio::sync::Mutex::new(()));
        Self { shared: Arc::new(Shared { cluster, members, meter, turn }) }
    }

    /// Ensures that all masters answer and that each of them reports a working cluster: a master
    /// that is cut off from the others answers only `PING`.
    pub(in super::super) async fn check(&self) -> Result<(), StoreError> {
        let looks = self.members().nodes.clone().into_iter().map(async |mut node| {
            must_be_up(redis::cmd("CLUSTER").arg("INFO").query_async(&mut node).await)
        });
        join_bounded(DIALS_MAX, looks.collect()).await.into_iter().collect()
    }

    /// True if a master has ended its connection.
    pub(in super::super) fn has_ended(&self) -> bool {
        self.members().nodes.iter().any(Node::has_ended)
    }

    /// Waits until a master ends its connection. Cancel-safe.
    pub(in super::super) async fn ended(&self) {
        loop {
            let members = self.members();
            let ends = members.nodes.iter().map(|node| Box::pin(node.ended()));
            let mut ends: Vec<_> = ends.collect();
            poll_fn(|context| {
                let is_ended = ends.iter_mut().any(|end| end.as_mut().poll(context).is_ready());
                if is_ended { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            // A server without slots is no longer used; the end of its connection does not matter.
            if Arc::ptr_eq(&members, &self.members()) {
                return;
            }
        }
    }

    /// The identities of all masters together, so that it changes when one of them restarts or
    /// hands over to another.
    pub(in super::super) async fn run_id(&self) -> Result<Option<String>, StoreError> {
        let asked =
            self.members().nodes.clone().into_iter().map(async |mut node| node.run_id().await);
        let answers = join_bounded(DIALS_MAX, asked.collect()).await;
        let ids = answers.into_iter().collect::<Result<Option<Vec<String>>, StoreError>>()?;
        Ok(ids.map(|mut ids| {
            ids.sort_unstable();
            ids.join(",")
        }))
    }

    /// The eviction policies of all masters that report them.
    pub(in super::super) async fn eviction_policies(&self) -> Result<Vec<String>, StoreError> {
        let asked = self.members().nodes.clone().into_iter();
        let asked = asked.map(async |mut node| node.eviction_policy().await);
        let answers = join_bounded(DIALS_MAX, asked.collect()).await;
        answers.into_iter().filter_map(Result::transpose).collect()
    }

    fn members(&self) -> Arc<Members> {
        self.shared.members.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn command(&self, cmd: &Cmd) -> RedisResult<Value> {
        match destination(cmd) {
            Destination::Slot(slot) => self.keyed(cmd, slot, &mut None).await,
            Destination::Anywhere => self.any().req_packed_command(cmd).await,
            Destination::Everywhere => {
                let nodes = self.members().nodes.clone().into_iter();
                let sent = nodes.map(async |mut node| node.req_packed_command(cmd).await);
                let answers = join_bounded(DIALS_MAX, sent.collect()).await;
                let mut last = Value::Nil;
                for answer in answers {
                    last = answer?.extract_error()?;
                }
                Ok(last)
            }
        }
    }

    /// Sends a command to the current owner of its slot.
    async fn keyed(&self, cmd: &Cmd, slot: u16, guest: &mut Guest) -> RedisResult<Value> {
        for _ in 0..=REDIRECTS_MAX {
            let members = self.members();
            let (address, node) = members.owner(slot);
            let answer = node.clone().req_packed_command(cmd).await;
            match redirect(&answer, &address.host) {
                None => return answer,
                Some(Redirect::Moved(owner)) => self.refresh(&members, &owner).await?,
                Some(Redirect::Ask(heir)) => {
                    let answer = self.ask(cmd, &heir, guest).await;
                    // The slot may have moved back meanwhile.
                    if redirect(&answer, &heir.host).is_none() {
                        return answer;
                    }
                }
            }
        }
        Err(too_many_redirections())
    }

    /// Sends a command to the server to which the slot is being moved.
    async fn ask(&self, cmd: &Cmd, heir: &Address, guest: &mut Guest) -> RedisResult<Value> {
        if guest.as_ref().is_none_or(|(address, _)| address != heir) {
            let node = match self.members().find(heir) {
                Some(node) => node,
                None => {
                    let Shared { cluster, meter, .. } = &*self.shared;
                    cluster.connect(heir, meter).await.map_err(as_redis_error)?
                }
            };
            *guest = Some((heir.clone(), node));
        }
        let Some((_, node)) = guest else { return Err(too_many_redirections()) };
        let mut pipeline = redis::pipe();
        pipeline.cmd("ASKING");
        pipeline.add_command(cmd.clone());
        let mut answers = node.req_packed_commands(&pipeline, 0, 2).await?;
        Ok(answers.pop().unwrap_or(Value::Nil))
    }

    async fn pipeline(
        &self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let Some(slot) = slot_of_all(pipeline)? else {
            return self.any().req_packed_commands(pipeline, offset, count).await;
        };
        for _ in 0..=REDIRECTS_MAX {
            let members = self.members();
            let (address, node) = members.owner(slot);
            let answers = node.clone().req_packed_commands(pipeline, offset, count).await;
            if !pipeline.is_transaction() {
                return self.follow(pipeline, slot, &address.host, answers?).await;
            }
            // A server that does not own the slot carries out no part of a transaction. No server
            // accepts a transaction for a key that is being moved; the error says so.
            match redirect_of_transaction(&answers, &address.host) {
                Some(Redirect::Moved(owner)) => self.refresh(&members, &owner).await?,
                Some(Redirect::Ask(_)) | None => return answers,
            }
        }
        Err(too_many_redirections())
    }

    /// Repeats those commands of a pipeline that were redirected and so not carried out.
    async fn follow(
        &self,
        pipeline: &Pipeline,
        slot: u16,
        asked: &str,
        mut answers: Vec<Value>,
    ) -> RedisResult<Vec<Value>> {
        let mut guest = None;
        for (cmd, answer) in pipeline.cmd_iter().zip(&mut answers) {
            if let Value::ServerError(error) = answer
                && Redirect::parse(&RedisError::from(error.clone()), asked).is_some()
            {
                *answer = self.keyed(cmd, slot, &mut guest).await?;
            }
        }
        Ok(answers)
    }

    fn any(&self) -> Node {
        self.members().owner(0).1.clone()
    }

    /// Reads the layout again from the server that is named as the owner of a slot, unless another
    /// caller did so since `stale` was read.
    async fn refresh(&self, stale: &Arc<Members>, named: &Address) -> RedisResult<()> {
        let _turn = self.shared.turn.lock().await;
        if !Arc::ptr_eq(&self.members(), stale) {
            return Ok(());
        }
        let read = async {
            let Shared { cluster, meter, .. } = &*self.shared;
            let mut node = match stale.find(named) {
                Some(node) => node,
                None => cluster.connect(named, meter).await?,
            };
            let layout = cluster.read_layout(&mut node, &named.host).await?;
            let known = |address: &Address| {
                if address == named { Some(node.clone()) } else { stale.find(address) }
            };
            cluster.connect_all(layout, meter, known).await
        };
        let members = read.await.map_err(as_redis_error)?;
        tracing::debug!(masters = members.nodes.len(), "slots of the cluster have moved");
        *self.shared.members.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(members);
        Ok(())
    }
}

impl ConnectionLike for ClusterConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(self.command(cmd))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(self.pipeline(pipeline, offset, count))
    }

    fn get_db(&self) -> i64 {
        self.any().get_db()
    }
}

fn redirect(answer: &RedisResult<Value>, asked: &str) -> Option<Redirect> {
    match answer {
        Ok(Value::ServerError(error)) => Redirect::parse(&RedisError::from(error.clone()), asked),
        Ok(_) => None,
        Err(error) => Redirect::parse(error, asked),
    }
}

/// The redirection because of which a transaction was not carried out.
fn redirect_of_transaction(answers: &RedisResult<Vec<Value>>, asked: &str) -> Option<Redirect> {
    let parse = |error: &ServerError| Redirect::parse(&RedisError::from(error.clone()), asked);
    match answers {
        Ok(answers) => answers.iter().find_map(|answer| {
            if let Value::ServerError(error) = answer { parse(error) } else { None }
        }),
        Err(error) => {
            let errors = error.clone().into_server_errors()?;
            errors.iter().find_map(|(_, error)| parse(error))
        }
    }
}

fn too_many_redirections() -> RedisError {
    let what = "the servers of the cluster disagree about the owner of a slot";
    RedisError::from((ErrorKind::ClusterConnectionNotFound, what))
}

/// An error of a dial as an error of a command; `classify` turns it back into the same kind.
fn as_redis_error(error: StoreError) -> RedisError {
    if error.is_transient() {
        return RedisError::from(io::Error::new(io::ErrorKind::NotConnected, error));
    }
    let what = "a server of the cluster cannot be used";
    RedisError::from((ErrorKind::InvalidClientConfig, what, Chain(&error).to_string()))
}
