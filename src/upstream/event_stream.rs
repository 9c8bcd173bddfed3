//! One event stream of upstream, which reconnects after each failure.
//!
//! A task connects, reads, waits and connects again; [`ReconnectPolicy`] says how long it waits.
//! The owner receives each step through [`EventStream::recv`] and needs no policy of its own. The
//! task does not know what events mean: an owner that finds one malformed calls
//! [`EventStream::restart`].
//!
//! Connections are numbered from 1 without gaps. An event belongs to the data of its connection:
//! after a restart, events of the old number may still be in flight and must be dropped by the
//! owner. An event that had not ended when its connection broke is never delivered.

use std::mem::{Discriminant, discriminant};
use std::time::Duration;

use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::url::shown;
use super::{
    Authorization, ConnectError, Deadlines, FailureClass, HttpClient, HttpRequest, HttpResponse,
    ReconnectPolicy, ReconnectTimings, StreamFailure,
};
use crate::model::{EnvironmentId, ErrorKind};
use crate::sse::{Event, Limits, Parsed, Parser};
use crate::tasks::TaskGroup;
use crate::telemetry::{Chain, Rounded};

/// Limits on what upstream makes the relay hold in memory. Lines that are no payload are names and
/// comments, a few bytes each; the largest environments seen have payloads of some tens of
/// megabytes.
pub const STREAM_LIMITS: Limits =
    Limits { line_bytes_max: 64 * 1024, event_bytes_max: 256 * 1024 * 1024 };

/// Most events that wait for the owner. Beyond that the connection is not read, which puts
/// back-pressure on upstream.
const WAITING_MAX: usize = 16;

/// Header that names the environment whose data a stream carries.
const ENVIRONMENT_ID: HeaderName = HeaderName::from_static("x-ld-envid");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// A stream to open.
#[derive(Clone, Debug)]
pub struct StreamRequest {
    /// Content of the stream, for logs and the task's name: `flags`, `autoconfig`.
    pub stream: &'static str,
    /// The URL of the stream.
    pub url: Uri,
    /// The key that opens it. Another key is another stream.
    pub authorization: Authorization,
    /// Headers in addition to those that every stream has.
    pub headers: HeaderMap,
    /// Bounds of what is read; usually [`STREAM_LIMITS`].
    pub limits: Limits,
}

/// All times of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamTimings {
    /// Longest waits of a connection.
    pub deadlines: Deadlines,
    /// Waits between connections.
    pub reconnect: ReconnectTimings,
}

/// A step in the life of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// A connection was opened: the head of the response is good. Nothing has been received yet.
    Opened {
        /// The number of the connection.
        connection: u64,
        /// The environment that upstream names.
        environment_id: Option<EnvironmentId>,
    },
    /// An event.
    Event {
        /// The connection that it came over.
        connection: u64,
        /// The event.
        event: Event,
    },
    /// A comment: upstream is alive. Left out when the owner is busy.
    Comment {
        /// The connection that it came over.
        connection: u64,
    },
    /// A connection ended, or could not be opened. The next one follows by itself.
    Closed {
        /// The number of the connection.
        connection: u64,
        /// The cause; `None` if the owner had requested a restart.
        failure: Option<StreamFailure>,
        /// Time until the next attempt.
        retry_in: Duration,
    },
}

/// Reason for which the owner gives a connection up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartReason {
    /// Data came that cannot be used. If it comes again and again, the waits grow to minutes.
    Malformed,
    /// Nothing is wrong: upstream, or a changed setting, asks for a new connection.
    Requested,
}

/// Wishes of the owner to the task. Only the newest one counts.
#[derive(Clone, Copy, Debug, Default)]
struct Wishes {
    restart: Option<(u64, RestartReason)>,
}

/// A stream. Dropping it ends its task at once, whatever the task is waiting for.
#[derive(Debug)]
pub struct EventStream {
    events: mpsc::Receiver<StreamEvent>,
    wishes: watch::Sender<Wishes>,
    _task: TaskGroup,
}

