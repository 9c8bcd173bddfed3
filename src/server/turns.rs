//! Turns to receive a full payload: after an incident clients are served in order, because all at
//! once none would finish. The turns are shared fairly ([`admission`](super::admission)).

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::InitialPayloads;
use super::admission::{Admission, Asked, Queueing, Ticket};
use super::pace::{Demanded, Pace};
use super::routes::Auth;
use crate::streams::{Sending, Version, Versions};

/// Longest time that a request waits for its turn before it gets 503.
const TURN_WAIT: Duration = Duration::from_secs(10);

/// Longest time that a turn may be held. After that it goes to the next client, and a payload that
/// keeps the minimum pace is still sent to its end: a slow client must not make others wait, and
/// costs little itself.
const TURN_HELD_MAX: Duration = Duration::from_secs(120);

/// Size of the pieces in which a payload is handed to a connection, so that its turn ends when
/// the client has taken nearly all of it.
const PIECE_BYTES: usize = 64 * 1024;

/// Payloads up to this size need no turn: they fit into what the kernel holds for a client, so the
/// relay need not wait for the client to read.
const SMALL_BYTES: usize = 64 * 1024;

/// Requests that share a part of the turns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Group {
    /// The environment, all its payload filters together.
    pub(super) environment: Arc<str>,
    pub(super) credential: CredentialKind,
    pub(super) purpose: Purpose,
}

/// Kind of the credential that opened the environment. Environment IDs are public in web pages, so
/// clients with one must not delay servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum CredentialKind {
    Sdk,
    Mobile,
    EnvironmentId,
}

impl From<&Auth> for CredentialKind {
    fn from(auth: &Auth) -> Self {
        match auth {
            Auth::Sdk => Self::Sdk,
            Auth::Mobile => Self::Mobile,
            Auth::EnvironmentId(_) | Auth::Client => Self::EnvironmentId,
        }
    }
}

/// Reason for which a payload is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    /// The client has no data yet.
    First,
    /// A connected client needs everything again. It can wait longer, since it has older data.
    Renewal,
}

/// The turns of the process.
#[derive(Debug)]
pub(super) struct Turns {
    books: Mutex<Books>,
    /// Time for one payload, after which its connection ends (`sendTimeout`); `None` if only the
    /// minimum pace is demanded.
    send_timeout: Option<Duration>,
}

#[derive(Debug)]
struct Books {
    admission: Admission<Group>,
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
}

impl Turns {
    pub(super) fn new(bounds: InitialPayloads) -> Self {
        let admission = Admission::new(bounds.concurrent_max, bounds.queued_max);
        let books = Mutex::new(Books { admission, waiting: HashMap::new() });
        Self { books, send_timeout: bounds.send_timeout }
    }

    /// True if a payload of that size needs a turn.
    pub(super) fn are_needed_for(bytes: usize) -> bool {
        bytes > SMALL_BYTES
    }

    /// Waits for a turn; `None` if too many wait already or it does not come in time.
    pub(super) async fn take(self: &Arc<Self>, group: Group) -> Option<Turn> {
        let claim = self.claim(group, Queueing::Bounded)?;
        tokio::time::timeout(TURN_WAIT, claim).await.ok()
    }

    /// Claims a turn for a connected client. The number of connections bounds the number of these
    /// claims.
    pub(super) fn claim_renewal(self: &Arc<Self>, group: Group) -> Option<Claim> {
        self.claim(group, Queueing::Unbounded)
    }

    fn claim(self: &Arc<Self>, group: Group, queueing: Queueing) -> Option<Claim> {
        let mut books = self.books();
        let state = match books.admission.ask(&group, queueing) {
            Asked::Refused => return None,
            Asked::Admitted => ClaimState::Admitted,
            Asked::Queued(ticket) => {
                let (sender, admitted) = oneshot::channel();
                books.waiting.insert(ticket, sender);
                ClaimState::Queued { ticket, admitted }
            }
        };
        Some(Claim { turns: self.clone(), group, state })
    }

