//! A reader of streams like the one inside an SDK, lean enough for tens of thousands in one
//! process: one socket, no task of its own, no buffer while idle.
//!
//! It implements plain HTTP/1.1 itself, without redirects, keep-alive or TLS. It does not parse the
//! data of events.
//!
//! Invariant: [`StreamClient::next`] and [`ReconnectingClient::next`] may be dropped at any point
//! and called again; nothing is lost.

mod events;
mod http;
mod reconnecting;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use events::Splitter;
use http::{BodyDecoder, ResponseHead};

pub use events::{StreamEvent, StreamItem};
pub use reconnecting::{Observation, ReconnectingClient};

/// Bytes read from the socket at once.
const READ_BYTES: usize = 64 * 1024;

thread_local! {
    /// The read buffer of all clients of a thread, used by one after the other: no client holds a
    /// buffer while it waits, and the buffer is not cleared for each read.
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// Bytes read at once until the response head is complete.
const HEAD_READ_BYTES: usize = 4 * 1024;

/// Successive reads before other tasks may run.
const READS_MAX: usize = 4;

/// Default time-out for connecting and the response head.
const OPENING_MAX: Duration = Duration::from_secs(30);

/// Connections from one source address to one server. By default, 28,232 ports are available; the
/// rest is left to other programs.
const CONNECTIONS_PER_SOURCE: usize = 20_000;

/// The server of a stream, and how to connect.
#[derive(Clone)]
pub struct StreamTarget {
    /// The server.
    pub address: SocketAddr,
    /// Path with query.
    pub path: String,
    /// Value of `Authorization`; `None` sends none.
    pub authorization: Option<String>,
    /// Further request headers.
    pub headers: Vec<(String, String)>,
    /// The address to connect from; `None` leaves it to the kernel.
    pub source: Option<IpAddr>,
    /// Time-out for connecting and the response head together.
    pub opening_max: Duration,
    /// Number of bytes kept of each event's data; the rest is read and counted.
    pub data_kept_bytes: usize,
}

impl StreamTarget {
    /// A target that keeps all data and waits half a minute for the response head.
    pub fn new(address: SocketAddr, path: &str, key: &str) -> Self {
        Self {
            address,
            path: path.to_owned(),
            authorization: Some(key.to_owned()),
            headers: Vec::new(),
            source: None,
            opening_max: OPENING_MAX,
            data_kept_bytes: usize::MAX,
        }
    }

    /// The same without a key, for paths that contain an environment ID.
    pub fn without_key(address: SocketAddr, path: &str) -> Self {
        Self { authorization: None, ..Self::new(address, path, "") }
    }

    fn request(&self) -> String {
        let Self { address, path, authorization, headers, .. } = self;
        let mut request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\
             Cache-Control: no-cache\r\nUser-Agent: PilotlightDemoClient\r\n"
        );
        let key = authorization.iter().map(|key| ("Authorization", key.as_str()));
        let others = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in key.chain(others) {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        request
    }
}

impl fmt::Debug for StreamTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamTarget({}{})", self.address, self.path)
    }
}

/// The loopback address from which the client with this index connects: more clients than one
/// address has ports are spread over several.
pub fn loopback_source(index: usize) -> IpAddr {
    let number = index / CONNECTIONS_PER_SOURCE + 1;
    let [_, _, high, low] = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 0, high, low.max(1)))
}

