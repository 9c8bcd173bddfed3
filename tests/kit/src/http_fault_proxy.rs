//! A reverse proxy in front of DynamoDB that fails by operation.
//!
//! Understands as much of DynamoDB's JSON protocol as its faults need: the operation in
//! `X-Amz-Target`, the shape of `BatchWriteItem`, and the form of errors. Requests are passed on
//! over a connection of their own. Rewritten requests carry a signature that no longer fits them;
//! DynamoDB Local does not look at it.
//!
//! Invariant: requests that are held back in a batch are told to the client as unprocessed and
//! never reach the database; all others reach it unchanged.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use pilotlight::testing::demo::kept_port::KeptPort;
use pilotlight::testing::tasks::TaskGroup;

/// Largest request or response body: DynamoDB's own limit is 16 MB.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Connections at a time; more are dropped. Far above any client's pool.
const CONNECTIONS_MAX: usize = 1_000;

/// The operation whose requests can be held back.
const BATCH_WRITE: &str = "BatchWriteItem";

/// Types of errors as DynamoDB writes them; clients look at what follows the `#`.
const THROUGHPUT_EXCEEDED: &str =
    "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException";
const THROTTLING: &str = "com.amazon.coral.availability#ThrottlingException";
const INTERNAL_ERROR: &str = "com.amazonaws.dynamodb.v20120810#InternalServerError";

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DynamoDbFault {
    /// 400 with `ProvisionedThroughputExceededException`.
    ThroughputExceeded,
    /// 400 with `ThrottlingException`.
    Throttling,
    /// 500 with `InternalServerError`.
    InternalError,
    /// The request is read and never answered.
    Hang,
    /// Of a `BatchWriteItem`, the last so many requests are not carried out but answered as
    /// `UnprocessedItems`. Other operations are passed on unharmed.
    HoldBack {
        /// How many requests; more than there are means all.
        requests: usize,
    },
}

