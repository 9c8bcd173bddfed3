//! TCP connections: names are resolved again for each one, all addresses are tried.
//!
//! It does not speak TLS or HTTP and keeps no connection. Every wait has a limit.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::{ConnectError, Deadlines, Phase};

/// Idle time before the first TCP keepalive probe, and the time between probes (ld-relay v8: one
/// minute).
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Smallest share of the connect budget for an address while others wait: a lost SYN is sent again
/// after one second.
const ADDRESS_SHARE_MIN: Duration = Duration::from_secs(1);

/// Most lookups at a time. The system's resolver blocks a thread for as long as its servers are
/// silent; otherwise, in an outage, all streams would take the threads that files are read with.
const LOOKUPS_MAX: usize = 16;

/// A byte stream of any kind: TCP, TLS, TLS within TLS.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub(super) type BoxedIo = Box<dyn Io>;

/// Time of a connection's last byte, taken below TLS, so that every byte of the network is progress
/// and not only a whole TLS record.
#[derive(Clone, Debug)]
pub(super) struct Progress(Arc<LastByte>);

#[derive(Debug)]
struct LastByte {
    origin: Instant,
    after_ms: AtomicU64,
}

impl Progress {
    fn new() -> Self {
        Self(Arc::new(LastByte { origin: Instant::now(), after_ms: AtomicU64::new(0) }))
    }

    fn note(&self) {
        let after_ms = u64::try_from(self.0.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.after_ms.store(after_ms, Ordering::Relaxed);
    }

    pub(super) fn last(&self) -> Instant {
        self.0.origin + Duration::from_millis(self.0.after_ms.load(Ordering::Relaxed))
    }
}

/// A stream that notes its progress.
struct Watched<S> {
    inner: S,
    progress: Progress,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.progress.note();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// Opens connections.
#[derive(Debug)]
pub(super) enum Dialer {
    /// Through the system's resolver and TCP.
    Network { lookups: Arc<Semaphore> },
    /// To a test, through memory, so that paused time governs everything.
    #[cfg(test)]
    Memory(tokio::sync::mpsc::UnboundedSender<super::test_support::Dial>),
}

impl Dialer {
    pub(super) fn network() -> Self {
        Self::Network { lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)) }
    }

    pub(super) async fn dial(
        &self,
        host: &str,
        port: u16,
        deadlines: &Deadlines,
    ) -> Result<(BoxedIo, Progress), ConnectError> {
        let progress = Progress::new();
        let io: BoxedIo = match self {
            Self::Network { lookups } => {
                let addresses = resolve(lookups, host, port, deadlines.dns).await?;
                let inner = connect(host, &addresses, deadlines.connect).await?;
                Box::new(Watched { inner, progress: progress.clone() })
            }
            #[cfg(test)]
            Self::Memory(dials) => {
                let inner = super::test_support::dial(dials, host, port, deadlines).await?;
                Box::new(Watched { inner, progress: progress.clone() })
            }
        };
        Ok((io, progress))
    }
}

async fn resolve(
    lookups: &Arc<Semaphore>,
    host: &str,
    port: u16,
    budget: Duration,
) -> Result<Vec<SocketAddr>, ConnectError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let failed = |cause| ConnectError::Dns { host: host.to_owned(), cause };
    let name = host.to_owned();
    let lookup = async {
        // The permit goes with the blocking call, which continues when its caller has given up.
        let permit = Arc::clone(lookups).acquire_owned().await.map_err(io::Error::other)?;
        let call = tokio::task::spawn_blocking(move || {
            let addresses = (name.as_str(), port).to_socket_addrs().map(Iterator::collect);
            drop(permit);
            addresses
        });
        call.await.map_err(io::Error::other)?
    };
    let found: Vec<SocketAddr> = timeout(budget, lookup)
        .await
        .map_err(|_| ConnectError::TimedOut { phase: Phase::Dns, budget })?
        .map_err(failed)?;
    if found.is_empty() {
        return Err(failed(io::Error::other("the name has no address")));
    }
    Ok(interleaved(&found))
}