    fn release(&self, group: &Group) {
        let mut books = self.books();
        for ticket in books.admission.release(group) {
            if let Some(waiting) = books.waiting.remove(&ticket) {
                // A claim that is being dropped gives the turn back itself.
                let _ = waiting.send(());
            }
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // No code panics while it holds the lock, so a poisoned lock is safe to use.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the queue that becomes a turn. Dropping it leaves the queue.
pub(super) struct Claim {
    turns: Arc<Turns>,
    group: Group,
    state: ClaimState,
}

enum ClaimState {
    Queued {
        ticket: Ticket,
        admitted: oneshot::Receiver<()>,
    },
    Admitted,
    /// The turn was taken out of the claim.
    Taken,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("group", &self.group).finish_non_exhaustive()
    }
}

impl Future for Claim {
    type Output = Turn;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Turn> {
        let this = self.get_mut();
        match &mut this.state {
            ClaimState::Queued { admitted, .. } => {
                // The sender is dropped only after it has sent.
                std::task::ready!(Pin::new(admitted).poll(cx)).ok();
            }
            ClaimState::Admitted => {}
            ClaimState::Taken => return Poll::Pending,
        }
        this.state = ClaimState::Taken;
        Poll::Ready(Turn {
            turns: this.turns.clone(),
            group: this.group.clone(),
            since: Instant::now(),
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        match self.state {
            ClaimState::Queued { ticket, .. } => {
                let mut books = self.turns.books();
                if books.waiting.remove(&ticket).is_some() {
                    books.admission.give_up(&self.group, ticket);
                } else {
                    drop(books);
                    self.turns.release(&self.group);
                }
            }
            ClaimState::Admitted => self.turns.release(&self.group),
            ClaimState::Taken => {}
        }
    }
}

/// The right to receive a full payload at this moment.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    group: Group,
    since: Instant,
}

impl Turn {
    fn has_lapsed(&self) -> bool {
        self.since.elapsed() > TURN_HELD_MAX
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.release(&self.group);
    }
}

/// The rest of a payload that is being handed to a connection. Its turn, and the demand of a
/// minimum pace, end when the socket has taken the last piece.
#[derive(Default)]
pub(super) struct Payload {
    rest: Bytes,
    delivery: Option<Box<Delivery>>,
}

/// Guards that accompany a payload that is not small.
#[derive(Debug)]
struct Delivery {
    turn: Option<Turn>,
    _demanded: Demanded,
    _sending: Sending,
}

/// Shows the size of the content and not the content.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload")
            .field("rest", &format_args!("{} bytes", self.rest.len()))
            .finish_non_exhaustive()
    }
}

impl Payload {
    /// A payload that needs no turn and no pace.
    pub(super) fn small(rest: Bytes) -> Self {
        Self { rest, delivery: None }
    }

    /// A payload of any size, under a turn where there is one.
    pub(super) fn new(
        rest: Bytes,
        version: &Arc<impl Version + 'static>,
        turn: Option<Turn>,
        pace: &Arc<Pace>,
        versions: &Versions,
    ) -> Self {
        if !Turns::are_needed_for(rest.len()) {
            return Self::small(rest);
        }
        let time_max = turn.as_ref().and_then(|turn| turn.turns.send_timeout);
        let reader: Weak<Pace> = Arc::downgrade(pace);
        let delivery = Delivery {
            turn,
            _demanded: pace.demand(Instant::now(), time_max),
            _sending: versions.sending(version, &rest, reader),
        };
        Self { rest, delivery: Some(Box::new(delivery)) }
    }

