//! Runs many futures in one task, a limited number of them at a time.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// Runs all futures, at most `limit` at the same time, and returns their outputs in order.
///
/// All running ones are polled at each wake-up: intended for tens at a time, not for thousands.
pub async fn join_bounded<F: Future>(limit: usize, futures: Vec<F>) -> Vec<F::Output> {
    let mut waiting = futures.into_iter().enumerate();
    let mut running: Vec<(usize, Pin<Box<F>>)> = Vec::with_capacity(limit);
    let mut done: Vec<(usize, F::Output)> = Vec::new();
    poll_fn(|context| {
        loop {
            running.extend(
                waiting
                    .by_ref()
                    .take(limit.max(1).saturating_sub(running.len()))
                    .map(|(place, future)| (place, Box::pin(future))),
            );
            if running.is_empty() {
                return Poll::Ready(());
            }
            let before = done.len();
            running.retain_mut(|(place, future)| match future.as_mut().poll(context) {
                Poll::Ready(output) => {
                    done.push((*place, output));
                    false
                }
                Poll::Pending => true,
            });
            if done.len() == before {
                return Poll::Pending;
            }
        }
    })
    .await;
    done.sort_unstable_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, output)| output).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn outputs_are_in_order_and_the_limit_holds() {
        let (running, most) = (Cell::new(0), Cell::new(0));
        let (running, most) = (&running, &most);
        let futures = (0..10_u64).map(|number| async move {
            running.set(running.get() + 1);
            most.set(most.get().max(running.get()));
            sleep(Duration::from_millis(100 - number)).await;
            running.set(running.get() - 1);
            number
        });
        let begun = Instant::now();
        let outputs = join_bounded(4, futures.collect()).await;
        assert_eq!(outputs, (0..10).collect::<Vec<_>>());
        assert_eq!(most.get(), 4);
        assert!(begun.elapsed() < Duration::from_millis(301), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn ready_ones_and_none_at_all_end_at_once() {
        let ready = |count: u8| (0..count).map(std::future::ready).collect::<Vec<_>>();
        assert_eq!(join_bounded(2, ready(5)).await, [0, 1, 2, 3, 4]);
        assert!(join_bounded(2, ready(0)).await.is_empty());
        assert_eq!(join_bounded(0, ready(1)).await, [0]);
    }
}
