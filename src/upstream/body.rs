//! The body of a response, together with the connection that it comes over.
//!
//! The connection has no task of its own: it makes progress while the body is read, and ends when
//! the body is dropped.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::Connection;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep_until};

use super::dial::{BoxedIo, Progress};
use super::{ConnectError, Phase};

type HttpConnection = Connection<TokioIo<BoxedIo>, Full<Bytes>>;

/// One HTTP connection, driven by the future that waits for something from it.
pub(super) struct Driver(Option<Pin<Box<HttpConnection>>>);

impl Driver {
    pub(super) fn new(connection: HttpConnection) -> Self {
        Self(Some(Box::pin(connection)))
    }

    /// Drives the connection until `wanted` is ready, which also reports how the connection ends.
    pub(super) async fn drive<T>(&mut self, wanted: impl Future<Output = T>) -> T {
        let mut wanted = pin!(wanted);
        poll_fn(|cx| {
            if let Some(connection) = &mut self.0
                && connection.as_mut().poll(cx).is_ready()
            {
                self.0 = None;
            }
            wanted.as_mut().poll(cx)
        })
        .await
    }
}

/// The body of a response.
pub struct ResponseBody {
    driver: Driver,
    incoming: Incoming,
    progress: Progress,
    read: Duration,
}

impl fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseBody")
    }
}

impl ResponseBody {
    pub(super) fn new(
        driver: Driver,
        incoming: Incoming,
        progress: Progress,
        read: Duration,
    ) -> Self {
        Self { driver, incoming, progress, read }
    }

    /// The next bytes; `None` at the end of the body.
    ///
    /// Fails if not a single byte comes over the network within the read deadline. The time between
    /// two reads does not count. Safe to cancel: nothing is lost.
    pub async fn read(&mut self) -> Result<Option<Bytes>, ConnectError> {
        let begun = Instant::now();
        loop {
            let until = self.progress.last().max(begun) + self.read;
            tokio::select! {
                biased;
                frame = self.driver.drive(self.incoming.frame()) => match frame {
                    None => return Ok(None),
                    Some(Err(error)) => return Err(ConnectError::protocol(error)),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) if !data.is_empty() => return Ok(Some(data)),
                        Ok(_) | Err(_) => {}
                    },
                },
                () = sleep_until(until) => {
                    // Bytes may have come that are not part of the body.
                    if self.progress.last().max(begun) + self.read <= Instant::now() {
                        return Err(ConnectError::TimedOut { phase: Phase::Body, budget: self.read });
                    }
                }
            }
        }
    }
}
