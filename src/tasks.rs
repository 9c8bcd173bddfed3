//! Tasks with owners. The only module that spawns tasks.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// Runs blocking work (about a millisecond per megabyte) outside of the runtime's threads. A panic
/// in it continues in the caller.
pub async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and so is the caller.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Runs work that may take long as [`beside`], and other work at once.
pub async fn beside_if<T: Send + 'static>(
    is_long: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if is_long { beside(work).await } else { work() }
}

/// Waits for a moment; indefinitely without one. Safe to cancel.
pub async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Pause before a task that stopped unexpectedly is started again: the cause may persist.
const RESTART_PAUSE: Duration = Duration::from_secs(5);

/// Runs a task until it is cancelled, and starts it again if it panics or returns before that. For
/// tasks whose end would go unnoticed.
pub async fn supervised<F, Fut>(name: &'static str, cancel: CancellationToken, mut make: F)
where
    F: FnMut(CancellationToken) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    while !cancel.is_cancelled() {
        let mut group = TaskGroup::new(&cancel);
        group.spawn(name, &mut make);
        let ended = group.ended().await;
        if cancel.is_cancelled() {
            return;
        }
        let error = match ended {
            Some(Err(error)) => error.to_string(),
            Some(Ok(_)) | None => "it returned".to_owned(),
        };
        tracing::error!(
            task = name,
            error,
            restart_in_seconds = RESTART_PAUSE.as_secs(),
            "a task stopped unexpectedly; starting it again"
        );
        // Both outcomes are fine: the loop checks the token next.
        let _ = tokio::time::timeout(RESTART_PAUSE, cancel.cancelled()).await;
    }
}

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
        let span = tracing::info_span!("task", task = name);
        self.tasks.spawn(
            async move {
                task.await;
                name
            }
            .instrument(span),
        );
    }

    /// Starts a task without its own span, for tasks that exist by the thousand.
    pub fn spawn_many<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits for the next task to end; returns its name or its failure. `None` without tasks.
    pub async fn ended(&mut self) -> Option<Result<&'static str, JoinError>> {
        self.tasks.join_next().await
    }

    /// Removes ended tasks without waiting, so that a long-lived group does not grow.
    pub fn reap(&mut self) {
        while self.tasks.try_join_next().is_some() {}
    }

    /// Number of tasks that are still running or not yet reaped.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// True if the group has no task.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Cancels all tasks and waits for them; tasks still running after `grace` are aborted.
    ///
    /// Returns true if all ended in time.
    pub async fn shutdown(mut self, grace: Duration) -> bool {
        self.cancel.cancel();
        let drain = async { while self.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(grace, drain).await.is_ok()
    }
}

/// Tasks that their owner identifies by a key and can stop one by one. Dropping it aborts them.
#[derive(Debug)]
pub struct KeyedTasks<K> {
    cancel: CancellationToken,
    tasks: JoinSet<()>,
    running: HashMap<tokio::task::Id, (K, CancellationToken)>,
}

impl<K: Clone + Eq + Hash> KeyedTasks<K> {
    /// An empty group whose tasks are cancelled with the parent.
    pub fn new(parent: &CancellationToken) -> Self {
        Self { cancel: parent.child_token(), tasks: JoinSet::new(), running: HashMap::new() }
    }

    /// Starts the task of a key. `make` gets the token that tells it to stop.
    pub fn spawn<F, Fut>(&mut self, key: K, span: tracing::Span, make: F)
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let cancel = self.cancel.child_token();
        let handle = self.tasks.spawn(make(cancel.clone()).instrument(span));
        self.running.insert(handle.id(), (key, cancel));
    }

    /// Tells the tasks of a key to stop; their end is not reported by [`Self::ended`].
    pub fn stop(&mut self, key: &K) {
        for (known, cancel) in self.running.values() {
            if known == key {
                cancel.cancel();
            }
        }
    }

    /// Waits until a task ends without having been stopped, and returns its key. Cancel-safe. Waits
    /// indefinitely while there is none.
    pub async fn ended(&mut self) -> (K, Option<JoinError>) {
        loop {
            let (id, error) = match self.tasks.join_next_with_id().await {
                Some(Ok((id, ()))) => (id, None),
                Some(Err(error)) => (error.id(), Some(error)),
                None => std::future::pending().await,
            };
            if let Some((key, cancel)) = self.running.remove(&id)
                && !cancel.is_cancelled()
            {
                return (key, error);
            }
        }
    }

    /// Cancels all tasks and waits for them; tasks still running after `grace` are aborted.
    ///
    /// Returns true if all ended in time.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_supervised_task_is_started_again_until_it_is_cancelled() {
        let cancel = CancellationToken::new();
        let starts = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let (count, stop) = (starts.clone(), cancel.clone());
        supervised("composed", cancel, move |cancel| {
            let start = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let stop = stop.clone();
            async move {
                match start {
                    0 => panic!("composed failure"),
                    1 => {}
                    _ => {
                        stop.cancel();
                        cancel.cancelled().await;
                    }
                }
            }
        })
        .await;
        assert_eq!(starts.load(std::sync::atomic::Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn the_end_of_a_task_that_nobody_stopped_is_reported() {
        let mut tasks = KeyedTasks::new(&CancellationToken::new());
        for key in ["stopped", "panics", "stays"] {
            tasks.spawn(key, tracing::Span::none(), move |cancel| async move {
                if key != "panics" {
                    cancel.cancelled().await;
                }
                assert!(key != "panics", "composed failure");
            });
        }
        tasks.stop(&"stopped");
        let (key, error) = tasks.ended().await;
        assert_eq!(key, "panics");
        assert!(error.is_some_and(|error| error.is_panic()));
        assert!(tasks.shutdown(Duration::from_secs(5)).await);
    }
}
