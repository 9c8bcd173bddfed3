//! Contexts in the bodies of `REPORT` requests, within bounds on memory and time.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as HttpBody;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{context, message_of, unavailable};
use crate::evaluation::Context;
use crate::server::Server;
use crate::server::body::Body;
use crate::server::refusals::Refusal;
use crate::server::responses::text;
use crate::tasks;

const NOT_JSON: &str = "The content type must be application/json";
const TOO_LARGE: &str = "the body is larger than the relay allows (maxClientRequestBodySize)";
const BROKEN: &str = "the body could not be read";
const TOO_SLOW: &str = "the body did not arrive in time";
const BUSY: &str = "too many large bodies are being read at this moment";

/// Time in which a body has to arrive.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Bodies up to this size need no part of the budget, and are read as JSON at once.
const SMALL_BYTES: usize = 64 * 1024;

/// Bytes of larger bodies that are held at the same time, unless one body may be larger.
const BUDGET_BYTES: usize = 32 << 20;

/// Memory for the bodies of requests. Whoever knows a client-side ID can send them.
#[derive(Debug)]
pub(in crate::server) struct BodyBudget {
    /// Largest body.
    pub(super) bytes_max: usize,
    /// Free memory, in KiB.
    free: Arc<Semaphore>,
}

impl BodyBudget {
    /// A budget for bodies of up to so many bytes.
    pub(in crate::server) fn new(bytes_max: u64) -> Self {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        let free = (BUDGET_BYTES.max(bytes_max) / 1024).min(Semaphore::MAX_PERMITS);
        Self { bytes_max, free: Arc::new(Semaphore::new(free)) }
    }

    /// Takes memory for another part of a body of so many bytes; false if there is none.
    fn take(&self, held: &mut Option<OwnedSemaphorePermit>, bytes: usize) -> bool {
        let needed = bytes.div_ceil(1024);
        let has = held.as_ref().map_or(SMALL_BYTES / 1024, OwnedSemaphorePermit::num_permits);
        if needed <= has {
            return true;
        }
        let missing = needed - held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let Ok(missing) = u32::try_from(missing) else { return false };
        let Ok(more) = self.free.clone().try_acquire_many_owned(missing) else { return false };
        match held {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
        true
    }
}

/// A body, and the memory that it takes from the budget.
pub(super) struct Received {
    pub(super) bytes: Bytes,
    _held: Option<OwnedSemaphorePermit>,
}

impl Server {
    /// Reads the context in a body. What is not read of a body stays.
    pub(super) async fn context_of_body<B>(
        &self,
        request: &Request<()>,
        body: &mut B,
    ) -> Result<Context, Response<Body>>
    where
        B: HttpBody + Unpin,
    {
        // ld-relay v8 takes no parameters either.
        if request.headers().get(CONTENT_TYPE).is_none_or(|value| value != "application/json") {
            return Err(text(StatusCode::UNSUPPORTED_MEDIA_TYPE, NOT_JSON));
        }
        let received = read_within(body, &self.bodies).await?;
        let is_long = received.bytes.len() > SMALL_BYTES;
        context::read(tasks::beside_if(is_long, move || Context::parse(&received.bytes)).await)
    }
}

/// Reads a body, which has to arrive in time.
pub(super) async fn read_within<B>(
    body: &mut B,
    budget: &BodyBudget,
) -> Result<Received, Response<Body>>
where
    B: HttpBody + Unpin,
{
    let Ok(received) = tokio::time::timeout(TIMEOUT, read(body, budget)).await else {
        return Err(message_of(StatusCode::REQUEST_TIMEOUT, TOO_SLOW));
    };
    received
}

async fn read<B>(body: &mut B, budget: &BodyBudget) -> Result<Received, Response<Body>>
where
    B: HttpBody + Unpin,
{
    let mut received = BytesMut::new();
    let mut held = None;
    let too_large = || message_of(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE);
    if body.size_hint().lower() > budget.bytes_max as u64 {
        return Err(too_large());
    }
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| message_of(StatusCode::BAD_REQUEST, BROKEN))?;
        let Ok(data) = frame.into_data() else { continue };
        let bytes = received.len() + data.remaining();
        if bytes > budget.bytes_max {
            return Err(too_large());
        }
        if !budget.take(&mut held, bytes) {
            return Err(unavailable(Refusal::Busy, BUSY));
        }
        received.put(data);
    }
    Ok(Received { bytes: received.freeze(), _held: held })
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    async fn status(budget: &BodyBudget, bytes: usize) -> Result<usize, u16> {
        let mut body = Full::new(Bytes::from(vec![b' '; bytes]));
        let received = read(&mut body, budget).await;
        received.map(|received| received.bytes.len()).map_err(|it| it.status().as_u16())
    }

    #[tokio::test]
    async fn bodies_are_bounded_one_by_one_and_together() {
        let budget = BodyBudget::new(BUDGET_BYTES as u64);
        assert_eq!(status(&budget, 0).await, Ok(0));
        assert_eq!(status(&budget, SMALL_BYTES).await, Ok(SMALL_BYTES));
        assert_eq!(status(&budget, BUDGET_BYTES).await, Ok(BUDGET_BYTES));
        assert_eq!(status(&budget, BUDGET_BYTES + 1).await, Err(413));
        let mut held = None;
        assert!(budget.take(&mut held, 20 << 20));
        assert!(budget.take(&mut held, 20 << 20), "nothing is taken twice");
        assert_eq!(status(&budget, 20 << 20).await, Err(503));
        assert_eq!(status(&budget, SMALL_BYTES).await, Ok(SMALL_BYTES));
        drop(held);
        assert_eq!(status(&budget, 20 << 20).await, Ok(20 << 20));
    }
}
