//! Requests with events to LaunchDarkly.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};

use super::batch::Batch;
use super::outcome::Outcome;
use super::post::{Audience, Destination, Sender, payload_id_header};
use crate::telemetry::Chain;
use crate::upstream::{
    Authorization, BaseUrl, Deadlines, HttpClient, HttpRequest, PooledClient, query_value,
};

/// Paths for servers, phones and pages; the client-side ID follows the last one.
const ANALYTICS: [&str; 3] = ["/bulk", "/mobile", "/events/bulk/"];
const DIAGNOSTIC: [&str; 3] = ["/diagnostic", "/mobile/events/diagnostic", "/events/diagnostic/"];

/// Pause before the second attempt of a diagnostic event.
const DIAGNOSTIC_PAUSE: Duration = Duration::from_secs(1);

/// Time for the answer to a batch.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A credential of an environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The value of `Authorization`; pages have none.
    pub authorization: Option<Authorization>,
    /// The client-side ID, for pages.
    pub environment_id: Option<Arc<str>>,
}

/// Finds the credentials of a destination as they are now; `None` if it is not known.
pub type FindCredentials = dyn Fn(&Destination) -> Option<Credentials> + Send + Sync;

/// Sends batches.
#[derive(Clone)]
pub struct EventSender {
    client: PooledClient,
    base: BaseUrl,
    find: Arc<FindCredentials>,
}

impl fmt::Debug for EventSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventSender").field("base", &self.base).finish_non_exhaustive()
    }
}

impl EventSender {
    /// Sends to LaunchDarkly's address for events.
    pub fn new(client: HttpClient, base: BaseUrl, find: Arc<FindCredentials>) -> Self {
        let deadlines = Deadlines { response_header: ANSWER_MAX, ..Deadlines::default() };
        Self { client: PooledClient::new(client, deadlines), base, find }
    }

    /// The credentials of a destination as they are now.
    pub(super) fn credentials(&self, destination: &Destination) -> Option<Credentials> {
        (self.find)(destination)
    }

    /// Sends a batch. Bounded in time.
    pub(super) async fn send(&self, batch: &Batch) -> (Outcome, Option<String>) {
        let mut headers = batch.sender.headers();
        headers.extend(payload_id_header(&batch.id));
        let request = self.request(&batch.destination, ANALYTICS, headers, &batch.gzip);
        self.attempt(request).await
    }

    /// Sends a diagnostic event, at most twice; true if LaunchDarkly has it. Bounded in time.
    pub(super) async fn send_diagnostic(
        &self,
        destination: &Destination,
        sender: &Sender,
        gzip: &Bytes,
    ) -> bool {
        for pause in [DIAGNOSTIC_PAUSE, Duration::ZERO] {
            let headers = sender.sdk_headers();
            let request = self.request(destination, DIAGNOSTIC, headers, gzip);
            match self.attempt(request).await.0 {
                Outcome::Delivered => return true,
                Outcome::Failed { .. } => tokio::time::sleep(pause).await,
                Outcome::TooLarge | Outcome::Invalid | Outcome::Refused(_) => return false,
            }
        }
        false
    }

    async fn attempt(&self, request: Result<HttpRequest, String>) -> (Outcome, Option<String>) {
        let request = match request {
            Ok(request) => request,
            Err(problem) => return (Outcome::UNREACHABLE, Some(problem)),
        };
        match self.client.send(&request).await {
            Ok((status, headers)) => {
                let outcome = Outcome::of(status, &headers, SystemTime::now());
                let is_delivered = outcome == Outcome::Delivered;
                (outcome, (!is_delivered).then(|| format!("LaunchDarkly answers {status}")))
            }
            Err(error) => (Outcome::UNREACHABLE, Some(Chain(&error).to_string())),
        }
    }

    fn request(
        &self,
        destination: &Destination,
        [server, mobile, browser]: [&str; 3],
        mut headers: HeaderMap,
        gzip: &Bytes,
    ) -> Result<HttpRequest, String> {
        let Some(Credentials { authorization, environment_id }) = self.credentials(destination)
        else {
            return Err("its environment, or a credential of it, is not known".to_owned());
        };
        let path = match destination.audience {
            Audience::Server => server.to_owned(),
            Audience::Mobile => mobile.to_owned(),
            Audience::Browser => {
                let Some(id) = environment_id else {
                    return Err("the client-side ID is not known".to_owned());
                };
                format!("{browser}{}", query_value(&id))
            }
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let url = self.base.join(&path, None).map_err(|error| Chain(&error).to_string())?;
        Ok(HttpRequest { method: Method::POST, url, authorization, headers, body: gzip.clone() })
    }
}
