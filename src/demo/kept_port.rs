//! A TCP port that stays reserved while its listener is closed.
//!
//! A server that stops and starts again must do so on the same port. The kernel may give an unused
//! port to another process in the meantime, so a bound socket that never listens keeps it: the
//! kernel refuses connections to it and gives the port to no other process.
//!
//! Invariant: [`KeptPort::close`] has taken effect when it returns; the next connection attempt
//! is refused.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::tasks::TaskGroup;

/// Pause after a failed accept (out of file descriptors, mostly), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that may wait to be accepted: enough for a few thousand clients at once.
const BACKLOG: i32 = 4096;

/// A port that is reserved until this is dropped, whether or not it listens.
#[derive(Debug)]
pub struct KeptPort {
    address: SocketAddr,
    /// A socket that is bound but never listens: it keeps the port.
    _reservation: Socket,
    door: Mutex<Door>,
}

#[derive(Debug, Default)]
struct Door {
    listener: Option<TcpListener>,
    /// The waker of the accept loop, which waits for a listener.
    waiting: Option<Waker>,
}

impl KeptPort {
    /// Reserves the port (0: any free one) without listening.
    pub fn reserve(address: SocketAddr) -> io::Result<Self> {
        let reservation = bound_socket(address)?;
        let address = reservation
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("bound to something that is not an IP address"))?;
        Ok(Self { address, _reservation: reservation, door: Mutex::default() })
    }

    /// The address with its real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts listening, if it does not already. Must be called within a tokio runtime.
    pub fn open(&self) -> io::Result<()> {
        let mut door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        if door.listener.is_none() {
            let socket = bound_socket(self.address)?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            door.listener = Some(TcpListener::from_std(socket.into())?);
            if let Some(waker) = door.waiting.take() {
                waker.wake();
            }
        }
        Ok(())
    }

    /// Stops listening: from now on connections are refused, and those not yet accepted are reset.
    pub fn close(&self) {
        self.door.lock().unwrap_or_else(PoisonError::into_inner).listener = None;
    }

    /// True if connections are accepted.
    pub fn is_open(&self) -> bool {
        self.door.lock().unwrap_or_else(PoisonError::into_inner).listener.is_some()
    }

    /// Waits for the next connection, across any number of closings and openings. One caller at a
    /// time.
    pub async fn accept(&self) -> io::Result<TcpStream> {
        std::future::poll_fn(|context| self.poll_accept(context)).await
    }

    /// Accepts connections until cancelled, across any number of closings and openings, and passes
    /// each to `begin` with the group for its task. More than `connections_max` at a time are
    /// dropped.
    pub async fn serve(
        &self,
        connections_max: usize,
        cancel: CancellationToken,
        mut begin: impl FnMut(TcpStream, &mut TaskGroup),
    ) {
        let mut connections = TaskGroup::new(&cancel);
        loop {
            let accepted = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                accepted = self.accept() => accepted,
            };
            connections.reap();
            match accepted {
                Ok(stream) if connections.len() < connections_max => {
                    begin(stream, &mut connections);
                }
                Ok(_surplus) => tracing::warn!(connections_max, "too many connections"),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        let mut door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        // Set even while listening: after closing and opening there is a new listener, and the
        // waker that the old one held is lost.
        door.waiting = Some(context.waker().clone());
        match &door.listener {
            Some(listener) => listener.poll_accept(context).map_ok(|(stream, _)| stream),
            None => Poll::Pending,
        }
    }
}

/// Binds a socket. Both the reservation and the listener allow sharing the address; the kernel
/// still refuses a second listener.
fn bound_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn any_port() -> SocketAddr {
        "127.0.0.1:0".parse().unwrap()
    }

    async fn refused(address: SocketAddr) -> bool {
        match TcpStream::connect(address).await {
            Ok(_) => false,
            Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        }
    }

    #[tokio::test]
    async fn opens_and_closes_on_the_same_port() {
        let port = KeptPort::reserve(any_port()).unwrap();
        assert!(refused(port.address()).await, "a reserved port refuses");
        for _ in 0..3 {
            port.open().unwrap();
            port.open().unwrap();
            let client = TcpStream::connect(port.address()).await.unwrap();
            let accepted = port.accept().await.unwrap();
            assert_eq!(accepted.peer_addr().unwrap(), client.local_addr().unwrap());
            port.close();
            assert!(!port.is_open());
            assert!(refused(port.address()).await, "closed takes effect at once");
        }
    }

    #[tokio::test]
    async fn an_accept_that_waits_survives_closing_and_opening() {
        let port = KeptPort::reserve(any_port()).unwrap();
        port.open().unwrap();
        let reopen = async {
            tokio::task::yield_now().await;
            port.close();
            tokio::task::yield_now().await;
            port.open().unwrap();
            TcpStream::connect(port.address()).await.unwrap()
        };
        let (accepted, client) = tokio::join!(port.accept(), reopen);
        assert_eq!(accepted.unwrap().peer_addr().unwrap(), client.local_addr().unwrap());
    }

    #[test]
    fn a_kept_port_is_given_to_nobody_else() {
        let ports: Vec<_> = (0..200).map(|_| KeptPort::reserve(any_port()).unwrap()).collect();
        let distinct: BTreeSet<_> = ports.iter().map(|port| port.address().port()).collect();
        assert_eq!(distinct.len(), ports.len());
    }

    #[tokio::test]
    async fn a_port_with_a_listener_is_an_error() {
        let taken = KeptPort::reserve(any_port()).unwrap();
        taken.open().unwrap();
        let second = KeptPort::reserve(taken.address()).and_then(|port| port.open());
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
