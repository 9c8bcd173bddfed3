//! One connection of a client: HTTP/1.1 over a socket, with a bound on each kind of waiting.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Server;
use super::body::Body;
use super::pace::{HEAD_TIMEOUT, HeadTimer, LATE_HEAD_TIMEOUT, Pace};
use super::progress_io::ProgressIo;

/// Largest head of a request, at least: hyper looks at it before it reads on, and the last read
/// can bring as much again. Contexts stand in paths of client-side routes, so it is generous. (Of
/// the path alone hyper takes 64 KiB.)
const HEAD_BYTES_MAX: usize = 256 * 1024;

/// How long a client may leave what is sent to it unread.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves one connection until it ends.
pub(super) async fn serve<T>(server: Arc<Server>, socket: T)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let drain = server.drain.clone();
    let came_late = drain.is_active();
    let mut http = std::pin::pin!(http(server, socket, came_late));
    let mut leaving = std::pin::pin!(drain.begun());
    let outcome = tokio::select! {
        outcome = http.as_mut() => outcome,
        // One that came late ends after its first answer anyway; told now, it would end before.
        () = leaving.as_mut(), if !came_late => {
            http.as_mut().graceful_shutdown();
            http.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "connection of a client ended early");
    }
}

/// Not async, so that what only sets the connection up is no part of its task.
fn http<T>(
    server: Arc<Server>,
    socket: T,
    came_late: bool,
) -> http1::Connection<TokioIo<ProgressIo<T>>, Requests>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let pace = Arc::new(Pace::default());
    let io = TokioIo::new(ProgressIo::new(socket, PROGRESS_TIMEOUT, pace.clone()));
    let first_head = if came_late { LATE_HEAD_TIMEOUT } else { HEAD_TIMEOUT };
    http1::Builder::new()
        .timer(HeadTimer::new(pace.clone(), first_head))
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(!came_late)
        .serve_connection(io, Requests { server, pace })
}

/// Answers the requests of one connection.
#[derive(Debug)]
struct Requests {
    server: Arc<Server>,
    pace: Arc<Pace>,
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Body>;
    type Error = Infallible;
    /// Boxed, because hyper keeps room for it as long as the connection lives, and a stream needs
    /// it only at its beginning.
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (server, pace) = (self.server.clone(), self.pace.clone());
        Box::pin(async move { Ok(server.handle(request, &pace).await) })
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
