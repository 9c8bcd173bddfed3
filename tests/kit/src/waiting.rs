//! One way to wait for what must come.

use std::fmt::Display;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long a test waits for what must come. Long, because it is only spent on failure.
pub const LIMIT: Duration = Duration::from_secs(40);

/// Looks again and again until `look` is content; its last complaint is shown if it never is.
#[track_caller]
pub fn eventually<T, E: Display>(
    what: &str,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + LIMIT;
        loop {
            match look().await {
                Ok(value) => return value,
                Err(complaint) if Instant::now() > deadline => {
                    panic!("{place}: {what} did not come about within {LIMIT:?}: {complaint}")
                }
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

/// Waits for all; the first failure is the result.
pub async fn futures_of<T, F>(futures: impl Iterator<Item = F>) -> anyhow::Result<Vec<T>>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let mut waiting: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        let mut pending = false;
        for (future, done) in &mut waiting {
            if done.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(result) => *done = Some(result),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    waiting.into_iter().filter_map(|(_, done)| done).collect()
}
