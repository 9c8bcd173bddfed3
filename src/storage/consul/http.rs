//! A few HTTP/1.1 connections to one Consul agent, shared by all callers.
//!
//! A connection serves one request at a time and is kept only after a complete answer. A request
//! that is dropped or times out closes its connection.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::token::{TOKEN_HEADER, Token};
use crate::storage::net::{self, Endpoint};
use crate::storage::{Cause, Meter, StoreError};
use crate::tasks::TaskGroup;

/// Connections of one pool to the agent; each bulk call has its own pool. The agent allows 200 per
/// client address by default (`http_max_conns_per_client`), shared by all processes of a machine.
const CONNECTIONS_MAX: usize = 8;

/// The longest answer that is read: a listing of a whole tree, values in base64.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The connections made by one dial.
pub(super) struct Pool {
    endpoint: Endpoint,
    token: Arc<Token>,
    /// Counts the bytes of all its connections.
    meter: Meter,
    places: Semaphore,
    idle: Mutex<Vec<Http>>,
}

struct Http {
    sender: SendRequest<Full<Bytes>>,
    /// Runs the connection until this is dropped.
    _driver: TaskGroup,
}

/// A complete answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Pool {
    /// A pool with one open connection.
    pub(super) async fn connect(
        endpoint: Endpoint,
        token: Arc<Token>,
        meter: Meter,
    ) -> Result<Self, StoreError> {
        let first = Http::connect(&endpoint, &meter).await?;
        let idle = Mutex::new(vec![first]);
        Ok(Self { endpoint, token, meter, places: Semaphore::new(CONNECTIONS_MAX), idle })
    }

    pub(super) async fn send(
        &self,
        method: Method,
        path_and_query: &str,
        body: Bytes,
    ) -> Result<Answer, StoreError> {
        let mut request = Request::builder()
            .method(method)
            .uri(path_and_query)
            .header(header::HOST, self.endpoint.to_string());
        if let Some(token) = self.token.header().await? {
            request = request.header(TOKEN_HEADER, token);
        }
        let request = request.body(Full::new(body)).map_err(|error| refused(Box::new(error)))?;

        let Ok(_place) = self.places.acquire().await else {
            return Err(StoreError::Unreachable("the connections are closed".into()));
        };
        let mut http = match self.take_idle() {
            Some(http) => http,
            None => Http::connect(&self.endpoint, &self.meter).await?,
        };
        let answer = http.exchange(request, ANSWER_BYTES_MAX).await?;
        if !http.sender.is_closed() {
            self.idle().push(http);
        }
        Ok(answer)
    }

    fn take_idle(&self) -> Option<Http> {
        let mut idle = self.idle();
        idle.retain(|http| !http.sender.is_closed());
        idle.pop()
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Http>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Http {
    async fn connect(endpoint: &Endpoint, meter: &Meter) -> Result<Self, StoreError> {
        let stream = net::connect(endpoint, meter).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let mut driver = TaskGroup::new(&CancellationToken::new());
        driver.spawn("consul connection", |_cancel| async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "consul connection ended");
            }
        });
        Ok(Self { sender, _driver: driver })
    }

    async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        answer_bytes_max: usize,
    ) -> Result<Answer, StoreError> {
        self.sender.ready().await.map_err(lost)?;
        let response = self.sender.send_request(request).await.map_err(lost)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), answer_bytes_max).collect().await;
        let body = body.map_err(|cause| match cause.downcast_ref::<LengthLimitError>() {
            Some(_) => StoreError::Unreadable { what: "answer", cause },
            None => StoreError::Unreachable(cause),
        })?;
        Ok(Answer { status, body: body.to_bytes() })
    }
}

fn lost(error: hyper::Error) -> StoreError {
    StoreError::Unreachable(Box::new(error))
}

fn refused(cause: Cause) -> StoreError {
    StoreError::Refused(cause)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::super::token::TokenSource;
    use super::*;

    /// An agent with a script for each connection: `?` reads a request, `.` closes, any other step
    /// is sent. After its script, a connection stays silent.
    async fn pool_of(scripts: &'static [&'static [&'static str]]) -> (Pool, TaskGroup) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut tasks = TaskGroup::new(&CancellationToken::new());
        tasks.spawn("agent", |cancel| async move {
            let mut connections = TaskGroup::new(&cancel);
            for script in scripts {
                let (mut stream, _) = listener.accept().await.unwrap();
                connections.spawn("connection", |_cancel| async move {
                    let mut request = [0; 4096];
                    for step in *script {
                        match *step {
                            "?" => drop(stream.read(&mut request).await),
                            "." => return,
                            text => stream.write_all(text.as_bytes()).await.unwrap(),
                        }
                    }
                    std::future::pending::<()>().await;
                });
            }
            std::future::pending::<()>().await;
        });
        let endpoint = Endpoint::Tcp { host: "127.0.0.1".to_owned(), port, tls: None };
        let token = Arc::new(Token::new(TokenSource::None));
        (Pool::connect(endpoint, token, Meter::default()).await.unwrap(), tasks)
    }

    async fn get(pool: &Pool) -> Result<Answer, StoreError> {
        pool.send(Method::GET, "/", Bytes::new()).await
    }

    const ONE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none";
    const TWO: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\ntwo";
    const CUT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\ncut";

    #[tokio::test]
    async fn a_connection_serves_one_request_after_the_other() {
        let (pool, _agent) = pool_of(&[&["?", ONE, "?", TWO]]).await;
        assert_eq!(&get(&pool).await.unwrap().body[..], b"one");
        let second = get(&pool).await.unwrap();
        assert_eq!((second.status, &second.body[..]), (StatusCode::NOT_FOUND, &b"two"[..]));
    }

    #[tokio::test]
    async fn a_request_that_is_given_up_takes_its_connection_with_it() {
        let (pool, _agent) = pool_of(&[&["?"], &["?", ONE]]).await;
        assert!(timeout(Duration::from_millis(20), get(&pool)).await.is_err());
        assert_eq!(&get(&pool).await.unwrap().body[..], b"one");
    }

    async fn check_loss(script: &'static [&'static [&'static str]]) {
        let (pool, _agent) = pool_of(script).await;
        let error = get(&pool).await.err().unwrap();
        assert!(matches!(error, StoreError::Unreachable(_)), "{script:?}: {error:?}");
        assert!(pool.take_idle().is_none(), "{script:?}");
    }

    #[tokio::test]
    async fn answers_that_do_not_come_whole_are_losses() {
        check_loss(&[&["?", "."]]).await;
        check_loss(&[&["?", CUT, "."]]).await;
        check_loss(&[&["?", "gibberish\r\n\r\n"]]).await;
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_while_idle_is_not_used() {
        let (pool, _agent) = pool_of(&[&["?", ONE, "."], &["?", TWO]]).await;
        assert_eq!(&get(&pool).await.unwrap().body[..], b"one");
        while !pool.idle().iter().all(|http| http.sender.is_closed()) {
            tokio::task::yield_now().await;
        }
        assert_eq!(&get(&pool).await.unwrap().body[..], b"two");
    }

    #[tokio::test]
    async fn an_endless_answer_is_not_read() {
        let (pool, _agent) = pool_of(&[&["?", ONE]]).await;
        let mut http = pool.take_idle().unwrap();
        let request = Request::builder().header(header::HOST, "t").body(Full::default()).unwrap();
        let error = http.exchange(request, 2).await.err().unwrap();
        assert!(matches!(error, StoreError::Unreadable { .. }), "{error:?}");
    }
}
