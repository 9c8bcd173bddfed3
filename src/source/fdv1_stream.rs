//! The flag stream of LaunchDarkly (`/all`) as a source.

use http::{HeaderMap, Uri};

use super::SourceEvent;
use super::fdv1_messages::{FlagMessage, decode};
use crate::model::{ChangeSet, FilterKey, SdkKey};
use crate::tasks::beside_if;
use crate::upstream::{
    BaseUrl, EventStream, HttpClient, RestartReason, STREAM_LIMITS, StreamEvent, StreamRequest,
    StreamTimings, UrlError, query_value,
};

/// Events up to this size are decoded on a thread of the runtime: that takes about a millisecond.
const DECODED_ON_THE_SPOT_BYTES_MAX: usize = 256 * 1024;

/// Settings that all flag streams share.
#[derive(Clone, Debug)]
pub struct Fdv1Streams {
    client: HttpClient,
    base: BaseUrl,
    timings: StreamTimings,
}

impl Fdv1Streams {
    /// Streams from a streaming base URL.
    pub fn new(client: HttpClient, base: BaseUrl, timings: StreamTimings) -> Self {
        Self { client, base, timings }
    }

    /// Opens the stream of an environment, seen through a payload filter.
    pub fn open(&self, key: &SdkKey, filter: &FilterKey) -> Fdv1Stream {
        let url = self.url(filter).unwrap_or_else(|error| {
            // Not expected: the base is valid and the filter is encoded. The server will answer
            // with an error.
            tracing::error!(%error, "URL of the flag stream cannot be built");
            Uri::from_static("/")
        });
        let request = StreamRequest {
            stream: "flags",
            url,
            authorization: key.into(),
            headers: HeaderMap::new(),
            limits: STREAM_LIMITS,
        };
        Fdv1Stream(EventStream::open(self.client.clone(), request, self.timings))
    }

    fn url(&self, filter: &FilterKey) -> Result<Uri, UrlError> {
        let query =
            (!filter.is_unfiltered()).then(|| format!("filter={}", query_value(filter.as_str())));
        self.base.join("/all", query.as_deref())
    }
}

/// The stream of one environment. Dropping it ends its connection.
#[derive(Debug)]
pub struct Fdv1Stream(EventStream);

/// An event as it arrived, not decoded yet.
#[derive(Debug)]
pub struct Undecoded(StreamEvent);

impl Fdv1Stream {
    /// The next event. Safe to cancel. `None` only if the stream's task stopped unexpectedly.
    pub async fn recv(&mut self) -> Option<Undecoded> {
        loop {
            let event = self.0.recv().await?;
            // A connection that has delivered nothing yet says nothing about the data.
            if !matches!(event, StreamEvent::Opened { .. }) {
                return Some(Undecoded(event));
            }
        }
    }

    /// Gives up a connection that delivered unusable data.
    pub fn restart_malformed(&self, connection: u64) {
        self.0.restart(connection, RestartReason::Malformed);
    }
}

impl Undecoded {
    /// Decodes what arrived; a large event on a blocking thread.
    pub async fn decoded(self) -> SourceEvent {
        let (connection, event) = match self.0 {
            StreamEvent::Event { connection, event } => (connection, event),
            StreamEvent::Closed { failure, .. } => return SourceEvent::Lost { failure },
            StreamEvent::Opened { .. } | StreamEvent::Comment { .. } => return SourceEvent::Alive,
        };
        let is_large = event.data.len() > DECODED_ON_THE_SPOT_BYTES_MAX;
        let decode = move || decode(&event.name, &event.data);
        match beside_if(is_large, decode).await {
            Ok(FlagMessage::Put(data)) => SourceEvent::Everything { connection, data },
            Ok(FlagMessage::Upsert(key, item)) => {
                SourceEvent::Changes { connection, changes: ChangeSet::one(key, item) }
            }
            Ok(FlagMessage::Ignored) => SourceEvent::Alive,
            Err(error) => SourceEvent::Malformed { connection, error },
        }
    }
}