/// The addresses in the system's order, but with the families taking turns: four addresses of a
/// family that leads nowhere must not use up the budget of the other.
fn interleaved(found: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) =
        found.iter().copied().partition(|address: &SocketAddr| address.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut addresses = Vec::with_capacity(found.len());
    while addresses.len() < found.len() {
        addresses.extend(first.next());
        addresses.extend(second.next());
    }
    addresses
}

/// Tries the addresses one after the other within one budget.
async fn connect(
    host: &str,
    addresses: &[SocketAddr],
    budget: Duration,
) -> Result<TcpStream, ConnectError> {
    let until = Instant::now() + budget;
    let mut last = ConnectError::TimedOut { phase: Phase::Connect, budget };
    for (index, address) in addresses.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match timeout(share(left, addresses.len() - index), open(*address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(cause)) => {
                last = ConnectError::Connect { to: format!("{host} ({address})"), cause }
            }
            Err(_) => last = ConnectError::TimedOut { phase: Phase::Connect, budget },
        }
    }
    Err(last)
}

/// Share of the remaining budget for the next of `waiting` addresses.
fn share(left: Duration, waiting: usize) -> Duration {
    let waiting = u32::try_from(waiting).unwrap_or(u32::MAX).max(1);
    (left / waiting).max(ADDRESS_SHARE_MIN).min(left)
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::test_support::closed_port;

    fn lookups() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(1))
    }

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns() {
        let check = |found: &[&str], expected: &[&str]| {
            assert_eq!(interleaved(&addresses(found)), addresses(expected));
        };
        check(&[], &[]);
        check(&["1.1.1.1:1", "2.2.2.2:1"], &["1.1.1.1:1", "2.2.2.2:1"]);
        check(
            &["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"],
            &["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"],
        );
        check(
            &["1.1.1.1:1", "[::1]:1", "[::2]:1", "2.2.2.2:1"],
            &["1.1.1.1:1", "[::1]:1", "2.2.2.2:1", "[::2]:1"],
        );
    }

    #[test]
    fn addresses_share_the_budget() {
        let check = |left_ms, waiting, expected_ms| {
            let left = Duration::from_millis(left_ms);
            assert_eq!(share(left, waiting), Duration::from_millis(expected_ms));
        };
        check(3_000, 1, 3_000);
        check(3_000, 2, 1_500);
        check(3_000, 8, 1_000);
        check(500, 8, 500);
        check(500, 0, 500);
    }

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_refuses() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let closed = closed_port();
        let budget = Duration::from_secs(60);
        let stream = connect("h", &[closed.address(), open], budget).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
        assert!(stream.nodelay().unwrap());
        assert_eq!(SockRef::from(&stream).tcp_keepalive_time().unwrap(), KEEPALIVE);

        let refused = connect("h", &[closed.address()], budget).await;
        assert!(matches!(refused, Err(ConnectError::Connect { .. })), "{refused:?}");
        let late = connect("h", &[open], Duration::ZERO).await;
        assert!(matches!(late, Err(ConnectError::TimedOut { phase: Phase::Connect, .. })));
    }

    #[tokio::test]
    async fn names_are_resolved_and_addresses_need_no_resolver() {
        let budget = Duration::from_secs(60);
        let address = resolve(&lookups(), "::1", 7, Duration::ZERO).await.unwrap();
        assert_eq!(address, addresses(&["[::1]:7"]));
        let local = resolve(&lookups(), "localhost", 7, budget).await.unwrap();
        assert!(local.iter().all(|address| address.ip().is_loopback()), "{local:?}");
        // Longer than any label may be, so that no server is asked.
        let name = "x".repeat(64);
        let unknown = resolve(&lookups(), &name, 7, budget).await;
        assert!(matches!(unknown, Err(ConnectError::Dns { .. })), "{unknown:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_resolver_costs_its_budget() {
        // All permits are with calls that do not come back.
        let lookups = lookups();
        let _stuck = lookups.acquire().await.unwrap();
        let budget = Duration::from_secs(10);
        let begun = Instant::now();
        let silent = resolve(&lookups, "localhost", 7, budget).await;
        assert!(matches!(silent, Err(ConnectError::TimedOut { phase: Phase::Dns, .. })));
        assert_eq!(begun.elapsed(), budget);
    }
}
