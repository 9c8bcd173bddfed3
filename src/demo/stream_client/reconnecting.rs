//! A stream that is opened again whenever it ends.

use std::time::Duration;

use tokio::time::Instant;

use super::{StreamClient, StreamClientError, StreamEvent, StreamTarget};
use crate::backoff::Backoff;

/// An observation of a reconnecting client.
#[derive(Debug)]
pub enum Observation {
    /// A stream was opened.
    Opened {
        /// Time from the beginning of connecting to the response head.
        after: Duration,
    },
    /// An event arrived.
    Event(StreamEvent),
    /// The server ended the stream normally.
    Ended,
    /// An attempt failed or the stream broke.
    Failed(StreamClientError),
}

/// Opens a stream again whenever it ends, with growing delays and without limit: unlike an SDK, it
/// treats no status as final.
#[derive(Debug)]
pub struct ReconnectingClient {
    target: StreamTarget,
    backoff: Backoff,
    client: Option<StreamClient>,
    /// Failures since the last event.
    failures: u32,
    retry_at: Option<Instant>,
    first_put_after: Option<Duration>,
}

impl ReconnectingClient {
    /// A client that connects at the first call of [`next`](Self::next).
    pub fn new(target: StreamTarget, backoff: Backoff) -> Self {
        let (client, failures, retry_at, first_put_after) = (None, 0, None, None);
        Self { target, backoff, client, failures, retry_at, first_put_after }
    }

    /// Waits for the next observation.
    pub async fn next(&mut self) -> Observation {
        let Some(client) = &mut self.client else {
            return self.open().await;
        };
        let observed = match client.next().await {
            Ok(Some(event)) => {
                self.failures = 0;
                self.first_put_after = self.first_put_after.or(client.first_put_after());
                return Observation::Event(event);
            }
            Ok(None) => Observation::Ended,
            Err(error) => Observation::Failed(error),
        };
        self.client = None;
        self.wait_before_next();
        observed
    }

    /// True if a stream is open.
    pub fn is_open(&self) -> bool {
        self.client.is_some()
    }

    /// Time from the beginning of connecting to the first complete `put`, for the first connection
    /// that received one.
    pub fn first_put_after(&self) -> Option<Duration> {
        self.first_put_after
    }

    async fn open(&mut self) -> Observation {
        if let Some(at) = self.retry_at {
            tokio::time::sleep_until(at).await;
        }
        match StreamClient::connect(&self.target).await {
            Ok(client) => {
                let after = client.opened_after();
                self.client = Some(client);
                Observation::Opened { after }
            }
            Err(error) => {
                self.wait_before_next();
                Observation::Failed(error)
            }
        }
    }

    fn wait_before_next(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(Instant::now() + self.backoff.delay(self.failures, fastrand::f64()));
    }
}
