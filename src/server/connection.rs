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
use super::listener::{ACKNOWLEDGEMENT_TIMEOUT, SEND_BUFFER_BYTES};
use super::pace::{PACE_MIN, Pace};
use super::progress_io::{Patience, ProgressIo, Transport};
use crate::telemetry::Chain;

/// Largest head of a request, at least: hyper looks at it before it reads on, and the last read
/// can bring as much again. Contexts stand in paths of client-side routes, so it is generous. (Of
/// the path alone hyper takes 64 KiB.)
const HEAD_BYTES_MAX: usize = 256 * 1024;

/// How long a client may leave what is sent to it unread.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);

/// How long connections wait for their clients. At the minimum pace a client takes what the kernel
/// holds for it ([`SEND_BUFFER_BYTES`], twice at most) in less than the time for the remainder.
const PATIENCE: &Patience = &Patience {
    progress: PROGRESS_TIMEOUT,
    acknowledgement: ACKNOWLEDGEMENT_TIMEOUT,
    remainder: Duration::from_secs(60),
};
const _: () = assert!(
    2 * SEND_BUFFER_BYTES as u64 <= PATIENCE.remainder.as_secs() * PACE_MIN as u64,
    "a client at the minimum pace would be taken for one that vanished"
);

/// What a connection is accepted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Welcome {
    /// Any number of requests.
    Normal,
    /// One request, because the process is leaving.
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
        // One for a single request ends after its answer anyway; told now, it would end before.
        () = closed.as_mut(), if welcome == Welcome::Normal => {
            http.as_mut().graceful_shutdown();
            http.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(error = %Chain(&error), "connection of a client ended early");
    }
}

/// Not async, so that what only sets the connection up is no part of its task.
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
    /// Boxed, because hyper keeps room for it as long as the connection lives, and a stream needs
    /// it only at its beginning.
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.pace.head_came();
        let (server, pace) = (self.server.clone(), self.pace.clone());
        let welcome = self.welcome;
        Box::pin(async move {
            if welcome == Welcome::OverLimit {
                return Ok(server.handle_over_limit(request, &pace).await);
            }
            let mut response = server.handle(request, &pace).await;
            if server.drain.is_active() {
                // The client takes its next request to another relay.
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        })
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