/// The reason why a stream did not begin, or ended.
#[derive(Debug, thiserror::Error)]
pub enum StreamClientError {
    /// No connection.
    #[error("cannot connect to {address}")]
    Connect {
        /// The server.
        address: SocketAddr,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// No complete response head in time.
    #[error("no answer within {within:?}")]
    NoAnswer {
        /// The time-out.
        within: Duration,
    },
    /// A status other than 200.
    #[error("answered with status {status}")]
    Refused {
        /// The status.
        status: u16,
        /// `Retry-After` if given in seconds.
        retry_after: Option<Duration>,
    },
    /// The bytes are not HTTP/1.1.
    #[error("not an HTTP/1.1 response: {what}")]
    Malformed {
        /// The problem.
        what: &'static str,
    },
    /// The connection broke.
    #[error("connection broke")]
    Broken(#[source] io::Error),
    /// The connection ended in the middle of the response.
    #[error("response ended too early")]
    CutShort,
}

/// The end of a stream; `None` while it is open.
type End = Option<Result<(), StreamClientError>>;

/// One open stream.
#[derive(Debug)]
pub struct StreamClient {
    stream: TcpStream,
    body: BodyDecoder,
    splitter: Splitter,
    items: VecDeque<StreamItem>,
    response_headers: Box<[(String, String)]>,
    begun: Instant,
    opened_after: Duration,
    first_put_after: Option<Duration>,
    comments: u64,
    /// The end of the stream, returned after all items.
    end: End,
}

impl StreamClient {
    /// Connects, sends the request, and waits for the response head.
    pub async fn connect(target: &StreamTarget) -> Result<Self, StreamClientError> {
        let within = target.opening_max;
        match tokio::time::timeout(within, Self::open(target)).await {
            Ok(opened) => opened,
            Err(_elapsed) => Err(StreamClientError::NoAnswer { within }),
        }
    }

    async fn open(target: &StreamTarget) -> Result<Self, StreamClientError> {
        let begun = Instant::now();
        let mut stream = dial(target)
            .await
            .map_err(|cause| StreamClientError::Connect { address: target.address, cause })?;
        let request = target.request();
        stream.write_all(request.as_bytes()).await.map_err(StreamClientError::Broken)?;
        let (head, rest) = read_head(&stream).await?;
        if head.status != 200 {
            let seconds = head.header("retry-after").and_then(|value| value.parse().ok());
            let retry_after = seconds.map(Duration::from_secs);
            return Err(StreamClientError::Refused { status: head.status, retry_after });
        }
        let mut client = Self {
            stream,
            body: head.body(),
            splitter: Splitter::new(target.data_kept_bytes),
            items: VecDeque::new(),
            response_headers: head.headers.into(),
            begun,
            opened_after: begun.elapsed(),
            first_put_after: None,
            comments: 0,
            end: None,
        };
        client.end = client.take_in(&rest);
        Ok(client)
    }

    /// The next event; `None` when the server ended the stream normally. Comments are skipped.
    pub async fn next(&mut self) -> Result<Option<StreamEvent>, StreamClientError> {
        loop {
            match self.next_item().await? {
                Some(StreamItem::Event(event)) => return Ok(Some(event)),
                Some(StreamItem::Comment) => {}
                None => return Ok(None),
            }
        }
    }

    /// The next event or comment; `None` when the server ended the stream normally.
    pub async fn next_item(&mut self) -> Result<Option<StreamItem>, StreamClientError> {
        loop {
            if let Some(item) = self.items.pop_front() {
                if self.items.is_empty() {
                    self.items = VecDeque::new();
                }
                return Ok(Some(item));
            }
            if let Some(end) = self.end.take() {
                self.end = Some(Ok(()));
                return end.map(|()| None);
            }
            self.end = std::future::poll_fn(|context| self.poll_read(context)).await;
        }
    }

    /// Time from the beginning of connecting to the response head.
    pub fn opened_after(&self) -> Duration {
        self.opened_after
    }

    /// Time from the beginning of connecting to the first complete `put`, once it has arrived.
    pub fn first_put_after(&self) -> Option<Duration> {
        self.first_put_after
    }

    /// Number of comments so far.
    pub fn comments(&self) -> u64 {
        self.comments
    }

    /// A response header by its name in lower case.
    pub fn response_header(&self, name: &str) -> Option<&str> {
        let mut headers = self.response_headers.iter();
        headers.find(|(held, _)| held == name).map(|(_, value)| value.as_str())
    }

    /// The address it connected from.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Reads the available bytes; returns the end of the stream if it ended.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<End> {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let mut has_read = false;
            for _ in 0..READS_MAX {
                let mut room = ReadBuf::new(buffer);
                let read = Pin::new(&mut self.stream).poll_read(context, &mut room);
                let end = match read {
                    Poll::Pending if has_read => return Poll::Ready(None),
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(error)) => Some(Err(StreamClientError::Broken(error))),
                    Poll::Ready(Ok(())) => match room.filled() {
                        [] if self.body.is_complete(true) => Some(Ok(())),
                        [] => Some(Err(StreamClientError::CutShort)),
                        bytes => self.take_in(bytes),
                    },
                };
                if end.is_some() {
                    return Poll::Ready(end);
                }
                has_read = true;
            }
            Poll::Ready(None)
        })
    }

    fn take_in(&mut self, mut bytes: &[u8]) -> End {
        let known = self.items.len();
        let end = loop {
            match self.body.next(&mut bytes) {
                Ok(Some(payload)) => self.splitter.push(payload, &mut self.items),
                Ok(None) => break self.body.is_complete(false).then_some(Ok(())),
                Err(error) => break Some(Err(error)),
            }
        };
        for item in self.items.iter().skip(known) {
            match item {
                StreamItem::Comment => self.comments += 1,
                StreamItem::Event(event) if event.name == "put" => {
                    self.first_put_after.get_or_insert_with(|| self.begun.elapsed());
                }
                StreamItem::Event(_) => {}
            }
        }
        end
    }
}

async fn dial(target: &StreamTarget) -> io::Result<TcpStream> {
    let Some(source) = target.source else {
        return TcpStream::connect(target.address).await;
    };
    let socket =
        Socket::new(Domain::for_address(target.address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    TcpSocket::from_std_stream(socket.into()).connect(target.address).await
}

/// Reads up to the end of the head; returns it with the bytes after it.
async fn read_head(stream: &TcpStream) -> Result<(ResponseHead, Vec<u8>), StreamClientError> {
    let mut held = Vec::new();
    loop {
        stream.readable().await.map_err(StreamClientError::Broken)?;
        read_some(stream, &mut held)?;
        if let Some((head, used)) = ResponseHead::parse(&held)? {
            held.drain(..used);
            return Ok((head, held));
        }
    }
}

fn read_some(stream: &TcpStream, held: &mut Vec<u8>) -> Result<(), StreamClientError> {
    let mut buffer = [0; HEAD_READ_BYTES];
    match stream.try_read(&mut buffer) {
        Ok(0) => Err(StreamClientError::CutShort),
        Ok(count) => {
            held.extend_from_slice(&buffer[..count]);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(StreamClientError::Broken(error)),
    }
}
