//! Requests over connections that stay open in between, for those who make many.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{PROXY_AUTHORIZATION, USER_AGENT};
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::timeout;
use tower_service::Service;

use super::dial::BoxedIo;
use super::http_client::HttpClient;
use super::url::Target;
use super::{ConnectError, Deadlines, HttpRequest, Phase};
use crate::telemetry::Chain;

/// Connections that are kept although nothing is sent.
const IDLE_CONNECTIONS_MAX: usize = 4;

/// Time after which an unused connection is closed. Load balancers close theirs after a minute.
const IDLE_MAX: Duration = Duration::from_secs(45);

/// Most bytes of a response's body that are read so that its connection can be used again.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Makes requests over connections that stay open. Clones share the connections.
#[derive(Clone, Debug)]
pub struct PooledClient {
    http: HttpClient,
    client: Client<Connector, Full<Bytes>>,
    deadlines: Deadlines,
}

impl PooledClient {
    /// Uses the proxies and certificates of a client.
    pub fn new(http: HttpClient, deadlines: Deadlines) -> Self {
        let connector = Connector { http: http.clone(), deadlines };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(connector);
        Self { http, client, deadlines }
    }

    /// Sends a request, and waits for the status and the headers. Redirects are not followed, and
    /// the body is dropped.
    pub async fn send(
        &self,
        request: &HttpRequest,
    ) -> Result<(StatusCode, HeaderMap), ConnectError> {
        let message = self.message(request)?;
        let budget = self.deadlines.dns
            + self.deadlines.connect
            + self.deadlines.proxy
            + 2 * self.deadlines.tls
            + self.deadlines.response_header;
        let answered = timeout(budget, self.client.request(message)).await;
        let response = answered
            .map_err(|_| ConnectError::TimedOut { phase: Phase::ResponseHeader, budget })?
            .map_err(error)?;
        let (head, mut body) = response.into_parts();
        let mut seen = 0;
        let reading = async {
            while let Some(Ok(frame)) = body.frame().await
                && seen <= BODY_BYTES_MAX
            {
                seen += frame.data_ref().map_or(0, Bytes::len);
            }
        };
        // However it ends, the status is known.
        let _ = timeout(self.deadlines.response_header, reading).await;
        Ok((head.status, head.headers))
    }

    fn message(&self, request: &HttpRequest) -> Result<Request<Full<Bytes>>, ConnectError> {
        let mut message = Request::new(Full::new(request.body.clone()));
        *message.method_mut() = request.method.clone();
        *message.uri_mut() = request.url.clone();
        let headers = message.headers_mut();
        headers.insert(USER_AGENT, self.http.user_agent());
        headers.extend(request.headers.clone());
        if let Some(authorization) = &request.authorization {
            headers.insert(http::header::AUTHORIZATION, authorization.header()?);
        }
        if let Some(credentials) = self.http.proxy_authorization(&request.url) {
            headers.insert(PROXY_AUTHORIZATION, credentials);
        }
        Ok(message)
    }
}

/// The error below the pool's own one.
fn error(error: ClientError) -> ConnectError {
    match error.source().and_then(|cause| cause.downcast_ref::<ConnectError>()) {
        Some(inner) => ConnectError::protocol(Chain(inner).to_string()),
        None => ConnectError::protocol(error),
    }
}

/// Opens connections for the pool.
#[derive(Clone, Debug)]
struct Connector {
    http: HttpClient,
    deadlines: Deadlines,
}

impl Service<Uri> for Connector {
    type Response = Opened;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Opened, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let Self { http, deadlines } = self.clone();
        Box::pin(async move {
            let target = Target::of(&url).map_err(ConnectError::Url)?;
            let (io, is_proxied) = http.open(&url, &target, &deadlines).await?;
            Ok(Opened { io: TokioIo::new(io), is_proxied })
        })
    }
}

/// An open connection.
struct Opened {
    io: TokioIo<BoxedIo>,
    /// True if a proxy reads the requests.
    is_proxied: bool,
}

impl Connection for Opened {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_proxied)
    }
}

impl hyper::rt::Read for Opened {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Opened {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