impl EventStream {
    /// Starts to connect.
    pub fn open(client: HttpClient, request: StreamRequest, timings: StreamTimings) -> Self {
        let (sender, events) = mpsc::channel(WAITING_MAX);
        let (wishes, wished) = watch::channel(Wishes::default());
        let name = request.stream;
        let span = tracing::info_span!("upstream", stream = name);
        let reader = Reader {
            client,
            timings,
            policy: ReconnectPolicy::new(timings.reconnect),
            parser: Parser::new(request.limits),
            request,
            events: sender,
            connection: 0,
            reported: None,
            profile: FailureClass::Normal,
        };
        let mut task = TaskGroup::new(&CancellationToken::new());
        // The task needs no token: it has nothing to finish, so it is aborted with the group.
        task.spawn(name, |_| reader.run(wished).instrument(span));
        Self { events, wishes, _task: task }
    }

    /// The next event. Safe to cancel.
    ///
    /// `None` only if the task stopped unexpectedly, which is a defect of the relay; then the owner
    /// must open the stream again.
    pub async fn recv(&mut self) -> Option<StreamEvent> {
        self.events.recv().await
    }

    /// Gives a connection up. Of several calls for the same connection the first one counts; for
    /// one that has ended already it does nothing.
    pub fn restart(&self, connection: u64, reason: RestartReason) {
        self.wishes.send_if_modified(|wishes| {
            let newer = wishes.restart.is_none_or(|(wished, _)| wished < connection);
            if newer {
                wishes.restart = Some((connection, reason));
            }
            newer
        });
    }
}

/// End of a connection.
enum End {
    Failed(ConnectError),
    Restarted(RestartReason),
    /// The handle is gone.
    Unwanted,
}

/// The task behind a stream.
struct Reader {
    client: HttpClient,
    request: StreamRequest,
    timings: StreamTimings,
    policy: ReconnectPolicy,
    parser: Parser,
    events: mpsc::Sender<StreamEvent>,
    connection: u64,
    /// The kind of failure that was logged last, until a connection is opened.
    reported: Option<(Discriminant<ConnectError>, StreamFailure)>,
    /// The pace of retries that was logged last.
    profile: FailureClass,
}

impl Reader {
    async fn run(mut self, mut wished: watch::Receiver<Wishes>) {
        loop {
            self.connection += 1;
            let connection = self.connection;
            // A restart drops the connection in any state; the parser starts again.
            let end = tokio::select! {
                biased;
                reason = restart_of(connection, &mut wished) => End::Restarted(reason),
                end = self.connection() => end,
            };
            let Some((failure, retry_in)) = self.closed(&end) else { return };
            self.log(&end, retry_in);
            let closed = StreamEvent::Closed { connection, failure, retry_in };
            if self.events.send(closed).await.is_err() {
                return;
            }
            sleep(retry_in).await;
        }
    }

    /// One connection from dialling to its end.
    async fn connection(&mut self) -> End {
        self.parser.restart();
        match self.connect().await {
            Ok(response) => self.read(response).await,
            Err(error) => End::Failed(error),
        }
    }

    async fn connect(&mut self) -> Result<HttpResponse, ConnectError> {
        let url = shown(&self.request.url);
        if self.connection == 1 {
            tracing::info!(url, "connecting to upstream");
        } else {
            tracing::debug!(url, connection = self.connection, "connecting to upstream");
        }
        let request = self.http_request();
        let response = self.client.send(&request, &self.timings.deadlines).await?;
        if response.status != StatusCode::OK {
            return Err(ConnectError::Status(response.status.as_u16()));
        }
        if !is_event_stream(&response.headers) {
            return Err(ConnectError::ContentType);
        }
        Ok(response)
    }

    fn http_request(&self) -> HttpRequest {
        let mut request =
            HttpRequest::get(self.request.url.clone(), Some(self.request.authorization.clone()));
        request.headers = self.request.headers.clone();
        request.headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        request.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        let id = self.parser.last_event_id();
        // An ID that no header can hold is left out; the stream then begins at its beginning.
        if let (false, Ok(id)) = (id.is_empty(), HeaderValue::from_str(id)) {
            request.headers.insert(LAST_EVENT_ID, id);
        }
        request
    }

