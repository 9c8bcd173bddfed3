//! The queue of environments that read stored flags. As many read at a time as there are cores, so
//! that the first is done early instead of all being done late. Environments that clients wait for
//! go first.
//!
//! Invariant: a turn that is dropped, used or not, goes to the next in the queue.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The queue of environments whose stored flags are still to be read. It is as long as the list of
/// environments, at most.
#[derive(Debug)]
pub struct LoadQueue {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    free: usize,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    is_awaited: Box<dyn Fn() -> bool + Send>,
    turn: oneshot::Sender<Turn>,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Waiting(awaited {})", (self.is_awaited)())
    }
}

/// The right to read. Dropping it ends the turn.
#[derive(Debug)]
pub(super) struct Turn(Arc<LoadQueue>);

impl Drop for Turn {
    fn drop(&mut self) {
        LoadQueue::pass_on(&self.0);
    }
}

impl LoadQueue {
    /// Creates a queue for so many turns at the same time.
    pub fn new(turns: usize) -> Arc<Self> {
        let inner = Inner { free: turns, waiting: VecDeque::new() };
        Arc::new(Self { inner: Mutex::new(inner) })
    }

    /// Waits for an environment's turn. `is_awaited` returns true if clients wait for its data.
    pub(super) async fn turn(
        self: Arc<Self>,
        is_awaited: impl Fn() -> bool + Send + 'static,
    ) -> Turn {
        let turn = {
            let mut inner = self.lock();
            if let Some(free) = inner.free.checked_sub(1) {
                inner.free = free;
                None
            } else {
                let (sender, receiver) = oneshot::channel();
                let is_awaited = Box::new(is_awaited);
                inner.waiting.push_back(Waiting { is_awaited, turn: sender });
                Some(receiver)
            }
        };
        match turn {
            Some(turn) => turn.await.expect("the queue holds the sender, and this the queue"),
            None => Turn(self),
        }
    }

    fn pass_on(queue: &Arc<Self>) {
        let next = {
            let mut inner = queue.lock();
            inner.waiting.retain(|waiting| !waiting.turn.is_closed());
            let awaited = inner.waiting.iter().position(|waiting| (waiting.is_awaited)());
            let next = inner.waiting.remove(awaited.unwrap_or(0));
            if next.is_none() {
                inner.free += 1;
            }
            next
        };
        if let Some(next) = next {
            // Outside the lock: a turn that is not taken comes back here.
            drop(next.turn.send(Turn(Arc::clone(queue))));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code panics while it holds the lock, so a poisoned lock is safe to use.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Poll, Waker};

    use super::*;

    /// An environment that waits for its turn.
    struct Waiter {
        awaited: Arc<AtomicBool>,
        turn: Pin<Box<dyn Future<Output = Turn>>>,
    }

    impl Waiter {
        fn poll(&mut self) -> Option<Turn> {
            match self.turn.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(turn) => Some(turn),
                Poll::Pending => None,
            }
        }
    }

    /// A queue with so many turns, four waiters, and the turns given at once.
    fn four_in_a_queue(turns: usize) -> (Arc<LoadQueue>, [Waiter; 4], [Option<Turn>; 4]) {
        let queue = LoadQueue::new(turns);
        let mut waiters = [(); 4].map(|()| {
            let awaited = Arc::new(AtomicBool::new(false));
            let asked = awaited.clone();
            let turn = queue.clone().turn(move || asked.load(Ordering::Relaxed));
            Waiter { awaited, turn: Box::pin(turn) }
        });
        let given = waiters.each_mut().map(Waiter::poll);
        (queue, waiters, given)
    }

    #[test]
    fn turns_are_given_in_order_up_to_the_bound() {
        let (_, mut waiters, mut given) = four_in_a_queue(2);
        assert_eq!(given.each_ref().map(Option::is_some), [true, true, false, false]);
        given[1] = None;
        assert!(waiters[3].poll().is_none(), "the third is before the fourth");
        let third = waiters[2].poll().expect("the second's turn went to the third");
        drop(third);
        assert!(waiters[3].poll().is_some());
    }

    #[test]
    fn whom_clients_wait_for_goes_first() {
        let (_, mut waiters, given) = four_in_a_queue(1);
        waiters[2].awaited.store(true, Ordering::Relaxed);
        drop(given);
        assert!(waiters[1].poll().is_none());
        let third = waiters[2].poll().expect("clients wait for the third");
        drop(third);
        assert!(waiters[1].poll().is_some(), "then the order is as it was");
    }

    #[test]
    fn a_turn_that_nobody_takes_is_not_lost() {
        let (queue, waiters, given) = four_in_a_queue(1);
        let [_, second, third, mut fourth] = waiters;
        drop(second);
        drop(given);
        // The third was given its turn and never took it.
        drop(third);
        let turn = fourth.poll().expect("the turn went on");
        drop(turn);
        assert_eq!(queue.lock().free, 1);
    }
}
