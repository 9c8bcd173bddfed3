//! Tasks with owners. The only place that spawns.

use std::future::Future;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// The tasks that one owner started. Dropping it aborts them.
#[derive(Debug)]
pub struct TaskGroup {
    cancel: CancellationToken,
    tasks: JoinSet<&'static str>,
}

impl TaskGroup {
    /// A group that is cancelled with its parent.
    pub fn new(parent: &CancellationToken) -> Self {
        Self { cancel: parent.child_token(), tasks: JoinSet::new() }
    }

    /// The token that cancels this group.
    pub fn token(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Starts a task. `make` gets the token that tells it to stop.
    pub fn spawn<F, Fut>(&mut self, name: &'static str, make: F)
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let task = make(self.cancel.clone());
        let span = tracing::info_span!("task", name);
        self.tasks.spawn(
            async move {
                task.await;
                name
            }
            .instrument(span),
        );
    }

    /// Waits for the next task to end: its name, or how it failed. `None` without tasks.
    pub async fn ended(&mut self) -> Option<Result<&'static str, JoinError>> {
        self.tasks.join_next().await
    }

    /// Takes note of ended tasks without waiting, so that a long-lived group does not grow.
    pub fn reap(&mut self) {
        while self.tasks.try_join_next().is_some() {}
    }

    /// Number of tasks that are still running or not yet reaped.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether the group holds no task.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Cancels all tasks and waits for them; what is left after `grace` is aborted.
    ///
    /// Returns whether all ended in time.
    pub async fn shutdown(mut self, grace: Duration) -> bool {
        self.cancel.cancel();
        let drain = async { while self.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(grace, drain).await.is_ok()
    }
}

impl Drop for TaskGroup {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
