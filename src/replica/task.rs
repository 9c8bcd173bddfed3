//! The task of one copy: waits, asks the database, and passes answers to the core. It decides
//! nothing.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Moment, Replica, Step, Visits};
use crate::storage::StoreError;
use crate::tasks::{beside_if, until};

/// Bound on the last visit before the end of the process.
const LAST_VISIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Operations that the task needs for one kind of copy.
pub trait Surroundings<V: Visits>: Send {
    /// Waits until the wanted data changes or the epoch differs from this one. Cancel-safe.
    fn told(&mut self, seen_epoch: u64) -> impl Future<Output = ()> + Send;

    /// A count that grows when the database may have lost its data, as with a new connection.
    fn epoch(&mut self) -> u64;

    /// Asks the database.
    fn call(&mut self, call: V::Call)
    -> impl Future<Output = Result<V::Answer, StoreError>> + Send;

    /// Carries out an effect of the core. Cancel-safe.
    fn carry_out(&mut self, effect: V::Effect) -> impl Future<Output = ()> + Send;

    /// Reports that what still waits is not written before the end of the process.
    fn left_unwritten(&mut self);
}

/// The task.
#[derive(Debug)]
pub struct CopyTask<S>(S);

impl<S> CopyTask<S> {
    /// A task in these surroundings.
    pub fn new(surroundings: S) -> Self {
        Self(surroundings)
    }

    /// Keeps the copy until it is cancelled, then writes once more what waits.
    pub async fn run<V>(mut self, mut replica: Replica<V>, cancel: CancellationToken)
    where
        S: Surroundings<V>,
        V: Visits<Call: Send, Answer: Send + 'static, Effect: Send> + Send + 'static,
    {
        loop {
            let is_due = tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                () = self.0.told(replica.seen_epoch()) => false,
                () = until(replica.next()) => true,
            };
            if is_due {
                replica = self.visit(replica, Replica::begin, &cancel).await;
            } else {
                replica.told(self.0.epoch(), &Moment::present());
            }
        }
        if is_waiting(&mut replica) {
            let never = CancellationToken::new();
            let visit = self.visit(replica, Replica::begin_last, &never);
            let visited = tokio::time::timeout(LAST_VISIT_TIMEOUT, visit).await;
            if visited.is_err() || visited.is_ok_and(|mut replica| is_waiting(&mut replica)) {
                self.0.left_unwritten();
            }
        }
    }

    /// Carries out one visit, until the token cancels it.
    async fn visit<V>(
        &mut self,
        replica: Replica<V>,
        begin: fn(&mut Replica<V>, u64, &Moment) -> Step<V::Call>,
        cancel: &CancellationToken,
    ) -> Replica<V>
    where
        S: Surroundings<V>,
        V: Visits<Call: Send, Answer: Send + 'static, Effect: Send> + Send + 'static,
    {
        let (epoch, is_much) = (self.0.epoch(), replica.is_much(None));
        let (mut replica, mut step) =
            turn(replica, is_much, move |replica| begin(replica, epoch, &Moment::present())).await;
        loop {
            for effect in replica.visits().effects() {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return replica,
                    () = self.0.carry_out(effect) => {}
                }
            }
            let answer = match step {
                Step::Rest => return replica,
                Step::Wait(pause) => tokio::select! {
                    biased;
                    () = cancel.cancelled() => return replica,
                    () = tokio::time::sleep(pause) => None,
                },
                Step::Call(call) => tokio::select! {
                    biased;
                    () = cancel.cancelled() => return replica,
                    answer = self.0.call(call) => Some(answer),
                },
            };
            let epoch = self.0.epoch();
            let is_much = replica.is_much(answer.as_ref().and_then(|answer| answer.as_ref().ok()));
            (replica, step) = turn(replica, is_much, move |replica| {
                let at = Moment::present();
                match answer {
                    Some(answer) => replica.answered(answer, epoch, &at),
                    None => replica.waited(epoch, &at),
                }
            })
            .await;
        }
    }
}

fn is_waiting<V: Visits>(replica: &mut Replica<V>) -> bool {
    let waiting = replica.visits().waiting();
    waiting.put || waiting.dirty
}

/// Lets the core work; on a blocking thread if that is much.
async fn turn<V, T>(
    mut replica: Replica<V>,
    is_much: bool,
    work: impl FnOnce(&mut Replica<V>) -> T + Send + 'static,
) -> (Replica<V>, T)
where
    V: Send + 'static,
    T: Send + 'static,
{
    let work = move || {
        let done = work(&mut replica);
        (replica, done)
    };
    beside_if(is_much, work).await
}
