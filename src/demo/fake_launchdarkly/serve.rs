//! The tasks of the service: accepting, serving, storms.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::shaped_io::ShapedStream;
use super::routes;
use super::shared::Shared;
use crate::tasks::TaskGroup;

/// Connections at a time; more are dropped. Above the largest fleet of streams that one process is
/// measured with, and below the usual limit of open files.
const CONNECTIONS_MAX: usize = 30_000;

/// Pause between rounds while no storm is active; any change ends it early.
const IDLE: Duration = Duration::from_secs(3600);

/// Accepts connections until cancelled, across any number of stops and starts.
pub(super) async fn accept_connections(shared: Arc<Shared>, cancel: CancellationToken) {
    let begin = |stream, connections: &mut TaskGroup| serve(&shared, stream, connections);
    shared.port.serve(CONNECTIONS_MAX, cancel, begin).await;
}

fn serve(shared: &Arc<Shared>, stream: TcpStream, connections: &mut TaskGroup) {
    let Some((id, shape, cut)) = shared.with(|inner| inner.add_connection()) else { return };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection without TCP_NODELAY");
    }
    let stream = ShapedStream::new(stream, shape);
    let shared = shared.clone();
    connections.spawn("fake connection", |cancel| async move {
        let service = service_fn(|request| routes::respond(shared.clone(), id, request));
        let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            biased;
            () = cancel.cancelled() => {}
            () = cut.cancelled() => {}
            ended = serving => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended early");
                }
            }
        }
        shared.with(|inner| inner.remove_connection(id));
    });
}

/// Cuts connections in the rounds of the active storms.
pub(super) async fn rage(shared: Arc<Shared>, cancel: CancellationToken) {
    let mut due = std::collections::BTreeMap::new();
    loop {
        let storms = shared.with(|inner| inner.faults.storms());
        due.retain(|id, _| storms.contains_key(id));
        let now = Instant::now();
        for (&id, &every) in &storms {
            due.entry(id).or_insert(now + every);
        }
        let next = due.iter().min_by_key(|(_, at)| **at).map(|(&id, &at)| (id, at));
        let struck = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = shared.storms_changed.notified() => None,
            () = tokio::time::sleep_until(next.map_or(now + IDLE, |(_, at)| at)) => next,
        };
        if let Some((id, at)) = struck {
            shared.with(|inner| {
                let strikes = inner.faults.storm_round(id);
                inner.cut_where(strikes);
            });
            let every = storms.get(&id).copied().unwrap_or(IDLE);
            due.insert(id, at + every);
        }
    }
}
