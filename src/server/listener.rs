//! The listening socket and its connections.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::connection::{self, Welcome};
use super::crowd::{Crowd, Place};
use super::pace::Pace;
use super::{Server, crowd};
use crate::tasks::TaskGroup;

/// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
/// Generous, because after an incident every SDK comes back at once.
const BACKLOG: i32 = 65_535;

/// How long a connection is silent before the kernel asks whether the peer is still there, and the
/// time between its questions. Clients that vanished must not hold memory until the next day.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(45);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// Questions without an answer after which the kernel gives a connection up. Several, because they
/// do get lost, above all when thousands of streams that began together are asked together.
const KEEPALIVE_QUESTIONS: u32 = 5;

/// After this long without an acknowledgement the kernel gives a connection up, unless its client
/// is behind. Then it does not count the questions, but does so at the first one that is not
/// answered once this time has passed.
pub(super) const ACKNOWLEDGEMENT_TIMEOUT: Duration = Duration::from_secs(120);
const _: () = assert!(
    ACKNOWLEDGEMENT_TIMEOUT.as_secs()
        >= KEEPALIVE_IDLE.as_secs() + KEEPALIVE_QUESTIONS as u64 * KEEPALIVE_INTERVAL.as_secs()
);

/// Bytes that the kernel may hold for a client (it takes twice as much, its own structures
/// included). Small, so that a client that reads slowly is seen to read at all, and one that does
/// not read costs little; large enough for 4 MB/s over a line with 50 ms of delay.
pub(super) const SEND_BUFFER_BYTES: usize = 128 * 1024;

/// Pause between two log lines about too many connections.
const CROWDED_LOG_PAUSE: Duration = Duration::from_secs(60);

/// Pause after a failed accept, which means that file descriptors have run out, and longest wait
/// for a connection that gives way to another one.
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
        Self::with(address, port, bind).map(|socket| Self { socket })
    }

    /// Reports an address that this process cannot listen on. Nothing listens there meanwhile; a
    /// port that another process uses is an error like at the start.
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

    /// Serves until it is told to stop, and then to the end of the responses that are under way:
    /// whoever tells it to stop has begun the [`Drain`](super::Drain), with which each connection
    /// ends after its response, and bounds the wait by dropping this.
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

    /// Accepts connections until it is told to stop.
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
                // If it takes longer, the reserve has to do.
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
    // None of these is vital: a socket without them works, only less promptly.
    let _ = socket.set_send_buffer_size(SEND_BUFFER_BYTES);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
}
