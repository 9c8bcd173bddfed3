//! A proxy in front of DynamoDB that throttles, fails and hangs, which no local server does.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pilotlight::testing::tasks::TaskGroup;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// What happens to one request instead of its being passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answer 400 with `ProvisionedThroughputExceededException`.
    Throttle,
    /// Answer 500 with `InternalServerError`.
    ServerError,
    /// No answer, on a connection that stays open.
    Hang,
}

/// The proxy. Requests of the operation meet the planned faults in order, then `always`.
pub struct DynamoDbFaults {
    /// Port of the proxy on the loopback address.
    pub port: u16,
    plan: Arc<Mutex<Plan>>,
    _tasks: TaskGroup,
}

#[derive(Default)]
struct Plan {
    operation: &'static str,
    next: VecDeque<Fault>,
    always: Option<Fault>,
    seen: usize,
}

impl DynamoDbFaults {
    /// Starts a proxy before a server on a port of this machine, with no faults planned.
    pub async fn before(upstream: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan = Arc::<Mutex<Plan>>::default();
        let mut tasks = TaskGroup::new(&CancellationToken::new());
        let of_task = plan.clone();
        tasks.spawn("dynamodb proxy", |cancel| accept(listener, upstream, of_task, cancel));
        Self { port, plan, _tasks: tasks }
    }

    /// `operation` is the API's name, such as `PutItem`.
    pub fn plan(
        &self,
        operation: &'static str,
        next: impl IntoIterator<Item = Fault>,
        always: Option<Fault>,
    ) {
        let next = next.into_iter().collect();
        *self.plan.lock().unwrap() = Plan { operation, next, always, seen: 0 };
    }

    /// Requests of the planned operation so far.
    pub fn seen(&self) -> usize {
        self.plan.lock().unwrap().seen
    }
}

async fn accept(
    listener: TcpListener,
    upstream: u16,
    plan: Arc<Mutex<Plan>>,
    cancel: CancellationToken,
) {
    let mut connections = TaskGroup::new(&cancel);
    while let Ok((stream, _)) = listener.accept().await {
        let plan = plan.clone();
        connections.spawn("connection", |_cancel| async move {
            let service = service_fn(move |request| answer(request, upstream, plan.clone()));
            let _ = server::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    upstream: u16,
    plan: Arc<Mutex<Plan>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let target = request.headers().get("x-amz-target").and_then(|value| value.to_str().ok());
    let fault = {
        let mut plan = plan.lock().unwrap();
        let planned = target.is_some_and(|target| target.ends_with(plan.operation));
        plan.seen += usize::from(planned);
        if planned { plan.next.pop_front().or(plan.always) } else { None }
    };
    Ok(match fault {
        None => pass(request, upstream).await,
        Some(Fault::Throttle) => error(400, "ProvisionedThroughputExceededException"),
        Some(Fault::ServerError) => error(500, "InternalServerError"),
        Some(Fault::Hang) => pending().await,
    })
}

fn error(status: u16, code: &str) -> Response<Full<Bytes>> {
    let body =
        format!(r#"{{"__type":"com.amazonaws.dynamodb.v20120810#{code}","message":"as planned"}}"#);
    Response::builder()
        .status(status)
        .header("content-type", "application/x-amz-json-1.0")
        .body(Full::new(body.into()))
        .unwrap()
}

async fn pass(request: Request<Incoming>, upstream: u16) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = Full::new(body.collect().await.unwrap().to_bytes());
    let stream = TcpStream::connect(("127.0.0.1", upstream)).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let ask = async {
        let response = sender.send_request(Request::from_parts(head, body)).await.unwrap();
        let (head, body) = response.into_parts();
        let body = Full::new(body.collect().await.unwrap().to_bytes());
        Response::from_parts(head, body)
    };
    let mut ask = Box::pin(ask);
    tokio::select! {
        biased;
        response = &mut ask => response,
        _ = connection => ask.await,
    }
}
