//! Bodies of responses: all at once, or a stream.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::streaming::EventBody;
use super::turns::Payload;

/// A response's body.
#[derive(Debug)]
pub(super) enum Body {
    /// A complete body.
    Full(Payload),
    /// Events, until the stream ends.
    Events(Box<EventBody>),
}

impl Body {
    pub(super) fn empty() -> Self {
        Self::Full(Payload::default())
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Full(Payload::small(bytes))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Full(payload) => {
                Poll::Ready(payload.next_piece().map(|bytes| Ok(Frame::data(bytes))))
            }
            Self::Events(events) => {
                events.poll_next(cx).map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(payload) => payload.is_empty(),
            Self::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(payload) => SizeHint::with_exact(payload.len() as u64),
            Self::Events(_) => SizeHint::default(),
        }
    }
}
