//! The least that a server-side SDK takes for a relay: flags over SSE or by polling, and a sink for
//! events. No credentials, no segments, no faults but one: it can answer 503 until told otherwise.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pilotlight::testing::tasks::TaskGroup;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What the relay holds and whom it tells.
#[derive(Default)]
struct State {
    available: bool,
    flags: BTreeMap<String, Value>,
    streams: Vec<mpsc::UnboundedSender<Bytes>>,
    /// Kinds of the analytics events that arrived.
    event_kinds: Vec<String>,
}

/// A relay on a port of its own, until it is dropped.
pub(super) struct MiniRelay {
    url: String,
    state: Arc<Mutex<State>>,
    _tasks: TaskGroup,
}

impl MiniRelay {
    /// Serves these flags at once.
    pub(super) async fn start(flags: &[Value]) -> anyhow::Result<Self> {
        let relay = Self::start_unavailable(flags).await?;
        relay.become_available();
        Ok(relay)
    }

    /// Answers 503 until [`Self::become_available`].
    pub(super) async fn start_unavailable(flags: &[Value]) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let state = Arc::new(Mutex::new(State::default()));
        for flag in flags {
            lock(&state).flags.insert(key_of(flag), flag.clone());
        }
        let mut tasks = TaskGroup::new(&CancellationToken::new());
        let served = Arc::clone(&state);
        tasks.spawn("mini relay", |cancel| async move {
            let mut connections = TaskGroup::new(&cancel);
            while let Ok((socket, _)) = listener.accept().await {
                let state = Arc::clone(&served);
                connections.spawn("connection", |_| serve(socket, state));
                connections.reap();
            }
        });
        Ok(Self { url, state, _tasks: tasks })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn become_available(&self) {
        lock(&self.state).available = true;
    }

    /// Replaces one flag and tells all streams.
    pub(super) fn patch(&self, flag: Value) {
        let key = key_of(&flag);
        let data = json!({"path": format!("/flags/{key}"), "data": flag});
        let mut state = lock(&self.state);
        state.flags.insert(key, flag);
        state.tell(&sse("patch", &data));
    }

    /// Removes one flag and tells all streams.
    pub(super) fn delete(&self, key: &str, version: u64) {
        let data = json!({"path": format!("/flags/{key}"), "version": version});
        let mut state = lock(&self.state);
        state.flags.remove(key);
        state.tell(&sse("delete", &data));
    }

    /// The kinds of all analytics events so far.
    pub(super) fn event_kinds(&self) -> Vec<String> {
        lock(&self.state).event_kinds.clone()
    }
}

impl State {
    fn tell(&mut self, event: &Bytes) {
        self.streams.retain(|stream| stream.send(event.clone()).is_ok());
    }

    fn all(&self) -> Value {
        json!({"flags": self.flags, "segments": {}})
    }
}

/// A test that panicked elsewhere must not hide behind a second panic here.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key_of(flag: &Value) -> String {
    flag["key"].as_str().unwrap_or_default().to_owned()
}

fn sse(name: &str, data: &Value) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

async fn serve(socket: TcpStream, state: Arc<Mutex<State>>) {
    let service = service_fn(move |request| answer(request, Arc::clone(&state)));
    // An SDK that goes away ends its connection with an error; that is not ours to report.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(socket), service)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Response<Chunks>, hyper::Error> {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut response = Response::new(Chunks(receiver));
    let mut state = lock(&state);
    let status = match (&method, path.as_str()) {
        _ if !state.available => StatusCode::SERVICE_UNAVAILABLE,
        (&Method::GET, "/all") => {
            let content_type = http::HeaderValue::from_static("text/event-stream");
            response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
            // The receiver is in `response`, so neither send can fail.
            let _ = sender.send(sse("put", &json!({"path": "/", "data": state.all()})));
            state.streams.push(sender);
            StatusCode::OK
        }
        (&Method::GET, "/sdk/latest-all") => {
            let content_type = http::HeaderValue::from_static("application/json");
            response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
            let _ = sender.send(Bytes::from(state.all().to_string()));
            StatusCode::OK
        }
        (&Method::POST, "/bulk") => {
            let events: Vec<Value> = serde_json::from_slice(&body).unwrap_or_default();
            state
                .event_kinds
                .extend(events.iter().filter_map(|e| Some(e["kind"].as_str()?.into())));
            StatusCode::ACCEPTED
        }
        (&Method::POST, "/diagnostic") => StatusCode::ACCEPTED,
        _ => StatusCode::NOT_FOUND,
    };
    *response.status_mut() = status;
    Ok(response)
}

/// A body of whatever is sent to it; it ends when no sender is left.
struct Chunks(mpsc::UnboundedReceiver<Bytes>);

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|chunk| chunk.map(|bytes| Ok(Frame::data(bytes))))
    }
}