    /// Bytes that are left.
    pub(super) fn len(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next piece, to be called when the connection has room for it.
    pub(super) fn next_piece(&mut self) -> Option<Bytes> {
        if self.rest.is_empty() {
            return None;
        }
        let piece = self.rest.split_to(PIECE_BYTES.min(self.rest.len()));
        if self.rest.is_empty() {
            self.rest = Bytes::new();
            return Some(match self.delivery.take() {
                Some(delivery) => Bytes::from_owner(LastPiece { piece, _delivery: delivery }),
                None => piece,
            });
        }
        if let Some(delivery) = &mut self.delivery {
            delivery.turn.take_if(|turn| turn.has_lapsed());
        }
        Some(piece)
    }
}

/// The last piece of a payload. The connection drops it once the socket has taken it.
struct LastPiece {
    piece: Bytes,
    _delivery: Box<Delivery>,
}

impl AsRef<[u8]> for LastPiece {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DataSet;

    fn turns(concurrent_max: usize, queued_max: usize) -> Arc<Turns> {
        let send_timeout = None;
        Arc::new(Turns::new(InitialPayloads { concurrent_max, queued_max, send_timeout }))
    }

    fn version() -> Arc<DataSet> {
        Arc::default()
    }

    fn group(environment: &str) -> Group {
        Group {
            environment: environment.into(),
            credential: CredentialKind::Sdk,
            purpose: Purpose::First,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_ends_with_the_last_piece() {
        let turns = turns(1, 0);
        let pace = Arc::default();
        let turn = turns.take(group("a")).await.unwrap();
        let whole = Bytes::from(vec![7; 2 * PIECE_BYTES + 1]);
        let mut payload = Payload::new(whole, &version(), Some(turn), &pace, &Versions::default());
        assert_eq!(pace.send_until(), Some(Instant::now() + super::super::pace::PACE_SLACK));
        let mut sizes = Vec::new();
        while let Some(piece) = payload.next_piece() {
            let is_last = payload.is_empty();
            sizes.push(piece.len());
            assert!(turns.take(group("a")).await.is_none(), "the connection still holds the piece");
            drop(piece);
            assert_eq!(turns.take(group("a")).await.is_some(), is_last);
            assert_eq!(pace.send_until().is_none(), is_last);
        }
        assert_eq!(sizes, [PIECE_BYTES, PIECE_BYTES, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_is_held_for_long_lapses_and_the_payload_is_sent_on() {
        let turns = turns(1, 0);
        let pace = Arc::default();
        let turn = turns.take(group("a")).await.unwrap();
        let bytes = vec![7; 4 * PIECE_BYTES].into();
        let mut payload = Payload::new(bytes, &version(), Some(turn), &pace, &Versions::default());
        tokio::time::sleep(TURN_HELD_MAX).await;
        payload.next_piece().unwrap();
        assert!(turns.take(group("a")).await.is_none());
        tokio::time::sleep(Duration::from_millis(1)).await;
        payload.next_piece().unwrap();
        assert!(turns.take(group("a")).await.is_some());
        assert!(pace.send_until().is_some(), "the minimum pace is still demanded");
        assert_eq!(payload.len(), 2 * PIECE_BYTES);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_served_in_time_or_told_to_come_again() {
        let turns = turns(1, 1);
        let first = turns.take(group("a")).await.unwrap();
        let mut second = std::pin::pin!(turns.take(group("a")));
        assert!(tokio::time::timeout(Duration::from_secs(9), &mut second).await.is_err());
        assert!(turns.take(group("a")).await.is_none(), "the queue is full");
        drop(first);
        let second = second.await.unwrap();
        let begun = Instant::now();
        assert!(turns.take(group("a")).await.is_none(), "nobody left in time");
        assert_eq!(begun.elapsed(), TURN_WAIT);
        drop(second);
        assert!(turns.take(group("a")).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_is_dropped_gives_its_turn_back() {
        let turns = turns(1, 1);
        let held = turns.take(group("a")).await.unwrap();
        let admitted = turns.claim_renewal(group("a")).unwrap();
        drop(held);
        drop(admitted);
        drop(turns.claim_renewal(group("a")).unwrap());
        let held = turns.take(group("a")).await.unwrap();
        drop(turns.claim_renewal(group("a")).unwrap());
        drop(held);
        assert!(turns.take(group("b")).await.is_some());
        assert!(turns.books().waiting.is_empty());
    }
}
