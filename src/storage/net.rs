//! One stream to a database: TCP with settings that notice a dead peer, TLS, or a Unix socket.
//!
//! Names are resolved at each dial, so a failover by DNS is followed. There is no deadline here:
//! the caller limits the time.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::tls::TlsSettings;
use super::{Meter, StoreError};

/// Idle time before the kernel's keepalive probes, their interval and number: a dead peer is
/// noticed after 30 s even without traffic.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;

/// Time for which sent data may stay unacknowledged before the kernel closes the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(8);

/// The address of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP, with TLS if settings are given.
    Tcp {
        /// Name or IP address, without brackets.
        host: String,
        /// Port.
        port: u16,
        /// TLS; `None` means unencrypted.
        tls: Option<TlsSettings>,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// Its TLS settings, if it uses TLS.
    pub fn tls(&self) -> Option<&TlsSettings> {
        match self {
            Self::Tcp { tls, .. } => tls.as_ref(),
            Self::Unix(_) => None,
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A connected stream.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static> Stream for T {}

/// Connects, with the TLS handshake if configured. `meter` counts the bytes on the wire.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    meter: &Meter,
) -> Result<Box<dyn Stream>, StoreError> {
    match endpoint {
        Endpoint::Unix(path) => {
            Ok(Box::new(meter.count(UnixStream::connect(path).await.map_err(lost)?)))
        }
        Endpoint::Tcp { host, port, tls: None } => {
            Ok(Box::new(meter.count(tcp(host, *port).await?)))
        }
        Endpoint::Tcp { host, port, tls: Some(settings) } => {
            let config = settings.load().await?;
            let name = ServerName::try_from(host.clone())
                .map_err(|error| StoreError::Refused(Box::new(error)))?;
            let stream = meter.count(tcp(host, *port).await?);
            let stream = TlsConnector::from(config).connect(name, stream).await.map_err(lost)?;
            Ok(Box::new(stream))
        }
    }
}

async fn tcp(host: &str, port: u16) -> Result<TcpStream, StoreError> {
    let stream = TcpStream::connect((host, port)).await.map_err(lost)?;
    settle(&stream).map_err(lost)?;
    Ok(stream)
}

fn settle(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}

fn lost(error: io::Error) -> StoreError {
    StoreError::Unreachable(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_notice_a_dead_peer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = tcp("127.0.0.1", port).await.unwrap();
        let socket = SockRef::from(&stream);
        assert!(stream.nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
    }

    #[tokio::test]
    async fn failures_to_connect_are_transient_and_bad_names_are_not() {
        let check = async |endpoint: Endpoint, transient: bool| {
            let error = connect(&endpoint, &Meter::default()).await.err().unwrap();
            assert_eq!(error.is_transient(), transient, "{endpoint}: {error:?}");
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let host = "127.0.0.1".to_owned();
        check(Endpoint::Tcp { host: host.clone(), port, tls: None }, true).await;
        check(Endpoint::Unix("/nonexistent/socket".into()), true).await;
        let missing = TlsSettings { ca_file: Some("/nonexistent".into()), ..Default::default() };
        check(Endpoint::Tcp { host, port, tls: Some(missing) }, false).await;
    }

    #[test]
    fn endpoints_are_shown_as_an_operator_writes_them() {
        let check = |host: &str, expected: &str| {
            let endpoint = Endpoint::Tcp { host: host.to_owned(), port: 6379, tls: None };
            assert_eq!(endpoint.to_string(), expected);
        };
        check("cache", "cache:6379");
        check("::1", "[::1]:6379");
        assert_eq!(Endpoint::Unix("/run/redis.sock".into()).to_string(), "/run/redis.sock");
    }
}
