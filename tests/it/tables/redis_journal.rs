//! Writes without end through whatever happens to a database, and what became of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pilotlight::testing::storage::redis::{RedisStore, RedisTable};
use pilotlight::testing::storage::table::Written as Outcome;
use pilotlight::testing::storage::{BreakerState, StoreError};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::outage::SLACK;
use super::redis::open;
use super::space::{Space, content, insert};
use pilotlight_test_kit::LIMIT;

/// A write that was acknowledged.
#[derive(Clone, Debug)]
struct Written {
    name: String,
    /// Of the connection it went through.
    epoch: u64,
}

/// What a writer does, write by write.
#[derive(Clone, Debug, Default)]
struct Seen {
    acknowledged: Vec<Written>,
    errors: Vec<String>,
}

/// Writes one row after the other until it is told to stop.
pub(crate) struct Writer {
    store: RedisStore,
    seen: watch::Receiver<Seen>,
    stop: Arc<AtomicBool>,
    task: JoinSet<()>,
}

impl Writer {
    pub(crate) fn start(store: &RedisStore, namespace: &str) -> Self {
        let space = open(store.clone(), namespace);
        let (sender, seen) = watch::channel(Seen::default());
        let stop = Arc::new(AtomicBool::new(false));
        let mut task = JoinSet::new();
        task.spawn(write(store.clone(), space, sender, stop.clone()));
        Self { store: store.clone(), seen, stop, task }
    }

    /// Waits until `count` more writes were acknowledged.
    pub(crate) async fn has_written(&mut self, count: usize) {
        let goal = self.seen.borrow().acknowledged.len() + count;
        self.until(|seen, _| seen.acknowledged.len() >= goal).await;
    }

    /// Waits until a connection that was made after this call began has written a few rows.
    pub(crate) async fn has_come_back(&mut self, epoch_before: u64) {
        const A_FEW: usize = 20;
        self.until(|seen, _| {
            let new = seen.acknowledged.iter().filter(|written| written.epoch > epoch_before);
            new.count() >= A_FEW
        })
        .await;
    }

    pub(crate) fn errors(&self) -> Vec<String> {
        self.seen.borrow().errors.clone()
    }

    async fn until(&mut self, reached: impl Fn(&Seen, &RedisStore) -> bool) {
        let store = self.store.clone();
        let wait = self.seen.wait_for(|seen| reached(seen, &store));
        let outcome = timeout(2 * LIMIT, wait).await.map(|outcome| outcome.map(drop));
        let Ok(outcome) = outcome else {
            panic!("writes stand still: {:?}, health {:?}", self.errors(), store.health());
        };
        outcome.expect("the writer ended with a panic");
    }

    /// Stops, and looks what is there: all that was acknowledged, but for what went to the old
    /// master after it had last been copied. Replication is asynchronous, so such writes may be
    /// gone; then the connection was lost too, which is how whoever stands above knows.
    pub(crate) async fn check(mut self, copied: usize) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.task.join_next().await {
            ended.unwrap();
        }
        let seen = self.seen.borrow().clone();
        let newest = self.store.health().connected_epoch;
        let stored = content(&open(self.store.clone(), "ns")).await;
        for (number, written) in seen.acknowledged.iter().enumerate() {
            let is_there = stored.contains_key(&written.name);
            let may_be_lost = number >= copied && written.epoch < newest;
            assert!(is_there || may_be_lost, "{written:?} is lost; {:?}", seen.errors);
        }
    }
}

async fn write(
    store: RedisStore,
    space: Space<RedisTable>,
    seen: watch::Sender<Seen>,
    stop: Arc<AtomicBool>,
) {
    let mut health = store.watch_health();
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("env:{number}");
        let epoch = store.health().connected_epoch;
        let begun = Instant::now();
        let outcome = space.write(&[insert(&name, "1")]).await;
        let took = begun.elapsed();
        assert!(took < store.budgets().bulk + SLACK, "{took:?}");
        match outcome {
            Ok(outcome) => {
                assert_eq!(outcome, [Outcome::Applied]);
                // A write that made the connection itself counts for the one before.
                seen.send_modify(|seen| seen.acknowledged.push(Written { name, epoch }));
            }
            Err(error) => {
                assert!(error.is_transient(), "{error:?}");
                assert!(!matches!(error, StoreError::Unreadable { .. }), "{error:?}");
                seen.send_modify(|seen| seen.errors.push(format!("{error:?}")));
                let closed = health.wait_for(|health| health.state == BreakerState::Closed);
                let came_back = timeout(LIMIT, closed).await.is_ok();
                assert!(came_back, "{:?}", store.health());
            }
        }
    }
}
