//! The other side of connections, for the tests of this module: peers that a test drives by hand,
//! over memory or over real sockets, and certificates.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::dial::{BoxedIo, Dialer};
use super::{ConnectError, Deadlines, HttpClient, HttpClientSettings, Phase};
use crate::tasks::TaskGroup;

/// One attempt to connect, for the test to answer.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) host: String,
    pub(super) port: u16,
    answer: oneshot::Sender<io::Result<DuplexStream>>,
}

impl Dial {
    pub(super) fn accept(self) -> Peer {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        self.answer.send(Ok(theirs)).expect("somebody waits for the connection");
        Peer::new(ours)
    }

    pub(super) fn refuse(self) {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        self.answer.send(Err(refused)).expect("somebody waits for the connection");
    }
}

/// Dials to a test that stands in for the network.
pub(super) async fn dial(
    dials: &mpsc::UnboundedSender<Dial>,
    host: &str,
    port: u16,
    deadlines: &Deadlines,
) -> Result<DuplexStream, ConnectError> {
    let (answer, answered) = oneshot::channel();
    dials
        .send(Dial { host: host.to_owned(), port, answer })
        .expect("the test listens for as long as it dials");
    let budget = deadlines.connect;
    timeout(budget, answered)
        .await
        .map_err(|_| ConnectError::TimedOut { phase: Phase::Connect, budget })?
        .expect("the test answers or keeps the question")
        .map_err(|cause| ConnectError::Connect { to: host.to_owned(), cause })
}

/// A client whose connections are answered by the test.
pub(super) fn memory_client(
    settings: &HttpClientSettings,
) -> (HttpClient, mpsc::UnboundedReceiver<Dial>) {
    let (sender, dials) = mpsc::unbounded_channel();
    let client = HttpClient::with_dialer(settings, Dialer::Memory(sender)).expect("usable");
    (client, dials)
}

/// The far end of a connection, driven by hand.
pub(super) struct Peer {
    io: BoxedIo,
}

impl Peer {
    pub(super) fn new(io: impl super::dial::Io + 'static) -> Self {
        Self { io: Box::new(io) }
    }

    /// Reads up to the empty line of a request. Returns a part of it if the other side ends first.
    pub(super) async fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match self.io.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
        String::from_utf8(head).expect("a readable head")
    }

    pub(super) async fn read_exactly(&mut self, bytes: usize) -> Vec<u8> {
        let mut body = vec![0; bytes];
        self.io.read_exact(&mut body).await.expect("that many bytes");
        body
    }

    /// Writes what the other side still takes.
    pub(super) async fn write(&mut self, bytes: &[u8]) {
        let _ = self.io.write_all(bytes).await;
        let _ = self.io.flush().await;
    }

    pub(super) async fn close_writing(&mut self) {
        let _ = self.io.shutdown().await;
    }

    /// Reads a request and answers with a status and further header lines.
    pub(super) async fn answer(&mut self, status: u16, headers: &str) -> String {
        let head = self.read_head().await;
        self.write(format!("HTTP/1.1 {status} Text\r\n{headers}\r\n").as_bytes()).await;
        head
    }

    /// Reads a request and answers with the head of an event stream.
    pub(super) async fn answer_stream(&mut self) -> String {
        self.answer(200, "Content-Type: text/event-stream; charset=utf-8\r\n").await
    }

    /// Waits until the other side has closed the connection.
    pub(super) async fn closed(&mut self) {
        let mut rest = [0; 1024];
        while self.io.read(&mut rest).await.is_ok_and(|bytes| bytes > 0) {}
    }

    /// Becomes a TLS server, or returns the error.
    pub(super) async fn accept_tls(self, config: &Arc<ServerConfig>) -> io::Result<Self> {
        let io = TlsAcceptor::from(Arc::clone(config)).accept(self.io).await?;
        Ok(Self::new(io))
    }

    pub(super) fn into_io(self) -> BoxedIo {
        self.io
    }
}

/// A server on a real socket. Its nth connection gets the nth behaviour; then it refuses.
pub(super) struct Server {
    address: SocketAddr,
    _tasks: TaskGroup,
}

/// Handler of one connection of a server.
pub(super) type Behaviour =
    Box<dyn FnOnce(Peer) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

pub(super) fn behaviour<F, Fut>(act: F) -> Behaviour
where
    F: FnOnce(Peer) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    Box::new(move |peer| Box::pin(act(peer)))
}

impl Server {
    pub(super) async fn start(behaviours: impl IntoIterator<Item = Behaviour>) -> Self {
        let mut behaviours: VecDeque<Behaviour> = behaviours.into_iter().collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut tasks = TaskGroup::new(&CancellationToken::new());
        tasks.spawn("server", async move |_| {
            let mut connections = TaskGroup::new(&CancellationToken::new());
            while let Some(act) = behaviours.pop_front() {
                let (stream, _) = listener.accept().await.expect("a connection");
                connections.spawn("connection", |_| act(Peer::new(stream)));
            }
            drop(listener);
            while connections.ended().await.is_some() {}
        });
        Self { address, _tasks: tasks }
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }
}

/// A port that refuses connections for as long as this lives: bound, but not listening.
pub(super) struct ClosedPort(socket2::Socket);

pub(super) fn closed_port() -> ClosedPort {
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    socket.bind(&any.into()).expect("a free port");
    ClosedPort(socket)
}

impl ClosedPort {
    pub(super) fn address(&self) -> SocketAddr {
        self.0.local_addr().ok().and_then(|address| address.as_socket()).expect("an address")
    }
}

/// A certificate authority of a test.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    pub(super) fn pem(&self) -> String {
        self.0.pem()
    }

    /// The certificate in a file, for settings.
    pub(super) fn file(&self) -> NamedTempFile {
        let mut file = NamedTempFile::new().expect("a file");
        file.write_all(self.pem().as_bytes()).expect("room");
        file
    }

    /// TLS settings of a server with a certificate for these names and addresses.
    pub(super) fn server(&self, names: &[&str]) -> Arc<ServerConfig> {
        self.server_until(names, 2100)
    }

    /// As [`Self::server`], with a certificate that ended at the beginning of a year.
    pub(super) fn server_until(&self, names: &[&str], year: i32) -> Arc<ServerConfig> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("usable names");
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a usable certificate");
        Arc::new(config)
    }
}