    async fn read(&mut self, mut response: HttpResponse) -> End {
        let connection = self.connection;
        self.reported = None;
        self.policy.opened(Instant::now());
        tracing::info!(connection, "upstream stream opened");
        let environment_id = environment_id(&response.headers);
        if self.events.send(StreamEvent::Opened { connection, environment_id }).await.is_err() {
            return End::Unwanted;
        }
        loop {
            let chunk = match response.body.read().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return End::Failed(ConnectError::Ended),
                Err(error) => return End::Failed(error),
            };
            let mut input = &chunk[..];
            loop {
                let event = match self.parser.read(&mut input) {
                    Ok(None) => break,
                    Ok(Some(Parsed::Event(event))) => event,
                    Ok(Some(Parsed::Retry(millis))) => {
                        self.policy.hinted(millis);
                        continue;
                    }
                    Ok(Some(Parsed::Comment)) => {
                        // A full queue is a sign of life by itself.
                        let _ = self.events.try_send(StreamEvent::Comment { connection });
                        continue;
                    }
                    Err(error) => return End::Failed(ConnectError::EventStream(error)),
                };
                if self.events.send(StreamEvent::Event { connection, event }).await.is_err() {
                    return End::Unwanted;
                }
            }
        }
    }

    /// The failure for `/status` and the wait before the next attempt, after the end of a
    /// connection. `None`: there is no next attempt.
    fn closed(&mut self, end: &End) -> Option<(Option<StreamFailure>, Duration)> {
        let (now, random) = (Instant::now(), fastrand::f64());
        Some(match end {
            // The same connection would bring the same bytes, so this counts as malformed data.
            End::Failed(error @ ConnectError::EventStream(_)) => {
                let delay = self.policy.restarted(RestartReason::Malformed, now, random);
                (Some(error.failure()), delay)
            }
            End::Failed(error) => {
                (Some(error.failure()), self.policy.failed(error.class(), now, random))
            }
            End::Restarted(reason) => {
                let failure = match reason {
                    RestartReason::Malformed => {
                        Some(StreamFailure { kind: ErrorKind::InvalidData, status: None })
                    }
                    RestartReason::Requested => None,
                };
                (failure, self.policy.restarted(*reason, now, random))
            }
            End::Unwanted => return None,
        })
    }

    /// Logs one line for each change; repetitions are logged at the debug level.
    fn log(&mut self, end: &End, retry_in: Duration) {
        let connection = self.connection;
        let retry_in = Rounded(retry_in);
        match end {
            End::Failed(error) => {
                // A broken connection and a failed attempt can have the same failure, so the
                // variant counts too.
                let kind = (discriminant(error), error.failure());
                let known = self.reported.replace(kind) == Some(kind);
                let rejected = matches!(error, ConnectError::Status(401 | 403));
                let error = Chain(error);
                if known {
                    tracing::debug!(connection, %retry_in, %error, "upstream stream failed again");
                } else if rejected {
                    let key = self.request.authorization.obscured();
                    let kind = if self.request.stream == "autoconfig" {
                        "relay key (AUTO_CONFIG_KEY)"
                    } else {
                        "SDK key"
                    };
                    tracing::error!(
                        connection,
                        %retry_in,
                        %error,
                        key,
                        "LaunchDarkly rejects the {kind}; what is known is served, and the key is \
                         tried again"
                    );
                } else {
                    tracing::warn!(connection, %retry_in, %error, "upstream stream failed");
                }
            }
            End::Restarted(RestartReason::Malformed) => {
                tracing::warn!(connection, %retry_in, "upstream stream restarts: malformed data");
            }
            End::Restarted(RestartReason::Requested) => {
                tracing::info!(connection, %retry_in, "upstream stream restarts as requested");
            }
            End::Unwanted => {}
        }
        let profile = self.policy.profile();
        if std::mem::replace(&mut self.profile, profile) != profile {
            match profile {
                FailureClass::Slow => tracing::info!("slow retries until a connection holds"),
                FailureClass::Normal => tracing::info!("back to retries at the usual pace"),
            }
        }
    }
}

/// Waits until the owner gives exactly this connection up.
async fn restart_of(connection: u64, wished: &mut watch::Receiver<Wishes>) -> RestartReason {
    let wish = |wishes: &Wishes| wishes.restart.is_some_and(|(wished, _)| wished == connection);
    match wished.wait_for(wish).await.map(|wishes| wishes.restart) {
        Ok(Some((_, reason))) => reason,
        // The handle is gone, and this task with it.
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}

fn environment_id(headers: &HeaderMap) -> Option<EnvironmentId> {
    let id = headers.get(ENVIRONMENT_ID)?.to_str().ok().filter(|id| !id.is_empty())?;
    Some(EnvironmentId::new(id))
}

#[cfg(test)]
mod tests;
