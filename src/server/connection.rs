//! One connection of a client: HTTP/1.1 over a socket, with a bound on each kind of waiting.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use super::Server;
use super::body::Body;
use super::head_timer::{HEAD_TIMEOUT, HeadTimer, SHORT_HEAD_TIMEOUT};
use super::pace::{PACE_MIN, Pace};
use super::progress_io::{Patience, ProgressIo, Transport};
use crate::telemetry::Chain;

/// Limit on the head of a request. hyper checks it before each read, so a head can reach twice this
/// size. It is generous because paths of client-side routes hold contexts. (hyper accepts 64 KiB
/// for the path alone.)
const HEAD_BYTES_MAX: usize = 256 * 1024;

/// Longest time that a client may leave sent data unread.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);

/// Time without an acknowledgement after which the kernel gives a connection up (TCP_USER_TIMEOUT);
/// not set while the client is behind. While it is set, the kernel does not count probes: it gives
/// up at the first unanswered one after this time.
pub(super) const ACKNOWLEDGEMENT_TIMEOUT: Duration = Duration::from_secs(120);

/// Bytes that the kernel may hold for a client (it takes twice as much, its own structures
/// included). Small, so that the progress of a slow client is visible and one that does not read
/// costs little; large enough for 4 MB/s over a line with 50 ms of delay.
pub(super) const SEND_BUFFER_BYTES: usize = 128 * 1024;

/// Time limits of connections. At the minimum pace a client reads what the kernel holds for it (at
/// most twice [`SEND_BUFFER_BYTES`]) within the time for the remainder.
const PATIENCE: &Patience = &Patience {
    progress: PROGRESS_TIMEOUT,
    acknowledgement: ACKNOWLEDGEMENT_TIMEOUT,
    remainder: Duration::from_secs(60),
};
const _: () = assert!(
    2 * SEND_BUFFER_BYTES as u64 <= PATIENCE.remainder.as_secs() * PACE_MIN as u64,
    "a client at the minimum pace would be taken for one that vanished"
);

/// Number and kind of requests that a connection is accepted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Welcome {
    /// Any number of requests.
    Normal,
    /// One request, because the process is shutting down.
    Leaving,
    /// One request, which is refused unless it is a probe, because there are too many connections.
    OverLimit,
}

/// Serves one connection until it ends.
pub(super) async fn serve<T>(server: Arc<Server>, socket: T, pace: Arc<Pace>, welcome: Welcome)
where
    T: Transport + Send + 'static,
{
    let drain = server.drain.clone();
    let mut http = std::pin::pin!(http(server, socket, pace, welcome));
    let mut closed = std::pin::pin!(drain.closed());
    let outcome = tokio::select! {
        outcome = http.as_mut() => outcome,
        // A connection for a single request ends after its answer anyway; a shutdown here would end
        // it before.
        () = closed.as_mut(), if welcome == Welcome::Normal => {
            http.as_mut().graceful_shutdown();
            http.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(error = %Chain(&error), "connection of a client ended early");
    }
}

/// Builds the HTTP connection. Not async, so that values of the set-up take no room in the task.
fn http<T>(
    server: Arc<Server>,
    socket: T,
    pace: Arc<Pace>,
    welcome: Welcome,
) -> http1::Connection<TokioIo<ProgressIo<T>>, Requests>
where
    T: Transport,
{
    let io = TokioIo::new(ProgressIo::new(socket, PATIENCE, pace.clone()));
    let first_head = match welcome {
        Welcome::Normal => HEAD_TIMEOUT,
        Welcome::Leaving | Welcome::OverLimit => SHORT_HEAD_TIMEOUT,
    };
    http1::Builder::new()
        .timer(HeadTimer::new(pace.clone(), first_head))
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(welcome == Welcome::Normal)
        .serve_connection(io, Requests { server, pace, welcome })
}

/// Answers the requests of one connection.
#[derive(Debug)]
struct Requests {
    server: Arc<Server>,
    pace: Arc<Pace>,
    welcome: Welcome,
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Body>;
    type Error = Infallible;
    /// Boxed, because hyper reserves room for it for the life of the connection, and a stream needs
    /// it only at its beginning.
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.pace.head_came();
        let (server, pace) = (self.server.clone(), self.pace.clone());
        let welcome = self.welcome;
        Box::pin(async move {
            if welcome == Welcome::OverLimit {
                let response = server.handle_over_limit(request, &pace).await;
                server.refusals.count(&response);
                return Ok(response);
            }
            let mut response = server.handle(request, &pace).await;
            server.refusals.count(&response);
            if server.drain.is_active() {
                // Makes the client send its next request to another relay.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        })
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
