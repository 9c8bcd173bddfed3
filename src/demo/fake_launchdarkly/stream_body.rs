//! The body of an SSE response: queued events, and comments that keep the connection alive.
//!
//! Invariant: a stream is removed from the list of streams when its body is dropped.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use super::shared::{Message, OpenedStream, Shared};
use super::wire;

/// The body of one SSE response.
#[derive(Debug)]
pub(super) struct StreamBody {
    shared: Arc<Shared>,
    id: u64,
    messages: mpsc::Receiver<Message>,
    heartbeat: Option<Heartbeat>,
}

#[derive(Debug)]
struct Heartbeat {
    interval: Duration,
    due: Pin<Box<Sleep>>,
}

impl Heartbeat {
    fn new(interval: Duration) -> Self {
        Self { interval, due: Box::pin(tokio::time::sleep(interval)) }
    }

    fn rearm(&mut self) {
        self.due.as_mut().reset(Instant::now() + self.interval);
    }
}

impl StreamBody {
    /// The body of a stream that was just registered.
    pub(super) fn new(shared: Arc<Shared>, opened: OpenedStream) -> Self {
        let OpenedStream { id, messages, heartbeat } = opened;
        Self { shared, id, messages, heartbeat: heartbeat.map(Heartbeat::new) }
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            match self.messages.poll_recv(context) {
                Poll::Ready(Some(Message::Bytes(bytes))) => {
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Poll::Ready(Some(Message::Heartbeat(interval))) => {
                    self.heartbeat = interval.map(Heartbeat::new);
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => break,
            }
        }
        let Some(heartbeat) = &mut self.heartbeat else { return Poll::Pending };
        ready!(heartbeat.due.as_mut().poll(context));
        heartbeat.rearm();
        Poll::Ready(Some(Ok(Frame::data(wire::HEARTBEAT))))
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        self.shared.with(|inner| inner.remove_stream(self.id));
    }
}
