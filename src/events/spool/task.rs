//! Runs a spool beside the publisher: a slow disk does not hold up what goes to LaunchDarkly.

use std::time::SystemTime;

use tokio::sync::mpsc;

use super::{Spool, SpoolLoss};
use crate::events::batch::Batch;
use crate::events::lines::SegmentId;
use crate::events::post::Destination;
use crate::sealing::KeyRing;
use crate::tasks::beside;
use crate::telemetry::Chain;

/// Most orders that wait for the disk. Further batches stay in memory.
const ORDERS_MAX: usize = 64;

/// Something to be done with the spool.
#[derive(Debug)]
pub(in crate::events) enum Order {
    Append(Destination, Vec<Batch>),
    Load(Destination),
    Delete(SegmentId),
    SetRing(KeyRing),
}

/// The spool's answer.
#[derive(Debug)]
pub(in crate::events) enum Answer {
    /// The batches are not on the disk.
    NotWritten(Vec<Batch>, String),
    /// It is done.
    Done,
    /// The oldest segment of a destination, if there is one.
    Loaded(Destination, Option<(SegmentId, Vec<Batch>)>),
    /// A segment could not be read.
    NotLoaded(Destination, String),
}

/// An answer, and the state of the spool after it.
#[derive(Debug)]
pub(in crate::events) struct Told {
    pub(in crate::events) answer: Answer,
    pub(in crate::events) loss: SpoolLoss,
    pub(in crate::events) bytes: u64,
    pub(in crate::events) events: u64,
}

/// The publisher's end.
#[derive(Debug)]
pub(in crate::events) struct SpoolEnd {
    pub(in crate::events) orders: mpsc::Sender<Order>,
    pub(in crate::events) answers: mpsc::Receiver<Told>,
}

/// The two ends: for the publisher, and the task.
pub(in crate::events) fn start(
    spool: Spool,
) -> (SpoolEnd, impl Future<Output = ()> + Send + 'static) {
    let (orders, orders_end) = mpsc::channel(ORDERS_MAX);
    let (answers_end, answers) = mpsc::channel(ORDERS_MAX);
    (SpoolEnd { orders, answers }, run(spool, orders_end, answers_end))
}

async fn run(mut spool: Spool, mut orders: mpsc::Receiver<Order>, answers: mpsc::Sender<Told>) {
    while let Some(order) = orders.recv().await {
        let (back, answer) = beside(move || {
            let answer = carry_out(&mut spool, order);
            (spool, answer)
        })
        .await;
        spool = back;
        let Some(answer) = answer else { continue };
        let loss = spool.take_loss();
        let told = Told { answer, loss, bytes: spool.bytes(), events: spool.events() };
        if answers.send(told).await.is_err() {
            return;
        }
    }
}

fn carry_out(spool: &mut Spool, order: Order) -> Option<Answer> {
    match order {
        Order::Append(destination, batches) => Some(match spool.append(&destination, &batches) {
            Ok(()) => Answer::Done,
            Err(error) => Answer::NotWritten(batches, Chain(&error).to_string()),
        }),
        Order::Load(destination) => Some(match spool.load(&destination, SystemTime::now()) {
            Ok(found) => Answer::Loaded(destination, found),
            Err(error) => Answer::NotLoaded(destination, Chain(&error).to_string()),
        }),
        Order::Delete(segment) => {
            // A file that stays is sent once more after a restart, under the same names.
            let _ = spool.delete(segment);
            Some(Answer::Done)
        }
        Order::SetRing(ring) => {
            spool.set_ring(&ring);
            None
        }
    }
}
