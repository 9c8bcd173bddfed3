//! Bodies of responses: all at once, or a stream. Unused bodies of requests.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::header::EXPECT;

use super::streaming::EventBody;
use super::turns::Payload;

/// Most bytes of an unused request body that are read and dropped (Go: 256 KiB). A client that is
/// still sending when the connection closes would not see its answer.
const DISCARDED_BYTES_MAX: usize = 256 * 1024;

/// Time limit for reading such a body.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads and drops a request's body, within bounds.
pub(super) async fn discard(request: &Request<()>, body: &mut (impl HttpBody + Unpin)) {
    // A client that sent `Expect` gets the answer at once and does not send its body.
    if body.is_end_stream() || request.headers().contains_key(EXPECT) {
        return;
    }
    let mut seen = 0;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await
            && seen <= DISCARDED_BYTES_MAX
        {
            seen += frame.data_ref().map_or(0, Buf::remaining);
        }
    };
    // However it ends, the answer is the same.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, reading).await;
}

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
