//! Clients that send any bytes, and see the very bytes that come back.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use pilotlight_test_kit::relay::LONG;

/// The smallest receive buffer that the kernel gives.
const TINY_BUFFER_BYTES: u32 = 1;

/// Sends these bytes and reads until the relay ends the connection, in order or not.
pub(super) async fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = socket.split();
    let write = async {
        // The relay may refuse before it has read everything.
        let _ = writer.write_all(request).await;
    };
    let mut received = Vec::new();
    let read = async {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            received.extend_from_slice(&buffer[..count]);
        }
    };
    let both = timeout(LONG, async { tokio::join!(write, read) });
    if both.await.is_err() {
        let beginning = String::from_utf8_lossy(&request[..request.len().min(200)]);
        panic!("the connection does not end after {beginning:?}");
    }
    String::from_utf8(received).expect("answers are text")
}

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// As HTTP says.
    Whole,
    /// In the middle.
    Cut,
}

/// A response that goes on, with its body freed from chunks.
pub(super) struct RawStream {
    socket: TcpStream,
    /// Status line and headers, each ended by `\r\n`.
    pub(super) head: String,
    /// Body bytes as they came.
    raw: Vec<u8>,
    /// Body bytes that were not taken yet.
    body: Vec<u8>,
    is_whole: bool,
}

impl RawStream {
    /// Sends a request and reads the head of its response.
    pub(super) async fn open(address: SocketAddr, request: &str) -> Self {
        Self::on(TcpStream::connect(address).await.unwrap(), request).await
    }

    /// The same from a client that takes no more than it reads.
    pub(super) async fn open_tiny(address: SocketAddr, request: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(TINY_BUFFER_BYTES).unwrap();
        Self::on(socket.connect(address).await.unwrap(), request).await
    }

    /// The same from a client that gives up after a second without an answer.
    pub(super) async fn try_open(address: SocketAddr, request: &str) -> Option<Self> {
        let open = Self::open(address, request);
        timeout(Duration::from_secs(1), open).await.ok()
    }

    async fn on(mut socket: TcpStream, request: &str) -> Self {
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        timeout(LONG, async {
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await.expect("the head arrives"));
            }
        })
        .await
        .expect("the head arrives in time");
        head.truncate(head.len() - 2);
        let head = String::from_utf8(head).unwrap();
        Self { socket, head, raw: Vec::new(), body: Vec::new(), is_whole: false }
    }

    /// Reads until the body ends like this, and takes it.
    pub(super) async fn take_until(&mut self, end: &str) -> String {
        let found = timeout(LONG, async {
            while !self.body.ends_with(end.as_bytes()) {
                assert!(self.read().await, "the stream ended: {:?}", self.text());
            }
        });
        if found.await.is_err() {
            panic!("no {end:?} in time: {:?}", self.text());
        }
        let body = self.text();
        self.body.clear();
        body
    }

    /// Reads and forgets so many bytes of the body.
    pub(super) async fn skip(&mut self, bytes: usize) {
        let enough = timeout(LONG, async {
            while self.body.len() < bytes {
                assert!(self.read().await, "the stream ended");
            }
        });
        enough.await.expect("the bytes come in time");
        self.body.drain(..bytes);
    }

    /// Reads a body that is not sent in chunks; tells how many bytes came before the end.
    pub(super) async fn count_to_end(&mut self) -> usize {
        let read = async { while self.read().await {} };
        timeout(LONG, read).await.expect("the response ends in time");
        self.body.len()
    }

    /// Reads to the end of the response, after which its connection may be kept; what came is left
    /// to be seen in [`Self::text`].
    pub(super) async fn end(&mut self) -> Ending {
        let read = async { while !self.is_whole && self.read().await {} };
        timeout(LONG, read).await.expect("the response ends in time");
        if self.is_whole { Ending::Whole } else { Ending::Cut }
    }

    /// Body bytes that were not taken yet.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether there was more to read.
    async fn read(&mut self) -> bool {
        let mut buffer = vec![0; 64 * 1024];
        let Ok(count @ 1..) = self.socket.read(&mut buffer).await else { return false };
        if !self.head.contains("transfer-encoding: chunked\r\n") {
            self.body.extend_from_slice(&buffer[..count]);
            return true;
        }
        self.raw.extend_from_slice(&buffer[..count]);
        while let Some((chunk, used)) = chunk(&self.raw) {
            self.is_whole = chunk.is_empty();
            self.body.extend_from_slice(chunk);
            self.raw.drain(..used);
        }
        true
    }
}

/// The chunk at the front and how many bytes it takes.
fn chunk(raw: &[u8]) -> Option<(&[u8], usize)> {
    let line = raw.windows(2).position(|two| two == b"\r\n")?;
    let size = std::str::from_utf8(&raw[..line]).expect("sizes are text");
    let size = usize::from_str_radix(size, 16).expect("sizes are hexadecimal");
    let (start, end) = (line + 2, line + 2 + size + 2);
    let chunk = raw.get(start..end)?;
    assert!(chunk.ends_with(b"\r\n"), "chunks end with a line break");
    Some((&chunk[..size], end))
}

/// A GET with an SDK key.
pub(super) fn get(path: &str, key: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: relay\r\nauthorization: {key}\r\n\r\n")
}

#[test]
fn chunks_are_told_apart() {
    let check = |raw: &str, expected: Option<(&str, usize)>| {
        let found = chunk(raw.as_bytes());
        let expected = expected.map(|(chunk, used)| (chunk.as_bytes(), used));
        assert_eq!(found, expected, "{raw:?}");
    };
    check("", None);
    check("5\r", None);
    check("5\r\nabcde\r", None);
    check("5\r\nabcde\r\n3", Some(("abcde", 10)));
    check("0\r\n\r\n", Some(("", 5)));
}