/// Why a call could not be passed on.
#[derive(Debug, thiserror::Error)]
enum PassOnError {
    #[error("the database cannot be reached")]
    Connect(#[source] io::Error),
    #[error("the database broke off")]
    Http(#[source] hyper::Error),
    #[error("the database's answer cannot be read")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A running proxy. Cheap to clone; ends with its last handle.
#[derive(Clone, Debug)]
pub struct HttpFaultProxy {
    shared: Arc<Shared>,
    /// Never touched: aborts the tasks when the last handle goes.
    _tasks: Arc<TaskGroup>,
}

#[derive(Debug)]
struct Shared {
    port: KeptPort,
    upstream: SocketAddr,
    calls: Mutex<Calls>,
}

#[derive(Debug, Default)]
struct Calls {
    /// Per operation, the faults of its next calls.
    faults: BTreeMap<String, VecDeque<DynamoDbFault>>,
    /// Per operation, how often it was called.
    counts: BTreeMap<String, usize>,
}

impl HttpFaultProxy {
    /// A proxy on a free loopback port. To be called within a tokio runtime.
    pub fn start(upstream: SocketAddr) -> io::Result<Self> {
        let port = KeptPort::reserve(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        port.open()?;
        let shared = Arc::new(Shared { port, upstream, calls: Mutex::default() });
        let mut tasks = TaskGroup::new(&CancellationToken::new());
        tasks.spawn("HTTP fault proxy", |cancel| accept_connections(shared.clone(), cancel));
        Ok(Self { shared, _tasks: Arc::new(tasks) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.shared.port.address()
    }

    /// Endpoint URL for a client.
    pub fn uri(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Lets the next so many calls of an operation (`BatchWriteItem`, `Query` …) fail. Faults of
    /// one operation queue up: the first injected comes first.
    pub fn inject(&self, operation: &str, fault: DynamoDbFault, calls: usize) {
        let faults = std::iter::repeat_n(fault, calls);
        self.with(|held| held.faults.entry(operation.to_owned()).or_default().extend(faults));
    }

    /// Takes all faults back that have not happened.
    pub fn clear_faults(&self) {
        self.with(|held| held.faults.clear());
    }

    /// How often the operation was called, failing calls included.
    pub fn calls(&self, operation: &str) -> usize {
        self.with(|held| held.counts.get(operation).copied().unwrap_or(0))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Calls) -> T) -> T {
        self.shared.with(act)
    }
}

impl Shared {
    fn with<T>(&self, act: impl FnOnce(&mut Calls) -> T) -> T {
        act(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn next_fault(&self, operation: &str) -> Option<DynamoDbFault> {
        self.with(|held| {
            *held.counts.entry(operation.to_owned()).or_default() += 1;
            held.faults.get_mut(operation)?.pop_front()
        })
    }
}

async fn accept_connections(shared: Arc<Shared>, cancel: CancellationToken) {
    let begin = |stream: TcpStream, connections: &mut TaskGroup| {
        let shared = shared.clone();
        connections.spawn("HTTP fault connection", |cancel| async move {
            let service = service_fn(|request| answer(&shared, request));
            let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = cancel.cancelled() => {}
                ended = serving => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a connection ended early");
                    }
                }
            }
        });
    };
    shared.port.serve(CONNECTIONS_MAX, cancel, begin).await;
}

type Answered = Response<Full<Bytes>>;

async fn answer(shared: &Shared, request: Request<Incoming>) -> Result<Answered, Infallible> {
    let (mut head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
        return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE));
    };
    let body = body.to_bytes();
    let target = head.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
    let operation = target.and_then(|target| target.rsplit('.').next()).unwrap_or_default();
    let fault = shared.next_fault(operation);
    let held_back = match fault {
        Some(DynamoDbFault::ThroughputExceeded) => {
            return Ok(error(StatusCode::BAD_REQUEST, THROUGHPUT_EXCEEDED));
        }
        Some(DynamoDbFault::Throttling) => return Ok(error(StatusCode::BAD_REQUEST, THROTTLING)),
        Some(DynamoDbFault::InternalError) => {
            return Ok(error(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL_ERROR));
        }
        Some(DynamoDbFault::Hang) => std::future::pending().await,
        Some(DynamoDbFault::HoldBack { requests }) if operation == BATCH_WRITE => {
            hold_back(&body, requests)
        }
        Some(DynamoDbFault::HoldBack { .. }) | None => None,
    };
    let (body, unprocessed) = match held_back {
        Some(HeldBack { passed: None, unprocessed }) => return Ok(only_unprocessed(&unprocessed)),
        Some(HeldBack { passed: Some(passed), unprocessed }) => (passed, Some(unprocessed)),
        None => (body, None),
    };
    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    head.headers.remove(header::TRANSFER_ENCODING);
    match pass_on(shared.upstream, Request::from_parts(head, Full::new(body))).await {
        Ok(response) => {
            let response = match unprocessed {
                Some(unprocessed) => with_unprocessed(response, &unprocessed),
                None => response,
            };
            Ok(response.map(Full::new))
        }
        Err(error) => {
            tracing::debug!(%error, "cannot pass a call on");
            Ok(plain(StatusCode::BAD_GATEWAY))
        }
    }
}

async fn pass_on(
    upstream: SocketAddr,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, PassOnError> {
    let stream = TcpStream::connect(upstream).await.map_err(PassOnError::Connect)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(PassOnError::Http)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(PassOnError::Http)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(PassOnError::Body)?;
        Ok(Response::from_parts(head, body.to_bytes()))
    };
    // The connection has to be driven for the exchange to go on; its own end says nothing that
    // the exchange does not.
    let driving = async {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        answered = exchange => answered.map(without_framing),
        never = driving => match never {},
    }
}

/// The body is whole here: what described its way does not hold any more.
fn without_framing(mut response: Response<Bytes>) -> Response<Bytes> {
    for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION] {
        response.headers_mut().remove(name);
    }
    response
}

/// A batch split in two.
#[derive(Debug, PartialEq, Eq)]
struct HeldBack {
    /// What goes on to the database, if anything is left.
    passed: Option<Bytes>,
    /// What comes back as `UnprocessedItems`.
    unprocessed: Value,
}

/// Takes the last requests out of a batch; `None` if it is not one.
fn hold_back(body: &Bytes, requests: usize) -> Option<HeldBack> {
    let mut batch: Value = serde_json::from_slice(body).ok()?;
    let tables = batch.get_mut("RequestItems")?.as_object_mut()?;
    let mut left_to_hold = requests;
    let mut unprocessed = serde_json::Map::new();
    for (table, items) in tables.iter_mut().rev() {
        let items = items.as_array_mut()?;
        let held = items.split_off(items.len().saturating_sub(left_to_hold));
        left_to_hold -= held.len();
        if !held.is_empty() {
            unprocessed.insert(table.clone(), held.into());
        }
    }
    tables.retain(|_, items| items.as_array().is_some_and(|items| !items.is_empty()));
    let passed = (!tables.is_empty()).then(|| batch.to_string().into());
    Some(HeldBack { passed, unprocessed: unprocessed.into() })
}

/// Adds unprocessed items to a successful answer.
fn with_unprocessed(mut response: Response<Bytes>, unprocessed: &Value) -> Response<Bytes> {
    let answer = serde_json::from_slice(response.body());
    let (StatusCode::OK, Ok(Value::Object(answer))) = (response.status(), answer) else {
        return response;
    };
    let mut answer = Value::from(answer);
    merge(&mut answer["UnprocessedItems"], unprocessed);
    // A checksum of the body that is replaced here.
    response.headers_mut().remove("x-amz-crc32");
    response.map(|_replaced| answer.to_string().into())
}

/// What the database itself left unprocessed stays in the list.
fn merge(into: &mut Value, unprocessed: &Value) {
    for (table, held) in unprocessed.as_object().into_iter().flatten() {
        let held = held.as_array().cloned().unwrap_or_default();
        match into.get_mut(table).and_then(Value::as_array_mut) {
            Some(items) => items.extend(held),
            None => into[table] = held.into(),
        }
    }
}

fn only_unprocessed(unprocessed: &Value) -> Answered {
    json_answer(StatusCode::OK, &json!({ "UnprocessedItems": unprocessed }))
}

fn error(status: StatusCode, kind: &str) -> Answered {
    json_answer(status, &json!({ "__type": kind, "message": "on command" }))
}

fn json_answer(status: StatusCode, body: &Value) -> Answered {
    let mut response = Response::new(Full::new(body.to_string().into()));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("application/x-amz-json-1.0");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

fn plain(status: StatusCode) -> Answered {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
#[path = "http_fault_proxy_tests.rs"]
mod tests;
