//! The listening socket and its connections.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::Server;
use super::progress_io::ProgressIo;
use crate::tasks::TaskGroup;

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
/// Generous, because after an incident every SDK comes back at once.
const BACKLOG: i32 = 65_535;

/// How long a client may take to send its request's head (ld-relay v8: 10 s).
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest head of a request. Contexts stand in paths of client-side routes, so it is generous.
const HEAD_BYTES_MAX: usize = 256 * 1024;

/// How long a client may leave what is sent to it unread.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);

/// After this long without an acknowledgement from the peer the kernel gives a connection up, so
/// that clients that vanished do not hold memory until the next day.
const USER_TIMEOUT: Duration = Duration::from_secs(90);

/// Pause after a failed accept, which means that file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else listens there.
    #[error(
        "cannot listen on {address}: another process listens there; end it, or choose another \
         port by [Main] port (PORT)"
    )]
    Taken {
        /// The address.
        address: SocketAddr,
    },
    /// The address is not of this machine, or not for this user.
    #[error("cannot listen on {address}")]
    Refused {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

/// A bound listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
}

impl Listener {
    /// Listens on an address, or on all addresses of both families.
    pub fn bind(address: Option<IpAddr>, port: u16) -> Result<Self, BindError> {
        let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let address = match address {
            Some(ip) => SocketAddr::from((ip, port)),
            None => match bind(both) {
                Ok(socket) => return Ok(Self { socket }),
                // No IPv6 on this machine.
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
                }
                Err(_) => both,
            },
        };
        bind(address).map(|socket| Self { socket }).map_err(|cause| {
            if cause.kind() == io::ErrorKind::AddrInUse {
                BindError::Taken { address }
            } else {
                BindError::Refused { address, cause }
            }
        })
    }

    /// The address, with the port that was chosen for port 0.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until it is told to stop. When the server begins to leave, connections end as soon
    /// as their responses do.
    pub async fn serve(self, server: Arc<Server>, cancel: CancellationToken) {
        let mut connections = TaskGroup::new(&cancel);
        connections.spawn_many("list observer", {
            let server = server.clone();
            async move { server.observe_list().await }
        });
        let mut failing = false;
        loop {
            let accepted = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                accepted = self.socket.accept() => accepted,
            };
            connections.reap();
            match accepted {
                Ok((stream, _)) => {
                    failing = false;
                    connections.spawn_many("connection", connection(server.clone(), stream));
                }
                Err(error) => {
                    if !failing {
                        tracing::error!(%error, "cannot accept connections; raise the limit of open files if this lasts");
                    }
                    failing = true;
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves one connection until it ends.
async fn connection(server: Arc<Server>, stream: TcpStream) {
    prepare(&stream);
    let io = TokioIo::new(ProgressIo::new(stream, PROGRESS_TIMEOUT));
    let service = service_fn({
        let server = server.clone();
        move |request| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.handle(request).await) }
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES_MAX);
    let mut serving = std::pin::pin!(http.serve_connection(io, service));
    let drain = server.drain.clone();
    let mut leaving = std::pin::pin!(drain.begun());
    let outcome = tokio::select! {
        outcome = serving.as_mut() => outcome,
        () = leaving.as_mut() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "connection of a client ended early");
    }
}

fn prepare(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let keepalive =
        TcpKeepalive::new().with_time(USER_TIMEOUT).with_interval(Duration::from_secs(15));
    // None of these is vital: a socket without them works, only less promptly.
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
}
