//! The listening socket and its connections.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection::{self, ACKNOWLEDGEMENT_TIMEOUT, SEND_BUFFER_BYTES, Welcome};
use super::crowd::{Crowd, Place};
use super::pace::Pace;
use super::{Server, crowd};
use crate::tasks::TaskGroup;

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`. Generous,
/// because after an incident every SDK reconnects at once.
const BACKLOG: i32 = 65_535;

/// Silence before the first TCP keepalive probe, and the time between probes. Clients that vanished
/// must not hold memory until the next day.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(45);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Unanswered probes after which the kernel gives a connection up. Several, because probes get
/// lost, above all when thousands of streams that began together are probed together.
const KEEPALIVE_QUESTIONS: u32 = 5;

const _: () = assert!(
    ACKNOWLEDGEMENT_TIMEOUT.as_secs()
        >= KEEPALIVE_IDLE.as_secs() + KEEPALIVE_QUESTIONS as u64 * KEEPALIVE_INTERVAL.as_secs()
);

/// Pause between two log lines about too many connections.
const CROWDED_LOG_PAUSE: Duration = Duration::from_secs(60);

/// Pause after a failed accept, which means that file descriptors have run out, and longest wait
/// for the end of a connection that is closed for another one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Reason why the process cannot listen on an address.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process listens there.
    #[error(
        "cannot listen on {address}: another process listens there; end it, or choose another \
         port by [Main] port (PORT)"
    )]
    Taken {
        /// The address.
        address: SocketAddr,
    },
    /// The address is not one of this machine, or this user may not listen there.
    #[error("cannot listen on {address}")]
    Refused {
        /// The address.
        address: SocketAddr,
        /// The cause.
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
        Self::with(address, port, bind).map(|socket| Self { socket })
    }

    /// Fails if this process could not listen on an address. Does not listen there; a port that
    /// another process uses is an error, as at the start.
    pub fn check(address: Option<IpAddr>, port: u16) -> Result<(), BindError> {
        Self::with(address, port, |address| bound(address).map(drop))
    }

    fn with<T>(
        address: Option<IpAddr>,
        port: u16,
        bind: impl Fn(SocketAddr) -> io::Result<T>,
    ) -> Result<T, BindError> {
        let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let address = match address {
            Some(ip) => SocketAddr::from((ip, port)),
            None => match bind(both) {
                Ok(bound) => return Ok(bound),
                // No IPv6 on this machine.
                Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
                }
                Err(_) => both,
            },
        };
        bind(address).map_err(|cause| {
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

    /// Serves until it is cancelled, and then to the end of the responses that are under way. The
    /// caller begins the [`Drain`](super::Drain) before it cancels, so that each connection ends
    /// after its response, and drops this future to bound the wait.
    pub async fn serve(self, server: Arc<Server>, cancel: CancellationToken) {
        let mut observer = TaskGroup::new(&cancel);
        observer.spawn_many("list observer", {
            let server = server.clone();
            async move { server.observe_list().await }
        });
        let mut connections = TaskGroup::new(&cancel);
        self.accept(&server, &cancel, &mut connections).await;
        while connections.ended().await.is_some() {}
    }

    /// Accepts connections until it is cancelled.
    async fn accept(
        self,
        server: &Arc<Server>,
        cancel: &CancellationToken,
        connections: &mut TaskGroup,
    ) {
        let mut failing = false;
        let mut crowd = Crowd::default();
        let mut crowded_told: Option<Instant> = None;
        loop {
            let accepted = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                accepted = self.socket.accept() => accepted,
            };
            connections.reap();
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    if !failing {
                        tracing::error!(%error, "cannot accept connections; raise the limit of open files if this lasts");
                    }
                    failing = true;
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            failing = false;
            prepare(&stream);
            let limit = crowd::connections_max(
                server.settings.open_files_max,
                server.registry.environments().len(),
            );
            let pace = Arc::new(Pace::default());
            let place = crowd.place(&pace, connections.len(), limit);
            let now = Instant::now();
            if place != Place::Free
                && crowded_told.is_none_or(|told| now - told > CROWDED_LOG_PAUSE)
            {
                crowded_told = Some(now);
                tracing::warn!(
                    limit,
                    open_files = server.settings.open_files_max,
                    "the limit of client connections is reached: connections without a valid \
                     credential are closed, further clients get 503; raise the limit of open files \
                     (LimitNOFILE, ulimit -n) or add relays"
                );
            }
            if place != Place::Free {
                let open_max = crowd.open_max(place, limit);
                let room = async {
                    while connections.len() > open_max && connections.ended().await.is_some() {}
                };
                // If that takes longer, the reserve covers it.
                let _ = tokio::time::timeout(ACCEPT_PAUSE, room).await;
            }
            let welcome = match place {
                Place::Free | Place::Cleared if server.drain.is_active() => Welcome::Leaving,
                Place::Free | Place::Cleared => Welcome::Normal,
                Place::OverLimit => Welcome::OverLimit,
            };
            let serving = connection::serve(server.clone(), stream, pace, welcome);
            connections.spawn_many("connection", serving);
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = bound(address)?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

pub(super) fn prepare(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_QUESTIONS);
    // Errors are ignored: a socket without these options works, with more delay.
    let _ = socket.set_send_buffer_size(SEND_BUFFER_BYTES);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
}
