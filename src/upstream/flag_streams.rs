//! Opens the flag streams of environments.

use http::{HeaderMap, Uri};

use super::{
    EventStream, HttpClient, STREAM_LIMITS, StreamRequest, StreamTimings, UrlError, query_value,
};
use crate::model::{FilterKey, SdkKey};

/// What all flag streams have in common.
#[derive(Clone, Debug)]
pub struct FlagStreams {
    client: HttpClient,
    base: super::BaseUrl,
    timings: StreamTimings,
}

impl FlagStreams {
    /// Streams from a streaming base URL.
    pub fn new(client: HttpClient, base: super::BaseUrl, timings: StreamTimings) -> Self {
        Self { client, base, timings }
    }

    /// Opens the stream of an environment, seen through a payload filter.
    pub fn open(&self, key: &SdkKey, filter: &FilterKey) -> EventStream {
        let url = self.url(filter).unwrap_or_else(|error| {
            // The base is valid and the filter is encoded; the server will tell what it dislikes.
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
        EventStream::open(self.client.clone(), request, self.timings)
    }

    fn url(&self, filter: &FilterKey) -> Result<Uri, UrlError> {
        let query =
            (!filter.is_unfiltered()).then(|| format!("filter={}", query_value(filter.as_str())));
        self.base.join("/all", query.as_deref())
    }
}
