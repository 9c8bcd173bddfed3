//! Turns to receive a full payload: after an incident a herd of clients is served in order, not
//! all at once with nobody finishing.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::InitialPayloads;
use super::pace::Pace;

/// How long a request may wait for its turn before it is told to come again.
const TURN_WAIT: Duration = Duration::from_secs(10);

/// Size of the pieces in which a payload is handed to a connection, so that its turn ends when
/// the client has taken nearly all of it.
const PIECE_BYTES: usize = 64 * 1024;

/// The turns that there are.
#[derive(Debug)]
pub(super) struct Turns {
    /// Permits are turns.
    slots: Arc<Semaphore>,
    /// Permits are places in the queue.
    queue: Semaphore,
    send_timeout: Duration,
}

impl Turns {
    pub(super) fn new(bounds: InitialPayloads) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(bounds.concurrent_max.min(Semaphore::MAX_PERMITS))),
            queue: Semaphore::new(bounds.queued_max.min(Semaphore::MAX_PERMITS)),
            send_timeout: bounds.send_timeout,
        }
    }

    /// Waits for a turn; `None` if too many wait already or it does not come in time.
    pub(super) async fn take(&self, pace: &Arc<Pace>) -> Option<Turn> {
        let permit = match self.slots.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _place = self.queue.try_acquire().ok()?;
                let permit = self.slots.clone().acquire_owned();
                tokio::time::timeout(TURN_WAIT, permit).await.ok()?.ok()?
            }
        };
        pace.limit_sending(Some(Instant::now() + self.send_timeout));
        Some(Turn { _permit: permit, pace: pace.clone() })
    }
}

/// The right to receive a full payload at this moment. While it is held, the connection ends if
/// the payload is not taken in time.
#[derive(Debug)]
pub(super) struct Turn {
    _permit: OwnedSemaphorePermit,
    pace: Arc<Pace>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.pace.limit_sending(None);
    }
}

/// What is left of a payload that is being handed to a connection; its turn ends with the last
/// piece.
#[derive(Default)]
pub(super) struct Payload {
    rest: Bytes,
    _turn: Option<Turn>,
}

/// Shows the size of the content and not the content.
impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Payload")
            .field("rest", &format_args!("{} bytes", self.rest.len()))
            .finish_non_exhaustive()
    }
}

impl Payload {
    pub(super) fn new(rest: Bytes, turn: Option<Turn>) -> Self {
        Self { rest, _turn: turn }
    }

    /// Bytes that are left.
    pub(super) fn len(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next piece, to be asked for when the connection has room for it.
    pub(super) fn next_piece(&mut self) -> Option<Bytes> {
        if self.rest.is_empty() {
            return None;
        }
        let piece = self.rest.split_to(PIECE_BYTES.min(self.rest.len()));
        if self.rest.is_empty() {
            *self = Self::default();
        }
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(concurrent_max: usize, queued_max: usize) -> Turns {
        let send_timeout = Duration::from_secs(60);
        Turns::new(InitialPayloads { concurrent_max, queued_max, send_timeout })
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_ends_with_the_last_piece() {
        let turns = turns(1, 0);
        let pace = Arc::default();
        let turn = turns.take(&pace).await.unwrap();
        assert_eq!(pace.send_until(), Some(Instant::now() + Duration::from_secs(60)));
        let whole = Bytes::from(vec![7; 2 * PIECE_BYTES + 1]);
        let mut payload = Payload::new(whole, Some(turn));
        let mut sizes = Vec::new();
        while let Some(piece) = payload.next_piece() {
            let is_last = payload.is_empty();
            sizes.push(piece.len());
            assert_eq!(turns.take(&Arc::default()).await.is_some(), is_last);
            assert_eq!(pace.send_until().is_none(), is_last);
        }
        assert_eq!(sizes, [PIECE_BYTES, PIECE_BYTES, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_served_in_time_or_told_to_come_again() {
        let turns = Arc::new(turns(1, 1));
        let pace = Arc::default();
        let first = turns.take(&pace).await.unwrap();
        let mut second = std::pin::pin!(turns.take(&pace));
        assert!(tokio::time::timeout(Duration::from_secs(9), &mut second).await.is_err());
        assert!(turns.take(&pace).await.is_none(), "the queue is full");
        drop(first);
        let second = second.await.unwrap();
        let begun = Instant::now();
        assert!(turns.take(&pace).await.is_none(), "nobody left in time");
        assert_eq!(begun.elapsed(), TURN_WAIT);
        drop(second);
        assert!(turns.take(&pace).await.is_some());
    }
}
